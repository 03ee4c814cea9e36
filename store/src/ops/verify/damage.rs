//! Names what damaged chunks belong to: checkpoint, file, tensor. Never keeps more of it than a person could read.

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};

use crate::backend::Key;
use crate::catalog::refs;
use crate::error::{Damage, Error, Result};
use crate::format::catalog::Entry;
use crate::format::manifest::Manifest;
use crate::id::ChunkId;
use crate::limits::{DAMAGE_LISTED_MAX, MISSING_MAX};
use crate::ops::reading::Unreadable;
use crate::parallel::in_order;
use crate::progress::Progress;
use crate::store::Store;

/// Damage that was found, as much of it as is listed.
#[derive(Default)]
pub struct Listed {
    damage: Mutex<(Vec<Damage>, u64)>,
}

impl Listed {
    /// Adds what is damaged of one checkpoint.
    pub fn add(&self, damage: impl IntoIterator<Item = Damage>) {
        let mut all = self.damage.lock().unwrap_or_else(PoisonError::into_inner);
        for place in damage {
            if all.0.len() < DAMAGE_LISTED_MAX { all.0.push(place) } else { all.1 += 1 }
        }
    }

    /// What is listed, and how many places more there are.
    pub fn into_parts(self) -> (Vec<Damage>, u64) {
        self.damage.into_inner().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What is wrong with checkpoints.
#[derive(Default)]
pub struct Judgment {
    /// Damage by checkpoint, file and tensor, in the order of the checkpoints.
    pub damaged: Vec<Damage>,
    /// Places that are damaged beyond those.
    pub more: u64,
    /// Manifests that can't be read.
    pub manifests: Vec<(Entry, String)>,
    /// Chunks that are needed and not sound; at most [`MISSING_MAX`].
    pub missing: BTreeSet<(ChunkId, u32)>,
}

/// Finds what is damaged of each checkpoint. `fault` says what is wrong with a chunk of that length, if anything is.
pub fn judge(
    store: &Store,
    entries: &[Entry],
    fault: &(dyn Fn(ChunkId, u32) -> Option<Unreadable> + Sync),
    progress: &dyn Progress,
) -> Result<Judgment> {
    let (listed, missing) = (Listed::default(), Mutex::new(BTreeSet::new()));
    let manifests = in_order(
        entries.len(),
        progress,
        || (),
        |(), at| {
            let entry = &entries[at];
            let manifest = match store.manifest(entry.id) {
                Ok(manifest) => manifest,
                Err(error @ (Error::Corrupt { .. } | Error::Unsupported(_) | Error::Unavailable { .. })) => {
                    return Ok(Some((entry.clone(), describe(&error))));
                }
                Err(error) => return Err(error),
            };
            let chunks = || manifest.chunks().zip(manifest.chunk_lens.iter().copied());
            let faulty: Vec<(ChunkId, u32)> = chunks().filter(|(id, len)| fault(*id, *len).is_some()).collect();
            if !faulty.is_empty() {
                listed.add(damage_of(entry, &manifest, fault));
                let mut missing = missing.lock().unwrap_or_else(PoisonError::into_inner);
                let room = MISSING_MAX.saturating_sub(missing.len());
                missing.extend(faulty.into_iter().take(room));
            }
            Ok(None)
        },
    )?;
    let (mut damaged, more) = listed.into_parts();
    let order: std::collections::HashMap<String, usize> = if damaged.is_empty() {
        std::collections::HashMap::new()
    } else {
        entries.iter().enumerate().map(|(at, entry)| (refs::name_of(entry), at)).collect()
    };
    damaged.sort_by_key(|place| order.get(&place.checkpoint).copied());
    let missing = missing.into_inner().unwrap_or_else(PoisonError::into_inner);
    Ok(Judgment { damaged, more, manifests: manifests.into_iter().flatten().collect(), missing })
}

/// What is wrong, without the name of the object.
fn describe(error: &Error) -> String {
    match error {
        Error::Corrupt { reason, .. } => reason.clone(),
        Error::Unavailable { source, .. } => format!("it can't be read: {source}"),
        error => error.to_string(),
    }
}

/// What of a checkpoint the faulty chunks are.
pub fn damage_of(
    entry: &Entry,
    manifest: &Manifest,
    fault: &(dyn Fn(ChunkId, u32) -> Option<Unreadable> + Sync),
) -> Vec<Damage> {
    let mut damaged = Vec::new();
    for (at, file) in manifest.files.iter().enumerate() {
        let mut told = BTreeSet::new();
        for extent in manifest.extents(at as u32) {
            let chunk = manifest.chunk_id(extent.chunk as usize);
            let Some(unreadable) = fault(chunk, manifest.chunk_lens[extent.chunk as usize]) else { continue };
            if told.insert(chunk) {
                damaged.push(Damage {
                    checkpoint: refs::name_of(entry),
                    file: String::from_utf8_lossy(&file.path).into_owned(),
                    tensor: file.tensor_at(extent.file_at),
                    chunk,
                    pack: unreadable.pack,
                    reason: unreadable.reason,
                });
            }
        }
    }
    damaged
}

impl Judgment {
    /// The manifests that can't be read, by their keys.
    pub fn manifest_objects(&self) -> impl Iterator<Item = (String, String)> + '_ {
        let name = |entry: &Entry| (Key::Manifest(entry.id).to_string(), refs::name_of(entry));
        self.manifests.iter().map(move |(entry, reason)| {
            let (key, name) = name(entry);
            (key, format!("{reason} ({name})"))
        })
    }
}
