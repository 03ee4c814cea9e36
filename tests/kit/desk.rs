//! A person's desk: a store, a home, and a directory to mount on, with the real command. Never leaves a mount or a
//! server behind.

use std::ffi::OsStr;
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use crate::lab::{Lab, noise};
use crate::mount::{detach, minor_of, mount_points};
use crate::run::{Ran, on, run};

/// How long something may take that is to happen at once.
pub const SOON: Duration = Duration::from_secs(20);

/// A store with one file in it, and a directory to mount it on. Leaves no mount and no server behind.
pub struct Desk {
    /// Where the store is.
    pub lab: Lab,
    /// What the file holds.
    pub bytes: Vec<u8>,
    at: PathBuf,
    servers: Vec<u32>,
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
    pub fn mount(&mut self, args: &[&str]) -> u32 {
        let ran = self.verb("mount", &[args, &["--json"]].concat()).expect(0);
        let pid = ran.json()["pid"].as_u64().and_then(|pid| u32::try_from(pid).ok()).expect("it names its process");
        self.serves(pid);
        pid
    }

    /// Starts a server in the foreground, and waits until it says that it is ready.
    pub fn foreground(&mut self) -> Server {
        let mut command = self.command([OsStr::new("mount"), self.at.as_os_str(), OsStr::new("--foreground")]);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the command starts");
        self.serves(child.id());
        let mut line = Vec::new();
        let mut stdout = child.stdout.take().expect("a pipe");
        let mut byte = [0];
        while stdout.read(&mut byte).expect("a pipe can be read") == 1 && byte != *b"\n" {
            line.push(byte[0]);
        }
        Server { child, said: String::from_utf8(line).expect("text") }
    }

    /// Takes note of a process that serves a mount of this desk.
    pub fn serves(&mut self, pid: u32) {
        self.servers.push(pid);
    }

    /// What the mount says of itself.
    pub fn status(&self) -> serde_json::Value {
        self.verb("mount", &["--status", "--json"]).expect(0).json()
    }

    /// That nothing is mounted any more and no process of these lives.
    pub fn assert_gone(&self) {
        assert_eq!(minor_of(&self.at), None, "it is still mounted");
        for pid in &self.servers {
            // The namespaces of tests beside this one have the mount as well until they end.
            wait_for(&format!("process {pid} ends"), SOON, || !is_alive(*pid));
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
        for pid in self.servers.iter().filter(|pid| is_alive(**pid)) {
            send(*pid, libc::SIGKILL);
        }
    }
}

/// A server in the foreground.
pub struct Server {
    /// Its process.
    pub child: Child,
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

/// Whether a process runs: one that has ended and that nobody has asked for yet doesn't.
pub fn is_alive(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit(')').next().is_some_and(|rest| !rest.trim().is_empty() && !rest.trim().starts_with(['Z', 'X']))
}

/// Sends a signal to a process.
pub fn send(pid: u32, signal: i32) {
    // SAFETY: a signal to a process that the test has started.
    assert_eq!(unsafe { libc::kill(pid.cast_signed(), signal) }, 0);
}

/// Stops a process. What a thread of it had taken on before would be waited for by whoever asked, whatever comes.
pub fn stop(pid: u32) {
    send(pid, libc::SIGSTOP);
    let is_stopped = |task: &Path| {
        let stat = fs::read_to_string(task.join("stat")).unwrap_or_default();
        stat.rsplit(')').next().is_some_and(|rest| rest.trim().starts_with('T'))
    };
    wait_for("it is stopped", SOON, || {
        let tasks = fs::read_dir(format!("/proc/{pid}/task")).expect("it lives");
        tasks.flatten().all(|task| is_stopped(&task.path()))
    });
}

/// Waits until something is so, and answers how long that took.
///
/// # Panics
/// When it took more than `patience`.
#[track_caller]
pub fn wait_for(what: &str, patience: Duration, mut is_so: impl FnMut() -> bool) -> Duration {
    let started = Instant::now();
    while !is_so() {
        assert!(started.elapsed() <= patience, "{what}: not within {patience:?}");
        std::thread::sleep(Duration::from_millis(20));
    }
    started.elapsed()
}
