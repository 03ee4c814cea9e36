//! The files that a checkpoint is shown as besides its own. Pure: never opens a checkpoint; all follows from the manifest, and is
//! planned when somebody looks.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};

use ckpt_store::{Body, Manifest, OpenTensor};

use crate::names::{show, unique};

/// A checkpoint as one safetensors file.
pub const SAFETENSORS: &str = ".safetensors";
/// The directory of a checkpoint's tensors.
pub const TENSORS: &str = ".tensors";
/// What the name of a tensor's file ends in.
const SUFFIX: &str = ".npy";

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
    tensor: OpenTensor,
}

impl TensorFile {
    /// The file that has its bytes, by its number in the manifest.
    pub fn of(&self) -> u32 {
        self.tensor.file
    }
}

impl Views {
    /// The checkpoint as one safetensors file, if it can be one.
    pub fn safetensors(&self, manifest: &Manifest) -> Option<&Arc<Body>> {
        self.safetensors.get_or_init(|| Body::safetensors(manifest).ok().map(Arc::new)).as_ref()
    }

    /// Its tensors as files, those left out that can be none.
    pub fn tensors(&self, manifest: &Manifest) -> &Tensors {
        self.tensors.get_or_init(|| Tensors::new(OpenTensor::all(manifest)))
    }
}

impl Tensors {
    fn new(tensors: Vec<OpenTensor>) -> Self {
        let mut all = Self::default();
        for tensor in tensors {
            let Ok(body) = Body::npy(&tensor) else { continue };
            let shown = show(&tensor.name, SUFFIX);
            let name: Arc<str> = unique(&shown, SUFFIX, |name| all.names.contains_key(name)).into();
            let Ok(number) = u32::try_from(all.files.len()) else { break };
            all.names.insert(Arc::clone(&name), number);
            let whole_name = (shown.cut || *name != *shown.name).then(|| tensor.name.as_str().into());
            all.files.push(TensorFile { name, whole_name, len: body.len(), tensor });
        }
        all
    }

    /// The file that is shown by this name, by its number.
    pub fn get(&self, name: &[u8]) -> Option<u32> {
        self.names.get(std::str::from_utf8(name).ok()?).copied()
    }

    /// What a file is made of.
    pub fn body(&self, number: u32) -> Option<Arc<Body>> {
        let file = self.files.get(number as usize)?;
        Body::npy(&file.tensor).ok().map(Arc::new)
    }
}
