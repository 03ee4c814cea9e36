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

    /// The `len` bytes from `offset` where they lie in memory, when they do: a put hashes them there. It never stores them
    /// from there, for they may be others a moment later; what it stores it reads and hashes again.
    fn bytes(&self, offset: u64, len: usize) -> Option<&[u8]> {
        let _ = (offset, len);
        None
    }

    /// The BLAKE3 of just these bytes, when the source has it already. It is believed for a chunk that the store has; of one
    /// that is stored the bytes are hashed.
    fn known_id(&self, offset: u64, len: u32) -> Option<ChunkId> {
        let _ = (offset, len);
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

    /// Where in the source a range of the part begins; none when it is not wholly in it.
    fn place(&self, offset: u64, len: u64) -> Option<u64> {
        offset.checked_add(len).filter(|end| *end <= self.len).map(|_| self.start + offset)
    }
}

impl Source for Part {
    fn size(&self) -> u64 {
        self.len
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        let place = self.place(offset, buf.len() as u64).ok_or(io::ErrorKind::UnexpectedEof)?;
        self.source.read_exact_at(buf, place)
    }

    fn bytes(&self, offset: u64, len: usize) -> Option<&[u8]> {
        self.source.bytes(self.place(offset, len as u64)?, len)
    }

    fn known_id(&self, offset: u64, len: u32) -> Option<ChunkId> {
        self.source.known_id(self.place(offset, u64::from(len))?, len)
    }
}
