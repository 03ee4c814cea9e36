//! How long work tells its caller how far it is, and asks whether to go on. Never prints.

use std::fmt;

/// A part of a long operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Stage {
    /// Reading and naming the source's chunks.
    Hash,
    /// Encoding and writing chunks that are new.
    Write,
    /// Reading chunks back.
    Read,
    /// Checking packs.
    Verify,
    /// Finding out what is in use.
    Mark,
    /// Copying what is in use out of packs that are mostly dead.
    Copy,
    /// Rebuilding the index from the packs.
    Index,
    /// Following a tensor: counts checkpoints, not bytes.
    Follow,
    /// Reading what differs between two checkpoints.
    Compare,
}

/// Something that happened beside the work and that a person may want to know.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Notice {
    /// The index was damaged or missing and is being made anew from the packs.
    IndexRebuilt {
        /// Why.
        reason: String,
    },
    /// A checkpoint was passed over in the search for one that is sound.
    Damaged {
        /// Its name.
        checkpoint: String,
        /// What is wrong with it.
        reason: String,
    },
    /// Room was short, and a gc by the policies made some.
    MadeRoom {
        /// Checkpoints that the policies dropped, by name.
        dropped: Vec<String>,
        /// Bytes that came free.
        freed_bytes: u64,
    },
    /// The index could not be brought up to date; the next use does it.
    IndexBehind {
        /// Why.
        reason: String,
    },
}

impl fmt::Display for Notice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::IndexRebuilt { reason } => write!(f, "the index is being made anew from the packs ({reason})"),
            Self::Damaged { checkpoint, reason } => write!(f, "{checkpoint} is passed over: {reason}"),
            Self::MadeRoom { dropped, freed_bytes } => {
                f.write_str("room was short; a gc dropped ")?;
                match dropped.is_empty() {
                    true => f.write_str("no checkpoint")?,
                    false => write!(f, "{}, as the policies say", dropped.join(", "))?,
                }
                write!(f, ", and freed {freed_bytes} bytes")
            }
            Self::IndexBehind { reason } => {
                write!(f, "the index will be brought up to date by the next put ({reason})")
            }
        }
    }
}

/// Receives progress. Called from several threads.
pub trait Progress: Sync {
    /// A stage begins that will handle `bytes` in total.
    fn begin(&self, stage: Stage, bytes: u64);
    /// `bytes` more are done.
    fn advance(&self, bytes: u64);
    /// Something happened.
    fn notice(&self, notice: Notice);
    /// Whether the work should stop; it then ends with [`crate::Error::Interrupted`] and leaves the store as it was.
    fn interrupted(&self) -> bool;
}

/// Progress that nobody watches.
#[derive(Debug, Clone, Copy, Default)]
pub struct Quiet;

impl Progress for Quiet {
    fn begin(&self, _: Stage, _: u64) {}
    fn advance(&self, _: u64) {}
    fn notice(&self, _: Notice) {}
    fn interrupted(&self) -> bool {
        false
    }
}
