//! Runs the real command `ckpt`, as a person would: other process, clean environment, bytes in and out.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

/// The command that was built beside the running test: `target/<profile>/ckpt`.
///
/// # Panics
/// When it was not built. A bare `cargo test` does not build it anew either: `make test` does, before it runs the
/// tests.
pub fn binary() -> PathBuf {
    let test = std::env::current_exe().expect("a test knows its own path");
    let folder = test.parent().expect("an executable lies in a directory");
    let beside = folder.join("ckpt");
    // A test lies in `deps`, a program in the profile's directory itself.
    let above = || folder.parent().expect("deps lies in the profile's directory").join("ckpt");
    let path = if beside.is_file() { beside } else { above() };
    assert!(path.is_file(), "{} is missing: build the whole workspace with the same profile", path.display());
    path
}

/// A copy of the command in a directory where every user may go; the one that was built may lie where only root can.
///
/// # Panics
/// When it can't be copied.
pub fn copy_for_all(folder: &Path) -> PathBuf {
    let copy = folder.join("ckpt");
    // By a program: while this process has it open for writing, another test may start one, and nobody could run it.
    assert!(Command::new("cp").arg(binary()).arg(&copy).status().expect("cp can be run").success());
    copy
}

/// The command in a clean environment: no terminal, no store set, nothing of the caller's but PATH.
pub fn command() -> Command {
    command_by(&binary())
}

/// As [`command`], by another copy of it.
pub fn command_by(program: &Path) -> Command {
    let mut command = Command::new(program);
    command.env_clear().stdin(Stdio::null());
    if let Some(path) = std::env::var_os("PATH") {
        command.env("PATH", path);
    }
    command
}

/// The command on the store in `store`.
pub fn on(store: &Path) -> Command {
    let mut command = command();
    command.arg("--store").arg(store);
    command
}

/// What a command did.
#[derive(Debug)]
pub struct Ran {
    /// Its exit code; none when a signal ended it.
    pub code: Option<i32>,
    /// What it printed as its answer.
    pub stdout: Vec<u8>,
    /// What it said beside that.
    pub stderr: String,
}

impl From<Output> for Ran {
    fn from(output: Output) -> Self {
        let Output { status, stdout, stderr } = output;
        Self { code: status.code(), stdout, stderr: String::from_utf8_lossy(&stderr).into_owned() }
    }
}

impl Ran {
    /// Its answer as text.
    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.stdout).expect("the command answers in UTF-8")
    }

    /// Its answer as JSON, for calls with `--json`.
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.stdout).unwrap_or_else(|error| panic!("no JSON ({error}): {self:?}"))
    }
}

/// Runs a command to its end.
pub fn run(command: &mut Command) -> Ran {
    command.output().expect("the command can be started").into()
}

/// Runs `ckpt ARGS` on a store, whatever comes of it.
pub fn ckpt<A: AsRef<OsStr>>(store: &Path, args: impl IntoIterator<Item = A>) -> Ran {
    run(on(store).args(args))
}

/// Runs `ckpt ARGS` on a store.
///
/// # Panics
/// When the command fails.
pub fn ckpt_ok<A: AsRef<OsStr>>(store: &Path, args: impl IntoIterator<Item = A>) -> Ran {
    let ran = ckpt(store, args);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    ran
}

/// Runs `ckpt ARGS` on a store, which must fail with this code and say so on stderr alone.
///
/// # Panics
/// When it does anything else.
pub fn ckpt_fails<A: AsRef<OsStr>>(store: &Path, args: impl IntoIterator<Item = A>, code: i32) -> Ran {
    let ran = ckpt(store, args);
    assert_eq!(ran.code, Some(code), "{ran:?}");
    assert!(ran.stderr.starts_with("Error: ") || ran.stderr.starts_with("error: "), "{ran:?}");
    ran
}
