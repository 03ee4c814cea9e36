//! What splitters read from: a file, or a part of one that is a file of its own. Never a mapping: a file that shrinks must
//! give an error, not SIGBUS.

use std::io;
use std::sync::Arc;

use crate::id::ChunkId;

/// Something whose bytes can be read at any offset.
pub trait Source: Send + Sync {
    /// Size in bytes, as it was when the source was opened.
    fn size(&self) -> u64;
    /// Fills `buf` from `offset`; an end of file before `buf` is full is [`io::ErrorKind::UnexpectedEof`].
    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()>;
    /// These bytes where they lie, when they are in memory.
    fn bytes(&self, _offset: u64, _len: usize) -> Option<&[u8]> {
        None
    }
    /// The name of these very bytes as a chunk, when the source has hashed them already.
    fn known_id(&self, _offset: u64, _len: u32) -> Option<ChunkId> {
        None
    }
}

/// A range of a source: a member of a zip or tar.
pub(super) struct Part {
    source: Arc<dyn Source>,
    start: u64,
    len: u64,
}

impl Part {
    /// The `len` bytes from `start` on; nothing if the source has not so many.
    pub(super) fn of(source: &Arc<dyn Source>, start: u64, len: u64) -> Option<Arc<dyn Source>> {
        let end = start.checked_add(len)?;
        (end <= source.size()).then(|| Arc::new(Self { source: Arc::clone(source), start, len }) as Arc<dyn Source>)
    }
}

impl Source for Part {
    fn size(&self) -> u64 {
        self.len
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        let is_inside = offset.checked_add(buf.len() as u64).is_some_and(|end| end <= self.len);
        if !is_inside {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.source.read_exact_at(buf, self.start + offset)
    }
}
