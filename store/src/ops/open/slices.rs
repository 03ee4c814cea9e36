//! Reads by way of the cache, a chunk at a time and by the thread that asks: for a server that has threads of its own.
//! Copies what lies in a chunk only where many chunks would be held for little; never holds more than a few times what
//! was asked for.

use std::ops::{Deref, Range};
use std::sync::{Arc, PoisonError};
use std::time::Instant;

use super::OpenCheckpoint;
use super::body::{Body, Part};
use super::read_cache::{Announcement, Answer};
use super::rows::block_around;
use crate::error::{Error, Result};
use crate::format::tensors::Piece;
use crate::id::ChunkId;
use crate::limits::{HELD_SLICES_MAX, UNREADABLE_REMEMBERED};
use crate::ops::reading::{ChunkReader, Unreadable};
use crate::ops::stream::Span;
use crate::progress::Progress;

/// The most bytes of a slice that takes less to copy than to keep apart.
const COPIED_BYTES: usize = 4096;

/// Bytes that lie in a decoded chunk, which they keep.
#[derive(Debug, Clone)]
pub struct Slice {
    bytes: Arc<Vec<u8>>,
    range: Range<usize>,
}

impl Slice {
    pub(super) fn of(bytes: Arc<Vec<u8>>, at: usize, len: usize) -> Self {
        Self { bytes, range: at..at + len }
    }

    /// Whether it is worth holding its chunk for.
    fn is_much(&self) -> bool {
        self.len() > COPIED_BYTES && self.len() > self.bytes.len() / 4
    }
}

/// Adds a slice to those of an answer. A manifest may name one byte of each of a million chunks: from some number on
/// little ones are copied, one behind the other.
fn push(slices: &mut Vec<Slice>, slice: Slice) {
    if slices.len() < HELD_SLICES_MAX || slice.is_much() {
        return slices.push(slice);
    }
    // Nobody else has what was copied.
    if let Some(Slice { bytes, range }) = slices.last_mut()
        && range.end == bytes.len()
        && let Some(own) = Arc::get_mut(bytes)
    {
        own.extend_from_slice(&slice);
        range.end = own.len();
        return;
    }
    let len = slice.len();
    slices.push(Slice::of(Arc::new(slice.to_vec()), 0, len));
}

impl Deref for Slice {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes[self.range.clone()]
    }
}

impl OpenCheckpoint {
    /// The bytes of a body from `offset` on, `len` of them or those up to its end. Each chunk is decoded by this
    /// thread, or by another that is at it already, and is kept in the cache. Nothing is read ahead.
    ///
    /// # Errors
    /// [`Error::Damaged`] for the first chunk that can't be given back, as in [`Self::read_at`].
    pub fn slices(&self, body: &Body, offset: u64, len: u64, progress: &dyn Progress) -> Result<Vec<Slice>> {
        let mut slices = Vec::new();
        for (part, at, len) in body.parts(offset, len) {
            match part {
                Part::Bytes(bytes) => slices.push(Slice::of(Arc::clone(bytes), at as usize, len as usize)),
                Part::Span(span) => {
                    let span = Span { offset: span.offset + at, len, ..*span };
                    self.slices_of(span, progress, &mut slices)?;
                }
                Part::Rows(layout) => self.slices_of_rows(layout, (at, len), progress, &mut slices)?,
            }
        }
        Ok(slices)
    }

    /// Decodes the chunks of a range of a body that are not in the cache and that nobody is at, by this thread, and
    /// keeps them there. One that is damaged is passed over: who reads it is told.
    ///
    /// # Errors
    /// [`Error::Interrupted`], and what keeps the store from being read.
    pub fn bring(&self, body: &Body, offset: u64, len: u64, progress: &dyn Progress) -> Result<()> {
        for (part, at, len) in body.parts(offset, len) {
            let span = match part {
                Part::Bytes(_) => continue,
                Part::Rows(layout) => {
                    self.bring_rows(layout, (at, len), progress)?;
                    continue;
                }
                Part::Span(span) => span,
            };
            for piece in self.map(span.file).pieces(span.offset + at, len) {
                if progress.interrupted() {
                    return Err(Error::Interrupted);
                }
                let Piece::Chunk { chunk, .. } = piece else { continue };
                if let Some(announcement) = self.cache.announce(self.id(chunk)) {
                    // Looked at where it is asked for.
                    let _ = self.decode_announced(chunk, announcement, progress)?;
                }
            }
        }
        Ok(())
    }

    /// The range of a body around a byte that is decoded with it: what lies there in the same chunk.
    pub fn around(&self, body: &Body, offset: u64) -> Range<u64> {
        let Some((part, at, _)) = body.parts(offset, 1).next() else { return offset..offset };
        let start = offset - at;
        match part {
            Part::Bytes(bytes) => start..start + bytes.len() as u64,
            Part::Rows(layout) => {
                let block = block_around(layout, at);
                start + block.start..start + block.end
            }
            Part::Span(span) => {
                let around = self.around_in_file(*span, span.offset + at);
                start + (around.start - span.offset)..start + (around.end - span.offset)
            }
        }
    }

    /// The range of a file around a byte of a span of it that lies in the same chunk, and in the span.
    fn around_in_file(&self, span: Span, file_at: u64) -> Range<u64> {
        let map = self.map(span.file);
        let Some(Piece::Chunk { chunk, at, .. }) = map.pieces(file_at, 1).first().copied() else {
            return file_at..file_at + 1;
        };
        // No byte of the chunk lies farther away; others may lie between, where small tensors share one.
        let from = file_at.saturating_sub(u64::from(at)).max(span.offset);
        let to = file_at.saturating_add(u64::from(self.opened.manifest.chunk_lens[chunk as usize] - at));
        let (mut start, mut end) = (from, from);
        for piece in map.pieces(from, to.min(span.offset + span.len) - from) {
            let (Piece::Chunk { len, .. } | Piece::Inline { len, .. }) = piece;
            if !matches!(piece, Piece::Chunk { chunk: other, .. } if other == chunk) {
                if end > file_at {
                    break;
                }
                start = end + u64::from(len);
            }
            end += u64::from(len);
        }
        start..end
    }

    fn slices_of(&self, span: Span, progress: &dyn Progress, slices: &mut Vec<Slice>) -> Result<()> {
        let mut file_at = span.offset;
        for piece in self.map(span.file).pieces(span.offset, span.len) {
            let (bytes, at, len) = match piece {
                Piece::Chunk { chunk, at, len } => {
                    let bytes = self.chunk(chunk, (span.file, file_at), progress)?;
                    self.cache.given(self.id(chunk), len as usize);
                    (bytes, at, len)
                }
                Piece::Inline { at, len } => {
                    let inline = &self.opened.manifest.inline[at as usize..(at + len) as usize];
                    (Arc::new(inline.to_vec()), 0, len)
                }
            };
            push(slices, Slice::of(bytes, at as usize, len as usize));
            file_at += u64::from(len);
        }
        Ok(())
    }

    /// A chunk of the table, which has the byte `named` of a file.
    pub(super) fn chunk(&self, chunk: u32, named: (u32, u64), progress: &dyn Progress) -> Result<Arc<Vec<u8>>> {
        let id = self.id(chunk);
        loop {
            match self.cache.ask(id, self.len(chunk), true) {
                Answer::Here(bytes) => return Ok(bytes),
                Answer::Coming => self.cache.wait([id].into_iter(), progress)?,
                Answer::Missing(announcement) => {
                    let Some(announcement) = announcement else { continue };
                    let decoded = self.decode_announced(chunk, announcement, progress)?;
                    return decoded
                        .map_err(|unreadable| self.damage([(named.0, named.1, id, &unreadable)].into_iter()));
                }
            }
        }
    }

    /// Decodes a chunk to the cache. One that could not be given back a moment ago is not read again: who reads on over
    /// it in small pieces would wait for the whole chunk each time.
    fn decode_announced(
        &self,
        chunk: u32,
        announcement: Announcement<'_>,
        progress: &dyn Progress,
    ) -> Result<std::result::Result<Arc<Vec<u8>>, Unreadable>> {
        let id = self.id(chunk);
        if let Some(unreadable) = self.unreadable_lately(id) {
            return Ok(Err(unreadable));
        }
        let reader = ChunkReader::with(self.store.backend(), self.store.id(), &self.known);
        let place = self.places_of(&[chunk], &reader, progress)?[0];
        let mut raw = self.cache.buffer(id, self.len(chunk));
        let mut lent = self.cache.lend();
        let read = reader.read_into(id, place, &mut raw, lent.buffers())?;
        self.known.rest();
        if let Err(unreadable) = &read {
            let mut known = self.unreadable.lock().unwrap_or_else(PoisonError::into_inner);
            known.insert(id, (Instant::now(), unreadable.clone()));
        }
        Ok(read.map(|()| {
            self.count(raw.len());
            let bytes = self.cache.bring(id, raw);
            drop(announcement);
            bytes
        }))
    }

    /// What was wrong with a chunk a moment ago.
    fn unreadable_lately(&self, id: ChunkId) -> Option<Unreadable> {
        let mut known = self.unreadable.lock().unwrap_or_else(PoisonError::into_inner);
        let (since, unreadable) = known.get(&id)?;
        if since.elapsed() < UNREADABLE_REMEMBERED {
            return Some(unreadable.clone());
        }
        known.remove(&id);
        None
    }
}
