//! Faults under the whole command: a layer between it and libc (shim.c), compiled when first needed, that counts the calls
//! by which the command, RocksDB included, changes and reads files, and at one of them fails, stops or kills it.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::NamedTempFile;

use crate::run::{Ran, binary};

/// What the kernel says of a broken disk.
pub const EIO: i32 = 5;
/// What the kernel says of a full disk.
pub const ENOSPC: i32 = 28;
/// What it says to somebody whose quota is used up.
pub const EDQUOT: i32 = 122;

const SOURCE: &str = include_str!("shim.c");
const TEXT_BYTES: usize = 400;
const KINDS: usize = 15;
const WHAT_AT: usize = 8 * 18;
const REPORT_BYTES: usize = WHAT_AT + 2 * TEXT_BYTES;

/// A kind of call, in the order of shim.c.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Kind {
    /// Opens what is there.
    Open,
    /// Opens, and makes what is not there.
    Create,
    /// Reads.
    Read,
    /// Writes.
    Write,
    /// Makes durable.
    Sync,
    /// Gives a file its length, or room.
    Room,
    /// Renames.
    Rename,
    /// Makes a link.
    Link,
    /// Removes a file or a directory.
    Remove,
    /// Makes a directory.
    Mkdir,
    /// Lists a directory.
    List,
    /// Asks what is at a path.
    Stat,
    /// Takes a lock, or gives it back.
    Lock,
    /// Closes.
    Close,
    /// Sets mode or times.
    Mode,
}

/// Every kind.
pub const ALL: &[Kind] = {
    use Kind::{Close, Create, Link, List, Lock, Mkdir, Mode, Open, Read, Remove, Rename, Room, Stat, Sync, Write};
    &[Open, Create, Read, Write, Sync, Room, Rename, Link, Remove, Mkdir, List, Stat, Lock, Close, Mode]
};
/// Those after which a disk holds something else: between two others a kill finds the same files.
pub const CHANGES: &[Kind] =
    &[Kind::Create, Kind::Write, Kind::Room, Kind::Rename, Kind::Link, Kind::Remove, Kind::Mkdir, Kind::Mode];
/// Those that a full disk refuses.
pub const NEED_ROOM: &[Kind] =
    &[Kind::Create, Kind::Write, Kind::Sync, Kind::Room, Kind::Rename, Kind::Link, Kind::Mkdir];

#[derive(Debug, Clone, Copy)]
enum Act {
    Nothing,
    Fail,
    Half,
    Kill,
    Stop,
    Torn,
}

/// What is to happen, and when.
#[derive(Debug, Clone)]
pub struct Fault {
    kinds: u64,
    path: String,
    without: String,
    at: u64,
    act: Act,
    errno: i32,
    lasting: bool,
    after: bool,
    guard: Option<(PathBuf, u64)>,
}

/// What the layer under one command has seen.
pub struct Watch {
    report: NamedTempFile,
}

/// A command that stands still at the call at which it was to stop.
pub struct Stopped {
    /// None once it went on.
    child: Option<Child>,
    watch: Watch,
}

impl Fault {
    /// Nothing: the calls are only counted.
    pub fn none() -> Self {
        let kinds = ALL.iter().map(|kind| 1 << *kind as u32).sum();
        let (path, without) = (String::new(), String::new());
        Self { kinds, path, without, at: 0, act: Act::Nothing, errno: 0, lasting: false, after: false, guard: None }
    }

    /// At the call with this number, from 1.
    pub fn at(number: u64) -> Self {
        Self { at: number, ..Self::none() }
    }

    /// Counts only calls of these kinds.
    #[must_use]
    pub fn of(self, kinds: &[Kind]) -> Self {
        Self { kinds: kinds.iter().map(|kind| 1 << *kind as u32).sum(), ..self }
    }

    /// Counts only calls on paths below the root with this in them.
    #[must_use]
    pub fn on(self, path: &str) -> Self {
        Self { path: path.to_owned(), ..self }
    }

    /// Counts no calls on paths below the root with this in them.
    #[must_use]
    pub fn without(self, path: &str) -> Self {
        Self { without: path.to_owned(), ..self }
    }

    /// The call fails with this error.
    #[must_use]
    pub fn errno(self, errno: i32) -> Self {
        Self { act: Act::Fail, errno, ..self }
    }

    /// Half of what is to be read or written is, and the call says so.
    #[must_use]
    pub fn half(self) -> Self {
        Self { act: Act::Half, ..self }
    }

    /// Half of what is to be written is, and the next call fails with this error.
    #[must_use]
    pub fn half_then(self, errno: i32) -> Self {
        Self { act: Act::Half, errno, ..self }
    }

    /// It stays so: all later calls of the kinds that count fail as well.
    #[must_use]
    pub fn lasting(self) -> Self {
        Self { lasting: true, ..self }
    }

    /// Calls fail only while a file has at least so many bytes.
    #[must_use]
    pub fn while_there(self, file: &Path, bytes: u64) -> Self {
        Self { guard: Some((file.to_owned(), bytes)), ..self }
    }

    /// The command is killed before the call.
    #[must_use]
    pub fn kill(self) -> Self {
        Self { act: Act::Kill, ..self }
    }

    /// The command is killed when half of what is to be written is.
    #[must_use]
    pub fn torn(self) -> Self {
        Self { act: Act::Torn, ..self }
    }

    /// The command stands still before the call.
    #[must_use]
    pub fn stop(self) -> Self {
        Self { act: Act::Stop, ..self }
    }

    /// It is killed or stands still when the call has been made.
    #[must_use]
    pub fn after(self) -> Self {
        Self { after: true, ..self }
    }

    /// Puts the layer under a command; paths below `root` count.
    pub fn under(&self, command: &mut Command, root: &Path) -> Watch {
        let report = NamedTempFile::new().expect("a temporary file can be made");
        report.as_file().set_len(REPORT_BYTES as u64).expect("a file can be made longer");
        let act = match self.act {
            Act::Nothing => "",
            Act::Fail => "fail",
            Act::Half => "half",
            Act::Kill => "kill",
            Act::Stop => "stop",
            Act::Torn => "torn",
        };
        command
            .env("LD_PRELOAD", library())
            .env("CKPT_SHIM_ROOT", root)
            .env("CKPT_SHIM_REPORT", report.path())
            .env("CKPT_SHIM_KINDS", self.kinds.to_string())
            .env("CKPT_SHIM_PATH", &self.path)
            .env("CKPT_SHIM_WITHOUT", &self.without)
            .env("CKPT_SHIM_AT", self.at.to_string())
            .env("CKPT_SHIM_ACT", act)
            .env("CKPT_SHIM_ERRNO", self.errno.to_string())
            .env("CKPT_SHIM_LASTING", u8::from(self.lasting).to_string())
            .env("CKPT_SHIM_AFTER", u8::from(self.after).to_string());
        if let Some((file, bytes)) = &self.guard {
            command.env("CKPT_SHIM_WHILE", file).env("CKPT_SHIM_BYTES", bytes.to_string());
        }
        Watch { report }
    }

    /// Runs a command with the layer under it.
    pub fn run(&self, command: &mut Command, root: &Path) -> (Ran, Watch) {
        let watch = self.under(command, root);
        (crate::run::run(command), watch)
    }

    /// Starts a command and waits until it stands still where this says; none when it ended before that.
    pub fn start(&self, command: &mut Command, root: &Path) -> Result<Stopped, Ran> {
        let watch = self.under(command, root);
        let mut child = command.spawn().expect("the command starts");
        let started = Instant::now();
        loop {
            if watch.fired().is_some() && is_stopped(&child) {
                return Ok(Stopped { child: Some(child), watch });
            }
            if child.try_wait().expect("a child can be waited for").is_some() {
                return Err(child.wait_with_output().expect("a child can be waited for").into());
            }
            assert!(started.elapsed().as_secs() < 60, "the command neither ends nor comes to {self:?}");
            std::thread::sleep(Duration::from_micros(500));
        }
    }
}

impl Stopped {
    /// The call at which it stands.
    pub fn at(&self) -> String {
        self.watch.fired().unwrap_or_default()
    }

    /// Its process.
    pub fn id(&self) -> u32 {
        self.child.as_ref().map_or(0, Child::id)
    }

    /// Lets it go on, to its end.
    pub fn go_on(mut self) -> Ran {
        let child = self.child.take().expect("it goes on once");
        let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw).expect("a process has an id");
        kill_process(pid, Signal::CONT).expect("it is there");
        child.wait_with_output().expect("a child can be waited for").into()
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        // A test that failed meanwhile: nobody else would ever end it.
        if let Some(mut child) = self.child.take() {
            drop(child.kill());
            drop(child.wait());
        }
    }
}

impl Watch {
    fn read(&self) -> Vec<u8> {
        fs::read(self.report.path()).expect("the report can be read")
    }

    fn number(&self, nr: usize) -> u64 {
        let bytes = self.read();
        u64::from_le_bytes(bytes[nr * 8..][..8].try_into().expect("eight bytes"))
    }

    fn text(&self, at: usize) -> String {
        let bytes = self.read();
        let text = &bytes[at..at + TEXT_BYTES];
        let end = text.iter().position(|byte| *byte == 0).unwrap_or(TEXT_BYTES);
        String::from_utf8_lossy(&text[..end]).into_owned()
    }

    /// Calls that counted.
    pub fn calls(&self) -> u64 {
        self.number(0)
    }

    /// Calls of each kind below the root, whether they counted or not.
    pub fn made(&self) -> Vec<(Kind, u64)> {
        ALL.iter().map(|kind| (*kind, self.number(2 + *kind as usize))).collect()
    }

    /// The call that was acted on, as its kind and its path below the root; none when there were too few.
    pub fn fired(&self) -> Option<String> {
        (self.number(1) > 0).then(|| self.text(WHAT_AT))
    }

    /// The latest change that was begun.
    pub fn last(&self) -> String {
        self.text(WHAT_AT + TEXT_BYTES)
    }
}

/// Whether a process stands still.
fn is_stopped(child: &Child) -> bool {
    let stat = fs::read_to_string(format!("/proc/{}/stat", child.id())).unwrap_or_default();
    // The state follows the name, which may hold anything and ends with the last parenthesis.
    stat.rsplit(')').next().is_some_and(|rest| rest.trim_start().starts_with('T'))
}

/// The compiled layer, beside the command. Named by its source, so that it is compiled once.
fn library() -> &'static Path {
    static LIBRARY: OnceLock<PathBuf> = OnceLock::new();
    LIBRARY.get_or_init(|| {
        assert_eq!(KINDS, ALL.len());
        let name = format!("ckpt-shim-{:.16}.so", blake3::hash(SOURCE.as_bytes()).to_hex());
        let path = binary().with_file_name(name);
        if fs::metadata(&path).is_ok_and(|file| file.size() > 0) {
            return path;
        }
        let folder = tempfile::tempdir_in(path.parent().expect("it lies in a directory")).expect("a directory");
        let (source, built) = (folder.path().join("shim.c"), folder.path().join("shim.so"));
        fs::write(&source, SOURCE).expect("a file can be written");
        let mut compiler = Command::new("cc");
        compiler.args(["-O2", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", "-fvisibility=hidden", "-o"]);
        let done = compiler.arg(&built).arg(&source).arg("-ldl").output().expect("cc can be started");
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        fs::rename(&built, &path).expect("a file can be renamed");
        path
    })
}
