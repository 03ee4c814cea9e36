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
    /// There is nothing to mount on.
    #[error("no directory {}", directory.display())]
    NoDirectory {
        /// Where it should be.
        directory: PathBuf,
    },
    /// What is there is no directory.
    #[error("{} is not a directory", path.display())]
    NotDirectory {
        /// What is there.
        path: PathBuf,
    },
    /// Files that are there would be hidden by the mount.
    #[error("the directory {} is not empty", directory.display())]
    NotEmpty {
        /// Where.
        directory: PathBuf,
    },
    /// The mount would lie in what it needs, or hide it.
    #[error("{} can't be the mount point: {why}", directory.display())]
    Overlap {
        /// The mount point.
        directory: PathBuf,
        /// What lies where.
        why: String,
    },
    /// Files can't be laid down where they were to be.
    #[error("files can't be laid down in {}: {why}", directory.display())]
    Unsuited {
        /// Where.
        directory: PathBuf,
        /// What speaks against it.
        why: String,
    },
    /// Something is mounted there that answers.
    #[error("{} is a mount point of ckpt already", directory.display())]
    Mounted {
        /// Where.
        directory: PathBuf,
    },
    /// Nothing of ours is mounted there.
    #[error("no store is mounted on {}", directory.display())]
    NotMounted {
        /// Where.
        directory: PathBuf,
        /// The mount that the path leads into, when that is one of ours.
        inside: Option<PathBuf>,
    },
    /// Somebody uses the mount.
    #[error("{} is in use", directory.display())]
    Busy {
        /// Where.
        directory: PathBuf,
        /// Who or what, as far as the system tells: `python3 (process 123) has run/step-5/model.pt`, `tmpfs is mounted
        /// on run`.
        holders: Vec<String>,
    },
    /// A mount does not answer in time.
    #[error("the mount on {} does not answer", directory.display())]
    Silent {
        /// Where.
        directory: PathBuf,
    },
    /// The kernel has no FUSE, or the container hides it.
    #[error("there is no FUSE here: /dev/fuse is missing")]
    NoFuse,
    /// FUSE is there, but not for this user.
    #[error("/dev/fuse can't be opened")]
    DeviceRefused(#[source] std::io::Error),
    /// A user who is not root needs the program `fusermount3`.
    #[error("fusermount3 is missing, by which users who are not root mount and unmount")]
    NoHelper,
    /// The system doesn't let users share their mounts.
    #[error("other users may not be let in by this one")]
    OthersRefused,
    /// The system does not let this process mount or unmount.
    #[error("{} is refused: {reason}", if *unmounting { "unmounting" } else { "mounting" })]
    Refused {
        /// What was refused.
        unmounting: bool,
        /// What the system or `fusermount3` said.
        reason: String,
    },
}

/// The answer of what can fail so.
pub type Result<T> = std::result::Result<T, Error>;
