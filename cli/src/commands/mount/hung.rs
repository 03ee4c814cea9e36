//! What the system knows of the process that serves a mount which doesn't say so itself: its number, how it is, its log. Never looks
//! at the mount.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// A process that serves a mount.
pub struct Server {
    pub pid: u32,
    /// Where it was told to log to; none when that is stderr.
    pub log: Option<PathBuf>,
}

/// The process that serves the mount on a directory, as far as this user may know.
pub fn server_of(directory: &Path) -> Option<Server> {
    let pid = ckpt_fuse::server_of(directory)?;
    let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let cwd = std::fs::read_link(format!("/proc/{pid}/cwd")).unwrap_or_default();
    Some(Server { pid, log: log_in(&line).map(|log| cwd.join(log)) })
}

/// The log in a command line of words with a NUL after each.
fn log_in(line: &[u8]) -> Option<&Path> {
    let mut words = line.split(|byte| *byte == 0).take_while(|word| word != b"--");
    let path = |word| Path::new(OsStr::from_bytes(word));
    words.find_map(|word| word.strip_prefix(b"--log")).and_then(|rest| match rest.strip_prefix(b"=") {
        Some(log) => Some(path(log)),
        None => words.next().filter(|log| !log.is_empty()).map(path),
    })
}

/// How a process is that does not answer.
pub fn state(pid: u32) -> &'static str {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // Its name, which may hold anything, stands in parentheses before.
    match stat.rsplit(')').next().and_then(|rest| rest.trim_start().chars().next()) {
        Some('T' | 't') => "is stopped",
        Some('D') => "waits for a disk",
        _ => "hangs",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_log_is_read_from_the_command_line() {
        let log = |words: &[&str]| log_in(words.join("\0").as_bytes()).map(Path::to_owned);
        assert_eq!(log(&["ckpt", "mount", "--log", "/a b", "--", "/m"]), Some("/a b".into()));
        assert_eq!(log(&["ckpt", "mount", "--log=x", "/m"]), Some("x".into()));
        assert_eq!(log(&["ckpt", "mount", "/m"]), None);
        assert_eq!(log(&["ckpt", "mount", "--", "--log", "/m"]), None);
    }
}
