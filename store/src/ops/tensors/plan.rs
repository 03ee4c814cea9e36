//! What a safetensors file of tensors of a checkpoint looks like. Never has a type that safetensors doesn't have, and never two
//! names for one tensor: its readers refuse that, so further names go to the metadata as `safetensors.torch.save_model` has it.
//! Pure: never reads a chunk.

use std::collections::{BTreeMap, HashMap};

use serde::ser::{SerializeMap, Serializer};

use super::Named;
use super::layout::Layout;
use crate::error::{Error, Result};
use crate::split::Dtype;

/// A file to be written: its header, and the tensors in the order of their bytes.
pub struct Plan<'a> {
    /// The bytes before the tensors.
    pub header: Vec<u8>,
    /// The tensors, one behind the other, each row by row.
    pub tensors: Vec<Named<'a>>,
    /// Further names of these, which stand in the metadata.
    pub tied: u64,
    /// Bytes of the file.
    pub bytes: u64,
}

/// Plans a file of these tensors of the checkpoint that people call `name`.
///
/// # Errors
/// [`Error::UnsuitedTensor`] for a tensor that safetensors can't have, [`Error::Invalid`] for more than one file can hold.
pub fn plan<'a>(name: &str, mut chosen: Vec<Named<'a>>) -> Result<Plan<'a>> {
    // The names alone decide which of several stays, as in save_model.
    chosen.sort_by(|a, b| a.name.cmp(&b.name));
    let mut metadata = BTreeMap::from([("format".to_owned(), "pt".to_owned()), ("ckpt".to_owned(), name.to_owned())]);
    let mut kept_at: HashMap<_, String> = HashMap::new();
    let mut tensors = Vec::with_capacity(chosen.len());
    let mut tied = 0;
    for named in chosen {
        let tensor = named.tensor;
        let place = (named.file, tensor.offset, tensor.len, tensor.dtype, tensor.shape, tensor.strides);
        match kept_at.get(&place).filter(|_| tensor.len > 0) {
            Some(kept) => {
                tied += 1;
                metadata.entry(named.name).or_insert_with(|| kept.clone());
            }
            None => {
                kept_at.insert(place, named.name.clone());
                tensors.push((safetensors_type(&named)?, named));
            }
        }
    }
    // Wider elements first, so that all of them are aligned.
    tensors.sort_by(|(a, left), (b, right)| b.bits().cmp(&a.bits()).then_with(|| left.name.cmp(&right.name)));
    let mut infos = Vec::with_capacity(tensors.len());
    let mut end = 0_u64;
    for (dtype, named) in &tensors {
        let shape = named.tensor.shape.unwrap_or_default();
        let elements = shape.iter().try_fold(1_u64, |product, dim| product.checked_mul(*dim));
        let len = elements.and_then(|elements| dtype.bytes_of(elements)).ok_or_else(|| too_large(name))?;
        if named.is_row_major() && len != named.tensor.len {
            let reason = format!("has {} bytes, which is not what its type and shape say", named.tensor.len);
            return Err(Error::UnsuitedTensor { name: named.name.clone(), reason });
        }
        // Whether it can be put in rows is known before the first byte is written.
        Layout::of(named)?;
        let begin = end;
        end = end.checked_add(len).ok_or_else(|| too_large(name))?;
        infos.push((&*named.name, Info { dtype: dtype.name(), shape, data_offsets: [begin, end] }));
    }
    let header = header(&metadata, &infos)?;
    let bytes = end.checked_add(header.len() as u64).ok_or_else(|| too_large(name))?;
    Ok(Plan { header, tied, bytes, tensors: tensors.into_iter().map(|(_, named)| named).collect() })
}

fn too_large(name: &str) -> Error {
    Error::Invalid(format!("{name} holds more than one file can"))
}

/// The type of a tensor, if safetensors has it.
fn safetensors_type(named: &Named<'_>) -> Result<Dtype> {
    let dtype = named.tensor.dtype.and_then(Dtype::parse).filter(|_| named.tensor.shape.is_some());
    dtype.filter(|dtype| !matches!(dtype, Dtype::C32 | Dtype::C128)).ok_or_else(|| {
        let reason = match named.tensor.dtype {
            Some(_) if named.tensor.shape.is_none() => "has a shape that its file doesn't tell".into(),
            Some(dtype) => format!("has the type {dtype}, which safetensors doesn't have"),
            None => "has a type that its file doesn't tell".into(),
        };
        Error::UnsuitedTensor { name: named.name.clone(), reason }
    })
}

#[derive(serde::Serialize)]
struct Info<'a> {
    dtype: &'static str,
    shape: &'a [u64],
    data_offsets: [u64; 2],
}

/// The length, the JSON and the spaces up to a multiple of 8 that the file begins with.
fn header(metadata: &BTreeMap<String, String>, infos: &[(&str, Info<'_>)]) -> Result<Vec<u8>> {
    let mut json = serde_json::Serializer::new(vec![0; 8]);
    let write = |json: &mut serde_json::Serializer<Vec<u8>>| {
        let mut map = json.serialize_map(Some(infos.len() + 1))?;
        map.serialize_entry("__metadata__", metadata)?;
        infos.iter().try_for_each(|(name, info)| map.serialize_entry(name, info))?;
        map.end()
    };
    write(&mut json).map_err(|error| Error::Internal(error.to_string()))?;
    let mut bytes = json.into_inner();
    bytes.resize(bytes.len().next_multiple_of(8), b' ');
    let len = bytes.len() as u64 - 8;
    bytes[..8].copy_from_slice(&len.to_le_bytes());
    Ok(bytes)
}
