//! Files that no checkpoint has and that are put together of its tensors: all as one safetensors file, and each as a file of
//! NumPy. Their sizes are known from the manifest alone. Pure: never reads a chunk.

use std::sync::Arc;

use super::OpenTensor;
use super::body::{Body, Part};
use crate::catalog::refs;
use crate::error::{Error, Result, Thing};
use crate::format::manifest::Manifest;
use crate::format::tensors::TensorRef;
use crate::limits::CHUNK_BYTES_MAX;
use crate::ops::stream::Span;
use crate::ops::tensors::layout::Layout;
use crate::ops::tensors::plan::plan;
use crate::ops::tensors::{Named, named};
use crate::split::Dtype;

/// Where the elements of a NumPy file begin is a multiple of this.
const NPY_ALIGNMENT: usize = 64;
/// Digits that NumPy leaves room for, so that rows can be appended without moving the elements.
const NPY_ROWS_DIGITS: usize = 21;

impl Body {
    /// A whole checkpoint as one safetensors file: the bytes that an export of all tensors writes.
    ///
    /// # Errors
    /// [`Error::UnsuitedTensor`] for a tensor that safetensors can't have, [`Error::NotFound`] when there is none at all.
    pub fn safetensors(manifest: &Manifest) -> Result<Self> {
        let name = refs::name_by(&manifest.run, manifest.step, manifest.id);
        let chosen = named(manifest);
        if chosen.is_empty() {
            return Err(Error::NotFound { thing: Thing::Tensor, name: format!("any in {name}"), near: Vec::new() });
        }
        let plan = plan(&name, chosen)?;
        let mut end = plan.header.len() as u64;
        let mut parts: Vec<Part> = Vec::with_capacity(plan.tensors.len() + 1);
        parts.push(Part::Bytes(Arc::new(plan.header)));
        let mut borders = Vec::new();
        for tensor in &plan.tensors {
            let part = elements(tensor)?;
            end += part.len();
            // Shorter ones are read with their neighbors.
            if part.len() >= CHUNK_BYTES_MAX as u64 {
                borders.push(end);
            }
            push(&mut parts, part);
        }
        Ok(Self::new(parts, borders))
    }

    /// A tensor as the file that `numpy.save` writes, in C order. For bfloat16 and 8-bit floats, which NumPy lacks, it has
    /// what that writes for those of `ml_dtypes`: an untyped element of that width.
    ///
    /// # Errors
    /// [`Error::UnsuitedTensor`] for one whose type or shape we don't know or whose elements are parts of bytes;
    /// [`Error::Invalid`] when it is longer than a file can be.
    pub fn npy(tensor: &OpenTensor) -> Result<Self> {
        let unsuited = |reason: String| Error::UnsuitedTensor { name: tensor.name.clone(), reason };
        let dtype = tensor.dtype.as_deref().and_then(Dtype::parse);
        let Some((dtype, descr)) = dtype.and_then(|dtype| Some((dtype, descr(dtype)?))) else {
            let named = tensor.dtype.as_deref().map(|dtype| format!("has the type {dtype}, which NumPy doesn't have"));
            return Err(unsuited(named.unwrap_or_else(|| "has a type that its file doesn't tell".into())));
        };
        let Some(shape) = &tensor.shape else {
            return Err(unsuited("has a shape that its file doesn't tell".into()));
        };
        let layout = elements(&tensor.named())?;
        let count = shape.iter().try_fold(1_u64, |product, dim| product.checked_mul(*dim));
        if count.and_then(|count| dtype.bytes_of(count)) != Some(layout.len()) {
            let reason = format!("has {} bytes, which is not what its type and shape say", layout.len());
            return Err(unsuited(reason));
        }
        let header = npy_header(descr, shape);
        let end = layout.len().checked_add(header.len() as u64);
        let end = end.ok_or_else(|| Error::Invalid(format!("{} is longer than a file can be", tensor.name)))?;
        Ok(Self::new(vec![Part::Bytes(Arc::new(header)), layout], vec![end]))
    }
}

impl OpenTensor {
    fn named(&self) -> Named<'_> {
        let tensor = TensorRef {
            name: &self.bare_name,
            dtype: self.dtype.as_deref(),
            shape: self.shape.as_deref(),
            strides: self.strides.as_deref(),
            offset: self.offset,
            len: self.len,
        };
        Named { name: self.name.clone(), file: self.file, tensor }
    }
}

/// The elements of a tensor, row by row.
fn elements(named: &Named<'_>) -> Result<Part> {
    let layout = Layout::of(named)?;
    Ok(layout.span().map_or_else(|| Part::Rows(Arc::new(layout)), Part::Span))
}

/// Adds a part; one that goes on where the last one ends becomes one with it.
fn push(parts: &mut Vec<Part>, part: Part) {
    match (parts.last_mut(), &part) {
        (_, part) if part.len() == 0 => {}
        (Some(Part::Span(last)), Part::Span(next))
            if last.file == next.file && last.offset.checked_add(last.len) == Some(next.offset) =>
        {
            *last = Span { len: last.len + next.len, ..*last };
        }
        _ => parts.push(part),
    }
}

/// What NumPy calls a type: what `numpy.save` writes, but for the one type of `ml_dtypes` whose name it can't read again.
fn descr(dtype: Dtype) -> Option<&'static str> {
    Some(match dtype {
        Dtype::Bool => "|b1",
        Dtype::U8 => "|u1",
        Dtype::I8 => "|i1",
        Dtype::U16 => "<u2",
        Dtype::I16 => "<i2",
        Dtype::U32 => "<u4",
        Dtype::I32 => "<i4",
        Dtype::U64 => "<u8",
        Dtype::I64 => "<i8",
        Dtype::F16 => "<f2",
        Dtype::F32 => "<f4",
        Dtype::F64 => "<f8",
        Dtype::C64 => "<c8",
        Dtype::C128 => "<c16",
        Dtype::BF16 => "<V2",
        Dtype::C32 => "<V4",
        Dtype::F8E4M3 | Dtype::F8E5M2 | Dtype::F8E8M0 | Dtype::F8E4M3Fnuz | Dtype::F8E5M2Fnuz => "<V1",
        Dtype::F4 | Dtype::F6E2M3 | Dtype::F6E3M2 => return None,
    })
}

/// The magic, the version, the length and the text that such a file begins with, as NumPy itself writes them.
fn npy_header(descr: &str, shape: &[u64]) -> Vec<u8> {
    let dims: Vec<String> = shape.iter().map(u64::to_string).collect();
    let comma = if dims.len() == 1 { "," } else { "" };
    let mut text = format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': ({}{comma}), }}", dims.join(", "));
    let room = dims.first().map_or(0, |rows| NPY_ROWS_DIGITS.saturating_sub(rows.len()));
    text.extend(std::iter::repeat_n(' ', room));
    // Magic and version have 8 bytes, the length 2; in version 2 it has 4.
    let padded = |prefix: usize| {
        let unpadded = prefix + text.len() + 1;
        // A whole line of spaces where none is needed, as NumPy has it.
        text.len() + 1 + NPY_ALIGNMENT - unpadded % NPY_ALIGNMENT
    };
    let mut header = b"\x93NUMPY".to_vec();
    match u16::try_from(padded(10)) {
        Ok(len) => {
            header.extend([1, 0]);
            header.extend(len.to_le_bytes());
            text.extend(std::iter::repeat_n(' ', usize::from(len) - text.len() - 1));
        }
        // 64 dimensions of 20 digits are far from it, but a header that is written must be one.
        Err(_) => {
            let len = padded(12);
            header.extend([2, 0]);
            header.extend((len as u32).to_le_bytes());
            text.extend(std::iter::repeat_n(' ', len - text.len() - 1));
        }
    }
    header.extend(text.as_bytes());
    header.push(b'\n');
    header
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may fail by panicking")]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;
    use serde_bytes::ByteBuf;

    use super::*;
    use crate::format::manifest::{Content, File, Segment, Tensor, View};
    use crate::id::{CheckpointId, ChunkId, StoreId};

    #[test]
    fn a_header_is_what_numpy_writes() {
        let text = |header: &[u8], prefix: usize| String::from_utf8(header[prefix..].to_vec()).unwrap();
        let header = npy_header("<f4", &[2, 3]);
        assert_eq!(header[..10], *b"\x93NUMPY\x01\x00v\x00");
        let expected = "{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }";
        assert_eq!(text(&header, 10), format!("{expected:117}\n"));
        assert!(
            text(&npy_header("|b1", &[5]), 10).starts_with("{'descr': '|b1', 'fortran_order': False, 'shape': (5,), }")
        );
        assert!(text(&npy_header("<f8", &[]), 10).contains("'shape': (), }"));
        for dims in 0..70 {
            assert_eq!(npy_header("<f4", &vec![3; dims]).len() % 64, 0, "{dims} dimensions");
        }
    }

    #[test]
    fn a_long_header_is_of_version_2() {
        let header = npy_header("<f4", &[u64::MAX; 4000]);
        assert_eq!(header[..8], *b"\x93NUMPY\x02\x00");
        let len = u32::from_le_bytes(header[8..12].try_into().unwrap()) as usize;
        assert_eq!((header.len(), header.len() % 64), (len + 12, 0));
        assert_eq!(header.last(), Some(&b'\n'));
    }

    fn manifest(chunk_lens: Vec<u32>, files: Vec<(u64, Vec<Segment>, Vec<View>)>) -> Manifest {
        let file = |(nr, (size, segments, views)): (usize, (u64, Vec<Segment>, Vec<View>))| File {
            path: ByteBuf::from(format!("file-{nr}")),
            mode: 0o644,
            mtime_ms: 0,
            content: Content::File { size, format: "torch_zip".into(), segments, views },
        };
        Manifest {
            store: StoreId::from_bytes([1; 16]),
            id: CheckpointId::from_bytes([2; 16]),
            run: "r".into(),
            step: Some(1),
            time_ms: 0,
            metrics: BTreeMap::new(),
            meta: BTreeMap::new(),
            root: None,
            chunk_ids: ByteBuf::from(
                (0..chunk_lens.len()).flat_map(|nr| ChunkId::of(&nr.to_le_bytes()).0).collect::<Vec<_>>(),
            ),
            chunk_lens,
            inline: ByteBuf::new(),
            files: files.into_iter().enumerate().map(file).collect(),
        }
    }

    fn tensor(name: &str, dtype: &str, shape: &[u64]) -> Option<Tensor> {
        Some(Tensor(name.into(), Some(dtype.into()), Some(shape.into())))
    }

    #[test]
    fn tensors_that_lie_behind_each_other_are_one_part_and_long_ones_have_borders() {
        let mib = 1_u64 << 20;
        let segments = vec![
            Segment(mib, Some(0), 0, tensor("a", "F32", &[512, 512])),
            Segment(2 * mib, Some(1), 0, tensor("b", "F32", &[512, 1024])),
            Segment(400, Some(3), 0, tensor("c", "F32", &[100])),
        ];
        let view = View("b.T".into(), Some("F32".into()), vec![1024, 512], Some(vec![1, 1024]), mib, 2 * mib);
        let manifest = manifest(vec![1 << 20, 1 << 20, 1 << 20, 400], vec![(3 * mib + 400, segments, vec![view])]);
        manifest.check().unwrap();
        let body = Body::safetensors(&manifest).unwrap();
        let parts: Vec<_> =
            body.parts(0, u64::MAX).map(|(part, _, len)| (matches!(part, Part::Rows(_)), len)).collect();
        let header = parts[0].1;
        // a and b by name, then b.T, which is gathered, then c.
        assert_eq!(parts[1..], [(false, 3 * mib), (true, 2 * mib), (false, 400)]);
        assert_eq!(body.len(), header + 5 * mib + 400);
        for (at, border) in [(0, mib), (mib - 1, mib), (mib, 3 * mib), (4 * mib, 5 * mib), (5 * mib, 5 * mib + 400)] {
            assert_eq!(body.border_after(header + at), header + border, "{at}");
        }
        let all = OpenTensor::all(&manifest);
        let lens: Vec<u64> = all.iter().map(|tensor| Body::npy(tensor).unwrap().len()).collect();
        assert_eq!(lens, [mib + 128, 2 * mib + 128, 2 * mib + 128, 528]);
    }

    proptest! {
        /// Whatever a manifest says of its tensors, also one that nobody has checked: a plan or an error, within the memory that
        /// the manifest itself takes.
        #[test]
        fn no_manifest_makes_a_plan_panic(
            tensors in proptest::collection::vec(
                (any::<u64>(), 0..65_u32, proptest::collection::vec(any::<u64>(), 0..4), any::<bool>(), 0..32_usize),
                0..6,
            ),
            segment in any::<u64>(),
        ) {
            let views = tensors.iter().enumerate().map(|(nr, (seed, shift, dims, has_strides, dtype))| {
                let small = |number: u64| number.checked_shr(*shift).unwrap_or(0);
                let shape: Vec<u64> = dims.iter().map(|dim| small(*dim)).collect();
                let strides = has_strides.then(|| dims.iter().rev().map(|dim| small(dim.rotate_left(7))).collect());
                let dtype = Dtype::ALL.get(*dtype).map(|dtype| dtype.name().to_owned());
                View(format!("t{nr}"), dtype, shape, strides, *seed, small(seed.rotate_left(32)))
            });
            let segments = vec![
                Segment(segment, Some(0), 0, tensor("s", "U8", &[segment])),
                Segment(segment, Some(0), 0, tensor("s", "U8", &[segment])),
            ];
            // The map of a file adds up its segments, which a check has done before.
            let segments = if segment > u64::MAX / 2 { Vec::new() } else { segments };
            let manifest = manifest(vec![1 << 20], vec![(segment, segments, views.collect())]);
            if let Ok(body) = Body::safetensors(&manifest) {
                body.parts(body.len() / 2, 1000).for_each(drop);
                body.border_after(body.len() / 2);
            }
            for tensor in OpenTensor::all(&manifest) {
                if let Ok(body) = Body::npy(&tensor) {
                    prop_assert!(body.len() > tensor.shape.map_or(0, |shape| shape.iter().product::<u64>()));
                }
            }
        }
    }
}
