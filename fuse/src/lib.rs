//! A read-only file system that shows the checkpoints of a store as the files that they were, by FUSE. This file is its
//! whole public API. Never writes to the store, but for sessions; never touches the terminal; never looks at a path
//! below its own mount point, which only it could answer.

#![deny(clippy::print_stdout, clippy::print_stderr, unsafe_code)]

mod ahead;
mod answers;
mod checkpoint;
mod directory;
mod errno;
mod error;
mod facts;
mod files;
mod handle;
mod held;
mod inodes;
mod laid;
mod limits;
mod listing;
mod look;
mod manifests;
mod materialize;
mod members;
mod metadata;
mod mounted;
mod mountinfo;
mod mounts;
mod names;
mod node;
mod own_directory;
mod place;
mod runs;
mod server;
mod status;
mod told;
mod tree;
mod unmount;
mod views;
mod warm;
mod watch;
mod workers;
mod xattrs;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use ckpt_store::Store;

pub use self::error::{Error, Result};
pub use self::look::{Look, look, walk};
pub use self::mounted::{Mounted, Stop};
pub use self::mountinfo::{Device, Mount};
pub use self::mounts::{on as mount_on, ours as mounts, place, reached_by, real};
pub use self::place::{apart, check, check_laid};
pub use self::runs::Runs;
pub use self::status::{Materialized, Status, Warm};
pub use self::unmount::{Process, cut_dying, places, server_of, unmount};

/// How a store is mounted.
#[derive(Debug, Clone)]
pub struct Options {
    /// Shows only runs whose name matches this glob; none shows all.
    pub runs: Option<String>,
    /// Whether other users than the one who mounts may look.
    pub allow_other: bool,
    /// The most bytes of decoded chunks that are kept.
    pub cache_bytes: usize,
    /// Where files that are read again and again are laid down whole, for the kernel to read them itself.
    pub materialize: Option<Materialize>,
    /// Where its log is written to, for whoever asks for its status.
    pub log_file: Option<PathBuf>,
}

/// Where files are laid down whole.
#[derive(Debug, Clone)]
pub struct Materialize {
    /// A directory outside the mount.
    pub directory: PathBuf,
    /// The most bytes that they may take there.
    pub bytes_max: u64,
}

/// Where a mount tells what people should know: damaged chunks, and why something is not as fast as it could be.
pub trait Log: Send + Sync {
    /// One line.
    fn line(&self, text: &str);
}

/// Mounts a store on a directory that exists. Answers when the file system answers.
pub fn mount(store: Arc<Store>, directory: &Path, options: &Options, log: Arc<dyn Log>) -> Result<Mounted> {
    server::start(store, directory, options, log)
}
