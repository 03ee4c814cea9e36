//! Looks at one pack: its trailer, or every byte of it. Never changes anything, and never judges what a checkpoint needs.

use crate::backend::Object;
use crate::error::{Error, Result};
use crate::format::pack::{self, HEADER_BYTES, Line, RECORD_BYTES};
use crate::id::{ChunkId, PackId, SessionId, StoreId};
use crate::index::Place;
use crate::ops::reading::{Buffers, Unreadable, read_chunk};
use crate::packs::read_trailer;
use crate::progress::Progress;

/// What a look at a pack found.
#[derive(Default)]
pub struct Checked {
    /// The session that wrote it, where its header says so.
    pub session: Option<SessionId>,
    /// Its records whose bytes are sound, or that its trailer lists when they were not read.
    pub good: Vec<Line>,
    /// Chunks whose bytes are not.
    pub bad: Vec<(ChunkId, Unreadable)>,
    /// What is wrong with the pack itself.
    pub problem: Option<String>,
    /// Whether its list of records can't be had, so that only a search through its bytes would find them.
    pub is_unlisted: bool,
    /// Whether it is of a version that is not known here.
    pub is_unknown: bool,
    /// Whether the disk refused to give some of its bytes: they may still be there.
    pub is_refused: bool,
}

impl Checked {
    /// Whether nothing at all is wrong with it.
    pub fn is_sound(&self) -> bool {
        self.bad.is_empty() && self.problem.is_none()
    }
}

/// Looks at a pack; `quick` leaves the records unread. Advances `progress` by the bytes of what it reads.
pub fn check_pack(
    store: StoreId,
    id: PackId,
    object: &dyn Object,
    quick: bool,
    buffers: &mut Buffers,
    progress: &dyn Progress,
) -> Result<Checked> {
    let mut checked = Checked::default();
    let (header, lines) = match read_trailer(id, store, object) {
        Ok(read) => read,
        Err(error) => {
            checked.is_unlisted = true;
            checked.problem = Some(match error {
                Error::Corrupt { reason, .. } => reason,
                Error::Unsupported(reason) => {
                    checked.is_unknown = true;
                    reason
                }
                Error::Unavailable { source, .. } => {
                    checked.is_refused = true;
                    format!("it can't be read: {source}")
                }
                error => return Err(error),
            });
            return Ok(checked);
        }
    };
    checked.session = Some(header.session);
    if quick {
        checked.good = lines;
        return Ok(checked);
    }
    let mut end = HEADER_BYTES as u64;
    for line in lines {
        if progress.interrupted() {
            return Err(Error::Interrupted);
        }
        let record_end = line.offset + u64::from(line.stored_len);
        if let Err(reason) = check_front(object, end, &line) {
            checked.problem.get_or_insert(reason);
        }
        match read_twice(id, object, &line, buffers) {
            Ok(()) => {
                // Bits that the decoder passes over are no loss yet, but they say that the disk is failing.
                if crc32c::crc32c(buffers.stored(line.stored_len as usize)) != line.crc {
                    let reason = || format!("the checksum of the record at {} is wrong", line.offset);
                    checked.problem.get_or_insert_with(reason);
                }
                checked.good.push(line);
            }
            Err(reason) => {
                checked.is_refused |= is_refused(object, &line);
                checked.bad.push((line.id, Unreadable { pack: Some(id), reason }));
            }
        }
        progress.advance(record_end - end);
        end = record_end;
    }
    if !is_zero(object, end, pack::trailer_start(end) - end) {
        checked.problem.get_or_insert("bytes between its last record and its trailer are not 0".into());
    }
    progress.advance(object.size().saturating_sub(end));
    Ok(checked)
}

/// Reads and checks a chunk of a pack, once more if it fails: a disk may refuse now what it gives a moment later, and what
/// is taken for damaged goes when the pack is rewritten.
pub fn read_twice(
    id: PackId,
    object: &dyn Object,
    line: &Line,
    buffers: &mut Buffers,
) -> std::result::Result<(), String> {
    let place = Place::new(id, line);
    read_chunk(object, line.id, place, line.raw_len, buffers)
        .or_else(|_| read_chunk(object, line.id, place, line.raw_len, buffers))
}

/// Whether the disk itself refuses a record's bytes, other than by their being past the end.
pub fn is_refused(object: &dyn Object, line: &Line) -> bool {
    let mut bytes = vec![0; line.stored_len as usize];
    let fits = line.offset + u64::from(line.stored_len) <= object.size();
    fits && object.read_exact_at(&mut bytes, line.offset).is_err()
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
