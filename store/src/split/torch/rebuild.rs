//! What the functions that torch's pickles call would make of their arguments. Never makes it.

use super::element::{self, Element};
use crate::limits::DIMENSIONS_MAX;
use crate::pickle::{Id, Node, Pickle};

/// A storage as a pickle names it.
pub(super) struct StorageRef {
    /// The key of its bytes in the file.
    pub(super) key: String,
    /// The type of its elements; none for a storage of bytes.
    pub(super) element: Option<Element>,
    /// Elements of it.
    pub(super) count: u64,
    /// The element of the bytes under that key at which it begins.
    pub(super) first: u64,
}

/// A tensor as a pickle describes it, in elements.
pub(super) struct Tensor {
    pub(super) storage: StorageRef,
    pub(super) element: Element,
    pub(super) shape: Vec<u64>,
    pub(super) strides: Vec<u64>,
    /// From the beginning of the storage.
    pub(super) offset: u64,
}

impl StorageRef {
    /// The storage that a persistent id names: `("storage", class, key, device, elements)`, and in the oldest files which
    /// part of it.
    pub(super) fn of(pickle: &Pickle<'_>, id: Id) -> Option<Self> {
        let [kind, class, key, _device, count, rest @ ..] = pickle.tuple(id)? else { return None };
        if pickle.text(*kind) != Some("storage") {
            return None;
        }
        let (_, class) = pickle.global(*class)?;
        let key = match pickle.node(*key) {
            Node::Int(number) => number.to_string(),
            _ => pickle.text(*key)?.to_owned(),
        };
        let first = match rest.first().and_then(|part| pickle.tuple(*part)) {
            Some([_, first, _]) => pickle.size(*first)?,
            _ => 0,
        };
        Some(Self { key, element: element::of_storage(class), count: pickle.size(*count)?, first })
    }

    /// The storage that a node is.
    fn at(pickle: &Pickle<'_>, node: Id) -> Option<Self> {
        if let Node::Persistent(id) = pickle.node(node) { Self::of(pickle, id) } else { None }
    }

    /// A storage that was saved for itself.
    pub(super) fn bare(pickle: &Pickle<'_>, id: Id) -> Option<Tensor> {
        let storage = Self::of(pickle, id)?;
        let element = storage.element.clone().unwrap_or_else(|| super::Dtype::U8.into());
        Some(Tensor { element, shape: vec![storage.count], strides: vec![1], offset: 0, storage })
    }
}

impl Tensor {
    /// What `_rebuild_tensor`, `_rebuild_tensor_v2`, `_rebuild_tensor_v3` and `_rebuild_qtensor` would make.
    pub(super) fn rebuilt(pickle: &Pickle<'_>, function: &str, args: &[Id]) -> Option<Self> {
        let [storage, offset, shape, strides, rest @ ..] = args else { return None };
        let storage = StorageRef::at(pickle, *storage)?;
        // Behind these four: requires_grad, hooks, in v3 the type, and what else there is to know.
        let (element, metadata) = match function {
            "_rebuild_tensor_v3" => {
                let (_, dtype) = pickle.global(*rest.get(2)?)?;
                (element::of_dtype(dtype)?, rest.get(3))
            }
            "_rebuild_qtensor" => (storage.element.clone()?, None),
            _ => (storage.element.clone()?, rest.get(2)),
        };
        // Conjugated or negated when it is used: its bytes are not its values.
        let is_lazy = |(_, value)| pickle.node(value) != Node::Bool(false);
        if metadata.is_some_and(|metadata| pickle.pairs(*metadata).any(is_lazy)) {
            return None;
        }
        let (shape, strides) = (sizes(pickle, *shape)?, sizes(pickle, *strides)?);
        Some(Self { storage, element, shape, strides, offset: pickle.size(*offset)? })
    }
}

/// The numbers of a tuple, a list or a `torch.Size`.
pub(in super::super) fn sizes(pickle: &Pickle<'_>, mut node: Id) -> Option<Vec<u64>> {
    if let Some(object) = pickle.object(node) {
        let [inner] = pickle.tuple(object.args)? else { return None };
        node = *inner;
    }
    let sizes: Option<Vec<u64>> = match pickle.tuple(node) {
        Some(items) => items.iter().take(DIMENSIONS_MAX + 1).map(|item| pickle.size(*item)).collect(),
        None if matches!(pickle.node(node), Node::List(_)) => {
            pickle.items(node).take(DIMENSIONS_MAX + 1).map(|item| pickle.size(item)).collect()
        }
        None => None,
    };
    sizes.filter(|sizes| sizes.len() <= DIMENSIONS_MAX)
}
