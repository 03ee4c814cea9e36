//! Takes packs away in the steps that the protocol demands: condemned, then deleting, then unlinked, then off the list. Never
//! unlinks a pack that HEAD does not list as being deleted.

use std::collections::BTreeSet;

use super::survey::{Survey, read_lines};
use crate::backend::{Backend, Key};
use crate::catalog::{State, commit};
use crate::error::Result;
use crate::id::{PackId, SessionId};
use crate::progress::{Notice, Progress};
use crate::store::Store;

/// What came of deleting packs.
#[derive(Debug, Clone, Copy, Default)]
pub struct Deleted {
    /// Packs that are gone.
    pub packs: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// Deletes packs in which nothing is needed, but for those that somebody came to need meanwhile.
pub fn delete(
    store: &Store,
    session: SessionId,
    survey: &mut Survey,
    mut packs: BTreeSet<PackId>,
    progress: &dyn Progress,
) -> Result<Deleted> {
    condemn(store, session, survey, &mut packs, false)?;
    finish(store, session, survey, packs, progress)
}

/// Lists packs in HEAD that nothing needs, so that every put from now on either avoids them or takes them off the list.
/// `published` says whether new packs become part of the store by the same swap; answers HEAD's `packs_seq` before and after.
pub fn condemn(
    store: &Store,
    session: SessionId,
    survey: &mut Survey,
    packs: &mut BTreeSet<PackId>,
    published: bool,
) -> Result<(u64, u64)> {
    commit(store.backend(), session, |state, draft| {
        survey.spare_new(store, state, packs)?;
        let epoch = state.head.epoch + 1;
        let listed = |pack: &PackId| (*pack, state.head.condemned.get(pack).copied().unwrap_or(epoch));
        draft.head.condemned = packs.iter().map(listed).collect();
        if published {
            draft.head.packs_seq = draft.head.seq;
        }
        draft.move_epoch(state);
        Ok((state.head.packs_seq, draft.head.packs_seq))
    })
}

/// Deletes those of the packs that are still condemned and that nobody came to need.
pub fn finish(
    store: &Store,
    session: SessionId,
    survey: &mut Survey,
    mut packs: BTreeSet<PackId>,
    progress: &dyn Progress,
) -> Result<Deleted> {
    // A get that pinned a checkpoint before it was dropped may have done so after the sessions were first read.
    survey.spare_pinned(store, &mut packs)?;
    // Where a chunk of theirs lies in another pack, that one is all there is from now on.
    let moved = survey.newer_places(store, &packs)?;
    commit(store.backend(), session, |state, draft| {
        survey.spare_new(store, state, &mut packs)?;
        packs.retain(|pack| state.head.condemned.contains_key(pack));
        draft.head.condemned.clear();
        draft.head.deleting.extend(&packs);
        draft.move_epoch(state);
        Ok(())
    })?;
    let mut gone = Vec::with_capacity(packs.len());
    for pack in &packs {
        gone.push((*pack, read_lines(store, *pack)?.unwrap_or_default()));
    }
    // Out of the index first: an entry without a pack is a look-up for nothing, at worst. For the same reason a full disk,
    // where RocksDB can't write, must not keep gc from making room.
    if let Err(error) = store.index().forget(&gone, &moved) {
        progress.notice(Notice::IndexBehind { reason: error.to_string() });
    }
    let bytes = finish_deleting(store.backend(), session)?;
    Ok(Deleted { packs: packs.len() as u64, bytes })
}

/// Unlinks what HEAD lists as being deleted, then takes it off the list. Answers the bytes that came free.
pub fn finish_deleting(backend: &dyn Backend, session: SessionId) -> Result<u64> {
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
