//! Room on the disk: how much is free, how much of that puts leave alone, and the file `reserve`, which is given up so
//! that gc can work on a disk that is full. Never deletes or changes anything but that file, and never fails for its
//! sake: a store that can't have one works without.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FallocateFlags, OFlags};
use rustix::io::Errno;

use crate::error::{Error, Result};
use crate::limits::{RESERVE_BYTES, RESERVE_FILE_BYTES, RESERVE_FILE_SHARE, RESERVE_LENT_BYTES, RESERVE_SHARE};

/// The reserve file's name in the store's directory.
pub const RESERVE: &str = "reserve";

/// The block of all file systems that matter: files take whole ones.
const BLOCK: u64 = 4096;
/// Bytes written at once where a file system can't allocate without writing.
const WRITE_BYTES: usize = 64 << 10;

/// A file system's size and what is left of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Room {
    /// Bytes of all of it.
    pub total: u64,
    /// Bytes that are left for a user without privileges.
    pub free: u64,
}

impl Room {
    /// That of the file system on which `path` is.
    pub fn at(path: &Path) -> Result<Self> {
        let space = rustix::fs::statvfs(path).map_err(|error| Error::io("read", path, error.into()))?;
        let bytes = |blocks: u64| blocks.saturating_mul(space.f_frsize);
        Ok(Self { total: bytes(space.f_blocks), free: bytes(space.f_bavail) })
    }
}

/// What a put may use of the disk.
#[derive(Debug)]
pub struct Budget<'a> {
    root: &'a Path,
    /// Bytes that are to stay free.
    pub reserve: u64,
    /// Bytes that the put writes, once that is known.
    pub needs: Option<u64>,
}

impl<'a> Budget<'a> {
    /// All of the disk of the store in `root` but `reserve` bytes, by default the smaller of 1 GB and 1 % of it.
    pub fn new(root: &'a Path, reserve: Option<u64>) -> Self {
        let default = || Room::at(root).map_or(0, |room| RESERVE_BYTES.min(room.total / RESERVE_SHARE));
        Self { root, reserve: reserve.unwrap_or_else(default), needs: None }
    }

    /// Bytes that are free now; some network file systems don't say, and then nothing is refused beforehand.
    pub fn free(&self) -> u64 {
        Room::at(self.root).ok().filter(|room| room.total > 0).map_or(u64::MAX, |room| room.free)
    }

    /// Whether so many bytes fit now.
    pub fn fits(&self, bytes: u64) -> bool {
        bytes <= self.free().saturating_sub(self.reserve)
    }
}

/// Gives up the reserve file while it lives, if less than that is free; makes it again when dropped. For what makes
/// room, and for what has to be done before that.
#[must_use]
pub struct Spare {
    root: PathBuf,
    taken: u64,
}

impl Spare {
    /// Takes the room of the reserve file in `root` when it is needed.
    pub fn take(root: &Path) -> Self {
        let mut spare = Self { root: root.to_owned(), taken: 0 };
        let has = size_of(&root.join(RESERVE));
        if has.is_some_and(|bytes| Room::at(root).is_ok_and(|room| room.free < bytes)) {
            spare.give_up();
        }
        spare
    }

    /// Does something, and does it again with the room of the reserve file when it was refused room that the disk seemed
    /// to have: by a quota, which no file system tells of beforehand.
    pub fn with<T>(&mut self, attempt: impl Fn() -> Result<T>) -> Result<T> {
        match attempt() {
            // Refused when a directory was to be made durable, something has a name and nobody knows whether it keeps
            // that: a second attempt would find it done, and say so.
            Err(Error::NoSpace { path, .. }) if !Path::new(&path).is_dir() && self.taken == 0 && self.give_up() => {
                attempt()
            }
            done => done,
        }
    }

    /// Whether there was a reserve file, which is gone now.
    fn give_up(&mut self) -> bool {
        let path = self.root.join(RESERVE);
        self.taken = size_of(&path).filter(|_| fs::remove_file(&path).is_ok()).unwrap_or(0);
        self.taken > 0
    }
}

impl Drop for Spare {
    fn drop(&mut self) {
        let Ok(room) = Room::at(&self.root) else { return };
        let wanted = cap(self.taken.max(RESERVE_FILE_BYTES), room);
        if self.taken == 0 {
            return ensure(&self.root, wanted, room);
        }
        // On a disk that stays full it takes back what is left, or another program would have it before gc comes.
        let mut bytes = if room.free >= 2 * wanted { wanted } else { self.taken.min(room.free) / BLOCK * BLOCK };
        while bytes > 0 && make(&self.root.join(RESERVE), bytes).is_err() {
            bytes = bytes / 2 / BLOCK * BLOCK;
        }
    }
}

/// A little of the reserve file, or nothing: it is that much shorter while this lives. For what readers write on a full
/// disk.
#[must_use]
pub struct Lent {
    root: PathBuf,
    bytes: u64,
    /// The file's length before.
    had: u64,
}

impl Lent {
    /// Takes it if there is no other room for it in `root`, and if what stays is enough for gc.
    pub fn take(root: &Path) -> Self {
        let mut lent = Self { root: root.to_owned(), bytes: 0, had: 0 };
        if Room::at(root).is_ok_and(|room| room.free < RESERVE_LENT_BYTES) {
            lent.take_more();
        }
        lent
    }

    /// Takes as much again, whatever room there seems to be; whether that could be. For who is refused room all the same:
    /// by a quota, or because somebody else was faster.
    pub fn take_more(&mut self) -> bool {
        let Ok(room) = Room::at(&self.root) else { return false };
        let Some((file, had)) = own(&self.root) else { return false };
        let left = had.saturating_sub(RESERVE_LENT_BYTES);
        let is_taken = left >= cap(RESERVE_FILE_BYTES, room) / 2 && file.set_len(left).is_ok();
        if is_taken {
            self.bytes += RESERVE_LENT_BYTES;
            self.had = self.had.max(had);
        }
        is_taken
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        let Some((file, has)) = Some(&self.root).filter(|_| self.bytes > 0).and_then(|root| own(root)) else { return };
        let Ok(room) = Room::at(&self.root) else { return };
        // Best effort, like the file itself. One that was made anew meanwhile is as long as it should be.
        let whole = self.had.max(cap(RESERVE_FILE_BYTES, room));
        let back = self.bytes.min(whole.saturating_sub(has));
        if back > 0 {
            let _ = allocate(&file, has, back);
        }
    }
}

/// The reserve file of the store in `root` to be made shorter or longer, and its length: none when it is a link, or
/// when it has another name, under which it may be anybody's.
fn own(root: &Path) -> Option<(File, u64)> {
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let file = File::options().append(true).custom_flags(flags.bits() as i32).open(root.join(RESERVE)).ok()?;
    let metadata = file.metadata().ok().filter(|metadata| metadata.is_file() && metadata.nlink() == 1)?;
    Some((file, metadata.len()))
}

/// Makes the reserve file of the store in `root` if it is missing or too small, and at least as much again stays free.
/// `commit_bytes` is what changing HEAD there takes.
pub fn keep(root: &Path, commit_bytes: u64) {
    let Ok(room) = Room::at(root) else { return };
    ensure(root, cap(commit_bytes.saturating_mul(2).max(RESERVE_FILE_BYTES), room), room);
}

/// Makes it at least `wanted` bytes long if it is missing or shorter, and at least as much again stays free. A reserve
/// that can't be had is none: nothing depends on it but gc on a full disk.
fn ensure(root: &Path, wanted: u64, room: Room) {
    let path = root.join(RESERVE);
    let is_missing = fs::symlink_metadata(&path).is_err_and(|error| error.kind() == io::ErrorKind::NotFound);
    if is_missing {
        if room.free >= wanted.saturating_mul(2) {
            let _ = make(&path, wanted);
        }
        return;
    }
    // What is somebody else's stays as it is; and what there is stays where a quota has no room for more.
    let Some((file, has)) = own(root) else { return };
    let has_room = room.free.saturating_add(has) >= wanted.saturating_mul(2);
    if has < wanted && has_room && allocate(&file, has, wanted - has).is_err() {
        let _ = file.set_len(has);
    }
}

/// Bytes of the reserve file, if there is one and it is a file.
fn size_of(path: &Path) -> Option<u64> {
    fs::symlink_metadata(path).ok().filter(fs::Metadata::is_file).map(|metadata| metadata.len())
}

fn cap(bytes: u64, room: Room) -> u64 {
    bytes.min(room.total / RESERVE_FILE_SHARE).next_multiple_of(BLOCK)
}

/// Makes the file, always a new one: what a store's author put there under this name is not written to.
fn make(path: &Path, bytes: u64) -> io::Result<()> {
    let file = File::options().write(true).create_new(true).open(path)?;
    let filled = allocate(&file, 0, bytes);
    if filled.is_err() {
        let _ = fs::remove_file(path);
    }
    filled
}

/// Makes a file that ends at `from` longer.
fn allocate(file: &File, from: u64, bytes: u64) -> io::Result<()> {
    match rustix::fs::fallocate(file, FallocateFlags::empty(), from, bytes) {
        Err(Errno::OPNOTSUPP | Errno::NOSYS) => fill(file, bytes),
        other => other.map_err(io::Error::from),
    }
}

/// Writes bytes that no file system compresses away.
fn fill(mut file: &File, bytes: u64) -> io::Result<()> {
    let mut noise = vec![0; WRITE_BYTES];
    let mut stream = blake3::Hasher::new().update(RESERVE.as_bytes()).finalize_xof();
    let mut left = bytes;
    while left > 0 {
        stream.fill(&mut noise);
        let part = left.min(WRITE_BYTES as u64);
        file.write_all(&noise[..part as usize])?;
        left -= part;
    }
    file.sync_data()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that can't go on has failed")]
mod tests {
    use super::*;

    #[test]
    fn a_reserve_is_made_once_and_only_where_there_is_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(RESERVE);
        keep(dir.path(), 0);
        let first = fs::metadata(&path).unwrap();
        assert_eq!(first.len(), cap(RESERVE_FILE_BYTES, Room::at(dir.path()).unwrap()));
        keep(dir.path(), 0);
        assert_eq!(fs::metadata(&path).unwrap().modified().unwrap(), first.modified().unwrap());
        // A larger catalog needs a larger one.
        keep(dir.path(), 3 << 20);
        assert_eq!(size_of(&path), Some(cap(6 << 20, Room::at(dir.path()).unwrap())));
        fs::remove_file(&path).unwrap();
        let foreign = dir.path().join("foreign");
        fs::write(&foreign, "mine").unwrap();
        std::os::unix::fs::symlink(&foreign, &path).unwrap();
        keep(dir.path(), 0);
        drop(Spare::take(dir.path()));
        assert_eq!(fs::read(&foreign).unwrap(), b"mine");
        assert!(fs::symlink_metadata(&path).unwrap().is_symlink());
    }

    #[test]
    fn what_a_quota_refuses_is_tried_once_more_without_the_reserve() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(RESERVE);
        let refused = || Err(Error::io("write", &path, io::ErrorKind::QuotaExceeded.into()));
        let tries = std::cell::Cell::new(0);
        let counted = |outcome: Result<()>| {
            tries.set(tries.get() + 1);
            outcome
        };
        let mut spare = Spare::take(dir.path());
        assert!(spare.with(|| counted(refused())).is_err());
        assert_eq!(tries.take(), 1, "there is no reserve that could help");
        drop(spare);
        keep(dir.path(), 3 << 20);
        let whole = size_of(&path);
        let mut spare = Spare::take(dir.path());
        assert_eq!(size_of(&path), whole, "there is room");
        spare.with(|| counted(if size_of(&path).is_some() { refused() } else { Ok(()) })).unwrap();
        assert_eq!(tries.take(), 2);
        assert!(spare.with(|| counted(refused())).is_err());
        assert_eq!(tries.take(), 1, "there is none any more");
        drop(spare);
        let mut spare = Spare::take(dir.path());
        let of_root = || Err::<(), _>(Error::io("sync", dir.path(), io::ErrorKind::QuotaExceeded.into()));
        assert!(spare.with(|| counted(of_root())).is_err());
        assert_eq!(tries.take(), 1, "it is done");
        drop(spare);
        assert_eq!(size_of(&path), whole, "as long as it was");
    }

    #[test]
    fn what_may_be_somebody_elses_is_not_lent() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(RESERVE);
        assert!(own(dir.path()).is_none());
        keep(dir.path(), 0);
        assert_eq!(own(dir.path()).map(|(_, len)| Some(len)), Some(size_of(&path)));
        fs::hard_link(&path, dir.path().join("other")).unwrap();
        assert!(own(dir.path()).is_none());
        fs::remove_file(&path).unwrap();
        std::os::unix::fs::symlink(dir.path().join("other"), &path).unwrap();
        assert!(own(dir.path()).is_none());
        fs::remove_file(&path).unwrap();
        fs::create_dir(&path).unwrap();
        assert!(own(dir.path()).is_none() && !Lent::take(dir.path()).take_more());
    }

    #[test]
    fn where_nothing_can_be_allocated_bytes_are_written() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(RESERVE);
        let file = File::options().write(true).create_new(true).open(&path).unwrap();
        fill(&file, 100_000).unwrap();
        let bytes = fs::read(&path).unwrap();
        assert_eq!(bytes.len(), 100_000);
        assert!(bytes.chunks(4096).all(|part| part.iter().any(|byte| *byte != 0)));
    }

    #[test]
    fn a_put_may_use_all_but_the_reserve() {
        let dir = tempfile::tempdir().unwrap();
        let budget = Budget::new(dir.path(), Some(u64::MAX));
        assert!(budget.fits(0) && !budget.fits(1));
        let room = Room::at(dir.path()).unwrap();
        assert_eq!(Budget::new(dir.path(), None).reserve, (room.total / 100).min(1_000_000_000));
        let budget = Budget::new(dir.path(), Some(0));
        assert!(budget.fits(1) && !budget.fits(room.total + 1));
    }
}
