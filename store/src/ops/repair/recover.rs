//! Makes HEAD and its catalog anew from what manifests say, when they are lost. Never gives a checkpoint back of which a
//! chunk is missing, and never under a name that a person may take for one that was in HEAD.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use super::RepairReport;
use super::assess::Assessed;
use super::identity::Identity;
use crate::backend::local::LocalBackend;
use crate::backend::mend::Remains;
use crate::backend::{Backend, Family, Key, read_whole};
use crate::catalog::{apply as apply_changes, write_catalog};
use crate::error::{Error, Result};
use crate::format::catalog::{Catalog, Change, Entry};
use crate::format::envelope;
use crate::format::head::Head;
use crate::format::manifest::{Content, Manifest};
use crate::id::{CatalogId, CheckpointId, SessionId};
use crate::limits::{NAME_BYTES_MAX, OBJECT_BYTES_MAX};
use crate::parallel::in_order;
use crate::progress::{Progress, Stage};
use crate::session;
use crate::store::Store;

/// Runs that were found without a catalog are put under this.
const PREFIX: &str = "recovered/";
/// Numbers above this in what is left of HEAD are no numbers of swaps.
const SEQ_MAX: u64 = 1 << 53;

/// A HEAD that is to take the place of a lost one.
pub struct Recovery {
    /// All checkpoints, and what else a catalog holds.
    pub catalog: Catalog,
    head: Head,
    remains: Remains,
}

/// Plans a new HEAD; none when the present one and its catalog are sound.
pub fn plan(
    store: &Store,
    identity: &Identity,
    assessed: &Assessed,
    report: &mut RepairReport,
    progress: &dyn Progress,
) -> Result<Option<Recovery>> {
    if let Err(reason) = &identity.format.said {
        report.remade.push((Key::Format.to_string(), reason.clone()));
    }
    match (&identity.head.said, &identity.catalog_lost) {
        (Ok(_), None) => return Ok(None),
        (Ok(_), Some((key, reason))) => report.remade.push((key.to_string(), reason.clone())),
        (Err(reason), _) => report.remade.push((Key::Head.to_string(), reason.clone())),
    }
    let head = identity.head.said.as_ref().ok();
    let changes = head.map(|head| &head.changes[..]).unwrap_or_default();
    let known: HashSet<CheckpointId> = changes
        .iter()
        .filter_map(|change| match change {
            Change::Add(entry) => Some(entry.id),
            Change::Remove(id) => Some(*id),
            _ => None,
        })
        .collect();
    // What it says beside the list of checkpoints stands, if nothing newer does.
    let mut catalog = newest_catalog(store.backend())?;
    let described = catalog.entries.into_iter().map(|entry| (entry.id, entry)).collect();
    catalog.entries = find_whole(store, &known, &described, assessed, report, progress)?;
    report.recovered = catalog.entries.clone();
    apply_changes(&mut catalog, changes);
    let new = match head {
        Some(head) => Head { seq: head.seq + 1, epoch: head.epoch + 1, ..head.clone() },
        None => {
            let beyond = beyond(store, &identity.head.remains)?;
            Head { seq: beyond, epoch: beyond, ..Head::new(store.id()) }
        }
    };
    let head = Head {
        packs_seq: new.seq,
        changes: Vec::new(),
        condemned: BTreeMap::new(),
        deleting: BTreeSet::new(),
        nonce: CatalogId::generate().to_string(),
        ..new
    };
    Ok(Some(Recovery { catalog, head, remains: identity.head.remains.clone() }))
}

/// Writes the new catalog and HEAD.
pub fn apply(
    store: &Store,
    backend: &LocalBackend,
    session: SessionId,
    recovery: Recovery,
    report: &mut RepairReport,
) -> Result<()> {
    let id = CatalogId::generate();
    write_catalog(store.backend(), id, session, &recovery.catalog)?;
    let head = Head { catalog: Some(id), ..recovery.head };
    let bytes = head.to_bytes().map_err(|error| error.of(Key::Head))?;
    report.kept_aside.extend(backend.mend(Key::Head, &recovery.remains, &bytes)?);
    Ok(())
}

/// All manifests that HEAD does not speak of and whose chunks are all there, as entries, in the order of their ids.
fn find_whole(
    store: &Store,
    known: &HashSet<CheckpointId>,
    described: &BTreeMap<CheckpointId, Entry>,
    assessed: &Assessed,
    report: &mut RepairReport,
    progress: &dyn Progress,
) -> Result<Vec<Entry>> {
    let backend = store.backend();
    let mut listed = backend.list(Family::Manifests)?;
    listed.sort_unstable();
    // After the listing: what a live put wrote it will commit itself, or fail and report.
    let live: HashSet<SessionId> = session::live(store.root(), false)?.into_iter().map(|live| live.id).collect();
    progress.begin(Stage::Mark, listed.len() as u64);
    let found = in_order(
        listed.len(),
        progress,
        || (),
        |(), at| {
            let (key, _) = listed[at];
            progress.advance(1);
            let Key::Manifest(id) = key else { return Ok(None) };
            if known.contains(&id) {
                return Ok(None);
            }
            let bytes = match read_whole(backend, key, OBJECT_BYTES_MAX) {
                Ok(Some(bytes)) => bytes,
                Ok(None) => return Ok(None),
                Err(Error::Corrupt { reason, .. }) => return Ok(Some(Err((key.to_string(), reason)))),
                Err(error) => return Err(error),
            };
            let header = bytes.get(..envelope::HEADER_BYTES).and_then(|header| envelope::session_of(header).ok());
            if header.is_some_and(|session| live.contains(&session)) {
                return Ok(None);
            }
            Ok(Some(match Manifest::from_bytes(id, &bytes) {
                Err(error) => Err((key.to_string(), error.to_string())),
                Ok(manifest) if manifest.store != store.id() => {
                    Err((key.to_string(), "it belongs to another store".into()))
                }
                Ok(manifest) => match lacking(&manifest, assessed) {
                    0 => Ok(entry_of(&manifest, described.get(&id))),
                    count => Err((
                        key.to_string(),
                        format!(
                            "{count} of the {} chunks of {} are in no pack",
                            manifest.chunk_count(),
                            title(&manifest)
                        ),
                    )),
                },
            }))
        },
    )?;
    let mut entries = Vec::new();
    for outcome in found.into_iter().flatten() {
        match outcome {
            Ok(entry) => entries.push(entry),
            Err(unresolved) => report.unresolved.push(unresolved),
        }
    }
    Ok(entries)
}

fn lacking(manifest: &Manifest, assessed: &Assessed) -> usize {
    manifest.chunks().zip(&manifest.chunk_lens).filter(|(id, raw_len)| !assessed.has(*id, **raw_len)).count()
}

fn title(manifest: &Manifest) -> String {
    manifest.step.map_or_else(|| manifest.run.clone(), |step| format!("{}@{step}", manifest.run))
}

/// What the newest catalog that can be read says of checkpoints; it may be older than what was lost.
fn newest_catalog(backend: &dyn Backend) -> Result<Catalog> {
    let mut listed = backend.list(Family::Catalogs)?;
    listed.sort_unstable();
    for (key, _) in listed.into_iter().rev() {
        let Key::Catalog(id) = key else { continue };
        let bytes = read_whole(backend, key, OBJECT_BYTES_MAX).ok().flatten();
        if let Some(catalog) = bytes.and_then(|bytes| Catalog::from_bytes(id, &bytes).ok()) {
            return Ok(catalog);
        }
    }
    Ok(Catalog::default())
}

/// The entry of a checkpoint of which only the manifest is sure.
fn entry_of(manifest: &Manifest, described: Option<&Entry>) -> Entry {
    let is_file = |content: &Content| matches!(content, Content::File { .. });
    Entry {
        id: manifest.id,
        run: recovered_run(&manifest.run),
        step: manifest.step,
        time_ms: manifest.time_ms,
        metrics: manifest.metrics.clone(),
        tags: described.map(|entry| entry.tags.clone()).unwrap_or_default(),
        pinned: described.is_some_and(|entry| entry.pinned),
        files: manifest.files.iter().filter(|file| is_file(&file.content)).count() as u64,
        logical_bytes: manifest.logical_bytes(),
        added_bytes: described.map_or(0, |entry| entry.added_bytes),
        written_bytes: described.map_or(0, |entry| entry.written_bytes),
    }
}

fn recovered_run(run: &str) -> String {
    if run.starts_with(PREFIX) {
        return run.to_owned();
    }
    let room = NAME_BYTES_MAX - PREFIX.len();
    let fits = run.char_indices().map(|(at, c)| at + c.len_utf8()).take_while(|end| *end <= room).last();
    format!("{PREFIX}{}", run[..fits.unwrap_or(0)].trim_end())
}

/// A number that is larger than any `seq` and `epoch` that the store can have had: larger than what is left of them in HEAD
/// and in the index, and than the milliseconds in the newest name, of which there can't have been as many swaps.
fn beyond(store: &Store, remains: &Remains) -> Result<u64> {
    let mut seen = store.index().packs_seq();
    if let Remains::Bytes(bytes) = remains {
        let text = String::from_utf8_lossy(bytes);
        for (at, _) in text.match_indices(':') {
            let digits: String = text[at + 1..].chars().take_while(char::is_ascii_digit).collect();
            seen = seen.max(digits.parse().ok().filter(|number| *number < SEQ_MAX).unwrap_or(0));
        }
    }
    let millis = |bytes: [u8; 16]| bytes[..6].iter().fold(0_u64, |ms, byte| ms << 8 | u64::from(*byte));
    for family in [Family::Catalogs, Family::Manifests, Family::Packs] {
        for (key, _) in store.backend().list(family)? {
            seen = seen.max(match key {
                Key::Catalog(id) => millis(id.to_bytes()),
                Key::Manifest(id) => millis(id.to_bytes()),
                Key::Pack(id) => millis(id.to_bytes()),
                Key::Format | Key::Head => 0,
            });
        }
    }
    Ok(seen.max(u64::try_from(store.now_ms()).unwrap_or(0)) + 1)
}
