//! Raw bytes of a chunk to stored bytes and back: `raw`, `zstd`, `planes`. Chosen per chunk by a hint and a sample, never
//! longer than raw. Pure and single-threaded: does no I/O, starts no thread, and decodes hostile bytes to an error.

mod huffman;
mod huffman_read;
mod lanes;
mod planes;
mod sample;
#[cfg(test)]
mod tests;
mod zstd_io;

use crate::limits::CHUNK_BYTES_MAX;
use crate::split::Dtype;
use lanes::{Level, Shape};
use std::fmt;

/// How a chunk is stored. The number stands in pack records.
#[repr(u8)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum Codec {
    /// The raw bytes.
    Raw = 0,
    /// One Zstandard frame without magic number.
    Zstd = 1,
    /// Byte planes; the layout stands in `planes.rs`.
    Planes = 2,
}

impl TryFrom<u8> for Codec {
    type Error = DecodeError;

    fn try_from(number: u8) -> Result<Self, DecodeError> {
        match number {
            0 => Ok(Self::Raw),
            1 => Ok(Self::Zstd),
            2 => Ok(Self::Planes),
            _ => Err(DecodeError("unknown codec")),
        }
    }
}

impl fmt::Display for Codec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Raw => "raw",
            Self::Zstd => "zstd",
            Self::Planes => "planes",
        })
    }
}

/// What the caller knows about a chunk.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum Hint {
    /// Elements of this type.
    Dtype(Dtype),
    /// Literals and files of unknown structure.
    Text,
    /// A tensor whose type is not known.
    Unknown,
}

/// Why stored bytes could not be decoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct DecodeError(pub(crate) &'static str);

/// Bytes of the windows that zstd tries before a whole chunk is given to it, and how many windows.
const TRIAL_WINDOW: usize = 4096;
const TRIAL_WINDOWS: usize = 8;
/// Bytes of the period that is looked for first; a multiple of every width. A chunk has at least twice as many.
const PERIOD: usize = 8;
/// A chunk is worth decoding when this share of it is saved: one 64th. Below, reading it raw (mapped, without a copy) is
/// worth more than the disk.
const SAVED_SHARE: usize = 64;
/// Room behind a chunk's length in the output, for headers and for stores that run past what they keep.
const OUT_SLACK: usize = 64 << 10;

/// Encodes chunks. Holds zstd contexts and buffers of about 4 MiB, so: one per thread, used again and again.
pub struct Encoder {
    out: Vec<u8>,
    trial: Vec<u8>,
    planes: planes::Writer,
    sampler: sample::Sampler,
}

impl Default for Encoder {
    fn default() -> Self {
        Self::new()
    }
}

impl Encoder {
    /// An encoder for the processor that it is made on. What it writes does not depend on the processor.
    pub fn new() -> Self {
        Self::with_level(Level::detect())
    }

    fn with_level(level: Level) -> Self {
        Self { out: Vec::new(), trial: Vec::new(), planes: planes::Writer::new(level), sampler: sample::Sampler::new() }
    }

    /// Encodes one chunk of at most [`CHUNK_BYTES_MAX`] bytes. The result is never longer than `raw`; with [`Codec::Raw`] it
    /// is `raw` itself. A longer chunk, or one that zstd fails on, comes back raw.
    pub fn encode<'a>(&'a mut self, raw: &'a [u8], hint: Hint) -> (Codec, &'a [u8]) {
        if raw.len() < 2 * PERIOD || raw.len() > CHUNK_BYTES_MAX {
            return (Codec::Raw, raw);
        }
        let worth = raw.len() - (raw.len() / SAVED_SHARE).max(1);
        match self.choose(raw, hint) {
            Some((codec, len)) if len <= worth => (codec, &self.out[..len]),
            _ => (Codec::Raw, raw),
        }
    }

    /// Encodes into `self.out`; `None` for raw.
    fn choose(&mut self, raw: &[u8], hint: Hint) -> Option<(Codec, usize)> {
        if self.out.len() < raw.len() + OUT_SLACK {
            self.out.resize(raw.len() + OUT_SLACK, 0);
        }
        // The same few elements over and over: nothing says it shorter than one match. Ends at the first difference.
        if raw[PERIOD..] == raw[..raw.len() - PERIOD] {
            let len = self.planes.zstd().compress(zstd_io::How::Matches, raw, &mut self.out)?;
            return Some((Codec::Zstd, len));
        }
        let shape = match hint {
            Hint::Dtype(dtype) => shape_of(dtype),
            Hint::Text | Hint::Unknown => self.sampler.guess(raw),
        };
        if raw.len() < shape.width {
            return None;
        }
        let estimate = self.sampler.estimate(raw, shape);
        // Floats hardly ever repeat byte for byte; all else may, and the sample of elements would not show it.
        if !shape.rotated {
            let zstd_cost = self.zstd_cost(raw);
            // Over a whole chunk zstd finds more than in the sample's short windows, in text much more.
            let favour = if hint == Hint::Text { 1.25 } else { 1.0 };
            if zstd_cost < estimate.cost * favour && zstd_cost < 0.97 {
                let len = self.planes.zstd().compress(zstd_io::How::Bytes, raw, &mut self.out)?;
                return Some((Codec::Zstd, len));
            }
        }
        if estimate.cost > 0.985 {
            return None;
        }
        let len = self.planes.encode(raw, shape, &estimate, &mut self.out)?;
        Some((Codec::Planes, len))
    }

    /// What zstd makes of a sample, as a fraction of its size.
    fn zstd_cost(&mut self, raw: &[u8]) -> f32 {
        let whole = TRIAL_WINDOW * TRIAL_WINDOWS;
        let sample = if raw.len() <= whole {
            raw
        } else {
            self.trial.clear();
            for k in 0..TRIAL_WINDOWS {
                let from = (raw.len() - TRIAL_WINDOW) * k / (TRIAL_WINDOWS - 1);
                self.trial.extend_from_slice(&raw[from..from + TRIAL_WINDOW]);
            }
            &self.trial
        };
        match self.planes.zstd().compress(zstd_io::How::Matches, sample, &mut self.out) {
            Some(len) => len as f32 / sample.len() as f32,
            None => 1.0,
        }
    }
}

/// The shape that elements of a type are cut in.
fn shape_of(dtype: Dtype) -> Shape {
    let (width, rotated) = match dtype {
        Dtype::F64 | Dtype::C128 => (8, true),
        Dtype::F32 | Dtype::C64 => (4, true),
        Dtype::F16 | Dtype::BF16 | Dtype::C32 => (2, true),
        Dtype::I64 | Dtype::U64 => (8, false),
        Dtype::I32 | Dtype::U32 => (4, false),
        Dtype::I16 | Dtype::U16 => (2, false),
        _ => (1, false),
    };
    Shape { width, rotated }
}

/// Decodes chunks. Holds a zstd context, tables of 20 KiB and a buffer of at most 1.2 MiB.
pub struct Decoder {
    planes: planes::Reader,
}

impl Default for Decoder {
    fn default() -> Self {
        Self::new()
    }
}

impl Decoder {
    /// A decoder for the processor that it is made on.
    pub fn new() -> Self {
        Self::with_level(Level::detect())
    }

    fn with_level(level: Level) -> Self {
        Self { planes: planes::Reader::new(level) }
    }

    /// Decodes `stored` into `raw`, which has the raw length that the record declares and at most [`CHUNK_BYTES_MAX`] bytes.
    ///
    /// # Errors
    /// Stored bytes that do not decode to exactly that length; `raw` then holds anything.
    pub fn decode(&mut self, codec: Codec, stored: &[u8], raw: &mut [u8]) -> Result<(), DecodeError> {
        match codec {
            Codec::Raw if stored.len() == raw.len() => raw.copy_from_slice(stored),
            Codec::Raw => return Err(DecodeError("raw chunk of a wrong length")),
            Codec::Zstd => {
                let len = raw.len();
                if self.planes.zstd().decompress(stored, raw)? != len {
                    return Err(DecodeError("chunk of a wrong length"));
                }
            }
            Codec::Planes => self.planes.decode(stored, raw)?,
        }
        Ok(())
    }
}
