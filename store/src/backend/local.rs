//! A store in a directory. Objects are written under `tmp/`, made durable, renamed, and the rename made durable, in that
//! order. Never leaves a half-written object under a key, and never holds a lock while it waits for anything but HEAD's.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::disk::{Disk, DiskFile};
use super::{Backend, Family, Key, NewObject, Object};
use crate::error::{Error, Result, Thing};
use crate::limits::HEAD_BYTES_MAX;

/// Where objects are written before they have a name.
pub(super) const TMP: &str = "tmp";
pub(super) const HEAD_LOCK: &str = "locks/head";

/// The directories of a store, each after the one it is in.
pub const DIRECTORIES: [&str; 7] = ["catalog", "checkpoints", "packs", "sessions", "index", "locks", TMP];

/// A store's directory.
pub struct LocalBackend {
    root: PathBuf,
    disk: Arc<dyn Disk>,
    /// Folders known to exist durably, so that only the first pack in each pays for it.
    folders: Mutex<HashSet<PathBuf>>,
    counter: AtomicU64,
}

struct NewFile {
    file: Box<dyn DiskFile>,
    from: PathBuf,
    to: PathBuf,
    disk: Arc<dyn Disk>,
    sealed: bool,
    published: bool,
}

struct OpenFile {
    file: File,
    path: PathBuf,
    size: u64,
}

impl LocalBackend {
    /// A store in `root`, changed by way of `disk`.
    pub fn new(root: PathBuf, disk: Arc<dyn Disk>) -> Self {
        Self { root, disk, folders: Mutex::default(), counter: AtomicU64::new(0) }
    }

    /// What changes the disk.
    pub fn disk(&self) -> &dyn Disk {
        &*self.disk
    }

    /// Makes the directories and the first two objects of a store. FORMAT comes last: a directory without it is no store.
    pub fn init(&self, head: &[u8], format: &[u8]) -> Result<()> {
        let _lock = File::open(&self.root)
            .and_then(|root| root.lock().map(|()| Lock::held(root)))
            .map_err(|error| Error::io("lock", &self.root, error))?;
        // What can't be looked at may be there: a store must not be made anew over one that is.
        let path = self.path(Key::Format);
        if path.try_exists().map_err(|error| Error::io("read", &path, error))? {
            return Err(Error::Exists { thing: Thing::Store, name: self.root.display().to_string() });
        }
        for directory in DIRECTORIES {
            let path = self.root.join(directory);
            self.disk.create_dir(&path).map_err(|error| Error::io("create", &path, error))?;
        }
        for (key, bytes) in [(Key::Head, head), (Key::Format, format)] {
            self.replace(key, bytes)?;
        }
        // The entry of the store itself in its parent.
        let parent = self.root.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        self.disk.sync_dir(parent).map_err(|error| Error::io("write", parent, error))
    }

    /// The store's directory.
    pub fn root(&self) -> &Path {
        &self.root
    }

    pub(super) fn path(&self, key: Key) -> PathBuf {
        self.root.join(key.to_string())
    }

    /// A pack's folder that is a link would lead out of the store; the other folders were looked at when it was opened.
    fn refuse_linked_folder(&self, key: Key) -> Result<()> {
        let Key::Pack(_) = key else { return Ok(()) };
        match self.path(key).parent() {
            Some(folder) if folder.is_symlink() => Err(Error::corrupt(key, "its folder is a link")),
            _ => Ok(()),
        }
    }

    fn begin(&self, from: PathBuf, key: Key) -> Result<Box<NewFile>> {
        let to = self.path(key);
        let file = self.disk.create(&from).map_err(|error| Error::io("create", &from, error))?;
        Ok(Box::new(NewFile { file, from, to, disk: Arc::clone(&self.disk), sealed: false, published: false }))
    }

    /// Writes FORMAT or HEAD anew. The caller holds the lock, so one temporary name serves and whatever a killed process
    /// left under it is stale.
    pub(super) fn replace(&self, key: Key, bytes: &[u8]) -> Result<()> {
        let from = self.root.join(TMP).join(key.to_string());
        remove(&*self.disk, &from)?;
        let mut file = self.begin(from, key)?;
        file.append(bytes)?;
        file.seal()?;
        file.rename()
    }

    /// Makes the folder of a pack and its entry in `packs/` durable before anything is in it.
    fn ensure_folder(&self, path: &Path) -> Result<()> {
        let mut folders = self.folders.lock().unwrap_or_else(PoisonError::into_inner);
        if folders.contains(path) {
            return Ok(());
        }
        self.disk.create_dir(path).map_err(|error| Error::io("create", path, error))?;
        if let Some(parent) = path.parent() {
            self.disk.sync_dir(parent).map_err(|error| Error::io("write", parent, error))?;
        }
        folders.insert(path.to_owned());
        Ok(())
    }
}

impl Backend for LocalBackend {
    fn open(&self, key: Key) -> Result<Option<Box<dyn Object>>> {
        let path = self.path(key);
        self.refuse_linked_folder(key)?;
        let file = match open_plain(&path, File::options().read(true)) {
            Ok(file) => file,
            Err(error) if is_odd(&error) => return Err(Error::corrupt(key, ODD)),
            // Where a directory should be and a file is, there is no object either.
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
                return Ok(None);
            }
            Err(error) => return Err(Error::io("open", &path, error)),
        };
        let size = file.metadata().map_err(|error| Error::io("read", &path, error))?.len();
        Ok(Some(Box::new(OpenFile { file, path, size })))
    }

    fn create(&self, key: Key, owner: &str) -> Result<Box<dyn NewObject>> {
        self.refuse_linked_folder(key)?;
        if let Key::Pack(_) = key
            && let Some(folder) = self.path(key).parent()
        {
            self.ensure_folder(folder)?;
        }
        let number = self.counter.fetch_add(1, Ordering::Relaxed);
        Ok(self.begin(self.root.join(TMP).join(format!("{owner}.{number}")), key)?)
    }

    fn swap_head(&self, expected: &[u8], new: &[u8]) -> Result<bool> {
        let _lock = lock_exclusive(&self.root.join(HEAD_LOCK))?;
        let now = super::read_whole(self, Key::Head, HEAD_BYTES_MAX)?
            .ok_or_else(|| Error::corrupt(Key::Head, "it is missing"))?;
        if now != expected {
            return Ok(false);
        }
        self.replace(Key::Head, new)?;
        Ok(true)
    }

    fn list(&self, family: Family) -> Result<Vec<(Key, u64)>> {
        let mut found = Vec::new();
        match family {
            Family::Catalogs => list_folder(&self.root.join("catalog"), &mut |name, size| {
                found.extend(name.parse().ok().map(|id| (Key::Catalog(id), size)));
            })?,
            Family::Manifests => list_folder(&self.root.join("checkpoints"), &mut |name, size| {
                found.extend(name.parse().ok().map(|id| (Key::Manifest(id), size)));
            })?,
            Family::Packs => {
                let packs = self.root.join("packs");
                for folder in fs::read_dir(&packs).map_err(|error| Error::io("list", &packs, error))? {
                    let folder = folder.map_err(|error| Error::io("list", &packs, error))?;
                    // A file that strayed in here is nobody's pack, and a link leads out of the store.
                    let kind = folder.file_type().map_err(|error| Error::io("list", &packs, error))?;
                    if kind.is_dir() {
                        list_folder(&folder.path(), &mut |name, size| {
                            found.extend(name.parse().ok().map(|id| (Key::Pack(id), size)));
                        })?;
                    }
                }
                // A pack in a folder that is not its own has no key: it could not be opened by one. One that can't be looked
                // at is not absent: who lists would take what it holds for lost.
                let mut there = Vec::with_capacity(found.len());
                for (key, size) in found {
                    let path = self.path(key);
                    if path.try_exists().map_err(|error| Error::io("read", &path, error))? {
                        there.push((key, size));
                    }
                }
                return Ok(there);
            }
        }
        Ok(found)
    }

    fn delete(&self, key: Key) -> Result<()> {
        self.refuse_linked_folder(key)?;
        remove(&*self.disk, &self.path(key))
    }

    fn make_durable(&self, key: Key) -> Result<()> {
        let path = self.path(key);
        match path.parent() {
            // The folder's own name was made durable before anything was in it, but maybe not before this process came.
            Some(folder) if matches!(key, Key::Pack(_)) => {
                let packs = self.root.join("packs");
                self.disk.sync_dir(folder).map_err(|error| Error::io("write", folder, error))?;
                self.disk.sync_dir(&packs).map_err(|error| Error::io("write", &packs, error))
            }
            Some(folder) => self.disk.sync_dir(folder).map_err(|error| Error::io("write", folder, error)),
            None => Ok(()),
        }
    }

    fn sweep_unpublished(&self, live: &dyn Fn() -> Result<HashSet<String>>, sweep: bool) -> Result<u64> {
        let tmp = self.root.join(TMP);
        let mut listed = Vec::new();
        list_folder(&tmp, &mut |name, size| listed.push((name.to_owned(), size)))?;
        let live = live()?;
        let mut freed = 0;
        for (name, size) in listed {
            let owner = name.split('.').next().unwrap_or(&name);
            // HEAD's own file belongs to whoever holds HEAD's lock, who also clears away a stale one.
            if owner != Key::Head.to_string() && !live.contains(owner) {
                if sweep {
                    remove(&*self.disk, &tmp.join(&name))?;
                }
                freed += size;
            }
        }
        Ok(freed)
    }
}

impl NewFile {
    fn rename(&mut self) -> Result<()> {
        debug_assert!(self.sealed, "bytes are made durable before they get a name");
        self.disk.rename(&self.from, &self.to).map_err(|error| Error::io("write", &self.to, error))?;
        self.published = true;
        match self.to.parent() {
            Some(parent) => self.disk.sync_dir(parent).map_err(|error| Error::io("write", parent, error)),
            None => Ok(()),
        }
    }
}

impl NewObject for NewFile {
    fn append(&mut self, bytes: &[u8]) -> Result<()> {
        self.file.append(bytes).map_err(|error| Error::io("write", &self.to, error))
    }

    fn seal(&mut self) -> Result<()> {
        self.file.sync().map_err(|error| Error::io("write", &self.to, error))?;
        self.sealed = true;
        Ok(())
    }

    fn publish(mut self: Box<Self>) -> Result<()> {
        // Names are never used twice, so anything there already was put there by a stranger.
        if self.to.exists() {
            return Err(Error::Exists { thing: Thing::Destination, name: self.to.display().to_string() });
        }
        self.rename()
    }
}

impl Drop for NewFile {
    fn drop(&mut self) {
        if !self.published {
            // Best effort: what stays behind is swept by the next gc.
            let _ = self.disk.remove(&self.from);
        }
    }
}

impl Object for OpenFile {
    fn size(&self) -> u64 {
        self.size
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        self.file.read_exact_at(buf, offset).map_err(|error| Error::io("read", &self.path, error))
    }
}

/// Why something under a name of the store's can't be what should be there.
const ODD: &str = "it is a link, or no regular file";

/// Opens a regular file and nothing else: a store that somebody else made may hold a link that leads out of it, or a FIFO
/// that would be waited for without end.
pub fn open_plain(path: &Path, options: &mut fs::OpenOptions) -> io::Result<File> {
    use rustix::fs::OFlags;
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY;
    let file = options.custom_flags(flags.bits() as i32).open(path)?;
    if file.metadata()?.is_file() { Ok(file) } else { Err(io::Error::new(io::ErrorKind::InvalidInput, ODD)) }
}

/// Whether [`open_plain`] failed because of what lies there.
pub fn is_odd(error: &io::Error) -> bool {
    use rustix::io::Errno;
    // A link, and a FIFO or socket that is opened for writing.
    let odd = [Errno::LOOP, Errno::NXIO].map(Errno::raw_os_error);
    error.kind() == io::ErrorKind::InvalidInput || error.raw_os_error().is_some_and(|errno| odd.contains(&errno))
}

/// Opens a file to be locked, making it when it is not there.
pub fn open_lock(path: &Path) -> io::Result<File> {
    open_plain(path, File::options().create(true).truncate(false).write(true))
}

/// A lock on a file, given back when dropped. The operating system gives it back when the process dies.
pub struct Lock {
    file: File,
    /// The process that took it: one that was forked since has no right to give it back.
    pid: u32,
}

impl Drop for Lock {
    fn drop(&mut self) {
        // By name and not by closing: a child that another thread just forked holds a copy of the descriptor, and with it
        // the lock, until it calls exec or ends.
        if self.is_own() {
            let _ = self.file.unlock();
        }
    }
}

impl Lock {
    /// Keeps the lock that `file` already has.
    pub fn held(file: File) -> Self {
        Self { file, pid: std::process::id() }
    }

    /// Whether this process took it.
    pub fn is_own(&self) -> bool {
        self.pid == std::process::id()
    }

    /// The locked file.
    pub fn file(&self) -> &File {
        &self.file
    }
}

/// Takes the exclusive lock `path`, waiting for it.
pub fn lock_exclusive(path: &Path) -> Result<Lock> {
    let locked = open_lock(path).and_then(|file| file.lock().map(|()| file));
    locked.map(Lock::held).map_err(|error| Error::io("lock", path, error))
}

/// Takes the shared lock `path`, waiting for it; also on a read-only file system.
pub fn lock_shared(path: &Path) -> Result<Lock> {
    let locked = open_plain(path, File::options().read(true))
        .or_else(|_| open_lock(path))
        .and_then(|file| file.lock_shared().map(|()| file));
    locked.map(Lock::held).map_err(|error| Error::io("lock", path, error))
}

fn remove(disk: &dyn Disk, path: &Path) -> Result<()> {
    match disk.remove(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(Error::io("remove", path, error)),
        _ => Ok(()),
    }
}

fn list_folder(folder: &Path, each: &mut dyn FnMut(&str, u64)) -> Result<()> {
    for entry in fs::read_dir(folder).map_err(|error| Error::io("list", folder, error))? {
        let entry = entry.map_err(|error| Error::io("list", folder, error))?;
        match entry.metadata() {
            Ok(metadata) if metadata.is_file() => {
                if let Some(name) = entry.file_name().to_str() {
                    each(name, metadata.len());
                }
            }
            Ok(_) => {}
            // Deleted between the listing and here.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(Error::io("read", &entry.path(), error)),
        }
    }
    Ok(())
}
