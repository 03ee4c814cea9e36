//! The records of a zip, and what each is: a stored one is split by its own content. Never inflates or decrypts anything;
//! sizes come from the central directory, because torch leaves those of the local headers zero, and are checked against the
//! file and against each other.
//!
//! A `.distcp` of torch's distributed checkpoints is several torch zips on end, so archives are read from the last to the
//! first until one begins at offset 0.

use std::cell::RefCell;
use std::io;
use std::sync::Arc;

use rawzip::{CompressionMethod, RECOMMENDED_BUFFER_SIZE, ReaderAt, ZipFileHeaderRecord, ZipLocator};

use super::source::Part;
use super::{Format, Found, Kind, Parts, Source, Split, View as TensorView, split_content, torch_zip};
use crate::limits::{SMALL_FILE_BYTES, ZIP_DIRECTORY_BYTES_MAX, ZIP_RECORDS_MAX};

/// How far from the end the directory's end record is searched: its 22 bytes and the longest comment.
const SEARCH_BYTES: u64 = 22 + 65_535;

/// Says whether a file that begins with `head` may be a zip that is worth looking at from its end.
pub(super) fn looks_like(head: &[u8]) -> bool {
    head.starts_with(LOCAL_HEADER)
}

/// Finds the parts, or nothing if there is any doubt.
pub(super) fn split(source: &Arc<dyn Source>, depth: usize) -> io::Result<Option<Parts>> {
    let Some(archives) = read_archives(&**source)? else { return Ok(None) };
    let several = archives.len() > 1;
    let mut all = Parts::of(Format::Zip);
    for (number, archive) in archives.into_iter().enumerate() {
        let parts = match archive {
            Archive::Unknown { end } => {
                all.found.push(Found { start: 0, end, kind: Kind::Opaque });
                continue;
            }
            Archive::Records(records) => match torch_zip::split(source, &records)? {
                Some(parts) => parts,
                None => split_members(source, &records, depth)?,
            },
        };
        if all.format == Format::Zip {
            all.format = parts.format;
        }
        // Each archive counts its records from data/0.
        let name = |name: String| if several { format!("{number}/{name}") } else { name };
        all.views.extend(parts.views.into_iter().map(|view| TensorView { name: name(view.name), ..view }));
        all.found.extend(parts.found.into_iter().map(|found| match found.kind {
            Kind::Tensor { name: own, dtype, shape } => {
                Found { kind: Kind::Tensor { name: name(own), dtype, shape }, ..found }
            }
            _ => found,
        }));
    }
    Ok(Some(all))
}

/// Splits each stored member by its own content.
fn split_members(source: &Arc<dyn Source>, records: &[Record], depth: usize) -> io::Result<Parts> {
    let mut parts = Parts::of(Format::Zip);
    let mut splits = Vec::new();
    for record in records {
        let len = record.end - record.start;
        let member = Part::of(source, record.start, len).filter(|_| record.is_plain);
        let split = member.map(|member| split_content(&member, depth + 1)).transpose()?.flatten();
        match split {
            Some(split) => splits.push((record, split)),
            None if len > SMALL_FILE_BYTES => {
                parts.found.push(Found { start: record.start, end: record.end, kind: Kind::Opaque });
            }
            None => {}
        }
    }
    parts.format = format_of(&splits);
    for (record, split) in splits {
        let format = parts.format;
        parts.add_member(split, record.start, |name| match format {
            Format::Npz => record.path.strip_suffix(".npy").unwrap_or(&record.path).to_owned(),
            Format::Keras => name,
            _ => format!("{}:{name}", record.path),
        });
    }
    Ok(parts)
}

/// Says what a zip is by what was found in it.
fn format_of(members: &[(&Record, Split)]) -> Format {
    match members {
        [(_, Split { format: Format::Hdf5, .. })] => Format::Keras,
        [_, ..] if members.iter().all(|(_, split)| split.format == Format::Npy) => Format::Npz,
        _ => Format::Zip,
    }
}

/// Reads the directories of all archives of a file, in file order; nothing if the last is none.
fn read_archives(source: &dyn Source) -> io::Result<Option<Vec<Archive>>> {
    let mut archives: Vec<Archive> = Vec::new();
    let mut budget = Budget { records: ZIP_RECORDS_MAX, directory_bytes: ZIP_DIRECTORY_BYTES_MAX };
    let mut buf = vec![0; RECOMMENDED_BUFFER_SIZE];
    let mut end = source.size();
    while end > 0 {
        let start = archive_start(source, end)?;
        let view = View { source, start, end, failure: RefCell::new(None) };
        let records = read_records(&view, &mut buf, &mut budget);
        if let Some(failure) = view.failure.into_inner() {
            return Err(failure);
        }
        match records {
            Some(records) => archives.push(Archive::Records(records)),
            None if archives.is_empty() => return Ok(None),
            // What stands before a sound archive may be anything.
            None => {
                archives.push(Archive::Unknown { end });
                break;
            }
        }
        end = start;
    }
    archives.reverse();
    Ok(Some(archives))
}

/// How much more may be read of one file.
struct Budget {
    records: usize,
    directory_bytes: u64,
}

/// One of the archives of a file.
enum Archive {
    /// Its records, in places of the file.
    Records(Vec<Record>),
    /// Bytes from the beginning of the file up to `end` that are no archive.
    Unknown { end: u64 },
}

/// One record of the central directory that has any bytes.
pub(super) struct Record {
    /// Byte of the file where its bytes begin.
    pub(super) start: u64,
    /// Byte of the file behind them.
    pub(super) end: u64,
    /// Empty if it is not UTF-8.
    pub(super) path: String,
    /// Stored and not encrypted: the bytes in the file are those that were put in.
    pub(super) is_plain: bool,
}

fn read_records(view: &View<'_>, buf: &mut [u8], budget: &mut Budget) -> Option<Vec<Record>> {
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
    (!overlap).then_some(records)
}

fn is_plain(entry: &ZipFileHeaderRecord<'_>) -> bool {
    let flags = entry.flags();
    entry.compression_method() == CompressionMethod::STORE
        && entry.compressed_size_hint() == entry.uncompressed_size_hint()
        && !(flags.is_encrypted() || flags.has_strong_encryption() || flags.is_masked())
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
