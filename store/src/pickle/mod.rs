//! A reader of Python's pickles, protocols 0 to 5, that never executes, imports or calls anything: what a pickle would call
//! stays a node that says so. Memory is bounded by the pickle's length and by [`crate::limits`]; nothing is recursive; any
//! doubt is a [`Problem`].

mod cursor;
mod machine;
mod node;
mod text;

#[cfg(test)]
mod tests;

pub use node::{Id, Node, Pickle};

/// Why a pickle can't be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Problem {
    /// The bytes end before the pickle does.
    Ended,
    /// It is none, or one that Python would refuse.
    Malformed,
    /// It needs more than the limits allow.
    TooLarge,
}

/// Reads the pickle at the beginning of these bytes; what follows it is left alone.
pub fn read(bytes: &[u8]) -> Result<Pickle<'_>, Problem> {
    machine::Machine::new(bytes).run()
}
