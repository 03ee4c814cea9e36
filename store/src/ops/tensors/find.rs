//! Finds a tensor of a checkpoint by its name, and its bytes. Never reads a chunk to find it.

use std::collections::HashMap;

use globset::GlobBuilder;

use super::{Named, named};
use crate::catalog::refs::distance;
use crate::error::{Error, Result};
use crate::format::manifest::Manifest;
use crate::format::tensors::{FileMap, Piece, elements_reach};
use crate::id::ChunkId;
use crate::ops::opened::Opened;
use crate::ops::stream::{Reader, Span};
use crate::progress::Progress;
use crate::split::Dtype;

/// Names that a message lists at most.
const NEAR_MAX: usize = 3;

/// The tensor that [`named`] calls `name`.
pub fn by_name<'a>(manifest: &'a Manifest, name: &str) -> Option<Named<'a>> {
    // Most names are the tensor's own, and are in one file once: found without naming ten thousand others.
    let mut own = (0..).zip(&manifest.files).flat_map(|(file, member)| {
        let of_file = member.tensors().into_iter().filter(|tensor| tensor.name == name);
        of_file.map(move |tensor| (file, tensor))
    });
    if let (Some((file, tensor)), None) = (own.next(), own.next()) {
        return Some(Named { name: name.to_owned(), file, tensor });
    }
    named(manifest).into_iter().find(|named| named.name == name)
}

/// The one name in a checkpoint that a glob matches; none when it matches none, or `pattern` is no glob.
///
/// # Errors
/// [`Error::Invalid`] when it matches several.
pub fn by_glob(manifest: &Manifest, pattern: &str) -> Result<Option<String>> {
    // A name such as `layers[0]` need not be a glob that can be built.
    let Some(glob) = pattern.contains(['*', '?', '[', '{']).then(|| GlobBuilder::new(pattern).build().ok()).flatten()
    else {
        return Ok(None);
    };
    let matcher = glob.compile_matcher();
    let mut matches = named(manifest).into_iter().map(|named| named.name).filter(|name| matcher.is_match(name));
    let first = matches.next();
    let others: Vec<String> = matches.collect();
    match (first, others.len()) {
        (Some(first), 1..) => {
            let mut shown: Vec<String> = vec![first];
            let more = (others.len() + 1).saturating_sub(NEAR_MAX);
            shown.extend(others.into_iter().take(NEAR_MAX - 1));
            let more = if more > 0 { format!(" and {more} more") } else { String::new() };
            Err(Error::Invalid(format!("{pattern:?} matches several tensors: {}{more}", shown.join(", "))))
        }
        (first, _) => Ok(first),
    }
}

/// Names in a checkpoint that are close to one that it lacks.
pub fn near(manifest: &Manifest, wanted: &str) -> Vec<String> {
    let mut near: Vec<(usize, String)> = Vec::new();
    for Named { name, .. } in named(manifest) {
        let is_part = !wanted.is_empty() && (name.contains(wanted) || wanted.contains(&name));
        // Names of very different lengths are not close, and need no table.
        let is_close = name.len().abs_diff(wanted.len()) <= 2.max(wanted.len() / 3);
        let apart = if is_close { distance(wanted, &name) } else { usize::MAX };
        if is_part || apart <= 2.max(wanted.len() / 3) {
            near.push((if is_part { name.len().abs_diff(wanted.len()).min(apart) } else { apart }, name));
        }
    }
    near.sort_unstable();
    near.into_iter().take(NEAR_MAX).map(|(_, name)| name).collect()
}

/// The type of its elements, if we know it.
pub fn dtype(named: &Named<'_>) -> Option<Dtype> {
    named.tensor.dtype.and_then(Dtype::parse)
}

/// The bytes of the element at `index`, a negative position counting from the end as in Python. What is wrong with the index
/// is an answer for this tensor: another checkpoint may have it in another shape.
pub fn element(named: &Named<'_>, index: &[i64]) -> std::result::Result<Span, String> {
    let tensor = &named.tensor;
    let Some(bytes) = dtype(named).map(|dtype| u64::from(dtype.bits())).filter(|bits| bits % 8 == 0) else {
        return Err(format!("elements of type {} are not known here", tensor.dtype.unwrap_or("?")));
    };
    let bytes = bytes / 8;
    let Some(shape) = tensor.shape else { return Err("its shape is not known".into()) };
    if index.len() != shape.len() {
        return Err(format!("it has {} dimensions", shape.len()));
    }
    let mut at = 0_u64;
    for (axis, (dim, position)) in shape.iter().zip(index).enumerate() {
        let from_end = dim.checked_sub(position.unsigned_abs()).filter(|_| *position < 0);
        let position = u64::try_from(*position).ok().or(from_end).filter(|position| position < dim);
        let Some(position) = position else { return Err(format!("dimension {axis} has {dim} positions")) };
        let stride = match tensor.strides {
            Some(strides) => strides.get(axis).copied(),
            None => elements_reach(&shape[axis + 1..], None),
        };
        let step = stride.and_then(|stride| stride.checked_mul(position));
        at = step.and_then(|step| at.checked_add(step)).ok_or("its shape overflows")?;
    }
    match at.checked_mul(bytes).filter(|at| at.checked_add(bytes).is_some_and(|end| end <= tensor.len)) {
        Some(at) => Ok(Span { file: named.file, offset: tensor.offset + at, len: bytes }),
        None => Err("its shape does not fit its bytes".into()),
    }
}

/// Gives the bytes of a tensor's elements to `receive`, row by row; of one whose type we don't know, its bytes as they lie.
/// They may end within an element.
pub fn stream(
    reader: &mut Reader<'_>,
    opened: &Opened,
    named: &Named<'_>,
    progress: &dyn Progress,
    receive: &mut dyn FnMut(&[u8]) -> Result<()>,
) -> Result<()> {
    if dtype(named).is_none_or(|dtype| dtype.bits() < 8) {
        return reader.stream(opened, &[named.span()], progress, &mut |_, bytes| receive(bytes));
    }
    super::rows::stream_rows(reader, opened, named, progress, receive)
}

/// Where the tensors of a checkpoint lie, found quickly for many of them.
pub struct Maps<'a> {
    manifest: &'a Manifest,
    of_file: HashMap<u32, FileMap<'a>>,
}

impl<'a> Maps<'a> {
    /// For the tensors of a checkpoint.
    pub fn new(opened: &'a Opened) -> Self {
        Self { manifest: &opened.manifest, of_file: HashMap::new() }
    }

    /// The pieces that hold a tensor.
    pub fn pieces(&mut self, named: &Named<'_>) -> Vec<Piece> {
        let map = self.of_file.entry(named.file).or_insert_with(|| self.manifest.map(named.file));
        map.pieces(named.tensor.offset, named.tensor.len)
    }

    /// The chunks in which pieces lie.
    pub fn ids(&self, pieces: &[Piece]) -> Vec<ChunkId> {
        let chunk = |piece: &Piece| if let Piece::Chunk { chunk, .. } = piece { Some(*chunk as usize) } else { None };
        pieces.iter().filter_map(chunk).map(|chunk| self.manifest.chunk_id(chunk)).collect()
    }
}
