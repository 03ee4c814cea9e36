//! The types of tensor elements, under the names that safetensors gives them. Always little-endian: elements of another
//! order are of a type that has only a name.

use std::fmt;

macro_rules! dtypes {
    ($($(#[$doc:meta])* $variant:ident = $name:literal, $bits:literal;)*) => {
        /// The type of a tensor's elements.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Dtype {
            $($(#[$doc])* $variant,)*
        }

        impl Dtype {
            /// Every type there is.
            pub const ALL: &[Self] = &[$(Self::$variant),*];

            /// Gives the name that safetensors writes: `F32`, `BF16`, `F8_E4M3`.
            pub fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }

            /// Takes back what [`Self::name`] gave.
            pub fn parse(name: &str) -> Option<Self> {
                match name {
                    $($name => Some(Self::$variant),)*
                    _ => None,
                }
            }

            /// Size of one element in bits. Less than 8 for the packed types.
            pub fn bits(self) -> u32 {
                match self { $(Self::$variant => $bits,)* }
            }
        }
    };
}

dtypes! {
    /// One byte, 0 or 1.
    Bool = "BOOL", 8;
    /// Unsigned byte.
    U8 = "U8", 8;
    /// Signed byte.
    I8 = "I8", 8;
    /// 8-bit float: 4 bits of exponent, 3 of mantissa.
    F8E4M3 = "F8_E4M3", 8;
    /// 8-bit float: 5 bits of exponent, 2 of mantissa.
    F8E5M2 = "F8_E5M2", 8;
    /// 8-bit exponent alone: the scale of a microscaling block.
    F8E8M0 = "F8_E8M0", 8;
    /// Like `F8E4M3`, finite and without negative zero.
    F8E4M3Fnuz = "F8_E4M3FNUZ", 8;
    /// Like `F8E5M2`, finite and without negative zero.
    F8E5M2Fnuz = "F8_E5M2FNUZ", 8;
    /// 4-bit float, two in a byte.
    F4 = "F4", 4;
    /// 6-bit float: 2 bits of exponent, 3 of mantissa.
    F6E2M3 = "F6_E2M3", 6;
    /// 6-bit float: 3 bits of exponent, 2 of mantissa.
    F6E3M2 = "F6_E3M2", 6;
    /// 16-bit signed integer.
    I16 = "I16", 16;
    /// 16-bit unsigned integer.
    U16 = "U16", 16;
    /// Half precision.
    F16 = "F16", 16;
    /// Brain float: the upper half of an `F32`.
    BF16 = "BF16", 16;
    /// 32-bit signed integer.
    I32 = "I32", 32;
    /// 32-bit unsigned integer.
    U32 = "U32", 32;
    /// Single precision.
    F32 = "F32", 32;
    /// 64-bit signed integer.
    I64 = "I64", 64;
    /// 64-bit unsigned integer.
    U64 = "U64", 64;
    /// Double precision.
    F64 = "F64", 64;
    /// Complex number of two `F32`.
    C64 = "C64", 64;
    /// Complex number of two `F16`; safetensors has no such type.
    C32 = "C32", 32;
    /// Complex number of two `F64`; safetensors has no such type.
    C128 = "C128", 128;
}

impl Dtype {
    /// Gives the bytes of so many elements; `None` when they are no whole number of bytes, or too many.
    pub fn bytes_of(self, elements: u64) -> Option<u64> {
        let bits = elements.checked_mul(u64::from(self.bits()))?;
        (bits % 8 == 0).then_some(bits / 8)
    }
}

impl fmt::Display for Dtype {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What a container says about the elements of a tensor.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum ElementType {
    /// A type that we know.
    Known(Dtype),
    /// Another one, by the name that its container has for it: `Q4_K`, `>f4`.
    Named(String),
}

impl ElementType {
    /// Gives the type if it is one that we know.
    pub fn known(&self) -> Option<Dtype> {
        if let Self::Known(dtype) = self { Some(*dtype) } else { None }
    }
}

impl From<Dtype> for ElementType {
    fn from(dtype: Dtype) -> Self {
        Self::Known(dtype)
    }
}

impl fmt::Display for ElementType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Known(dtype) => dtype.fmt(f),
            Self::Named(name) => f.write_str(name),
        }
    }
}
