//! Reads everything back and checks it. Never mends: damaged chunks are only set aside in the index, so that storing the
//! same bytes again heals them.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use super::get::tensor_at;
use super::reading::{Buffers, ChunkReader, Unreadable, read_chunk};
use crate::backend::{Family, Key, Object};
use crate::catalog::{State, refs};
use crate::error::{Damage, Error, Result};
use crate::format::catalog::Entry;
use crate::format::manifest::Manifest;
use crate::format::pack::{self, FOOTER_BYTES, HEADER_BYTES, Line, RECORD_BYTES};
use crate::id::{ChunkId, PackId};
use crate::index::Place;
use crate::packs::read_trailer;
use crate::parallel::in_order;
use crate::progress::{Progress, Stage};
use crate::session::{Session, pin_if_possible};
use crate::store::Store;

/// What to check.
#[derive(Debug, Clone, Default)]
pub struct VerifyRequest {
    /// One checkpoint; none means the whole store.
    pub reference: Option<String>,
    /// Whether to leave the chunks' bytes unread.
    pub quick: bool,
}

/// What verify found.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct VerifyReport {
    /// Checkpoints checked.
    pub checkpoints: u64,
    /// Distinct chunks checked.
    pub chunks: u64,
    /// Stored bytes read.
    pub bytes: u64,
    /// Damage that checkpoints suffer.
    pub damaged: Vec<Damage>,
    /// Objects of the store that are damaged in themselves, and how.
    pub objects: Vec<(String, String)>,
    /// Damage that no checkpoint suffers: another pack has a sound copy, or nothing needs the chunk.
    pub harmless: Vec<(String, String)>,
}

impl VerifyReport {
    /// Whether nothing is damaged that anybody could miss.
    pub fn is_sound(&self) -> bool {
        self.damaged.is_empty() && self.objects.is_empty()
    }
}

/// What a look at a pack found.
struct Checked {
    good: Vec<ChunkId>,
    bad: Vec<(ChunkId, Unreadable)>,
    problem: Option<String>,
    bytes: u64,
}

/// Verifies.
pub fn verify(store: &Store, request: &VerifyRequest, progress: &dyn Progress) -> Result<VerifyReport> {
    let session = Session::register(store.root(), "verify").ok();
    let state = State::load(store.backend())?;
    let entries: Vec<&Entry> = match &request.reference {
        Some(reference) => vec![refs::resolve(&state, reference)?],
        None => state.entries.iter().collect(),
    };
    let _session = pin_if_possible(session, entries.iter().map(|entry| entry.id))?;
    let mut report = VerifyReport { checkpoints: entries.len() as u64, ..VerifyReport::default() };
    let (good, bad) = match &request.reference {
        None => check_packs(store, &state, request.quick, &mut report, progress)?,
        Some(_) => check_chunks(store, &state, entries[0], request.quick, &mut report, progress)?,
    };
    report.chunks = (good.len() + bad.len()) as u64;
    let damaged = in_order(entries.len(), progress, || (), |(), at| Ok(check_entry(store, entries[at], &good, &bad)))?;
    for (at, outcome) in damaged.into_iter().enumerate() {
        match outcome {
            Ok(damage) => report.damaged.extend(damage),
            Err(error) => report
                .objects
                .push((Key::Manifest(entries[at].id).to_string(), format!("{error} ({})", refs::name_of(entries[at])))),
        }
    }
    if request.reference.is_none() {
        let missed: HashSet<ChunkId> = report.damaged.iter().map(|damage| damage.chunk).collect();
        for (id, unreadable) in bad.iter().filter(|(id, _)| !missed.contains(*id)) {
            report.harmless.push(copy_note(*id, unreadable, "no checkpoint needs it"));
        }
    }
    let aside: Vec<(ChunkId, PackId)> =
        bad.iter().filter_map(|(id, unreadable)| unreadable.pack.map(|pack| (*id, pack))).collect();
    if !aside.is_empty() {
        // Best effort: it decides only whether the next put of these bytes already heals them.
        let _ = store.index().set_aside(&aside);
    }
    Ok(report)
}

type Judged = (HashSet<ChunkId>, HashMap<ChunkId, Unreadable>);

/// Checks every pack from its first byte to its last.
fn check_packs(
    store: &Store,
    state: &State,
    quick: bool,
    report: &mut VerifyReport,
    progress: &dyn Progress,
) -> Result<Judged> {
    let mut listed = store.backend().list(Family::Packs)?;
    listed.retain(|(key, _)| !matches!(key, Key::Pack(id) if state.head.deleting.contains(id)));
    listed.sort_unstable_by_key(|(key, _)| *key);
    progress.begin(Stage::Verify, if quick { 0 } else { listed.iter().map(|(_, bytes)| bytes).sum() });
    let checked = in_order(listed.len(), progress, Buffers::new, |buffers, at| {
        let Key::Pack(id) = listed[at].0 else { return Ok(None) };
        // A pack that is gone was collected meanwhile; if a checkpoint needs it, its chunks are missed below.
        let Some(object) = store.backend().open(listed[at].0)? else { return Ok(None) };
        Ok(Some((listed[at].0, check_pack(store, id, &*object, quick, buffers, progress)?)))
    })?;
    let (mut good, mut bad) = (HashSet::new(), HashMap::new());
    for (key, pack) in checked.into_iter().flatten() {
        report.bytes += pack.bytes;
        report.objects.extend(pack.problem.map(|problem| (key.to_string(), problem)));
        good.extend(pack.good);
        bad.extend(pack.bad);
    }
    for (id, unreadable) in bad.iter().filter(|(id, _)| good.contains(*id)) {
        report.harmless.push(copy_note(*id, unreadable, "another pack has a sound copy"));
    }
    bad.retain(|id, _| !good.contains(id));
    // What index and catalog say is derived or checked on reading; what HEAD points at was read to get here.
    check_index(store, state, &good, report, progress)?;
    Ok((good, bad))
}

fn copy_note(id: ChunkId, unreadable: &Unreadable, why: &str) -> (String, String) {
    let object = unreadable.pack.map_or_else(|| "packs".to_owned(), |pack| Key::Pack(pack).to_string());
    (object, format!("chunk {id}: {}; {why}", unreadable.reason))
}

/// Checks that the index, as far as it knows chunks, knows them where a pack has them.
fn check_index(
    store: &Store,
    state: &State,
    good: &HashSet<ChunkId>,
    report: &mut VerifyReport,
    progress: &dyn Progress,
) -> Result<()> {
    let ids: Vec<ChunkId> = good.iter().copied().collect();
    match store.index().look_up(&ids, store.backend(), &state.head, progress) {
        Ok(_) => {}
        Err(Error::Unavailable { .. } | Error::NoSpace { .. }) => {}
        Err(error) => report.objects.push(("index".into(), error.to_string())),
    }
    Ok(())
}

fn check_pack(
    store: &Store,
    id: PackId,
    object: &dyn Object,
    quick: bool,
    buffers: &mut Buffers,
    progress: &dyn Progress,
) -> Result<Checked> {
    let mut checked = Checked { good: Vec::new(), bad: Vec::new(), problem: None, bytes: object.size() };
    let (_, lines) = match read_trailer(id, store.id(), object) {
        Ok(read) => read,
        Err(Error::Corrupt { reason, .. } | Error::Unsupported(reason)) => {
            checked.problem = Some(reason);
            return Ok(checked);
        }
        Err(Error::Unavailable { source, .. }) => {
            checked.problem = Some(format!("it can't be read: {source}"));
            return Ok(checked);
        }
        Err(error) => return Err(error),
    };
    if quick {
        checked.good.extend(lines.iter().map(|line| line.id));
        return Ok(checked);
    }
    let mut end = HEADER_BYTES as u64;
    for line in &lines {
        if progress.interrupted() {
            return Err(Error::Interrupted);
        }
        match read_chunk(object, line.id, Place::new(id, line), line.raw_len, buffers) {
            Ok(()) => {
                checked.good.push(line.id);
                // Bits that the decoder passes over are no loss yet, but they say that the disk is failing.
                if crc32c::crc32c(buffers.stored(line.stored_len as usize)) != line.crc {
                    checked
                        .problem
                        .get_or_insert_with(|| format!("the checksum of the record at {} is wrong", line.offset));
                }
            }
            Err(reason) => checked.bad.push((line.id, Unreadable { pack: Some(id), reason })),
        }
        if let Err(reason) = check_front(object, end, line) {
            checked.problem.get_or_insert(reason);
        }
        let begins = end;
        end = line.offset + u64::from(line.stored_len);
        progress.advance(end - begins);
    }
    let trailer = object.size().saturating_sub(end);
    if !is_zero(object, end, pack::trailer_start(end) - end) {
        checked.problem.get_or_insert("bytes between its last record and its trailer are not 0".into());
    }
    progress.advance(trailer);
    Ok(checked)
}

/// Checks what lies between two payloads: padding, and the header that a salvage would go by.
fn check_front(object: &dyn Object, end: u64, line: &Line) -> std::result::Result<(), String> {
    let (header_at, _) = pack::record_place(end, line.codec, line.stored_len as usize);
    let mut header = [0; RECORD_BYTES];
    object.read_exact_at(&mut header, header_at).map_err(|error| error.to_string())?;
    let record = pack::record_from_bytes(&header, header_at).map_err(|error| error.to_string())?;
    if record != *line {
        return Err(format!("the header of the record at {header_at} says other things than the trailer"));
    }
    let after = header_at + RECORD_BYTES as u64;
    if is_zero(object, end, header_at - end) && is_zero(object, after, line.offset - after) {
        Ok(())
    } else {
        Err(format!("bytes around the header of the record at {header_at} are not 0"))
    }
}

fn is_zero(object: &dyn Object, at: u64, len: u64) -> bool {
    let mut bytes = vec![0; len as usize];
    object.read_exact_at(&mut bytes, at).is_ok() && bytes.iter().all(|byte| *byte == 0)
}

/// Checks the chunks of one checkpoint.
fn check_chunks(
    store: &Store,
    state: &State,
    entry: &Entry,
    quick: bool,
    report: &mut VerifyReport,
    progress: &dyn Progress,
) -> Result<Judged> {
    let Ok(manifest) = store.manifest(entry.id) else { return Ok(Judged::default()) };
    let lens: BTreeMap<ChunkId, u32> = manifest.chunks().zip(manifest.chunk_lens.iter().copied()).collect();
    let ids: Vec<ChunkId> = lens.keys().copied().collect();
    let reader = ChunkReader::new(store.backend(), store.id());
    let places = reader.places(&ids, store.index(), &state.head, progress)?;
    // In the order of the disk.
    let mut order: Vec<usize> = (0..ids.len()).collect();
    order.sort_unstable_by_key(|at| places[*at].map(|place| (place.pack, place.offset)));
    progress.begin(Stage::Verify, lens.values().map(|len| u64::from(*len)).sum());
    let outcomes = in_order(order.len(), progress, Buffers::new, |buffers, nr| {
        let at = order[nr];
        let raw_len = lens[&ids[at]];
        let outcome = match (quick, places[at]) {
            (true, Some(place)) => quick_look(store, place),
            (true, None) => Err(Unreadable { pack: None, reason: "no pack holds it".into() }),
            (false, place) => reader.read(ids[at], place, raw_len, buffers)?.map(|_| ()),
        };
        progress.advance(u64::from(raw_len));
        Ok((ids[at], outcome))
    })?;
    report.bytes = places.iter().flatten().map(|place| u64::from(place.stored_len)).sum();
    let mut judged = Judged::default();
    for (id, outcome) in outcomes {
        match outcome {
            Ok(()) => drop(judged.0.insert(id)),
            Err(unreadable) => drop(judged.1.insert(id, unreadable)),
        }
    }
    Ok(judged)
}

fn quick_look(store: &Store, place: Place) -> std::result::Result<(), Unreadable> {
    let unreadable = |reason: &str| Unreadable { pack: Some(place.pack), reason: reason.into() };
    let object =
        store.backend().open(Key::Pack(place.pack)).ok().flatten().ok_or_else(|| unreadable("the pack is missing"))?;
    let fits = place.offset + u64::from(place.stored_len) + FOOTER_BYTES as u64 <= object.size();
    if fits { Ok(()) } else { Err(unreadable("the pack was cut short")) }
}

/// Finds what of a checkpoint is damaged, given which chunks are sound.
fn check_entry(
    store: &Store,
    entry: &Entry,
    good: &HashSet<ChunkId>,
    bad: &HashMap<ChunkId, Unreadable>,
) -> Result<Vec<Damage>> {
    let manifest = store.manifest(entry.id)?;
    if manifest.chunks().all(|id| good.contains(&id)) {
        return Ok(Vec::new());
    }
    Ok(damage_of(entry, &manifest, good, bad))
}

fn damage_of(
    entry: &Entry,
    manifest: &Manifest,
    good: &HashSet<ChunkId>,
    bad: &HashMap<ChunkId, Unreadable>,
) -> Vec<Damage> {
    let mut damaged = Vec::new();
    for (at, file) in manifest.files.iter().enumerate() {
        let mut told = BTreeSet::new();
        for extent in manifest.extents(at as u32) {
            let chunk = manifest.chunk_id(extent.chunk as usize);
            if good.contains(&chunk) || !told.insert(chunk) {
                continue;
            }
            let unreadable = bad.get(&chunk);
            damaged.push(Damage {
                checkpoint: refs::name_of(entry),
                file: String::from_utf8_lossy(&file.path).into_owned(),
                tensor: tensor_at(&file.content, extent.file_at),
                chunk,
                pack: unreadable.and_then(|unreadable| unreadable.pack),
                reason: unreadable.map_or_else(|| "no pack holds it".into(), |unreadable| unreadable.reason.clone()),
            });
        }
    }
    damaged
}
