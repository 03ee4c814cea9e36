//! Files that are open, and the checkpoints that they keep. Never knows a path or an inode.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use ckpt_store::{Body, CheckpointId, ChunkId, Error, OpenCheckpoint, Quiet, ReadCache, Result, Slice, Store};
use fuser::Notifier;

use crate::Log;
use crate::ahead::{Next, Reach};
use crate::handle::Handle;
use crate::held::Held;
use crate::limits::{AHEAD_BYTES, LINGER, TOLD_MAX};
use crate::told::{Told, causes};
use crate::workers::Workers;

/// All files that are open.
pub struct Files {
    cache: Arc<ReadCache>,
    /// How far to look ahead in one place, in bytes, when there is room.
    reach_max: u64,
    /// Handles that something was decoded ahead of, of late.
    read_on: AtomicU64,
    workers: Workers,
    log: Told,
    checkpoints: Held,
    handles: RwLock<HashMap<u64, Arc<Handle>>>,
    last: AtomicU64,
    /// Damaged chunks that were told.
    told: Mutex<HashSet<ChunkId>>,
    /// Whether it was told that nothing keeps what is open.
    told_unpinned: AtomicBool,
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

impl Files {
    /// No file yet, and `threads` threads that decode ahead.
    pub fn start(
        store: Arc<Store>,
        cache_bytes: usize,
        threads: usize,
        log: Arc<dyn Log>,
    ) -> std::io::Result<Arc<Self>> {
        let cache = Arc::new(ReadCache::new(cache_bytes));
        let files = Arc::new(Self {
            checkpoints: Held::new(store, Arc::clone(&cache)),
            cache,
            reach_max: AHEAD_BYTES * threads as u64,
            read_on: AtomicU64::new(0),
            workers: Workers::start(threads)?,
            log: Told::new(log),
            handles: RwLock::default(),
            last: AtomicU64::new(0),
            told: Mutex::default(),
            told_unpinned: AtomicBool::new(false),
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

    /// Opens a file of a checkpoint, which the kernel knows by an inode; answers the number of its handle.
    pub fn open(&self, checkpoint: CheckpointId, inode: u64, body: Arc<Body>) -> Result<u64> {
        let handle = Arc::new(Handle::new(self.checkpoint(checkpoint)?, inode, body));
        let number = self.number();
        self.handles.write().unwrap_or_else(PoisonError::into_inner).insert(number, handle);
        Ok(number)
    }

    /// The number of a handle, which no other has.
    pub fn number(&self) -> u64 {
        self.last.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// Closes a handle.
    pub fn close(&self, handle: u64) {
        let closed = self.handles.write().unwrap_or_else(PoisonError::into_inner).remove(&handle);
        if let Some(closed) = closed {
            self.checkpoints.closed(closed.checkpoint().entry().id);
        }
    }

    /// The bytes of an open file from `offset` on, `len` of them or those up to its end. None for a handle that is not
    /// open.
    pub fn read(&self, handle: u64, offset: u64, len: u64) -> Option<Result<Vec<Slice>>> {
        let handle = self.handles.read().unwrap_or_else(PoisonError::into_inner).get(&handle).cloned()?;
        let next = handle.follow(offset, len, self.reach());
        if let Next::Ahead(range) = &next {
            self.workers.decode(&handle, range.clone());
        }
        let checkpoint = handle.checkpoint();
        let mut read = handle.read(&checkpoint, offset, len);
        if let Err(Error::Damaged(_)) = &read
            && let Some(again) = self.checkpoints.again(&checkpoint)
        {
            read = handle.read(&again, offset, len);
            handle.go_on_in(again);
        }
        match &read {
            Err(error) => self.tell(error),
            // Behind the read: it is decoded then.
            Ok(_) if next == Next::Whole => self.workers.give(&handle, offset),
            Ok(_) => {}
        }
        Some(read)
    }

    /// Tells how to reach the kernel.
    pub fn meet(&self, kernel: Notifier) {
        self.workers.meet(kernel);
    }

    /// How far to look ahead in one handle. What is decoded ahead must still be there when it is read, whoever else
    /// reads.
    fn reach(&self) -> Reach {
        let all = self.cache.bytes_max() as u64 / 4 / self.read_on.load(Ordering::Relaxed).max(1);
        Reach { each: all.min(self.reach_max), all }
    }

    /// Counts the handles that are read on, and lets go of checkpoints of which no file has been open for a while.
    fn rest(&self) {
        let handles = self.handles.read().unwrap_or_else(PoisonError::into_inner);
        let read_on = handles.values().filter(|handle| handle.was_read_on()).count();
        drop(handles);
        self.read_on.store(read_on as u64, Ordering::Relaxed);
        self.checkpoints.rest();
    }

    /// What is in use now.
    pub fn usage(&self) -> Usage {
        Usage {
            cache_bytes: self.cache.bytes() as u64,
            chunks_decoded: self.cache.decoded().0,
            files: self.handles.read().unwrap_or_else(PoisonError::into_inner).len() as u64,
            checkpoints: self.checkpoints.len() as u64,
            damaged_chunks: self.told.lock().unwrap_or_else(PoisonError::into_inner).len() as u64,
        }
    }

    /// Bytes that the chunks of a file of a checkpoint take in the packs.
    pub fn stored_bytes(&self, checkpoint: CheckpointId, file: u32) -> Result<u64> {
        self.checkpoint(checkpoint)?.stored_bytes(file, &Quiet)
    }

    fn checkpoint(&self, id: CheckpointId) -> Result<Arc<OpenCheckpoint>> {
        let checkpoint = self.checkpoints.get(id).inspect_err(|error| {
            // Dropped since its path was looked up.
            if !matches!(error, Error::NotFound { .. }) {
                self.tell(error);
            }
        })?;
        if !checkpoint.is_pinned() && !self.told_unpinned.swap(true, Ordering::Relaxed) {
            self.log.line(
                "what is open can't be written down in the store: a gc by somebody who may write there does not spare it",
            );
        }
        Ok(checkpoint)
    }

    /// Tells people why a file can't be opened or read: each cause once, and each damaged chunk.
    fn tell(&self, error: &Error) {
        let Error::Damaged(places) = error else {
            self.log.once(&causes(error));
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
}
