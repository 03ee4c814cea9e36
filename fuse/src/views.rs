//! The files that a checkpoint is shown as besides its own. Pure: never opens a checkpoint; all follows from the manifest, and is
//! planned when somebody looks.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};

use ckpt_store::{Body, Manifest};

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
    names: HashMap<Arc<str>, u32>,
}

/// A tensor as a file of NumPy.
pub struct TensorFile {
    /// As it is shown.
    pub name: Arc<str>,
    /// The tensor's name where that is not shown whole.
    pub whole_name: Option<Box<str>>,
    /// Bytes.
    pub len: u64,
}

impl Views {
    /// The checkpoint as one safetensors file, if it can be one.
    pub fn safetensors(&self, _manifest: &Manifest) -> Option<&Arc<Body>> {
        self.safetensors.get_or_init(|| None).as_ref()
    }

    /// Its tensors as files.
    pub fn tensors(&self, _manifest: &Manifest) -> &Tensors {
        self.tensors.get_or_init(Tensors::default)
    }
}

impl Tensors {
    /// The file that is shown by this name, by its number.
    pub fn get(&self, name: &[u8]) -> Option<u32> {
        self.names.get(std::str::from_utf8(name).ok()?).copied()
    }

    /// What a file is made of.
    pub fn body(&self, _number: u32) -> Option<Arc<Body>> {
        None
    }
}
