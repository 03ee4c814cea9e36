//! The files that a checkpoint is shown as besides its own. Never opens a checkpoint: all follows from the manifest, and is planned
//! when somebody looks.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::sync::{Arc, OnceLock};

use ckpt_store::{Body, CheckpointId, Manifest};

use crate::directory::Row;
use crate::manifests::Loaded;
use crate::node::{Attributes, Kind, Node};

/// A checkpoint as one safetensors file.
pub const SAFETENSORS: &str = ".safetensors";
/// The directory of a checkpoint's tensors.
pub const TENSORS: &str = ".tensors";

/// The views of one checkpoint, as far as somebody looked.
#[derive(Default)]
pub struct Views {
    safetensors: OnceLock<Option<Arc<Body>>>,
    tensors: OnceLock<Tensors>,
}

/// The tensors that can be files of NumPy.
#[derive(Default)]
pub struct Tensors {
    /// In the order of the checkpoint.
    pub files: Vec<TensorFile>,
    names: HashMap<Box<str>, u32>,
}

/// A tensor as a file of NumPy.
pub struct TensorFile {
    /// As it is shown.
    pub name: Box<str>,
    /// The tensor's name where that is not shown whole.
    pub whole_name: Option<Box<str>>,
    /// Bytes.
    pub len: u64,
}

impl Loaded {
    /// The checkpoint as one safetensors file, if it can be one.
    pub fn safetensors(&self) -> Option<&Arc<Body>> {
        self.views.safetensors.get_or_init(|| None).as_ref()
    }

    /// Its tensors as files.
    pub fn tensors(&self) -> &Tensors {
        self.views.tensors.get_or_init(Tensors::default)
    }

    /// What such a file is made of.
    pub fn tensor(&self, _number: u32) -> Option<Arc<Body>> {
        None
    }

    /// Both views, as rows of the checkpoint's directory; a file of its own hides the view that has its name.
    pub fn views(&self, id: CheckpointId) -> impl Iterator<Item = Row<'static>> {
        let views = [SAFETENSORS, TENSORS].into_iter().filter_map(move |name| {
            let (node, attributes) = self.view_named(id, name.as_bytes())?;
            Some(Row { name: OsStr::new(name), node, attributes })
        });
        views.collect::<Vec<_>>().into_iter()
    }

    /// What is of this name in a directory of the checkpoint.
    pub fn member_named(&self, id: CheckpointId, directory: Option<u32>, name: &[u8]) -> Option<(Node, Attributes)> {
        match self.members.get(&self.manifest, directory, name) {
            Some(number) => Some((Node::Member(id, number), self.members.attributes(&self.manifest, number)?)),
            None if directory.is_none() => self.view_named(id, name),
            None => None,
        }
    }

    /// The tensor that is shown by this name.
    pub fn tensor_named(&self, id: CheckpointId, name: &[u8]) -> Option<(Node, Attributes)> {
        let tensors = self.tensors();
        let number = *tensors.names.get(std::str::from_utf8(name).ok()?)?;
        let file = tensors.files.get(number as usize)?;
        Some((Node::Tensor(id, number), attributes(file.len, &self.manifest)))
    }

    fn view_named(&self, id: CheckpointId, name: &[u8]) -> Option<(Node, Attributes)> {
        let is_view = name == SAFETENSORS.as_bytes() || name == TENSORS.as_bytes();
        if !is_view || self.members.get(&self.manifest, None, name).is_some() {
            return None;
        }
        if name == SAFETENSORS.as_bytes() {
            return Some((Node::Safetensors(id), attributes(self.safetensors()?.len(), &self.manifest)));
        }
        let any = !self.tensors().files.is_empty();
        any.then(|| (Node::Tensors(id), Attributes::directory(2, self.manifest.time_ms)))
    }
}

/// What `stat` tells of a view of this length.
pub fn attributes(len: u64, manifest: &Manifest) -> Attributes {
    Attributes { kind: Kind::File, mode: 0o444, links: 1, size: len, mtime_ms: manifest.time_ms }
}
