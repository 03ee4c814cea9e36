//! Checks the chunks of one checkpoint. Never takes a chunk for damaged because a gc moved it meanwhile.

use std::collections::hash_map::Entry as Slot;
use std::collections::{BTreeMap, HashMap};

use super::damage::damage_of;
use super::{ROUNDS_MAX, Recent};
use crate::backend::Key;
use crate::catalog::{State, read_head};
use crate::error::{Damage, Result};
use crate::format::catalog::Entry;
use crate::format::head::Head;
use crate::format::manifest::Manifest;
use crate::id::{ChunkId, PackId};
use crate::index::Place;
use crate::ops::reading::{Buffers, ChunkReader, Unreadable};
use crate::packs::read_trailer;
use crate::parallel::in_order;
use crate::progress::{Progress, Stage};
use crate::store::Store;

/// What a look at a checkpoint found.
pub struct CheckedCheckpoint {
    pub manifest: Manifest,
    /// Distinct chunks.
    pub chunks: u64,
    /// Stored bytes read.
    pub bytes: u64,
    /// Stored bytes not read because they had been found sound not long ago.
    pub skipped_bytes: u64,
    /// Chunks that are not sound.
    pub bad: BTreeMap<ChunkId, Unreadable>,
}

/// Names what the damaged chunks of a checkpoint belong to.
pub fn damage_of_checkpoint(entry: &Entry, checked: &CheckedCheckpoint) -> Vec<Damage> {
    damage_of(entry, &checked.manifest, &|id, _| checked.bad.get(&id).cloned())
}

/// Checks all chunks of a checkpoint; `quick` looks only whether packs list them.
///
/// # Errors
/// [`crate::Error::Corrupt`] when its manifest can't be read.
pub fn check_checkpoint(
    store: &Store,
    entry: &Entry,
    quick: bool,
    recent: &Recent,
    progress: &dyn Progress,
) -> Result<CheckedCheckpoint> {
    let manifest = store.manifest(entry.id)?;
    let lens: BTreeMap<ChunkId, u32> = manifest.chunks().zip(manifest.chunk_lens.iter().copied()).collect();
    let mut checked =
        CheckedCheckpoint { manifest, chunks: lens.len() as u64, bytes: 0, skipped_bytes: 0, bad: BTreeMap::new() };
    progress.begin(Stage::Verify, lens.values().map(|len| u64::from(*len)).sum());
    let mut wanted: Vec<(ChunkId, u32)> = lens.into_iter().collect();
    for _ in 0..ROUNDS_MAX {
        let head = State::load(store.backend())?.head;
        let bad = if quick {
            look(store, &wanted, &head, progress)?
        } else {
            read(store, &wanted, &head, recent, &mut checked, progress)?
        };
        wanted.retain(|(id, _)| bad.contains_key(id));
        checked.bad = bad;
        // A gc moves the epoch before it takes a pack away: as long as it stands still, what was not found is not there.
        if wanted.is_empty() || read_head(store.backend())?.epoch == head.epoch {
            break;
        }
    }
    Ok(checked)
}

fn read(
    store: &Store,
    wanted: &[(ChunkId, u32)],
    head: &Head,
    recent: &Recent,
    checked: &mut CheckedCheckpoint,
    progress: &dyn Progress,
) -> Result<BTreeMap<ChunkId, Unreadable>> {
    let ids: Vec<ChunkId> = wanted.iter().map(|(id, _)| *id).collect();
    let reader = ChunkReader::new(store.backend(), store.id());
    let places = reader.places(&ids, store.index(), head, progress)?;
    let is_recent = |at: usize| {
        let fits = |place: &Place| place.raw_len == wanted[at].1 && recent.has(place.pack);
        places[at]
            .as_ref()
            .is_some_and(|place| fits(place) && matches!(store.backend().open(Key::Pack(place.pack)), Ok(Some(_))))
    };
    let (skipped, mut order): (Vec<usize>, Vec<usize>) = (0..ids.len()).partition(|at| is_recent(*at));
    let stored = |at: &usize| places[*at].map_or(0, |place| u64::from(place.stored_len));
    checked.skipped_bytes += skipped.iter().map(stored).sum::<u64>();
    checked.bytes += order.iter().map(stored).sum::<u64>();
    progress.advance(skipped.iter().map(|at| u64::from(wanted[*at].1)).sum());
    // In the order of the disk.
    order.sort_unstable_by_key(|at| places[*at].map(|place| (place.pack, place.offset)));
    let outcomes = in_order(order.len(), progress, Buffers::new, |buffers, nr| {
        let at = order[nr];
        let outcome = reader.read(ids[at], places[at], wanted[at].1, buffers)?.map(|_| ());
        progress.advance(u64::from(wanted[at].1));
        Ok(outcome.err().map(|unreadable| (ids[at], unreadable)))
    })?;
    Ok(outcomes.into_iter().flatten().collect())
}

/// Sees whether sound trailers list the chunks with these lengths.
fn look(
    store: &Store,
    wanted: &[(ChunkId, u32)],
    head: &Head,
    progress: &dyn Progress,
) -> Result<BTreeMap<ChunkId, Unreadable>> {
    let ids: Vec<ChunkId> = wanted.iter().map(|(id, _)| *id).collect();
    let reader = ChunkReader::new(store.backend(), store.id());
    let mut places = reader.places(&ids, store.index(), head, progress)?;
    let mut packs: HashMap<PackId, HashMap<ChunkId, Place>> = HashMap::new();
    let mut bad = BTreeMap::new();
    for round in 0..2 {
        for place in places.iter().flatten() {
            if let Slot::Vacant(vacant) = packs.entry(place.pack) {
                vacant.insert(lines_of(store, place.pack)?);
            }
        }
        bad.clear();
        for ((id, raw_len), place) in wanted.iter().zip(&places) {
            let listed = place.and_then(|place| packs.get(&place.pack)?.get(id).copied());
            let reason = match (place, listed) {
                (_, Some(listed)) if listed.raw_len == *raw_len => continue,
                (_, Some(listed)) => format!("its manifest says {raw_len} bytes, its pack {}", listed.raw_len),
                (Some(_), None) => "the pack is missing, cut short or does not list it".into(),
                (None, None) => "no pack holds it".into(),
            };
            bad.insert(*id, Unreadable { pack: place.map(|place| place.pack), reason });
        }
        // The index may be wrong: only then the packs themselves are asked.
        if bad.is_empty() || round == 1 {
            break;
        }
        let missing: Vec<ChunkId> = bad.keys().copied().collect();
        let found = find_copies(store, &missing, progress)?;
        for (at, id) in ids.iter().enumerate() {
            if let Some(place) = found.get(id).and_then(|copies| copies.first()) {
                places[at] = Some(*place);
            }
        }
    }
    Ok(bad)
}

fn lines_of(store: &Store, pack: PackId) -> Result<HashMap<ChunkId, Place>> {
    let Some(object) = store.backend().open(Key::Pack(pack))? else { return Ok(HashMap::new()) };
    let lines = read_trailer(pack, store.id(), &*object).map(|(_, lines)| lines).unwrap_or_default();
    Ok(lines.iter().map(|line| (line.id, Place::new(pack, line))).collect())
}

/// All places at which sound trailers list these chunks, by one look at every pack.
pub fn find_copies(store: &Store, wanted: &[ChunkId], progress: &dyn Progress) -> Result<HashMap<ChunkId, Vec<Place>>> {
    let wanted: std::collections::HashSet<ChunkId> = wanted.iter().copied().collect();
    let listed = store.backend().list(crate::backend::Family::Packs)?;
    let found = in_order(
        listed.len(),
        progress,
        || (),
        |(), at| {
            let Key::Pack(pack) = listed[at].0 else { return Ok(Vec::new()) };
            let Some(object) = store.backend().open(listed[at].0)? else { return Ok(Vec::new()) };
            let lines = read_trailer(pack, store.id(), &*object).map(|(_, lines)| lines).unwrap_or_default();
            let hits = lines.iter().filter(|line| wanted.contains(&line.id));
            Ok(hits.map(|line| (line.id, Place::new(pack, line))).collect())
        },
    )?;
    let mut copies: HashMap<ChunkId, Vec<Place>> = HashMap::new();
    found.into_iter().flatten().for_each(|(id, place)| copies.entry(id).or_default().push(place));
    Ok(copies)
}
