//! Where a dataset's elements are, how many, and of which type. Never guesses: a type that is not just like one of ours keeps
//! the name that h5py has for it, one whose elements are elsewhere gives nothing.

use super::super::window::{OrDoubt, Parsed, Stop, Window};
use super::super::{Dtype, ElementType};
use super::header::{ATTRIBUTE, DATASPACE, DATATYPE, EXTERNAL_FILES, FILTERS, LAYOUT, Message, find, messages};
use super::{expect, number};
use crate::limits::DIMENSIONS_MAX;

/// Where the elements of a dataset are.
pub(super) enum Place {
    /// In one range of the file, of at least so many bytes.
    Range { start: u64, len: Option<u64> },
    /// In pieces of the file, perhaps compressed.
    Pieces,
    /// In the header, in other files, in other datasets.
    Elsewhere,
}

/// The type of a dataset's elements, and the bytes of one.
pub(super) struct Element {
    pub(super) elements: ElementType,
    pub(super) bytes: u64,
}

/// Says where the elements are.
pub(super) fn place(window: &mut Window<'_>, all: &[Message]) -> Parsed<Place> {
    let Some(layout) = find(all, LAYOUT) else { return Ok(Place::Elsewhere) };
    let (class, address) = match window.array(layout.at)? {
        [1 | 2, _, class] => (class, 8),
        [3..=5, class, _] => (class, 2),
        _ => return Ok(Place::Pieces),
    };
    if find(all, EXTERNAL_FILES).is_some() {
        return Ok(Place::Elsewhere);
    }
    match class {
        1 if find(all, FILTERS).is_none() => {
            let is_old = address == 8;
            if layout.len < address + if is_old { 8 } else { 16 } {
                return Err(Stop::Doubt);
            }
            let start = number(window, layout.at + address, 8)?;
            // The oldest tell dimensions instead.
            let len = if is_old { None } else { Some(number(window, layout.at + address + 8, 8)?) };
            Ok(Place::Range { start, len })
        }
        0 | 3 => Ok(Place::Elsewhere),
        _ => Ok(Place::Pieces),
    }
}

/// Gives the dimensions; nothing if there is not even a scalar.
pub(super) fn shape(window: &mut Window<'_>, all: &[Message]) -> Parsed<Option<Vec<u64>>> {
    let Some(space) = find(all, DATASPACE).filter(|space| !space.is_shared) else { return Ok(None) };
    let [version, rank, _, kind]: [u8; 4] = window.array(space.at)?;
    let begins = match version {
        1 => 8,
        2 if kind == 2 => return Ok(None),
        2 => 4,
        _ => return Err(Stop::Doubt),
    };
    let len = u64::from(rank) * 8;
    if usize::from(rank) > DIMENSIONS_MAX || begins + len > space.len {
        return Err(Stop::Doubt);
    }
    let dims = window.get(space.at + begins, len)?.chunks_exact(8);
    Ok(Some(dims.map(|dim| dim.first_chunk().map_or(0, |dim| u64::from_le_bytes(*dim))).collect()))
}

/// Gives the type; nothing if the elements are not where the dataset is.
pub(super) fn element(window: &mut Window<'_>, all: &[Message]) -> Parsed<Option<Element>> {
    let Some(datatype) = find(all, DATATYPE) else { return Ok(None) };
    let committed;
    let datatype = if datatype.is_shared {
        // A type with a name of its own is an object, whose header has it.
        let Some(address) = shared_address(window, datatype)? else { return Ok(None) };
        committed = messages(window, address)?;
        let Some(datatype) = find(&committed, DATATYPE).filter(|datatype| !datatype.is_shared) else {
            return Err(Stop::Doubt);
        };
        datatype
    } else {
        datatype
    };
    let body = datatype.body(window)?;
    let bytes = body.get(4..8).and_then(|size| size.first_chunk()).map(|size| u32::from_le_bytes(*size)).or_doubt()?;
    if bytes == 0 {
        return Err(Stop::Doubt);
    }
    let Some(elements) = name_of(body, bytes) else { return Ok(None) };
    let is_opaque = matches!(&elements, ElementType::Named(name) if name.starts_with("|V"));
    let told = if is_opaque { told_by_keras(window, all, bytes)? } else { None };
    Ok(Some(Element { elements: told.map_or(elements, ElementType::Known), bytes: u64::from(bytes) }))
}

fn shared_address(window: &mut Window<'_>, message: &Message) -> Parsed<Option<u64>> {
    let [version, kind]: [u8; 2] = window.array(message.at)?;
    let at = match (version, kind) {
        (1, _) => 8,
        (2, _) | (3, 2) => 2,
        // In a heap of messages that are the same in many objects.
        _ => return Ok(None),
    };
    if message.len < at + 8 {
        return Err(Stop::Doubt);
    }
    number(window, message.at + at, 8).map(Some)
}

/// Names a type; nothing for those whose elements are references to what is elsewhere.
fn name_of(body: &[u8], bytes: u32) -> Option<ElementType> {
    if let Some(known) = simple(body) {
        return Some(known.into());
    }
    let class = body[0] & 0x0f;
    let order = if body[1] & 1 == 0 { '<' } else { '>' };
    Some(ElementType::Named(match class {
        0 => format!("{order}{}{bytes}", if body[1] & 8 == 0 { 'u' } else { 'i' }),
        1 => format!("{order}f{bytes}"),
        2 => "time".into(),
        3 => format!("|S{bytes}"),
        4 => "bitfield".into(),
        5 => format!("|V{bytes}"),
        6 => return Some(complex_of(body, bytes).map_or(ElementType::Named("compound".into()), Into::into)),
        8 => return enumeration(body),
        10 => "array".into(),
        11 => return Some(native_complex(body, bytes).map_or(ElementType::Named("complex".into()), Into::into)),
        _ => return None,
    }))
}

/// An integer or float that is just like one of ours.
fn simple(body: &[u8]) -> Option<Dtype> {
    let head: &[u8; 8] = body.first_chunk()?;
    let properties: &[u8; 4] = body.get(8..)?.first_chunk()?;
    let is_signed = head[1] & 8 != 0;
    let bytes = u32::from_le_bytes([head[4], head[5], head[6], head[7]]);
    let bits = u16::try_from(bytes.checked_mul(8)?).ok()?.to_le_bytes();
    // Little-endian, from bit 0, all bits.
    let is_plain = bytes > 0 && head[1] & 1 == 0 && properties == &[0, 0, bits[0], bits[1]];
    match (head[0] & 0x0f, bytes) {
        _ if !is_plain => None,
        (0, 1) => Some(if is_signed { Dtype::I8 } else { Dtype::U8 }),
        (0, 2) => Some(if is_signed { Dtype::I16 } else { Dtype::U16 }),
        (0, 4) => Some(if is_signed { Dtype::I32 } else { Dtype::U32 }),
        (0, 8) => Some(if is_signed { Dtype::I64 } else { Dtype::U64 }),
        (1, _) => {
            // Where the exponent begins, its bits, where the mantissa begins, its bits, and the exponent of 1.0.
            let rest: &[u8; 8] = body.get(12..)?.first_chunk()?;
            let bias = u32::from_le_bytes([rest[4], rest[5], rest[6], rest[7]]);
            // An implied leading 1, and no byte order of a VAX.
            let is_usual = head[1] & 0x70 == 0x20 && u32::from(head[2]) == bytes * 8 - 1;
            let float = match ([rest[0], rest[1], rest[2], rest[3]], bias) {
                ([10, 5, 0, 10], 15) => Dtype::F16,
                ([7, 8, 0, 7], 127) => Dtype::BF16,
                ([23, 8, 0, 23], 127) => Dtype::F32,
                ([52, 11, 0, 52], 1023) => Dtype::F64,
                ([3, 4, 0, 3], 7) => Dtype::F8E4M3,
                ([2, 5, 0, 2], 15) => Dtype::F8E5M2,
                _ => return None,
            };
            (is_usual && float.bits() / 8 == bytes).then_some(float)
        }
        _ => None,
    }
}

fn complex(part: Dtype) -> Option<Dtype> {
    match part {
        Dtype::F16 => Some(Dtype::C32),
        Dtype::F32 => Some(Dtype::C64),
        Dtype::F64 => Some(Dtype::C128),
        _ => None,
    }
}

/// What h5py makes of a complex number: a compound of `r` and `i`.
fn complex_of(body: &[u8], bytes: u32) -> Option<Dtype> {
    let version = body[0] >> 4;
    if body.get(1..3)? != [2, 0] {
        return None;
    }
    let (r, rest) = member(body.get(8..)?, version, bytes, *b"r\0")?;
    let (i, _) = member(rest, version, bytes, *b"i\0")?;
    let half = bytes / 2;
    (r.0 == 0 && i.0 == half && r.1 == i.1 && r.1.bits() / 8 == half).then(|| complex(r.1))?
}

/// Reads a member of this name: its offset, its type, and what stands behind it.
fn member(body: &[u8], version: u8, bytes: u32, name: [u8; 2]) -> Option<((u32, Dtype), &[u8])> {
    let padded = if version < 3 { 8 } else { 2 };
    let (told, rest) = body.split_at_checked(padded)?;
    if !told.starts_with(&name) {
        return None;
    }
    let offset_bytes = if version < 3 { 4 } else { bytes.max(1).ilog2() as usize / 8 + 1 };
    let (offset, rest) = rest.split_at_checked(offset_bytes)?;
    let offset = offset.iter().rev().fold(0, |number, byte| number << 8 | u32::from(*byte));
    // The first version has dimensions here.
    let rest = if version == 1 { rest.get(28..)? } else { rest };
    let dtype = simple(rest)?;
    // A float's head and properties.
    Some(((offset, dtype), rest.get(20..)?))
}

/// A type of its own since HDF5 2.0: the type of its two parts stands behind the head.
fn native_complex(body: &[u8], bytes: u32) -> Option<Dtype> {
    let part = simple(body.get(8..)?)?;
    (part.bits() / 4 == bytes).then(|| complex(part))?
}

/// An enumeration is its numbers; that of FALSE and TRUE is how h5py stores truth values.
fn enumeration(body: &[u8]) -> Option<ElementType> {
    let base = simple(body.get(8..)?).map(ElementType::from).unwrap_or_else(|| ElementType::Named("enum".into()));
    let is_one_byte = matches!(base, ElementType::Known(Dtype::I8 | Dtype::U8)) && body.get(1..3)? == [2, 0];
    // An integer's head and properties, then names, in old versions filled up to 8 bytes, then values.
    let members = body.get(20..).unwrap_or_default();
    let is_bool =
        [&b"FALSE\0\0\0TRUE\0\0\0\0\0\x01"[..], b"FALSE\0TRUE\0\0\x01"].iter().any(|told| members.starts_with(told));
    Some(if is_one_byte && is_bool { Dtype::Bool.into() } else { base })
}

/// Keras writes types that HDF5 hasn't as bytes, and their name as an attribute.
fn told_by_keras(window: &mut Window<'_>, all: &[Message], bytes: u32) -> Parsed<Option<Dtype>> {
    for attribute in all.iter().filter(|message| message.kind == ATTRIBUTE && !message.is_shared) {
        let Some(text) = attribute_text(window, attribute)? else { continue };
        let dtype = match text.as_slice() {
            b"bfloat16" => Dtype::BF16,
            b"float8_e4m3fn" => Dtype::F8E4M3,
            b"float8_e5m2" => Dtype::F8E5M2,
            _ => continue,
        };
        return Ok((dtype.bits() / 8 == bytes).then_some(dtype));
    }
    Ok(None)
}

/// Names of types are shorter.
const TEXT_BYTES_MAX: u64 = 32;

/// Gives the text of the attribute `dtype`.
fn attribute_text(window: &mut Window<'_>, message: &Message) -> Parsed<Option<Vec<u8>>> {
    let body = message.body(window)?.to_vec();
    let Some([version, _, a, b, c, d, e, f]) = body.first_chunk() else { return Ok(None) };
    let (padded, begins) = match version {
        1 => (8, 8),
        2 => (1, 8),
        3 => (1, 9),
        _ => return Ok(None),
    };
    let [name, datatype, space] =
        [[*a, *b], [*c, *d], [*e, *f]].map(|len| usize::from(u16::from_le_bytes(len)).next_multiple_of(padded));
    let Some((told, rest)) = body.get(begins..).and_then(|rest| rest.split_at_checked(name)) else { return Ok(None) };
    if told
        .strip_suffix(b"\0")
        .is_none_or(|told| told.trim_ascii_end().split(|byte| *byte == 0).next() != Some(b"dtype"))
    {
        return Ok(None);
    }
    let Some((datatype, rest)) = rest.split_at_checked(datatype) else { return Ok(None) };
    let Some((_, value)) = rest.split_at_checked(space) else { return Ok(None) };
    match datatype.first().map(|class| class & 0x0f) {
        // A string as it is.
        Some(3) => Ok(Some(value.split(|byte| *byte == 0).next().unwrap_or_default().to_vec())),
        // One in a heap: its length, the heap's address, its number there.
        Some(9) => {
            let Some((len, rest)) = value.split_first_chunk::<4>() else { return Ok(None) };
            let Some((heap, number)) = rest.split_first_chunk::<8>() else { return Ok(None) };
            let Some(number) = number.first_chunk::<4>() else { return Ok(None) };
            let len = u64::from(u32::from_le_bytes(*len));
            heap_text(window, u64::from_le_bytes(*heap), u64::from(u32::from_le_bytes(*number)), len)
        }
        _ => Ok(None),
    }
}

/// Gives an object of a global heap.
fn heap_text(window: &mut Window<'_>, heap: u64, wanted: u64, len: u64) -> Parsed<Option<Vec<u8>>> {
    if len > TEXT_BYTES_MAX {
        return Ok(None);
    }
    expect(window, heap, b"GCOL")?;
    let end = heap.checked_add(number(window, heap + 8, 8)?).or_doubt()?;
    let mut at = heap + 16;
    while end.checked_sub(at).is_some_and(|rest| rest >= 16) {
        let (index, size) = (number(window, at, 2)?, number(window, at + 8, 8)?);
        if index == wanted {
            return Ok(Some(window.get(at + 16, len.min(size))?.to_vec()));
        }
        // The free space has number 0 and ends the heap.
        if index == 0 {
            break;
        }
        let next = size.checked_next_multiple_of(8).and_then(|size| size.checked_add(16));
        at = next.and_then(|len| at.checked_add(len)).or_doubt()?;
    }
    Ok(None)
}
