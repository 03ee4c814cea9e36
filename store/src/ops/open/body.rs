//! What the bytes of a file are made of that an open checkpoint can give: a file of its own, or one that is put together from
//! its tensors. Pure: never reads a chunk.

use std::sync::Arc;

use crate::format::manifest::{Content, Manifest};
use crate::limits::CHUNK_BYTES_MAX;
use crate::ops::stream::Span;
use crate::ops::tensors::layout::Layout;

/// A file as a row of parts.
#[derive(Debug, Clone)]
pub struct Body {
    parts: Vec<Part>,
    /// Where each part begins, and behind them the length.
    starts: Vec<u64>,
    /// Where the tensors that are worth reading ahead in end, ascending.
    borders: Vec<u64>,
}

/// Bytes of a body, one after the other.
#[derive(Debug, Clone)]
pub enum Part {
    /// Those.
    Bytes(Arc<Vec<u8>>),
    /// A range of a file of the checkpoint.
    Span(Span),
    /// The elements of a tensor row by row, which lie in its file in another order.
    Rows(Arc<Layout>),
}

impl Part {
    pub(super) fn len(&self) -> u64 {
        match self {
            Self::Bytes(bytes) => bytes.len() as u64,
            Self::Span(span) => span.len,
            Self::Rows(layout) => layout.bytes(),
        }
    }
}

impl Body {
    /// A file of a checkpoint as it was stored; none when there is no regular file of this number.
    pub fn of_file(manifest: &Manifest, file: u32) -> Option<Self> {
        let nr = file;
        let file = manifest.files.get(nr as usize)?;
        let Content::File { size, .. } = file.content else { return None };
        let tensors = file.tensors();
        // Shorter ones are read with their neighbors.
        let long = tensors.iter().filter(|tensor| tensor.len >= CHUNK_BYTES_MAX as u64);
        let borders = long.map(|tensor| tensor.offset + tensor.len).collect();
        Some(Self::new(vec![Part::Span(Span { file: nr, offset: 0, len: size })], borders))
    }

    /// A body of these parts, of which those that end at one of `borders` are the last of their tensor.
    pub(super) fn new(parts: Vec<Part>, mut borders: Vec<u64>) -> Self {
        let mut starts = Vec::with_capacity(parts.len() + 1);
        let mut at = 0;
        starts.push(at);
        starts.extend(parts.iter().map(|part| {
            at += part.len();
            at
        }));
        borders.sort_unstable();
        borders.dedup();
        Self { parts, starts, borders }
    }

    /// Its length in bytes.
    #[allow(clippy::len_without_is_empty, reason = "nobody asks whether a file is empty")]
    pub fn len(&self) -> u64 {
        self.starts.last().copied().unwrap_or_default()
    }

    /// Where the tensor ends that the byte at `offset` lies in or before; the end of the file when there is none.
    pub fn border_after(&self, offset: u64) -> u64 {
        let next = self.borders.partition_point(|border| *border <= offset);
        self.borders.get(next).copied().unwrap_or_else(|| self.len())
    }

    /// The parts of a range, each with where in it the range begins and how many bytes of it it has; what lies past the end is
    /// left out.
    pub(super) fn parts(&self, offset: u64, len: u64) -> impl Iterator<Item = (&Part, u64, u64)> {
        let end = offset.saturating_add(len).min(self.len());
        let first = self.starts.partition_point(|start| *start <= offset).saturating_sub(1);
        let parts = self.parts.iter().zip(&self.starts).skip(first).take_while(move |(_, start)| **start < end);
        parts.filter_map(move |(part, start)| {
            let (from, to) = (offset.max(*start), end.min(start + part.len()));
            (from < to).then(|| (part, from - start, to - from))
        })
    }
}
