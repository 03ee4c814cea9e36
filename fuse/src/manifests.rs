//! The checkpoints that somebody looks into. Never holds more of them than a bound of bytes, and never reads one twice at a time.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use ckpt_store::{CheckpointId, Result, Store};

use crate::checkpoint::Checkpoint;
use crate::limits::MANIFESTS_BYTES;

/// The manifests that are kept.
#[derive(Default)]
pub struct Manifests {
    inside: Mutex<Inside>,
}

#[derive(Default)]
struct Inside {
    kept: HashMap<CheckpointId, Kept>,
    bytes: usize,
    /// Counts uses.
    clock: u64,
}

struct Kept {
    cell: Arc<Cell>,
    bytes: usize,
    used: u64,
}

/// Filled by the first who needs it, while others wait.
#[derive(Default)]
struct Cell {
    checkpoint: OnceLock<Arc<Checkpoint>>,
    loading: Mutex<()>,
}

impl Manifests {
    /// The manifest of a checkpoint.
    ///
    /// # Errors
    /// When it can't be read, or is gone.
    pub fn get(&self, store: &Store, id: CheckpointId) -> Result<Arc<Checkpoint>> {
        let cell = self.cell(id);
        if let Some(checkpoint) = cell.checkpoint.get() {
            return Ok(Arc::clone(checkpoint));
        }
        let _loading = cell.loading.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(checkpoint) = cell.checkpoint.get() {
            return Ok(Arc::clone(checkpoint));
        }
        match store.manifest(id) {
            Ok(manifest) => {
                let checkpoint = Arc::new(Checkpoint::new(manifest));
                self.keep(id, checkpoint.bytes());
                Ok(Arc::clone(cell.checkpoint.get_or_init(|| checkpoint)))
            }
            Err(error) => {
                self.let_go(id, &cell);
                Err(error)
            }
        }
    }

    fn cell(&self, id: CheckpointId) -> Arc<Cell> {
        let mut inside = self.inside.lock().unwrap_or_else(PoisonError::into_inner);
        inside.clock += 1;
        let used = inside.clock;
        let kept = inside.kept.entry(id).or_insert_with(|| Kept { cell: Arc::default(), bytes: 0, used });
        kept.used = used;
        Arc::clone(&kept.cell)
    }

    /// Counts the bytes of one that was read, and drops others for it.
    fn keep(&self, id: CheckpointId, bytes: usize) {
        let mut inside = self.inside.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(kept) = inside.kept.get_mut(&id) else { return };
        // Another one may have read it at the same time, when the first who tried could not.
        let counted = std::mem::replace(&mut kept.bytes, bytes);
        inside.bytes = inside.bytes - counted + bytes;
        while inside.bytes > MANIFESTS_BYTES {
            let others = inside.kept.iter().filter(|(other, kept)| **other != id && kept.bytes > 0);
            let Some(oldest) = others.min_by_key(|(_, kept)| kept.used).map(|(other, _)| *other) else { break };
            let bytes = inside.kept.remove(&oldest).map_or(0, |kept| kept.bytes);
            inside.bytes -= bytes;
        }
    }

    fn let_go(&self, id: CheckpointId, cell: &Arc<Cell>) {
        let mut inside = self.inside.lock().unwrap_or_else(PoisonError::into_inner);
        if inside.kept.get(&id).is_some_and(|kept| Arc::ptr_eq(&kept.cell, cell)) {
            inside.kept.remove(&id);
        }
    }
}
