//! Drops checkpoints by rules and frees what nothing uses. Marks before it takes anything away, takes nothing after a mark
//! that was incomplete, and unlinks no pack that HEAD does not list as being deleted.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::{Mutex, PoisonError};

use crate::backend::{Backend, Family, Key, read_whole};
use crate::catalog::policies::{Choice, RunGlob, judge_all};
use crate::catalog::rules::{Rules, Verdict};
use crate::catalog::{Draft, State, commit};
use crate::error::{Error, Result};
use crate::format::catalog::Change;
use crate::format::envelope;
use crate::format::manifest::Manifest;
use crate::format::pack::Line;
use crate::id::{CheckpointId, ChunkId, PackId, SessionId};
use crate::limits::OBJECT_BYTES_MAX;
use crate::packs::read_trailer;
use crate::parallel::in_order;
use crate::progress::{Notice, Progress, Stage};
use crate::session::{self, Session};
use crate::space::Spare;
use crate::store::Store;

/// What to collect.
#[derive(Debug, Clone, Default)]
pub struct GcRequest {
    /// Only these runs, as a glob; none means all.
    pub runs: Option<String>,
    /// Rules by which checkpoints are dropped; without any, the store's policies say.
    pub rules: Rules,
    /// Whether to tell only what would be done.
    pub dry_run: bool,
}

/// What a gc did, or would do.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct GcReport {
    /// What the rules say of each checkpoint of the chosen runs.
    pub verdicts: Vec<Verdict>,
    /// Bytes of packs and other objects that were freed.
    pub freed_bytes: u64,
    /// Packs that were deleted.
    pub packs_deleted: u64,
    /// Packs whose list of chunks can't be read; they are left alone.
    pub packs_unreadable: Vec<PackId>,
}

/// What is in use. Chunks stand by eight bytes of their id: two that share those keep each other, which costs room at worst.
#[derive(Default)]
struct Marks {
    checkpoints: BTreeSet<CheckpointId>,
    chunks: HashSet<u64>,
}

/// What the store holds that nothing uses.
#[derive(Default)]
struct Garbage {
    packs: BTreeMap<PackId, (u64, Vec<Line>)>,
    /// Manifests and catalogs of dead sessions.
    objects: Vec<(Key, u64)>,
    unreadable: Vec<PackId>,
}

/// Collects.
pub fn gc(store: &Store, request: &GcRequest, progress: &dyn Progress) -> Result<GcReport> {
    request.rules.check()?;
    let runs = request.runs.as_deref().map(RunGlob::new).transpose()?;
    let choice = Choice { runs: runs.as_ref(), rules: &request.rules };
    let judge = |state: &State| judge_all(&state.entries, &state.policies, choice, store.now_ms());
    if request.dry_run {
        let verdicts = judge(&State::load(store.backend())?)?;
        let (_, garbage) = find_garbage(store, &dropped(&verdicts), progress)?;
        return Ok(GcReport {
            verdicts,
            freed_bytes: garbage.bytes(),
            packs_deleted: garbage.packs.len() as u64,
            packs_unreadable: garbage.unreadable,
        });
    }
    let _spare = Spare::take(store.root());
    let _only_one = session::lock_gc(store.root())?;
    let session = Session::register(store.root(), "gc")?;
    let backend = store.backend();
    let verdicts = commit(backend, session.id(), |state, draft| {
        let verdicts = judge(state)?;
        draft.changes = dropped(&verdicts).into_iter().map(Change::Remove).collect();
        Ok(verdicts)
    })?;
    // What a killed gc was about to unlink is in no checkpoint: carry on where it stopped.
    let mut freed_bytes = finish_deleting(backend, session.id())?;
    let (mut marks, mut garbage) = find_garbage(store, &BTreeSet::new(), progress)?;
    condemn(backend, session.id(), &mut marks, &mut garbage)?;
    let doomed = doom(store, session.id(), &mut marks, &mut garbage)?;
    // Out of the index first: an entry without a pack is a look-up for nothing, at worst. For the same reason a full disk,
    // where RocksDB can't write, must not keep gc from making room.
    if let Err(error) = store.index().forget(&doomed) {
        progress.notice(Notice::IndexBehind { reason: error.to_string() });
    }
    freed_bytes += finish_deleting(backend, session.id())?;
    for (key, bytes) in &garbage.objects {
        if !matches!(key, Key::Manifest(id) if marks.checkpoints.contains(id)) {
            backend.delete(*key)?;
            freed_bytes += bytes;
        }
    }
    freed_bytes += backend.sweep_unpublished(&|| {
        let live = session::live(store.root(), true)?;
        Ok(live.into_iter().map(|live| live.id.to_string()).collect())
    })?;
    Ok(GcReport { verdicts, freed_bytes, packs_deleted: doomed.len() as u64, packs_unreadable: garbage.unreadable })
}

/// Bytes that a gc without rules would free now.
pub fn reclaimable(store: &Store, progress: &dyn Progress) -> Result<u64> {
    Ok(find_garbage(store, &BTreeSet::new(), progress)?.1.bytes())
}

fn dropped(verdicts: &[Verdict]) -> BTreeSet<CheckpointId> {
    verdicts.iter().filter(|verdict| !verdict.keep).map(|verdict| verdict.entry.id).collect()
}

/// Finds what nothing uses once the checkpoints `without` are dropped. Objects are listed before sessions and sessions are
/// read before HEAD: whatever a session published before it ended is then either in HEAD or garbage.
fn find_garbage(store: &Store, without: &BTreeSet<CheckpointId>, progress: &dyn Progress) -> Result<(Marks, Garbage)> {
    let backend = store.backend();
    let (packs, manifests, catalogs) =
        (backend.list(Family::Packs)?, backend.list(Family::Manifests)?, backend.list(Family::Catalogs)?);
    let sessions = session::live(store.root(), false)?;
    let state = State::load(backend)?;
    let mut marks = Marks::default();
    let used: Vec<CheckpointId> =
        state.entries.iter().map(|entry| entry.id).filter(|id| !without.contains(id)).collect();
    marks.add(backend, &used, true, progress)?;
    marks.add_pins(backend, &sessions, progress)?;

    let live: HashSet<SessionId> = sessions.iter().map(|session| session.id).collect();
    let mut garbage = Garbage::default();
    let looked_at = in_order(
        packs.len(),
        progress,
        || (),
        |(), at| {
            let (key, bytes) = packs[at];
            let Key::Pack(id) = key else { return Ok(None) };
            // Deleted since the listing: by a gc, if this is only a dry run.
            let Some(object) = backend.open(key)? else { return Ok(None) };
            match read_trailer(id, store.id(), &*object) {
                Ok((header, _)) if live.contains(&header.session) => Ok(None),
                Ok((_, lines)) if marks.need(&lines) => Ok(None),
                Ok((_, lines)) => Ok(Some((id, Some((bytes, lines))))),
                Err(Error::Corrupt { .. }) => Ok(Some((id, None))),
                Err(error) => Err(error),
            }
        },
    )?;
    for (id, dead) in looked_at.into_iter().flatten() {
        match dead {
            Some(dead) => drop(garbage.packs.insert(id, dead)),
            None => garbage.unreadable.push(id),
        }
    }
    for (key, bytes) in manifests.into_iter().chain(catalogs) {
        let used = match key {
            Key::Manifest(id) => marks.checkpoints.contains(&id),
            Key::Catalog(id) => state.head.catalog == Some(id),
            _ => true,
        };
        if !used && !written_by_live(backend, key, &live)? {
            garbage.objects.push((key, bytes));
        }
    }
    Ok((marks, garbage))
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

/// Lists in HEAD the packs that nothing uses, so that every put from now on either avoids them or takes them off the list.
fn condemn(backend: &dyn Backend, session: SessionId, marks: &mut Marks, garbage: &mut Garbage) -> Result<()> {
    commit(backend, session, |state, draft| {
        garbage.spare(marks, backend, state)?;
        let epoch = state.head.epoch + 1;
        let listed = |pack: &PackId| (*pack, state.head.condemned.get(pack).copied().unwrap_or(epoch));
        draft.head.condemned = garbage.packs.keys().map(listed).collect();
        move_epoch(state, draft);
        Ok(())
    })
}

/// Decides which condemned packs go, and lists them in HEAD as being deleted. Answers them and their records.
fn doom(
    store: &Store,
    session: SessionId,
    marks: &mut Marks,
    garbage: &mut Garbage,
) -> Result<Vec<(PackId, Vec<Line>)>> {
    // A get that pinned a checkpoint before it was dropped may have done so after the sessions were first read.
    let sessions = session::live(store.root(), false)?;
    marks.add_pins(store.backend(), &sessions, &crate::progress::Quiet)?;
    let doomed = commit(store.backend(), session, |state, draft| {
        garbage.spare(marks, store.backend(), state)?;
        let doomed: BTreeSet<PackId> =
            garbage.packs.keys().filter(|pack| state.head.condemned.contains_key(pack)).copied().collect();
        draft.head.condemned.clear();
        draft.head.deleting.extend(&doomed);
        move_epoch(state, draft);
        Ok(doomed)
    })?;
    let packs = std::mem::take(&mut garbage.packs).into_iter();
    Ok(packs.filter(|(id, _)| doomed.contains(id)).map(|(id, (_, lines))| (id, lines)).collect())
}

fn move_epoch(state: &State, draft: &mut Draft) {
    if draft.head.condemned != state.head.condemned || draft.head.deleting != state.head.deleting {
        draft.head.epoch = state.head.epoch + 1;
    }
}

/// Unlinks what HEAD lists as being deleted, then takes it off the list. Answers the bytes that came free.
fn finish_deleting(backend: &dyn Backend, session: SessionId) -> Result<u64> {
    let deleting = State::load(backend)?.head.deleting;
    let mut freed = 0;
    for pack in &deleting {
        freed += backend.open(Key::Pack(*pack))?.map_or(0, |object| object.size());
        backend.delete(Key::Pack(*pack))?;
    }
    commit(backend, session, |_, draft| {
        draft.head.deleting.retain(|pack| !deleting.contains(pack));
        Ok(())
    })?;
    Ok(freed)
}

impl Marks {
    /// Marks checkpoints and all their chunks. One whose manifest can't be read ends the gc, unless it may be missing.
    fn add(
        &mut self,
        backend: &dyn Backend,
        ids: &[CheckpointId],
        required: bool,
        progress: &dyn Progress,
    ) -> Result<()> {
        progress.begin(Stage::Mark, ids.len() as u64);
        let chunks = Mutex::new(std::mem::take(&mut self.chunks));
        let read = in_order(
            ids.len(),
            progress,
            || (),
            |(), at| {
                let key = Key::Manifest(ids[at]);
                let Some(bytes) = read_whole(backend, key, OBJECT_BYTES_MAX)? else {
                    return if required { Err(Error::corrupt(key, "it is missing")) } else { Ok(()) };
                };
                let manifest = Manifest::from_bytes(ids[at], &bytes).map_err(|error| error.of(key))?;
                let mut chunks = chunks.lock().unwrap_or_else(PoisonError::into_inner);
                chunks.extend(manifest.chunks().map(short));
                progress.advance(1);
                Ok(())
            },
        );
        self.chunks = chunks.into_inner().unwrap_or_else(PoisonError::into_inner);
        read?;
        self.checkpoints.extend(ids);
        Ok(())
    }

    fn add_pins(&mut self, backend: &dyn Backend, sessions: &[session::Live], progress: &dyn Progress) -> Result<()> {
        let pinned: BTreeSet<CheckpointId> = sessions.iter().flat_map(|session| session.pins.iter().copied()).collect();
        let new: Vec<CheckpointId> = pinned.difference(&self.checkpoints).copied().collect();
        self.add(backend, &new, false, progress)
    }

    fn need(&self, lines: &[Line]) -> bool {
        lines.iter().any(|line| self.chunks.contains(&short(line.id)))
    }
}

impl Garbage {
    fn bytes(&self) -> u64 {
        let packs: u64 = self.packs.values().map(|(bytes, _)| bytes).sum();
        packs + self.objects.iter().map(|(_, bytes)| bytes).sum::<u64>()
    }

    /// Takes out what checkpoints need that were added since the marks were made.
    fn spare(&mut self, marks: &mut Marks, backend: &dyn Backend, state: &State) -> Result<()> {
        let new: Vec<CheckpointId> =
            state.entries.iter().map(|entry| entry.id).filter(|id| !marks.checkpoints.contains(id)).collect();
        marks.add(backend, &new, true, &crate::progress::Quiet)?;
        self.packs.retain(|_, (_, lines)| !marks.need(lines));
        Ok(())
    }
}

fn short(id: ChunkId) -> u64 {
    let mut first = [0; 8];
    first.copy_from_slice(&id.0[..8]);
    u64::from_le_bytes(first)
}
