//! A person's desk: a store, a home, and a directory to mount on, with the real command. Never leaves a mount or a
//! server behind.

use std::ffi::OsStr;
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};

use crate::lab::{Lab, noise};
use crate::mount::{detach, minor_of, mount_points};
use crate::process::{Process, SOON, wait_for};
use crate::run::{Ran, on, run};

/// A store with one file in it, and a directory to mount it on. Leaves no mount and no server behind.
pub struct Desk {
    /// Where the store is.
    pub lab: Lab,
    /// What the file holds.
    pub bytes: Vec<u8>,
    at: PathBuf,
    servers: Vec<Process>,
}

impl Default for Desk {
    fn default() -> Self {
        Self::new()
    }
}

impl Desk {
    /// One with nothing mounted.
    pub fn new() -> Self {
        let lab = Lab::quick();
        let bytes = noise(7, 3_000_001);
        lab.put(&[&lab.write("model.bin", &bytes)], "r", 1).expect("it can be stored");
        let at = lab.path("a mount");
        fs::create_dir(&at).expect("a directory can be made");
        Self { lab, bytes, at: fs::canonicalize(at).expect("it was made"), servers: Vec::new() }
    }

    /// The directory to mount on.
    pub fn at(&self) -> &Path {
        &self.at
    }

    /// The file, where it is mounted.
    pub fn file(&self) -> PathBuf {
        self.at.join("r/step-1/model.bin")
    }

    /// Where the log goes when nobody says.
    pub fn log(&self) -> PathBuf {
        self.lab.path("home/.local/state/ckpt/mount.log")
    }

    /// `ckpt ARGS` as somebody who has a home.
    pub fn command<A: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = A>) -> Command {
        let mut command = on(&self.lab.store());
        command.args(args).env("HOME", self.lab.path("home")).current_dir(self.lab.dir());
        command
    }

    /// Runs that.
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
    pub fn mount(&mut self, args: &[&str]) -> Process {
        let ran = self.verb("mount", &[args, &["--json"]].concat()).expect(0);
        let pid = ran.json()["pid"].as_u64().and_then(|pid| u32::try_from(pid).ok()).expect("it names its process");
        self.serves(pid)
    }

    /// Starts a server in the foreground, and waits until it says that it is ready.
    pub fn foreground(&mut self) -> Server {
        let mut command = self.command([OsStr::new("mount"), self.at.as_os_str(), OsStr::new("--foreground")]);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the command starts");
        let process = self.serves(child.id());
        let mut line = Vec::new();
        let mut stdout = child.stdout.take().expect("a pipe");
        let mut byte = [0];
        while stdout.read(&mut byte).expect("a pipe can be read") == 1 && byte != *b"\n" {
            line.push(byte[0]);
        }
        Server { child, process, said: String::from_utf8(line).expect("text") }
    }

    /// Takes note of a process that serves a mount of this desk.
    pub fn serves(&mut self, pid: u32) -> Process {
        let process = Process::of(pid);
        self.servers.push(process.clone());
        process
    }

    /// What the mount says of itself.
    pub fn status(&self) -> serde_json::Value {
        self.verb("mount", &["--status", "--json"]).expect(0).json()
    }

    /// That nothing is mounted any more and no process of these lives.
    pub fn assert_gone(&self) {
        assert_eq!(minor_of(&self.at), None, "it is still mounted");
        for server in &self.servers {
            wait_for(&format!("process {server} ends"), SOON, || !server.is_alive());
        }
    }
}

impl Drop for Desk {
    fn drop(&mut self) {
        let below = |path: &Path| path.starts_with(fs::canonicalize(self.lab.dir()).expect("it is there"));
        // Those that a test which failed has left, wherever it mounted.
        while let Some(at) = mount_points().into_iter().find(|at| below(at)) {
            detach(&at);
        }
        for server in &self.servers {
            let _ = server.send(libc::SIGKILL);
        }
    }
}

/// A server in the foreground.
pub struct Server {
    /// Its process, of which its end can be asked for.
    pub child: Child,
    /// The same, to be signalled.
    pub process: Process,
    /// What it said when it was ready.
    pub said: String,
}

impl Server {
    /// That it ends by itself, well; what it said on stderr.
    #[track_caller]
    pub fn ends(mut self) -> String {
        let mut status: Option<ExitStatus> = None;
        wait_for("the server ends", SOON, || {
            status = self.child.try_wait().expect("a child can be waited for");
            status.is_some()
        });
        let mut said = String::new();
        self.child.stderr.take().expect("a pipe").read_to_string(&mut said).expect("text");
        assert_eq!(status.and_then(|status| status.code()), Some(0), "{said}");
        said
    }
}
