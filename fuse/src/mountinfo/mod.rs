//! The kernel's list of mounts, `/proc/self/mountinfo`, and which of several a path leads into. Pure: never reads that file, and
//! knows nothing of the rest of this crate.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

/// The file system type of our mounts.
pub const KIND: &str = "fuse.ckpt";

/// One line of mountinfo.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    /// The kernel's number of this mount.
    pub id: u64,
    /// The mount that it lies on.
    pub parent: u64,
    /// The number of its file system, as `major:minor`.
    pub device: Device,
    /// Where it is.
    pub point: PathBuf,
    /// What kind of file system it is.
    pub kind: String,
    /// What is mounted: for ours, the store.
    pub source: OsString,
    /// Whoever mounted it, when the file system says so, as those of FUSE do.
    pub user: Option<u32>,
}

/// The number that the kernel gives a file system.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Device {
    /// Zero for all that is no disk.
    pub major: u32,
    /// Which one.
    pub minor: u32,
}

impl std::fmt::Display for Device {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}", self.major, self.minor)
    }
}

impl Mount {
    /// Whether it is one of ours, dead or alive.
    pub fn is_ours(&self) -> bool {
        self.kind == KIND
    }
}

/// The mount that a path leads into, as the kernel walks it: from the root, at each place the topmost that lies on the one
/// before. The path has no links and no `..`.
pub fn reached<'a>(mounts: &'a [Mount], path: &Path) -> Option<&'a Mount> {
    let is_listed = |id: u64| mounts.iter().any(|mount| mount.id == id);
    let is_first = |mount: &&Mount| mount.parent == mount.id || !is_listed(mount.parent);
    let next = |here: Option<&Mount>| {
        let lies_here = |mount: &&Mount| match here {
            Some(here) => mount.parent == here.id && mount.id != here.id,
            None => is_first(mount),
        };
        let on_the_way = mounts.iter().filter(lies_here).filter(|mount| path.starts_with(&mount.point));
        // The first that the walk meets, and of several on one place the last.
        on_the_way.rev().min_by_key(|mount| mount.point.as_os_str().len())
    };
    let mut here = next(None)?;
    // A list that changed while it was read could lead in a circle.
    for _ in 0..mounts.len() {
        match next(Some(here)) {
            Some(mount) => here = mount,
            None => break,
        }
    }
    Some(here)
}

/// The lines of mountinfo. One that is not understood is left out.
pub fn parse(text: &[u8]) -> Vec<Mount> {
    text.split(|byte| *byte == b'\n').filter_map(line).collect()
}

/// `36 35 98:0 /root /point rw,noatime master:1 - ext3 /dev/root rw,errors=continue`, see proc_pid_mountinfo(5).
fn line(line: &[u8]) -> Option<Mount> {
    let mut words = line.split(|byte| *byte == b' ');
    let mut number = || std::str::from_utf8(words.next()?).ok()?.parse().ok();
    let (id, parent) = (number()?, number()?);
    let (major, minor) = std::str::from_utf8(words.next()?).ok()?.split_once(':')?;
    let device = Device { major: major.parse().ok()?, minor: minor.parse().ok()? };
    let point = unescape(words.nth(1)?);
    // Any number of optional words, up to a dash.
    words.find(|word| *word == b"-")?;
    let kind = String::from_utf8(unescape(words.next()?)).ok()?;
    let source = unescape(words.next()?);
    let user = words
        .next()
        .unwrap_or_default()
        .split(|byte| *byte == b',')
        .find_map(|option| std::str::from_utf8(option.strip_prefix(b"user_id=")?).ok()?.parse().ok());
    Some(Mount {
        id,
        parent,
        device,
        point: OsString::from_vec(point).into(),
        kind,
        source: OsString::from_vec(source),
        user,
    })
}

/// Spaces, tabs, newlines and backslashes stand there as three octal digits.
fn unescape(word: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(word.len());
    let mut rest = word;
    while let [first, others @ ..] = rest {
        let escaped = match rest {
            [b'\\', digits @ ..]
                if digits.len() >= 3 && digits[..3].iter().all(|digit| (b'0'..=b'7').contains(digit)) =>
            {
                digits[..3].iter().try_fold(0_u8, |byte, digit| byte.checked_mul(8)?.checked_add(digit - b'0'))
            }
            _ => None,
        };
        bytes.push(escaped.unwrap_or(*first));
        rest = if escaped.is_some() { &rest[4..] } else { others };
    }
    bytes
}

#[cfg(test)]
mod tests;
