//! What is mounted where, and paths that lead there. Never touches a mount, which may be dead or may not answer: what is mounted
//! is asked of the kernel, by `/proc/self/mountinfo`.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use crate::mountinfo::{Mount, parse, reached};
use crate::{Error, Result};

/// All mounts that this process could reach, the older ones first.
pub fn all() -> Result<Vec<Mount>> {
    let path = "/proc/self/mountinfo";
    let text = std::fs::read(path).map_err(|source| Error::Io { what: format!("can't read {path}"), source })?;
    Ok(parse(&text))
}

/// The mounts of ours that are not hidden by others.
pub fn ours() -> Result<Vec<Mount>> {
    let mounts = all()?;
    let seen = |mount: &&Mount| mount.is_ours() && reached(&mounts, &mount.point).is_some_and(|top| top.id == mount.id);
    Ok(mounts.iter().filter(seen).cloned().collect())
}

/// The mount that is on this very place, the topmost of several.
pub fn on(directory: &Path) -> Result<Option<Mount>> {
    let mounts = all()?;
    Ok(reached(&mounts, directory).filter(|mount| mount.point == directory).cloned())
}

/// The mount that a path without links leads into.
pub fn reached_by(path: &Path) -> Result<Option<Mount>> {
    Ok(reached(&all()?, path).cloned())
}

/// A directory's path without links and `..`, found out without looking at what is mounted on it, which may be dead.
pub fn place(directory: &Path) -> std::io::Result<PathBuf> {
    let mut path = std::path::absolute(directory)?;
    // As many links in a row as the kernel follows.
    for _ in 0..40 {
        let (Some(above), Some(name)) = (path.parent(), path.file_name()) else { return path.canonicalize() };
        let here = above.canonicalize()?.join(name);
        // The kernel answers this for a mounted directory without asking the file system.
        match std::fs::read_link(&here) {
            Ok(target) => path = here.with_file_name("").join(target),
            Err(_) => return Ok(here),
        }
    }
    Err(std::io::Error::from_raw_os_error(rustix::io::Errno::LOOP.raw_os_error()))
}

/// A path that may not exist, without links as far as it does.
pub fn real(path: &Path) -> PathBuf {
    let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let mut missing: Vec<&OsStr> = Vec::new();
    let mut above: &Path = &path;
    loop {
        if let Ok(there) = above.canonicalize() {
            return missing.iter().rev().fold(there, |path, name| path.join(name));
        }
        match (above.parent(), above.file_name()) {
            (Some(parent), Some(name)) => {
                missing.push(name);
                above = parent;
            }
            _ => return path,
        }
    }
}

/// A name for messages, in which nothing can break the line.
pub fn shown(path: &OsStr) -> String {
    String::from_utf8_lossy(path.as_bytes())
        .chars()
        .flat_map(|c| if c.is_control() { c.escape_default().collect::<Vec<_>>() } else { vec![c] })
        .collect()
}

#[cfg(test)]
mod tests;
