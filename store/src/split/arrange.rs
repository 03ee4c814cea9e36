//! Storages and the tensors in them to segments and views: a storage is cut where a row-major tensor begins and ends, so
//! that its chunks are those of the same tensor in any other file. Pure arithmetic: never reads.

use std::collections::BTreeMap;

use super::{ElementType, Found, Kind, View};
use crate::limits::DIMENSIONS_MAX;

/// A contiguous range of a file that holds elements of tensors: one record of a torch zip, one array.
pub(super) struct Storage {
    /// Byte of the file where it begins.
    pub(super) start: u64,
    /// Byte of the file behind it.
    pub(super) end: u64,
    /// The type of its elements, if known.
    pub(super) elements: Option<ElementType>,
    /// What to call it when no tensor of it is known.
    pub(super) name: String,
}

/// A tensor as a container describes it.
#[derive(Clone)]
pub(super) struct Described {
    /// Its name.
    pub(super) name: String,
    /// The type of its elements.
    pub(super) elements: ElementType,
    /// Bytes of one element; not 0.
    pub(super) element_bytes: u64,
    /// Its dimensions.
    pub(super) shape: Vec<u64>,
    /// How many elements lie between neighbors in each dimension.
    pub(super) strides: Vec<u64>,
    /// Byte of the file where its first element begins.
    pub(super) start: u64,
}

/// The strides of a row-major tensor; nothing if they overflow.
pub(super) fn row_major(shape: &[u64]) -> Option<Vec<u64>> {
    let mut strides = vec![1; shape.len()];
    for at in (1..shape.len()).rev() {
        strides[at - 1] = shape[at].max(1).checked_mul(strides[at])?;
    }
    Some(strides)
}

/// Finds segments and views. Nothing if a storage overlaps another, or a tensor is in none of them.
pub(super) fn arrange(mut storages: Vec<Storage>, tensors: Vec<Described>) -> Option<(Vec<Found>, Vec<View>)> {
    storages.retain(|storage| storage.start < storage.end);
    storages.sort_by_key(|storage| storage.start);
    if storages.windows(2).any(|pair| pair[0].end > pair[1].start) {
        return None;
    }
    let mut views = Vec::new();
    let mut of_storage: Vec<Vec<(View, bool)>> = storages.iter().map(|_| Vec::new()).collect();
    for tensor in tensors {
        let (view, is_row_major) = tensor.placed()?;
        let end = view.offset + view.len;
        let storage = storages.partition_point(|storage| storage.start <= view.offset).checked_sub(1);
        match storage.filter(|at| end <= storages[*at].end) {
            Some(storage) => of_storage[storage].push((view, is_row_major)),
            // One without bytes may point anywhere.
            None if view.len == 0 => views.push(View { offset: 0, ..view }),
            None => return None,
        }
    }
    let mut found = Vec::new();
    for (storage, tensors) in storages.into_iter().zip(of_storage) {
        cut(storage, tensors, &mut found, &mut views);
    }
    Some((found, views))
}

impl Described {
    /// Bytes from its first element to the end of its last; nothing if they overflow, or it is no tensor.
    pub(super) fn reach(&self) -> Option<u64> {
        if self.shape.len() != self.strides.len() || self.shape.len() > DIMENSIONS_MAX || self.element_bytes == 0 {
            return None;
        }
        let elements = self.shape.iter().try_fold(1_u64, |product, dim| product.checked_mul(*dim))?;
        let mut last = 0_u64;
        for (dim, stride) in self.shape.iter().zip(&self.strides).filter(|_| elements > 0) {
            last = last.checked_add((dim - 1).checked_mul(*stride)?)?;
        }
        if elements == 0 { Some(0) } else { last.checked_add(1)?.checked_mul(self.element_bytes) }
    }

    /// Where its bytes lie, and whether they are a row-major tensor with nothing between its elements.
    fn placed(self) -> Option<(View, bool)> {
        let len = self.reach()?;
        self.start.checked_add(len)?;
        let expected = row_major(&self.shape)?;
        // The stride of a dimension of one element is of no consequence, and torch writes anything there.
        let is_row_major =
            self.shape.iter().zip(self.strides.iter().zip(&expected)).all(|(dim, (a, b))| *dim <= 1 || a == b);
        let is_row_major = is_row_major || len == 0;
        let strides = (!is_row_major).then_some(self.strides);
        let view =
            View { name: self.name, dtype: Some(self.elements), shape: self.shape, strides, offset: self.start, len };
        Some((view, is_row_major))
    }
}

/// Cuts one storage at its tensors: the longest first, then those that don't overlap one that was taken.
fn cut(storage: Storage, mut tensors: Vec<(View, bool)>, found: &mut Vec<Found>, views: &mut Vec<View>) {
    if tensors.is_empty() {
        let kind = Kind::Tensor { name: storage.name, dtype: storage.elements, shape: None };
        found.push(Found { start: storage.start, end: storage.end, kind });
        return;
    }
    // The sort keeps the order of the container among those of one place and length: the first keeps its name.
    tensors.sort_by_key(|(view, _)| (std::cmp::Reverse(view.len), view.offset));
    let mut taken: BTreeMap<u64, u64> = BTreeMap::new();
    for (view, is_row_major) in tensors {
        let end = view.offset + view.len;
        let before = taken.range(..end).next_back();
        let is_free = before.is_none_or(|(_, before)| *before <= view.offset);
        if !(is_row_major && is_free && view.len > 0) {
            views.push(view);
            continue;
        }
        taken.insert(view.offset, end);
        let kind = Kind::Tensor { name: view.name, dtype: view.dtype, shape: Some(view.shape) };
        found.push(Found { start: view.offset, end, kind });
    }
    let dtype = storage.elements.as_ref().and_then(ElementType::known);
    let mut at = storage.start;
    for (start, end) in taken.into_iter().chain([(storage.end, storage.end)]) {
        if at < start {
            found.push(Found { start: at, end: start, kind: Kind::Storage { dtype } });
        }
        at = end;
    }
}
