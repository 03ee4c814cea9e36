//! The elements of a tensor row by row, however they lie in its file. Holds a few chunks, or all of a tensor whose elements lie
//! in another order; never more than one tensor.

use crate::error::{Error, Result};
use crate::limits::EXPANDED_BYTES_MAX;
use crate::ops::opened::Opened;
use crate::ops::stream::Reader;
use crate::ops::tensors::Named;
use crate::progress::Progress;
use crate::split::Dtype;

/// Bytes handed on at a time when elements are gathered.
const GATHER_BYTES: usize = 1 << 20;

/// Gives the elements of a tensor to `receive`, row by row, little-endian. What it gets at a time may end within an element.
///
/// # Errors
/// Those of [`Reader::stream`]; [`Error::UnsuitedTensor`] for a tensor in another order whose type we don't know, or which an
/// expansion makes far larger than what is stored.
pub fn stream_rows(
    reader: &mut Reader<'_>,
    opened: &Opened,
    named: &Named<'_>,
    progress: &dyn Progress,
    receive: &mut dyn FnMut(&[u8]) -> Result<()>,
) -> Result<()> {
    let (Some(strides), Some(shape)) = (named.tensor.strides, named.tensor.shape) else {
        return reader.stream(opened, &[named.span()], progress, &mut |_, bytes| receive(bytes));
    };
    let unsuited = |why: &str| Error::UnsuitedTensor { name: named.name.clone(), reason: why.to_owned() };
    let dtype = named.tensor.dtype.and_then(Dtype::parse).filter(|dtype| dtype.bits() % 8 == 0);
    let dtype = dtype.ok_or_else(|| unsuited("has elements of an unknown type in another order than row by row"))?;
    let elements = shape.iter().try_fold(1_u64, |product, dim| product.checked_mul(*dim));
    let bytes = elements.and_then(|elements| dtype.bytes_of(elements)).unwrap_or(u64::MAX);
    if bytes > EXPANDED_BYTES_MAX && bytes / 4 > named.tensor.len {
        return Err(unsuited("is expanded to more than can be written"));
    }
    let mut stored = Vec::new();
    let len = usize::try_from(named.tensor.len).unwrap_or(usize::MAX);
    stored.try_reserve_exact(len).map_err(|_| unsuited("does not fit in memory, which putting it in rows needs"))?;
    reader.stream(opened, &[named.span()], progress, &mut |_, bytes| {
        stored.extend_from_slice(bytes);
        Ok(())
    })?;
    gather(&stored, dtype.bits() as usize / 8, shape, strides, receive)
}

/// Walks the elements in the order of their indices, the last dimension fastest. The strides were checked with the manifest.
fn gather(
    stored: &[u8],
    width: usize,
    shape: &[u64],
    strides: &[u64],
    receive: &mut dyn FnMut(&[u8]) -> Result<()>,
) -> Result<()> {
    let mut out = Vec::with_capacity(GATHER_BYTES + width);
    let mut index = vec![0_u64; shape.len()];
    let mut at = 0_u64;
    let elements: u64 = shape.iter().product();
    for _ in 0..elements {
        let from = at as usize * width;
        out.extend_from_slice(&stored[from..from + width]);
        if out.len() >= GATHER_BYTES {
            receive(&out)?;
            out.clear();
        }
        for dim in (0..shape.len()).rev() {
            index[dim] += 1;
            // A dimension of one element may have any stride.
            at = at.wrapping_add(strides[dim]);
            if index[dim] < shape[dim] {
                break;
            }
            at = at.wrapping_sub(strides[dim].wrapping_mul(shape[dim]));
            index[dim] = 0;
        }
    }
    receive(&out)
}
