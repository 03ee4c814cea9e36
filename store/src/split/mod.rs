//! Bytes to segments: where chunks should begin, and what the bytes between are called. Pure: reads a [`Source`], writes
//! nothing, unpickles nothing and trusts no size it reads. A splitter changes the dedup ratio, never the bytes.

mod cdc;
mod dtype;
mod layout;
mod safetensors;
mod torch_zip;
mod whole;

#[cfg(test)]
mod tests;

use std::{fmt, io};

pub use dtype::Dtype;
pub use layout::{ElementHint, Layout, Placement, PlannedChunk, Range, lay_out};
pub use whole::cut_short;

/// Something whose bytes can be read at any offset. Never a mapping: a file that shrinks must give an error, not SIGBUS.
pub trait Source: Sync {
    /// Size in bytes, as it was when the source was opened.
    fn size(&self) -> u64;
    /// Fills `buf` from `offset`; an end of file before `buf` is full is [`io::ErrorKind::UnexpectedEof`].
    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()>;
}

/// What a range of a file is.
#[derive(Debug, Clone, PartialEq)]
pub enum Kind {
    /// Headers, padding, pickles: bytes of the container.
    Literal,
    /// The bytes of one tensor.
    Tensor {
        /// The best name known.
        name: String,
        /// The type of its elements, when the container tells it and we know it.
        dtype: Option<Dtype>,
        /// Its dimensions, when the container tells them.
        shape: Option<Vec<u64>>,
    },
    /// Bytes of unknown structure, to be cut by their content.
    Opaque,
}

/// A contiguous range of a file. Segments follow each other without gap from offset 0.
#[derive(Debug, Clone, PartialEq)]
pub struct Segment {
    /// Bytes; never 0.
    pub len: u64,
    /// What they are.
    pub kind: Kind,
}

/// The container that a file's segments were read from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Format {
    /// Hugging Face's safetensors: a JSON header, then the tensors.
    Safetensors,
    /// What `torch.save` writes: a stored zip (or, in a `.distcp`, several on end) with one record for each storage.
    TorchZip,
    /// Any other zip: `.npz`, `.keras`.
    Zip,
    /// Anything else; one opaque segment.
    Opaque,
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Safetensors => "safetensors",
            Self::TorchZip => "torch zip",
            Self::Zip => "zip",
            Self::Opaque => "opaque",
        })
    }
}

/// A file's format and its segments, which tile it exactly.
#[derive(Debug, Clone, PartialEq)]
pub struct Split {
    /// What the file was taken for.
    pub format: Format,
    /// In file order; empty only for an empty file.
    pub segments: Vec<Segment>,
}

/// Finds the segments of a whole file.
///
/// Content never makes this fail: on any doubt the file is one opaque segment. An empty file has none.
///
/// # Errors
/// Only those of reading the source.
pub fn split(source: &dyn Source) -> io::Result<Split> {
    let size = source.size();
    let mut buf = [0; HEAD_BYTES];
    let head = &mut buf[..size.min(HEAD_BYTES as u64) as usize];
    source.read_exact_at(head, 0)?;
    let found = if torch_zip::looks_like(head) {
        torch_zip::split(source)?
    } else if safetensors::looks_like(head, size) {
        safetensors::split(source)?
    } else {
        None
    };
    Ok(found.filter(|split| check_tiling(size, &split.segments)).unwrap_or_else(|| opaque(size)))
}

/// Says whether the segments follow each other to exactly `size` bytes, none of them empty.
pub fn check_tiling(size: u64, segments: &[Segment]) -> bool {
    let end = segments.iter().try_fold(0u64, |at, segment| at.checked_add(segment.len).filter(|_| segment.len > 0));
    end == Some(size)
}

/// Bytes that every splitter may look at before it reads on: enough for a zip's magic, or a safetensors length and brace.
const HEAD_BYTES: usize = 9;

fn opaque(size: u64) -> Split {
    let segments = if size == 0 { Vec::new() } else { vec![Segment { len: size, kind: Kind::Opaque }] };
    Split { format: Format::Opaque, segments }
}

/// A named range of a file that a splitter found, before the gaps between are filled.
struct Found {
    start: u64,
    end: u64,
    kind: Kind,
}

/// Turns what a splitter found, none of it empty, into segments: sorts it and fills the gaps and the tail with literals.
/// `None` when two overlap or one ends past `size`.
fn fill_gaps(mut found: Vec<Found>, size: u64) -> Option<Vec<Segment>> {
    found.sort_by_key(|part| (part.start, part.end));
    let mut segments = Vec::with_capacity(found.len());
    let mut at = 0;
    for part in found {
        let gap = part.start.checked_sub(at)?;
        if gap > 0 {
            segments.push(Segment { len: gap, kind: Kind::Literal });
        }
        segments.push(Segment { len: part.end.checked_sub(part.start)?, kind: part.kind });
        at = part.end;
    }
    let tail = size.checked_sub(at)?;
    if tail > 0 {
        segments.push(Segment { len: tail, kind: Kind::Literal });
    }
    Some(segments)
}
