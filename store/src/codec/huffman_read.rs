//! Reads the frames that [`super::huffman`] writes, faster than zstd does: a look-up of eleven bits yields up to six symbols,
//! where zstd's yields two. Never the judge of what is sound: whatever is not exactly such a frame, or does not end where
//! it should, is handed to zstd, which reads it or says that it is damaged. Every read and write is checked;
//! the one `unsafe` is the call of a function compiled for newer processors.

use super::lanes::Level;

/// Bits of one look-up: the longest code of the format.
const LOOK: u32 = 11;
/// Symbols that one look-up yields at most.
const SYMBOLS_MAX: usize = 6;
/// Look-ups between two refills: 5 x 11 bits of at least 57.
const STEPS: usize = 5;

/// The decoding tables of one code.
pub(super) struct Table {
    /// Per window of eleven bits, from the lowest byte: bits used, six symbols, number of symbols.
    many: Box<[u64; 1 << LOOK]>,
    /// Per window: length of its first code, and the symbol.
    single: Box<[(u8, u8); 1 << LOOK]>,
}

impl Table {
    pub(super) fn new() -> Self {
        Self { many: Box::new([0; 1 << LOOK]), single: Box::new([(0, 0); 1 << LOOK]) }
    }

    /// Builds the tables from a tree of directly stored weights and returns the bytes it took.
    fn read(&mut self, tree: &[u8]) -> Option<usize> {
        let weights = usize::from(*tree.first()?).checked_sub(127).filter(|&n| n > 0)?;
        let packed = tree.get(1..1 + weights.div_ceil(2))?;
        let mut weight = [0u8; 129];
        for (i, w) in weight[..weights].iter_mut().enumerate() {
            *w = if i % 2 == 0 { packed[i / 2] >> 4 } else { packed[i / 2] & 15 };
        }
        // The last symbol takes what is missing to a power of two.
        if weight.iter().any(|&w| u32::from(w) > LOOK) {
            return None;
        }
        let space = |w: u8| if w == 0 { 0u32 } else { 1 << (w - 1) };
        let sum: u32 = weight.iter().map(|&w| space(w)).sum();
        if sum == 0 {
            return None;
        }
        let log = sum.ilog2() + 1;
        let missing = (1u32 << log) - sum;
        if log > LOOK || !missing.is_power_of_two() {
            return None;
        }
        weight[weights] = missing.ilog2() as u8 + 1;
        let mut at = 0;
        for w in 1..=log as u8 {
            for (symbol, _) in weight.iter().enumerate().filter(|&(_, &of_symbol)| of_symbol == w) {
                let len = (space(w) << (LOOK - log)) as usize;
                self.single.get_mut(at..at + len)?.fill((log as u8 + 1 - w, symbol as u8));
                at += len;
            }
        }
        if at != self.single.len() {
            return None;
        }
        for window in 0..1usize << LOOK {
            let (mut entry, mut used, mut symbols) = (0u64, 0u32, 0usize);
            while symbols < SYMBOLS_MAX {
                let (bits, symbol) = self.single[window << used & ((1 << LOOK) - 1)];
                if used + u32::from(bits) > LOOK {
                    break;
                }
                used += u32::from(bits);
                symbols += 1;
                entry |= u64::from(symbol) << (8 * symbols);
            }
            self.many[window] = entry | u64::from(used) | (symbols as u64) << 56;
        }
        Some(1 + packed.len())
    }
}

/// Decodes `frame` into exactly `out`; `None` if zstd should. `out` then holds anything.
pub(super) fn decode(level: Level, table: &mut Table, frame: &[u8], out: &mut [u8]) -> Option<()> {
    let mut rest = frame.strip_prefix(&super::huffman::FRAME_HEADER)?;
    let mut out = out;
    let mut has_tree = false;
    loop {
        let header = rest.split_off(..3)?;
        let header = u32::from_le_bytes([header[0], header[1], header[2], 0]);
        let block = rest.split_off(..(header >> 3) as usize)?;
        if header >> 1 & 3 != 2 || block.len() > super::huffman::BLOCK {
            return None;
        }
        // The literals section, four streams with sizes of 18 bits, and a sequences section of one zero byte.
        let [s0, s1, s2, s3, s4, literals @ .., 0] = block else { return None };
        let section = u64::from_le_bytes([*s0, *s1, *s2, *s3, *s4, 0, 0, 0]);
        if section >> 22 != literals.len() as u64 {
            return None;
        }
        let tree_len = match section & 15 {
            14 => table.read(literals)?,
            15 if has_tree => 0,
            _ => return None,
        };
        has_tree = true;
        let raw_len = (section >> 4 & 0x3_ffff) as usize;
        if !(256..=super::huffman::BLOCK).contains(&raw_len) {
            return None;
        }
        let (streams, block_out) = (&literals[tree_len..], out.split_off_mut(..raw_len)?);
        match level {
            Level::Portable => read_streams(table, streams, block_out)?,
            #[cfg(target_arch = "x86_64")]
            // SAFETY: every other level is only made where BMI2 was seen.
            _ => unsafe { read_streams_bmi2(table, streams, block_out)? },
        }
        if header & 1 != 0 {
            return (rest.is_empty() && out.is_empty()).then_some(());
        }
    }
}

/// [`read_streams`] with shifts that need no fixed register.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "bmi1,bmi2,lzcnt")]
fn read_streams_bmi2(table: &Table, section: &[u8], out: &mut [u8]) -> Option<()> {
    read_streams(table, section, out)
}

/// Decodes the four streams of one block, side by side so that their look-ups overlap.
#[inline(always)]
fn read_streams(table: &Table, section: &[u8], mut out: &mut [u8]) -> Option<()> {
    let ([j0, j1, j2, j3, j4, j5], mut rest) = section.split_first_chunk::<6>()?;
    let quarter = out.len().div_ceil(4);
    let lens = [[*j0, *j1], [*j2, *j3], [*j4, *j5]].map(|len| usize::from(u16::from_le_bytes(len)));
    let mut a = Stream::new(rest.split_off(..lens[0])?, out.split_off_mut(..quarter)?)?;
    let mut b = Stream::new(rest.split_off(..lens[1])?, out.split_off_mut(..quarter)?)?;
    let mut c = Stream::new(rest.split_off(..lens[2])?, out.split_off_mut(..quarter)?)?;
    let mut d = Stream::new(rest, out)?;
    while a.is_far() && b.is_far() && c.is_far() && d.is_far() {
        let (mut wa, mut wb, mut wc, mut wd) = (a.window()?, b.window()?, c.window()?, d.window()?);
        let (ta, tb, tc, td) = (a.slot()?, b.slot()?, c.slot()?, d.slot()?);
        let (mut na, mut nb, mut nc, mut nd) = (0, 0, 0, 0);
        for _ in 0..STEPS {
            step(table, &mut wa, ta, &mut na);
            step(table, &mut wb, tb, &mut nb);
            step(table, &mut wc, tc, &mut nc);
            step(table, &mut wd, td, &mut nd);
        }
        a.advance(wa, na);
        b.advance(wb, nb);
        c.advance(wc, nc);
        d.advance(wd, nd);
    }
    for stream in [&mut a, &mut b, &mut c, &mut d] {
        stream.finish(table)?;
    }
    Some(())
}

/// One look-up: writes eight bytes, of which the first few count.
#[inline(always)]
fn step(table: &Table, window: &mut u64, slot: &mut [u8; 64], symbols: &mut usize) {
    let entry = table.many[(*window >> (64 - LOOK)) as usize];
    // At most 4 x 6 symbols stand before this look-up's, so the mask changes nothing but spares the bounds check.
    let at = *symbols & 31;
    slot[at..at + 8].copy_from_slice(&(entry >> 8).to_le_bytes());
    *window <<= entry & 63;
    *symbols = at + (entry >> 56) as usize;
}

/// A stream of codes, read from its end to its start.
struct Stream<'a> {
    src: &'a [u8],
    /// Bits still to be read.
    left: usize,
    out: &'a mut [u8],
    at: usize,
}

impl<'a> Stream<'a> {
    fn new(src: &'a [u8], out: &'a mut [u8]) -> Option<Self> {
        // The highest set bit of the last byte marks the end.
        let last = src.last()?.checked_ilog2()?;
        let left = (src.len() - 1) * 8 + last as usize;
        Some(Self { src, left, out, at: 0 })
    }

    /// A whole window can be read and five look-ups can be written.
    #[inline(always)]
    fn is_far(&self) -> bool {
        self.left >= 64 && self.out.len() - self.at >= 64
    }

    /// The next bits, the first of them highest: at least 57. At least 64 must be left. Its lowest bit, too low to be read,
    /// is set: however far the window is shifted then shows in the zeros below.
    #[inline(always)]
    fn window(&self) -> Option<u64> {
        // The eight bytes that end with the one holding the next bit.
        let end = self.left.wrapping_add(7) >> 3;
        let bytes = self.src.get(end.wrapping_sub(8)..)?.first_chunk::<8>()?;
        Some(u64::from_le_bytes(*bytes) << (self.left.wrapping_neg() & 7) | 1)
    }

    /// As [`Stream::window`], however few bits are left: those before the start are zero.
    fn last_window(&self) -> Option<u64> {
        let end = self.left.div_ceil(8);
        let take = end.min(8);
        let mut bytes = [0u8; 8];
        bytes[8 - take..].copy_from_slice(self.src.get(end - take..end)?);
        Some(u64::from_le_bytes(bytes) << (self.left.wrapping_neg() & 7))
    }

    #[inline(always)]
    fn slot(&mut self) -> Option<&mut [u8; 64]> {
        self.out.get_mut(self.at..)?.first_chunk_mut()
    }

    /// `is_far` was true, so five look-ups of eleven bits and six symbols stay inside.
    #[inline(always)]
    fn advance(&mut self, window: u64, symbols: usize) {
        self.left = self.left.wrapping_sub(window.trailing_zeros() as usize);
        self.at = self.at.wrapping_add(symbols);
    }

    /// Reads what is left of this stream, which must end with its last symbol.
    #[inline(always)]
    fn finish(&mut self, table: &Table) -> Option<()> {
        while self.is_far() {
            let mut window = self.window()?;
            let (slot, mut symbols) = (self.slot()?, 0);
            for _ in 0..STEPS {
                step(table, &mut window, slot, &mut symbols);
            }
            self.advance(window, symbols);
        }
        while self.at < self.out.len() {
            let (bits, symbol) = table.single[(self.last_window()? >> (64 - LOOK)) as usize];
            self.left = self.left.checked_sub(usize::from(bits))?;
            self.out[self.at] = symbol;
            self.at += 1;
        }
        (self.left == 0).then_some(())
    }
}
