//! Segments of a zip: one for each stored record of a `torch.save` file, one for each large member of any other zip. Never
//! inflates, decrypts or unpickles anything; sizes come from the central directory, because torch leaves those of the local
//! headers zero, and are checked against the file and against each other.
//!
//! A `.distcp` of torch's distributed checkpoints is several such files on end, so archives are read from the last to the
//! first until one begins at offset 0.

use std::cell::RefCell;
use std::io;

use rawzip::{CompressionMethod, RECOMMENDED_BUFFER_SIZE, ReaderAt, ZipFileHeaderRecord, ZipLocator};

use super::{Format, Found, Kind, Source, Split, fill_gaps};
use crate::limits::{SMALL_FILE_BYTES, ZIP_DIRECTORY_BYTES_MAX, ZIP_RECORDS_MAX};

/// How far from the end the directory's end record is searched: its 22 bytes and the longest comment.
const SEARCH_BYTES: u64 = 22 + 65_535;

/// Says whether a file that begins with `head` may be a zip that is worth looking at from its end.
pub(super) fn looks_like(head: &[u8]) -> bool {
    head.starts_with(LOCAL_HEADER)
}

/// Finds the segments, or nothing if there is any doubt.
pub(super) fn split(source: &dyn Source) -> io::Result<Option<Split>> {
    let size = source.size();
    let mut archives: Vec<Archive> = Vec::new();
    let mut budget = Budget { records: ZIP_RECORDS_MAX, directory_bytes: ZIP_DIRECTORY_BYTES_MAX };
    let mut buf = vec![0; RECOMMENDED_BUFFER_SIZE];
    let mut end = size;
    while end > 0 {
        let start = archive_start(source, end)?;
        let view = View { source, start, end, failure: RefCell::new(None) };
        let archive = read_archive(&view, &mut buf, &mut budget);
        if let Some(failure) = view.failure.into_inner() {
            return Err(failure);
        }
        match archive {
            Some(archive) => archives.push(archive),
            None if archives.is_empty() => return Ok(None),
            // What stands before a sound archive may be anything.
            None => {
                archives.push(Archive { is_torch: false, found: vec![Found { start: 0, end, kind: Kind::Opaque }] });
                break;
            }
        }
        end = start;
    }
    archives.reverse();
    let format = if archives.iter().any(|archive| archive.is_torch) { Format::TorchZip } else { Format::Zip };
    let several = archives.len() > 1;
    let mut found = Vec::new();
    for (number, archive) in archives.into_iter().enumerate() {
        found.extend(archive.found.into_iter().map(|mut part| {
            // Each archive counts its records from data/0.
            if let (true, Kind::Tensor { name, .. }) = (several, &mut part.kind) {
                *name = format!("{number}/{name}");
            }
            part
        }));
    }
    Ok(fill_gaps(found, size).map(|segments| Split { format, segments }))
}

/// How much more may be read of one file.
struct Budget {
    records: usize,
    directory_bytes: u64,
}

/// What was found in one of the archives of a file, in places of the file.
struct Archive {
    is_torch: bool,
    found: Vec<Found>,
}

/// One record of the central directory that has any bytes.
struct Record {
    start: u64,
    end: u64,
    /// Empty if it is not UTF-8: such a name is none of torch's.
    path: String,
    /// Stored and not encrypted: the bytes in the file are those that were put in.
    is_plain: bool,
}

fn read_archive(view: &View<'_>, buf: &mut [u8], budget: &mut Budget) -> Option<Archive> {
    let locator = ZipLocator::new().max_search_space(SEARCH_BYTES);
    let archive = locator.locate_in_reader(view, buf, view.end - view.start).ok()?;
    if archive.entries_hint() > budget.records as u64 {
        return None;
    }
    let directory_bytes = archive.eocd_offset().checked_sub(archive.directory_offset())?;
    budget.directory_bytes = budget.directory_bytes.checked_sub(directory_bytes)?;

    let mut records = Vec::new();
    let mut entries = archive.entries(buf);
    let mut is_empty = true;
    while let Some(entry) = entries.next_entry().ok()? {
        is_empty = false;
        // The hint may lie: without zip64 it counts modulo 65,536.
        budget.records = budget.records.checked_sub(1)?;
        let (start, end) = archive.get_entry(entry.wayfinder()).ok()?.compressed_data_range();
        let (start, end) = (view.start.checked_add(start)?, view.start.checked_add(end)?);
        if end > view.end {
            return None;
        }
        if start == end {
            continue;
        }
        let path = str::from_utf8(entry.file_path().as_ref()).unwrap_or_default().to_owned();
        records.push(Record { start, end, path, is_plain: is_plain(&entry) });
    }
    // An archive without records would let a chain of them cost time without end.
    if is_empty {
        return None;
    }
    // All of them, also those that become literals: an archive that lies about one is not to be believed about another.
    records.sort_by_key(|record| record.start);
    let overlap = records.windows(2).any(|pair| pair[0].end > pair[1].start);
    (!overlap).then(|| classify(records))
}

fn is_plain(entry: &ZipFileHeaderRecord<'_>) -> bool {
    let flags = entry.flags();
    entry.compression_method() == CompressionMethod::STORE
        && entry.compressed_size_hint() == entry.uncompressed_size_hint()
        && !(flags.is_encrypted() || flags.has_strong_encryption() || flags.is_masked())
}

/// Names the records; those that it leaves out become literals together with the headers around them.
fn classify(records: Vec<Record>) -> Archive {
    let is_pickle =
        |record: &&Record| record.is_plain && record.path.split_once('/').is_some_and(|(_, rest)| rest == "data.pkl");
    let stem =
        records.iter().find(is_pickle).and_then(|record| record.path.split_once('/')).map(|(stem, _)| stem.to_owned());
    let mut found = Vec::with_capacity(records.len());
    for record in records {
        let storage = stem.as_deref().filter(|_| record.is_plain).and_then(|stem| storage_name(&record.path, stem));
        let is_large = record.end - record.start > SMALL_FILE_BYTES;
        let kind = match storage {
            Some(name) => Kind::Tensor { name: name.to_owned(), dtype: None, shape: None },
            None if is_large && !(record.is_plain && stem.is_some()) => Kind::Opaque,
            None => continue,
        };
        found.push(Found { start: record.start, end: record.end, kind });
    }
    Archive { is_torch: stem.is_some(), found }
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

const LOCAL_HEADER: &[u8] = b"PK\x03\x04";

/// Bytes of the end record, of the zip64 locator before it and of the zip64 end record before that, as torch writes them.
const END_BYTES: u64 = 22;
const LOCATOR_BYTES: u64 = 20;
const END64_BYTES: u64 = 56;

/// Says where the archive that ends at `end` begins, from the sizes in its end records; 0 when they don't tell.
///
/// rawzip finds a start other than 0 only for archives without zip64 records, and torch always writes those.
fn archive_start(source: &dyn Source, end: u64) -> io::Result<u64> {
    const TAIL_BYTES: u64 = END64_BYTES + LOCATOR_BYTES + END_BYTES;
    let mut tail = [0; TAIL_BYTES as usize];
    let Some(tail_start) = end.checked_sub(TAIL_BYTES) else {
        return Ok(0);
    };
    source.read_exact_at(&mut tail, tail_start)?;
    let Some(start) = start_told_by(&tail, end) else {
        return Ok(0);
    };
    if start == 0 {
        return Ok(0);
    }
    let mut magic = [0; LOCAL_HEADER.len()];
    source.read_exact_at(&mut magic, start)?;
    Ok(if magic == LOCAL_HEADER { start } else { 0 })
}

/// Computes where the archive begins from the last bytes before `end`.
fn start_told_by(tail: &[u8], end: u64) -> Option<u64> {
    let (end64, rest) = tail.split_at_checked(END64_BYTES as usize)?;
    let (locator, end_record) = rest.split_at_checked(LOCATOR_BYTES as usize)?;
    if !end_record.starts_with(b"PK\x05\x06") || !end_record.ends_with(&[0, 0]) {
        return None;
    }
    let (directory_end, len, offset) = if locator.starts_with(b"PK\x06\x07") && end64.starts_with(b"PK\x06\x06") {
        (end.checked_sub(tail.len() as u64)?, u64_at(end64, 40)?, u64_at(end64, 48)?)
    } else {
        (end.checked_sub(END_BYTES)?, u64::from(u32_at(end_record, 12)?), u64::from(u32_at(end_record, 16)?))
    };
    directory_end.checked_sub(len)?.checked_sub(offset)
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..)?.first_chunk().map(|le| u32::from_le_bytes(*le))
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    bytes.get(at..)?.first_chunk().map(|le| u64::from_le_bytes(*le))
}

/// A part of a source as rawzip reads it. Keeps the first real failure: rawzip reports a read past the end in the same
/// way, and only one of the two is the content's fault.
struct View<'a> {
    source: &'a dyn Source,
    start: u64,
    end: u64,
    failure: RefCell<Option<io::Error>>,
}

impl ReaderAt for View<'_> {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        let Some(at) = self.start.checked_add(offset).filter(|at| *at < self.end) else {
            return Ok(0);
        };
        let len = usize::try_from(self.end - at).unwrap_or(usize::MAX).min(buf.len());
        match self.source.read_exact_at(&mut buf[..len], at) {
            Ok(()) => Ok(len),
            Err(failure) => {
                let kind = failure.kind();
                self.failure.borrow_mut().get_or_insert(failure);
                Err(kind.into())
            }
        }
    }
}
