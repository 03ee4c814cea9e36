//! Bytes to segments: where chunks should begin, and what the bytes between are called. Pure: reads a [`Source`], writes
//! nothing, executes no pickle and trusts no size it reads. A splitter changes the dedup ratio, never the bytes.

mod arrange;
mod cdc;
mod dcp;
mod dtype;
mod gguf;
mod hdf5;
mod layout;
mod npy;
mod safetensors;
mod source;
mod tar;
mod torch;
mod torch_legacy;
mod torch_zip;
mod whole;
mod window;
mod zip;

#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::{fmt, io};

pub use dcp::DistributedNames;
pub use dtype::{Dtype, ElementType};
pub use layout::{ElementHint, Layout, Placement, PlannedChunk, Range, lay_out};
pub use source::Source;
pub use whole::cut_short;

use crate::limits::SPLIT_DEPTH_MAX;

/// What a range of a file is.
#[derive(Debug, Clone, PartialEq)]
pub enum Kind {
    /// Headers, padding, pickles: bytes of the container.
    Literal,
    /// The bytes of one tensor, row-major, from its first element to its last.
    Tensor {
        /// The best name known.
        name: String,
        /// The type of its elements, when the container tells it.
        dtype: Option<ElementType>,
        /// Its dimensions, when the container tells them.
        shape: Option<Vec<u64>>,
    },
    /// Elements of tensors of which none is just this range; views may tell more.
    Storage {
        /// The type of the elements, when the container tells it and we know it.
        dtype: Option<Dtype>,
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

/// A tensor that is not a segment: a further name of one (tied weights), a part of one, one whose elements lie in another
/// order than row by row, or one without bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct View {
    /// Its name.
    pub name: String,
    /// The type of its elements, when the container tells it.
    pub dtype: Option<ElementType>,
    /// Its dimensions.
    pub shape: Vec<u64>,
    /// How many elements lie between neighbors in each dimension; none when it is row-major with nothing between.
    pub strides: Option<Vec<u64>>,
    /// Byte of the file where its first element begins.
    pub offset: u64,
    /// Bytes from there to the end of its last element.
    pub len: u64,
}

/// The container that a file's segments were read from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Format {
    /// Hugging Face's safetensors: a JSON header, then the tensors.
    Safetensors,
    /// What `torch.save` writes: a stored zip (or, in a `.distcp`, several on end) with one record for each storage.
    TorchZip,
    /// What `torch.jit.save` writes: such a zip with code.
    TorchScript,
    /// What `torch.save` wrote before version 1.6: pickles, then the storages.
    TorchLegacy,
    /// HDF5: what Keras calls `.h5`.
    Hdf5,
    /// A zip around one HDF5 file: `.keras`.
    Keras,
    /// One NumPy array.
    Npy,
    /// A zip of NumPy arrays.
    Npz,
    /// What llama.cpp reads.
    Gguf,
    /// A tar.
    Tar,
    /// Any other zip.
    Zip,
    /// Anything else; one opaque segment.
    Opaque,
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Safetensors => "safetensors",
            Self::TorchZip => "torch zip",
            Self::TorchScript => "torchscript",
            Self::TorchLegacy => "torch legacy",
            Self::Hdf5 => "hdf5",
            Self::Keras => "keras",
            Self::Npy => "npy",
            Self::Npz => "npz",
            Self::Gguf => "gguf",
            Self::Tar => "tar",
            Self::Zip => "zip",
            Self::Opaque => "opaque",
        })
    }
}

/// A file's format, its segments, which tile it exactly, and its views, which lie in it.
#[derive(Debug, Clone, PartialEq)]
pub struct Split {
    /// What the file was taken for.
    pub format: Format,
    /// In file order; empty only for an empty file.
    pub segments: Vec<Segment>,
    /// The tensors that are no segment.
    pub views: Vec<View>,
}

/// Finds the segments of a whole file.
///
/// Content never makes this fail: on any doubt the file is one opaque segment. An empty file has none.
///
/// # Errors
/// Only those of reading the source.
pub fn split(source: &Arc<dyn Source>) -> io::Result<Split> {
    let size = source.size();
    Ok(split_content(source, 0)?.unwrap_or_else(|| {
        let segments = if size == 0 { Vec::new() } else { vec![Segment { len: size, kind: Kind::Opaque }] };
        Split { format: Format::Opaque, segments, views: Vec::new() }
    }))
}

/// Says whether the segments follow each other to exactly `size` bytes, none of them empty.
pub fn check_tiling(size: u64, segments: &[Segment]) -> bool {
    let end = segments.iter().try_fold(0u64, |at, segment| at.checked_add(segment.len).filter(|_| segment.len > 0));
    end == Some(size)
}

/// Bytes that every splitter may look at before it reads on: enough for any magic but that of a tar.
const HEAD_BYTES: usize = 16;

/// Splits a file, or a part of one at this depth of containers, if it is of a format that we know.
fn split_content(source: &Arc<dyn Source>, depth: usize) -> io::Result<Option<Split>> {
    if depth > SPLIT_DEPTH_MAX {
        return Ok(None);
    }
    let size = source.size();
    let mut buf = [0; HEAD_BYTES];
    let head = &mut buf[..size.min(HEAD_BYTES as u64) as usize];
    source.read_exact_at(head, 0)?;
    let parts = if zip::looks_like(head) {
        zip::split(source, depth)?
    } else if torch_legacy::looks_like(head) {
        torch_legacy::split(source)?
    } else if safetensors::looks_like(head, size) {
        safetensors::split(&**source)?
    } else if npy::looks_like(head) {
        npy::split(&**source)?
    } else if hdf5::looks_like(head) {
        hdf5::split(&**source)?
    } else if gguf::looks_like(head) {
        gguf::split(&**source)?
    } else if tar::looks_like(&**source)? {
        tar::split(source, depth)?
    } else {
        None
    };
    Ok(parts.and_then(|parts| parts.fill_gaps(size)))
}

/// A named range of a file that a splitter found, before the gaps between are filled.
struct Found {
    start: u64,
    end: u64,
    kind: Kind,
}

/// What a splitter found in a file; everything that it left out is literal.
struct Parts {
    format: Format,
    /// None of them empty.
    found: Vec<Found>,
    views: Vec<View>,
}

impl Parts {
    fn of(format: Format) -> Self {
        Self { format, found: Vec::new(), views: Vec::new() }
    }

    /// Adds what was found in the member of a container whose bytes begin at `at`; `name` makes the names of its tensors
    /// those that they have in the container.
    fn add_member(&mut self, member: Split, mut at: u64, name: impl Fn(String) -> String) {
        for view in member.views {
            self.views.push(View { name: name(view.name), offset: view.offset + at, ..view });
        }
        for Segment { len, kind } in member.segments {
            let (start, end) = (at, at + len);
            at = end;
            let kind = match kind {
                Kind::Literal => continue,
                Kind::Tensor { name: own, dtype, shape } => Kind::Tensor { name: name(own), dtype, shape },
                other => other,
            };
            self.found.push(Found { start, end, kind });
        }
    }

    /// Sorts what was found and fills the gaps and the tail with literals. `None` when two overlap or one ends past `size`.
    fn fill_gaps(mut self, size: u64) -> Option<Split> {
        self.found.sort_by_key(|part| (part.start, part.end));
        let mut segments = Vec::with_capacity(self.found.len());
        let mut at = 0;
        for part in self.found {
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
        let views_fit = self.views.iter().all(|view| view.offset.checked_add(view.len).is_some_and(|end| end <= size));
        let split = Split { format: self.format, segments, views: self.views };
        (views_fit && check_tiling(size, &split.segments)).then_some(split)
    }
}
