//! The tensors of a checkpoint as commands know them: under names that are distinct in it, and told apart by their chunks
//! wherever that is enough. Never reads a chunk to find a tensor.

pub mod diff;
pub mod difference;
pub mod elements;
pub mod export;
pub mod files;
pub mod find;
pub mod layout;
pub mod list;
pub mod log;
pub mod plan;
pub mod rows;
pub mod stats;

#[cfg(test)]
mod tests;

use std::collections::HashMap;

use crate::format::manifest::Manifest;
use crate::format::tensors::{FileMap, Piece, TensorRef};
use crate::ops::stream::Span;

/// A tensor of a checkpoint.
#[derive(Debug, Clone)]
pub struct Named<'a> {
    /// What commands call it: its name; with its file's path before it, as `path:name`, when tensors of several files have that
    /// name, and `#2` and so on behind it when several of one file have it.
    pub name: String,
    /// Which file of the manifest it is in.
    pub file: u32,
    /// What the manifest says of it.
    pub tensor: TensorRef<'a>,
}

/// What decides whether two tensors have the same elements, without reading them: type, shape, strides and the chunks
/// behind them. Two with one identity are the same; two with different ones may be the same all the same, when small
/// tensors beside them in their chunk differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Identity([u8; 32]);

impl Named<'_> {
    /// The range of its file that holds its elements.
    pub fn span(&self) -> Span {
        Span { file: self.file, offset: self.tensor.offset, len: self.tensor.len }
    }

    /// Whether its elements lie row by row with nothing between them.
    pub fn is_row_major(&self) -> bool {
        self.tensor.strides.is_none()
    }
}

/// All tensors of a checkpoint, file by file, in each by where they begin.
pub fn named(manifest: &Manifest) -> Vec<Named<'_>> {
    let mut all = Vec::new();
    // In how many files a name is, and the last of these.
    let mut files_of: HashMap<&str, (usize, u32)> = HashMap::new();
    for (file, member) in (0..).zip(&manifest.files) {
        for tensor in member.tensors() {
            let seen = files_of.entry(tensor.name).or_insert((0, u32::MAX));
            if seen.1 != file {
                *seen = (seen.0 + 1, file);
            }
            all.push((file, tensor));
        }
    }
    let mut taken: HashMap<String, usize> = HashMap::with_capacity(all.len());
    let named = all.into_iter().map(|(file, tensor)| {
        let mut name = match files_of.get(tensor.name) {
            Some((2.., _)) => {
                format!("{}:{}", String::from_utf8_lossy(&manifest.files[file as usize].path), tensor.name)
            }
            _ => tensor.name.to_owned(),
        };
        let times = taken.entry(name.clone()).or_insert(0);
        *times += 1;
        if *times > 1 {
            name += &format!("#{times}");
        }
        Named { name, file, tensor }
    });
    named.collect()
}

/// The identities of all tensors of a checkpoint, in the order of [`named`].
pub fn identities(manifest: &Manifest) -> Vec<Identity> {
    let mut identities = Vec::new();
    for (file, member) in (0..).zip(&manifest.files) {
        let map = manifest.map(file);
        identities.extend(member.tensors().iter().map(|tensor| identity(manifest, &map, tensor)));
    }
    identities
}

/// The identity of one tensor of the file that `map` is of.
pub fn identity(manifest: &Manifest, map: &FileMap<'_>, tensor: &TensorRef<'_>) -> Identity {
    let mut hasher = blake3::Hasher::new();
    // Each part says how long it is, so that no two tensors are one text.
    let dtype = tensor.dtype.unwrap_or_default();
    hasher.update(&(dtype.len() as u64).to_le_bytes()).update(dtype.as_bytes());
    for numbers in [tensor.shape, tensor.strides] {
        let count = numbers.map_or(u64::MAX, |numbers| numbers.len() as u64);
        hasher.update(&count.to_le_bytes());
        numbers.unwrap_or_default().iter().for_each(|number| {
            hasher.update(&number.to_le_bytes());
        });
    }
    for piece in map.pieces(tensor.offset, tensor.len) {
        match piece {
            Piece::Chunk { chunk, at, len } => {
                hasher.update(&manifest.chunk_id(chunk as usize).0);
                hasher.update(&at.to_le_bytes()).update(&len.to_le_bytes());
            }
            Piece::Inline { at, len } => {
                hasher.update(&manifest.inline[at as usize..(at + len) as usize]);
            }
        }
    }
    Identity(*hasher.finalize().as_bytes())
}
