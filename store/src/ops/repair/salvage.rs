//! Copies what is sound in broken packs into new ones, and lets the broken ones go after that. Never deletes a pack of which
//! a sound record has no other durable copy.

use std::collections::HashSet;

use super::assess::{Assessed, Broken};
use super::remove::remove;
use super::{MendedPack, RepairReport};
use crate::error::Result;
use crate::id::{ChunkId, SessionId};
use crate::index::Place;
use crate::limits::PACK_BYTES_MAX;
use crate::ops::copy::copy_chunks;
use crate::progress::{Progress, Stage};
use crate::store::Store;

/// Bytes that are copied before the packs they come from are deleted: room that a repair needs on top of what there is.
const BATCH_BYTES: u64 = 4 * PACK_BYTES_MAX;

/// Says what [`apply`] would do.
pub fn plan(assessed: &Assessed, report: &mut RepairReport) {
    assessed.broken.iter().for_each(|pack| tell(pack, report));
}

/// Replaces the broken packs, a few at a time.
pub fn apply(
    store: &Store,
    session: SessionId,
    assessed: &Assessed,
    report: &mut RepairReport,
    progress: &dyn Progress,
) -> Result<()> {
    let mut copied: HashSet<ChunkId> = HashSet::new();
    let mut rest = &assessed.broken[..];
    while !rest.is_empty() {
        let mut bytes = 0;
        let fits = rest.iter().take_while(|pack| {
            bytes += pack.good.iter().map(|line| u64::from(line.stored_len)).sum::<u64>();
            bytes <= BATCH_BYTES
        });
        let (batch, later) = rest.split_at(fits.count().max(1));
        rest = later;
        let is_copied = copy(store, session, assessed, batch, &mut copied, progress)?;
        let gone: Vec<&Broken> = batch.iter().filter(|pack| pack.stays.is_none() && is_copied).collect();
        let kept = remove(store.backend(), session, &gone.iter().map(|pack| pack.id).collect())?;
        for pack in batch {
            let stays = if !is_copied {
                Some("its bytes changed while they were copied: repair again")
            } else if kept.contains(&pack.id) {
                Some("a put relies on it: repair again")
            } else {
                None
            };
            match stays.filter(|_| pack.stays.is_none()) {
                Some(stays) => report.left.push((pack.id, format!("{}; {stays}", pack.reason))),
                None => tell(pack, report),
            }
        }
    }
    Ok(())
}

fn tell(pack: &Broken, report: &mut RepairReport) {
    match &pack.stays {
        Some(stays) => report.left.push((pack.id, format!("{}; {stays}", pack.reason))),
        None => report.mended.push(MendedPack {
            pack: pack.id,
            reason: pack.reason.clone(),
            saved: pack.good.len() as u64,
            lost: pack.bad.len() as u64,
        }),
    }
}

/// Copies what no sound pack holds. Answers whether all of it could be read once more.
fn copy(
    store: &Store,
    session: SessionId,
    assessed: &Assessed,
    batch: &[Broken],
    copied: &mut HashSet<ChunkId>,
    progress: &dyn Progress,
) -> Result<bool> {
    let mut planned = HashSet::new();
    let mut chunks: Vec<(ChunkId, Place)> = Vec::new();
    for pack in batch {
        for line in &pack.good {
            let is_there = assessed.is_sound(line.id, line.raw_len) || copied.contains(&line.id);
            if !is_there && planned.insert(line.id) {
                chunks.push((line.id, Place::new(pack.id, line)));
            }
        }
    }
    if chunks.is_empty() {
        return Ok(true);
    }
    progress.begin(Stage::Write, chunks.iter().map(|(_, place)| u64::from(place.stored_len)).sum());
    let copy = copy_chunks(store.backend(), store, session, &chunks, progress)?;
    for pack in copy.packs {
        let (_, lines) = pack.publish()?;
        copied.extend(lines.iter().map(|line| line.id));
    }
    Ok(copy.damaged.is_empty())
}
