//! Looks at a few thousand elements of a chunk and estimates what each byte plane would cost. Never changes a byte and never
//! decides correctness: a sample that misleads costs ratio or time, nothing else.

use super::lanes::Shape;

/// Elements of one sample. At 2048 the entropy of an incompressible plane comes out within 0.01 of 8 bits (after the
/// correction for bias), and drawing them takes about 2 % of the time to encode one MiB.
const ELEMENTS: usize = 2048;
/// Elements that stand together, so that repeats of the neighbour are seen; the windows are spread evenly over the chunk.
const WINDOW: usize = 64;
/// Bytes that are drawn to guess the width of elements.
const GUESS_BYTES: usize = 8192;
/// Neighbouring bytes of one draw for the guess; a multiple of every width.
const GUESS_WINDOW: usize = 256;

/// Below this entropy nearly every byte is the same one, and a Huffman code, which spends a bit on each, loses to matches.
const SPARSE_BITS: f32 = 0.4;

/// How one plane is best written, as far as the sample tells.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Way {
    /// It does not compress enough to be worth the time.
    Copy,
    /// Every sampled byte is the same; to be checked before it is relied on.
    Constant,
    /// Few distinct values in no order: entropy coding alone.
    Entropy,
    /// Repeats its neighbours more often than chance: runs of zeros, sparse rows.
    Matches,
}

/// What a sample says about a chunk cut in one shape.
#[derive(Clone, Copy, Debug)]
pub(super) struct Estimate {
    /// One way per plane.
    pub(super) ways: [Way; 8],
    /// Stored size as a fraction of raw size.
    pub(super) cost: f32,
}

/// Histograms, reused from chunk to chunk.
pub(super) struct Sampler {
    counts: Box<[[u32; 256]; 16]>,
    /// `c * log2(c)` for every count a histogram of a sample can hold.
    c_log_c: Box<[f32]>,
}

impl Sampler {
    pub(super) fn new() -> Self {
        let c_log_c = (0..=GUESS_BYTES).map(|c| if c == 0 { 0.0 } else { c as f32 * (c as f32).log2() }).collect();
        Self { counts: Box::new([[0; 256]; 16]), c_log_c }
    }

    /// Estimates `raw` cut in `shape`. `raw` holds at least one element.
    pub(super) fn estimate(&mut self, raw: &[u8], shape: Shape) -> Estimate {
        let mut repeats = [0u32; 8];
        for counts in &mut self.counts[..shape.width] {
            counts.fill(0);
        }
        let n = raw.len() / shape.width;
        let (windows, window) = if n <= ELEMENTS { (1, n) } else { (ELEMENTS / WINDOW, WINDOW) };
        for k in 0..windows {
            let from = (n - window) * k / windows.saturating_sub(1).max(1);
            let elements = &raw[from * shape.width..(from + window) * shape.width];
            match shape.width {
                2 => count::<2>(elements, shape.rotated, &mut self.counts, &mut repeats),
                4 => count::<4>(elements, shape.rotated, &mut self.counts, &mut repeats),
                8 => count::<8>(elements, shape.rotated, &mut self.counts, &mut repeats),
                _ => count::<1>(elements, false, &mut self.counts, &mut repeats),
            }
        }
        let total = (windows * window) as u32;
        let followers = (windows * (window - 1)).max(1) as f32;
        let (mut ways, mut bits) = ([Way::Copy; 8], 0.0);
        for plane in 0..shape.width {
            let (entropy, chance) = self.entropy(&self.counts[plane], total);
            let repeated = repeats[plane] as f32 / followers;
            let (way, cost) = if chance >= 1.0 {
                (Way::Constant, 0.0)
            } else if repeated > chance + 0.08 || entropy < SPARSE_BITS {
                // Where runs take a share of the plane, the rest of it costs what it costs without them.
                (Way::Matches, entropy.min(8.0) * (1.0 - repeated * 0.9))
            } else if entropy < 7.6 {
                // A Huffman code spends a whole bit on the likeliest byte.
                (Way::Entropy, entropy.max(1.0))
            } else {
                (Way::Copy, 8.0)
            };
            ways[plane] = way;
            bits += cost;
        }
        Estimate { ways, cost: bits / (8 * shape.width) as f32 }
    }

    /// Guesses the shape of elements from the histograms of byte positions: with the true width each plane has a narrower
    /// histogram than with any smaller one. Needs at least 8 bytes.
    pub(super) fn guess(&mut self, raw: &[u8]) -> Shape {
        let mut drawn = 0u32;
        for counts in self.counts.iter_mut() {
            counts.fill(0);
        }
        let units = raw.len() / 8;
        let window = units.min(GUESS_WINDOW / 8);
        let windows = if units <= GUESS_BYTES / 8 { units / window } else { GUESS_BYTES / GUESS_WINDOW };
        for k in 0..windows {
            let from = (units - window) * k / windows.saturating_sub(1).max(1);
            for unit in raw[from * 8..(from + window) * 8].chunks_exact(8) {
                for pair in 0..4 {
                    let x = u16::from_le_bytes([unit[pair * 2], unit[pair * 2 + 1]]);
                    let y = x.rotate_left(1);
                    self.counts[pair * 2][usize::from(x as u8)] += 1;
                    self.counts[pair * 2 + 1][usize::from((x >> 8) as u8)] += 1;
                    self.counts[8 + pair * 2][usize::from(y as u8)] += 1;
                    self.counts[8 + pair * 2 + 1][usize::from((y >> 8) as u8)] += 1;
                }
                drawn += 1;
            }
        }
        let mut best = (Shape { width: 1, rotated: false }, self.guessed_bits(1, false, drawn));
        for width in [2, 4, 8] {
            for rotated in [false, true] {
                let bits = self.guessed_bits(width, rotated, drawn);
                // A wider shape must earn its keep: histograms of fewer samples look narrower than they are. Rotation only
                // has to gain anything at all; it changes nothing where the top bits are constant, as in text.
                let margin = if best.0.width == width { 0.998 } else { 0.985 };
                if bits < best.1 * margin {
                    best = (Shape { width, rotated }, bits);
                }
            }
        }
        best.0
    }

    /// Bits per byte of the drawn units, were their elements `width` wide.
    fn guessed_bits(&self, width: usize, rotated: bool, drawn: u32) -> f32 {
        let mut sum = 0.0;
        for plane in 0..width {
            let base = if rotated && plane + 2 >= width { 8 } else { 0 };
            let mut counts = [0u32; 256];
            for position in (plane..8).step_by(width) {
                for (total, c) in counts.iter_mut().zip(&self.counts[base + position]) {
                    *total += c;
                }
            }
            let (entropy, _) = self.entropy(&counts, drawn * (8 / width) as u32);
            // A plane that will be copied costs eight bits however its sample came out.
            sum += if entropy > 7.6 { 8.0 } else { entropy };
        }
        sum / width as f32
    }

    /// Order-0 entropy in bits, corrected for the bias of a small sample (Miller and Madow 1955), and the chance that two
    /// bytes drawn at random agree.
    fn entropy(&self, counts: &[u32; 256], total: u32) -> (f32, f32) {
        let (mut sum, mut squares, mut distinct) = (0.0f32, 0.0f32, 0u32);
        for &c in counts {
            sum += self.c_log_c[c as usize];
            squares += (c as f32) * (c as f32);
            distinct += u32::from(c > 0);
        }
        let n = total.max(1) as f32;
        let bias = distinct.saturating_sub(1) as f32 / (2.0 * n * std::f32::consts::LN_2);
        let chance = if distinct <= 1 { 1.0 } else { (squares / (n * n)).min(0.999) };
        (n.log2() - sum / n + bias, chance)
    }
}

/// Adds the bytes of `elements` to one histogram per plane, and counts those that equal the one before.
fn count<const W: usize>(elements: &[u8], rotated: bool, counts: &mut [[u32; 256]; 16], repeats: &mut [u32; 8]) {
    let mut before = [0u8; W];
    for (i, element) in elements.chunks_exact(W).enumerate() {
        let mut bytes = [0u8; W];
        bytes.copy_from_slice(element);
        if W >= 2 && rotated {
            let top = u16::from_le_bytes([bytes[W - 2], bytes[W - 1]]).rotate_left(1);
            bytes[W - 2] = top as u8;
            bytes[W - 1] = (top >> 8) as u8;
        }
        for plane in 0..W {
            counts[plane][usize::from(bytes[plane])] += 1;
            repeats[plane] += u32::from(i > 0 && bytes[plane] == before[plane]);
        }
        before = bytes;
    }
}
