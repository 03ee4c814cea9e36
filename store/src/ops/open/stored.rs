//! What the files of an open checkpoint take in the packs. Never reads a chunk, and never holds the index open.

use super::OpenCheckpoint;
use crate::error::Result;
use crate::format::manifest::{Content, Segment};
use crate::limits::WINDOW_CHUNKS;
use crate::ops::reading::ChunkReader;
use crate::progress::Progress;

impl OpenCheckpoint {
    /// Bytes that the chunks of a file take in the packs, each counted once, whoever else has them. A chunk that no pack holds
    /// counts nothing. Costs an opening of the index for each 4,096 chunks of the file that were not looked up yet.
    ///
    /// # Errors
    /// [`crate::Error::Invalid`] when there is no such file, and what keeps the index from being read.
    pub fn stored_bytes(&self, file: u32, progress: &dyn Progress) -> Result<u64> {
        self.size_of(file)?;
        let mut chunks = self.chunks_of(file);
        chunks.sort_unstable();
        chunks.dedup();
        let reader = ChunkReader::with(self.store.backend(), self.store.id(), &self.known);
        let mut stored = 0;
        // Window by window: while one is looked up, nobody else gets an answer.
        for window in chunks.chunk_by(|a, b| *a as usize / WINDOW_CHUNKS == *b as usize / WINDOW_CHUNKS) {
            if progress.interrupted() {
                return Err(crate::Error::Interrupted);
            }
            let places = self.places_of(window, &reader, progress)?;
            stored += places.iter().flatten().map(|place| u64::from(place.stored_len)).sum::<u64>();
        }
        Ok(stored)
    }

    /// The chunks that a file lies in, those of one id as the first of them. A manifest may name the same ones a million times:
    /// they are counted without walking them for each segment.
    fn chunks_of(&self, file: u32) -> Vec<u32> {
        let Content::File { segments, .. } = &self.files()[file as usize].content else { return Vec::new() };
        // How many segments begin at a chunk, less those that ended before it.
        let mut turns = vec![0_i64; self.sums.len() + 1];
        for Segment(len, first, at, _) in segments {
            let Some(first) = first.map(|first| first as usize) else { continue };
            let end = self.sums[first] + u64::from(*at) + len;
            turns[first] += 1;
            turns[self.sums.partition_point(|sum| *sum < end)] -= 1;
        }
        let mut inside = 0;
        let is_in = turns.iter().map(|turn| {
            inside += turn;
            inside > 0
        });
        (0..).zip(is_in).filter(|(_, is_in)| *is_in).map(|(chunk, _)| self.same(chunk)).collect()
    }
}
