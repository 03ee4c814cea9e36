//! Disks for tests: one that asks before each call and can make it fail or wait, and one that writes down what was done, so
//! that [`crate::image`] can tell what a power cut would have left.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use ckpt_store::{Disk, DiskFile, OsDisk};

/// One call to a disk, before it is made.
#[derive(Debug, Clone, Copy)]
pub enum Call<'a> {
    /// Makes a file.
    Create(&'a Path),
    /// Adds bytes to the file that was made under this name.
    Append(&'a Path, &'a [u8]),
    /// Makes the bytes of the file that was made under this name durable.
    Sync(&'a Path),
    /// Renames a file.
    Rename(&'a Path, &'a Path),
    /// Makes a directory's names durable.
    SyncDir(&'a Path),
    /// Removes a file.
    Remove(&'a Path),
    /// Makes a directory.
    CreateDir(&'a Path),
}

/// Asks a hook before each call. The hook may wait; an error from it is the call's, which then is not made.
pub struct HookDisk {
    hook: Arc<Hook>,
}

/// What is asked before each call.
pub type Hook = dyn Fn(Call<'_>) -> io::Result<()> + Send + Sync;

struct HookFile {
    path: PathBuf,
    file: Box<dyn DiskFile>,
    hook: Arc<Hook>,
}

impl HookDisk {
    /// A disk that calls `hook` before each call.
    pub fn new(hook: impl Fn(Call<'_>) -> io::Result<()> + Send + Sync + 'static) -> Arc<Self> {
        Arc::new(Self { hook: Arc::new(hook) })
    }
}

impl Disk for HookDisk {
    fn create(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        (self.hook)(Call::Create(path))?;
        let file = OsDisk.create(path)?;
        Ok(Box::new(HookFile { path: path.to_owned(), file, hook: Arc::clone(&self.hook) }))
    }

    fn create_dir(&self, path: &Path) -> io::Result<()> {
        (self.hook)(Call::CreateDir(path))?;
        OsDisk.create_dir(path)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        (self.hook)(Call::Rename(from, to))?;
        OsDisk.rename(from, to)
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        (self.hook)(Call::SyncDir(path))
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        (self.hook)(Call::Remove(path))?;
        OsDisk.remove(path)
    }
}

impl DiskFile for HookFile {
    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        let allowed = (self.hook)(Call::Append(&self.path, bytes));
        // A write that fails may have written a part.
        self.file.append(if allowed.is_ok() { bytes } else { &bytes[..bytes.len() / 2] })?;
        allowed
    }

    fn sync(&mut self) -> io::Result<()> {
        (self.hook)(Call::Sync(&self.path))
    }
}

/// Fails at one call and, when it is to last, at every one after it that needs room.
pub struct FailingDisk {
    state: Arc<Failing>,
}

struct Failing {
    at: usize,
    errno: i32,
    lasting: bool,
    calls: AtomicUsize,
    failed: Mutex<Option<String>>,
    head_renamed: AtomicBool,
}

impl FailingDisk {
    /// A disk whose call number `at`, from 0, fails with `errno`. A `lasting` failure is a disk that stays full.
    pub fn new(at: usize, errno: i32, lasting: bool) -> (Arc<HookDisk>, Self) {
        let (calls, failed, head_renamed) = (AtomicUsize::new(0), Mutex::new(None), AtomicBool::new(false));
        let state = Arc::new(Failing { at, errno, lasting, calls, failed, head_renamed });
        let hook = Arc::clone(&state);
        (HookDisk::new(move |call| hook.ask(call)), Self { state })
    }

    /// The first call that was made to fail; none when there were too few.
    pub fn failed(&self) -> Option<String> {
        self.state.failed.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Whether HEAD was replaced before anything failed.
    pub fn head_was_renamed(&self) -> bool {
        self.state.head_renamed.load(Ordering::Relaxed)
    }
}

impl Failing {
    fn ask(&self, call: Call<'_>) -> io::Result<()> {
        let nr = self.calls.fetch_add(1, Ordering::Relaxed);
        let needs_room = !matches!(call, Call::Remove(_) | Call::SyncDir(_));
        if nr == self.at || (nr > self.at && self.lasting && needs_room) {
            let mut text = format!("{call:?}");
            text.truncate(text.char_indices().map(|(at, _)| at).take_while(|at| *at < 200).last().unwrap_or(0));
            self.failed.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(text);
            return Err(io::Error::from_raw_os_error(self.errno));
        }
        if let Call::Rename(_, to) = call
            && to.ends_with("HEAD")
        {
            self.head_renamed.store(true, Ordering::Relaxed);
        }
        Ok(())
    }
}

/// One change that was made, with paths inside the root. Files go by the number in which they were made: they keep it
/// when their name changes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// A file was made.
    Create(PathBuf, usize),
    /// Bytes were added to a file.
    Append(usize, Vec<u8>),
    /// A file's bytes were made durable.
    Sync(usize),
    /// A file was renamed.
    Rename(PathBuf, PathBuf),
    /// A directory's names were made durable.
    SyncDir(PathBuf),
    /// A file was removed.
    Remove(PathBuf),
    /// A directory was made.
    CreateDir(PathBuf),
}

/// Writes down every change below a root.
pub struct RecordingDisk {
    root: PathBuf,
    log: Arc<Mutex<Log>>,
}

#[derive(Default)]
struct Log {
    changes: Vec<Change>,
    files: usize,
}

struct RecordedFile {
    nr: usize,
    file: Box<dyn DiskFile>,
    log: Arc<Mutex<Log>>,
}

impl RecordingDisk {
    /// A disk that remembers what is done below `root`.
    pub fn new(root: &Path) -> Arc<Self> {
        Arc::new(Self { root: root.to_owned(), log: Arc::default() })
    }

    /// All changes so far.
    pub fn log(&self) -> Vec<Change> {
        self.log.lock().unwrap_or_else(PoisonError::into_inner).changes.clone()
    }

    /// Makes a change and writes it down, one at a time so that the order is the true one.
    fn record<T>(&self, path: &Path, make: impl FnOnce(&mut Log, PathBuf) -> io::Result<T>) -> io::Result<T> {
        let mut log = self.log.lock().unwrap_or_else(PoisonError::into_inner);
        match path.strip_prefix(&self.root) {
            Ok(inside) => make(&mut log, inside.to_owned()),
            // The entry of the root in its parent: what is above is not simulated.
            Err(_) => make(&mut Log::default(), path.to_owned()),
        }
    }
}

impl Disk for RecordingDisk {
    fn create(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        self.record(path, |log, inside| {
            let file = OsDisk.create(path)?;
            let nr = log.files;
            log.files += 1;
            log.changes.push(Change::Create(inside, nr));
            Ok(Box::new(RecordedFile { nr, file, log: Arc::clone(&self.log) }) as Box<dyn DiskFile>)
        })
    }

    fn create_dir(&self, path: &Path) -> io::Result<()> {
        self.record(path, |log, inside| {
            if !path.is_dir() {
                log.changes.push(Change::CreateDir(inside));
            }
            OsDisk.create_dir(path)
        })
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.record(from, |log, inside| {
            OsDisk.rename(from, to)?;
            let to = to.strip_prefix(&self.root).map_err(io::Error::other)?;
            log.changes.push(Change::Rename(inside, to.to_owned()));
            Ok(())
        })
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        self.record(path, |log, inside| {
            log.changes.push(Change::SyncDir(inside));
            Ok(())
        })
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.record(path, |log, inside| {
            OsDisk.remove(path)?;
            log.changes.push(Change::Remove(inside));
            Ok(())
        })
    }
}

impl DiskFile for RecordedFile {
    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        let mut log = self.log.lock().unwrap_or_else(PoisonError::into_inner);
        self.file.append(bytes)?;
        log.changes.push(Change::Append(self.nr, bytes.to_vec()));
        Ok(())
    }

    fn sync(&mut self) -> io::Result<()> {
        self.log.lock().unwrap_or_else(PoisonError::into_inner).changes.push(Change::Sync(self.nr));
        Ok(())
    }
}
