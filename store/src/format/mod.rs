//! Structs to bytes and back, one file for each kind of object; docs/format.md is the specification. Pure: never reads or
//! writes a file, never trusts a length, and never shares a struct with the command's JSON.

pub mod catalog;
pub mod envelope;
pub mod head;
pub mod manifest;
pub mod pack;
pub mod part;
pub mod tensors;

/// The version of everything in this module, as FORMAT states it.
pub const VERSION: u32 = 1;

/// Bytes that are not what they should be, and why.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FormatError {
    /// The bytes are damaged or were never such an object.
    #[error("{0}")]
    Damaged(String),
    /// Sound, but of a version or with a feature that this program does not know.
    #[error("{0}")]
    Unsupported(String),
}

impl FormatError {
    pub(crate) fn damaged(reason: impl ToString) -> Self {
        Self::Damaged(reason.to_string())
    }

    /// Says which object it was.
    pub fn of(self, what: impl ToString) -> crate::Error {
        match self {
            Self::Damaged(reason) => crate::Error::corrupt(what, reason),
            Self::Unsupported(reason) => crate::Error::Unsupported(format!("{}: {reason}", what.to_string())),
        }
    }
}

/// Reads fixed fields from the front of a slice; every read is checked.
pub(crate) struct Fields<'a>(pub &'a [u8]);

impl<'a> Fields<'a> {
    pub(crate) fn bytes(&mut self, count: usize) -> Result<&'a [u8], FormatError> {
        let (head, tail) = self.0.split_at_checked(count).ok_or_else(|| FormatError::damaged("it ends too early"))?;
        self.0 = tail;
        Ok(head)
    }

    pub(crate) fn array<const N: usize>(&mut self) -> Result<[u8; N], FormatError> {
        let mut array = [0; N];
        array.copy_from_slice(self.bytes(N)?);
        Ok(array)
    }

    pub(crate) fn u8(&mut self) -> Result<u8, FormatError> {
        Ok(self.array::<1>()?[0])
    }

    pub(crate) fn u16(&mut self) -> Result<u16, FormatError> {
        Ok(u16::from_le_bytes(self.array()?))
    }

    pub(crate) fn u32(&mut self) -> Result<u32, FormatError> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    pub(crate) fn u64(&mut self) -> Result<u64, FormatError> {
        Ok(u64::from_le_bytes(self.array()?))
    }
}
