//! The bytes of a pickle, taken from the front. Never copies and never looks past the end.

use std::ops::Range;

use super::Problem;

/// A place in a pickle.
pub(super) struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Cursor<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    /// Bytes taken.
    pub(super) fn at(&self) -> usize {
        self.at
    }

    /// Bytes left.
    pub(super) fn left(&self) -> usize {
        self.bytes.len() - self.at
    }

    /// Takes so many bytes and says where they stand.
    pub(super) fn span(&mut self, len: u64) -> Result<Range<usize>, Problem> {
        let len = usize::try_from(len).ok().filter(|len| *len <= self.left()).ok_or(Problem::Ended)?;
        let start = self.at;
        self.at += len;
        Ok(start..self.at)
    }

    /// Takes a line, without its end.
    pub(super) fn line(&mut self) -> Result<Range<usize>, Problem> {
        let len = self.bytes[self.at..].iter().position(|byte| *byte == b'\n').ok_or(Problem::Ended)?;
        let start = self.at;
        self.at += len + 1;
        Ok(start..start + len)
    }

    pub(super) fn array<const N: usize>(&mut self) -> Result<[u8; N], Problem> {
        let found = self.bytes[self.at..].first_chunk().ok_or(Problem::Ended)?;
        self.at += N;
        Ok(*found)
    }

    pub(super) fn u8(&mut self) -> Result<u8, Problem> {
        self.array::<1>().map(|[byte]| byte)
    }

    pub(super) fn u16(&mut self) -> Result<u16, Problem> {
        self.array().map(u16::from_le_bytes)
    }

    pub(super) fn u32(&mut self) -> Result<u32, Problem> {
        self.array().map(u32::from_le_bytes)
    }

    pub(super) fn i32(&mut self) -> Result<i32, Problem> {
        self.array().map(i32::from_le_bytes)
    }

    pub(super) fn u64(&mut self) -> Result<u64, Problem> {
        self.array().map(u64::from_le_bytes)
    }

    /// Takes the length of a string whose length is signed.
    pub(super) fn signed_len(&mut self) -> Result<u64, Problem> {
        u64::try_from(self.i32()?).map_err(|_| Problem::Malformed)
    }
}
