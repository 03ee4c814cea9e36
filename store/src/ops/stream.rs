//! Ranges of a checkpoint's files as a stream of bytes, in order. Never hands out a byte whose chunk is not checked, and never
//! holds more than a few chunks.

use std::collections::HashMap;

use crate::catalog::State;
use crate::error::Result;
use crate::format::tensors::{FileMap, Piece};
use crate::id::ChunkId;
use crate::index::Place;
use crate::ops::opened::Opened;
use crate::ops::reading::{Buffers, ChunkReader};
use crate::parallel::in_order;
use crate::progress::Progress;
use crate::store::Store;

/// Chunks decoded between two calls of the receiver: what is held.
const BATCH_CHUNKS: usize = 16;

/// A range of a file of a checkpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    /// Which file of the manifest.
    pub file: u32,
    /// Byte of it where the range begins.
    pub offset: u64,
    /// Bytes.
    pub len: u64,
}

/// Reads ranges of checkpoints of one store.
pub struct Reader<'a> {
    store: &'a Store,
    state: &'a State,
    chunks: ChunkReader<'a>,
    /// Where the chunks are that were looked up.
    places: HashMap<ChunkId, Option<Place>>,
    read_bytes: u64,
}

/// A piece of a span, and where it lies.
struct Part {
    span: usize,
    /// The byte of the file where it begins.
    file_at: u64,
    piece: Piece,
}

impl<'a> Reader<'a> {
    /// A reader of checkpoints that are kept.
    pub fn new(store: &'a Store, state: &'a State) -> Self {
        let chunks = ChunkReader::new(store.backend(), store.id());
        Self { store, state, chunks, places: HashMap::new(), read_bytes: 0 }
    }

    /// Raw bytes of the chunks that were decoded so far.
    pub fn read_bytes(&self) -> u64 {
        self.read_bytes
    }

    /// Finds out where chunks are. A stream does it for its own; many streams are faster when all is looked up at once.
    pub fn look_up(&mut self, ids: impl IntoIterator<Item = ChunkId>, progress: &dyn Progress) -> Result<()> {
        let mut unknown: Vec<ChunkId> = ids.into_iter().filter(|id| !self.places.contains_key(id)).collect();
        unknown.sort_unstable();
        unknown.dedup();
        if unknown.is_empty() {
            return Ok(());
        }
        let places = self.chunks.places(&unknown, self.store.index(), &self.state.head, progress)?;
        self.places.extend(unknown.into_iter().zip(places));
        Ok(())
    }

    /// Gives the bytes of the spans to `receive`, one after the other, in order, with the number of the span. A chunk that
    /// several spans on end need is decoded once.
    ///
    /// # Errors
    /// [`crate::Error::Damaged`] for a chunk that can't be given back, and whatever `receive` answers.
    pub fn stream(
        &mut self,
        opened: &Opened,
        spans: &[Span],
        progress: &dyn Progress,
        receive: &mut dyn FnMut(usize, &[u8]) -> Result<()>,
    ) -> Result<()> {
        let manifest = &opened.manifest;
        let parts = parts_of(opened, spans);
        let in_chunks = parts.iter().filter_map(|part| chunk_of(part.piece));
        self.look_up(in_chunks.map(|chunk| manifest.chunk_id(chunk as usize)).collect::<Vec<_>>(), progress)?;
        // Parts on end that lie in one chunk, or inline.
        let groups: Vec<&[Part]> = parts.chunk_by(|a, b| chunk_of(a.piece) == chunk_of(b.piece)).collect();
        for batch in groups.chunks(BATCH_CHUNKS) {
            let reader = &*self;
            let decoded = in_order(batch.len(), progress, Buffers::new, |buffers, at| {
                let Some(chunk) = chunk_of(batch[at][0].piece) else { return Ok(Ok(Vec::new())) };
                let id = manifest.chunk_id(chunk as usize);
                let place = reader.places.get(&id).copied().flatten();
                let raw_len = manifest.chunk_lens[chunk as usize];
                Ok(reader.chunks.read(id, place, raw_len, buffers)?.map(<[u8]>::to_vec))
            })?;
            for (group, raw) in batch.iter().zip(decoded) {
                let raw = match (raw, chunk_of(group[0].piece)) {
                    (Ok(raw), _) => raw,
                    (Err(unreadable), chunk) => {
                        let id = manifest.chunk_id(chunk.unwrap_or(0) as usize);
                        let named = group.iter().map(|part| (spans[part.span].file, part.file_at, id, &unreadable));
                        return Err(opened.damage(self.store, named));
                    }
                };
                self.read_bytes += raw.len() as u64;
                for part in *group {
                    let bytes = match part.piece {
                        Piece::Chunk { at, len, .. } => &raw[at as usize..(at + len) as usize],
                        Piece::Inline { at, len } => &manifest.inline[at as usize..(at + len) as usize],
                    };
                    receive(part.span, bytes)?;
                }
            }
        }
        Ok(())
    }
}

fn chunk_of(piece: Piece) -> Option<u32> {
    if let Piece::Chunk { chunk, .. } = piece { Some(chunk) } else { None }
}

fn parts_of(opened: &Opened, spans: &[Span]) -> Vec<Part> {
    let mut map: Option<(u32, FileMap<'_>)> = None;
    let mut parts = Vec::new();
    for (nr, span) in spans.iter().enumerate() {
        let map = match &mut map {
            Some((file, map)) if *file == span.file => &*map,
            other => &other.insert((span.file, opened.manifest.map(span.file))).1,
        };
        let mut file_at = span.offset;
        for piece in map.pieces(span.offset, span.len) {
            parts.push(Part { span: nr, file_at, piece });
            let (Piece::Chunk { len, .. } | Piece::Inline { len, .. }) = piece;
            file_at += u64::from(len);
        }
    }
    parts
}
