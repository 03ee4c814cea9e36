//! Rows of tensors that lie in their files in another order, put together a block at a time. Blocks are kept in the
//! cache as chunks are, so that many small reads gather each of them once. Never holds more than a few blocks and the
//! places of their bytes.

use std::ops::Range;
use std::sync::{Arc, MutexGuard};

use super::OpenCheckpoint;
use super::read_cache::{Announcement, Answer};
use super::slices::Slice;
use crate::error::{Error, Result};
use crate::format::tensors::{FileMap, Piece};
use crate::id::ChunkId;
use crate::limits::{CHUNK_BYTES_MAX, GATHERED_BLOCKS_MAX, GATHERED_RUNS_MAX};
use crate::ops::tensors::layout::Layout;
use crate::progress::Progress;

/// Bytes of the file whose pieces are looked at together.
const WINDOW_BYTES: u64 = CHUNK_BYTES_MAX as u64;
/// Chunks that are held: a run may go on from one into the next.
const HELD_CHUNKS: usize = 2;

/// Bytes of the file that belong somewhere in a block.
struct Move {
    /// Byte of the file.
    from: u64,
    /// Byte of the block.
    to: u32,
    len: u32,
}

/// The chunks that were read last.
type Held = Vec<(u32, Arc<Vec<u8>>)>;

impl OpenCheckpoint {
    /// The bytes of a range of the elements in rows.
    pub(super) fn slices_of_rows(
        &self,
        layout: &Layout,
        (mut at, len): (u64, u64),
        progress: &dyn Progress,
        slices: &mut Vec<Slice>,
    ) -> Result<()> {
        let end = at.saturating_add(len).min(layout.bytes());
        while at < end {
            let nr = at / block_bytes(layout);
            let range = block_range(layout, nr);
            let block = self.block(layout, nr, progress)?;
            let len = end.min(range.end) - at;
            self.cache.given(self.key(layout, nr), len as usize);
            slices.push(Slice::of(block, (at - range.start) as usize, len as usize));
            at += len;
        }
        Ok(())
    }

    /// Gathers the blocks of a range that are not in the cache and that nobody is at.
    pub(super) fn bring_rows(&self, layout: &Layout, (at, len): (u64, u64), progress: &dyn Progress) -> Result<()> {
        let end = at.saturating_add(len).min(layout.bytes());
        for nr in at / block_bytes(layout)..end.div_ceil(block_bytes(layout)) {
            let key = self.key(layout, nr);
            let Some(announcement) = self.cache.announce(key) else { continue };
            match self.gather_announced(layout, nr, (key, announcement), progress) {
                // Who reads it is told.
                Ok(_) | Err(Error::Damaged(_)) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn block(&self, layout: &Layout, nr: u64, progress: &dyn Progress) -> Result<Arc<Vec<u8>>> {
        let (key, range) = (self.key(layout, nr), block_range(layout, nr));
        let len = (range.end - range.start) as usize;
        loop {
            match self.cache.ask(key, len, true) {
                Answer::Here(bytes) => return Ok(bytes),
                Answer::Coming => self.cache.wait([key].into_iter(), progress)?,
                Answer::Missing(announcement) => {
                    let Some(announcement) = announcement else { continue };
                    return self.gather_announced(layout, nr, (key, announcement), progress);
                }
            }
        }
    }

    fn gather_announced(
        &self,
        layout: &Layout,
        nr: u64,
        (key, announcement): (ChunkId, Announcement<'_>),
        progress: &dyn Progress,
    ) -> Result<Arc<Vec<u8>>> {
        let range = block_range(layout, nr);
        let (turn, behind) = self.announce_behind(layout, nr);
        if !behind.is_empty() {
            let end = block_range(layout, nr + behind.len() as u64).end;
            let mut all = vec![0; (end - range.start) as usize];
            match self.gather(layout, range.start..end, &mut all, progress) {
                Ok(()) => {
                    let mut blocks = all.chunks(block_bytes(layout) as usize).map(<[u8]>::to_vec);
                    let first = self.bring_block(key, announcement, blocks.next().unwrap_or_default());
                    for ((key, announcement), block) in behind.into_iter().zip(blocks) {
                        self.bring_block(key, announcement, block);
                    }
                    return Ok(first);
                }
                // It may be that of another block alone.
                Err(Error::Damaged(_)) => {}
                Err(error) => return Err(error),
            }
        }
        drop((turn, behind));
        let mut block = self.cache.buffer(key, (range.end - range.start) as usize);
        self.gather(layout, range, &mut block, progress)?;
        Ok(self.bring_block(key, announcement, block))
    }

    fn bring_block(&self, key: ChunkId, announcement: Announcement<'_>, block: Vec<u8>) -> Arc<Vec<u8>> {
        let block = self.cache.bring(key, block);
        drop(announcement);
        block
    }

    /// The blocks behind one that are worth gathering with it: where the bytes of one lie farther apart than the cache
    /// reaches, what lies between is decoded anew for each time that something is gathered. One thread at a time, whose
    /// turn it then is: the places of their bytes take several times what they do.
    fn announce_behind(
        &self,
        layout: &Layout,
        nr: u64,
    ) -> (Option<MutexGuard<'_, ()>>, Vec<(ChunkId, Announcement<'_>)>) {
        let room = self.cache.bytes_max() / 4;
        let is_far = |reach: u64| reach > 2 * room as u64;
        if !is_far(layout.reach()) || !is_far(block_reach(layout, nr)) {
            return (None, Vec::new());
        }
        let Ok(turn) = self.gathering.try_lock() else { return (None, Vec::new()) };
        let count = (room as u64 / block_bytes(layout)).min(GATHERED_BLOCKS_MAX);
        let behind = (nr + 1..nr + count).take_while(|nr| !block_range(layout, *nr).is_empty());
        let announced = behind.map_while(|nr| {
            let key = self.key(layout, nr);
            Some((key, self.cache.announce(key)?))
        });
        (Some(turn), announced.collect())
    }

    /// Fills a block. The file is read from front to back, each chunk once.
    fn gather(&self, layout: &Layout, range: Range<u64>, block: &mut [u8], progress: &dyn Progress) -> Result<()> {
        let mut moves: Vec<Move> = Vec::new();
        let mut to = 0;
        layout.runs(range.start, range.end - range.start, |from, len| {
            // A few blocks, each no longer than a chunk.
            moves.push(Move { from, to, len: len as u32 });
            to += len as u32;
        });
        // Rows that lie one behind the other are merged by this, which costs less than to sort what lies at random.
        moves.sort_by_key(|each| each.from);
        let map = self.map(layout.file());
        let mut held = Held::new();
        let mut rest = &moves[..];
        while let Some(first) = rest.first() {
            let (window, others) = rest.split_at(rest.partition_point(|each| each.from - first.from < WINDOW_BYTES));
            rest = others;
            let end = window.iter().map(|each| each.from + u64::from(each.len)).max().unwrap_or(first.from);
            self.fill_from(&map, (layout.file(), first.from..end), window, block, &mut held, progress)?;
        }
        Ok(())
    }

    /// Makes the moves from one range of the file, which are sorted by where they begin.
    fn fill_from(
        &self,
        map: &FileMap<'_>,
        (file, range): (u32, Range<u64>),
        moves: &[Move],
        block: &mut [u8],
        held: &mut Held,
        progress: &dyn Progress,
    ) -> Result<()> {
        let mut piece_at = range.start;
        let mut waiting = moves;
        // Those that began in an earlier piece and go on.
        let mut begun: Vec<&Move> = Vec::new();
        for piece in map.pieces(range.start, range.end - range.start) {
            let (Piece::Chunk { len, .. } | Piece::Inline { len, .. }) = piece;
            let piece_end = piece_at + u64::from(len);
            let (new, later) = waiting.split_at(waiting.partition_point(|each| each.from < piece_end));
            waiting = later;
            begun.retain(|each| each.from + u64::from(each.len) > piece_at);
            if !begun.is_empty() || !new.is_empty() {
                let bytes = match piece {
                    Piece::Chunk { chunk, at, len } => {
                        let raw = self.held(chunk, (file, piece_at), held, progress)?;
                        &raw[at as usize..(at + len) as usize]
                    }
                    Piece::Inline { at, len } => &self.opened.manifest.inline[at as usize..(at + len) as usize],
                };
                for each in begun.iter().copied().chain(new) {
                    let from = each.from.max(piece_at);
                    let len = ((each.from + u64::from(each.len)).min(piece_end) - from) as usize;
                    let to = each.to as usize + (from - each.from) as usize;
                    let at = (from - piece_at) as usize;
                    block[to..to + len].copy_from_slice(&bytes[at..at + len]);
                }
                begun.extend(new.iter().filter(|each| each.from + u64::from(each.len) > piece_end));
            }
            piece_at = piece_end;
        }
        Ok(())
    }

    /// A chunk of the table, which has the byte `named` of a file, from those that were just read or from the cache.
    fn held<'h>(&self, chunk: u32, named: (u32, u64), held: &'h mut Held, progress: &dyn Progress) -> Result<&'h [u8]> {
        let at = match held.iter().position(|(number, _)| *number == chunk) {
            Some(at) => at,
            None => {
                if progress.interrupted() {
                    return Err(Error::Interrupted);
                }
                let bytes = self.chunk(chunk, named, progress)?;
                held.truncate(HELD_CHUNKS - 1);
                held.insert(0, (chunk, bytes));
                0
            }
        };
        Ok(&held[at].1)
    }

    /// What the cache calls a block. No chunk is called so: ids of chunks are hashes of another kind.
    fn key(&self, layout: &Layout, nr: u64) -> ChunkId {
        let mut hasher = blake3::Hasher::new_derive_key("ckpt rows of a tensor in another order, version 1");
        hasher.update(&self.opened.entry.id.to_bytes());
        layout.key().chain([nr]).for_each(|number| {
            hasher.update(&number.to_le_bytes());
        });
        ChunkId(*hasher.finalize().as_bytes())
    }
}

/// Bytes of a block, but for the last one.
fn block_bytes(layout: &Layout) -> u64 {
    layout.run().saturating_mul(GATHERED_RUNS_MAX).min(CHUNK_BYTES_MAX as u64)
}

/// Bytes of the file from the first that a block needs to the last.
fn block_reach(layout: &Layout, nr: u64) -> u64 {
    let range = block_range(layout, nr);
    let (mut first, mut last) = (u64::MAX, 0);
    layout.runs(range.start, range.end - range.start, |from, len| {
        (first, last) = (first.min(from), last.max(from + len));
    });
    last.saturating_sub(first)
}

/// The block in which a byte of the elements in rows lies.
pub fn block_around(layout: &Layout, at: u64) -> Range<u64> {
    block_range(layout, at / block_bytes(layout))
}

/// The bytes of the elements in rows that are in a block.
fn block_range(layout: &Layout, nr: u64) -> Range<u64> {
    let start = nr.saturating_mul(block_bytes(layout)).min(layout.bytes());
    start..start.saturating_add(block_bytes(layout)).min(layout.bytes())
}
