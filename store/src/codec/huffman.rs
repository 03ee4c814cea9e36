//! Writes a byte plane as a Zstandard frame that holds nothing but Huffman-coded literals. Any Zstandard decoder reads it.
//! zstd's own encoder makes the same kind of frame at 1.1 GB/s on Zen 4, because it codes
//! symbol by symbol and counts every one; this one counts a sixteenth, shares one code among all blocks and, with AVX-512,
//! looks up 64 codes at once and joins eight of them before they touch the bit stream.
//!
//! Frame: descriptor 0x00 (no content size, checksum or dictionary), window descriptor 0x38 (128 KiB), blocks of at most
//! 128 KiB: a literals section (type 2 with the tree in the first block, type 3 in those that follow, four streams, 18-bit
//! sizes) and a sequences section of one zero byte. RFC 8878 sections 3.1.1 and 4.2.

use super::lanes::Level;

/// The longest code that the format allows.
const BITS_MAX: usize = 11;
/// Symbols that the tree's direct representation and the two-register tables can name.
const SYMBOLS: usize = 128;
/// Raw bytes of one block; the most that the format allows.
pub(super) const BLOCK: usize = 128 << 10;
/// Planes shorter than this go to zstd, whose per-frame cost is lower.
const PLANE_BYTES_MIN: usize = 1024;
/// Of longer planes than this, one window of 64 bytes in sixteen is counted.
const COUNT_ALL_BYTES: usize = 16 << 10;
/// Descriptor and window descriptor of the frame.
pub(super) const FRAME_HEADER: [u8; 2] = [0x00, 0x38];

/// One code: for each symbol its bits (the first to be read is the highest) and how many.
pub(super) struct Code {
    value: [u16; SYMBOLS],
    bits: [u8; SYMBOLS],
    /// Length of the longest.
    longest: u8,
    /// The last symbol that has one.
    last: u8,
}

/// Writes `plane` into `out` and returns the frame's length, or `None` where zstd should do it: a short plane, a symbol
/// above 127, fewer than two symbols, hardly any gain, or `out` too short.
pub(super) fn encode(level: Level, plane: &[u8], out: &mut [u8]) -> Option<usize> {
    if plane.len() < PLANE_BYTES_MIN {
        return None;
    }
    let mut counts = count(plane);
    if counts[SYMBOLS..].iter().any(|&c| c > 0) {
        return None;
    }
    add_unseen(level, plane, &mut counts)?;
    let code = Code::new(&counts)?;
    let (mut spent, mut counted) = (0u64, 0u64);
    for (&bits, &c) in code.bits.iter().zip(&counts) {
        spent += u64::from(bits) * u64::from(c);
        counted += u64::from(c);
    }
    if spent >= counted * 8 * 31 / 32 {
        return None;
    }
    out.get_mut(..2)?.copy_from_slice(&FRAME_HEADER);
    let (mut pos, blocks) = (2, plane.len().div_ceil(BLOCK));
    // Blocks of nearly one size, so that the last is never too short for four streams.
    let block = plane.len().div_ceil(blocks);
    for (i, raw) in plane.chunks(block).enumerate() {
        pos += write_block(level, &code, raw, i == 0, i + 1 == blocks, out.get_mut(pos..)?)?;
    }
    Some(pos)
}

/// Counts symbols, all of a short plane and a sixteenth of a long one: enough that the code is within 0.001 bit of the best.
fn count(plane: &[u8]) -> [u32; 256] {
    let stride = if plane.len() <= COUNT_ALL_BYTES { 64 } else { 1024 };
    // Four tables, so that equal neighbours do not wait for each other's store.
    let mut tables = [[0u32; 256]; 4];
    for window in plane.chunks(stride) {
        // The bytes after the last four of a plane are left to `add_unseen`.
        for four in window[..window.len().min(64)].as_chunks::<4>().0 {
            for (table, &symbol) in tables.iter_mut().zip(four) {
                let c = &mut table[usize::from(symbol)];
                *c = c.wrapping_add(1);
            }
        }
    }
    let mut sum = [0u32; 256];
    for table in &tables {
        for (s, c) in sum.iter_mut().zip(table) {
            *s += c;
        }
    }
    sum
}

/// Gives each symbol that occurs, but was not counted, a count of one. `None` at a symbol above 127.
#[cfg_attr(not(target_arch = "x86_64"), allow(unused_variables))]
fn add_unseen(level: Level, plane: &[u8], counts: &mut [u32; 256]) -> Option<()> {
    let mut at = 0;
    while at < plane.len() {
        let from = at;
        #[cfg(target_arch = "x86_64")]
        if level == Level::Avx512 {
            // SAFETY: this level is only made where the features were seen.
            at += unsafe { avx512::covered(&plane[at..], counts) };
        }
        // What the vector loop left: its tail, or a window that holds something new.
        for &symbol in &plane[at..plane.len().min(at + 64)] {
            if usize::from(symbol) >= SYMBOLS {
                return None;
            }
            let c = &mut counts[usize::from(symbol)];
            *c = (*c).max(1);
        }
        at = plane.len().min(at + 64);
        debug_assert!(at > from);
    }
    Some(())
}

impl Code {
    /// A Huffman code of at most [`BITS_MAX`] bits for these counts, or `None` for fewer than two symbols.
    fn new(counts: &[u32; 256]) -> Option<Self> {
        let mut order: Vec<(u32, u8)> = (0..SYMBOLS).filter(|&s| counts[s] > 0).map(|s| (counts[s], s as u8)).collect();
        if order.len() < 2 {
            return None;
        }
        order.sort_unstable();
        let mut bits = [0u8; SYMBOLS];
        let depths = limited_depths(&order)?;
        for (&(_, symbol), &depth) in order.iter().zip(&depths) {
            bits[usize::from(symbol)] = depth;
        }
        let longest = depths.iter().copied().max()?;
        let last = order.iter().map(|&(_, symbol)| symbol).max()?;
        // Codes ascend from the longest, and by symbol among those of one length.
        let (mut value, mut position) = ([0u16; SYMBOLS], 0u32);
        for length in (1..=longest).rev() {
            let shift = longest - length;
            for symbol in 0..SYMBOLS {
                if bits[symbol] == length {
                    value[symbol] = (position >> shift) as u16;
                    position += 1 << shift;
                }
            }
        }
        Some(Self { value, bits, longest, last })
    }

    /// The tree description: 4-bit weights of all symbols before the last, whose weight the reader works out.
    fn write_tree(&self, out: &mut [u8]) -> Option<usize> {
        let weights = usize::from(self.last);
        let len = 1 + weights.div_ceil(2);
        let out = out.get_mut(..len)?;
        out[0] = 127 + self.last;
        let weight = |s: usize| if s < weights && self.bits[s] > 0 { self.longest + 1 - self.bits[s] } else { 0 };
        for (i, byte) in out[1..].iter_mut().enumerate() {
            *byte = weight(2 * i) << 4 | weight(2 * i + 1);
        }
        Some(len)
    }
}

/// Code lengths for symbols sorted by ascending count, none above [`BITS_MAX`], that fill the code space exactly.
fn limited_depths(order: &[(u32, u8)]) -> Option<Vec<u8>> {
    let n = order.len();
    // Huffman's tree with two queues: leaves as sorted, inner nodes as they are made.
    let mut weight: Vec<u64> = order.iter().map(|&(c, _)| u64::from(c)).collect();
    let mut parent = vec![0usize; 2 * n - 1];
    let (mut leaf, mut inner) = (0, n);
    for node in n..2 * n - 1 {
        let mut sum = 0;
        for _ in 0..2 {
            let take_leaf = leaf < n && (inner >= node || weight[leaf] <= weight[inner]);
            let child = if take_leaf { &mut leaf } else { &mut inner };
            sum += weight[*child];
            parent[*child] = node;
            *child += 1;
        }
        weight.push(sum);
    }
    let mut depth = vec![0usize; 2 * n - 1];
    for node in (0..2 * n - 2).rev() {
        depth[node] = depth[parent[node]] + 1;
    }
    depth.truncate(n);
    for d in &mut depth {
        *d = (*d).min(BITS_MAX);
    }
    // Cutting long codes short overfills the space: lengthen the rarest that can be, then give what is over back.
    let space = 1usize << BITS_MAX;
    let mut used: usize = depth.iter().map(|d| space >> d).sum();
    while used > space {
        let longest_below = depth.iter().copied().filter(|&d| d < BITS_MAX).max()?;
        let i = depth.iter().position(|&d| d == longest_below)?;
        depth[i] += 1;
        used -= space >> depth[i];
    }
    for d in depth.iter_mut().rev() {
        while *d > 1 && space >> *d <= space - used {
            used += space >> *d;
            *d -= 1;
        }
    }
    (used == space).then(|| depth.iter().map(|&d| d as u8).collect())
}

/// Writes one block and returns its length.
fn write_block(level: Level, code: &Code, raw: &[u8], first: bool, last: bool, out: &mut [u8]) -> Option<usize> {
    let (block_header, literals_header, jumps) = (3, 5, 6);
    let literals = block_header + literals_header;
    let tree = if first { code.write_tree(out.get_mut(literals..)?)? } else { 0 };
    let mut pos = literals + tree + jumps;
    for (i, stream) in raw.chunks(raw.len().div_ceil(4)).enumerate() {
        // The longest that this stream can become, so that the writer's bounds checks never fail.
        let room = out.get_mut(pos..pos + stream.len() * BITS_MAX / 8 + 16)?;
        let len = write_stream(level, code, stream, room);
        pos += len;
        if i < 3 {
            let jump = literals + tree + 2 * i;
            out[jump..jump + 2].copy_from_slice(&u16::try_from(len).ok()?.to_le_bytes());
        }
    }
    let coded = (pos - literals) as u64;
    let section = if first { 2 } else { 3 } | (3 << 2) | ((raw.len() as u64) << 4) | (coded << 22);
    out[block_header..literals].copy_from_slice(&section.to_le_bytes()[..literals_header]);
    *out.get_mut(pos)? = 0; // no sequences
    pos += 1;
    if pos - block_header > BLOCK {
        return None;
    }
    let header = u32::from(last) | 2 << 1 | ((pos - block_header) as u32) << 3;
    out[..block_header].copy_from_slice(&header.to_le_bytes()[..block_header]);
    Some(pos)
}

/// Writes the codes of `symbols`, the last first, and the bit that marks the end. Returns the bytes written.
fn write_stream(level: Level, code: &Code, symbols: &[u8], out: &mut [u8]) -> usize {
    let mut bits = BitWriter { out, pos: 0, pending: 0, fill: 0 };
    let blocks = symbols.len() / 64 * 64;
    for &symbol in symbols[blocks..].iter().rev() {
        let symbol = usize::from(symbol) % SYMBOLS;
        bits.push(u64::from(code.value[symbol]), u64::from(code.bits[symbol]));
    }
    let mut bits = match level {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: this level is only made where the features were seen.
        Level::Avx512 => unsafe { avx512::write(code, &symbols[..blocks], bits) },
        _ => write_portable(code, &symbols[..blocks], bits),
    };
    bits.push(1, 1);
    bits.pos + usize::from(bits.fill > 0)
}

/// Codes four symbols at a time; whole groups of four only. The writer goes by value to stay in registers.
#[inline(always)]
fn write_portable<'a>(code: &Code, symbols: &[u8], mut bits: BitWriter<'a>) -> BitWriter<'a> {
    for four in symbols.as_chunks::<4>().0.iter().rev() {
        let (mut value, mut len) = (0u64, 0u64);
        for &symbol in four {
            let symbol = usize::from(symbol) % SYMBOLS;
            value = value << (code.bits[symbol] & 63) | u64::from(code.value[symbol]);
            len = len.wrapping_add(u64::from(code.bits[symbol]));
        }
        bits.push(value, len);
    }
    bits
}

/// Bits from the lowest of the first byte upwards.
struct BitWriter<'a> {
    out: &'a mut [u8],
    pos: usize,
    /// Fewer than eight bits that wait for a whole byte.
    pending: u64,
    fill: u64,
}

impl BitWriter<'_> {
    /// Appends the low `len` (at most 56) bits of `value`, whose other bits are zero. Wrapping, because a check of every sum
    /// costs a tenth of the speed and none can overflow: `fill` is below 8 and `pos` within `out`.
    #[inline(always)]
    fn push(&mut self, value: u64, len: u64) {
        let joined = self.pending | value << (self.fill & 7);
        if let Some(slot) = self.out.get_mut(self.pos..).and_then(|rest| rest.first_chunk_mut::<8>()) {
            *slot = joined.to_le_bytes();
        }
        let fill = self.fill.wrapping_add(len);
        self.pos = self.pos.wrapping_add((fill >> 3) as usize);
        self.pending = joined >> (fill & 56);
        self.fill = fill & 7;
    }
}

#[cfg(target_arch = "x86_64")]
mod avx512 {
    use super::{BitWriter, Code, SYMBOLS, write_portable};
    use std::arch::x86_64::*;

    /// Windows whose codes are looked up before any is written: the two loops then overlap in the processor.
    const BATCH: usize = 16;

    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vbmi")]
    fn load(bytes: &[u8; 64]) -> __m512i {
        // SAFETY: the array has 64 readable bytes and the load asks for no alignment.
        unsafe { _mm512_loadu_si512(bytes.as_ptr().cast()) }
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vbmi")]
    fn store(vector: __m512i) -> [u64; 8] {
        let mut words = [0u64; 8];
        // SAFETY: the array has 64 writable bytes and the store asks for no alignment.
        unsafe { _mm512_storeu_si512(words.as_mut_ptr().cast(), vector) };
        words
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vbmi")]
    fn table(bytes: &[u8; SYMBOLS]) -> (__m512i, __m512i) {
        let (halves, _) = bytes.as_chunks::<64>();
        (load(&halves[0]), load(&halves[1]))
    }

    /// Bytes from the start of `plane`, whole windows of 64, in which each symbol is below 128 and has a count.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vbmi")]
    pub(super) fn covered(plane: &[u8], counts: &[u32; 256]) -> usize {
        let mut uncounted = [0u8; SYMBOLS];
        for (mark, &c) in uncounted.iter_mut().zip(counts) {
            *mark = if c == 0 { 0x80 } else { 0 };
        }
        let (low, high) = table(&uncounted);
        let (windows, _) = plane.as_chunks::<64>();
        for (i, window) in windows.iter().enumerate() {
            let symbols = load(window);
            let marks = _mm512_or_si512(symbols, _mm512_permutex2var_epi8(low, symbols, high));
            if _mm512_movepi8_mask(marks) != 0 {
                return i * 64;
            }
        }
        windows.len() * 64
    }

    /// Codes 64 symbols at a time; `symbols` holds whole windows of 64, each below 128.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vbmi,bmi2")]
    pub(super) fn write<'a>(code: &Code, symbols: &[u8], mut bits: BitWriter<'a>) -> BitWriter<'a> {
        let (mut low_bytes, mut high_bytes) = ([0u8; SYMBOLS], [0u8; SYMBOLS]);
        for (symbol, &value) in code.value.iter().enumerate() {
            [low_bytes[symbol], high_bytes[symbol]] = value.to_le_bytes();
        }
        let (value_low, value_high, lens) = (table(&low_bytes), table(&high_bytes), table(&code.bits));
        let zero = _mm512_setzero_si512();
        let (windows, _) = symbols.as_chunks::<64>();
        let (mut values, mut lens_of) = ([[0u64; 8]; BATCH], [[0u64; 8]; BATCH]);
        for batch in windows.rchunks(BATCH) {
            let mut wide = 0;
            for ((window, values), lens_of) in batch.iter().zip(&mut values).zip(&mut lens_of) {
                let s = load(window);
                let low = _mm512_permutex2var_epi8(value_low.0, s, value_low.1);
                let high = _mm512_permutex2var_epi8(value_high.0, s, value_high.1);
                let len = _mm512_permutex2var_epi8(lens.0, s, lens.1);
                // Symbols become 16-bit lanes, groups of eight in the order 0 2 4 6 and 1 3 5 7, then lanes of four symbols.
                let (even, even_len) = fours(_mm512_unpacklo_epi8(low, high), _mm512_unpacklo_epi8(len, zero));
                let (odd, odd_len) = fours(_mm512_unpackhi_epi8(low, high), _mm512_unpackhi_epi8(len, zero));
                // The first and the last four of each group, in the groups' order again.
                let (first, last) = (_mm512_unpacklo_epi64(even, odd), _mm512_unpackhi_epi64(even, odd));
                let first_len = _mm512_unpacklo_epi64(even_len, odd_len);
                let last_len = _mm512_unpackhi_epi64(even_len, odd_len);
                let len = _mm512_add_epi64(first_len, last_len);
                *values = store(_mm512_or_si512(_mm512_sllv_epi64(first, last_len), last));
                *lens_of = store(len);
                // More than 56 bits do not fit one push. Eight such codes in a row are rare.
                wide |= _mm512_cmpgt_epu64_mask(len, _mm512_set1_epi64(56));
            }
            if wide == 0 {
                let groups = values[..batch.len()].as_flattened().iter().zip(lens_of[..batch.len()].as_flattened());
                for (&value, &len) in groups.rev() {
                    bits.push(value, len);
                }
            } else {
                bits = write_portable(code, batch.as_flattened(), bits);
            }
        }
        bits
    }

    /// Joins the codes of four neighbours, 16-bit lanes, into one 64-bit lane: by shifting the earlier, which stands in the
    /// lower lane, left by the length of the later.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vbmi")]
    fn fours(value: __m512i, len: __m512i) -> (__m512i, __m512i) {
        let later = _mm512_srli_epi32::<16>(len);
        let earlier = _mm512_and_si512(value, _mm512_set1_epi32(0xffff));
        let value = _mm512_or_si512(_mm512_sllv_epi32(earlier, later), _mm512_srli_epi32::<16>(value));
        let len = _mm512_madd_epi16(len, _mm512_set1_epi16(1));
        let later = _mm512_srli_epi64::<32>(len);
        let low_half = _mm512_set1_epi64(0xffff_ffff);
        let earlier = _mm512_and_si512(value, low_half);
        let value = _mm512_or_si512(_mm512_sllv_epi64(earlier, later), _mm512_srli_epi64::<32>(value));
        (value, _mm512_add_epi64(_mm512_and_si512(len, low_half), later))
    }
}
