//! The tensors that a manifest names, whether they are segments or views. Never says where chunks are.

use std::sync::Arc;

use super::manifest::{Content, File, Manifest, Segment, Tensor, View};
use crate::limits::DIMENSIONS_MAX;
use crate::split::Dtype;

/// Where the ranges of one file lie.
pub struct FileMap<'a> {
    manifest: &'a Manifest,
    segments: &'a [Segment],
    /// Byte of the file where each segment begins.
    starts: Arc<[u64]>,
    /// Bytes of all chunks before each one of the table, where somebody added them up.
    before: Option<&'a [u64]>,
}

/// A part of a range of a file that lies in one chunk, or inline.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Piece {
    /// In a chunk of the manifest's table.
    Chunk {
        /// Place in the table.
        chunk: u32,
        /// Byte of the chunk where it begins.
        at: u32,
        /// Bytes.
        len: u32,
    },
    /// Among the manifest's inline bytes.
    Inline {
        /// Byte of those where it begins.
        at: u32,
        /// Bytes.
        len: u32,
    },
}

impl Manifest {
    /// Where the ranges of file `file` lie.
    ///
    /// # Panics
    /// When there is no such file.
    pub fn map(&self, file: u32) -> FileMap<'_> {
        let segments = self.segments_of(file);
        let mut at = 0;
        let starts = segments.iter().map(|segment| {
            at += segment.0;
            at - segment.0
        });
        FileMap { manifest: self, segments, starts: starts.collect(), before: None }
    }

    /// As [`Self::map`], for one who asks often: with the [`FileMap::starts`] of this file and the [`Self::sums`].
    pub fn map_with<'a>(&'a self, file: u32, starts: Arc<[u64]>, sums: &'a [u64]) -> FileMap<'a> {
        FileMap { manifest: self, segments: self.segments_of(file), starts, before: Some(sums) }
    }

    /// The bytes of all chunks before each one of the table.
    pub fn sums(&self) -> Vec<u64> {
        let mut sum = 0;
        let before = |len: &u32| {
            sum += u64::from(*len);
            sum - u64::from(*len)
        };
        self.chunk_lens.iter().map(before).collect()
    }

    fn segments_of(&self, file: u32) -> &[Segment] {
        match &self.files[file as usize].content {
            Content::File { segments, .. } => segments,
            _ => &[],
        }
    }
}

impl FileMap<'_> {
    /// Where its segments begin.
    pub fn starts(&self) -> Arc<[u64]> {
        Arc::clone(&self.starts)
    }

    /// The pieces of `len` bytes from `offset` on, in order; what lies past the end of the file is left out.
    pub fn pieces(&self, offset: u64, len: u64) -> Vec<Piece> {
        let mut pieces = Vec::new();
        let end = offset.saturating_add(len);
        let first = self.starts.partition_point(|start| *start <= offset).saturating_sub(1);
        for (Segment(len, place, at, _), start) in self.segments.iter().zip(&*self.starts).skip(first) {
            let (from, to) = (offset.max(*start), end.min(start + len));
            if from >= to {
                break;
            }
            let (mut skip, mut left) = (from - start, to - from);
            let Some(mut chunk) = *place else {
                // Inline bytes are few: the sum fits.
                pieces.push(Piece::Inline { at: at + skip as u32, len: left as u32 });
                continue;
            };
            let mut at = *at;
            if let Some(before) = self.before {
                // Where the chunk lies in which the range begins, without walking there.
                let wanted = before[chunk as usize] + u64::from(at) + skip;
                let found = chunk as usize + before[chunk as usize..].partition_point(|sum| *sum <= wanted) - 1;
                if found > chunk as usize {
                    (chunk, at, skip) = (found as u32, 0, wanted - before[found]);
                }
            }
            while left > 0 {
                let in_chunk = u64::from(self.manifest.chunk_lens[chunk as usize] - at);
                if skip >= in_chunk {
                    skip -= in_chunk;
                } else {
                    let len = left.min(in_chunk - skip) as u32;
                    pieces.push(Piece::Chunk { chunk, at: at + skip as u32, len });
                    (skip, left) = (0, left - u64::from(len));
                }
                (chunk, at) = (chunk + 1, 0);
            }
        }
        pieces
    }
}

/// A tensor of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TensorRef<'a> {
    /// Its name.
    pub name: &'a str,
    /// The type of its elements, as far as the container told it.
    pub dtype: Option<&'a str>,
    /// Its dimensions, as far as the container told them.
    pub shape: Option<&'a [u64]>,
    /// How many elements lie between neighbors in each dimension; none when it is row-major with nothing between.
    pub strides: Option<&'a [u64]>,
    /// Byte of the file where its first element begins.
    pub offset: u64,
    /// Bytes of the file from there to the end of its last element.
    pub len: u64,
}

impl File {
    /// Its tensors by where they begin; of those in one place the one that is a segment comes first.
    pub fn tensors(&self) -> Vec<TensorRef<'_>> {
        let mut tensors: Vec<_> = self.each_tensor().collect();
        tensors.sort_by_key(|tensor| tensor.offset);
        tensors
    }

    /// The name of a tensor that the byte at `at` belongs to.
    pub fn tensor_at(&self, at: u64) -> Option<String> {
        let holds = |tensor: &TensorRef<'_>| (tensor.offset..tensor.offset + tensor.len).contains(&at);
        self.each_tensor().find(holds).map(|tensor| tensor.name.to_owned())
    }

    /// Its tensors, segments first.
    fn each_tensor(&self) -> impl Iterator<Item = TensorRef<'_>> {
        let (segments, views) = match &self.content {
            Content::File { segments, views, .. } => (&segments[..], &views[..]),
            _ => Default::default(),
        };
        let mut at = 0;
        let segments = segments.iter().filter_map(move |Segment(len, _, _, tensor)| {
            let offset = at;
            at += len;
            let Tensor(name, dtype, shape) = tensor.as_ref()?;
            let (dtype, shape) = (dtype.as_deref(), shape.as_deref());
            Some(TensorRef { name, dtype, shape, strides: None, offset, len: *len })
        });
        let views = views.iter().map(|View(name, dtype, shape, strides, offset, len)| TensorRef {
            name,
            dtype: dtype.as_deref(),
            shape: Some(shape),
            strides: strides.as_deref(),
            offset: *offset,
            len: *len,
        });
        segments.chain(views)
    }
}

impl View {
    /// Whether it lies in a file of `size` bytes, and its elements in it.
    pub(super) fn fits(&self, size: u64) -> bool {
        let View(_, dtype, shape, strides, offset, len) = self;
        let is_inside = offset.checked_add(*len).is_some_and(|end| end <= size);
        // Of an element whose type we don't know we know that it has at least one bit.
        let bits = dtype.as_deref().and_then(Dtype::parse).map_or(1, Dtype::bits);
        let reach = elements_reach(shape, strides.as_deref());
        is_inside
            && shape.len() <= DIMENSIONS_MAX
            && strides.as_ref().is_none_or(|strides| strides.len() == shape.len())
            && reach.and_then(|reach| reach.checked_mul(u64::from(bits))).is_some_and(|reach| reach.div_ceil(8) <= *len)
    }
}

/// From the first element to behind the last, in elements: 0 when there are none. Nothing when that overflows.
pub fn elements_reach(shape: &[u64], strides: Option<&[u64]>) -> Option<u64> {
    let elements = shape.iter().try_fold(1_u64, |product, dim| product.checked_mul(*dim))?;
    let Some(strides) = strides.filter(|_| elements > 0) else { return Some(elements) };
    let last = shape
        .iter()
        .zip(strides)
        .try_fold(0_u64, |last, (dim, stride)| last.checked_add((dim - 1).checked_mul(*stride)?));
    last?.checked_add(1)
}
