//! Why a store could not be mounted or unmounted. Never a hint: those are the command's.

use std::path::PathBuf;

/// What went wrong.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The store could not be read.
    #[error(transparent)]
    Store(#[from] ckpt_store::Error),
    /// Something of the system failed.
    #[error("{what}")]
    Io {
        /// What was tried.
        what: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// Something is mounted there that answers.
    #[error("{} is a mount point already", directory.display())]
    Mounted {
        /// Where.
        directory: PathBuf,
    },
}

/// The answer of what can fail so.
pub type Result<T> = std::result::Result<T, Error>;
