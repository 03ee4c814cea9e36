//! What the store holds, what that would be without it, and what is left of the disk. Never changes anything.

use std::collections::BTreeMap;

use super::gc;
use crate::backend::Family;
use crate::catalog::State;
use crate::error::{Error, Result};
use crate::progress::Progress;
use crate::store::Store;

/// Checkpoints over which the growth is averaged.
const GROWTH_OVER: usize = 10;

/// Figures of a store.
#[derive(Debug, Clone, PartialEq)]
pub struct Stats {
    /// Bytes of all files of all checkpoints.
    pub logical_bytes: u64,
    /// Bytes that the store takes on disk: packs, manifests, catalogs.
    pub stored_bytes: u64,
    /// Bytes that the next gc would free without dropping a checkpoint.
    pub reclaimable_bytes: u64,
    /// Bytes left on the file system that the store is on, for a user without privileges.
    pub free_bytes: u64,
    /// Checkpoints.
    pub checkpoints: u64,
    /// Bytes that each of the last checkpoints wrote, on average; none in an empty store.
    pub growth_bytes: Option<u64>,
    /// Figures of each run.
    pub runs: BTreeMap<String, RunStats>,
}

/// Figures of a run.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RunStats {
    /// Checkpoints.
    pub checkpoints: u64,
    /// Bytes of their files.
    pub logical_bytes: u64,
    /// Raw bytes that the store did not have before each.
    pub added_bytes: u64,
    /// Bytes that storing them wrote to packs.
    pub written_bytes: u64,
}

/// Gathers the figures.
pub fn stats(store: &Store, progress: &dyn Progress) -> Result<Stats> {
    let state = State::load(store.backend())?;
    let mut runs: BTreeMap<String, RunStats> = BTreeMap::new();
    for entry in &state.entries {
        let run = runs.entry(entry.run.clone()).or_default();
        run.checkpoints += 1;
        run.logical_bytes += entry.logical_bytes;
        run.added_bytes += entry.added_bytes;
        run.written_bytes += entry.written_bytes;
    }
    let mut stored_bytes = 0;
    for family in [Family::Packs, Family::Manifests, Family::Catalogs] {
        stored_bytes += store.backend().list(family)?.iter().map(|(_, bytes)| bytes).sum::<u64>();
    }
    let last = &state.entries[state.entries.len().saturating_sub(GROWTH_OVER)..];
    // The first checkpoint of a store writes what all others share; it says nothing of growth once there are others.
    let last = if last.len() == state.entries.len() && last.len() > 1 { &last[1..] } else { last };
    let growth_bytes =
        (!last.is_empty()).then(|| last.iter().map(|entry| entry.written_bytes).sum::<u64>() / last.len() as u64);
    let space = rustix::fs::statvfs(store.root()).map_err(|error| Error::io("read", store.root(), error.into()))?;
    Ok(Stats {
        logical_bytes: state.entries.iter().map(|entry| entry.logical_bytes).sum(),
        stored_bytes,
        reclaimable_bytes: gc::reclaimable(store, progress)?,
        free_bytes: space.f_bavail.saturating_mul(space.f_frsize),
        checkpoints: state.entries.len() as u64,
        growth_bytes,
        runs,
    })
}
