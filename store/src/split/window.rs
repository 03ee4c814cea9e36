//! Small reads of a source for parsers that follow what a file says: through one buffer, and never more than a budget, so
//! that no file makes its reader go round for ever. Never holds more than a buffer or the piece that was asked for.

use std::io;

use super::Source;

/// Why a parser gave up.
#[derive(Debug)]
pub(super) enum Stop {
    /// The file contradicts itself, says what we don't know, or more than we are willing to read.
    Doubt,
    /// The file ends before what it says.
    End,
    /// A read failed.
    Io(io::Error),
}

/// What a parser gives.
pub(super) type Parsed<T> = Result<T, Stop>;

/// Turns "no such value" into a doubt.
pub(super) trait OrDoubt<T> {
    /// The value, or a doubt.
    fn or_doubt(self) -> Parsed<T>;
}

impl<T> OrDoubt<T> for Option<T> {
    fn or_doubt(self) -> Parsed<T> {
        self.ok_or(Stop::Doubt)
    }
}

/// What each request costs besides its bytes: a parser in a circle of empty ones would read nothing.
const REQUEST_COST: u64 = 16;

/// The bytes of a source around the place that is being read.
pub(super) struct Window<'a> {
    source: &'a dyn Source,
    /// Bytes that may still be asked for or read.
    budget: u64,
    /// Bytes that are read at once at least.
    ahead: u64,
    start: u64,
    bytes: Vec<u8>,
}

impl<'a> Window<'a> {
    pub(super) fn new(source: &'a dyn Source, budget: u64, ahead: u64) -> Self {
        Self { source, budget, ahead, start: 0, bytes: Vec::new() }
    }

    pub(super) fn size(&self) -> u64 {
        self.source.size()
    }

    /// Gives the `len` bytes from `at` on.
    pub(super) fn get(&mut self, at: u64, len: u64) -> Parsed<&[u8]> {
        let end = at.checked_add(len).or_doubt()?;
        if end > self.source.size() {
            return Err(Stop::End);
        }
        self.pay(REQUEST_COST.checked_add(len).or_doubt()?)?;
        let held_end = self.start + self.bytes.len() as u64;
        if at < self.start || end > held_end {
            let wanted = len.max(self.ahead).min(self.source.size() - at);
            self.pay(wanted)?;
            self.bytes.clear();
            self.bytes.resize(usize::try_from(wanted).map_err(|_| Stop::Doubt)?, 0);
            self.source.read_exact_at(&mut self.bytes, at).map_err(Stop::Io)?;
            self.start = at;
        }
        let from = (at - self.start) as usize;
        Ok(&self.bytes[from..from + len as usize])
    }

    fn pay(&mut self, bytes: u64) -> Parsed<()> {
        self.budget = self.budget.checked_sub(bytes).or_doubt()?;
        Ok(())
    }

    /// Gives the little-endian number of `N` bytes at `at`.
    pub(super) fn array<const N: usize>(&mut self, at: u64) -> Parsed<[u8; N]> {
        let bytes = self.get(at, N as u64)?;
        bytes.first_chunk().copied().or_doubt()
    }
}
