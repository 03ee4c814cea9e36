//! Where the chunks of an open checkpoint are, looked up once, many at a time, when the first of them is needed. Never
//! holds the index open.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

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
    /// Held while looking up: whoever else needs the same window waits for the same answer. Those who need what is
    /// known don't: the index may be locked for minutes by somebody who makes it anew.
    looking: Mutex<()>,
}

type Window = Arc<[Option<Place>]>;

impl Places {
    /// The places of chunks of the table, in their order. What is not known yet is looked up in one batch, with all
    /// that stands in the same windows: opening the index costs as much as thousands of answers. `head` is asked for
    /// HEAD as it is then: by one of an hour ago the index would take in again what gc has made it forget since.
    pub fn of(
        &self,
        chunks: &[u32],
        manifest: &Manifest,
        reader: &ChunkReader<'_>,
        (index, head): (&Index, impl FnOnce() -> Head),
        progress: &dyn Progress,
    ) -> Result<Vec<Option<Place>>> {
        if let Some(places) = self.known(chunks) {
            return Ok(places);
        }
        let _looking = self.looking.lock().unwrap_or_else(PoisonError::into_inner);
        let missing: BTreeSet<usize> = {
            let windows = self.lock();
            chunks.iter().map(window_of).filter(|nr| !windows.contains_key(nr)).collect()
        };
        if !missing.is_empty() {
            let range = |nr: usize| nr * WINDOW_CHUNKS..((nr + 1) * WINDOW_CHUNKS).min(manifest.chunk_count());
            let ids: Vec<ChunkId> = missing.iter().flat_map(|nr| range(*nr)).map(|at| manifest.chunk_id(at)).collect();
            let found = reader.places(&ids, index, &head(), progress)?;
            let mut rest = &found[..];
            let mut windows = self.lock();
            for nr in missing {
                let (of_window, others) = rest.split_at(range(nr).len());
                windows.insert(nr, of_window.into());
                rest = others;
            }
        }
        Ok(self.known(chunks).unwrap_or_else(|| vec![None; chunks.len()]))
    }

    /// The places of chunks if all of their windows were looked up.
    fn known(&self, chunks: &[u32]) -> Option<Vec<Option<Place>>> {
        let windows = self.lock();
        let place = |chunk: &u32| windows.get(&window_of(chunk))?.get(*chunk as usize % WINDOW_CHUNKS).copied();
        chunks.iter().map(place).collect()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<usize, Window>> {
        self.windows.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn window_of(chunk: &u32) -> usize {
    *chunk as usize / WINDOW_CHUNKS
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may fail by panicking")]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::mpsc::channel;

    use serde_bytes::ByteBuf;
    use tempfile::TempDir;

    use super::*;
    use crate::id::CheckpointId;
    use crate::progress::Quiet;
    use crate::store::Store;

    #[test]
    fn what_is_known_is_told_while_the_index_hangs() {
        let directory = TempDir::new().unwrap();
        let store = Store::init(directory.path().join("store").as_path()).unwrap();
        let count = 2 * WINDOW_CHUNKS;
        let manifest = Manifest {
            store: store.id(),
            id: CheckpointId::from_bytes([2; 16]),
            run: "r".into(),
            step: None,
            time_ms: 0,
            metrics: BTreeMap::new(),
            meta: BTreeMap::new(),
            root: None,
            chunk_ids: ByteBuf::from((0..count).flat_map(|nr| ChunkId::of(&nr.to_le_bytes()).0).collect::<Vec<_>>()),
            chunk_lens: vec![1; count],
            inline: ByteBuf::new(),
            files: Vec::new(),
        };
        let places = Places::default();
        let of = |chunk: usize, head: &dyn Fn() -> Head| {
            let reader = ChunkReader::new(store.backend(), store.id());
            places.of(&[chunk as u32], &manifest, &reader, (store.index(), || head()), &Quiet).unwrap()
        };
        let head = || Head::new(store.id());
        assert_eq!(of(0, &head), [None]);
        let (come, came) = channel();
        let (leave, left) = channel::<()>();
        std::thread::scope(|scope| {
            let (of, head) = (&of, &head);
            scope.spawn(move || {
                let hang = || {
                    come.send(()).unwrap();
                    let _ = left.recv();
                    head()
                };
                of(WINDOW_CHUNKS, &hang)
            });
            came.recv().unwrap();
            let (tell, told) = channel();
            scope.spawn(move || tell.send(of(1, head)).unwrap());
            let answer = told.recv_timeout(std::time::Duration::from_secs(20));
            drop(leave);
            assert_eq!(answer.unwrap(), [None]);
        });
    }
}
