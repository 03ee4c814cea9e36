//! Checks every pack from its first byte to its last, then every checkpoint against what was found sound. Remembers while it
//! goes which packs were sound. Never takes a chunk for damaged because a gc moved it meanwhile.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::damage::{Judgment, judge};
use super::ids::ChunkSet;
use super::pack::check_pack;
use super::{ROUNDS_MAX, Recent, VerifyReport, set_aside};
use crate::backend::{Backend, Family, Key};
use crate::catalog::{State, read_head};
use crate::error::{Error, Result};
use crate::format::catalog::Entry;
use crate::id::{ChunkId, PackId};
use crate::limits::DAMAGE_LISTED_MAX;
use crate::ops::reading::{Buffers, Unreadable};
use crate::parallel::in_order;
use crate::progress::{Progress, Stage};
use crate::store::Store;

/// Packs whose times are written to the index at once, and the longest that one waits for that.
const TIMES_AT_ONCE: usize = 32;
const TIMES_WAIT_MAX: Duration = Duration::from_secs(2);

/// What is known of the packs so far.
pub struct Survey<'a> {
    store: &'a Store,
    quick: bool,
    recent: &'a Recent,
    seen: BTreeSet<PackId>,
    sound: ChunkSet,
    bad: Mutex<BTreeMap<ChunkId, Unreadable>>,
    problems: Mutex<BTreeMap<PackId, String>>,
    times: Mutex<Times>,
}

struct Times {
    sound: Vec<(PackId, i64)>,
    unsound: Vec<PackId>,
    written: Instant,
}

/// A list of packs that is exact: what a gc was about to delete is left out, and it took nothing away meanwhile.
pub fn stable_listing(backend: &dyn Backend) -> Result<Vec<(PackId, u64)>> {
    for _ in 0..ROUNDS_MAX {
        let head = read_head(backend)?;
        let listed = backend.list(Family::Packs)?;
        if read_head(backend)?.epoch != head.epoch {
            continue;
        }
        let mut packs: Vec<(PackId, u64)> = listed
            .into_iter()
            .filter_map(|(key, bytes)| if let Key::Pack(id) = key { Some((id, bytes)) } else { None })
            .filter(|(id, _)| !head.deleting.contains(id))
            .collect();
        packs.sort_unstable();
        return Ok(packs);
    }
    Err(Error::Busy("packs are being collected all the time".into()))
}

impl<'a> Survey<'a> {
    /// Nothing seen yet.
    pub fn new(store: &'a Store, quick: bool, recent: &'a Recent) -> Self {
        Self {
            store,
            quick,
            recent,
            seen: BTreeSet::new(),
            sound: ChunkSet::new(),
            bad: Mutex::default(),
            problems: Mutex::default(),
            times: Mutex::new(Times { sound: Vec::new(), unsound: Vec::new(), written: Instant::now() }),
        }
    }

    /// Checks all packs and these checkpoints.
    pub fn run(
        mut self,
        state: &State,
        entries: &[Entry],
        report: &mut VerifyReport,
        progress: &dyn Progress,
    ) -> Result<()> {
        let outcome = self.rounds(entries, report, progress);
        // What was found sound before an interruption is remembered.
        self.write_times(true);
        let (judgment, listed) = outcome?;
        self.tell(&judgment, &listed, report);
        // What index and catalog say is derived or checked on reading; what HEAD points at was read to get here.
        match self.store.index().check(self.store.backend(), &state.head, progress) {
            Ok(()) | Err(Error::Unavailable { .. } | Error::NoSpace { .. }) => {}
            Err(error) => report.objects.push(("index".into(), error.to_string())),
        }
        Ok(())
    }

    /// Looks at packs until nothing is missed, or what is missed is in none of those that there are. Answers what is damaged
    /// and which packs there were last.
    fn rounds(
        &mut self,
        entries: &[Entry],
        report: &mut VerifyReport,
        progress: &dyn Progress,
    ) -> Result<(Judgment, BTreeSet<PackId>)> {
        for _ in 0..ROUNDS_MAX {
            let listed = stable_listing(self.store.backend())?;
            let new: Vec<(PackId, u64)> = listed.iter().copied().filter(|(id, _)| !self.seen.contains(id)).collect();
            if !self.look_at(&new, report, progress)? {
                continue;
            }
            let mut judgment = self.judge(entries, progress)?;
            if judgment.damaged.is_empty() && judgment.manifests.is_empty() && self.lock_problems().is_empty() {
                return Ok((judgment, listed.into_iter().map(|(id, _)| id).collect()));
            }
            // Somebody may have stored again, moved or mended meanwhile what is missed.
            let now: BTreeSet<PackId> = stable_listing(self.store.backend())?.into_iter().map(|(id, _)| id).collect();
            if now.is_subset(&self.seen) {
                let state = State::load(self.store.backend())?;
                judgment.manifests.retain(|(entry, _)| state.entry(entry.id).is_some());
                return Ok((judgment, now));
            }
        }
        Err(Error::Busy("packs are being moved all the time".into()))
    }

    /// Looks at packs. Answers whether all of them were still there.
    fn look_at(&mut self, new: &[(PackId, u64)], report: &mut VerifyReport, progress: &dyn Progress) -> Result<bool> {
        let is_read = |id: PackId| !self.quick && !self.recent.has(id);
        progress.begin(Stage::Verify, new.iter().filter(|(id, _)| is_read(*id)).map(|(_, bytes)| bytes).sum());
        let this = &*self;
        let looked_at = in_order(new.len(), progress, Buffers::new, |buffers, at| {
            let id = new[at].0;
            let Some(object) = this.store.backend().open(Key::Pack(id))? else { return Ok(None) };
            let time_ms = this.store.now_ms();
            let checked = check_pack(this.store.id(), id, &*object, !is_read(id), buffers, progress)?;
            checked.good.iter().for_each(|line| this.sound.add(line.id, line.raw_len));
            if is_read(id) || !checked.is_sound() {
                this.remember(id, checked.is_sound(), time_ms);
            }
            let mut bad = this.bad.lock().unwrap_or_else(PoisonError::into_inner);
            for (chunk, unreadable) in checked.bad {
                // Of very much damage only a part is known by its cause; all of it is missed.
                if bad.len() < DAMAGE_LISTED_MAX {
                    bad.insert(chunk, unreadable);
                }
            }
            drop(bad);
            if let Some(problem) = checked.problem {
                this.lock_problems().insert(id, problem);
            }
            Ok(Some((id, object.size())))
        })?;
        let is_whole = looked_at.iter().all(Option::is_some);
        for (id, bytes) in looked_at.into_iter().flatten() {
            *(if is_read(id) { &mut report.bytes } else { &mut report.skipped_bytes }) += bytes;
            self.seen.insert(id);
        }
        if self.quick {
            (report.bytes, report.skipped_bytes) = (report.bytes + report.skipped_bytes, 0);
        }
        self.sound.settle();
        Ok(is_whole)
    }

    fn judge(&self, entries: &[Entry], progress: &dyn Progress) -> Result<Judgment> {
        let bad = self.bad.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let fault = |id: ChunkId, raw_len: u32| {
            if self.sound.has(id, raw_len) {
                return None;
            }
            Some(bad.get(&id).cloned().unwrap_or_else(|| Unreadable {
                pack: None,
                reason: match self.sound.len_of(id) {
                    Some(len) => format!("its manifest says {raw_len} bytes, its pack {len}"),
                    None => "no pack holds it".into(),
                },
            }))
        };
        judge(self.store, entries, &fault, progress)
    }

    /// Writes down what was found. Packs that are not there any more suffer no damage.
    fn tell(&mut self, judgment: &Judgment, listed: &BTreeSet<PackId>, report: &mut VerifyReport) {
        let problems = std::mem::take(&mut *self.lock_problems());
        let problems = problems.into_iter().filter(|(id, _)| listed.contains(id));
        report.objects.extend(problems.map(|(id, problem)| (Key::Pack(id).to_string(), problem)));
        report.objects.extend(judgment.manifest_objects());
        (report.damaged, report.damaged_more) = (judgment.damaged.clone(), judgment.more);
        let mut bad = std::mem::take(&mut *self.bad.lock().unwrap_or_else(PoisonError::into_inner));
        bad.retain(|_, unreadable| unreadable.pack.is_none_or(|pack| listed.contains(&pack)));
        let missed: BTreeSet<ChunkId> = judgment.missing.iter().map(|(id, _)| *id).collect();
        for (id, unreadable) in bad.iter().filter(|(id, _)| !missed.contains(*id)) {
            let has_copy = self.sound.len_of(*id).is_some();
            let why = if has_copy { "another pack has a sound copy" } else { "no checkpoint needs it" };
            let object = unreadable.pack.map_or_else(|| "packs".to_owned(), |pack| Key::Pack(pack).to_string());
            report.harmless.push((object, format!("chunk {id}: {}; {why}", unreadable.reason)));
        }
        bad.retain(|id, _| self.sound.len_of(*id).is_none());
        report.chunks = self.sound.count() + bad.len() as u64;
        set_aside(self.store, &bad);
    }

    fn remember(&self, id: PackId, is_sound: bool, time_ms: i64) {
        let mut times = self.times.lock().unwrap_or_else(PoisonError::into_inner);
        if is_sound {
            times.sound.push((id, time_ms));
        } else {
            times.unsound.push(id);
        }
        drop(times);
        self.write_times(false);
    }

    /// Writes what was remembered to the index, now or once there is enough of it. Best effort: where the index can't be
    /// written, the next verify reads more.
    fn write_times(&self, now: bool) {
        let mut times = self.times.lock().unwrap_or_else(PoisonError::into_inner);
        let is_due =
            times.sound.len() + times.unsound.len() >= TIMES_AT_ONCE || times.written.elapsed() >= TIMES_WAIT_MAX;
        if !now && !is_due {
            return;
        }
        times.written = Instant::now();
        let (sound, unsound) = (std::mem::take(&mut times.sound), std::mem::take(&mut times.unsound));
        drop(times);
        let _ = self.store.index().set_verified(&sound, &unsound);
    }

    fn lock_problems(&self) -> std::sync::MutexGuard<'_, BTreeMap<PackId, String>> {
        self.problems.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
