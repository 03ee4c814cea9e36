//! Where those who read one checkpoint at a time meet: the chunks that are decoded, and those that somebody is just decoding.
//! Never decodes one, and never holds its lock while anybody works.

use std::collections::HashSet;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::cache::Cache;
use crate::error::{Error, Result};
use crate::limits::CACHE_BYTES;
use crate::progress::Progress;

/// How long somebody waits before looking whether to stop.
const PATIENCE: Duration = Duration::from_millis(100);

/// The meeting place. Chunks go by their number in the manifest's table.
pub struct Desk {
    inside: Mutex<Inside>,
    arrived: Condvar,
}

struct Inside {
    cache: Cache<u32>,
    /// Chunks that somebody is decoding and will bring.
    announced: HashSet<u32>,
}

/// That somebody is decoding a chunk; over when dropped, whatever came of it.
pub struct Announcement<'a> {
    desk: &'a Desk,
    chunk: u32,
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

impl Desk {
    /// A desk with nothing on it.
    pub fn new() -> Self {
        let inside = Inside { cache: Cache::new(CACHE_BYTES), announced: HashSet::new() };
        Self { inside: Mutex::new(inside), arrived: Condvar::new() }
    }

    /// The chunks if all of them are here.
    pub fn all(&self, chunks: impl Iterator<Item = u32>) -> Option<Vec<Arc<Vec<u8>>>> {
        let mut inside = self.lock();
        chunks.map(|chunk| inside.cache.get(chunk)).collect()
    }

    /// Asks for a chunk; if nobody has it and `announce` is set, the asker is going to bring it.
    pub fn ask(&self, chunk: u32, announce: bool) -> Answer<'_> {
        let mut inside = self.lock();
        if let Some(bytes) = inside.cache.get(chunk) {
            return Answer::Here(bytes);
        }
        if inside.announced.contains(&chunk) {
            return Answer::Coming;
        }
        Answer::Missing(announce.then(|| {
            inside.announced.insert(chunk);
            Announcement { desk: self, chunk }
        }))
    }

    /// Announces a chunk that nobody has asked for yet, unless it is here or coming.
    pub fn announce(&self, chunk: u32) -> Option<Announcement<'_>> {
        let mut inside = self.lock();
        let is_new = !inside.cache.holds(chunk) && inside.announced.insert(chunk);
        is_new.then(|| Announcement { desk: self, chunk })
    }

    /// A buffer for a chunk of `len` bytes, with anything in it.
    pub fn buffer(&self, len: usize) -> Vec<u8> {
        self.lock().cache.buffer(len)
    }

    /// Brings a chunk.
    pub fn bring(&self, chunk: u32, bytes: Vec<u8>) {
        self.lock().cache.insert(chunk, bytes);
    }

    /// Waits until nobody is decoding any of `chunks`; then they are here, or whoever had announced them failed.
    ///
    /// # Errors
    /// [`Error::Interrupted`].
    pub fn wait(&self, chunks: &[u32], progress: &dyn Progress) -> Result<()> {
        let mut inside = self.lock();
        while chunks.iter().any(|chunk| inside.announced.contains(chunk)) {
            if progress.interrupted() {
                return Err(Error::Interrupted);
            }
            inside = self.arrived.wait_timeout(inside, PATIENCE).unwrap_or_else(PoisonError::into_inner).0;
        }
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, Inside> {
        self.inside.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Announcement<'_> {
    fn drop(&mut self) {
        self.desk.lock().announced.remove(&self.chunk);
        self.desk.arrived.notify_all();
    }
}
