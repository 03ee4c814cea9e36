//! Finds the records of a pack whose trailer is of no use, by walking through its bytes. Never takes bytes for a chunk that
//! are not what their name says, and never works without bound on a file that was made to look like a pack.

use crate::backend::Object;
use crate::error::Error;
use crate::format::FormatError;
use crate::format::pack::{self, HEADER_BYTES, Line, RECORD_BYTES};
use crate::id::{ChunkId, PackId};
use crate::ops::reading::{Buffers, Unreadable};
use crate::ops::verify::{is_refused, read_twice};
use crate::progress::Progress;

/// Records begin at multiples of this.
const STEP: u64 = 64;
/// Bytes that are looked at at once.
const WINDOW: u64 = 1 << 20;

/// What was found in a pack.
#[derive(Default)]
pub struct Scanned {
    /// Records whose bytes are sound.
    pub good: Vec<Line>,
    /// Records whose headers are sound and whose bytes are not.
    pub bad: Vec<(ChunkId, Unreadable)>,
    /// Whether the disk refused to give some of the bytes.
    pub is_refused: bool,
    /// Whether there are records of a kind that is not known here.
    pub is_unknown: bool,
}

/// Walks through a pack.
pub fn scan(
    id: PackId,
    object: &dyn Object,
    buffers: &mut Buffers,
    progress: &dyn Progress,
) -> crate::error::Result<Scanned> {
    let mut scanned = Scanned::default();
    let size = object.size();
    let mut window = Window { object, begins: 0, bytes: Vec::new(), is_refused: false };
    let mut at = HEADER_BYTES as u64;
    // A header with a right checksum and wrong bytes behind it: records may begin inside of them. But a file could be made
    // of nothing else, each of them claiming a megabyte.
    let mut patience = 2 * size;
    while at + RECORD_BYTES as u64 <= size {
        if progress.interrupted() {
            return Err(Error::Interrupted);
        }
        let line = match window.at(at).map(|bytes| pack::record_from_bytes(bytes, at)) {
            Some(Err(FormatError::Unsupported(_))) => {
                scanned.is_unknown = true;
                None
            }
            line => line.and_then(Result::ok),
        };
        let Some(line) = line.filter(|line| line.offset + u64::from(line.stored_len) <= size) else {
            at += STEP;
            continue;
        };
        let end = line.offset + u64::from(line.stored_len);
        match read_twice(id, object, &line, buffers) {
            Ok(()) => {
                scanned.good.push(line);
                at = end.next_multiple_of(STEP);
            }
            Err(reason) => {
                scanned.is_refused |= is_refused(object, &line);
                scanned.bad.push((line.id, Unreadable { pack: Some(id), reason }));
                let cost = u64::from(line.raw_len) + u64::from(line.stored_len);
                at = if patience >= cost { at + STEP } else { end.next_multiple_of(STEP) };
                patience = patience.saturating_sub(cost);
            }
        }
    }
    progress.advance(size);
    scanned.is_refused = window.is_refused;
    Ok(scanned)
}

/// A part of the pack in memory.
struct Window<'a> {
    object: &'a dyn Object,
    begins: u64,
    bytes: Vec<u8>,
    is_refused: bool,
}

impl Window<'_> {
    /// The bytes of a record's header at `at`; none where the disk does not give them.
    fn at(&mut self, at: u64) -> Option<&[u8]> {
        let ends = self.begins + self.bytes.len() as u64;
        if at < self.begins || at + RECORD_BYTES as u64 > ends {
            let len = WINDOW.min(self.object.size() - at);
            self.bytes.resize(len as usize, 0);
            self.begins = at;
            if self.object.read_exact_at(&mut self.bytes, at).is_err() {
                self.is_refused = true;
                // One bad sector hides what is around it only as far as it must.
                self.bytes.truncate(RECORD_BYTES);
                if self.object.read_exact_at(&mut self.bytes, at).is_err() {
                    self.bytes.clear();
                    return None;
                }
            }
        }
        let from = (at - self.begins) as usize;
        self.bytes.get(from..from + RECORD_BYTES)
    }
}
