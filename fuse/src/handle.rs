//! An open file: where it is being read, and its bytes. Never opens a checkpoint, and never knows a path.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use ckpt_store::{Body, OpenCheckpoint, Progress, Quiet, Result, Slice};
use fuser::{INodeNo, Notifier};

use crate::ahead::{Next, Reach, Streams};
use crate::limits::PAGE_BYTES;

/// An open file.
pub struct Handle {
    /// What the kernel knows it by.
    inode: u64,
    checkpoint: RwLock<Arc<OpenCheckpoint>>,
    body: Arc<Body>,
    streams: Mutex<Streams>,
    /// Whether something was decoded ahead of late.
    is_read_on: AtomicBool,
}

impl Handle {
    /// A file of a checkpoint, which the kernel knows by an inode.
    pub fn new(checkpoint: Arc<OpenCheckpoint>, inode: u64, body: Arc<Body>) -> Self {
        let checkpoint = RwLock::new(checkpoint);
        Self { inode, checkpoint, body, streams: Mutex::default(), is_read_on: AtomicBool::new(false) }
    }

    /// Takes note of a read; answers what is worth doing now.
    pub fn follow(&self, offset: u64, len: u64, reach: Reach) -> Next {
        let mut streams = self.streams.lock().unwrap_or_else(PoisonError::into_inner);
        match streams.read(offset, len, reach, |at| self.body.border_after(at)) {
            Next::Ahead(range) => {
                self.is_read_on.store(true, Ordering::Relaxed);
                Next::Ahead(range.start..range.end.min(self.body.len()))
            }
            next => next,
        }
    }

    /// Whether something was worth decoding ahead since this was last asked.
    pub fn was_read_on(&self) -> bool {
        self.is_read_on.swap(false, Ordering::Relaxed)
    }

    /// The file's bytes from `offset` on, `len` of them or those up to its end, of its checkpoint as it is open.
    pub fn read(&self, checkpoint: &OpenCheckpoint, offset: u64, len: u64) -> Result<Vec<Slice>> {
        checkpoint.slices(&self.body, offset, len, &Quiet)
    }

    /// Has a range decoded, by this thread.
    pub fn bring(&self, offset: u64, len: u64, progress: &dyn Progress) -> Result<()> {
        self.checkpoint().bring(&self.body, offset, len, progress)
    }

    /// Gives what is decoded together with a byte to the kernel's page cache, by this thread.
    pub fn give(&self, offset: u64, kernel: &Notifier) -> Result<()> {
        let checkpoint = self.checkpoint();
        let around = checkpoint.around(&self.body, offset);
        // Of a page that is not whole the kernel takes nothing.
        let start = around.start.next_multiple_of(PAGE_BYTES);
        let end = if around.end == self.body.len() { around.end } else { around.end / PAGE_BYTES * PAGE_BYTES };
        if start < end {
            let slices = self.read(&checkpoint, start, end - start)?;
            let mut bytes = Vec::with_capacity((end - start) as usize);
            join(&slices, &mut bytes);
            // It may have dropped the file, and loses nothing by not having this.
            let _ = kernel.store(INodeNo(self.inode), start, &bytes);
        }
        Ok(())
    }

    /// Has it read from its checkpoint as it was opened anew.
    pub fn go_on_in(&self, again: Arc<OpenCheckpoint>) {
        *self.checkpoint.write().unwrap_or_else(PoisonError::into_inner) = again;
    }

    /// Its checkpoint.
    pub fn checkpoint(&self) -> Arc<OpenCheckpoint> {
        Arc::clone(&self.checkpoint.read().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Puts slices behind what `bytes` holds.
pub fn join(slices: &[Slice], bytes: &mut Vec<u8>) {
    slices.iter().for_each(|slice| bytes.extend_from_slice(slice));
}
