//! Segments of a safetensors file: its header, each tensor, and whatever lies between. Never trusts the header: a tensor
//! that is out of bounds, overlaps another or has not the size of its shape makes the whole file opaque.
//!
//! The header is read by a visitor of our own and not by `safetensors::tensor::Metadata`, which collects the whole JSON tree
//! before it looks at a field (serde's `flatten`): a hostile header of 32 MB cost it 690 MB. Here one costs at most
//! its own size and the names and shapes of its tensors. It also forgives a gap or a tail, which then are literals.

use std::collections::HashSet;
use std::{fmt, io};

use serde::Deserializer as _;
use serde::de::{self, Deserialize, IgnoredAny, MapAccess, SeqAccess, Visitor};

use super::{Dtype, ElementType, Format, Found, Kind, Parts, Source, View};
use crate::limits::{DIMENSIONS_MAX, SAFETENSORS_HEADER_BYTES_MAX};

/// Bytes of the length before the header.
const LENGTH_BYTES: u64 = 8;

/// Says whether a file of `size` bytes that begins with `head` may be one, so that no other file's length is believed.
pub(super) fn looks_like(head: &[u8], size: u64) -> bool {
    head.get(8) == Some(&b'{') && header_len(head).is_some_and(|len| len <= size - LENGTH_BYTES)
}

/// Finds the segments, or nothing if there is any doubt.
pub(super) fn split(source: &dyn Source) -> io::Result<Option<Parts>> {
    let mut length = [0; LENGTH_BYTES as usize];
    source.read_exact_at(&mut length, 0)?;
    let Some(len) = header_len(&length) else {
        return Ok(None);
    };
    let mut header = vec![0; len as usize];
    source.read_exact_at(&mut header, LENGTH_BYTES)?;
    let tensors = parse(&header);
    drop(header);
    Ok(tensors.and_then(|tensors| place(tensors, LENGTH_BYTES + len)))
}

/// Whether the file ends before its header does, or before the last tensor that the header names.
pub(super) fn is_cut_short(source: &dyn Source) -> io::Result<bool> {
    let mut length = [0; LENGTH_BYTES as usize];
    let Some(data) = source.size().checked_sub(LENGTH_BYTES) else { return Ok(true) };
    source.read_exact_at(&mut length, 0)?;
    if u64::from_le_bytes(length) > data {
        return Ok(true);
    }
    // A header that is none, or too long to be read, says nothing about the end.
    let Some(len) = header_len(&length) else { return Ok(false) };
    let mut header = vec![0; len as usize];
    source.read_exact_at(&mut header, LENGTH_BYTES)?;
    let end = parse(&header).and_then(|tensors| tensors.iter().map(|(_, info)| info.end).max());
    Ok(end.is_some_and(|end| end > data - len))
}

fn header_len(head: &[u8]) -> Option<u64> {
    let length = head.first_chunk::<{ LENGTH_BYTES as usize }>()?;
    let len = u64::from_le_bytes(*length);
    (2..=SAFETENSORS_HEADER_BYTES_MAX).contains(&len).then_some(len)
}

/// Moves the tensors to where the data begins.
fn place(tensors: Vec<(String, Info)>, data: u64) -> Option<Parts> {
    let mut parts = Parts::of(Format::Safetensors);
    for (name, Info { dtype, shape, begin, end }) in tensors {
        let (start, end) = (data.checked_add(begin)?, data.checked_add(end)?);
        if start == end {
            parts.views.push(View { name, dtype: Some(dtype), shape, strides: None, offset: start, len: 0 });
        } else {
            parts.found.push(Found { start, end, kind: Kind::Tensor { name, dtype: Some(dtype), shape: Some(shape) } });
        }
    }
    Some(parts)
}

/// Reads the header; nothing if it is not one.
fn parse(header: &[u8]) -> Option<Vec<(String, Info)>> {
    let mut json = serde_json::Deserializer::from_slice(header);
    let tensors = json.deserialize_map(HeaderVisitor).ok()?;
    // Writers pad with spaces, which end() skips; anything else behind the object is a doubt.
    json.end().ok()?;
    // Names are keys of a state_dict: two tensors of one name are a header that no writer makes.
    let mut names = HashSet::with_capacity(tensors.len());
    let distinct = tensors.iter().all(|(name, _)| names.insert(name.as_str()));
    drop(names);
    distinct.then_some(tensors)
}

/// What the header says about one tensor, checked in itself.
struct Info {
    /// Of a type that came after this code the size can't be checked, and the offsets are all we have.
    dtype: ElementType,
    shape: Vec<u64>,
    begin: u64,
    end: u64,
}

impl Info {
    fn has_its_size(&self) -> bool {
        let Some(len) = self.end.checked_sub(self.begin) else {
            return false;
        };
        let Some(dtype) = self.dtype.known() else { return true };
        let elements = self.shape.iter().try_fold(1u64, |product, dim| product.checked_mul(*dim));
        elements.and_then(|elements| dtype.bytes_of(elements)) == Some(len)
    }
}

struct HeaderVisitor;

impl<'de> Visitor<'de> for HeaderVisitor {
    type Value = Vec<(String, Info)>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a safetensors header")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut tensors = Vec::new();
        while let Some(name) = map.next_key::<String>()? {
            if name == "__metadata__" {
                map.next_value::<IgnoredAny>()?;
                continue;
            }
            let info: Info = map.next_value()?;
            if !info.has_its_size() {
                return Err(de::Error::custom("a tensor has not the size of its shape"));
            }
            tensors.push((name, info));
        }
        Ok(tensors)
    }
}

impl<'de> Deserialize<'de> for Info {
    fn deserialize<D: de::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_map(InfoVisitor)
    }
}

struct InfoVisitor;

impl<'de> Visitor<'de> for InfoVisitor {
    type Value = Info;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a tensor's dtype, shape and data_offsets")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Info, A::Error> {
        let (mut dtype, mut shape, mut offsets) = (None, None, None);
        while let Some(field) = map.next_key::<String>()? {
            let again = match field.as_str() {
                "dtype" => dtype.replace(element_type(map.next_value()?)).is_some(),
                "shape" => shape.replace(map.next_value::<Shape>()?.0).is_some(),
                "data_offsets" => offsets.replace(map.next_value::<(u64, u64)>()?).is_some(),
                _ => {
                    map.next_value::<IgnoredAny>()?;
                    false
                }
            };
            if again {
                return Err(de::Error::custom("a field stands twice"));
            }
        }
        let dtype = dtype.ok_or_else(|| de::Error::missing_field("dtype"))?;
        let shape = shape.ok_or_else(|| de::Error::missing_field("shape"))?;
        let (begin, end) = offsets.ok_or_else(|| de::Error::missing_field("data_offsets"))?;
        Ok(Info { dtype, shape, begin, end })
    }
}

fn element_type(name: String) -> ElementType {
    Dtype::parse(&name).map_or(ElementType::Named(name), ElementType::Known)
}

/// A list of at most [`DIMENSIONS_MAX`] numbers.
struct Shape(Vec<u64>);

impl<'de> Deserialize<'de> for Shape {
    fn deserialize<D: de::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_seq(ShapeVisitor)
    }
}

struct ShapeVisitor;

impl<'de> Visitor<'de> for ShapeVisitor {
    type Value = Shape;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a shape")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Shape, A::Error> {
        let mut shape = Vec::new();
        while let Some(dim) = seq.next_element()? {
            if shape.len() == DIMENSIONS_MAX {
                return Err(de::Error::custom("too many dimensions"));
            }
            shape.push(dim);
        }
        Ok(Shape(shape))
    }
}
