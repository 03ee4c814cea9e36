//! What can go wrong, sorted by what the caller should do about it. Never a hint or an exit code: those are the command's.

use std::fmt;
use std::io;
use std::path::Path;

use crate::id::{ChunkId, PackId};

/// The result of every fallible call of this crate.
pub type Result<T> = std::result::Result<T, Error>;

/// The kind of thing that was looked for or already exists.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Thing {
    /// A store.
    Store,
    /// A run.
    Run,
    /// A checkpoint of a run.
    Checkpoint,
    /// A tag of a checkpoint.
    Tag,
    /// A policy of a glob of runs.
    Policy,
    /// A file inside a checkpoint.
    File,
    /// A tensor inside a checkpoint.
    Tensor,
    /// A file or directory to be stored.
    Source,
    /// A file or directory to be written.
    Destination,
}

impl fmt::Display for Thing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Store => "store",
            Self::Run => "run",
            Self::Checkpoint => "checkpoint",
            Self::Tag => "tag",
            Self::Policy => "policy",
            Self::File => "file",
            Self::Tensor => "tensor",
            Self::Source => "file or directory",
            Self::Destination => "destination",
        })
    }
}

/// A chunk that can't be given back, and what of a checkpoint needs it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Damage {
    /// `RUN@STEP`, or the id of a checkpoint without step.
    pub checkpoint: String,
    /// Path inside the checkpoint; empty when the damage is outside any file.
    pub file: String,
    /// Name of the tensor, when the damaged bytes belong to one.
    pub tensor: Option<String>,
    /// The chunk.
    pub chunk: ChunkId,
    /// The pack that should hold it; none when no pack lists it.
    pub pack: Option<PackId>,
    /// What is wrong with it.
    pub reason: String,
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.checkpoint)?;
        if !self.file.is_empty() {
            write!(f, "file {:?}, ", self.file)?;
        }
        if let Some(tensor) = &self.tensor {
            write!(f, "tensor {tensor:?}, ")?;
        }
        write!(f, "chunk {:.16}…", self.chunk.to_string())?;
        match self.pack {
            Some(pack) => write!(f, " in pack {pack}: {}", self.reason),
            None => write!(f, ": {}", self.reason),
        }
    }
}

/// How much room a put needs and what would make it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Shortage {
    /// What was to be stored: `RUN@STEP`, or the run.
    pub what: String,
    /// Bytes that storing it writes, estimated from a sample of its new chunks; none when the disk was full before that was
    /// known.
    pub needs_bytes: Option<u64>,
    /// Bytes that are free on the disk for a user without privileges; [`u64::MAX`] when the file system doesn't say.
    pub free_bytes: u64,
    /// Whether a quota is used up. Then `free_bytes` tells of the disk, and how much of it is left to this user is not
    /// known.
    pub is_quota: bool,
    /// Bytes that are to stay free.
    pub reserve_bytes: u64,
    /// Bytes that a gc by the policies would free now; none when that could not be found out.
    pub gc_frees: Option<u64>,
    /// Checkpoints that it would drop.
    pub gc_drops: u64,
    /// Whether the store has policies.
    pub has_policies: bool,
}

/// An error of the store.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// There is no such thing; `near` lists names that the caller may have meant.
    #[error("no {thing} {name}")]
    NotFound {
        /// What was looked for.
        thing: Thing,
        /// The name it was looked for by.
        name: String,
        /// Existing names that are close.
        near: Vec<String>,
    },
    /// The thing exists already and the call does not replace.
    #[error("{thing} {name} exists already")]
    Exists {
        /// What exists.
        thing: Thing,
        /// Its name.
        name: String,
    },
    /// Somebody else is at work; trying again later may succeed.
    #[error("{0}")]
    Busy(String),
    /// The request can't be carried out as it was made.
    #[error("{0}")]
    Invalid(String),
    /// A tensor can't be given as asked.
    #[error("the tensor {name:?} {reason}")]
    UnsuitedTensor {
        /// Its name.
        name: String,
        /// Why: what follows its name in a sentence.
        reason: String,
    },
    /// A source changed while it was read. Nothing was stored.
    #[error("{path} changed while it was being stored: {what}")]
    Changed {
        /// The source.
        path: String,
        /// What was seen to change.
        what: String,
    },
    /// What is to be stored would not fit on the disk. Nothing was written.
    #[error(
        "no room left for {}: it needs about {} bytes, {} are free and {} of those are to stay so",
        .0.what, .0.needs_bytes.unwrap_or_default(), .0.free_bytes, .0.reserve_bytes
    )]
    WontFit(Box<Shortage>),
    /// No room. Nothing was changed.
    #[error("no room left while writing {path}")]
    NoSpace {
        /// The file that could not be written.
        path: String,
        /// The operating system's word.
        source: io::Error,
        /// What a put needs, when it was one.
        shortage: Option<Box<Shortage>>,
    },
    /// A part of the store is damaged: what it is and how that was seen.
    #[error("{what} is damaged: {reason}")]
    Corrupt {
        /// The object, by its key in the store.
        what: String,
        /// What is wrong with it.
        reason: String,
    },
    /// Data of checkpoints is damaged.
    #[error("{} damaged: {}", count(.0.len()), .0.first().map(ToString::to_string).unwrap_or_default())]
    Damaged(Vec<Damage>),
    /// The store was written by another version of this program, or uses a feature that this one does not know.
    #[error("{0}")]
    Unsupported(String),
    /// The operating system or the storage refused access.
    #[error("can't {action} {path}")]
    Unavailable {
        /// What was attempted: "read", "write", "open", …
        action: &'static str,
        /// On what.
        path: String,
        /// The operating system's word.
        source: io::Error,
    },
    /// The caller asked to stop.
    #[error("interrupted")]
    Interrupted,
    /// A mistake of this program.
    #[error("internal error: {0}")]
    Internal(String),
}

fn count(chunks: usize) -> String {
    if chunks == 1 { "1 place is".into() } else { format!("{chunks} places are") }
}

impl Error {
    /// Turns an error of the operating system into the kind that tells the caller what to do.
    pub fn io(action: &'static str, path: &Path, source: io::Error) -> Self {
        let path = path.display().to_string();
        match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::NoSpace { path, source, shortage: None },
            _ => Self::Unavailable { action, path, source },
        }
    }

    /// A part of the store that is not what it should be.
    pub fn corrupt(what: impl ToString, reason: impl ToString) -> Self {
        Self::Corrupt { what: what.to_string(), reason: reason.to_string() }
    }
}
