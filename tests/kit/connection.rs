//! A FUSE file system as the kernel has it: which one is mounted where, and how to end one that answers nobody. Never
//! touches the file system itself.

use std::ffi::OsString;
use std::fs;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};

/// Wakes everybody who waits for a mount, with an error, takes it away and kills its server: also one that waits for
/// itself, whom no signal ends before.
pub fn break_up(at: &Path, minor: u32, server: u32) {
    abort(minor);
    detach(at);
    if server != 0 {
        // SAFETY: a signal to a child that was not waited for yet, so that nobody else has its number.
        unsafe { libc::kill(server.cast_signed(), libc::SIGKILL) };
    }
}

/// Ends a connection, by the file system that lists them. Not every machine has that mounted.
fn abort(minor: u32) {
    let file = |connections: &Path| connections.join(minor.to_string()).join("abort");
    if fs::write(file(Path::new("/sys/fs/fuse/connections")), "1").is_ok() {
        return;
    }
    let Ok(here) = tempfile::tempdir() else { return };
    if mount("fusectl", here.path(), "fusectl", MountFlags::empty(), None).is_ok() {
        let _ = fs::write(file(here.path()), "1");
        let _ = unmount(here.path(), UnmountFlags::DETACH);
    }
}

/// Takes a mount out of the tree, whoever still uses it.
pub fn detach(at: &Path) {
    if unmount(at, UnmountFlags::DETACH).is_err() {
        let _ = Command::new("fusermount3").arg("-uz").arg(at).stderr(Stdio::null()).status();
    }
}

/// The number of the FUSE file system that is mounted at `at`, which its connection goes by. Asks the kernel, and never
/// the file system.
pub fn minor_of(at: &Path) -> Option<u32> {
    let found = mounted().into_iter().rfind(|(_, path, _)| path == at);
    found.filter(|(.., is_fuse)| *is_fuse).map(|(minor, ..)| minor)
}

/// Where file systems of FUSE are mounted that this thread sees. Looks at none of them, which would keep it in use.
pub fn mount_points() -> Vec<PathBuf> {
    mounted().into_iter().filter(|(.., is_fuse)| *is_fuse).map(|(_, path, _)| path).collect()
}

/// What is mounted where: the number of each file system, and whether it is one of FUSE.
fn mounted() -> Vec<(u32, PathBuf, bool)> {
    let mounts = fs::read("/proc/thread-self/mountinfo").expect("it tells of mounts");
    let fields = |line: &[u8]| -> Option<(u32, PathBuf, bool)> {
        let fields: Vec<&[u8]> = line.split(|byte| *byte == b' ').collect();
        let minor = std::str::from_utf8(fields.get(2)?).ok()?.split_once(':')?.1.parse().ok()?;
        let is_fuse = fields.iter().any(|field| *field == b"fuse" || field.starts_with(b"fuse."));
        Some((minor, PathBuf::from(OsString::from_vec(unescaped(fields.get(4)?))), is_fuse))
    };
    mounts.split(|byte| *byte == b'\n').filter_map(fields).collect()
}

/// A path as mountinfo writes it: blanks and the like as a backslash and three octal digits.
fn unescaped(field: &[u8]) -> Vec<u8> {
    let mut path = Vec::with_capacity(field.len());
    let mut rest = field;
    while let [first, others @ ..] = rest {
        let octal = others.get(..3).filter(|_| *first == b'\\').and_then(|digits| std::str::from_utf8(digits).ok());
        let byte = octal.and_then(|digits| u8::from_str_radix(digits, 8).ok());
        path.push(byte.unwrap_or(*first));
        rest = if byte.is_some() { &others[3..] } else { others };
    }
    path
}
