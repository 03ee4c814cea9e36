//! How a mount begins and ends, with real processes: in the background and in the foreground, by signals, by `ckpt umount`, by a
//! kill that leaves a dead mount behind.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{Read, Seek};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use ckpt_tests::lab::{Lab, noise};
use ckpt_tests::mount::{detach, minor_of, mountable};
use ckpt_tests::run::{Ran, on, run};

use super::wait_for;

/// How long something may take that is to happen at once.
const SOON: Duration = Duration::from_secs(20);

/// A store with one file in it, and a directory to mount it on. Leaves no mount and no server behind.
pub struct Desk {
    pub lab: Lab,
    pub bytes: Vec<u8>,
    at: PathBuf,
    servers: Vec<u32>,
}

impl Desk {
    pub fn new() -> Self {
        let lab = Lab::quick();
        let bytes = noise(7, 3_000_001);
        lab.put(&[&lab.write("model.bin", &bytes)], "r", 1).unwrap();
        let at = lab.path("a mount");
        fs::create_dir(&at).unwrap();
        Self { lab, bytes, at: fs::canonicalize(at).unwrap(), servers: Vec::new() }
    }

    pub fn at(&self) -> &Path {
        &self.at
    }

    pub fn file(&self) -> PathBuf {
        self.at.join("r/step-1/model.bin")
    }

    pub fn log(&self) -> PathBuf {
        self.lab.path("home/.local/state/ckpt/mount.log")
    }

    /// `ckpt ARGS` as somebody who has a home.
    pub fn command<A: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = A>) -> Command {
        let mut command = on(&self.lab.store());
        command.args(args).env("HOME", self.lab.path("home")).current_dir(self.lab.dir());
        command
    }

    pub fn run<A: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = A>) -> Ran {
        run(&mut self.command(args))
    }

    /// `ckpt VERB DIR ARGS`.
    pub fn verb(&self, verb: &str, args: &[&str]) -> Ran {
        self.run(
            [&[OsStr::new(verb), self.at.as_os_str()], &args.iter().map(OsStr::new).collect::<Vec<_>>()[..]].concat(),
        )
    }

    /// Mounts it in the background; the server's process.
    pub fn mount(&mut self, args: &[&str]) -> u32 {
        let ran = self.verb("mount", &[args, &["--json"]].concat()).expect(0);
        let pid = u32::try_from(ran.json()["pid"].as_u64().unwrap()).unwrap();
        self.servers.push(pid);
        pid
    }

    /// Starts a server in the foreground, and waits until it says that it is ready.
    pub fn foreground(&mut self) -> Server {
        let mut command = self.command([OsStr::new("mount"), self.at.as_os_str(), OsStr::new("--foreground")]);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        self.servers.push(child.id());
        let mut line = Vec::new();
        let mut stdout = child.stdout.take().unwrap();
        let mut byte = [0];
        while stdout.read(&mut byte).unwrap() == 1 && byte != *b"\n" {
            line.push(byte[0]);
        }
        Server { child, said: String::from_utf8(line).unwrap() }
    }

    pub fn status(&self) -> serde_json::Value {
        self.verb("mount", &["--status", "--json"]).expect(0).json()
    }

    /// That nothing is mounted any more and no process of these lives.
    pub fn assert_gone(&self) {
        assert_eq!(minor_of(&self.at), None, "it is still mounted");
        for pid in &self.servers {
            assert!(!is_alive(*pid), "process {pid} still serves");
        }
    }
}

impl Drop for Desk {
    fn drop(&mut self) {
        let below = |path: &Path| path.starts_with(fs::canonicalize(self.lab.dir()).unwrap());
        // Those that a test which failed has left, wherever it mounted.
        while let Some(at) = mount_points().into_iter().find(|at| below(at)) {
            detach(&at);
        }
        for pid in self.servers.iter().filter(|pid| is_alive(**pid)) {
            send(*pid, libc::SIGKILL);
        }
    }
}

/// Where stores are mounted that this process sees.
fn mount_points() -> Vec<PathBuf> {
    let ran = run(ckpt_tests::run::command().args(["mount", "--status", "--json"]));
    let all: serde_json::Value = serde_json::from_slice(&ran.stdout).unwrap_or_default();
    all.as_array().into_iter().flatten().filter_map(|one| one["directory"].as_str()).map(PathBuf::from).collect()
}

pub struct Server {
    pub child: std::process::Child,
    pub said: String,
}

impl Server {
    /// That it ends by itself, well; what it said on stderr.
    fn ends(mut self) -> String {
        let mut status = None;
        wait_for("the server ends", SOON, || {
            status = self.child.try_wait().unwrap();
            status.is_some()
        });
        let mut said = String::new();
        self.child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
        assert_eq!(status.unwrap().code(), Some(0), "{said}");
        said
    }
}

/// Whether a process runs: one that has ended and that nobody has asked for yet doesn't.
fn is_alive(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit(')').next().is_some_and(|rest| !rest.trim().is_empty() && !rest.trim().starts_with(['Z', 'X']))
}

pub fn send(pid: u32, signal: i32) {
    // SAFETY: a signal to a process that the test has started.
    assert_eq!(unsafe { libc::kill(pid.cast_signed(), signal) }, 0);
}

#[test]
fn in_the_background_it_is_ready_when_the_command_ends() {
    if !mountable() {
        return;
    }
    let mut desk = Desk::new();
    // `run` waits for the end of what the command prints: the server must not hold it open.
    let ran = desk.verb("mount", &[]).expect(0);
    let pid: u32 = ran.text().rsplit_once("(process ").unwrap().1.trim_end_matches(")\n").parse().unwrap();
    desk.servers.push(pid);
    let told = format!("mounted {} on {} (process {pid})\n", desk.lab.store().display(), desk.at.display());
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
    assert_eq!(ran.text(), format!("unmounted {}\n", desk.at.display()));
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
        send(server.child.id(), signal);
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
    let mut command = desk.command([OsStr::new("mount"), desk.at.as_os_str(), OsStr::new("--foreground")]);
    command.env("NOTIFY_SOCKET", &path).stdout(Stdio::null()).stderr(Stdio::piped());
    let child = command.spawn().unwrap();
    desk.servers.push(child.id());
    let mut told = [0; 100];
    let bytes = socket.recv(&mut told).unwrap();
    assert_eq!(&told[..bytes], b"READY=1");
    assert!(fs::read(desk.file()).unwrap() == desk.bytes);
    send(child.id(), libc::SIGTERM);
    assert_eq!(Server { child, said: String::new() }.ends(), "");
    desk.assert_gone();
}

#[test]
fn a_signal_unmounts_at_once_and_lets_open_files_be_read_for_a_while() {
    if !mountable() {
        return;
    }
    let mut desk = Desk::new();
    let pid = desk.mount(&[]);
    let mut file = File::open(desk.file()).unwrap();
    send(pid, libc::SIGTERM);
    wait_for("it is unmounted", SOON, || minor_of(desk.at()).is_none());
    assert!(is_alive(pid));
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes).unwrap();
    assert!(bytes == desk.bytes);
    drop(file);
    wait_for("the server ends", SOON, || !is_alive(pid));
    let log = fs::read_to_string(desk.log()).unwrap();
    assert!(log.contains(&format!("{}: unmounted; what is open", desk.at.display())), "{log}");
    // Whoever never closes is not waited for: a second signal ends it at once.
    let pid = desk.mount(&[]);
    let file = File::open(desk.file()).unwrap();
    send(pid, libc::SIGTERM);
    wait_for("it is unmounted", SOON, || minor_of(desk.at()).is_none());
    send(pid, libc::SIGTERM);
    wait_for("the server ends", Duration::from_secs(5), || !is_alive(pid));
    drop(file);
}

#[test]
fn a_mount_whose_server_was_killed_is_seen_and_mounted_anew() {
    if !mountable() {
        return;
    }
    let mut desk = Desk::new();
    let pid = desk.mount(&[]);
    send(pid, libc::SIGKILL);
    wait_for("it is dead", SOON, || !is_alive(pid));
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
    desk.servers.push(u32::try_from(status["pid"].as_u64().unwrap()).unwrap());
    assert!(fs::read(desk.file()).unwrap() == desk.bytes);
    // Nothing is left below: one umount and the directory is empty again.
    desk.verb("umount", &[]).expect(0);
    desk.assert_gone();
    let pid = desk.mount(&[]);
    let file = File::open(desk.file()).unwrap();
    send(pid, libc::SIGKILL);
    wait_for("it is dead", SOON, || !is_alive(pid));
    let ran = desk.verb("umount", &[]).expect(0);
    assert_eq!(ran.text(), format!("unmounted {}, whose process was gone\n", desk.at.display()));
    desk.assert_gone();
    drop(file);
}

#[test]
fn a_mount_in_use_is_unmounted_only_lazily() {
    if !mountable() {
        return;
    }
    let mut desk = Desk::new();
    let pid = desk.mount(&[]);
    let mut file = File::open(desk.file()).unwrap();
    let ran = desk.verb("umount", &[]).expect(6);
    let me = std::process::id();
    assert!(ran.stderr.starts_with(&format!("Error: {} is in use\n", desk.at.display())), "{ran:?}");
    assert!(ran.stderr.contains(&format!("(process {me}) has r/step-1/model.bin\n")), "{ran:?}");
    assert!(ran.stderr.contains("Hint: `ckpt umount --lazy "), "{ran:?}");
    assert!(is_alive(pid) && minor_of(desk.at()).is_some());
    let ran = desk.verb("umount", &["--lazy"]).expect(0);
    assert!(ran.text().ends_with(&format!("process {pid} serves what is still open\n")), "{ran:?}");
    assert_eq!(minor_of(desk.at()), None);
    let mut bytes = Vec::new();
    file.rewind().unwrap();
    file.read_to_end(&mut bytes).unwrap();
    assert!(bytes == desk.bytes && is_alive(pid));
    // Another one may take its place meanwhile, and stays when the first ends.
    let second = desk.mount(&[]);
    drop(file);
    wait_for("the first ends", SOON, || !is_alive(pid));
    assert!(is_alive(second) && fs::read(desk.file()).unwrap() == desk.bytes);
    desk.verb("umount", &[]).expect(0);
    desk.assert_gone();
}

#[test]
fn a_mount_that_does_not_answer_hangs_nobody() {
    if !mountable() {
        return;
    }
    let mut desk = Desk::new();
    let pid = desk.mount(&[]);
    send(pid, libc::SIGSTOP);
    assert_eq!(desk.status()["state"], "silent");
    let ran = desk.verb("mount", &[]).expect(6);
    assert!(ran.stderr.contains("does not answer"), "{ran:?}");
    desk.verb("umount", &["--lazy"]).expect(0);
    assert_eq!(minor_of(desk.at()), None);
    send(pid, libc::SIGCONT);
    wait_for("the server ends", SOON, || !is_alive(pid));
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
    let on_second = second.at.to_str().unwrap().to_owned();
    let ran = first.run(["mount", &on_second, "--json"]).expect(0);
    second.servers.push(u32::try_from(ran.json()["pid"].as_u64().unwrap()).unwrap());
    for desk in [&first, &second] {
        assert!(fs::read(desk.file()).unwrap() == first.bytes);
    }
    let all = first.run(["mount", "--status", "--json"]).expect(0).json();
    let points: Vec<&str> = all.as_array().unwrap().iter().map(|one| one["directory"].as_str().unwrap()).collect();
    assert!([&first, &second].iter().all(|desk| points.contains(&desk.at.to_str().unwrap())), "{all}");
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
        let mut command = desk.command([OsStr::new("mount"), desk.at.as_os_str(), OsStr::new("--json")]);
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    };
    // Who is in between of another's look and its mount comes by chance. Every other time a dead mount lies there, which all find.
    for turn in 0..8 {
        if turn % 2 == 1 {
            let pid = desk.mount(&[]);
            send(pid, libc::SIGKILL);
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
