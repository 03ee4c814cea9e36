//! The manifests of checkpoints that somebody looks into, and what follows from them. Never holds more of them than a bound of
//! bytes, and never reads one twice at a time.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use ckpt_store::{CheckpointId, Content, Manifest, Result, Segment, Store, Tensor};

use crate::members::Members;
use crate::views::Views;

/// About how many bytes of manifests are kept. One of a checkpoint of 100 GB takes some MB; a larger one is kept alone.
const BYTES_MAX: usize = 64 << 20;

/// A checkpoint that somebody looks into.
pub struct Loaded {
    /// What it holds.
    pub manifest: Arc<Manifest>,
    /// Its directories.
    pub members: Members,
    /// What it is shown as besides.
    pub views: Views,
}

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
    loaded: OnceLock<Arc<Loaded>>,
    loading: Mutex<()>,
}

impl Manifests {
    /// The manifest of a checkpoint.
    ///
    /// # Errors
    /// When it can't be read, or is gone.
    pub fn get(&self, store: &Store, id: CheckpointId) -> Result<Arc<Loaded>> {
        let cell = self.cell(id);
        if let Some(loaded) = cell.loaded.get() {
            return Ok(Arc::clone(loaded));
        }
        let _loading = cell.loading.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(loaded) = cell.loaded.get() {
            return Ok(Arc::clone(loaded));
        }
        match store.manifest(id) {
            Ok(manifest) => {
                let (members, views) = (Members::new(&manifest), Views::default());
                let loaded = Arc::new(Loaded { manifest: Arc::new(manifest), members, views });
                self.keep(id, bytes_of(&loaded));
                Ok(Arc::clone(cell.loaded.get_or_init(|| loaded)))
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
        kept.bytes = bytes;
        inside.bytes += bytes;
        while inside.bytes > BYTES_MAX {
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

/// About how many bytes of memory it takes.
fn bytes_of(loaded: &Loaded) -> usize {
    let manifest = &loaded.manifest;
    let tensor = |tensor: &Option<Tensor>| match tensor {
        Some(Tensor(name, dtype, shape)) => {
            name.len() + dtype.as_ref().map_or(0, String::len) + 8 * shape.as_ref().map_or(0, Vec::len)
        }
        None => 0,
    };
    let content = |content: &Content| match content {
        Content::File { segments, views, .. } => {
            let segments = segments.iter().map(|segment| size_of::<Segment>() + tensor(&segment.3)).sum::<usize>();
            segments + views.iter().map(|view| 256 + view.0.len()).sum::<usize>()
        }
        Content::Directory => 0,
        Content::Link { target } => target.len(),
    };
    let files = manifest.files.iter().map(|file| 192 + file.path.len() + content(&file.content));
    let meta = manifest.meta.iter().map(|(name, text)| 64 + name.len() + text.len());
    1024 + manifest.inline.len()
        + 36 * manifest.chunk_count()
        + files.sum::<usize>()
        + meta.sum::<usize>()
        + loaded.members.bytes()
}
