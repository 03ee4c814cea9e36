//! Which bytes make which chunk of a checkpoint. Pure planning: reads a source only where its content decides (opaque files
//! and the literal stream), and never holds more of it than one buffer for each thread.
//!
//! The rules. Every one of them is *format*, as are the numbers in [`crate::limits`]: with another rule old and new
//! checkpoints share fewer chunks.
//!
//! 1. A tensor of at least `SMALL_TENSOR_BYTES` has its own chunks of `CHUNK_BYTES_MAX` from its first byte on, the last
//!    one shorter.
//! 2. Smaller tensors share chunks with those of the same element type of the same file, in the order of their names: the
//!    order in a file may be that of addresses in memory, another one in each save. A shared chunk is
//!    closed before it would exceed `SMALL_GROUP_BYTES_MAX`, and at the end of the file, so that one changed shard
//!    doesn't disturb the chunks of another.
//! 3. Literals, and opaque segments up to `SMALL_FILE_BYTES`, of all files follow each other as one *literal stream*. Up to
//!    `INLINE_BYTES_MAX` it stands inline in the manifest; a longer one is cut by its content with `LITERAL_CDC_BYTES`,
//!    its chunks last in the table, and a segment may run on from one into the next.
//! 4. Larger opaque segments, and literals above `LITERAL_BYTES_MAX`, are cut by their content with `CDC_BYTES`.
//!
//! The chunks of one segment follow each other in the table, so a placement names only the first.

mod plan;

use std::io;

use rayon::prelude::*;

use self::plan::Plan;
use super::{Dtype, ElementType, Kind, Segment, Source, Split, cdc};
use crate::limits::{CDC_BYTES, LITERAL_BYTES_MAX, SMALL_FILE_BYTES, SMALL_TENSOR_BYTES};

/// The chunks of a checkpoint and where its segments lie in them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layout {
    /// The table of chunks. Each has at least 1 and at most `CHUNK_BYTES_MAX` bytes.
    pub chunks: Vec<PlannedChunk>,
    /// For each file, for each of its segments in file order, where its bytes begin.
    pub placements: Vec<Vec<Placement>>,
    /// The ranges whose bytes stand inline in the manifest, in the order of the inline bytes.
    pub inline: Vec<Range>,
    /// The ranges of all chunks, in the order of the table: one allocation, because nearly every chunk has just one.
    ranges: Vec<Range>,
}

impl Layout {
    /// Gives the ranges whose bytes, one after the other, make the chunk at this place of the table.
    ///
    /// # Panics
    /// If there is no such chunk.
    pub fn ranges(&self, chunk: usize) -> &[Range] {
        let end = self.chunks.get(chunk + 1).map_or(self.ranges.len(), |next| next.first_range as usize);
        &self.ranges[self.chunks[chunk].first_range as usize..end]
    }
}

/// One chunk of the table; [`Layout::ranges`] tells its bytes. Small, for a checkpoint of 1 TB has a million.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PlannedChunk {
    /// Bytes.
    pub len: u32,
    /// What its bytes are.
    pub dtype: ElementHint,
    first_range: u32,
}

/// A range of one of the files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Range {
    /// Number of the file, as given to [`lay_out`].
    pub file: u32,
    /// Bytes; never 0.
    pub len: u32,
    /// Byte of the file where it begins.
    pub offset: u64,
}

/// What is known about the elements of a chunk, for the codec that packs it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ElementHint {
    /// Elements of this type, from the chunk's first byte on.
    Dtype(Dtype),
    /// A tensor's elements, of a type that the container doesn't tell.
    Unknown,
    /// No tensor.
    Bytes,
}

/// Where the bytes of a segment begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Placement {
    /// At byte `at` of this chunk, going on through the chunks that follow it in the table.
    Chunks {
        /// Place in the table.
        chunk: u32,
        /// Byte of that chunk.
        at: u32,
    },
    /// Among the inline bytes of the manifest.
    Inline {
        /// Byte of those.
        at: u32,
    },
}

/// Plans the chunks of a checkpoint of these files. The same files in the same order give the same plan.
///
/// # Errors
/// Those of reading a source; [`io::ErrorKind::InvalidInput`] when there is more than 32-bit numbers can count.
pub fn lay_out(files: &[(&dyn Source, &Split)]) -> io::Result<Layout> {
    let mut cuts = cut_opaque(files)?.into_iter();
    let mut plan = Plan::default();
    for (file, (_, split)) in files.iter().enumerate() {
        plan.add_file(count(file)?, split, &mut cuts)?;
    }
    plan.finish(files)
}

/// How a segment becomes chunks.
enum Rule {
    OwnChunks(ElementHint),
    SharedChunk(ElementHint),
    LiteralStream,
    CutByContent,
}

fn rule_for(segment: &Segment) -> Rule {
    match &segment.kind {
        Kind::Tensor { .. } | Kind::Storage { .. } => {
            let known = match &segment.kind {
                Kind::Tensor { dtype, .. } => dtype.as_ref().and_then(ElementType::known),
                Kind::Storage { dtype } => *dtype,
                Kind::Literal | Kind::Opaque => None,
            };
            let hint = known.map_or(ElementHint::Unknown, ElementHint::Dtype);
            if segment.len < SMALL_TENSOR_BYTES { Rule::SharedChunk(hint) } else { Rule::OwnChunks(hint) }
        }
        Kind::Literal if segment.len <= LITERAL_BYTES_MAX => Rule::LiteralStream,
        Kind::Opaque if segment.len <= SMALL_FILE_BYTES => Rule::LiteralStream,
        Kind::Literal | Kind::Opaque => Rule::CutByContent,
    }
}

/// Gives the chunk lengths of every segment that is cut by content, in order of the files. Each is independent of the others.
fn cut_opaque(files: &[(&dyn Source, &Split)]) -> io::Result<Vec<Vec<u32>>> {
    let mut tasks = Vec::new();
    for (source, split) in files {
        let mut offset = 0u64;
        for segment in &split.segments {
            if matches!(rule_for(segment), Rule::CutByContent) {
                tasks.push((*source, offset, segment.len));
            }
            offset = offset.checked_add(segment.len).ok_or_else(too_much)?;
        }
    }
    let cut = |(source, mut offset, len): (&dyn Source, u64, u64)| {
        cdc::cut(len, CDC_BYTES, |buf| {
            source.read_exact_at(buf, offset)?;
            offset += buf.len() as u64;
            Ok(())
        })
    };
    tasks.into_par_iter().map(cut).collect()
}

fn count(number: usize) -> io::Result<u32> {
    u32::try_from(number).map_err(|_| too_much())
}

fn too_much() -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidInput,
        "the checkpoint has more files, segments or chunks than 32-bit numbers can count",
    )
}
