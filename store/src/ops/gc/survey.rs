//! What the store holds and what of it is in use, pack by pack and run by run. Never changes anything, keeps no list of
//! a pack's chunks, and answers nothing when a manifest could not be read: a mark that is not complete is no mark.

mod copies;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use super::marks::{Gathering, Marks, NO_RUN, run_number};
use crate::backend::{Backend, Family, Key, read_whole};
use crate::catalog::State;
use crate::error::{Error, Result};
use crate::format::envelope;
use crate::format::manifest::Manifest;
use crate::format::pack::Line;
use crate::id::{CheckpointId, ChunkId, PackId, SessionId};
use crate::limits::OBJECT_BYTES_MAX;
use crate::packs::read_trailer;
use crate::parallel::in_order;
use crate::progress::{Progress, Quiet, Stage};
use crate::session::{self, Live};
use crate::store::Store;

/// What may be done with a pack.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// Whatever its use allows.
    Free,
    /// Nothing: its session lives, and may name what nobody names yet, or a live session has pinned it.
    Live,
    /// Nothing: its list of chunks can't be read.
    Unreadable,
    /// It is being deleted, or gone since it was listed.
    Going,
}

/// What is known of a pack.
#[derive(Debug, Clone)]
pub struct Pack {
    /// Its name.
    pub id: PackId,
    /// Its bytes.
    pub bytes: u64,
    /// What may be done with it.
    pub standing: Standing,
    /// Bytes of all its payloads.
    pub payload: u64,
    /// Bytes of the payloads that are in use and have no newer copy.
    pub used: u64,
    /// How many those are.
    pub used_chunks: u64,
    /// Chunks in use that a newer pack has as well.
    pub copies: u64,
    /// Whether the newer copies were read and checked.
    pub copies_checked: bool,
    /// Those of the copies that are needed all the same: the newer one is damaged.
    pub rescued: HashSet<ChunkId>,
}

/// What a run uses.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RunUse {
    /// Stored bytes of the chunks that it uses.
    pub stored_bytes: u64,
    /// Of these, those of chunks that no other run uses.
    pub unique_bytes: u64,
}

/// What the store holds.
pub struct Survey {
    /// Checkpoints that were dropped and that somebody reads.
    pub still_read: Vec<CheckpointId>,
    /// Its packs, the oldest first.
    pub packs: Vec<Pack>,
    /// Manifests and catalogs that nothing names.
    pub objects: Vec<(Key, u64)>,
    /// Bytes that dead sessions left behind unpublished.
    pub leftover_bytes: u64,
    /// What each run uses.
    pub runs: BTreeMap<String, RunUse>,
    marks: Marks,
    /// For the first mark of each chunk, one more than the place of the newest pack that has it.
    homes: Vec<u32>,
    checkpoints: BTreeSet<CheckpointId>,
    /// What came into use after the packs were looked at.
    late: Marks,
}

/// Who uses a chunk of a pack.
enum Use {
    Nobody,
    /// It is needed where it is.
    Here,
    /// A newer pack has it as well: that one's place in the list.
    Elsewhere(usize),
}

impl Pack {
    /// A pack of which nothing is known yet.
    pub fn new(id: PackId, bytes: u64, standing: Standing) -> Self {
        let rescued = HashSet::new();
        Self { id, bytes, standing, payload: 0, used: 0, used_chunks: 0, copies: 0, copies_checked: false, rescued }
    }
}

impl Survey {
    /// Finds out what is in use once the checkpoints `without` are dropped. Objects are listed before sessions and
    /// sessions are read before HEAD: whatever a session published before it ended is then either in HEAD or garbage.
    pub fn take(store: &Store, without: &BTreeSet<CheckpointId>, progress: &dyn Progress) -> Result<Self> {
        let backend = store.backend();
        let mut listed = backend.list(Family::Packs)?;
        let (manifests, catalogs) = (backend.list(Family::Manifests)?, backend.list(Family::Catalogs)?);
        let sessions = session::live(store.root(), false)?;
        let state = State::load(backend)?;
        listed.sort_unstable_by_key(|(key, _)| *key);

        let mut names: Vec<&str> = state.entries.iter().map(|entry| &*entry.run).collect();
        names.sort_unstable();
        names.dedup();
        let numbers: HashMap<&str, u32> = names.iter().enumerate().map(|(at, name)| (*name, run_number(at))).collect();
        let used = state.entries.iter().filter(|entry| !without.contains(&entry.id));
        let used: Vec<(CheckpointId, u32)> = used.map(|entry| (entry.id, numbers[&*entry.run])).collect();
        let mut survey = Self {
            still_read: Vec::new(),
            packs: Vec::new(),
            objects: Vec::new(),
            leftover_bytes: 0,
            runs: BTreeMap::new(),
            marks: Marks::none(),
            homes: Vec::new(),
            checkpoints: BTreeSet::new(),
            late: Marks::none(),
        };
        let gathering = Gathering::new();
        survey.mark(backend, &gathering, &used, true, progress)?;
        let pinned = survey.pinned(&sessions);
        // Others were never there, or are collected already.
        let there: HashSet<Key> = manifests.iter().map(|(key, _)| *key).collect();
        survey.still_read = pinned.iter().map(|(id, _)| *id).filter(|id| there.contains(&Key::Manifest(*id))).collect();
        survey.mark(backend, &gathering, &pinned, false, progress)?;
        survey.marks = gathering.seal();

        let live: HashSet<SessionId> = sessions.iter().map(|session| session.id).collect();
        let kept: HashSet<PackId> = sessions.iter().flat_map(|session| session.packs.iter().copied()).collect();
        survey.find_homes(store, &state, (&live, &kept), &listed, progress)?;
        let uses = survey.measure(store, names.len(), progress)?;
        survey.runs = names.iter().enumerate().map(|(at, name)| ((*name).to_owned(), uses[at])).collect();
        survey.check_copies(store, progress)?;

        let catalog = state.head.catalog.filter(|_| !state.head.folds(without.len()));
        for (key, bytes) in manifests.into_iter().chain(catalogs) {
            let used = match key {
                Key::Manifest(id) => survey.checkpoints.contains(&id),
                Key::Catalog(id) => catalog == Some(id),
                _ => true,
            };
            if !used && !written_by_live(backend, key, &live)? {
                survey.objects.push((key, bytes));
            }
        }
        survey.leftover_bytes = backend.sweep_unpublished(&|| live_owners(store, false), false)?;
        Ok(survey)
    }

    /// The chunks of a pack that are needed there, in the order of the pack; none when it is gone.
    pub fn needed(&self, store: &Store, at: usize) -> Result<Vec<Line>> {
        let mut lines = read_lines(store, self.packs[at].id)?.unwrap_or_default();
        lines.retain(|line| matches!(self.use_of(at, line.id), Use::Here));
        Ok(lines)
    }

    /// Whether a checkpoint is in use.
    pub fn uses(&self, checkpoint: CheckpointId) -> bool {
        self.checkpoints.contains(&checkpoint)
    }

    /// Marks what was added since, and takes those packs out of `packs` that it needs.
    pub fn spare_new(&mut self, store: &Store, state: &State, packs: &mut BTreeSet<PackId>) -> Result<()> {
        let new: Vec<(CheckpointId, u32)> =
            state.entries.iter().filter(|entry| !self.uses(entry.id)).map(|entry| (entry.id, NO_RUN)).collect();
        self.mark_late(store, &new, true, packs)
    }

    /// Does the same with what sessions pinned since: checkpoints, and the packs themselves.
    pub fn spare_pinned(&mut self, store: &Store, packs: &mut BTreeSet<PackId>) -> Result<()> {
        let sessions = session::live(store.root(), false)?;
        let kept: HashSet<PackId> = sessions.iter().flat_map(|session| session.packs.iter().copied()).collect();
        packs.retain(|pack| !kept.contains(pack));
        self.mark_late(store, &self.pinned(&sessions), false, packs)
    }

    fn mark_late(
        &mut self,
        store: &Store,
        new: &[(CheckpointId, u32)],
        required: bool,
        packs: &mut BTreeSet<PackId>,
    ) -> Result<()> {
        if !new.is_empty() {
            let gathering = std::mem::replace(&mut self.late, Marks::none()).reopen();
            // Sealed even if it fails: then nothing is deleted.
            let marked = self.mark(store.backend(), &gathering, new, required, &Quiet);
            self.late = gathering.seal();
            marked?;
        }
        if self.late.count() == 0 {
            return Ok(());
        }
        let mut spared = Vec::new();
        for pack in packs.iter() {
            // What the first marks already had lies elsewhere as well, or the pack would not be here.
            let is_new = |line: &Line| self.late.contains(line.id) && !self.marks.contains(line.id);
            if read_lines(store, *pack)?.is_none_or(|lines| lines.iter().any(is_new)) {
                spared.push(*pack);
            }
        }
        packs.retain(|pack| !spared.contains(pack));
        Ok(())
    }

    /// Marks checkpoints and all their chunks. One whose manifest can't be read ends the gc, unless it may be missing.
    fn mark(
        &mut self,
        backend: &dyn Backend,
        gathering: &Gathering,
        checkpoints: &[(CheckpointId, u32)],
        required: bool,
        progress: &dyn Progress,
    ) -> Result<()> {
        progress.begin(Stage::Mark, checkpoints.len() as u64);
        in_order(
            checkpoints.len(),
            progress,
            || (),
            |(), at| {
                let (id, run) = checkpoints[at];
                let key = Key::Manifest(id);
                let Some(bytes) = read_whole(backend, key, OBJECT_BYTES_MAX)? else {
                    return if required { Err(Error::corrupt(key, "it is missing")) } else { Ok(()) };
                };
                gathering.add(Manifest::from_bytes(id, &bytes).map_err(|error| error.of(key))?.chunks(), run);
                progress.advance(1);
                Ok(())
            },
        )?;
        self.checkpoints.extend(checkpoints.iter().map(|(id, _)| id));
        Ok(())
    }

    /// The checkpoints that sessions read and that are not marked.
    fn pinned(&self, sessions: &[Live]) -> Vec<(CheckpointId, u32)> {
        let pinned: BTreeSet<CheckpointId> = sessions.iter().flat_map(|session| session.pins.iter().copied()).collect();
        pinned.difference(&self.checkpoints).map(|id| (*id, NO_RUN)).collect()
    }

    /// Looks at every pack, and finds the newest that has each chunk in use.
    fn find_homes(
        &mut self,
        store: &Store,
        state: &State,
        (live, kept): (&HashSet<SessionId>, &HashSet<PackId>),
        listed: &[(Key, u64)],
        progress: &dyn Progress,
    ) -> Result<()> {
        let homes: Vec<AtomicU32> = (0..self.marks.count()).map(|_| AtomicU32::new(0)).collect();
        self.packs = in_order(
            listed.len(),
            progress,
            || (),
            |(), at| {
                let (Key::Pack(id), bytes) = listed[at] else { return Err(Error::Internal("no pack".into())) };
                let mut pack = Pack::new(id, bytes, Standing::Going);
                if state.head.deleting.contains(&id) {
                    return Ok(pack);
                }
                // Deleted since the listing: by a gc, if this is only a dry run.
                let Some(object) = store.backend().open(Key::Pack(id))? else {
                    pack.bytes = 0;
                    return Ok(pack);
                };
                let lines = match read_trailer(id, store.id(), &*object) {
                    Ok((header, lines)) => {
                        let is_live = live.contains(&header.session) || kept.contains(&id);
                        pack.standing = if is_live { Standing::Live } else { Standing::Free };
                        lines
                    }
                    Err(Error::Corrupt { .. }) => {
                        pack.standing = Standing::Unreadable;
                        return Ok(pack);
                    }
                    Err(error) => return Err(error),
                };
                for line in &lines {
                    pack.payload += u64::from(line.stored_len);
                    if let Some(marks) = self.marks.find(line.id) {
                        homes[marks.start].fetch_max(at as u32 + 1, Ordering::Relaxed);
                    }
                }
                Ok(pack)
            },
        )?;
        self.homes = homes.into_iter().map(AtomicU32::into_inner).collect();
        Ok(())
    }

    /// Counts what of each pack is in use, and what each of the runs uses. Reads the packs' lists a second time:
    /// keeping them would take more memory than all else.
    fn measure(&mut self, store: &Store, runs: usize, progress: &dyn Progress) -> Result<Vec<RunUse>> {
        let uses: Vec<(AtomicU64, AtomicU64)> = (0..runs).map(|_| Default::default()).collect();
        let measured = in_order(
            self.packs.len(),
            progress,
            || (),
            |(), at| {
                let pack = &self.packs[at];
                let (mut used, mut used_chunks, mut copies) = (0, 0, 0);
                if matches!(pack.standing, Standing::Going | Standing::Unreadable) {
                    return Ok((used, used_chunks, copies));
                }
                for line in read_lines(store, pack.id)?.unwrap_or_default() {
                    let Some(marks) = self.marks.find(line.id) else { continue };
                    if let Use::Elsewhere(_) = self.use_of_marked(at, line.id, marks.start) {
                        copies += 1;
                        continue;
                    }
                    let bytes = u64::from(line.stored_len);
                    (used, used_chunks) = (used + bytes, used_chunks + 1);
                    let alone = if marks.len() == 1 { bytes } else { 0 };
                    let runs = self.marks.runs(line.id, marks);
                    for (stored, unique) in runs.filter_map(|run| uses.get(run as usize)) {
                        stored.fetch_add(bytes, Ordering::Relaxed);
                        unique.fetch_add(alone, Ordering::Relaxed);
                    }
                }
                Ok((used, used_chunks, copies))
            },
        )?;
        for (pack, measured) in self.packs.iter_mut().zip(measured) {
            (pack.used, pack.used_chunks, pack.copies) = measured;
        }
        let uses = uses
            .into_iter()
            .map(|(stored, unique)| RunUse { stored_bytes: stored.into_inner(), unique_bytes: unique.into_inner() });
        Ok(uses.collect())
    }

    fn use_of(&self, at: usize, id: ChunkId) -> Use {
        self.marks.find(id).map_or(Use::Nobody, |marks| self.use_of_marked(at, id, marks.start))
    }

    /// Who uses a chunk whose first mark is known.
    fn use_of_marked(&self, at: usize, id: ChunkId, mark: usize) -> Use {
        match self.homes[mark] as usize {
            home if home > at + 1 && !self.packs[at].rescued.contains(&id) => Use::Elsewhere(home - 1),
            _ => Use::Here,
        }
    }
}

/// The sessions that live, by the names that their leftovers bear; files of dead ones are removed when `clear` is set.
pub fn live_owners(store: &Store, clear: bool) -> Result<HashSet<String>> {
    Ok(session::live(store.root(), clear)?.into_iter().map(|live| live.id.to_string()).collect())
}

/// The list of a pack's chunks; none when it is gone or can't be read.
pub fn read_lines(store: &Store, pack: PackId) -> Result<Option<Vec<Line>>> {
    let Some(object) = store.backend().open(Key::Pack(pack))? else { return Ok(None) };
    match read_trailer(pack, store.id(), &*object) {
        Ok((_, lines)) => Ok(Some(lines)),
        Err(Error::Corrupt { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Whether an object that HEAD does not name may still become named: its session lives.
fn written_by_live(backend: &dyn Backend, key: Key, live: &HashSet<SessionId>) -> Result<bool> {
    let Some(object) = backend.open(key)? else { return Ok(false) };
    let mut header = [0; envelope::HEADER_BYTES];
    if object.size() < header.len() as u64 {
        return Ok(false);
    }
    object.read_exact_at(&mut header, 0)?;
    Ok(envelope::session_of(&header).is_ok_and(|session| live.contains(&session)))
}
