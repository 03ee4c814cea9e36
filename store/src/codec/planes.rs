//! The `planes` encoding: elements cut into byte planes, each plane stored in the way that suits it. Pure: bytes in, bytes out.
//!
//! # Stored bytes
//! Version 1. `n` = raw length / width (whole elements), integers little-endian, no padding.
//!
//! | offset | size | field |
//! | --- | --- | --- |
//! | 0 | 1 | version: 1 |
//! | 1 | 1 | shape: bits 0 and 1 = log2 of the width (1, 2, 4 or 8 bytes); bit 2 = rotated (never with width 1); others 0 |
//! | 2 | 4 | raw length in bytes |
//! | 6 | 4 x width | one entry per plane, least significant byte first: bits 0 to 7 = mode, bits 8 to 31 = stored length |
//! | 6 + 4 x width | | payloads of the planes of mode 0, in plane order |
//! | | raw length mod width | the bytes after the last whole element, as they are |
//! | | | payloads of the other planes, in plane order; the last ends the record |
//!
//! | mode | stored length | payload |
//! | --- | --- | --- |
//! | 0 copy | n | the plane |
//! | 1 zstd | any | one Zstandard frame without magic number that unpacks to exactly `n` bytes |
//! | 2 constant | 1 | the byte that fills the plane |
//!
//! Plane `k` holds byte `k` of every element. *Rotated*: the top 16 bits of each element were rotated left by one first, so
//! that in F32, BF16 and F64 the highest plane is the exponent (its upper eight bits) and the sign is the lowest bit of the
//! plane below.

use super::lanes::{Level, Shape, merge, split};
use super::sample::{Estimate, Way};
use super::{DecodeError, huffman, huffman_read, zstd_io};
use crate::limits::CHUNK_BYTES_MAX;

const VERSION: u8 = 1;
const MODE_COPY: u8 = 0;
const MODE_ZSTD: u8 = 1;
const MODE_CONSTANT: u8 = 2;

/// Bytes past the end of a plane that zstd may use while it decodes: it then keeps a block's literals there rather than
/// move them out of its own way (a block is at most 128 KiB).
const DECODE_SLACK: usize = (128 << 10) + 256;

/// Bytes before the first payload.
fn header_len(width: usize) -> usize {
    6 + 4 * width
}

/// Encodes chunks; holds what that needs besides them.
pub(super) struct Writer {
    /// Plane bytes that are to be coded, one plane after the other.
    scratch: Vec<u8>,
    zstd: zstd_io::Compressor,
    level: Level,
}

impl Writer {
    pub(super) fn new(level: Level) -> Self {
        Self { scratch: Vec::new(), zstd: zstd_io::Compressor::new(), level }
    }

    /// The zstd contexts, for chunks that are stored as one frame.
    pub(super) fn zstd(&mut self) -> &mut zstd_io::Compressor {
        &mut self.zstd
    }

    /// Encodes `raw` into `out` and returns the stored length; `None` when it does not fit there.
    pub(super) fn encode(&mut self, raw: &[u8], shape: Shape, estimate: &Estimate, out: &mut [u8]) -> Option<usize> {
        let width = shape.width;
        let n = raw.len() / width;
        let tail = raw.len() % width;
        let is_copy = |plane: usize| estimate.ways[plane] == Way::Copy;
        let coded = (0..width).filter(|&p| !is_copy(p)).count();
        let mut pos = header_len(width) + (width - coded) * n + tail;
        if self.scratch.len() < coded * n {
            self.scratch.resize(coded * n, 0);
        }
        if out.len() < pos {
            return None;
        }
        let (head, mut rest) = out[..pos].split_at_mut(header_len(width));
        let mut scratch = &mut self.scratch[..coded * n];
        // Copied planes are split straight to where they are stored.
        let mut planes: [&mut [u8]; 8] = Default::default();
        for (p, plane) in planes.iter_mut().enumerate().take(width) {
            let from = if is_copy(p) { &mut rest } else { &mut scratch };
            *plane = from.split_off_mut(..n)?;
        }
        split(self.level, shape, &raw[..n * width], &mut planes);
        rest.copy_from_slice(&raw[n * width..]);

        head[0] = VERSION;
        head[1] = width.trailing_zeros() as u8 | u8::from(shape.rotated) << 2;
        head[2..6].copy_from_slice(&u32::try_from(raw.len()).ok()?.to_le_bytes());
        let mut from = 0;
        for p in 0..width {
            let (mode, len) = if is_copy(p) {
                (MODE_COPY, n)
            } else {
                let plane = &self.scratch[from..from + n];
                from += n;
                let (mode, len) = code_plane(self.level, &mut self.zstd, plane, estimate.ways[p], out.get_mut(pos..)?)?;
                pos += len;
                (mode, len)
            };
            let entry = u32::from(mode) | u32::try_from(len).ok()? << 8;
            out[6 + 4 * p..10 + 4 * p].copy_from_slice(&entry.to_le_bytes());
        }
        Some(pos)
    }
}

/// Writes one plane that is not copied. Returns its mode and stored length.
fn code_plane(
    level: Level,
    zstd: &mut zstd_io::Compressor,
    plane: &[u8],
    way: Way,
    out: &mut [u8],
) -> Option<(u8, usize)> {
    let way = match (way, plane) {
        // The sample saw one value; if the plane has others they are few, and matches will carry the rest.
        (Way::Constant, [first, others @ ..]) => {
            if is_constant(*first, others) {
                *out.first_mut()? = *first;
                return Some((MODE_CONSTANT, 1));
            }
            Way::Matches
        }
        (way, _) => way,
    };
    if way == Way::Entropy
        && let Some(len) = huffman::encode(level, plane, out)
    {
        return Some((MODE_ZSTD, len));
    }
    let how = if way == Way::Matches { zstd_io::How::Matches } else { zstd_io::How::Entropy };
    Some((MODE_ZSTD, zstd.compress(how, plane, out)?))
}

/// Compares in blocks, which is vectorised, and stops at the first that differs.
fn is_constant(value: u8, bytes: &[u8]) -> bool {
    bytes.chunks(256).all(|block| block.iter().fold(0, |seen, b| seen | (b ^ value)) == 0)
}

/// Decodes chunks; holds what that needs besides them.
pub(super) struct Reader {
    /// Planes that are not stored as they are, one after the other.
    scratch: Vec<u8>,
    table: huffman_read::Table,
    zstd: zstd_io::Decompressor,
    level: Level,
}

impl Reader {
    pub(super) fn new(level: Level) -> Self {
        let (scratch, table) = (Vec::new(), huffman_read::Table::new());
        Self { scratch, table, zstd: zstd_io::Decompressor::new(), level }
    }

    /// The zstd context, for chunks that are stored as one frame.
    pub(super) fn zstd(&mut self) -> &mut zstd_io::Decompressor {
        &mut self.zstd
    }

    /// Decodes `stored` into `raw`, which has exactly the raw length.
    pub(super) fn decode(&mut self, stored: &[u8], raw: &mut [u8]) -> Result<(), DecodeError> {
        let [version, shape, len0, len1, len2, len3, ..] = *stored else {
            return Err(DecodeError("planes record without a header"));
        };
        if version != VERSION {
            return Err(DecodeError("planes record of an unknown version"));
        }
        let shape = Shape { width: 1 << (shape & 3), rotated: read_rotated(shape)? };
        let width = shape.width;
        if raw.len() > CHUNK_BYTES_MAX {
            return Err(DecodeError("chunk longer than the format allows"));
        }
        if u32::from_le_bytes([len0, len1, len2, len3]) as usize != raw.len() {
            return Err(DecodeError("chunk of a wrong length"));
        }
        let (n, tail) = (raw.len() / width, raw.len() % width);
        let entries = stored.get(6..header_len(width)).ok_or(DecodeError("planes record cut inside its header"))?;

        let mut modes = [(MODE_COPY, 0usize); 8];
        for (mode, entry) in modes.iter_mut().zip(entries.as_chunks::<4>().0) {
            let entry = u32::from_le_bytes(*entry);
            *mode = (entry as u8, (entry >> 8) as usize);
            let sound = match *mode {
                (MODE_COPY, len) => len == n,
                (MODE_CONSTANT, len) => len == 1,
                (MODE_ZSTD, _) => true,
                _ => return Err(DecodeError("plane of an unknown mode")),
            };
            if !sound {
                return Err(DecodeError("plane of a wrong stored length"));
            }
        }
        let total: usize = modes[..width].iter().map(|&(_, len)| len).sum();
        if header_len(width) + total + tail != stored.len() {
            return Err(DecodeError("planes do not fill their record"));
        }

        let (mut copies, mut rest) = (&stored[header_len(width)..], [].as_slice());
        let copied: usize = modes[..width].iter().filter(|&&(mode, _)| mode == MODE_COPY).map(|&(_, len)| len).sum();
        let (whole, tail_out) = raw.split_at_mut(n * width);
        if let Some((before, after)) = copies.split_at_checked(copied + tail) {
            tail_out.copy_from_slice(&before[copied..]);
            (copies, rest) = (&before[..copied], after);
        }

        // The slack is behind the last plane only: a plane may use those that are still to be filled.
        let coded = modes[..width].iter().filter(|&&(mode, _)| mode != MODE_COPY).count();
        let needed = if coded == 0 { 0 } else { coded * n + DECODE_SLACK };
        if self.scratch.len() < needed {
            self.scratch.resize(needed, 0);
        }
        let scratch = &mut self.scratch[..];
        let mut at = 0;
        for &(mode, len) in modes[..width].iter().filter(|&&(mode, _)| mode != MODE_COPY) {
            let (payload, after) = rest.split_at_checked(len).ok_or(DecodeError("planes do not fill their record"))?;
            rest = after;
            if mode == MODE_ZSTD {
                let quick = huffman_read::decode(self.level, &mut self.table, payload, &mut scratch[at..at + n]);
                if quick.is_none() && self.zstd.decompress(payload, &mut scratch[at..needed])? != n {
                    return Err(DecodeError("plane of a wrong length"));
                }
            } else {
                scratch[at..at + n].fill(payload[0]);
            }
            at += n;
        }
        let mut decoded = &scratch[..coded * n];
        let mut planes: [&[u8]; 8] = Default::default();
        for (plane, &(mode, _)) in planes.iter_mut().zip(&modes[..width]) {
            let from = if mode == MODE_COPY { &mut copies } else { &mut decoded };
            *plane = from.split_off(..n).ok_or(DecodeError("planes do not fill their record"))?;
        }
        merge(self.level, shape, &planes, whole);
        Ok(())
    }
}

/// Reads the shape's flags; a bit without a meaning is an error.
fn read_rotated(shape: u8) -> Result<bool, DecodeError> {
    match shape >> 2 {
        0 => Ok(false),
        1 if shape & 3 != 0 => Ok(true),
        _ => Err(DecodeError("planes record of an unknown shape")),
    }
}
