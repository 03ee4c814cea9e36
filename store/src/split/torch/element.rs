//! Torch's names for the types of elements. Never guesses the size of one that it doesn't know.

use super::super::{Dtype, ElementType};

/// The type of a tensor's elements.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Element {
    /// Its name.
    pub(super) kind: ElementType,
    /// Bytes of one; not 0.
    pub(super) bytes: u64,
}

/// The elements of a storage by the name of its class; none for one of bytes, and for those that pack several into a byte.
pub(super) fn of_storage(class: &str) -> Option<Element> {
    let dtype = match class.strip_suffix("Storage")? {
        "Double" => Dtype::F64,
        "Float" => Dtype::F32,
        "Half" => Dtype::F16,
        "BFloat16" => Dtype::BF16,
        "Long" => Dtype::I64,
        "Int" | "QInt32" => Dtype::I32,
        "Short" => Dtype::I16,
        "Char" | "QInt8" => Dtype::I8,
        "Byte" | "QUInt8" => Dtype::U8,
        "Bool" => Dtype::Bool,
        "ComplexFloat" => Dtype::C64,
        "ComplexDouble" => Dtype::C128,
        _ => return None,
    };
    Some(dtype.into())
}

/// The elements of a tensor by the name of its `torch.dtype`.
pub(super) fn of_dtype(name: &str) -> Option<Element> {
    let dtype = match name {
        "float64" | "double" => Dtype::F64,
        "float32" | "float" => Dtype::F32,
        "float16" | "half" => Dtype::F16,
        "bfloat16" => Dtype::BF16,
        "int64" | "long" => Dtype::I64,
        "int32" | "int" | "qint32" => Dtype::I32,
        "int16" | "short" => Dtype::I16,
        "int8" | "qint8" => Dtype::I8,
        "uint8" | "quint8" => Dtype::U8,
        "uint16" => Dtype::U16,
        "uint32" => Dtype::U32,
        "uint64" => Dtype::U64,
        "bool" => Dtype::Bool,
        "complex32" | "chalf" => Dtype::C32,
        "complex64" | "cfloat" => Dtype::C64,
        "complex128" | "cdouble" => Dtype::C128,
        "float8_e4m3fn" => Dtype::F8E4M3,
        "float8_e5m2" => Dtype::F8E5M2,
        "float8_e4m3fnuz" => Dtype::F8E4M3Fnuz,
        "float8_e5m2fnuz" => Dtype::F8E5M2Fnuz,
        "float8_e8m0fnu" => Dtype::F8E8M0,
        _ => return named(name),
    };
    Some(dtype.into())
}

/// Types that safetensors has no name for: a byte each, whatever they pack into it.
fn named(name: &str) -> Option<Element> {
    let bits = |prefix: &str| name.strip_prefix(prefix)?.parse::<u8>().ok().filter(|bits| (1..8).contains(bits));
    let bytes = match name {
        "float4_e2m1fn_x2" | "bits8" | "bits1x8" | "bits2x4" | "bits4x2" => 1,
        "bits16" => 2,
        _ if bits("uint").or_else(|| bits("int")).is_some() => 1,
        _ => return None,
    };
    Some(Element { kind: ElementType::Named(name.to_owned()), bytes })
}
