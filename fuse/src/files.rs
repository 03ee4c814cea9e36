//! Files that are open, and the checkpoints that they keep. Never knows a path or an inode.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Instant;

use ckpt_store::{
    Body, CheckpointId, ChunkId, Error, OpenCheckpoint, Progress, Quiet, ReadCache, Result, Slice, Store,
};

use crate::Log;
use crate::ahead::{Reach, Streams};
use crate::limits::{AHEAD_BYTES, DAMAGE_LOOKED_FOR_AGAIN, LINGER, TOLD_MAX};
use crate::workers::Workers;

/// All files that are open.
pub struct Files {
    store: Arc<Store>,
    cache: Arc<ReadCache>,
    reach: Reach,
    workers: Workers,
    log: Arc<dyn Log>,
    checkpoints: Mutex<HashMap<CheckpointId, Held>>,
    handles: RwLock<HashMap<u64, Arc<Handle>>>,
    last: AtomicU64,
    /// Damaged chunks that were told.
    told: Mutex<HashSet<ChunkId>>,
}

/// What is in use.
#[derive(Debug, Clone, Copy)]
pub struct Usage {
    /// Bytes of decoded chunks that are kept.
    pub cache_bytes: u64,
    /// Chunks that were decoded so far.
    pub chunks_decoded: u64,
    /// Files that are open.
    pub files: u64,
    /// Checkpoints that are.
    pub checkpoints: u64,
    /// Damaged chunks that were come upon so far.
    pub damaged_chunks: u64,
}

/// A checkpoint that is open.
struct Held {
    checkpoint: Arc<OpenCheckpoint>,
    /// When that was opened.
    since: Instant,
    /// When it was last opened or the last of its files closed.
    used: Instant,
}

impl Held {
    fn new(checkpoint: Arc<OpenCheckpoint>) -> Self {
        Self { checkpoint, since: Instant::now(), used: Instant::now() }
    }
}

/// An open file.
pub struct Handle {
    checkpoint: RwLock<Arc<OpenCheckpoint>>,
    body: Arc<Body>,
    streams: Mutex<Streams>,
}

impl Handle {
    /// Has a range decoded, by this thread.
    pub fn bring(&self, offset: u64, len: u64, progress: &dyn Progress) -> Result<()> {
        self.checkpoint().bring(&self.body, offset, len, progress)
    }

    fn checkpoint(&self) -> Arc<OpenCheckpoint> {
        Arc::clone(&self.checkpoint.read().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Files {
    /// No file yet, and `threads` threads that decode ahead.
    pub fn start(
        store: Arc<Store>,
        cache_bytes: usize,
        threads: usize,
        log: Arc<dyn Log>,
    ) -> std::io::Result<Arc<Self>> {
        // What is decoded ahead must still be there when it is read, whoever else reads.
        let all = cache_bytes as u64 / 4;
        let files = Arc::new(Self {
            store,
            cache: Arc::new(ReadCache::new(cache_bytes)),
            reach: Reach { each: all.min(AHEAD_BYTES * threads as u64), all },
            workers: Workers::start(threads)?,
            log,
            checkpoints: Mutex::default(),
            handles: RwLock::default(),
            last: AtomicU64::new(0),
            told: Mutex::default(),
        });
        let kept = Arc::downgrade(&files);
        std::thread::Builder::new().name("ckpt-rest".into()).spawn(move || {
            while let Some(files) = kept.upgrade() {
                files.rest();
                drop(files);
                std::thread::sleep(LINGER / 4);
            }
        })?;
        Ok(files)
    }

    /// Opens a file of a checkpoint; answers the number of its handle.
    pub fn open(&self, checkpoint: CheckpointId, body: Arc<Body>) -> Result<u64> {
        let checkpoint = RwLock::new(self.checkpoint(checkpoint)?);
        let number = self.number();
        let handle = Handle { checkpoint, body, streams: Mutex::default() };
        self.handles.write().unwrap_or_else(PoisonError::into_inner).insert(number, Arc::new(handle));
        Ok(number)
    }

    /// The number of a handle, which no other has.
    pub fn number(&self) -> u64 {
        self.last.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// Closes a handle.
    pub fn close(&self, handle: u64) {
        let closed = self.handles.write().unwrap_or_else(PoisonError::into_inner).remove(&handle);
        if let Some(closed) = closed
            && let Some(held) = self.lock().get_mut(&closed.checkpoint().entry().id)
        {
            held.used = Instant::now();
        }
    }

    /// The bytes of an open file from `offset` on, `len` of them or those up to its end. None for a handle that is not open.
    pub fn read(&self, handle: u64, offset: u64, len: u64) -> Option<Result<Vec<Slice>>> {
        let handle = self.handles.read().unwrap_or_else(PoisonError::into_inner).get(&handle).cloned()?;
        let ahead = {
            let mut streams = handle.streams.lock().unwrap_or_else(PoisonError::into_inner);
            streams.read(offset, len, self.reach, |at| handle.body.border_after(at))
        };
        if let Some(range) = ahead {
            self.workers.decode(&handle, range.start..range.end.min(handle.body.len()));
        }
        let checkpoint = handle.checkpoint();
        let mut read = checkpoint.slices(&handle.body, offset, len, &Quiet);
        if let Err(Error::Damaged(_)) = &read
            && let Some(again) = self.opened_again(&handle, &checkpoint)
        {
            read = again.slices(&handle.body, offset, len, &Quiet);
        }
        if let Err(error) = &read {
            self.tell(error);
        }
        Some(read)
    }

    /// Lets go of checkpoints of which no file has been open for a while.
    fn rest(&self) {
        // Closing one removes a file: not under the lock.
        let idle: Vec<Held> = {
            let mut checkpoints = self.lock();
            let is_idle = |held: &Held| Arc::strong_count(&held.checkpoint) == 1 && held.used.elapsed() >= LINGER;
            let ids: Vec<CheckpointId> =
                checkpoints.iter().filter(|(_, held)| is_idle(held)).map(|(id, _)| *id).collect();
            ids.iter().filter_map(|id| checkpoints.remove(id)).collect()
        };
        drop(idle);
    }

    /// What is in use now.
    pub fn usage(&self) -> Usage {
        Usage {
            cache_bytes: self.cache.bytes() as u64,
            chunks_decoded: self.cache.decoded().0,
            files: self.handles.read().unwrap_or_else(PoisonError::into_inner).len() as u64,
            checkpoints: self.lock().len() as u64,
            damaged_chunks: self.told.lock().unwrap_or_else(PoisonError::into_inner).len() as u64,
        }
    }

    /// Bytes that the chunks of a file of a checkpoint take in the packs.
    pub fn stored_bytes(&self, checkpoint: CheckpointId, file: u32) -> Result<u64> {
        self.checkpoint(checkpoint)?.stored_bytes(file, &Quiet)
    }

    fn checkpoint(&self, id: CheckpointId) -> Result<Arc<OpenCheckpoint>> {
        // Held while opening: whoever else wants it waits for the same one.
        let mut checkpoints = self.lock();
        if let Some(held) = checkpoints.get_mut(&id) {
            held.used = Instant::now();
            return Ok(Arc::clone(&held.checkpoint));
        }
        let opened = self.store.open_checkpoint_in(&id.to_string(), Arc::clone(&self.cache), &Quiet)?;
        let checkpoint = Arc::new(opened);
        checkpoints.insert(id, Held::new(Arc::clone(&checkpoint)));
        Ok(checkpoint)
    }

    /// The checkpoint of a handle, opened anew: an open one looks for a chunk once, and somebody may have stored again what was
    /// damaged. None when it has just been opened, or can't be any more.
    fn opened_again(&self, handle: &Handle, met: &Arc<OpenCheckpoint>) -> Option<Arc<OpenCheckpoint>> {
        let id = met.entry().id;
        let mut checkpoints = self.lock();
        let is_met = |held: &Held| Arc::ptr_eq(&held.checkpoint, met);
        if checkpoints.get(&id).is_some_and(|held| is_met(held) && held.since.elapsed() < DAMAGE_LOOKED_FOR_AGAIN) {
            return None;
        }
        if checkpoints.get(&id).is_none_or(is_met) {
            let opened = self.store.open_checkpoint_in(&id.to_string(), Arc::clone(&self.cache), &Quiet).ok()?;
            checkpoints.insert(id, Held::new(Arc::new(opened)));
        }
        let again = Arc::clone(&checkpoints.get(&id)?.checkpoint);
        *handle.checkpoint.write().unwrap_or_else(PoisonError::into_inner) = Arc::clone(&again);
        Some(again)
    }

    /// Tells people why a read failed; of each damaged chunk once.
    fn tell(&self, error: &Error) {
        let Error::Damaged(places) = error else {
            self.log.line(&error.to_string());
            return;
        };
        for place in places {
            let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
            if told.len() < TOLD_MAX && told.insert(place.chunk) {
                drop(told);
                self.log.line(&format!("damaged: {place}"));
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<CheckpointId, Held>> {
        self.checkpoints.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
