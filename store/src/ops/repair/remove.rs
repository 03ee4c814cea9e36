//! Lets packs go as gc does: condemned, then being deleted, then unlinked, then off the list. Never unlinks one that HEAD
//! does not list as being deleted.

use std::collections::BTreeSet;

use crate::backend::Backend;
use crate::catalog::commit;
use crate::error::Result;
use crate::id::{PackId, SessionId};
use crate::ops::gc::delete::finish_deleting;

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
        draft.move_epoch(state);
        Ok(())
    })?;
    let kept = commit(backend, session, |state, draft| {
        let doomed = packs.iter().filter(|pack| state.head.condemned.contains_key(pack));
        draft.head.deleting.extend(doomed);
        draft.head.condemned.retain(|pack, _| !packs.contains(pack));
        draft.move_epoch(state);
        Ok(packs.iter().copied().filter(|pack| !state.head.condemned.contains_key(pack)).collect())
    })?;
    finish_deleting(backend, session)?;
    Ok(kept)
}
