//! Storages of a `torch.save` file: one for each record below `data/`. Never executes anything of its pickles.

use std::io;
use std::sync::Arc;

use super::arrange::{Storage, arrange};
use super::zip::Record;
use super::{Format, Found, Kind, Parts, Source};
use crate::limits::SMALL_FILE_BYTES;

/// Finds the parts of an archive of these records; nothing if it is none of torch's.
pub(super) fn split(_source: &Arc<dyn Source>, records: &[Record]) -> io::Result<Option<Parts>> {
    let is_pickle =
        |record: &&Record| record.is_plain && record.path.split_once('/').is_some_and(|(_, rest)| rest == "data.pkl");
    let Some((stem, _)) = records.iter().find(is_pickle).and_then(|record| record.path.split_once('/')) else {
        return Ok(None);
    };
    let mut parts = Parts::of(Format::TorchZip);
    let mut storages = Vec::with_capacity(records.len());
    for record in records {
        match storage_name(&record.path, stem).filter(|_| record.is_plain) {
            Some(name) => {
                storages.push(Storage { start: record.start, end: record.end, elements: None, name: name.to_owned() });
            }
            // Stored ones are torch's own texts and pickles; those that are compressed are of unknown structure.
            None if record.end - record.start > SMALL_FILE_BYTES && !record.is_plain => {
                parts.found.push(Found { start: record.start, end: record.end, kind: Kind::Opaque });
            }
            None => {}
        }
    }
    let Some((found, views)) = arrange(storages, Vec::new()) else { return Ok(None) };
    parts.found.extend(found);
    parts.views = views;
    Ok(Some(parts))
}

/// Gives the path below the stem if it is that of a tensor's bytes: `data/17`, TorchScript's `constants/3`, torch.package's
/// `.data/5.storage`. The other names below `.data/` are texts, one of which differs between any two saves.
fn storage_name<'a>(path: &'a str, stem: &str) -> Option<&'a str> {
    let name = path.strip_prefix(stem)?.strip_prefix('/')?;
    let is_storage = name.starts_with("data/")
        || name.starts_with("constants/")
        || (name.starts_with(".data/") && name.ends_with(".storage"));
    is_storage.then_some(name)
}
