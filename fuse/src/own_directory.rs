//! The directory in which one mount lays files down, in one that others use as well. Never removes what no mount has
//! made.

use std::fs::{self, File, Metadata, OpenOptions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// What it is called, before the number of the mount's process.
const PREFIX: &str = "ckpt-mount-";
/// The file in it that a mount holds locked as long as it lives.
const LOCK: &str = "lock";
/// Opens no link that somebody has put in a file's place.
const NO_FOLLOW: i32 = rustix::fs::OFlags::NOFOLLOW.bits().cast_signed();

/// A directory that nobody else has; gone when dropped.
pub struct OwnDirectory {
    path: PathBuf,
    /// Held locked, which tells others that it is in use.
    _lock: File,
}

impl OwnDirectory {
    /// Makes one in `directory`, and removes those whose mounts are no more.
    pub fn new(directory: &Path) -> io::Result<Self> {
        match fs::DirBuilder::new().mode(0o700).create(directory) {
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
            made => made?,
        }
        if rustix::process::geteuid().is_root() && !belongs_to_root(&fs::metadata(directory)?) {
            return Err(io::Error::new(ErrorKind::PermissionDenied, "others than root may write to it"));
        }
        let mut how = OpenOptions::new();
        how.write(true).create(true).truncate(false).mode(0o600).custom_flags(NO_FOLLOW);
        let lock_file = |path: &Path| how.open(path);
        // Held until the new directory's own lock is taken, so that nobody takes it for one that was left behind.
        let all = lock_file(&directory.join("ckpt-mounts.lock"))?;
        all.lock()?;
        for entry in fs::read_dir(directory)? {
            let entry = entry?;
            if entry.file_type()?.is_dir() && entry.file_name().to_str().is_some_and(is_own_name) {
                remove_left(&entry.path());
            }
        }
        // A number of a process comes again, also while one of another machine or container lives.
        for nr in 0..u32::MAX {
            let path = directory.join(format!("{PREFIX}{}-{nr}", std::process::id()));
            match fs::DirBuilder::new().mode(0o700).create(&path) {
                Err(error) if error.kind() == ErrorKind::AlreadyExists => continue,
                made => made?,
            }
            let lock = lock_file(&path.join(LOCK))?;
            lock.lock()?;
            return Ok(Self { path, _lock: lock });
        }
        Err(ErrorKind::AlreadyExists.into())
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Makes the file of an inode, which is not there.
    pub fn create(&self, ino: u64) -> io::Result<File> {
        OpenOptions::new().write(true).create_new(true).mode(0o600).open(self.file(ino))
    }

    /// The file of an inode, if it is what was laid down.
    pub fn open(&self, ino: u64, len: u64) -> io::Result<File> {
        let file = OpenOptions::new().read(true).custom_flags(NO_FOLLOW).open(self.file(ino))?;
        let about = file.metadata()?;
        let is_sound = about.is_file() && about.len() == len && about.uid() == rustix::process::geteuid().as_raw();
        is_sound.then_some(file).ok_or_else(|| ErrorKind::InvalidData.into())
    }

    /// Removes the file of an inode.
    pub fn remove(&self, ino: u64) {
        let _ = fs::remove_file(self.file(ino));
    }

    fn file(&self, ino: u64) -> PathBuf {
        self.path.join(file_name(ino))
    }
}

impl Drop for OwnDirectory {
    fn drop(&mut self) {
        clear(&self.path);
    }
}

/// Removes what a mount has left that is no more. Where it can't be known whether it is in use it stays.
fn remove_left(path: &Path) {
    match OpenOptions::new().write(true).custom_flags(NO_FOLLOW).open(path.join(LOCK)) {
        Ok(lock) if lock.try_lock().is_ok() => clear(path),
        // It ended before it had one.
        Err(error) if error.kind() == ErrorKind::NotFound => drop(fs::remove_dir(path)),
        _ => {}
    }
}

/// Removes the files that a mount lays down, and the directory unless something else is in it.
fn clear(path: &Path) {
    for entry in fs::read_dir(path).into_iter().flatten().flatten() {
        if entry.file_name().to_str().is_some_and(is_file_name) {
            let _ = fs::remove_file(entry.path());
        }
    }
    // The lock comes last: without it nobody would look here again.
    let _ = fs::remove_file(path.join(LOCK)).and_then(|()| fs::remove_dir(path));
}

/// Whether a directory may be one that a mount has made: people have names like that as well.
fn is_own_name(name: &str) -> bool {
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let numbers = name.strip_prefix(PREFIX).and_then(|rest| rest.split_once('-'));
    numbers.is_some_and(|(process, nr)| is_number(process) && is_number(nr))
}

fn file_name(ino: u64) -> String {
    format!("{ino:016x}")
}

fn is_file_name(name: &str) -> bool {
    u64::from_str_radix(name, 16).is_ok_and(|ino| file_name(ino) == name)
}

/// Whether root alone may put something there: who else could would choose what everybody reads, and where root writes.
fn belongs_to_root(directory: &Metadata) -> bool {
    let writes = |bits: u32| directory.mode() & bits != 0;
    directory.uid() == 0 && !writes(0o002) && (directory.gid() == 0 || !writes(0o020))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may fail by panicking")]
mod tests {
    use std::collections::BTreeSet;
    use std::io::Write;

    use super::*;

    fn names(directory: &Path) -> BTreeSet<String> {
        fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }

    #[test]
    fn what_no_mount_has_made_stays_and_what_one_has_left_goes() {
        let directory = tempfile::tempdir().unwrap();
        let at = |path: &str| directory.path().join(path);
        // People's own, by names that are close; one has a lock by chance, the others a file.
        let theirs = ["ckpt-mount-notes", "ckpt-mount-7", "ckpt-mount-7-0-old", "ckpt-mount-8-1", "ckpt-mount-9-2"];
        for name in theirs {
            fs::create_dir_all(at(name).join("in it")).unwrap();
            fs::write(at(name).join("thesis.tex"), "words").unwrap();
        }
        fs::write(at("ckpt-mount-9-2/lock"), "").unwrap();
        // What a mount has left, with the file that it was at, and one that ended at once.
        fs::create_dir_all(at("ckpt-mount-5-0")).unwrap();
        fs::write(at("ckpt-mount-5-0/lock"), "").unwrap();
        fs::write(at("ckpt-mount-5-0").join(file_name(77)), "half").unwrap();
        fs::create_dir(at("ckpt-mount-6-0")).unwrap();
        let first = OwnDirectory::new(directory.path()).unwrap();
        let second = OwnDirectory::new(directory.path()).unwrap();
        first.create(u64::MAX).unwrap().write_all(b"abc").unwrap();
        assert!(first.open(u64::MAX, 3).is_ok() && first.open(u64::MAX, 4).is_err() && second.open(5, 0).is_err());
        for name in theirs {
            assert!(names(&at(name)).is_superset(&["in it".into(), "thesis.tex".into()].into()), "{name}");
        }
        let all = names(directory.path());
        assert!(!all.contains("ckpt-mount-5-0") && !all.contains("ckpt-mount-6-0"), "{all:?}");
        // Theirs, the two that live, and the lock of all.
        assert_eq!(all.len(), theirs.len() + 3, "{all:?}");
        drop((first, second));
        assert_eq!(names(directory.path()).len(), theirs.len() + 1);
    }
}
