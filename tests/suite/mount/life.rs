//! How a mount begins and ends, with real processes: in the background and in the foreground, by signals, by `ckpt
//! umount`, by a kill that leaves a dead mount behind.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{Read, Seek};
use std::process::Stdio;
use std::time::Duration;

use ckpt_tests::desk::{Desk, Server};
use ckpt_tests::mount::{detach, minor_of, mountable};
use ckpt_tests::process::{SOON, wait_for};
use ckpt_tests::run::Ran;

#[test]
fn in_the_background_it_is_ready_when_the_command_ends() {
    if !mountable() {
        return;
    }
    let mut desk = Desk::new();
    // `run` waits for the end of what the command prints: the server must not hold it open.
    let ran = desk.verb("mount", &[]).expect(0);
    let pid: u32 = ran.text().rsplit_once("(process ").unwrap().1.trim_end_matches(")\n").parse().unwrap();
    desk.serves(pid);
    let told = format!("mounted {} on {} (process {pid})\n", desk.lab.store().display(), desk.at().display());
    assert_eq!((ran.text(), &*ran.stderr), (&*told, ""));
    assert!(fs::read(desk.file()).unwrap() == desk.bytes);
    // It has nothing of the terminal, of the directory it was called in, or of the caller's descriptors.
    let link = |name: &str| fs::read_link(format!("/proc/{pid}/{name}")).unwrap();
    assert_eq!((link("cwd"), link("fd/0"), link("fd/1")), ("/".into(), "/dev/null".into(), "/dev/null".into()));
    assert_eq!(link("fd/2"), desk.log());
    // Its session is its own.
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    assert_eq!(stat.rsplit(')').next().unwrap().split_whitespace().nth(3), Some(&*pid.to_string()), "{stat}");
    let status = desk.status();
    assert_eq!((&status["state"], &status["pid"]), (&"alive".into(), &pid.into()), "{status}");
    assert_eq!(status["log"], desk.log().to_str().unwrap());
    let ran = desk.verb("umount", &[]).expect(0);
    assert_eq!(ran.text(), format!("unmounted {}\n", desk.at().display()));
    desk.assert_gone();
    assert_eq!(fs::read_dir(desk.at()).unwrap().count(), 0);
    assert_eq!(fs::read_dir(desk.lab.store().join("sessions")).unwrap().count(), 0, "a session is left");
}

#[test]
fn in_the_foreground_each_way_to_end_it_ends_it_well() {
    if !mountable() {
        return;
    }
    let mut desk = Desk::new();
    for signal in [libc::SIGTERM, libc::SIGINT, libc::SIGHUP] {
        let server = desk.foreground();
        assert!(server.said.ends_with(&format!("(process {})", server.child.id())), "{}", server.said);
        assert!(fs::read(desk.file()).unwrap() == desk.bytes);
        assert!(server.process.send(signal));
        assert_eq!(server.ends(), "");
        desk.assert_gone();
    }
    let server = desk.foreground();
    desk.verb("umount", &[]).expect(0);
    assert_eq!(server.ends(), "");
    desk.assert_gone();
    let server = desk.foreground();
    detach(desk.at());
    assert_eq!(server.ends(), "");
    desk.assert_gone();
}

#[test]
fn systemd_is_told_when_the_mount_works() {
    if !mountable() {
        return;
    }
    let mut desk = Desk::new();
    let path = desk.lab.path("notify");
    let socket = std::os::unix::net::UnixDatagram::bind(&path).unwrap();
    socket.set_read_timeout(Some(SOON)).unwrap();
    let mut command = desk.command([OsStr::new("mount"), desk.at().as_os_str(), OsStr::new("--foreground")]);
    command.env("NOTIFY_SOCKET", &path).stdout(Stdio::null()).stderr(Stdio::piped());
    let child = command.spawn().unwrap();
    let process = desk.serves(child.id());
    let mut told = [0; 100];
    let bytes = socket.recv(&mut told).unwrap();
    assert_eq!(&told[..bytes], b"READY=1");
    assert!(fs::read(desk.file()).unwrap() == desk.bytes);
    assert!(process.send(libc::SIGTERM));
    assert_eq!(Server { child, process, said: String::new() }.ends(), "");
    desk.assert_gone();
}

#[test]
fn a_signal_unmounts_at_once_and_lets_open_files_be_read_for_a_while() {
    if !mountable() {
        return;
    }
    let mut desk = Desk::new();
    let server = desk.mount(&[]);
    let mut file = File::open(desk.file()).unwrap();
    assert!(server.send(libc::SIGTERM));
    wait_for("it is unmounted", SOON, || minor_of(desk.at()).is_none());
    assert!(server.is_alive());
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes).unwrap();
    assert!(bytes == desk.bytes);
    drop(file);
    wait_for("the server ends", SOON, || !server.is_alive());
    let log = fs::read_to_string(desk.log()).unwrap();
    assert!(log.contains(&format!("{}: unmounted; what is open", desk.at().display())), "{log}");
    // Whoever never closes is not waited for: a second signal ends it at once.
    let server = desk.mount(&[]);
    let file = File::open(desk.file()).unwrap();
    assert!(server.send(libc::SIGTERM));
    wait_for("it is unmounted", SOON, || minor_of(desk.at()).is_none());
    assert!(server.send(libc::SIGTERM));
    wait_for("the server ends", Duration::from_secs(5), || !server.is_alive());
    drop(file);
}

#[test]
fn a_mount_whose_server_was_killed_is_seen_and_mounted_anew() {
    if !mountable() {
        return;
    }
    let mut desk = Desk::new();
    let server = desk.mount(&[]);
    assert!(server.send(libc::SIGKILL));
    wait_for("it is dead", SOON, || !server.is_alive());
    // Its other threads may end a moment after the first.
    wait_for("it is cut", SOON, || rustix::fs::statvfs(desk.at()).err() == Some(rustix::io::Errno::NOTCONN));
    // The kernel may go on with what it knows; this nobody has asked for yet.
    assert_eq!(fs::metadata(desk.at().join("new")).unwrap_err().raw_os_error(), Some(libc::ENOTCONN));
    assert_eq!(desk.status()["state"], "stale");
    let all = desk.run(["mount", "--status"]).expect(0);
    let line = all.text().lines().find(|line| line.contains(desk.at().to_str().unwrap()));
    assert!(line.is_some_and(|line| line.contains("stale")), "{all:?}");
    let ran = desk.verb("mount", &[]).expect(0);
    assert!(ran.stderr.starts_with("Note: the process that served ") && ran.stderr.contains("was killed"), "{ran:?}");
    let status = desk.status();
    desk.serves(u32::try_from(status["pid"].as_u64().unwrap()).unwrap());
    assert!(fs::read(desk.file()).unwrap() == desk.bytes);
    // Nothing is left below: one umount and the directory is empty again.
    desk.verb("umount", &[]).expect(0);
    desk.assert_gone();
    let server = desk.mount(&[]);
    let file = File::open(desk.file()).unwrap();
    assert!(server.send(libc::SIGKILL));
    wait_for("it is dead", SOON, || !server.is_alive());
    let ran = desk.verb("umount", &[]).expect(0);
    assert_eq!(ran.text(), format!("unmounted {}, whose process was gone\n", desk.at().display()));
    desk.assert_gone();
    drop(file);
}

#[test]
fn a_mount_in_use_is_unmounted_only_lazily() {
    if !mountable() {
        return;
    }
    let mut desk = Desk::new();
    let server = desk.mount(&[]);
    let mut file = File::open(desk.file()).unwrap();
    let ran = desk.verb("umount", &[]).expect(6);
    let me = std::process::id();
    assert!(ran.stderr.starts_with(&format!("Error: {} is in use\n", desk.at().display())), "{ran:?}");
    assert!(ran.stderr.contains(&format!("(process {me}) has r/step-1/model.bin\n")), "{ran:?}");
    assert!(ran.stderr.contains("Hint: `ckpt umount --lazy "), "{ran:?}");
    assert!(server.is_alive() && minor_of(desk.at()).is_some());
    let ran = desk.verb("umount", &["--lazy"]).expect(0);
    assert!(ran.text().ends_with(&format!("process {server} serves what is still open\n")), "{ran:?}");
    assert_eq!(minor_of(desk.at()), None);
    let mut bytes = Vec::new();
    file.rewind().unwrap();
    file.read_to_end(&mut bytes).unwrap();
    assert!(bytes == desk.bytes && server.is_alive());
    // Another one may take its place meanwhile, and stays when the first ends.
    let second = desk.mount(&[]);
    drop(file);
    wait_for("the first ends", SOON, || !server.is_alive());
    assert!(second.is_alive() && fs::read(desk.file()).unwrap() == desk.bytes);
    desk.verb("umount", &[]).expect(0);
    desk.assert_gone();
}

#[test]
fn a_mount_that_does_not_answer_hangs_nobody() {
    if !mountable() {
        return;
    }
    let mut desk = Desk::new();
    let server = desk.mount(&[]);
    assert!(server.send(libc::SIGSTOP));
    assert_eq!(desk.status()["state"], "silent");
    let ran = desk.verb("mount", &[]).expect(6);
    assert!(ran.stderr.contains("does not answer"), "{ran:?}");
    desk.verb("umount", &["--lazy"]).expect(0);
    assert_eq!(minor_of(desk.at()), None);
    assert!(server.send(libc::SIGCONT));
    wait_for("the server ends", SOON, || !server.is_alive());
}

#[test]
fn one_store_can_be_mounted_twice_but_not_in_one_place() {
    if !mountable() {
        return;
    }
    let (mut first, mut second) = (Desk::new(), Desk::new());
    first.mount(&[]);
    let ran = first.verb("mount", &[]).expect(7);
    assert!(ran.stderr.contains("is a mount point of ckpt already"), "{ran:?}");
    let on_second = second.at().to_str().unwrap().to_owned();
    let ran = first.run(["mount", &on_second, "--json"]).expect(0);
    second.serves(u32::try_from(ran.json()["pid"].as_u64().unwrap()).unwrap());
    for desk in [&first, &second] {
        assert!(fs::read(desk.file()).unwrap() == first.bytes);
    }
    let all = first.run(["mount", "--status", "--json"]).expect(0).json();
    let points: Vec<&str> = all.as_array().unwrap().iter().map(|one| one["directory"].as_str().unwrap()).collect();
    assert!([&first, &second].iter().all(|desk| points.contains(&desk.at().to_str().unwrap())), "{all}");
    // One goes, the other stays.
    first.verb("umount", &[]).expect(0);
    first.assert_gone();
    assert!(fs::read(second.file()).unwrap() == first.bytes);
    second.verb("umount", &[]).expect(0);
    second.assert_gone();
}

#[test]
fn of_many_that_mount_in_one_place_at_once_one_does() {
    if !mountable() {
        return;
    }
    let mut desk = Desk::new();
    let start = |desk: &Desk| {
        let mut command = desk.command([OsStr::new("mount"), desk.at().as_os_str(), OsStr::new("--json")]);
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    };
    // Who is in between of another's look and its mount comes by chance. Every other time a dead mount lies there,
    // which all find.
    for turn in 0..8 {
        if turn % 2 == 1 {
            let server = desk.mount(&[]);
            assert!(server.send(libc::SIGKILL));
            wait_for("it is cut", SOON, || rustix::fs::statvfs(desk.at()).err() == Some(rustix::io::Errno::NOTCONN));
        }
        let all: Vec<_> = (0..6).map(|_| start(&desk)).collect();
        let all: Vec<Ran> = all.into_iter().map(|child| child.wait_with_output().unwrap().into()).collect();
        let mut codes: Vec<i32> = all.iter().filter_map(|ran| ran.code).collect();
        codes.sort_unstable();
        assert_eq!(codes, [0, 7, 7, 7, 7, 7], "{all:?}");
        desk.verb("umount", &[]).expect(0);
        desk.assert_gone();
    }
}

#[test]
fn warming_fills_the_page_cache() {
    if !mountable() {
        return;
    }
    let mut desk = Desk::new();
    desk.mount(&["--warm", "r@latest"]);
    wait_for("all is warm", SOON, || desk.status()["warm"]["done"] == true);
    let status = desk.status();
    let warm = &status["warm"];
    assert_eq!((&warm["files"], &warm["bytes"]), (&1.into(), &desk.bytes.len().into()), "{status}");
    assert_eq!((&warm["bytes_all"], &warm["failed"]), (&warm["bytes"], &serde_json::Value::Null), "{status}");
    // What the kernel has it does not ask for: all chunks go, and it is read all the same.
    fs::rename(desk.lab.store().join("packs"), desk.lab.store().join("packs.away")).unwrap();
    let read = fs::read(desk.file());
    fs::rename(desk.lab.store().join("packs.away"), desk.lab.store().join("packs")).unwrap();
    assert!(read.unwrap() == desk.bytes);
    let asked = desk.status();
    assert_eq!(asked["chunks_decoded"], status["chunks_decoded"], "{asked}");
    desk.verb("umount", &[]).expect(0);
    desk.assert_gone();
}
