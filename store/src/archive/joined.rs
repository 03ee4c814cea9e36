//! A source that is others one after the other, and one that lies in memory. Never copies a part before it is asked for it.

use std::io;
use std::sync::Arc;

use crate::id::ChunkId;
use crate::limits::CHUNK_BYTES_MAX;
use crate::split::Source;

/// Bytes that a source owns.
pub struct Literal(pub Vec<u8>);

impl Source for Literal {
    fn size(&self) -> u64 {
        self.0.len() as u64
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        let bytes = self.bytes(offset, buf.len()).ok_or(io::ErrorKind::UnexpectedEof)?;
        buf.copy_from_slice(bytes);
        Ok(())
    }

    fn bytes(&self, offset: u64, len: usize) -> Option<&[u8]> {
        let start = usize::try_from(offset).ok()?;
        self.0.get(start..start.checked_add(len)?)
    }
}

/// Several sources as one.
#[derive(Default)]
pub struct Joined {
    /// None of them empty.
    parts: Vec<Part>,
    size: u64,
}

struct Part {
    start: u64,
    source: Arc<dyn Source>,
    /// The ids of its chunks, each but the last of `CHUNK_BYTES_MAX`; empty when nobody has hashed them.
    ids: Vec<ChunkId>,
}

impl Joined {
    /// Adds a source behind the others.
    pub fn add(&mut self, source: impl Source + 'static) {
        self.add_hashed(Arc::new(source), Vec::new());
    }

    /// Adds a source whose chunks have been named: one id for each `CHUNK_BYTES_MAX` of it and for the rest, or none at all.
    pub fn add_hashed(&mut self, source: Arc<dyn Source>, ids: Vec<ChunkId>) {
        let size = source.size();
        if size > 0 {
            self.parts.push(Part { start: self.size, source, ids });
            self.size += size;
        }
    }

    /// The part that byte `offset` lies in.
    fn part_at(&self, offset: u64) -> Option<usize> {
        self.parts.partition_point(|part| part.start <= offset).checked_sub(1)
    }

    /// The part that has all of these bytes, and where in it they begin.
    fn part_of(&self, offset: u64, len: u64) -> Option<(&Part, u64)> {
        let part = &self.parts[self.part_at(offset)?];
        let at = offset - part.start;
        (at.checked_add(len)? <= part.source.size()).then_some((part, at))
    }
}

impl Source for Joined {
    fn size(&self) -> u64 {
        self.size
    }

    fn read_exact_at(&self, mut buf: &mut [u8], mut offset: u64) -> io::Result<()> {
        if offset.checked_add(buf.len() as u64).is_none_or(|end| end > self.size) {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let first = self.part_at(offset).unwrap_or(self.parts.len());
        for part in &self.parts[first..] {
            if buf.is_empty() {
                break;
            }
            let at = offset - part.start;
            let len = (part.source.size() - at).min(buf.len() as u64);
            // No longer than the buffer, so it is a usize.
            let (now, rest) = std::mem::take(&mut buf).split_at_mut(len as usize);
            part.source.read_exact_at(now, at)?;
            buf = rest;
            offset += len;
        }
        Ok(())
    }

    fn bytes(&self, offset: u64, len: usize) -> Option<&[u8]> {
        let (part, at) = self.part_of(offset, len as u64)?;
        part.source.bytes(at, len)
    }

    fn known_id(&self, offset: u64, len: u32) -> Option<ChunkId> {
        let (part, at) = self.part_of(offset, u64::from(len))?;
        if part.ids.is_empty() {
            return part.source.known_id(at, len);
        }
        let chunk = CHUNK_BYTES_MAX as u64;
        let is_chunk = at % chunk == 0 && (part.source.size() - at).min(chunk) == u64::from(len);
        if is_chunk { part.ids.get((at / chunk) as usize).copied() } else { None }
    }
}
