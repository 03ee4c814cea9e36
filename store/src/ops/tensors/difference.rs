//! By how much the elements of two tensors of one type and shape differ, found in one pass over both. Never holds more than a
//! block of them.

use super::elements::{components, decode};
use crate::split::Dtype;

/// By how much a tensor changed. In double precision, over the elements that are finite in both; what there is no element for
/// is NaN.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Difference {
    /// Elements.
    pub elements: u64,
    /// Of those, elements whose bytes are others.
    pub changed: u64,
    /// Elements that were no finite number.
    pub nonfinite_before: u64,
    /// Elements that are no finite number.
    pub nonfinite_after: u64,
    /// The largest absolute difference of two elements; of complex ones, the modulus of their difference.
    pub max_abs: f64,
    /// The mean of the absolute differences.
    pub mean_abs: f64,
    /// The norm of the difference, divided by the norm of what was; infinite when that is 0.
    pub relative: f64,
    /// The cosine of the angle between the two; NaN when one of them is all zeros.
    pub cosine: f64,
}

/// Bytes of elements that are decoded at a time; a multiple of every element's.
const BLOCK_BYTES: usize = 8 << 10;

/// Compares two tensors.
pub struct Compare {
    dtype: Option<Dtype>,
    components: usize,
    element: usize,
    bytes: u64,
    is_same: bool,
    changed: u64,
    nonfinite: [u64; 2],
    /// Pairs that are finite.
    finite: u64,
    max_abs: f64,
    sums: Sums,
    numbers: [Vec<f64>; 2],
}

/// Sums over pairs of elements, before and after.
#[derive(Clone, Copy, Default)]
struct Sums {
    /// Absolute differences.
    abs: f64,
    /// Squares of the differences.
    apart: f64,
    /// Squares of what was.
    before: f64,
    /// Squares of what is.
    after: f64,
    /// Products.
    product: f64,
}

impl Compare {
    /// For elements of a type; of one that is not known, or has no numbers, only whether the bytes are the same.
    pub fn new(dtype: Option<Dtype>) -> Self {
        let of_element = dtype.and_then(components);
        Self {
            dtype: dtype.filter(|_| of_element.is_some()),
            components: of_element.unwrap_or(1),
            element: dtype.map_or(1, |dtype| dtype.bits().div_ceil(8) as usize),
            bytes: 0,
            is_same: true,
            changed: 0,
            nonfinite: [0; 2],
            finite: 0,
            max_abs: 0.0,
            sums: Sums::default(),
            numbers: Default::default(),
        }
    }

    /// Takes the next bytes of both: as many of one as of the other, and whole elements.
    pub fn add(&mut self, before: &[u8], after: &[u8]) {
        self.bytes += before.len() as u64;
        for (before, after) in before.chunks(BLOCK_BYTES).zip(after.chunks(BLOCK_BYTES)) {
            let is_same = before == after;
            self.is_same &= is_same;
            let Some(dtype) = self.dtype else { continue };
            if !is_same {
                self.changed += differing(before, after, self.element);
            }
            let [a, b] = &mut self.numbers;
            a.clear();
            b.clear();
            decode(dtype, before, a);
            decode(dtype, after, b);
            let sums = if self.components == 2 { None } else { Some(sums(a, b)) };
            match sums {
                Some((sums, max)) if sums.is_finite() => {
                    self.sums = self.sums.plus(sums);
                    self.max_abs = self.max_abs.max(max);
                    self.finite += a.len() as u64;
                }
                _ => self.add_slowly(),
            }
        }
    }

    /// One of the two goes on where the other has ended.
    pub fn differs_in_length(&mut self) {
        self.is_same = false;
        self.dtype = None;
    }

    /// Element by element: complex ones, and blocks in which something is not finite.
    fn add_slowly(&mut self) {
        let [a, b] = &self.numbers;
        for (a, b) in a.chunks_exact(self.components).zip(b.chunks_exact(self.components)) {
            let is_finite = [a, b].map(|numbers| numbers.iter().all(|number| number.is_finite()));
            self.nonfinite[0] += u64::from(!is_finite[0]);
            self.nonfinite[1] += u64::from(!is_finite[1]);
            if is_finite != [true; 2] {
                continue;
            }
            let apart = a.iter().zip(b).map(|(a, b)| (a - b).abs()).reduce(f64::hypot).unwrap_or_default();
            self.finite += 1;
            self.max_abs = self.max_abs.max(apart);
            let of = |terms: &dyn Fn(usize) -> f64| (0..self.components).map(terms).sum::<f64>();
            self.sums = self.sums.plus(Sums {
                abs: apart,
                apart: apart * apart,
                before: of(&|at| a[at] * a[at]),
                after: of(&|at| b[at] * b[at]),
                product: of(&|at| a[at] * b[at]),
            });
        }
    }

    /// What was found: none when all bytes are the same; an inner none when they are not and there are no numbers.
    pub fn finish(self) -> Option<Option<Difference>> {
        if self.is_same {
            return None;
        }
        if self.dtype.is_none() {
            return Some(None);
        }
        let Sums { abs, apart, before, after, product } = self.sums;
        let any = self.finite > 0;
        let number = |exists: bool, number: f64| if exists { number } else { f64::NAN };
        let relative = if apart == 0.0 { 0.0 } else { apart.sqrt() / before.sqrt() };
        let cosine = product / (before.sqrt() * after.sqrt());
        Some(Some(Difference {
            elements: self.bytes / self.element as u64,
            changed: self.changed,
            nonfinite_before: self.nonfinite[0],
            nonfinite_after: self.nonfinite[1],
            max_abs: number(any, self.max_abs),
            mean_abs: number(any, abs / self.finite as f64),
            relative: number(any, relative),
            cosine: cosine.clamp(-1.0, 1.0),
        }))
    }
}

impl Sums {
    fn is_finite(self) -> bool {
        (self.abs + self.apart + self.before + self.after + self.product).is_finite()
    }

    fn plus(self, other: Self) -> Self {
        Self {
            abs: self.abs + other.abs,
            apart: self.apart + other.apart,
            before: self.before + other.before,
            after: self.after + other.after,
            product: self.product + other.product,
        }
    }
}

/// The sums of a block and its largest absolute difference, in four sums side by side each.
fn sums(a: &[f64], b: &[f64]) -> (Sums, f64) {
    const LANES: usize = 4;
    let mut lanes = [Sums::default(); LANES];
    let mut max = [0.0; LANES];
    let (a, a_rest) = a.as_chunks::<LANES>();
    let (b, b_rest) = b.as_chunks::<LANES>();
    let mut add = |lane: usize, a: f64, b: f64| {
        let sums = &mut lanes[lane];
        let apart = (a - b).abs();
        sums.abs += apart;
        sums.apart += apart * apart;
        sums.before += a * a;
        sums.after += b * b;
        sums.product += a * b;
        max[lane] = if apart > max[lane] { apart } else { max[lane] };
    };
    for (a, b) in a.iter().zip(b) {
        for lane in 0..LANES {
            add(lane, a[lane], b[lane]);
        }
    }
    for (lane, (a, b)) in a_rest.iter().zip(b_rest).enumerate() {
        add(lane, *a, *b);
    }
    (lanes.into_iter().fold(Sums::default(), Sums::plus), max.into_iter().fold(0.0, f64::max))
}

/// How many elements of `width` bytes differ.
fn differing(a: &[u8], b: &[u8], width: usize) -> u64 {
    fn wide<const N: usize>(a: &[u8], b: &[u8]) -> u64 {
        let pairs = a.as_chunks::<N>().0.iter().zip(b.as_chunks::<N>().0);
        pairs.map(|(a, b)| u64::from(a != b)).sum()
    }
    match width {
        1 => wide::<1>(a, b),
        2 => wide::<2>(a, b),
        4 => wide::<4>(a, b),
        8 => wide::<8>(a, b),
        _ => a.chunks_exact(width).zip(b.chunks_exact(width)).filter(|(a, b)| a != b).count() as u64,
    }
}
