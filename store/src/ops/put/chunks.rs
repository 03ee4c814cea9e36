//! Names the chunks of a layout, finds out which the store has, and stores the others in packs of this session. Never
//! publishes a pack and never touches HEAD.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::{Mutex, PoisonError};

use super::source::SourceFile;
use crate::backend::Backend;
use crate::codec::{Codec, Encoder, Hint};
use crate::error::{Error, Result, Shortage};
use crate::format::head::Head;
use crate::format::pack;
use crate::id::{ChunkId, PackId, SessionId, StoreId};
use crate::index::Index;
use crate::limits::{CHUNK_BYTES_MAX, SAMPLE_CHUNKS, WINDOW_CHUNKS};
use crate::packs::{PackReader, PackWriter, SealedPack, read_trailer};
use crate::parallel::in_order;
use crate::progress::{Progress, Stage};
use crate::space::Budget;
use crate::split::{ElementHint, Layout, Source};

/// Bytes of a chunk in a manifest: its id and its length.
const ID_BYTES: usize = 32 + 5;

/// The chunks of one put, and where each of them is.
pub struct Chunks<'a> {
    sources: &'a [&'a SourceFile],
    layout: &'a Layout,
    backend: &'a dyn Backend,
    store: StoreId,
    session: SessionId,
    /// Ids in the layout's order.
    pub ids: Vec<ChunkId>,
    /// The pack that each chunk lies in, this session's own included.
    places: HashMap<ChunkId, PackId>,
    /// Packs that the index pointed at, with their bytes if they can be relied on.
    looked_at: HashMap<PackId, Option<u64>>,
    /// What was stored by this put.
    pub stored: Stored,
}

/// Counts of what a put stored.
#[derive(Debug, Clone, Copy, Default)]
pub struct Stored {
    /// Chunks that the store did not have.
    pub chunks: u64,
    /// Their raw bytes.
    pub raw_bytes: u64,
    /// Bytes written to packs.
    pub written_bytes: u64,
}

impl<'a> Chunks<'a> {
    /// Nothing named and nothing stored yet.
    pub fn new(
        sources: &'a [&'a SourceFile],
        layout: &'a Layout,
        backend: &'a dyn Backend,
        store: StoreId,
        session: SessionId,
    ) -> Self {
        Self {
            sources,
            layout,
            backend,
            store,
            session,
            ids: Vec::new(),
            places: HashMap::new(),
            looked_at: HashMap::new(),
            stored: Stored::default(),
        }
    }

    /// Names all chunks and stores those that the store lacks; answers the new packs, sealed and not published. `besides` is
    /// what the put writes besides chunks. Whatever does not fit is refused before anything is written.
    pub fn store(
        &mut self,
        index: &Index,
        head: &Head,
        (budget, besides): (&mut Budget<'_>, u64),
        progress: &dyn Progress,
    ) -> Result<Vec<SealedPack>> {
        let count = self.layout.chunks.len();
        // When all of it fits, new or not, nothing more has to be known. That is usual and costs nothing.
        let is_tight = !budget.fits(besides.saturating_add(self.bytes_at_most(0..count)));
        let mut planned = HashSet::new();
        let mut all_missing = Vec::new();
        let mut writer = PackWriter::new(self.backend, self.store, self.session);
        progress.begin(Stage::Hash, self.layout.chunks.iter().map(|chunk| u64::from(chunk.len)).sum());
        for start in (0..count).step_by(WINDOW_CHUNKS) {
            let end = count.min(start + WINDOW_CHUNKS);
            let window = in_order(end - start, progress, buffer, |buf, at| {
                let id = self.name(buf, start + at)?;
                progress.advance(u64::from(self.layout.chunks[start + at].len));
                Ok(id)
            })?;
            self.ids.extend_from_slice(&window);
            self.find_stored(&window, index, head, progress)?;
            let missing =
                (start..end).filter(|at| !self.places.contains_key(&self.ids[*at]) && planned.insert(self.ids[*at]));
            if is_tight {
                all_missing.extend(missing);
                continue;
            }
            let missing: Vec<usize> = missing.collect();
            planned.clear();
            writer = self.encode(&missing, writer, progress)?;
        }
        if is_tight {
            self.check_room(&all_missing, budget, besides, progress)?;
            writer = self.encode(&all_missing, writer, progress)?;
        }
        self.finish(writer)
    }

    /// Stores again those chunks that lie in `lost` packs.
    pub fn store_again(&mut self, lost: &BTreeSet<PackId>, progress: &dyn Progress) -> Result<Vec<SealedPack>> {
        self.places.retain(|_, pack| !lost.contains(pack));
        let mut planned = HashSet::new();
        let missing: Vec<usize> = (0..self.ids.len())
            .filter(|at| !self.places.contains_key(&self.ids[*at]) && planned.insert(self.ids[*at]))
            .collect();
        let writer = self.encode(&missing, PackWriter::new(self.backend, self.store, self.session), progress)?;
        self.finish(writer)
    }

    /// All packs that the checkpoint relies on.
    pub fn packs(&self) -> BTreeSet<PackId> {
        self.places.values().copied().collect()
    }

    /// Refuses what does not fit. What it would take raw is tried first, for that needs no work.
    fn check_room(
        &self,
        missing: &[usize],
        budget: &mut Budget<'_>,
        besides: u64,
        progress: &dyn Progress,
    ) -> Result<()> {
        let mut needs = besides.saturating_add(self.bytes_at_most(missing.iter().copied()));
        if !budget.fits(needs) && !missing.is_empty() {
            needs = besides.saturating_add(self.estimate(missing, progress)?);
        }
        budget.needs = Some(needs);
        if budget.fits(needs) {
            return Ok(());
        }
        Err(Error::WontFit(Box::new(Shortage { needs_bytes: budget.needs, ..Shortage::default() })))
    }

    /// The most bytes that chunks can take, as when none of them can be compressed.
    fn bytes_at_most(&self, chunks: impl Iterator<Item = usize>) -> u64 {
        chunks.map(|at| record_bytes(Codec::Raw, self.layout.chunks[at].len as usize)).sum()
    }

    /// What the chunks at `missing` would take, by how some of them compress that lie evenly among all.
    fn estimate(&self, missing: &[usize], progress: &dyn Progress) -> Result<u64> {
        let count = missing.len().min(SAMPLE_CHUNKS);
        let sample = |nr: usize| missing[(2 * nr + 1) * missing.len() / (2 * count)];
        let encoded = in_order(
            count,
            progress,
            || (buffer(), Encoder::new()),
            |(buf, encoder), nr| {
                let at = sample(nr);
                let raw = self.read(buf, at)?;
                let (codec, stored) = encoder.encode(raw, self.hint(at));
                Ok((raw.len() as u64, record_bytes(codec, stored.len())))
            },
        )?;
        let (raw, stored) = encoded.into_iter().fold((0, 0), |sum, (raw, stored)| (sum.0 + raw, sum.1 + stored));
        let all: u64 = missing.iter().map(|at| u64::from(self.layout.chunks[*at].len)).sum();
        let estimate = u128::from(all) * u128::from(stored) / u128::from(raw.max(1));
        Ok(u64::try_from(estimate).unwrap_or(u64::MAX))
    }

    fn finish(&mut self, writer: PackWriter<'_>) -> Result<Vec<SealedPack>> {
        let sealed = writer.finish()?;
        self.stored.written_bytes += sealed.iter().map(|pack| pack.bytes).sum::<u64>();
        Ok(sealed)
    }

    /// Looks up a window's chunks. A hit counts only if its pack is there, lists its chunks and is on no
    /// list of gc's.
    fn find_stored(&mut self, window: &[ChunkId], index: &Index, head: &Head, progress: &dyn Progress) -> Result<()> {
        let unknown: Vec<ChunkId> = window.iter().copied().filter(|id| !self.places.contains_key(id)).collect();
        let mut found = index.look_up(&unknown, self.backend, head, progress)?;
        if found.packs_seq < head.packs_seq {
            // Somebody stored packs and died, or is only just about to add them.
            index.catch_up(self.backend, head, progress)?;
            found = index.look_up(&unknown, self.backend, head, progress)?;
        }
        let reader = PackReader::new(self.backend);
        for (id, place) in unknown.into_iter().zip(found.places) {
            let Some(place) = place else { continue };
            let size = match self.looked_at.get(&place.pack) {
                Some(size) => *size,
                None => {
                    let listed = head.condemned.contains_key(&place.pack) || head.deleting.contains(&place.pack);
                    let pack = if listed { None } else { reader.open(place.pack)? };
                    // Without its trailer a pack lives by the index alone, which may be lost at any time.
                    let pack = pack.filter(|pack| read_trailer(place.pack, self.store, &**pack).is_ok());
                    let size = pack.map(|pack| pack.size());
                    self.looked_at.insert(place.pack, size);
                    size
                }
            };
            // A pack that was cut short does not have what the index remembers.
            if size.is_some_and(|size| place.offset + u64::from(place.stored_len) <= size) {
                self.places.insert(id, place.pack);
            }
        }
        Ok(())
    }

    /// Encodes the chunks at `missing` into packs.
    fn encode<'w>(
        &mut self,
        missing: &[usize],
        writer: PackWriter<'w>,
        progress: &dyn Progress,
    ) -> Result<PackWriter<'w>> {
        if missing.is_empty() {
            return Ok(writer);
        }
        let raw_bytes: u64 = missing.iter().map(|at| u64::from(self.layout.chunks[*at].len)).sum();
        progress.begin(Stage::Write, raw_bytes);
        let writer = Mutex::new(writer);
        let packs = in_order(
            missing.len(),
            progress,
            || (buffer(), Encoder::new()),
            |(buf, encoder), at| {
                let at = missing[at];
                let raw = self.read(buf, at)?;
                // The bytes are read a second time, from a file or from the memory of a training that goes on; what goes into
                // the pack must be what its name says.
                if ChunkId::of(raw) != self.ids[at] {
                    return Err(self.source_of(at).changed("its bytes are others than a moment ago"));
                }
                let (codec, stored) = encoder.encode(raw, self.hint(at));
                let mut writer = writer.lock().unwrap_or_else(PoisonError::into_inner);
                let pack = writer.append(self.ids[at], codec, stored, raw.len())?;
                drop(writer);
                progress.advance(raw.len() as u64);
                Ok(pack)
            },
        )?;
        self.places.extend(missing.iter().map(|at| self.ids[*at]).zip(packs));
        self.stored.chunks += missing.len() as u64;
        self.stored.raw_bytes += raw_bytes;
        Ok(writer.into_inner().unwrap_or_else(PoisonError::into_inner))
    }

    fn hint(&self, at: usize) -> Hint {
        match self.layout.chunks[at].dtype {
            ElementHint::Dtype(dtype) => Hint::Dtype(dtype),
            ElementHint::Unknown => Hint::Unknown,
            ElementHint::Bytes => Hint::Text,
        }
    }

    /// The name of a chunk: known to its source, or hashed where it lies in memory, or read and hashed.
    fn name(&self, buf: &mut [u8], at: usize) -> Result<ChunkId> {
        if let [range] = self.layout.ranges(at) {
            let source = self.source(range.file)?;
            if let Some(id) = source.known_id(range.offset, range.len) {
                return Ok(id);
            }
            if let Some(raw) = source.bytes(range.offset, range.len as usize) {
                return Ok(ChunkId::of(raw));
            }
        }
        Ok(ChunkId::of(self.read(buf, at)?))
    }

    /// Copies the bytes of a chunk: nobody but this thread changes the copy, whatever happens to a file or to memory.
    fn read<'b>(&self, buf: &'b mut [u8], at: usize) -> Result<&'b [u8]> {
        let mut end = 0;
        for range in self.layout.ranges(at) {
            let source = self.source(range.file)?;
            let part = buf
                .get_mut(end..end + range.len as usize)
                .ok_or_else(|| Error::Internal("a planned chunk is too large".into()))?;
            source.read_exact_at(part, range.offset).map_err(|error| source.read_error(error))?;
            end += range.len as usize;
        }
        Ok(&buf[..end])
    }

    fn source(&self, file: u32) -> Result<&'a SourceFile> {
        self.sources.get(file as usize).copied().ok_or_else(|| Error::Internal("a planned chunk is of no file".into()))
    }

    fn source_of(&self, at: usize) -> &'a SourceFile {
        self.sources[self.layout.ranges(at)[0].file as usize]
    }
}

/// Bytes that a record takes in a pack, in its trailer and in the manifest, with what is between it and the one before.
fn record_bytes(codec: Codec, stored_len: usize) -> u64 {
    // From the worst place for it, right after a payload that ends one byte past a multiple of everything.
    let (_, offset) = pack::record_place(1, codec, stored_len);
    offset + (stored_len + pack::LINE_BYTES + ID_BYTES) as u64
}

fn buffer() -> Vec<u8> {
    vec![0; CHUNK_BYTES_MAX]
}
