//! Lets packs go as gc does: condemned, then being deleted, then unlinked, then off the list. Never unlinks one that HEAD
//! does not list as being deleted.

use std::collections::BTreeSet;

use crate::backend::{Backend, Key};
use crate::catalog::{Draft, State, commit};
use crate::error::Result;
use crate::id::{PackId, SessionId};

/// Deletes packs. Answers those that a put took off the list meanwhile, which stay. The caller holds gc's lock.
pub fn remove(backend: &dyn Backend, session: SessionId, packs: &BTreeSet<PackId>) -> Result<BTreeSet<PackId>> {
    if packs.is_empty() {
        return Ok(BTreeSet::new());
    }
    commit(backend, session, |state, draft| {
        let epoch = state.head.epoch + 1;
        draft.head.condemned.extend(packs.iter().map(|pack| (*pack, epoch)));
        // What was saved of them is in new packs, which are part of the store from here on.
        draft.head.packs_seq = draft.head.seq;
        move_epoch(state, draft);
        Ok(())
    })?;
    let kept = commit(backend, session, |state, draft| {
        let doomed = packs.iter().filter(|pack| state.head.condemned.contains_key(pack));
        draft.head.deleting.extend(doomed);
        draft.head.condemned.retain(|pack, _| !packs.contains(pack));
        move_epoch(state, draft);
        Ok(packs.iter().copied().filter(|pack| !state.head.condemned.contains_key(pack)).collect())
    })?;
    finish_deleting(backend, session)?;
    Ok(kept)
}

/// Unlinks what HEAD lists as being deleted, then takes it off the list. The caller holds gc's lock.
pub fn finish_deleting(backend: &dyn Backend, session: SessionId) -> Result<()> {
    let deleting = State::load(backend)?.head.deleting;
    deleting.iter().try_for_each(|pack| backend.delete(Key::Pack(*pack)))?;
    commit(backend, session, |_, draft| {
        draft.head.deleting.retain(|pack| !deleting.contains(pack));
        Ok(())
    })
}

fn move_epoch(state: &State, draft: &mut Draft) {
    if draft.head.condemned != state.head.condemned || draft.head.deleting != state.head.deleting {
        draft.head.epoch = state.head.epoch + 1;
    }
}
