//! Rewrites packs that are mostly dead: what is needed of them is copied into new packs, and they are deleted. Never deletes
//! a pack of which not everything needed was copied, and never needs more room than there is.

use std::collections::{BTreeSet, HashSet};

use super::delete::{self, Deleted};
use super::plan::Group;
use super::survey::Survey;
use crate::error::{Error, Result};
use crate::format::pack::Line;
use crate::id::{ChunkId, PackId, SessionId};
use crate::index::Place;
use crate::ops::copy::copy_chunks;
use crate::packs::SealedPack;
use crate::progress::{Notice, Progress};
use crate::store::Store;

/// What came of rewriting packs.
#[derive(Debug, Default)]
pub struct Rewritten {
    /// The old packs.
    pub deleted: Deleted,
    /// Bytes of the new ones.
    pub copied_bytes: u64,
    /// Old packs that were left alone: a chunk that is needed there is damaged.
    pub damaged: BTreeSet<PackId>,
}

/// Rewrites a group of packs; none when the new ones were refused room, so that all is as before.
pub fn rewrite(
    store: &Store,
    session: SessionId,
    survey: &mut Survey,
    group: &Group,
    progress: &dyn Progress,
) -> Result<Option<Rewritten>> {
    let mut packs: BTreeSet<PackId> = group.packs.iter().map(|at| survey.packs[*at].id).collect();
    let mut chunks: Vec<(ChunkId, Place)> = Vec::new();
    for at in &group.packs {
        let pack = survey.packs[*at].id;
        let lines = survey.needed(store, *at)?;
        // Read a second time: a list that fails now must not pass for one of nothing.
        if lines.len() as u64 != survey.packs[*at].used_chunks {
            packs.remove(&pack);
            continue;
        }
        chunks.extend(lines.iter().map(|line| (line.id, Place::new(pack, line))));
    }
    let mut done = Rewritten::default();
    let copied = loop {
        let copied = match copy_chunks(store.backend(), store, session, &chunks, progress) {
            Err(Error::NoSpace { .. }) => return Ok(None),
            copied => copied?,
        };
        let damaged: HashSet<ChunkId> = copied.damaged.iter().map(|(id, _)| *id).collect();
        if damaged.is_empty() {
            break copied.packs;
        }
        // What of such a pack is sound stays where it is as well: repair is for damage.
        done.damaged.extend(chunks.iter().filter(|(id, _)| damaged.contains(id)).map(|(_, place)| place.pack));
        packs.retain(|pack| !done.damaged.contains(pack));
        chunks.retain(|(_, place)| packs.contains(&place.pack));
    };
    if packs.is_empty() {
        return Ok(Some(done));
    }
    done.copied_bytes = copied.iter().map(|pack| pack.bytes).sum();
    let published: Vec<(PackId, Vec<Line>)> = copied.into_iter().map(SealedPack::publish).collect::<Result<_>>()?;
    let (before, after) = delete::condemn(store, session, survey, &mut packs, true)?;
    if let Err(error) = store.index().add(&published, before, after) {
        // The new packs are part of the store; whoever needs them next catches up from their trailers.
        progress.notice(Notice::IndexBehind { reason: error.to_string() });
    }
    done.deleted = delete::finish(store, session, survey, packs, progress)?;
    Ok(Some(done))
}
