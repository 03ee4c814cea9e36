//! Where the elements of a tensor lie that are not row by row in its file, and where they would be if they were. Pure:
//! never reads a chunk.

use super::Named;
use crate::error::{Error, Result};
use crate::format::tensors::elements_reach;
use crate::limits::EXPANDED_BYTES_MAX;
use crate::ops::stream::Span;
use crate::split::Dtype;

/// The elements of a tensor in the order of their indices, the last dimension fastest, as runs of bytes that lie
/// together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layout {
    file: u32,
    /// Byte of the file where the first element begins.
    offset: u64,
    /// Bytes of all elements.
    bytes: u64,
    /// Bytes of a run; one element at least.
    run: u64,
    /// The dimensions outside of a run, the last fastest: runs, and bytes of the file from one to the next.
    dims: Vec<(u64, u64)>,
}

impl Layout {
    /// That of a tensor with strides, or of one without.
    ///
    /// # Errors
    /// [`Error::UnsuitedTensor`] for one in another order whose type we don't know, or whose elements are parts of
    /// bytes; for one that an expansion makes far larger than what is stored; and for one whose shape does not fit its
    /// bytes.
    pub fn of(named: &Named<'_>) -> Result<Self> {
        let tensor = &named.tensor;
        let unsuited = |why: &str| Error::UnsuitedTensor { name: named.name.clone(), reason: why.to_owned() };
        let plain = |bytes, run| Self { file: named.file, offset: tensor.offset, bytes, run, dims: Vec::new() };
        let (Some(strides), Some(shape)) = (tensor.strides, tensor.shape) else {
            return Ok(plain(tensor.len, tensor.len.max(1)));
        };
        let dtype = tensor.dtype.and_then(Dtype::parse).filter(|dtype| dtype.bits() % 8 == 0);
        let dtype =
            dtype.ok_or_else(|| unsuited("has elements of an unknown type in another order than row by row"))?;
        let width = u64::from(dtype.bits() / 8);
        let elements = shape.iter().try_fold(1_u64, |product, dim| product.checked_mul(*dim));
        let bytes = elements.and_then(|elements| dtype.bytes_of(elements)).unwrap_or(u64::MAX);
        if bytes > EXPANDED_BYTES_MAX && bytes / 4 > tensor.len {
            return Err(unsuited("is expanded to more than can be written"));
        }
        // A manifest that was read has been checked for this; one that somebody made need not be.
        let reach = elements_reach(shape, Some(strides)).and_then(|reach| reach.checked_mul(width));
        let fits = reach.is_some_and(|reach| reach <= tensor.len) && tensor.offset.checked_add(tensor.len).is_some();
        if strides.len() != shape.len() || !fits {
            return Err(unsuited("has a shape that does not fit its bytes"));
        }
        if bytes == 0 {
            return Ok(plain(0, width));
        }
        // From the last dimension on: those that lie behind each other as one would are one. Of one element alone the
        // stride may be anything.
        let mut dims: Vec<(u64, u64)> = Vec::new();
        for (count, stride) in shape.iter().zip(strides).rev().filter(|(count, _)| **count > 1) {
            // It reaches no further than the tensor's bytes, which was checked.
            let stride = stride * width;
            match dims.last_mut() {
                Some((inner, inner_stride)) if inner_stride.checked_mul(*inner) == Some(stride) => *inner *= count,
                _ => dims.push((*count, stride)),
            }
        }
        let run = match dims.first() {
            Some((count, stride)) if *stride == width => {
                let run = count * width;
                dims.remove(0);
                run
            }
            _ => width,
        };
        dims.reverse();
        Ok(Self { file: named.file, offset: tensor.offset, bytes, run, dims })
    }

    /// The file that it lies in.
    pub fn file(&self) -> u32 {
        self.file
    }

    /// Bytes of all elements.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Bytes of the file from the first element to the end of the last.
    pub fn reach(&self) -> u64 {
        // No more than the tensor's bytes, which was checked.
        self.dims.iter().map(|(count, stride)| (count - 1) * stride).sum::<u64>() + self.run
    }

    /// Bytes of a run.
    pub fn run(&self) -> u64 {
        self.run
    }

    /// The range of the file that holds the elements, if they lie in it row by row.
    pub fn span(&self) -> Option<Span> {
        self.dims.is_empty().then_some(Span { file: self.file, offset: self.offset, len: self.bytes })
    }

    /// Gives, for the bytes from `at` to `at + len` of the elements in rows, where in the file they lie: byte and
    /// length of each piece, one after the other. What lies past the end is left out.
    pub fn runs(&self, at: u64, len: u64, mut each: impl FnMut(u64, u64)) {
        let end = at.saturating_add(len).min(self.bytes);
        if at >= end {
            return;
        }
        let mut left = end - at;
        let (mut run, mut skip) = (at / self.run, at % self.run);
        let mut index = vec![0_u64; self.dims.len()];
        let mut from = self.offset;
        for (index, (count, stride)) in index.iter_mut().zip(&self.dims).rev() {
            *index = run % count;
            run /= count;
            from = from.wrapping_add(*index * stride);
        }
        loop {
            let piece = left.min(self.run - skip);
            each(from + skip, piece);
            left -= piece;
            if left == 0 {
                return;
            }
            skip = 0;
            for (index, (count, stride)) in index.iter_mut().zip(&self.dims).rev() {
                *index += 1;
                // Behind the last one it may be past everything, until the next dimension is counted on.
                from = from.wrapping_add(*stride);
                if *index < *count {
                    break;
                }
                from = from.wrapping_sub(stride.wrapping_mul(*count));
                *index = 0;
            }
        }
    }

    /// What tells it from every other one of its checkpoint.
    pub fn key(&self) -> impl Iterator<Item = u64> {
        let numbers = [u64::from(self.file), self.offset, self.bytes, self.run, self.dims.len() as u64];
        numbers.into_iter().chain(self.dims.iter().flat_map(|(count, stride)| [*count, *stride]))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may fail by panicking")]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::format::tensors::TensorRef;

    fn layout(dtype: &str, shape: &[u64], strides: Option<&[u64]>, offset: u64, len: u64) -> Result<Layout> {
        let tensor = TensorRef { name: "t", dtype: Some(dtype), shape: Some(shape), strides, offset, len };
        Layout::of(&Named { name: "t".into(), file: 3, tensor })
    }

    /// A tensor: type, shape, strides, offset and length.
    type Case<'a> = (&'a str, &'a [u64], &'a [u64], u64, u64);

    fn bytes_of(layout: &Layout, stored: &[u8], at: u64, len: u64) -> Vec<u8> {
        let mut bytes = Vec::new();
        layout.runs(at, len, |from, len| bytes.extend_from_slice(&stored[from as usize..(from + len) as usize]));
        bytes
    }

    /// The elements by their indices, the plain way.
    fn plainly(stored: &[u8], width: u64, shape: &[u64], strides: &[u64], offset: u64) -> Vec<u8> {
        let elements: u64 = shape.iter().product();
        let mut bytes = Vec::new();
        for nr in 0..elements {
            let (mut rest, mut at) = (nr, 0);
            for (dim, stride) in shape.iter().zip(strides).rev() {
                at += rest % dim * stride;
                rest /= dim;
            }
            let from = (offset + at * width) as usize;
            bytes.extend_from_slice(&stored[from..from + width as usize]);
        }
        bytes
    }

    #[test]
    fn dimensions_that_lie_as_one_are_one() {
        let sliced = layout("F32", &[4, 2, 3], Some(&[12, 3, 1]), 8, 168).unwrap();
        assert_eq!((sliced.run, &sliced.dims[..], sliced.span()), (24, &[(4, 48)][..], None));
        let transposed = layout("F32", &[2, 3], Some(&[1, 2]), 8, 24).unwrap();
        assert_eq!((transposed.run, &transposed.dims[..]), (4, &[(2, 4), (3, 8)][..]));
        let expanded = layout("U8", &[5, 6], Some(&[0, 0]), 8, 1).unwrap();
        assert_eq!((expanded.run, &expanded.dims[..]), (1, &[(30, 0)][..]));
        let in_rows = layout("F32", &[2, 1, 3], Some(&[3, 77, 1]), 8, 24).unwrap();
        assert_eq!(in_rows.span(), Some(Span { file: 3, offset: 8, len: 24 }));
        let none = layout("F32", &[2, 0], Some(&[1, 2]), 8, 0).unwrap();
        assert_eq!((none.bytes, none.span().map(|span| span.len)), (0, Some(0)));
        let scalar = layout("F64", &[], Some(&[]), 8, 8).unwrap();
        assert_eq!(scalar.span().map(|span| span.len), Some(8));
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let max = u64::MAX;
        let cases: &[Case<'_>] = &[
            ("F4", &[2, 2], &[1, 2], 0, 4),
            ("Q4_K", &[2, 2], &[1, 2], 0, 4),
            ("F32", &[2, 3], &[1, 2], 0, 23),
            ("F32", &[2, 3], &[1], 0, 24),
            ("F32", &[2, 3], &[1, 2], max - 10, 24),
            ("F32", &[max, max], &[0, 0], 0, 24),
            ("F32", &[1 << 40, 2], &[0, 1], 0, 24),
            ("F32", &[2, 2], &[max, 1], 0, max),
            ("F32", &[max / 4, 2], &[1, 1], 0, max),
        ];
        for (dtype, shape, strides, offset, len) in cases {
            let refused = layout(dtype, shape, Some(strides), *offset, *len);
            assert!(matches!(refused, Err(Error::UnsuitedTensor { .. })), "{dtype} {shape:?} {strides:?}: {refused:?}");
        }
    }

    #[test]
    fn the_end_of_all_bytes_is_no_overflow() {
        let end = u64::MAX - 100;
        let layout = layout("U8", &[2, 50], Some(&[50, 2]), end, 100);
        // The last element would lie behind the tensor, or the layout walks without leaving the numbers.
        if let Ok(layout) = layout {
            layout.runs(0, u64::MAX, |from, len| assert!(from >= end && from.checked_add(len).is_some()));
        }
        let layout = self::layout("U8", &[50, 2], Some(&[1, 50]), end, 100).unwrap();
        let mut pieces = 0;
        layout.runs(3, u64::MAX, |from, _| {
            assert!(from >= end);
            pieces += 1;
        });
        assert_eq!(pieces, 97);
    }

    proptest! {
        #[test]
        fn any_range_is_that_of_the_elements_in_rows(
            dims in proptest::collection::vec((0..6_u64, 0..20_u64), 0..5),
            dtype in proptest::sample::select(&["U8", "BF16", "F32", "C128"][..]),
            offset in 0..9_u64,
            (at, len) in (0..3000_u64, 0..3000_u64),
        ) {
            let (shape, strides): (Vec<u64>, Vec<u64>) = dims.into_iter().unzip();
            let width = u64::from(Dtype::parse(dtype).unwrap().bits() / 8);
            let reach = elements_reach(&shape, Some(&strides)).unwrap() * width;
            let stored: Vec<u8> = (0..offset + reach).map(|at| (at * 7 % 251) as u8).collect();
            let layout = layout(dtype, &shape, Some(&strides), offset, reach).unwrap();
            let all = plainly(&stored, width, &shape, &strides, offset);
            prop_assert_eq!(layout.bytes, all.len() as u64);
            prop_assert_eq!(&bytes_of(&layout, &stored, 0, u64::MAX), &all);
            let from = at.min(layout.bytes) as usize;
            let to = (at + len).min(layout.bytes) as usize;
            prop_assert_eq!(&bytes_of(&layout, &stored, at, len)[..], &all[from..to.max(from)]);
            if let Some(span) = layout.span() {
                prop_assert_eq!(&stored[span.offset as usize..(span.offset + span.len) as usize], &all[..]);
            }
        }

        #[test]
        fn no_shape_makes_it_panic(
            dims in proptest::collection::vec((any::<u64>(), any::<u64>()), 0..4),
            shift in 0..64_u32,
            offset in any::<u64>(),
            len in any::<u64>(),
            at in any::<u64>(),
        ) {
            let (shape, strides): (Vec<u64>, Vec<u64>) = dims.into_iter().map(|(a, b)| (a >> shift, b >> shift)).unzip();
            if let Ok(layout) = layout("F32", &shape, Some(&strides), offset, len) {
                let at = if layout.bytes > 0 { at % layout.bytes } else { at };
                let mut end = 0;
                layout.runs(at, 100, |from, piece| end = end.max(from + piece));
                prop_assert!(end == 0 || end <= offset + len);
            }
        }
    }
}
