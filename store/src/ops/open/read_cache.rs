//! Where those who read checkpoints of one store at a time meet: the chunks that are decoded, and those that somebody is just
//! decoding. Never decodes one, and never holds a lock while anybody works.

use std::collections::HashSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::cache::Cache;
use crate::error::{Error, Result};
use crate::id::ChunkId;
use crate::limits::{CACHE_SHARD_BYTES, CACHE_SHARDS_MAX, IDLE_BUFFERS_MAX};
use crate::ops::reading::Buffers;
use crate::progress::Progress;

/// How long somebody waits before looking whether to stop.
const PATIENCE: Duration = Duration::from_millis(100);

/// Decoded chunks within a bound of bytes, and who is decoding which. Checkpoints of one store may share one: what they have in
/// common is then decoded once.
pub struct ReadCache {
    shards: Vec<Shard>,
    bytes_max: usize,
    /// Buffers of threads that are done.
    idle: Mutex<Vec<Buffers>>,
    decoded_chunks: AtomicU64,
    decoded_bytes: AtomicU64,
}

struct Shard {
    inside: Mutex<Inside>,
    arrived: Condvar,
}

struct Inside {
    cache: Cache<ChunkId>,
    /// Chunks that somebody is decoding and will bring.
    announced: HashSet<ChunkId>,
}

/// That somebody is decoding a chunk; over when dropped, whatever came of it.
pub struct Announcement<'a> {
    shard: &'a Shard,
    chunk: ChunkId,
}

/// What is known of a chunk.
pub enum Answer<'a> {
    /// It is there.
    Here(Arc<Vec<u8>>),
    /// Somebody else is decoding it.
    Coming,
    /// Nobody has it; who asked has announced to bring it, if that was wanted.
    Missing(Option<Announcement<'a>>),
}

/// One thread's buffers, given back when it is done.
pub struct Lent<'a> {
    of: &'a ReadCache,
    /// Always there until it is dropped.
    buffers: Option<Buffers>,
}

impl Lent<'_> {
    /// The buffers.
    pub fn buffers(&mut self) -> &mut Buffers {
        self.buffers.get_or_insert_with(Buffers::new)
    }
}

impl Drop for Lent<'_> {
    fn drop(&mut self) {
        let mut idle = self.of.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() < IDLE_BUFFERS_MAX {
            idle.extend(self.buffers.take());
        }
    }
}

impl ReadCache {
    /// An empty cache that never holds more than `bytes_max` bytes of chunks.
    pub fn new(bytes_max: usize) -> Self {
        let count = (bytes_max / CACHE_SHARD_BYTES).clamp(1, CACHE_SHARDS_MAX);
        let shard = || {
            let inside = Inside { cache: Cache::new(bytes_max / count), announced: HashSet::new() };
            Shard { inside: Mutex::new(inside), arrived: Condvar::new() }
        };
        Self {
            shards: (0..count).map(|_| shard()).collect(),
            bytes_max,
            idle: Mutex::default(),
            decoded_chunks: AtomicU64::new(0),
            decoded_bytes: AtomicU64::new(0),
        }
    }

    /// The most bytes of chunks that it holds.
    pub fn bytes_max(&self) -> usize {
        self.bytes_max
    }

    /// Bytes of chunks that it holds now.
    pub fn bytes(&self) -> usize {
        self.shards.iter().map(|shard| shard.lock().cache.bytes()).sum()
    }

    /// How many chunks were decoded so far by those who share it, and their bytes.
    pub fn decoded(&self) -> (u64, u64) {
        (self.decoded_chunks.load(Ordering::Relaxed), self.decoded_bytes.load(Ordering::Relaxed))
    }

    /// Counts a chunk that was decoded.
    pub(super) fn count(&self, bytes: usize) {
        self.decoded_chunks.fetch_add(1, Ordering::Relaxed);
        self.decoded_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// Buffers for a thread that decodes.
    pub(super) fn lend(&self) -> Lent<'_> {
        let lent = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        Lent { of: self, buffers: Some(lent.unwrap_or_else(Buffers::new)) }
    }

    /// The chunks if all of them are here, each of this length.
    pub(super) fn all(&self, mut chunks: impl Iterator<Item = (ChunkId, usize)>) -> Option<Vec<Arc<Vec<u8>>>> {
        chunks.try_fold(Vec::new(), |mut all, (chunk, len)| {
            all.push(self.shard(chunk).lock().cache.get(chunk).filter(|bytes| bytes.len() == len)?);
            Some(all)
        })
    }

    /// Asks for a chunk of `len` bytes; if nobody has it and `announce` is set, the asker is going to bring it. A manifest that
    /// has a wrong length for a chunk of another checkpoint does not get that: it gets what decoding says.
    pub(super) fn ask(&self, chunk: ChunkId, len: usize, announce: bool) -> Answer<'_> {
        let shard = self.shard(chunk);
        let mut inside = shard.lock();
        if let Some(bytes) = inside.cache.get(chunk).filter(|bytes| bytes.len() == len) {
            return Answer::Here(bytes);
        }
        if inside.announced.contains(&chunk) {
            return Answer::Coming;
        }
        Answer::Missing(announce.then(|| {
            inside.announced.insert(chunk);
            Announcement { shard, chunk }
        }))
    }

    /// Announces a chunk that nobody has asked for yet, unless it is here or coming.
    pub(super) fn announce(&self, chunk: ChunkId) -> Option<Announcement<'_>> {
        let shard = self.shard(chunk);
        let mut inside = shard.lock();
        let is_new = !inside.cache.holds(chunk) && inside.announced.insert(chunk);
        // Not `then_some`: one made in vain would be dropped here, which takes the lock.
        is_new.then(|| Announcement { shard, chunk })
    }

    /// A buffer for a chunk of `len` bytes, with anything in it.
    pub(super) fn buffer(&self, chunk: ChunkId, len: usize) -> Vec<u8> {
        self.shard(chunk).lock().cache.buffer(len)
    }

    /// Brings a chunk.
    pub(super) fn bring(&self, chunk: ChunkId, bytes: Vec<u8>) -> Arc<Vec<u8>> {
        self.shard(chunk).lock().cache.insert(chunk, bytes)
    }

    /// Takes note that bytes of a chunk were given away.
    pub(super) fn given(&self, chunk: ChunkId, bytes: usize) {
        self.shard(chunk).lock().cache.given(chunk, bytes);
    }

    /// Waits until nobody is decoding any of `chunks`; then they are here, or whoever had announced them failed.
    ///
    /// # Errors
    /// [`Error::Interrupted`].
    pub(super) fn wait(&self, chunks: impl Iterator<Item = ChunkId>, progress: &dyn Progress) -> Result<()> {
        for chunk in chunks {
            let shard = self.shard(chunk);
            let mut inside = shard.lock();
            while inside.announced.contains(&chunk) {
                if progress.interrupted() {
                    return Err(Error::Interrupted);
                }
                inside = shard.arrived.wait_timeout(inside, PATIENCE).unwrap_or_else(PoisonError::into_inner).0;
            }
        }
        Ok(())
    }

    fn shard(&self, chunk: ChunkId) -> &Shard {
        // An id is a hash: any byte of it will do.
        &self.shards[usize::from(chunk.0[0]) % self.shards.len()]
    }
}

impl Shard {
    fn lock(&self) -> MutexGuard<'_, Inside> {
        self.inside.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Announcement<'_> {
    fn drop(&mut self) {
        self.shard.lock().announced.remove(&self.chunk);
        self.shard.arrived.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chunk_is_given_to_those_alone_who_know_its_length() {
        let cache = ReadCache::new(1 << 20);
        let chunk = ChunkId::of(b"chunk");
        cache.bring(chunk, b"chunk".to_vec());
        assert!(matches!(cache.ask(chunk, 5, true), Answer::Here(bytes) if *bytes == b"chunk"));
        for len in [0, 4, 6, 1 << 20] {
            assert!(matches!(cache.ask(chunk, len, false), Answer::Missing(None)), "{len} bytes");
            assert!(cache.all([(chunk, 5), (chunk, len)].into_iter()).is_none(), "{len} bytes");
        }
        assert!(cache.all([(chunk, 5)].into_iter()).is_some());
    }
}
