//! The tensors of a GGUF file of version 2 or 3: a header of metadata and of tensors' places, then their blocks. Never holds a
//! value of the metadata; they are skipped, for a vocabulary has a hundred thousand strings.

use std::io;

use super::window::{OrDoubt, Parsed, Stop, Window};
use super::{Dtype, ElementType, Format, Found, Kind, Parts, Source, View};
use crate::limits::{DIMENSIONS_MAX, GGUF_HEADER_BYTES_MAX, TENSOR_NAME_BYTES_MAX, TENSORS_MAX};

const MAGIC: &[u8] = b"GGUF";
const ALIGNMENT_DEFAULT: u64 = 32;
/// Bytes of the header that are read at once.
const READ_AHEAD_BYTES: u64 = 64 << 10;

/// Types of metadata values: the width of each that has one, then strings and lists.
const VALUE_BYTES: [Option<u64>; 13] =
    [Some(1), Some(1), Some(2), Some(2), Some(4), Some(4), Some(4), Some(1), None, None, Some(8), Some(8), Some(8)];
const VALUE_U32: u32 = 4;
const VALUE_STRING: u32 = 8;
const VALUE_LIST: u32 = 9;

/// ggml's types by their numbers: name, elements of a block, bytes of a block. Those that are missing here were dropped from
/// ggml, or came after this was written.
const TYPES: &[(u32, &str, u64, u64)] = &[
    (0, "F32", 1, 4),
    (1, "F16", 1, 2),
    (2, "Q4_0", 32, 18),
    (3, "Q4_1", 32, 20),
    (6, "Q5_0", 32, 22),
    (7, "Q5_1", 32, 24),
    (8, "Q8_0", 32, 34),
    (10, "Q2_K", 256, 84),
    (11, "Q3_K", 256, 110),
    (12, "Q4_K", 256, 144),
    (13, "Q5_K", 256, 176),
    (14, "Q6_K", 256, 210),
    (15, "Q8_K", 256, 292),
    (16, "IQ2_XXS", 256, 66),
    (17, "IQ2_XS", 256, 74),
    (18, "IQ3_XXS", 256, 98),
    (19, "IQ1_S", 256, 50),
    (20, "IQ4_NL", 32, 18),
    (21, "IQ3_S", 256, 110),
    (22, "IQ2_S", 256, 82),
    (23, "IQ4_XS", 256, 136),
    (24, "I8", 1, 1),
    (25, "I16", 1, 2),
    (26, "I32", 1, 4),
    (27, "I64", 1, 8),
    (28, "F64", 1, 8),
    (29, "IQ1_M", 256, 56),
    (30, "BF16", 1, 2),
    (34, "TQ1_0", 256, 54),
    (35, "TQ2_0", 256, 66),
    (39, "MXFP4", 32, 17),
    (40, "NVFP4", 64, 36),
    (41, "Q1_0", 128, 18),
];

/// Says whether a file that begins with `head` is one of a version that we read.
pub(super) fn looks_like(head: &[u8]) -> bool {
    // A big-endian file has its version the other way round.
    head.starts_with(MAGIC) && matches!(head.get(4..8), Some([2 | 3, 0, 0, 0]))
}

/// Finds the tensors, or nothing if there is any doubt.
pub(super) fn split(source: &dyn Source) -> io::Result<Option<Parts>> {
    match Header::read(source) {
        Ok(header) => Ok(header.place(source.size())),
        Err(Stop::Io(failure)) => Err(failure),
        Err(Stop::Doubt | Stop::End) => Ok(None),
    }
}

/// Whether the file ends before its header does, or before the last tensor that the header names.
pub(super) fn is_cut_short(source: &dyn Source) -> io::Result<bool> {
    match Header::read(source) {
        Ok(header) => {
            let end = |info: &Info| header.data.checked_add(info.offset)?.checked_add(info.len.unwrap_or(0));
            Ok(header.tensors.iter().any(|info| end(info).is_none_or(|end| end > source.size())))
        }
        Err(Stop::Io(failure)) => Err(failure),
        Err(Stop::End) => Ok(true),
        Err(Stop::Doubt) => Ok(false),
    }
}

/// What stands before the data.
struct Header {
    /// Byte of the file where the data begins.
    data: u64,
    tensors: Vec<Info>,
}

struct Info {
    name: String,
    elements: ElementType,
    shape: Vec<u64>,
    /// Where it begins in the data.
    offset: u64,
    /// Its bytes; nothing if we don't know its type.
    len: Option<u64>,
}

impl Header {
    fn read(source: &dyn Source) -> Parsed<Self> {
        let budget = GGUF_HEADER_BYTES_MAX.saturating_mul(4);
        let mut reader = Reader { window: Window::new(source, budget, READ_AHEAD_BYTES), at: MAGIC.len() as u64 + 4 };
        let (tensors, values) = (reader.u64()?, reader.u64()?);
        let mut alignment = ALIGNMENT_DEFAULT;
        for _ in 0..values {
            let is_alignment = reader.string(b"general.alignment")?;
            match reader.u32()? {
                VALUE_U32 if is_alignment => alignment = u64::from(reader.u32()?),
                _ if is_alignment => return Err(Stop::Doubt),
                kind => reader.skip_value(kind)?,
            }
        }
        if tensors > TENSORS_MAX as u64 {
            return Err(Stop::Doubt);
        }
        // Not with that capacity: the file has perhaps fewer.
        let mut infos = Vec::new();
        for _ in 0..tensors {
            infos.push(reader.info()?);
        }
        if !alignment.is_power_of_two() {
            return Err(Stop::Doubt);
        }
        let data = reader.at.checked_next_multiple_of(alignment).or_doubt()?;
        Ok(Self { data, tensors: infos })
    }

    fn place(self, size: u64) -> Option<Parts> {
        let mut begins: Vec<u64> = self.tensors.iter().map(|info| info.offset).collect();
        begins.sort_unstable();
        let mut parts = Parts::of(Format::Gguf);
        for Info { name, elements, shape, offset, len } in self.tensors {
            let start = self.data.checked_add(offset)?;
            let end = match len {
                Some(len) => start.checked_add(len)?,
                None => match begins.get(begins.partition_point(|begin| *begin <= offset)) {
                    Some(next) => self.data.checked_add(*next)?,
                    None => size,
                },
            };
            if start == end {
                parts.views.push(View { name, dtype: Some(elements), shape, strides: None, offset: 0, len: 0 });
            } else if start > end {
                return None;
            } else {
                let kind = Kind::Tensor { name, dtype: Some(elements), shape: Some(shape) };
                parts.found.push(Found { start, end, kind });
            }
        }
        Some(parts)
    }
}

/// Reads a header from front to back.
struct Reader<'a> {
    window: Window<'a>,
    at: u64,
}

impl Reader<'_> {
    /// Goes on by `len` bytes; they need not be read.
    fn skip(&mut self, len: u64) -> Parsed<()> {
        let at = self.at.checked_add(len).or_doubt()?;
        if at > GGUF_HEADER_BYTES_MAX {
            return Err(Stop::Doubt);
        }
        if at > self.window.size() {
            return Err(Stop::End);
        }
        self.at = at;
        Ok(())
    }

    fn u32(&mut self) -> Parsed<u32> {
        let bytes = self.window.array(self.at)?;
        self.skip(4)?;
        Ok(u32::from_le_bytes(bytes))
    }

    fn u64(&mut self) -> Parsed<u64> {
        let bytes = self.window.array(self.at)?;
        self.skip(8)?;
        Ok(u64::from_le_bytes(bytes))
    }

    /// Passes over a string and says whether it is this one.
    fn string(&mut self, expected: &[u8]) -> Parsed<bool> {
        let len = self.u64()?;
        let begins = self.at;
        self.skip(len)?;
        Ok(len == expected.len() as u64 && self.window.get(begins, len)? == expected)
    }

    fn skip_value(&mut self, kind: u32) -> Parsed<()> {
        let (kind, count) = match kind {
            VALUE_LIST => (self.u32()?, self.u64()?),
            kind => (kind, 1),
        };
        match VALUE_BYTES.get(kind as usize).or_doubt()? {
            Some(width) => self.skip(width.checked_mul(count).or_doubt()?),
            // Each has at least the 8 bytes of its length, so the end of the header ends this too.
            None if kind == VALUE_STRING => (0..count).try_for_each(|_| {
                let len = self.u64()?;
                self.skip(len)
            }),
            // Lists of lists are allowed and written by nobody; llama.cpp refuses them.
            None => Err(Stop::Doubt),
        }
    }

    fn info(&mut self) -> Parsed<Info> {
        let len = self.u64()?;
        if len > TENSOR_NAME_BYTES_MAX {
            return Err(Stop::Doubt);
        }
        let name = str::from_utf8(self.window.get(self.at, len)?).map_err(|_| Stop::Doubt)?.to_owned();
        self.skip(len)?;
        let dimensions = self.u32()?;
        if dimensions as usize > DIMENSIONS_MAX {
            return Err(Stop::Doubt);
        }
        // The dimension whose neighbors lie side by side stands first here, and last everywhere else.
        let mut shape = vec![0; dimensions as usize];
        for dim in shape.iter_mut().rev() {
            *dim = self.u64()?;
        }
        let kind = self.u32()?;
        let offset = self.u64()?;
        let Some((_, type_name, block, bytes)) = TYPES.iter().find(|(number, ..)| *number == kind) else {
            let elements = ElementType::Named(format!("ggml type {kind}"));
            return Ok(Info { name, elements, shape, offset, len: None });
        };
        let count = shape.iter().try_fold(1_u64, |product, dim| product.checked_mul(*dim)).or_doubt()?;
        if shape.last().copied().unwrap_or(1) % block != 0 {
            return Err(Stop::Doubt);
        }
        let len = (count / block).checked_mul(*bytes).or_doubt()?;
        let known = if *block == 1 { Dtype::parse(type_name) } else { None };
        let elements = known.map_or_else(|| ElementType::Named((*type_name).to_owned()), ElementType::Known);
        Ok(Info { name, elements, shape, offset, len: Some(len) })
    }
}
