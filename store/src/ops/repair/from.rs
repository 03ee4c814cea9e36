//! Takes chunks that are lost here from another store, each checked by its name. Never changes the other store.

use std::collections::{BTreeSet, HashMap};
use std::path::Path;

use crate::error::{Error, Result};
use crate::id::{ChunkId, SessionId};
use crate::index::Place;
use crate::limits::PACK_BYTES_MAX;
use crate::ops::copy::copy_chunks;
use crate::ops::verify::{Judgment, find_copies};
use crate::progress::{Progress, Stage};
use crate::store::Store;

/// Bytes that are copied before they are made part of the store.
const BATCH_BYTES: u64 = 4 * PACK_BYTES_MAX;

/// The chunks that the other store lists. They are not read.
pub fn plan(store: &Store, from: &Path, judgment: &Judgment, progress: &dyn Progress) -> Result<BTreeSet<ChunkId>> {
    Ok(candidates(&open(store, from)?, judgment, progress)?.into_keys().collect())
}

/// Copies what is missed and the other store has. Answers which chunks that were.
pub fn apply(
    store: &Store,
    session: SessionId,
    from: &Path,
    judgment: &Judgment,
    progress: &dyn Progress,
) -> Result<BTreeSet<ChunkId>> {
    let other = open(store, from)?;
    let mut copies = candidates(&other, judgment, progress)?;
    let mut healed = BTreeSet::new();
    // Where one copy turns out to be damaged, the next one is tried.
    while !copies.is_empty() {
        let mut batch: Vec<(ChunkId, Place)> = Vec::new();
        let mut bytes = 0;
        for (id, places) in &mut copies {
            if bytes > BATCH_BYTES {
                break;
            }
            if let Some(place) = places.pop() {
                bytes += u64::from(place.stored_len);
                batch.push((*id, place));
            }
        }
        // In the order of the disk.
        batch.sort_unstable_by_key(|(_, place)| (place.pack, place.offset));
        progress.begin(Stage::Write, bytes);
        for pack in copy_chunks(other.backend(), store, session, &batch, progress)?.packs {
            let (_, lines) = pack.publish()?;
            healed.extend(lines.iter().map(|line| line.id));
        }
        copies.retain(|id, places| !healed.contains(id) && !places.is_empty());
    }
    Ok(healed)
}

fn open(store: &Store, from: &Path) -> Result<Store> {
    let other = Store::open(from)?;
    let canonical = |path: &Path| std::fs::canonicalize(path).map_err(|error| Error::io("read", path, error));
    if canonical(other.root())? == canonical(store.root())? {
        return Err(Error::Invalid("a store can't be repaired from itself".into()));
    }
    Ok(other)
}

fn candidates(other: &Store, judgment: &Judgment, progress: &dyn Progress) -> Result<HashMap<ChunkId, Vec<Place>>> {
    if judgment.missing.is_empty() {
        return Ok(HashMap::new());
    }
    let lens: HashMap<ChunkId, u32> = judgment.missing.iter().copied().collect();
    let ids: Vec<ChunkId> = lens.keys().copied().collect();
    let mut copies = find_copies(other, &ids, progress)?;
    copies.iter_mut().for_each(|(id, places)| places.retain(|place| lens.get(id) == Some(&place.raw_len)));
    copies.retain(|_, places| !places.is_empty());
    Ok(copies)
}
