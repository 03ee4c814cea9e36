//! Reads everything back and checks it. Never mends: damaged chunks are only set aside in the index, so that storing
//! the same bytes again heals them.

mod checkpoint;
mod damage;
mod ids;
mod pack;
mod survey;

use std::collections::{HashMap, HashSet};

pub(super) use self::checkpoint::{check_checkpoint, damage_of_checkpoint, find_copies};
pub(super) use self::damage::{Judgment, judge};
pub(super) use self::ids::ChunkSet;
pub(super) use self::pack::{Checked, check_pack, is_refused, read_twice};

use self::damage::Listed;
use self::survey::Survey;
use super::sound;
use crate::catalog::{State, refs};
use crate::error::{Damage, Error, Result};
use crate::format::catalog::Entry;
use crate::id::{CheckpointId, PackId};
use crate::progress::Progress;
use crate::session::{Session, pin_if_possible};
use crate::store::Store;

/// How often the packs are listed again because a gc moved some of them meanwhile.
const ROUNDS_MAX: usize = 100;

/// What to check.
#[derive(Debug, Clone, Default)]
pub struct VerifyRequest {
    /// One checkpoint; none means the whole store.
    pub reference: Option<String>,
    /// Whether to leave the chunks' bytes unread.
    pub quick: bool,
    /// Packs that were found sound no longer than this many milliseconds ago are not read again.
    pub not_since_ms: Option<i64>,
}

/// What verify found.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct VerifyReport {
    /// Checkpoints checked.
    pub checkpoints: u64,
    /// Distinct chunks checked.
    pub chunks: u64,
    /// Stored bytes read.
    pub bytes: u64,
    /// Stored bytes that were not read because they had been found sound not long ago.
    pub skipped_bytes: u64,
    /// Damage that checkpoints suffer; of very much damage only a part.
    pub damaged: Vec<Damage>,
    /// Places that are damaged beyond those listed.
    pub damaged_more: u64,
    /// Objects of the store that are damaged in themselves, and how.
    pub objects: Vec<(String, String)>,
    /// Damage that no checkpoint suffers: another pack has a sound copy, or nothing needs the chunk.
    pub harmless: Vec<(String, String)>,
}

impl VerifyReport {
    /// Whether nothing is damaged that anybody could miss.
    pub fn is_sound(&self) -> bool {
        self.damaged.is_empty() && self.objects.is_empty()
    }
}

/// Packs that need not be read, because they were found sound not long ago.
pub(super) struct Recent {
    verified: HashMap<PackId, i64>,
    from_ms: i64,
    until_ms: i64,
}

impl Recent {
    /// No pack need not be read.
    pub(super) fn none() -> Self {
        Self { verified: HashMap::new(), from_ms: 0, until_ms: 0 }
    }

    fn new(store: &Store, request: &VerifyRequest) -> Self {
        let until_ms = store.now_ms();
        match request.not_since_ms.filter(|_| !request.quick) {
            Some(age_ms) => {
                Self { verified: store.index().verified(), from_ms: until_ms.saturating_sub(age_ms), until_ms }
            }
            None => Self::none(),
        }
    }

    /// Whether the pack may be passed over. A time that has not come yet is one of a clock that was wrong.
    fn has(&self, pack: PackId) -> bool {
        self.verified.get(&pack).is_some_and(|time_ms| (self.from_ms..=self.until_ms).contains(time_ms))
    }
}

/// Verifies.
pub fn verify(store: &Store, request: &VerifyRequest, progress: &dyn Progress) -> Result<VerifyReport> {
    let session = Session::of_reader(store.root(), "verify")?;
    let reference = request.reference.as_deref().map(|text| sound::settle(store, text, progress)).transpose()?;
    let find = |state: &State| match &reference {
        Some(reference) => Ok(vec![refs::resolve(state, reference)?.clone()]),
        None => Ok(state.entries.clone()),
    };
    let state = State::load(store.backend())?;
    let mut entries: Vec<Entry> = find(&state)?;
    let _session = pin_if_possible(session, entries.iter().map(|entry| entry.id))?;
    // From here on a gc keeps what they need; one that was dropped before is none of ours.
    let now = State::load(store.backend())?;
    let there: HashSet<CheckpointId> = now.entries.iter().map(|entry| entry.id).collect();
    entries.retain(|entry| there.contains(&entry.id));
    let recent = Recent::new(store, request);
    let mut report = VerifyReport { checkpoints: entries.len() as u64, ..VerifyReport::default() };
    match &reference {
        None => Survey::new(store, request.quick, &recent).run(&state, &entries, &mut report, progress)?,
        Some(_) => verify_one(store, &entries, request.quick, &recent, &mut report, progress)?,
    }
    Ok(report)
}

fn verify_one(
    store: &Store,
    entries: &[Entry],
    quick: bool,
    recent: &Recent,
    report: &mut VerifyReport,
    progress: &dyn Progress,
) -> Result<()> {
    for entry in entries {
        let checked = match check_checkpoint(store, entry, quick, recent, progress) {
            Err(Error::Corrupt { what, reason }) => {
                report.objects.push((what, format!("{reason} ({})", refs::name_of(entry))));
                continue;
            }
            other => other?,
        };
        (report.chunks, report.bytes, report.skipped_bytes) = (checked.chunks, checked.bytes, checked.skipped_bytes);
        set_aside(store, &checked.bad);
        let listed = Listed::default();
        listed.add(damage_of_checkpoint(entry, &checked));
        (report.damaged, report.damaged_more) = listed.into_parts();
    }
    Ok(())
}

/// Best effort: it decides only whether the next put of these bytes already heals them.
fn set_aside<'a>(
    store: &Store,
    bad: impl IntoIterator<Item = (&'a crate::id::ChunkId, &'a super::reading::Unreadable)>,
) {
    let aside: Vec<_> = bad.into_iter().filter_map(|(id, why)| why.pack.map(|pack| (*id, pack))).collect();
    let _ = store.index().set_aside(&aside);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_that_has_not_come_yet_is_of_a_clock_that_was_wrong() {
        let pack = PackId::generate();
        let at = |time_ms| Recent { verified: HashMap::from([(pack, time_ms)]), from_ms: 1000, until_ms: 2000 };
        assert!(at(1000).has(pack) && at(1500).has(pack) && at(2000).has(pack));
        assert!(!at(999).has(pack), "too long ago");
        assert!(!at(2001).has(pack) && !at(i64::MAX).has(pack), "it has not come yet");
        assert!(!at(1500).has(PackId::generate()) && !Recent::none().has(pack));
    }
}
