//! The tensors that a pickle of `torch.save` or `torch.jit.save` names, under the names that torch reports for them. Never
//! reads a tensor, and believes no size: what doesn't lie in its storage is left out.

mod element;
mod parts;
mod rebuild;
mod walk;

use std::collections::HashMap;

use self::element::Element;
use self::rebuild::StorageRef;
pub(super) use self::rebuild::sizes;
pub(super) use self::walk::BARE;
use super::arrange::Described;
use super::{Dtype, ElementType};
use crate::pickle::{Node, Pickle};

/// Where the storages of a file lie: by the key that the pickle has for each, its first byte and the one behind it.
pub(super) type Places = HashMap<String, (u64, u64)>;

/// What a pickle says about one storage.
pub(super) struct Told {
    /// The key.
    pub(super) key: String,
    /// The type of its elements, if the pickle tells one and no other.
    pub(super) elements: Option<ElementType>,
    /// Bytes of an element as the pickle first told it; 1 where it told no type.
    pub(super) element_bytes: u64,
    /// Elements as the pickle first told it.
    pub(super) count: u64,
}

/// The storages that a pickle names, in its order.
pub(super) fn storages(pickle: &Pickle<'_>, is_big_endian: bool) -> Vec<Told> {
    let mut told: Vec<Told> = Vec::new();
    let mut by_key = HashMap::new();
    for node in pickle.nodes() {
        let Node::Persistent(id) = node else { continue };
        let Some(storage) = StorageRef::of(pickle, id) else { continue };
        let element_bytes = storage.element.as_ref().map_or(1, |element| element.bytes);
        let elements = storage.element.map(|element| element.in_file(is_big_endian));
        let at = *by_key.entry(storage.key.clone()).or_insert(told.len());
        match told.get_mut(at) {
            Some(before) if before.elements == elements => {}
            Some(before) => before.elements = None,
            None => told.push(Told { key: storage.key, elements, element_bytes, count: storage.count }),
        }
    }
    told
}

/// The tensors that a pickle names and that lie in their storages. None at all if it would take too long to find them.
pub(super) fn tensors(pickle: &Pickle<'_>, places: &Places, is_big_endian: bool) -> Vec<Described> {
    let found = walk::find(pickle).unwrap_or_default();
    let described = found.into_iter().filter_map(|(name, tensor)| {
        let element_bytes = tensor.element.bytes;
        let mut described = Described {
            name,
            elements: tensor.element.in_file(is_big_endian),
            element_bytes,
            shape: tensor.shape,
            strides: tensor.strides,
            start: 0,
        };
        let reach = described.reach()?;
        if reach == 0 {
            return Some(described);
        }
        let (start, end) = places.get(&tensor.storage.key)?;
        let within = tensor.storage.first.checked_add(tensor.offset)?.checked_mul(element_bytes)?;
        described.start = start.checked_add(within)?;
        (described.start.checked_add(reach)? <= *end).then_some(described)
    });
    described.collect()
}

impl Element {
    fn in_file(self, is_big_endian: bool) -> ElementType {
        if is_big_endian && self.bytes > 1 {
            ElementType::Named(format!("{} big-endian", self.kind))
        } else {
            self.kind
        }
    }
}

impl From<Dtype> for Element {
    fn from(dtype: Dtype) -> Self {
        Self { bytes: u64::from(dtype.bits() / 8), kind: dtype.into() }
    }
}
