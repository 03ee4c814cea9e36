//! The elements of tensors as numbers: blocks of them as `f64` for statistics, a single one exactly. Never guesses: a type
//! that it does not know has no numbers.

use std::fmt;

use half::{bf16, f16};

use crate::split::Dtype;

/// One element, exactly as its type holds it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Value {
    /// Of a type that is `f32` or fits in it.
    Single(f32),
    /// A double.
    Double(f64),
    /// A signed integer.
    Signed(i64),
    /// An unsigned integer.
    Unsigned(u64),
    /// A truth value.
    Bool(bool),
    /// Real and imaginary part.
    Complex(f64, f64),
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            // The shortest text that names this number among those of its type.
            Self::Single(value) => write!(f, "{value:?}"),
            Self::Double(value) => write!(f, "{value:?}"),
            Self::Signed(value) => value.fmt(f),
            Self::Unsigned(value) => value.fmt(f),
            Self::Bool(value) => value.fmt(f),
            Self::Complex(re, im) => write!(f, "{re:?}{im:+?}i"),
        }
    }
}

impl Value {
    /// As a double: rounded where it is a large integer, the modulus of a complex number.
    pub fn to_f64(self) -> f64 {
        match self {
            Self::Single(value) => value.into(),
            Self::Double(value) => value,
            Self::Signed(value) => value as f64,
            Self::Unsigned(value) => value as f64,
            Self::Bool(value) => value.into(),
            Self::Complex(re, im) => re.hypot(im),
        }
    }
}

/// How many numbers an element consists of: two of a complex one, none of the packed types, which have no statistics.
pub fn components(dtype: Dtype) -> Option<usize> {
    match dtype {
        Dtype::F4 | Dtype::F6E2M3 | Dtype::F6E3M2 => None,
        Dtype::C32 | Dtype::C64 | Dtype::C128 => Some(2),
        _ => Some(1),
    }
}

/// Appends the numbers of little-endian elements to `to`, a complex one as real and imaginary part. Bytes at the end that
/// are no whole number are left out, as are the elements of packed types.
pub fn decode(dtype: Dtype, bytes: &[u8], to: &mut Vec<f64>) {
    fn wide<const N: usize>(bytes: &[u8], to: &mut Vec<f64>, number: impl Fn([u8; N]) -> f64) {
        to.extend(bytes.as_chunks::<N>().0.iter().map(|element| number(*element)));
    }
    match dtype {
        Dtype::F32 | Dtype::C64 => wide(bytes, to, |e| f64::from(f32::from_le_bytes(e))),
        Dtype::F64 | Dtype::C128 => wide(bytes, to, f64::from_le_bytes),
        Dtype::F16 | Dtype::C32 => wide(bytes, to, |e| f64::from(f16::from_le_bytes(e).to_f32())),
        Dtype::BF16 => wide(bytes, to, |e| f64::from(bf16::from_le_bytes(e).to_f32())),
        Dtype::F8E4M3 => wide(bytes, to, |[e]| E4M3[e as usize]),
        Dtype::F8E5M2 => wide(bytes, to, |[e]| E5M2[e as usize]),
        Dtype::F8E4M3Fnuz => wide(bytes, to, |[e]| E4M3_FNUZ[e as usize]),
        Dtype::F8E5M2Fnuz => wide(bytes, to, |[e]| E5M2_FNUZ[e as usize]),
        Dtype::F8E8M0 => wide(bytes, to, |[e]| E8M0[e as usize]),
        Dtype::Bool => wide(bytes, to, |[e]| f64::from(u8::from(e != 0))),
        Dtype::U8 => wide(bytes, to, |[e]| f64::from(e)),
        Dtype::I8 => wide(bytes, to, |e| f64::from(i8::from_le_bytes(e))),
        Dtype::U16 => wide(bytes, to, |e| f64::from(u16::from_le_bytes(e))),
        Dtype::I16 => wide(bytes, to, |e| f64::from(i16::from_le_bytes(e))),
        Dtype::U32 => wide(bytes, to, |e| f64::from(u32::from_le_bytes(e))),
        Dtype::I32 => wide(bytes, to, |e| f64::from(i32::from_le_bytes(e))),
        Dtype::U64 => wide(bytes, to, |e| u64::from_le_bytes(e) as f64),
        Dtype::I64 => wide(bytes, to, |e| i64::from_le_bytes(e) as f64),
        Dtype::F4 | Dtype::F6E2M3 | Dtype::F6E3M2 => {}
    }
}

/// The one element that `bytes` are; none when they are not one, or of a packed type.
pub fn value(dtype: Dtype, bytes: &[u8]) -> Option<Value> {
    if bytes.len() * 8 != dtype.bits() as usize {
        return None;
    }
    let mut eight = [0; 8];
    let low = &bytes[..bytes.len().min(8)];
    eight[..low.len()].copy_from_slice(low);
    let unsigned = u64::from_le_bytes(eight);
    // The sign moved to the top and back fills the upper bytes with it.
    let unused = 64 - 8 * low.len();
    let signed = (unsigned << unused).cast_signed() >> unused;
    Some(match dtype {
        Dtype::Bool => Value::Bool(unsigned != 0),
        Dtype::U8 | Dtype::U16 | Dtype::U32 | Dtype::U64 => Value::Unsigned(unsigned),
        Dtype::I8 | Dtype::I16 | Dtype::I32 | Dtype::I64 => Value::Signed(signed),
        _ => {
            let mut numbers = Vec::with_capacity(2);
            decode(dtype, bytes, &mut numbers);
            match (dtype, &numbers[..]) {
                (Dtype::F64, [number]) => Value::Double(*number),
                (_, [number]) => Value::Single(*number as f32),
                (_, [re, im]) => Value::Complex(*re, *im),
                _ => return None,
            }
        }
    })
}

/// Cuts a stream of bytes into blocks of whole elements, as numbers.
pub struct Blocks {
    dtype: Dtype,
    /// Bytes of an element.
    element: usize,
    /// The beginning of an element whose end is still to come.
    rest: Vec<u8>,
    numbers: Vec<f64>,
}

/// Numbers in a block at most: 16 KiB, which stay in the nearest cache while they are looked at several times.
const BLOCK: usize = 2048;

impl Blocks {
    /// For elements of a type; none when that has no numbers.
    pub fn new(dtype: Dtype) -> Option<Self> {
        components(dtype)?;
        let element = dtype.bits() as usize / 8;
        Some(Self { dtype, element, rest: Vec::with_capacity(element), numbers: Vec::with_capacity(BLOCK) })
    }

    /// Takes the next bytes, wherever they end, and gives what elements they complete.
    pub fn feed(&mut self, mut bytes: &[u8], mut receive: impl FnMut(&[f64])) {
        if !self.rest.is_empty() {
            let missing = (self.element - self.rest.len()).min(bytes.len());
            self.rest.extend(&bytes[..missing]);
            bytes = &bytes[missing..];
            if self.rest.len() < self.element {
                return;
            }
            self.numbers.clear();
            decode(self.dtype, &self.rest, &mut self.numbers);
            self.rest.clear();
            receive(&self.numbers);
        }
        let whole = bytes.len() - bytes.len() % self.element;
        for block in bytes[..whole].chunks(BLOCK / 2 * self.element) {
            self.numbers.clear();
            decode(self.dtype, block, &mut self.numbers);
            receive(&self.numbers);
        }
        self.rest.extend(&bytes[whole..]);
    }
}

/// What the eight-bit floats do with their last codes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Last {
    /// The largest exponent is for infinity and NaN, as in IEEE 754.
    Ieee,
    /// All bits set are NaN; there is no infinity ("fn").
    Finite,
    /// What would be negative zero is NaN; there is no infinity ("fnuz").
    Unsigned,
}

static E4M3: [f64; 256] = table(3, 7, Last::Finite);
static E5M2: [f64; 256] = table(2, 15, Last::Ieee);
static E4M3_FNUZ: [f64; 256] = table(3, 8, Last::Unsigned);
static E5M2_FNUZ: [f64; 256] = table(2, 16, Last::Unsigned);
static E8M0: [f64; 256] = {
    let mut table = [f64::NAN; 256];
    let mut code = 0;
    while code < 255 {
        table[code] = power_of_two(code as i32 - 127);
        code += 1;
    }
    table
};

/// The numbers of an eight-bit float: a sign, an exponent with this bias, a mantissa of so many bits.
const fn table(mantissa_bits: u32, bias: i32, last: Last) -> [f64; 256] {
    let mut table = [0.0; 256];
    let mut code = 0;
    while code < 256 {
        let mantissa = code as i32 & ((1 << mantissa_bits) - 1);
        let exponent = (code as i32 & 0x7f) >> mantissa_bits;
        let of_one = power_of_two(-(mantissa_bits as i32));
        let size = if exponent == 0 {
            mantissa as f64 * of_one * power_of_two(1 - bias)
        } else {
            (1.0 + mantissa as f64 * of_one) * power_of_two(exponent - bias)
        };
        let top = 0x7f >> mantissa_bits;
        let size = match last {
            Last::Ieee if exponent == top && mantissa == 0 => f64::INFINITY,
            Last::Ieee if exponent == top => f64::NAN,
            Last::Finite if code & 0x7f == 0x7f => f64::NAN,
            Last::Unsigned if code == 0x80 => f64::NAN,
            _ => size,
        };
        table[code] = if code & 0x80 == 0 { size } else { -size };
        code += 1;
    }
    table
}

/// Two to a power from -1022 to 1023.
const fn power_of_two(exponent: i32) -> f64 {
    f64::from_bits(((exponent + 1023) as u64) << 52)
}
