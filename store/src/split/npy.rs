//! The array of a NumPy `.npy`: a header that is the text of a Python dictionary, then the elements. Never evaluates the
//! header: a parser of just this literal reads it, and what it does not know makes the file opaque.

use std::io;

use super::arrange::{Described, Storage, arrange, row_major};
use super::{Dtype, ElementType, Format, Found, Kind, Parts, Source};
use crate::limits::{DIMENSIONS_MAX, NPY_HEADER_BYTES_MAX, SMALL_FILE_BYTES, TYPE_NAME_BYTES_MAX};

const MAGIC: &[u8] = b"\x93NUMPY";
/// Magic, version, and the length of the header in 2 bytes, in versions 2 and 3 in 4.
const PREFIX_BYTES: u64 = 10;
const LONG_PREFIX_BYTES: u64 = 12;

/// What the one array of such a file is called.
pub(super) const NAME: &str = "array";

/// Says whether a file that begins with `head` is one.
pub(super) fn looks_like(head: &[u8]) -> bool {
    head.starts_with(MAGIC)
}

/// Finds the array, or nothing if there is any doubt.
pub(super) fn split(source: &dyn Source) -> io::Result<Option<Parts>> {
    let Place::Known { start, header } = place_of(source)? else { return Ok(None) };
    Ok(place_array(start, &header, source.size()))
}

/// Whether the file ends before its header does, or before the array that the header describes.
pub(super) fn is_cut_short(source: &dyn Source) -> io::Result<bool> {
    let (start, header) = match place_of(source)? {
        Place::CutShort => return Ok(true),
        Place::Doubtful => return Ok(false),
        Place::Known { start, header } => (start, header),
    };
    // The size of elements that we don't know is known from that of the file alone.
    let len = Header::parse(&header).and_then(|header| header.elements()?.checked_mul(header.element_bytes()?));
    Ok(len.is_some_and(|len| source.size() - start < len))
}

/// Where the elements begin, and the header before them.
enum Place {
    Known { start: u64, header: Vec<u8> },
    CutShort,
    Doubtful,
}

fn place_of(source: &dyn Source) -> io::Result<Place> {
    let mut prefix = [0; LONG_PREFIX_BYTES as usize];
    let held = source.size().min(LONG_PREFIX_BYTES);
    source.read_exact_at(&mut prefix[..held as usize], 0)?;
    let [.., major, _, a, b, c, d] = prefix;
    let (prefix, len) = match major {
        1 => (PREFIX_BYTES, u64::from(u16::from_le_bytes([a, b]))),
        2 | 3 => (LONG_PREFIX_BYTES, u64::from(u32::from_le_bytes([a, b, c, d]))),
        0 if held <= MAGIC.len() as u64 => return Ok(Place::CutShort),
        _ => return Ok(Place::Doubtful),
    };
    let start = prefix + len;
    if held < prefix || start > source.size() {
        return Ok(Place::CutShort);
    }
    if len > NPY_HEADER_BYTES_MAX {
        return Ok(Place::Doubtful);
    }
    let mut header = vec![0; len as usize];
    source.read_exact_at(&mut header, prefix)?;
    Ok(Place::Known { start, header })
}

fn place_array(start: u64, header: &[u8], size: u64) -> Option<Parts> {
    let header = Header::parse(header)?;
    let elements = header.elements()?;
    let element_bytes = header.element_bytes().or_else(|| header.element_bytes_in(size - start))?;
    let end = start.checked_add(elements.checked_mul(element_bytes)?).filter(|end| *end <= size)?;

    let kind = header.element_type();
    let strides = if header.fortran_order { column_major(&header.shape) } else { row_major(&header.shape) }?;
    let storage = Storage { start, end, elements: Some(kind.clone()), name: NAME.to_owned() };
    let array = Described { name: NAME.to_owned(), elements: kind, element_bytes, shape: header.shape, strides, start };
    let (mut found, views) = arrange(vec![storage], vec![array])?;
    // `numpy.save` may be called several times on one file; only the first array has a name.
    if size - end > SMALL_FILE_BYTES {
        found.push(Found { start: end, end: size, kind: Kind::Opaque });
    }
    Some(Parts { format: Format::Npy, found, views })
}

/// The strides of a tensor that is stored column by column; nothing if they overflow.
fn column_major(shape: &[u64]) -> Option<Vec<u64>> {
    let reversed: Vec<u64> = shape.iter().rev().copied().collect();
    let mut strides = row_major(&reversed)?;
    strides.reverse();
    Some(strides)
}

/// What a header says.
struct Header {
    descr: Descr,
    fortran_order: bool,
    shape: Vec<u64>,
}

/// The type of the elements, as the header has it.
enum Descr {
    /// One type: `<f4`.
    Simple(String),
    /// The fields of a structure, as text.
    Fields(String),
}

impl Header {
    /// Reads `{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }` and the spaces behind it.
    fn parse(text: &[u8]) -> Option<Self> {
        let mut literal = Literal { rest: text };
        let (mut descr, mut fortran_order, mut shape) = (None, None, None);
        literal.take(b'{')?;
        while !literal.has(b'}') {
            let key = literal.string()?;
            literal.take(b':')?;
            let again = match key {
                b"descr" => descr.replace(literal.descr()?).is_some(),
                b"fortran_order" => fortran_order.replace(literal.boolean()?).is_some(),
                b"shape" => shape.replace(literal.shape()?).is_some(),
                _ => return None,
            };
            if again {
                return None;
            }
            if !literal.has(b',') {
                literal.take(b'}')?;
                break;
            }
        }
        literal.skip_space();
        literal.rest.is_empty().then_some(())?;
        Some(Self { descr: descr?, fortran_order: fortran_order?, shape: shape? })
    }

    fn elements(&self) -> Option<u64> {
        self.shape.iter().try_fold(1_u64, |product, dim| product.checked_mul(*dim))
    }

    /// Bytes of an element, if its type tells.
    fn element_bytes(&self) -> Option<u64> {
        let Descr::Simple(descr) = &self.descr else { return None };
        let (code, digits) = descr.get(1..)?.split_at_checked(1)?;
        let digits = digits.split('[').next()?;
        let number = digits.bytes().all(|digit| digit.is_ascii_digit()).then(|| digits.parse::<u64>().ok())??;
        let width = match code {
            "b" | "i" | "u" | "f" | "c" | "V" | "S" | "a" | "m" | "M" => 1,
            "U" => 4,
            // Python objects are a pickle behind the header.
            _ => return None,
        };
        number.checked_mul(width).filter(|bytes| *bytes > 0)
    }

    /// Bytes of an element of a structure, when elements fill the rest of the file.
    fn element_bytes_in(&self, rest: u64) -> Option<u64> {
        let elements = self.elements().filter(|elements| *elements > 0)?;
        let is_whole = matches!(self.descr, Descr::Fields(_)) && rest > 0 && rest.is_multiple_of(elements);
        is_whole.then_some(rest / elements)
    }

    fn element_type(&self) -> ElementType {
        let descr = match &self.descr {
            Descr::Simple(descr) => descr,
            Descr::Fields(text) if text.len() <= TYPE_NAME_BYTES_MAX => text,
            Descr::Fields(_) => return ElementType::Named("structure".to_owned()),
        };
        let known = match descr.as_str() {
            "|b1" => Dtype::Bool,
            "|u1" | "<u1" => Dtype::U8,
            "|i1" | "<i1" => Dtype::I8,
            "<i2" => Dtype::I16,
            "<u2" => Dtype::U16,
            "<i4" => Dtype::I32,
            "<u4" => Dtype::U32,
            "<i8" => Dtype::I64,
            "<u8" => Dtype::U64,
            "<f2" => Dtype::F16,
            "<f4" => Dtype::F32,
            "<f8" => Dtype::F64,
            "<c8" => Dtype::C64,
            "<c16" => Dtype::C128,
            // The only type of ml_dtypes that NumPy writes with a type of its own; the others are all "<V1" or "<V2".
            "<f1" => Dtype::F8E5M2,
            _ => return ElementType::Named(descr.clone()),
        };
        known.into()
    }
}

/// The rest of the text of a Python literal.
struct Literal<'a> {
    rest: &'a [u8],
}

impl<'a> Literal<'a> {
    fn skip_space(&mut self) {
        self.rest = self.rest.trim_ascii_start();
    }

    /// Takes this byte if it comes next.
    fn has(&mut self, byte: u8) -> bool {
        self.skip_space();
        let rest = self.rest.strip_prefix(&[byte]);
        self.rest = rest.unwrap_or(self.rest);
        rest.is_some()
    }

    fn take(&mut self, byte: u8) -> Option<()> {
        self.has(byte).then_some(())
    }

    /// A string, with escapes as they stand.
    fn string(&mut self) -> Option<&'a [u8]> {
        self.skip_space();
        let (quote, rest) = self.rest.split_first().filter(|(quote, _)| matches!(quote, b'\'' | b'"'))?;
        let mut at = 0;
        while rest.get(at)? != quote {
            at += if rest[at] == b'\\' { 2 } else { 1 };
        }
        self.rest = &rest[at + 1..];
        Some(&rest[..at])
    }

    fn boolean(&mut self) -> Option<bool> {
        self.skip_space();
        for (word, value) in [(&b"True"[..], true), (b"False", false)] {
            if let Some(rest) = self.rest.strip_prefix(word) {
                self.rest = rest;
                return Some(value);
            }
        }
        None
    }

    fn descr(&mut self) -> Option<Descr> {
        self.skip_space();
        if self.rest.first() == Some(&b'[') {
            return Some(Descr::Fields(String::from_utf8_lossy(self.brackets()?).into_owned()));
        }
        let text = str::from_utf8(self.string()?).ok()?;
        let is_sound = text.is_ascii() && text.len() <= TYPE_NAME_BYTES_MAX && text.starts_with(['<', '>', '|', '=']);
        is_sound.then(|| Descr::Simple(text.to_owned()))
    }

    /// A list with everything in it, as text.
    fn brackets(&mut self) -> Option<&'a [u8]> {
        let all = self.rest;
        let mut depth = 0_u32;
        loop {
            match self.rest.first()? {
                b'\'' | b'"' => {
                    self.string()?;
                    continue;
                }
                b'[' | b'(' => depth += 1,
                b']' | b')' => depth -= 1,
                _ => {}
            }
            self.rest = &self.rest[1..];
            if depth == 0 {
                return Some(&all[..all.len() - self.rest.len()]);
            }
        }
    }

    /// A tuple of numbers, as Python 2 wrote them too: `(3L,)`.
    fn shape(&mut self) -> Option<Vec<u64>> {
        let mut shape = Vec::new();
        self.take(b'(')?;
        while !self.has(b')') {
            let digits = self.rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
            let (number, rest) = self.rest.split_at(digits);
            self.rest = rest.strip_prefix(b"L").unwrap_or(rest);
            shape.push(str::from_utf8(number).ok()?.parse().ok()?);
            if shape.len() > DIMENSIONS_MAX {
                return None;
            }
            if !self.has(b',') {
                // One number in parentheses is no tuple.
                self.take(b')')?;
                return (shape.len() > 1).then_some(shape);
            }
        }
        Some(shape)
    }
}
