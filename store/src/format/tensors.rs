//! The tensors that a manifest names, whether they are segments or views. Never says where chunks are.

use super::manifest::{Content, File, Segment, Tensor, View};
use crate::limits::DIMENSIONS_MAX;

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
        let View(_, _, shape, strides, offset, len) = self;
        let is_inside = offset.checked_add(*len).is_some_and(|end| end <= size);
        is_inside
            && shape.len() <= DIMENSIONS_MAX
            && strides.as_ref().is_none_or(|strides| strides.len() == shape.len())
            && elements_reach(shape, strides.as_deref())
                .is_some_and(|reach| (reach == 0) == (*len == 0) && reach <= *len * 8)
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
