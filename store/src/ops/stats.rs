//! What the store holds, what that would be without it, and what is left of the disk. Never changes anything.

use std::collections::{BTreeMap, BTreeSet};

use super::gc::{self, survey::Survey};
use crate::backend::Family;
use crate::catalog::State;
use crate::error::Result;
use crate::format::catalog::Entry;
use crate::progress::Progress;
use crate::space::Room;
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
    /// Milliseconds until the disk is full at the pace of the last checkpoints; none when they wrote nothing or are too few
    /// to have a pace.
    pub full_in_ms: Option<u64>,
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
    /// Stored bytes of the chunks that they use; chunks of several runs count for each.
    pub stored_bytes: u64,
    /// Of these, those of chunks that no other run uses: what dropping the run would free.
    pub unique_bytes: u64,
    /// Bytes that each of its last checkpoints wrote, on average.
    pub growth_bytes: Option<u64>,
}

/// Gathers the figures.
pub fn stats(store: &Store, progress: &dyn Progress) -> Result<Stats> {
    let survey = Survey::take(store, &BTreeSet::new(), progress)?;
    let state = State::load(store.backend())?;
    let mut by_run: BTreeMap<&str, Vec<&Entry>> = BTreeMap::new();
    for entry in &state.entries {
        by_run.entry(&entry.run).or_default().push(entry);
    }
    let runs = by_run.into_iter().map(|(name, entries)| {
        let sum = |of: fn(&Entry) -> u64| entries.iter().map(|entry| of(entry)).sum();
        let uses = survey.runs.get(name).copied().unwrap_or_default();
        let figures = RunStats {
            checkpoints: entries.len() as u64,
            logical_bytes: sum(|entry| entry.logical_bytes),
            added_bytes: sum(|entry| entry.added_bytes),
            written_bytes: sum(|entry| entry.written_bytes),
            stored_bytes: uses.stored_bytes,
            unique_bytes: uses.unique_bytes,
            growth_bytes: growth(&entries),
        };
        (name.to_owned(), figures)
    });
    let runs = runs.collect();
    let mut stored_bytes = 0;
    for family in [Family::Packs, Family::Manifests, Family::Catalogs] {
        stored_bytes += store.backend().list(family)?.iter().map(|(_, bytes)| bytes).sum::<u64>();
    }
    let all: Vec<&Entry> = state.entries.iter().collect();
    let free_bytes = Room::at(store.root())?.free;
    Ok(Stats {
        logical_bytes: state.entries.iter().map(|entry| entry.logical_bytes).sum(),
        stored_bytes,
        reclaimable_bytes: gc::reclaimable(store, &survey)?,
        free_bytes,
        checkpoints: state.entries.len() as u64,
        growth_bytes: growth(&all),
        full_in_ms: full_in(&all, free_bytes),
        runs,
    })
}

/// The checkpoints by which the growth is judged, of a list in the order in which they were stored.
fn last<'a, 'b>(entries: &'a [&'b Entry]) -> &'a [&'b Entry] {
    let last = &entries[entries.len().saturating_sub(GROWTH_OVER)..];
    // The first checkpoint writes what all others share; it says nothing of growth once there are others.
    if last.len() == entries.len() && last.len() > 1 { &last[1..] } else { last }
}

fn growth(entries: &[&Entry]) -> Option<u64> {
    let last = last(entries);
    (!last.is_empty()).then(|| last.iter().map(|entry| entry.written_bytes).sum::<u64>() / last.len() as u64)
}

/// Milliseconds until `free` bytes are full, if all goes on as between the first and the last of the last checkpoints.
fn full_in(entries: &[&Entry], free: u64) -> Option<u64> {
    let (first, later) = last(entries).split_first()?;
    let span_ms = u128::try_from(later.last()?.time_ms.checked_sub(first.time_ms)?).ok().filter(|span| *span > 0)?;
    let written: u128 = later.iter().map(|entry| u128::from(entry.written_bytes)).sum();
    u64::try_from((u128::from(free) * span_ms).checked_div(written)?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::CheckpointId;

    fn entry(time_ms: i64, written_bytes: u64) -> Entry {
        Entry {
            id: CheckpointId::generate(),
            run: "r".into(),
            step: None,
            time_ms,
            metrics: BTreeMap::new(),
            tags: BTreeSet::new(),
            pinned: false,
            files: 1,
            logical_bytes: 1000,
            added_bytes: written_bytes,
            written_bytes,
        }
    }

    fn judged(entries: &[(i64, u64)], free: u64) -> (Option<u64>, Option<u64>) {
        let entries: Vec<Entry> = entries.iter().map(|(time, written)| entry(*time, *written)).collect();
        let entries: Vec<&Entry> = entries.iter().collect();
        (growth(&entries), full_in(&entries, free))
    }

    #[test]
    fn growth_and_pace_are_those_of_the_last_checkpoints() {
        assert_eq!(judged(&[], 1), (None, None));
        assert_eq!(judged(&[(0, 500)], 1), (Some(500), None), "one has no pace");
        assert_eq!(judged(&[(0, 500), (10, 40)], 1), (Some(40), None), "the first is no growth");
        // 100 bytes in 10 s, after the first two: 1000 bytes are full in 100 s.
        assert_eq!(judged(&[(0, 9999), (5_000, 60), (15_000, 100)], 1000), (Some(80), Some(100_000)));
        assert_eq!(judged(&[(0, 1), (5_000, 60), (5_000, 100)], 1000).1, None, "all at once");
        assert_eq!(judged(&[(9, 1), (5_000, 60), (4_000, 100)], 1000).1, None, "a clock that went back");
        assert_eq!(judged(&[(0, 1), (5_000, 60), (9_000, 0)], 1000).1, None, "nothing was written");
        let many: Vec<(i64, u64)> = (0..30).map(|nr| (nr * 1000, if nr < 20 { 777_777 } else { 10 })).collect();
        assert_eq!(judged(&many, 100), (Some(10), Some(10_000)), "old ones don't count");
        assert_eq!(judged(&[(0, 1), (0, 1), (i64::MAX, 1)], u64::MAX).1, None, "beyond all time");
    }
}
