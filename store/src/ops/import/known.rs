//! Which checkpoints of a run were taken over from which files, read from their manifests once. Never decides whether two are
//! the same: that is for their bytes.

use std::collections::{HashMap, HashSet};
use std::path::Path;

use crate::catalog::State;
use crate::error::Result;
use crate::format::catalog::Entry;
use crate::id::CheckpointId;
use crate::store::Store;

/// The key of a checkpoint's metadata under which the path of its source stands.
pub const SOURCE: &str = "source";

/// Checkpoints by the last component of their source.
#[derive(Default)]
pub struct Known {
    by_name: HashMap<String, Vec<(CheckpointId, String)>>,
    seen: HashSet<CheckpointId>,
}

impl Known {
    /// Reads what was not read yet. A manifest that can't be read is passed over: verify reports it.
    fn refresh(&mut self, store: &Store, state: &State, run: &str) {
        for entry in state.entries.iter().filter(|entry| entry.run == run) {
            if self.seen.insert(entry.id)
                && let Ok(manifest) = store.manifest(entry.id)
                && let Some(source) = manifest.meta.get(SOURCE)
            {
                self.by_name.entry(last(source)).or_default().push((entry.id, source.clone()));
            }
        }
    }

    /// The checkpoint, stored last of several, that came from exactly this path.
    pub fn of_source(&mut self, store: &Store, state: &State, run: &str, source: &str) -> Result<Option<CheckpointId>> {
        self.refresh(store, state, run);
        let all = self.by_name.get(&last(source)).into_iter().flatten().rev();
        Ok(all.filter(|(id, path)| path == source && state.entry(*id).is_some()).map(|(id, _)| *id).next())
    }

    /// The checkpoints without step that came from a file of this name, the one stored last first.
    pub fn without_step<'a>(&mut self, store: &Store, state: &'a State, run: &str, source: &str) -> Vec<&'a Entry> {
        self.refresh(store, state, run);
        let all = self.by_name.get(&last(source)).into_iter().flatten().rev();
        all.filter_map(|(id, _)| state.entry(*id)).filter(|entry| entry.step.is_none()).collect()
    }

    /// The path that a checkpoint came from.
    pub fn source_of(&mut self, store: &Store, state: &State, entry: &Entry) -> Option<String> {
        self.refresh(store, state, &entry.run);
        let all = self.by_name.values().flatten();
        all.filter(|(id, _)| *id == entry.id).map(|(_, source)| source.clone()).next()
    }
}

fn last(source: &str) -> String {
    Path::new(source).file_name().unwrap_or_default().to_string_lossy().into_owned()
}
