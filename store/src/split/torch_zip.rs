//! Storages and tensors of a `torch.save` file: a storage for each record below `data/`, and what its pickle says of them. Never
//! executes anything of a pickle.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;

use super::arrange::{Described, Storage, arrange};
use super::torch::{self, Places};
use super::zip::Record;
use super::{Format, Found, Kind, Parts, Source};
use crate::limits::{PICKLE_BYTES_MAX, SMALL_FILE_BYTES};
use crate::pickle;

/// Finds the parts of an archive of these records; nothing if it is none of torch's.
pub(super) fn split(source: &Arc<dyn Source>, records: &[Record]) -> io::Result<Option<Parts>> {
    let is_pickle =
        |record: &&Record| record.is_plain && record.path.split_once('/').is_some_and(|(_, rest)| rest == "data.pkl");
    let Some(pickle) = records.iter().find(is_pickle) else { return Ok(None) };
    let Some((stem, _)) = pickle.path.split_once('/') else { return Ok(None) };
    let below = |record: &'_ Record| -> Option<String> {
        record.path.strip_prefix(stem).and_then(|rest| rest.strip_prefix('/')).map(str::to_owned)
    };
    let paths: Vec<_> = records.iter().map(below).collect();
    let is_script = paths.iter().flatten().any(|path| path == "constants.pkl")
        && paths.iter().flatten().any(|path| path.starts_with("code/"));
    let mut parts = Parts::of(if is_script { Format::TorchScript } else { Format::TorchZip });
    let mut storages = Vec::with_capacity(records.len());
    let mut is_big_endian = false;
    for (record, path) in records.iter().zip(paths) {
        match path.filter(|_| record.is_plain) {
            Some(name) if is_storage(&name) => {
                storages.push(Storage { start: record.start, end: record.end, elements: None, name });
            }
            Some(name) if name == "byteorder" => is_big_endian = read(source, record, 3)?.as_deref() == Some(b"big"),
            // Stored ones are torch's own texts and pickles; those that are compressed are of unknown structure.
            _ if record.end - record.start > SMALL_FILE_BYTES && !record.is_plain => {
                parts.found.push(Found { start: record.start, end: record.end, kind: Kind::Opaque });
            }
            _ => {}
        }
    }
    let tensors = match read(source, pickle, PICKLE_BYTES_MAX)? {
        Some(bytes) => tensors(&bytes, &mut storages, is_big_endian),
        None => Vec::new(),
    };
    let Some((found, views)) = arrange(storages, tensors) else { return Ok(None) };
    parts.found.extend(found);
    parts.views = views;
    Ok(Some(parts))
}

/// What the pickle says of the storages and the tensors in them; nothing if it can't be read.
fn tensors(bytes: &[u8], storages: &mut [Storage], is_big_endian: bool) -> Vec<Described> {
    let Ok(pickle) = pickle::read(bytes) else { return Vec::new() };
    let told: HashMap<_, _> =
        torch::storages(&pickle, is_big_endian).into_iter().map(|told| (told.key, told.elements)).collect();
    let mut places = Places::new();
    for storage in storages {
        let Some(key) = storage.name.strip_prefix("data/") else { continue };
        storage.elements = told.get(key).cloned().flatten();
        // Of two records of one name nobody can tell which is meant.
        let place = places.entry(key.to_owned()).or_insert((storage.start, storage.end));
        if *place != (storage.start, storage.end) {
            *place = (0, 0);
        }
    }
    torch::tensors(&pickle, &places, is_big_endian)
}

/// The bytes of a record, unless there are more.
fn read(source: &Arc<dyn Source>, record: &Record, bytes_max: usize) -> io::Result<Option<Vec<u8>>> {
    let Some(len) = usize::try_from(record.end - record.start).ok().filter(|len| *len <= bytes_max) else {
        return Ok(None);
    };
    let mut bytes = vec![0; len];
    source.read_exact_at(&mut bytes, record.start)?;
    Ok(Some(bytes))
}

/// Says whether a path below the stem is that of a tensor's bytes: `data/17`, TorchScript's `constants/3`, torch.package's
/// `.data/5.storage`. The other names below `.data/` are texts, one of which differs between any two saves.
fn is_storage(name: &str) -> bool {
    name.starts_with("data/")
        || name.starts_with("constants/")
        || (name.starts_with(".data/") && name.ends_with(".storage"))
}
