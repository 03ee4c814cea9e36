//! Where the chunks of an open checkpoint are, looked up once, many at a time, when the first of them is needed. Never holds
//! the index open.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

use crate::error::Result;
use crate::format::head::Head;
use crate::format::manifest::Manifest;
use crate::id::ChunkId;
use crate::index::{Index, Place};
use crate::limits::WINDOW_CHUNKS;
use crate::ops::reading::ChunkReader;
use crate::progress::Progress;

/// The places that are known, in windows of the manifest's table.
#[derive(Default)]
pub struct Places {
    windows: Mutex<HashMap<usize, Window>>,
}

type Window = Arc<[Option<Place>]>;

impl Places {
    /// The places of chunks of the table, in their order. What is not known yet is looked up in one batch, with all that stands
    /// in the same windows: opening the index costs as much as thousands of answers. `head` is asked for HEAD as it is then: by
    /// one of an hour ago the index would take in again what gc has made it forget since.
    pub fn of(
        &self,
        chunks: &[u32],
        manifest: &Manifest,
        reader: &ChunkReader<'_>,
        (index, head): (&Index, impl FnOnce() -> Head),
        progress: &dyn Progress,
    ) -> Result<Vec<Option<Place>>> {
        // Held while looking up: whoever else needs the same window waits for the same answer.
        let mut windows = self.windows.lock().unwrap_or_else(PoisonError::into_inner);
        let window_of = |chunk: &u32| *chunk as usize / WINDOW_CHUNKS;
        let missing: BTreeSet<usize> = chunks.iter().map(window_of).filter(|nr| !windows.contains_key(nr)).collect();
        if !missing.is_empty() {
            let range = |nr: usize| nr * WINDOW_CHUNKS..((nr + 1) * WINDOW_CHUNKS).min(manifest.chunk_count());
            let ids: Vec<ChunkId> = missing.iter().flat_map(|nr| range(*nr)).map(|at| manifest.chunk_id(at)).collect();
            let found = reader.places(&ids, index, &head(), progress)?;
            let mut rest = &found[..];
            for nr in missing {
                let (of_window, others) = rest.split_at(range(nr).len());
                windows.insert(nr, of_window.into());
                rest = others;
            }
        }
        let place =
            |chunk: &u32| windows.get(&window_of(chunk))?.get(*chunk as usize % WINDOW_CHUNKS).copied().flatten();
        Ok(chunks.iter().map(place).collect())
    }
}
