//! What people are told of mounts, and what mounts leave alone: what hangs, what is gone, what was asked for and can't
//! be.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::process::Command;

use ckpt_tests::desk::Desk;
use ckpt_tests::lab::files;
use ckpt_tests::mount::{is_root, minor_of, mountable};
use ckpt_tests::process::{Process, SOON, wait_for};
use ckpt_tests::run::{binary, run};
use rustix::mount::{MountFlags, UnmountFlags, mount, mount_bind, unmount};

#[test]
fn the_server_lets_go_of_what_its_caller_had_open() {
    if !mountable() {
        return;
    }
    let desk = Desk::new();
    let held = desk.lab.path("held");
    let mut command = Command::new("sh");
    command.args(["-c", "exec 7>\"$0\" 8>&7; exec \"$@\""]).arg(&held).arg(binary());
    command.arg("--store").arg(desk.lab.store()).args(["mount", "--json"]).arg(desk.at());
    let ran = run(command.env("HOME", desk.lab.path("home"))).expect(0);
    let pid = ran.json()["pid"].as_u64().unwrap();
    let open = fs::read_dir(format!("/proc/{pid}/fd")).unwrap();
    let open: Vec<_> = open.filter_map(|fd| fs::read_link(fd.unwrap().path()).ok()).collect();
    assert!(open.contains(&desk.log()) && !open.contains(&held.canonicalize().unwrap()), "{open:?}");
    assert!(fs::read(desk.file()).unwrap() == desk.bytes);
    desk.verb("umount", &[]).expect(0);
}

#[test]
fn what_is_to_be_warm_has_to_be_shown() {
    if !mountable() {
        return;
    }
    let mut desk = Desk::new();
    let ran = desk.verb("mount", &["--run", "other*", "--warm", "r@1"]).expect(2);
    assert!(
        ran.stderr.starts_with("Error: `--warm r@1` is of the run r, which `--run other*` leaves out\n"),
        "{ran:?}"
    );
    let ran = desk.verb("mount", &["--warm", ""]).expect(2);
    assert!(ran.stderr.starts_with("Error: `--warm` names no checkpoint\nHint: "), "{ran:?}");
    assert_eq!(minor_of(desk.at()), None);
    desk.mount(&["--run", "r*", "--warm", "r@1"]);
    wait_for("all is warm", SOON, || desk.status()["warm"]["done"] == true);
    desk.verb("umount", &[]).expect(0);
    desk.assert_gone();
}

#[test]
fn of_a_server_that_hangs_people_hear_what_the_system_knows() {
    if !mountable() {
        return;
    }
    let mut desk = Desk::new();
    let server = desk.mount(&[]);
    server.stop();
    let status = desk.status();
    assert_eq!((&status["state"], &status["pid"]), (&"silent".into(), &server.id().into()), "{status}");
    assert_eq!(status["why"], format!("process {server} is stopped"), "{status}");
    assert_eq!(status["log"], desk.log().to_str().unwrap());
    let ran = desk.verb("mount", &["--status"]).expect(0);
    let lines = [
        format!("state          does not answer: process {server} is stopped\n"),
        format!("process        {server}\n"),
        format!("log            {}\n", desk.log().display()),
    ];
    assert!(lines.iter().all(|line| ran.text().contains(line)), "{}", ran.text());
    // Whoever lists all mounts just then, as other tests do, keeps it in use while it waits for an answer.
    let unmounted = (0..5).map(|_| desk.verb("umount", &[])).find(|ran| ran.code != Some(6));
    let ran = unmounted.unwrap().expect(0);
    assert_eq!(
        ran.text(),
        format!("unmounted {}; process {server} is stopped and has not ended yet\n", desk.at().display())
    );
    for said in [
        format!("did not answer for 5 s: process {server} is stopped\n"),
        format!("Note: waiting for process {server} to end\n"),
        format!("Hint: `kill -9 {server}` ends the process"),
    ] {
        assert!(ran.stderr.contains(&said), "{said}: {ran:?}");
    }
    assert!(server.send(libc::SIGKILL));
    wait_for("it is dead", SOON, || !server.is_alive());
    let server = desk.mount(&[]);
    let file = fs::File::open(desk.file()).unwrap();
    server.stop();
    let ran = desk.verb("umount", &["--lazy"]).expect(0);
    let told = format!("; process {server} is stopped, so what is still open can't be read\n");
    assert!(ran.text().ends_with(&told) && ran.stderr.contains(&format!("`kill -9 {server}`")), "{ran:?}");
    assert!(server.send(libc::SIGKILL));
    wait_for("it is dead", SOON, || !server.is_alive());
    drop(file);
    desk.assert_gone();
}

#[test]
fn the_text_of_a_mount_tells_of_damage_and_of_other_users() {
    if !mountable() {
        return;
    }
    let mut desk = Desk::new();
    for path in files(&desk.lab.store().join("packs")) {
        let mut pack = fs::read(&path).unwrap();
        let middle = pack.len() / 2;
        pack[middle] ^= 1;
        fs::write(&path, pack).unwrap();
    }
    desk.mount(&[]);
    let ran = desk.verb("mount", &["--status"]).expect(0);
    assert!(ran.text().contains("\nstate          works\n"), "{}", ran.text());
    assert!(ran.text().contains("\nother users    may not look\n"), "{}", ran.text());
    fs::read(desk.file()).unwrap_err();
    for args in [&["--status", "--quiet"][..], &["--status"]] {
        let ran = desk.verb("mount", args).expect(0);
        assert!(ran.text().contains("\nstate          works, found 1 damaged chunk: see the log\n"), "{}", ran.text());
    }
    let all = desk.run(["mount", "--status"]).expect(0);
    let line = all.text().lines().find(|line| line.contains(desk.at().to_str().unwrap()));
    assert!(line.is_some_and(|line| line.contains("works, found 1 damaged chunk: see the log")), "{all:?}");
    desk.verb("umount", &[]).expect(0);
    desk.mount(&["--allow-other"]);
    let ran = desk.verb("mount", &["--status"]).expect(0);
    assert!(ran.text().contains("\nother users    may look\n"), "{}", ran.text());
    desk.verb("umount", &[]).expect(0);
    desk.assert_gone();
}

#[test]
fn a_store_that_is_gone_from_under_its_mount_is_named() {
    if !mountable() {
        return;
    }
    let mut desk = Desk::new();
    let server = desk.mount(&[]);
    let (store, away) = (desk.lab.store().canonicalize().unwrap(), desk.lab.path("away"));
    fs::rename(&store, &away).unwrap();
    let status = desk.status();
    let text = desk.verb("mount", &["--status"]).expect(0);
    fs::rename(&away, &store).unwrap();
    assert_eq!((&status["state"], &status["pid"]), (&"failed".into(), &server.id().into()), "{status}");
    assert_eq!(status["why"], format!("the store {} is gone", store.display()), "{status}");
    assert_eq!(status["log"], desk.log().to_str().unwrap());
    assert!(text.text().contains(&format!("fails: the store {} is gone\n", store.display())), "{}", text.text());
    desk.verb("umount", &[]).expect(0);
    desk.assert_gone();
}

#[test]
fn hints_can_be_pasted_and_suit_what_was_asked_for() {
    if !mountable() {
        return;
    }
    let mut desk = Desk::new();
    desk.mount(&[]);
    let quoted = format!("'{}'", desk.at().display());
    let ran = desk.verb("mount", &[]).expect(7);
    let hint = format!("Hint: `ckpt mount --status {quoted}` says more, `ckpt umount {quoted}` takes it away\n");
    assert!(ran.stderr.ends_with(&hint), "{ran:?}");
    desk.verb("umount", &[]).expect(0);
    for missing in ["missing", "missing/too"] {
        for args in [&["umount", missing][..], &["mount", "--status", missing]] {
            let ran = desk.run(args).expect(3);
            assert!(ran.stderr.starts_with("Error: no store is mounted on "), "{ran:?}");
            assert!(ran.stderr.ends_with("\nHint: `ckpt mount --status` lists the mounts\n"), "{ran:?}");
        }
    }
    let ran = desk.run(["mount", "it's missing"]).expect(3);
    assert!(ran.stderr.contains("it'\\''s missing'` makes it\n"), "{ran:?}");
    // What would break the line does not.
    let odd = desk.lab.path(OsStr::from_bytes(b"odd\nname\xff"));
    fs::create_dir(&odd).unwrap();
    for verb in ["mount", "umount"] {
        let ran = desk.run([verb.as_ref(), odd.as_os_str()]).expect(0);
        assert!(ran.text().contains("odd\\nname") && ran.text().matches('\n').count() == 1, "{ran:?}");
    }
    let ran = desk.run(["umount".as_ref(), odd.as_os_str()]).expect(3);
    assert!(ran.stderr.starts_with("Error: no store is mounted on ") && ran.stderr.contains("odd\\nname"), "{ran:?}");
    let ran = desk.run(["mount".as_ref(), odd.join("x").as_os_str()]).expect(3);
    assert!(ran.stderr.contains("/odd\\x0aname\\xff/x'` makes it\n"), "{ran:?}");
    desk.assert_gone();
}

#[test]
fn a_store_in_the_mount_point_is_named_before_the_log() {
    if !mountable() {
        return;
    }
    let desk = Desk::new();
    let below = desk.lab.path("below");
    fs::create_dir(&below).unwrap();
    let store = desk.lab.store().canonicalize().unwrap();
    let ran = run(desk.command(["mount", ".."]).current_dir(&below)).expect(2);
    assert!(ran.stderr.contains(&format!("it would hide the store {}\n", store.display())), "{ran:?}");
    assert!(!desk.log().exists(), "no log is made for it");
}

#[test]
fn a_log_is_a_file_in_a_directory_that_is_there() {
    if !mountable() {
        return;
    }
    let desk = Desk::new();
    let dir = desk.lab.dir().canonicalize().unwrap();
    for foreground in [&[][..], &["--foreground"]] {
        let ran = desk.verb("mount", &[foreground, &["--log", "no/such/log"]].concat()).expect(3);
        let told = format!("Error: no directory {0}\nHint: `mkdir -p {0}` makes it\n", dir.join("no/such").display());
        assert_eq!(ran.stderr, told);
        assert!(!dir.join("no").exists());
        let ran = desk.verb("mount", &[foreground, &["--log", "."]].concat()).expect(2);
        let told = format!("Error: can't write the log {}: it is a directory\nHint: ", dir.display());
        assert!(ran.stderr.starts_with(&told) && ran.stderr.contains("mount.log"), "{ran:?}");
    }
    assert_eq!(minor_of(desk.at()), None);
}

#[test]
fn a_log_that_is_removed_begins_anew() {
    if !mountable() {
        return;
    }
    let mut desk = Desk::new();
    desk.mount(&[]);
    fs::remove_file(desk.log()).unwrap();
    let (head, aside) = (desk.lab.store().join("HEAD"), desk.lab.path("HEAD.aside"));
    fs::rename(&head, &aside).unwrap();
    let told = || fs::read_to_string(desk.log()).unwrap_or_default();
    wait_for("it is told", SOON, || {
        told().contains(": what is shown stays as it was until the store can be read: HEAD")
    });
    fs::rename(&aside, &head).unwrap();
    wait_for("it is told", SOON, || told().ends_with(": the store can be read again\n"));
    desk.verb("umount", &[]).expect(0);
    desk.assert_gone();
}

#[test]
fn files_are_laid_down_apart_from_the_store() {
    if !mountable() {
        return;
    }
    let desk = Desk::new();
    let (dir, store) = (desk.lab.dir().canonicalize().unwrap(), desk.lab.store().canonicalize().unwrap());
    let refused = |laid: &Path, code: i32, why: &str, hint: &str| {
        let ran = desk.verb("mount", &["--materialize", laid.to_str().unwrap()]);
        assert_eq!((ran.code, minor_of(desk.at())), (Some(code), None), "{ran:?}");
        assert!(ran.stderr.starts_with("Error: ") && ran.stderr.contains(why), "{ran:?}");
        assert!(ran.stderr.contains(&format!("Hint: {hint}")), "{ran:?}");
    };
    let hint = "`--materialize` takes a directory apart from the store";
    refused(&store.join("new"), 2, &format!("it lies in the store {}\n", store.display()), hint);
    refused(&store, 2, "it lies in the store ", hint);
    refused(&dir, 2, &format!("the store {} lies in it\n", store.display()), hint);
    refused(&dir.join("model.bin"), 2, "model.bin: it is not a directory\n", hint);
    let parent = dir.join("no/such");
    refused(&parent.join("new"), 3, "no directory ", &format!("`mkdir -p {}` makes it", parent.display()));
    assert!(!dir.join("no").exists() && !store.join("new").exists());
}

#[test]
fn what_keeps_a_mount_is_named() {
    if !mountable() || !is_root() {
        return;
    }
    let mut desk = Desk::new();
    let server = desk.mount(&[]);
    let within = desk.at().join("r");
    mount("tmpfs", &within, "tmpfs", MountFlags::empty(), None).unwrap();
    let ran = desk.verb("umount", &[]);
    unmount(&within, UnmountFlags::empty()).unwrap();
    let told = format!("Error: {} is in use\n  tmpfs is mounted on r\nHint: ", desk.at().display());
    assert!(ran.code == Some(6) && ran.stderr.starts_with(&told), "{ran:?}");
    fs::create_dir(desk.lab.path("other")).unwrap();
    let other = desk.lab.path("other").canonicalize().unwrap();
    mount_bind(desk.at().join("r/step-1"), &other).unwrap();
    let ran = desk.verb("umount", &[]);
    let is_served = fs::read(other.join("model.bin")).unwrap() == desk.bytes;
    unmount(&other, UnmountFlags::empty()).unwrap();
    let told = format!("unmounted {}; process {server} ends when it is unmounted there too\n", desk.at().display());
    assert!(ran.code == Some(0) && ran.text() == told && is_served, "{ran:?}");
    assert!(ran.stderr.contains(&format!("Note: it is mounted on {} as well\n", other.display())), "{ran:?}");
    wait_for("its server ends", SOON, || !server.is_alive());
    desk.assert_gone();
}

#[test]
fn the_log_tells_when_a_mount_began_and_how_it_ended() {
    if !mountable() {
        return;
    }
    let mut desk = Desk::new();
    let lines = |desk: &Desk| -> Vec<String> {
        let log = fs::read_to_string(desk.log()).unwrap();
        let after = format!(" {}: ", desk.at().display());
        log.lines().map(|line| line.split_once(&after).unwrap().1.to_owned()).collect()
    };
    let store = desk.lab.store().canonicalize().unwrap();
    let version = env!("CARGO_PKG_VERSION");
    let mounted = |server: &Process| format!("mounted {} by process {server}, ckpt {version}", store.display());
    let first = desk.mount(&[]);
    desk.verb("umount", &[]).expect(0);
    let second = desk.mount(&["--run", "other*"]);
    assert!(second.send(libc::SIGTERM));
    wait_for("it ends", SOON, || !second.is_alive());
    let third = desk.mount(&[]);
    assert!(third.send(libc::SIGKILL));
    wait_for("it is dead", SOON, || !third.is_alive());
    let fourth = desk.mount(&[]);
    let nothing = "no run matches `--run other*` so far; one that comes and does will be shown";
    let killed =
        format!("the process that served {} was killed; the mount that it left was taken away", desk.at().display());
    let told = [
        &*mounted(&first),
        "unmounted",
        nothing,
        &*mounted(&second),
        "ended by a signal",
        &*mounted(&third),
        &*killed,
        &*mounted(&fourth),
    ];
    assert_eq!(lines(&desk), told);
    desk.verb("umount", &[]).expect(0);
    desk.assert_gone();
}

#[test]
fn what_is_not_there_is_said() {
    if !mountable() {
        return;
    }
    let mut desk = Desk::new();
    // Before what a directory that is no store would hide.
    let dir = desk.lab.dir().to_str().unwrap().to_owned();
    for foreground in [&[][..], &["--foreground"]] {
        let ran = desk.verb("mount", &[foreground, &["--store", &dir]].concat()).expect(3);
        assert!(ran.stderr.starts_with(&format!("Error: no store in {dir}\nHint: `ckpt init`")), "{ran:?}");
    }
    let ran = desk.verb("mount", &["--warm", "r@lates"]).expect(3);
    assert!(ran.stderr.ends_with("\nHint: did you mean r@latest?\n"), "{ran:?}");
    let note = "no run matches `--run rr` so far; one that comes and does will be shown";
    let ran = desk.verb("mount", &["--run", "rr", "--json"]).expect(0);
    assert_eq!((&ran.json()["notes"], &*ran.stderr), (&serde_json::json!([note]), &*format!("Note: {note}\n")));
    desk.lab.put(&[&desk.lab.path("model.bin")], "rr", 1).unwrap();
    wait_for("it comes", SOON, || desk.at().join("rr/step-1/model.bin").exists());
    desk.verb("umount", &[]).expect(0);
    desk.mount(&["--run", "r"]);
    desk.verb("umount", &[]).expect(0);
    desk.assert_gone();
}

#[test]
fn gc_says_that_a_mount_keeps_what_was_dropped() {
    if !mountable() {
        return;
    }
    let mut desk = Desk::new();
    desk.mount(&[]);
    let id = desk.lab.open().checkpoints().unwrap()[0].id.to_string();
    let file = fs::File::open(desk.file()).unwrap();
    let note = "Note: a checkpoint that was dropped is still read, by a mount or a get: what only it needs stays until a later gc\n";
    let gc = |args: &[&str]| desk.run([&["gc"], args].concat()).expect(0);
    assert_eq!((gc(&[]).stderr, gc(&["--json"]).json()["still_read"].clone()), (String::new(), serde_json::json!([])));
    desk.run(["rm", "r@1"]).expect(0);
    for args in [&["--dry-run"][..], &[]] {
        assert_eq!(gc(args).stderr, note, "{args:?}");
        assert_eq!(gc(&[args, &["--json"]].concat()).json()["still_read"], serde_json::json!([id]), "{args:?}");
    }
    assert!(fs::read(desk.lab.store().join(format!("checkpoints/{id}"))).is_ok());
    drop(file);
    wait_for("nobody reads it", SOON, || gc(&["--json"]).json()["still_read"] == serde_json::json!([]));
    assert!(!desk.lab.store().join(format!("checkpoints/{id}")).exists());
    desk.verb("umount", &[]).expect(0);
    desk.assert_gone();
}
