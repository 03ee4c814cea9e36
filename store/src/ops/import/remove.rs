//! Removes a source that was taken over: the one place where the library deletes a user's files. Never removes anything but
//! what was compared with the stored copy, byte by byte, just before.
//!
//! The name goes first: the source is renamed to a hidden name beside the others, so that nobody who looks for checkpoints
//! meets half a tree, and a file that somebody renames into place meanwhile is not the one that is removed. Only then is it
//! looked at once more, and given back its name if it is not what was compared. Each member is removed by way of its open
//! directory, so that no link is followed, and only if it is still the very file. What a kill leaves under the hidden name is
//! found by [`leftover`] and finished by [`finish`] once its rest was compared as well.

use std::ffi::{CString, OsStr};
use std::fs::{self, File};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Mode, OFlags, RenameFlags, openat, renameat_with, unlinkat};

use super::compare::{Seen, Thing};
use crate::error::{Error, Result};
use crate::id::CheckpointId;
use crate::ops::put::source::Identity;
use crate::store::Store;

/// What the hidden name ends with.
const ENDING: &str = ".ckpt-removing";

/// The checkpoint that holds what lies under this hidden name, when it is one of ours.
pub fn leftover(name: &OsStr) -> Option<CheckpointId> {
    name.to_str()?.strip_prefix('.')?.strip_suffix(ENDING)?.parse().ok()
}

/// Where the source of this checkpoint lies while it is being removed.
pub fn hidden_path(dir: &Path, id: CheckpointId) -> PathBuf {
    dir.join(format!(".{id}{ENDING}"))
}

/// Removes `path`, which lies in `dir` or below, after it was `seen` to be what checkpoint `id` holds.
pub fn remove(store: &Store, id: CheckpointId, dir: &Path, path: &Path, seen: &Seen) -> Result<()> {
    let hidden = hidden_path(dir, id);
    if fs::symlink_metadata(&hidden).is_ok() {
        return Err(Error::Invalid(format!("{} is in the way: an earlier removal left it", hidden.display())));
    }
    store.disk().rename(path, &hidden).map_err(|error| Error::io("rename", path, error))?;
    check(&hidden, seen).map_err(|error| give_back(&hidden, path, error))?;
    match finish(store, dir, &hidden, seen) {
        Err(error) if !is_tree(seen) => return Err(give_back(&hidden, path, error)),
        done => done?,
    }
    let parent = path.parent().unwrap_or(dir);
    if parent != dir {
        // Lightning's folder of a metric with a slash: it goes when it is empty, and only then.
        let _ = fs::remove_dir(parent);
    }
    Ok(())
}

/// Removes what is under a hidden name, after it was `seen` to be what the checkpoint holds.
pub fn finish(store: &Store, dir: &Path, hidden: &Path, seen: &Seen) -> Result<()> {
    if is_tree(seen) {
        remove_tree(hidden, seen)?;
    } else {
        store.disk().remove(hidden).map_err(|error| Error::io("remove", hidden, error))?;
    }
    store.disk().sync_dir(dir).map_err(|error| Error::io("sync", dir, error))
}

fn is_tree(seen: &Seen) -> bool {
    seen.members.get(&Vec::new()) == Some(&Thing::Directory)
}

/// Makes sure that what was renamed is what was compared, no more and no less.
fn check(hidden: &Path, seen: &Seen) -> Result<()> {
    let changed = |path: &Path, what: &str| Error::Changed { path: path.display().to_string(), what: what.into() };
    let mut count = 0;
    for entry in walkdir::WalkDir::new(hidden) {
        let entry = entry.map_err(|error| Error::io("read", hidden, error.into()))?;
        let relative = entry.path().strip_prefix(hidden).map_err(|error| Error::Internal(error.to_string()))?;
        let path = relative.as_os_str().as_bytes();
        let known = seen.members.get(path).ok_or_else(|| changed(entry.path(), "it was added meanwhile"))?;
        if thing_at(entry.path())? != *known {
            return Err(changed(entry.path(), "it was written to or replaced"));
        }
        count += 1;
    }
    if count == seen.members.len() { Ok(()) } else { Err(changed(hidden, "a part of it was removed")) }
}

fn thing_at(path: &Path) -> Result<Thing> {
    let metadata = fs::symlink_metadata(path).map_err(|error| Error::io("read", path, error))?;
    Ok(if metadata.is_symlink() {
        let target = fs::read_link(path).map_err(|error| Error::io("read", path, error))?;
        Thing::Link(target.as_os_str().as_bytes().to_vec())
    } else if metadata.is_dir() {
        Thing::Directory
    } else {
        Thing::File(Identity::of(&metadata))
    })
}

/// Gives the name back, and the error that made it necessary. A new file that has the name by now keeps it.
fn give_back(hidden: &Path, path: &Path, error: Error) -> Error {
    match renameat_with(CWD, hidden, CWD, path, RenameFlags::NOREPLACE) {
        Ok(()) | Err(rustix::io::Errno::NOENT) => error,
        Err(_) => Error::Invalid(format!("{error}; it now lies at {}", hidden.display())),
    }
}

/// Removes the members of a tree, what is in a directory before the directory.
fn remove_tree(top: &Path, seen: &Seen) -> Result<()> {
    let failed = |path: &[u8], error: io::Error| Error::io("remove", &top.join(OsStr::from_bytes(path)), error);
    let mut paths: Vec<&Vec<u8>> = seen.members.keys().filter(|path| !path.is_empty()).collect();
    paths.sort_unstable_by(|a, b| b.cmp(a));
    for path in paths {
        let (parent, name) = open_parent(top, path).map_err(|error| failed(path, error))?;
        let flags = match &seen.members[path] {
            // A directory that is not empty is refused, and so anything new in it stays.
            Thing::Directory => AtFlags::REMOVEDIR,
            Thing::Link(_) => AtFlags::empty(),
            Thing::File(identity) => {
                let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
                let file = openat(&parent, &name, flags, Mode::empty());
                let file = File::from(file.map_err(|error| failed(path, error.into()))?);
                let now = file.metadata().map_err(|error| failed(path, error))?;
                if Identity::of(&now) != *identity {
                    return Err(Error::Changed {
                        path: top.join(OsStr::from_bytes(path)).display().to_string(),
                        what: "it was written to or replaced".into(),
                    });
                }
                AtFlags::empty()
            }
        };
        unlinkat(&parent, &name, flags).map_err(|error| failed(path, error.into()))?;
    }
    fs::remove_dir(top).map_err(|error| Error::io("remove", top, error))
}

/// The open directory that a member lies in, reached without following a link, and its name in there.
fn open_parent(top: &Path, path: &[u8]) -> io::Result<(OwnedFd, CString)> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut at = openat(CWD, top, flags, Mode::empty())?;
    let mut parts: Vec<&[u8]> = path.split(|byte| *byte == b'/').collect();
    let name = parts.pop().unwrap_or_default();
    for part in parts {
        at = openat(&at, part, flags, Mode::empty())?;
    }
    Ok((at, CString::new(name)?))
}
