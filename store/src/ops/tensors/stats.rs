//! What the elements of a tensor are like, found in one pass: extremes, mean, standard deviation, norm. Never holds more than a
//! block of them.

use super::elements::{Blocks, components};
use crate::split::Dtype;

/// Statistics of a tensor's elements; of complex ones, of their moduli. All in double precision. What there is no element
/// for is NaN.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct TensorStats {
    /// Elements.
    pub count: u64,
    /// Of those, elements that are no number.
    pub nan: u64,
    /// Elements that are infinite.
    pub infinite: u64,
    /// The smallest that is a number; may be infinite.
    pub min: f64,
    /// The largest that is a number; may be infinite.
    pub max: f64,
    /// Mean of the finite ones.
    pub mean: f64,
    /// Standard deviation of the finite ones as a sample, divided by their number less one, as `torch.std` does.
    pub std: f64,
    /// Square root of the sum of the squares of the finite ones.
    pub norm: f64,
}

/// Gathers statistics from the bytes of elements.
pub struct Gather {
    blocks: Blocks,
    is_complex: bool,
    moments: Moments,
    moduli: Vec<f64>,
}

impl Gather {
    /// For elements of a type; none when that has no statistics.
    pub fn new(dtype: Dtype) -> Option<Self> {
        let is_complex = components(dtype)? == 2;
        let blocks = Blocks::new(dtype)?;
        Some(Self { blocks, is_complex, moments: Moments::default(), moduli: Vec::new() })
    }

    /// Takes the next bytes; they may end within an element.
    pub fn feed(&mut self, bytes: &[u8]) {
        let Self { blocks, is_complex, moments, moduli } = self;
        blocks.feed(bytes, |numbers| {
            if *is_complex {
                moduli.clear();
                moduli.extend(numbers.as_chunks::<2>().0.iter().map(|[re, im]| re.hypot(*im)));
                moments.add(moduli);
            } else {
                moments.add(numbers);
            }
        });
    }

    /// What they were like.
    pub fn finish(self) -> TensorStats {
        self.moments.stats()
    }
}

/// Sums of what was seen so far, in a form in which nothing cancels: Chan, Golub and LeVeque 1979.
struct Moments {
    nan: u64,
    infinite: u64,
    finite: u64,
    min: f64,
    max: f64,
    mean: f64,
    /// Sum of the squared distances to the mean.
    squares: f64,
}

impl Default for Moments {
    fn default() -> Self {
        let (min, max) = (f64::INFINITY, f64::NEG_INFINITY);
        Self { nan: 0, infinite: 0, finite: 0, min, max, mean: 0.0, squares: 0.0 }
    }
}

/// Sums side by side, so that one addition need not wait for the one before it and the processor does several at once.
const LANES: usize = 8;

/// Folds numbers lane by lane, and joins the lanes.
#[inline(always)]
fn lanes(numbers: &[f64], begin: f64, fold: impl Fn(f64, f64) -> f64, join: impl Fn(f64, f64) -> f64) -> f64 {
    let (groups, rest) = numbers.as_chunks::<LANES>();
    let mut of_lane = [begin; LANES];
    for group in groups {
        for (lane, number) in of_lane.iter_mut().zip(group) {
            *lane = fold(*lane, *number);
        }
    }
    for (lane, number) in of_lane.iter_mut().zip(rest) {
        *lane = fold(*lane, *number);
    }
    of_lane.into_iter().fold(begin, join)
}

fn sum_of(numbers: &[f64], term: impl Fn(f64) -> f64) -> f64 {
    lanes(numbers, 0.0, |sum, number| sum + term(number), |a, b| a + b)
}

fn smaller(a: f64, b: f64) -> f64 {
    // A comparison with NaN is false.
    if b < a { b } else { a }
}

fn larger(a: f64, b: f64) -> f64 {
    if b > a { b } else { a }
}

impl Moments {
    fn add(&mut self, numbers: &[f64]) {
        let sum = sum_of(numbers, |number| number);
        if sum.is_finite() {
            self.add_finite(numbers, sum / numbers.len() as f64);
            return;
        }
        // Seldom: something in it is not finite, or the sum is too large for a double.
        let finite: Vec<f64> = numbers.iter().copied().filter(|number| number.is_finite()).collect();
        for number in numbers.iter().filter(|number| !number.is_finite()) {
            self.nan += u64::from(number.is_nan());
            self.infinite += u64::from(number.is_infinite());
            self.min = smaller(self.min, *number);
            self.max = larger(self.max, *number);
        }
        let mean = finite.iter().map(|number| number / finite.len() as f64).sum();
        self.add_finite(&finite, mean);
    }

    fn add_finite(&mut self, numbers: &[f64], mean: f64) {
        if numbers.is_empty() {
            return;
        }
        self.min = lanes(numbers, self.min, smaller, smaller);
        self.max = lanes(numbers, self.max, larger, larger);
        let squares = sum_of(numbers, |number| (number - mean) * (number - mean));
        let (before, here) = (self.finite as f64, numbers.len() as f64);
        let all = before + here;
        let apart = mean - self.mean;
        self.mean += apart * (here / all);
        self.squares += squares + apart * apart * (before * here / all);
        self.finite += numbers.len() as u64;
    }

    fn stats(&self) -> TensorStats {
        let Self { nan, infinite, finite, min, max, mean, squares } = *self;
        let number = |exists: bool, number: f64| if exists { number } else { f64::NAN };
        let (any, n) = (finite + infinite > 0, finite as f64);
        TensorStats {
            count: nan + infinite + finite,
            nan,
            infinite,
            min: number(any, min),
            max: number(any, max),
            mean: number(finite > 0, mean),
            std: number(finite > 1, (squares / (n - 1.0)).sqrt()),
            // Both terms are positive: nothing cancels.
            norm: (squares + n * mean * mean).sqrt(),
        }
    }
}
