//! Finds out which store a directory is, and what is left of its FORMAT and HEAD. Never guesses between two answers for
//! which there is evidence.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use super::RepairReport;
use crate::backend::local::{DIRECTORIES, LocalBackend};
use crate::backend::mend::Remains;
use crate::backend::{Backend, Family, Key, read_whole};
use crate::error::{Error, Result, Thing};
use crate::format::FormatError;
use crate::format::catalog::Catalog;
use crate::format::head::{Format, Head};
use crate::format::manifest::Manifest;
use crate::format::pack::{HEADER_BYTES, Header};
use crate::id::{PackId, StoreId};
use crate::limits::OBJECT_BYTES_MAX;

/// What is left of one of the two small objects.
pub struct Found<T> {
    /// What stands in its place.
    pub remains: Remains,
    /// What it says, or what is wrong with it.
    pub said: std::result::Result<T, String>,
}

/// Which store this is.
pub struct Identity {
    /// Its name.
    pub store: StoreId,
    /// FORMAT.
    pub format: Found<Format>,
    /// HEAD.
    pub head: Found<Head>,
    /// What is wrong with the catalog that a sound HEAD points at.
    pub catalog_lost: Option<(Key, String)>,
}

impl Identity {
    /// Whether HEAD and its catalog can be read.
    pub fn is_whole(&self) -> bool {
        self.head.said.is_ok() && self.catalog_lost.is_none()
    }

    /// Packs that may be unlinked at any moment. Where the catalog is lost nobody unlinks them, and whatever they hold counts.
    pub fn deleting(&self) -> BTreeSet<PackId> {
        match &self.head.said {
            Ok(head) if self.is_whole() => head.deleting.clone(),
            _ => BTreeSet::new(),
        }
    }
}

/// Makes the directories that are missing.
pub fn make_directories(root: &Path, backend: &LocalBackend) -> Result<()> {
    for directory in DIRECTORIES.map(|name| root.join(name)).into_iter().filter(|path| !path.exists()) {
        backend.disk().create_dir(&directory).map_err(|error| Error::io("create", &directory, error))?;
    }
    Ok(())
}

/// Finds out which store this is.
pub fn find(root: &Path, backend: &LocalBackend) -> Result<Identity> {
    let mut format = read(backend, Key::Format, Format::from_bytes)?;
    let mut head = read(backend, Key::Head, Head::from_bytes)?;
    let claims: BTreeSet<StoreId> =
        [format.said.as_ref().ok().map(|format| format.store), head.said.as_ref().ok().map(|head| head.store)]
            .into_iter()
            .flatten()
            .collect();
    let agreed = format.said.is_ok() && head.said.is_ok() && claims.len() == 1;
    let store = match claims.first() {
        Some(claim) if agreed => *claim,
        _ => judge(root, &claims, &evidence(root, backend)?)?,
    };
    if format.said.as_ref().is_ok_and(|format| format.store != store) {
        format.said = Err("it is another store's".into());
    }
    if head.said.as_ref().is_ok_and(|head| head.store != store) {
        head.said = Err("it is another store's".into());
    }
    let catalog_lost = match head.said.as_ref().ok().and_then(|head| head.catalog) {
        None => None,
        Some(id) => {
            let key = Key::Catalog(id);
            let bytes = match read_whole(backend, key, OBJECT_BYTES_MAX) {
                Err(Error::Corrupt { reason, .. }) => Err(FormatError::damaged(reason)),
                other => other?.ok_or_else(|| FormatError::damaged("it is missing")),
            };
            match bytes.and_then(|bytes| Catalog::from_bytes(id, &bytes)) {
                Ok(_) => None,
                Err(FormatError::Damaged(reason)) => Some((key, reason)),
                Err(error @ FormatError::Unsupported(_)) => return Err(error.of(key)),
            }
        }
    };
    Ok(Identity { store, format, head, catalog_lost })
}

fn read<T>(
    backend: &LocalBackend,
    key: Key,
    parse: fn(&[u8]) -> std::result::Result<T, FormatError>,
) -> Result<Found<T>> {
    let remains = backend.remains(key)?;
    let said = match &remains {
        Remains::Missing => Err("it is missing".into()),
        Remains::TooLarge => Err("it has more bytes than it can have".into()),
        Remains::Bytes(bytes) => match parse(bytes) {
            Ok(said) => Ok(said),
            Err(FormatError::Damaged(reason)) => Err(reason),
            // A newer program's: hands off.
            Err(error @ FormatError::Unsupported(_)) => return Err(error.of(key)),
        },
    };
    Ok(Found { remains, said })
}

/// How many packs and manifests are of which store.
fn evidence(root: &Path, backend: &LocalBackend) -> Result<BTreeMap<StoreId, u64>> {
    let mut counts = BTreeMap::new();
    for (key, _) in list(root, backend, Family::Packs, "packs")? {
        let Key::Pack(id) = key else { continue };
        let mut bytes = [0; HEADER_BYTES];
        let read = backend.open(key)?.is_some_and(|object| object.read_exact_at(&mut bytes, 0).is_ok());
        if let Some(header) = Header::from_bytes(&bytes).ok().filter(|header| read && header.pack == id) {
            *counts.entry(header.store).or_default() += 1;
        }
    }
    for (key, _) in list(root, backend, Family::Manifests, "checkpoints")? {
        let Key::Manifest(id) = key else { continue };
        let bytes = read_whole(backend, key, OBJECT_BYTES_MAX).ok().flatten();
        if let Some(manifest) = bytes.and_then(|bytes| Manifest::from_bytes(id, &bytes).ok()) {
            *counts.entry(manifest.store).or_default() += 1;
        }
    }
    Ok(counts)
}

fn list(root: &Path, backend: &LocalBackend, family: Family, folder: &str) -> Result<Vec<(Key, u64)>> {
    if root.join(folder).is_dir() { backend.list(family) } else { Ok(Vec::new()) }
}

/// Which store it is, by what FORMAT and HEAD claim and what the packs and manifests say.
fn judge(root: &Path, claims: &BTreeSet<StoreId>, counts: &BTreeMap<StoreId, u64>) -> Result<StoreId> {
    let supported: Vec<StoreId> = claims.iter().copied().filter(|claim| counts.contains_key(claim)).collect();
    let majority = counts.iter().max_by_key(|(_, count)| **count).map(|(store, _)| *store);
    match (&supported[..], claims.first(), majority) {
        ([only], ..) => Ok(*only),
        ([], _, Some(store)) => Ok(store),
        ([], Some(claim), None) if claims.len() == 1 => Ok(*claim),
        ([], None, None) => {
            let name = format!("in {}: no FORMAT, no HEAD, and nothing else that says which it is", root.display());
            Err(Error::NotFound { thing: Thing::Store, name, near: Vec::new() })
        }
        _ => Err(Error::corrupt(
            Key::Format,
            "it names another store than HEAD, and nothing tells which is right: put the right one back by hand",
        )),
    }
}

/// Makes FORMAT anew when it is lost. After HEAD: a directory without FORMAT is no store.
pub fn mend_format(backend: &LocalBackend, identity: &Identity, report: &mut RepairReport) -> Result<()> {
    if identity.format.said.is_err() {
        let bytes = Format::new(identity.store).to_bytes().map_err(|error| error.of(Key::Format))?;
        report.kept_aside.extend(backend.mend(Key::Format, &identity.format.remains, &bytes)?);
    }
    Ok(())
}
