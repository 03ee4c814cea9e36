//! A read-only file system that shows the checkpoints of a store as the files that they were, by FUSE. This file is its whole
//! public API. Never writes to the store, but for sessions; never touches the terminal; never looks at a path below its own
//! mount point, which only it could answer.

#![deny(clippy::print_stdout, clippy::print_stderr, unsafe_code)]

mod answers;
mod checkpoint;
mod directory;
mod error;
mod inodes;
mod listing;
mod manifests;
mod members;
mod metadata;
mod names;
mod node;
mod remembered;
mod server;
mod tree;
mod views;
mod xattrs;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use ckpt_store::Store;

pub use self::error::{Error, Result};

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

/// A store that is mounted; unmounted when dropped.
pub struct Mounted {
    session: Option<fuser::BackgroundSession>,
}

impl Mounted {
    /// Waits until somebody has unmounted it, or `stop` says so, which is asked ten times a second: then unmounts it. What is
    /// still being read goes on for a while.
    pub fn wait(mut self, stop: &dyn Fn() -> bool) -> Result<()> {
        while self.session.as_ref().is_some_and(|session| !session.guard.is_finished()) && !stop() {
            std::thread::sleep(std::time::Duration::from_millis(100));
        }
        if let Some(session) = self.session.take() {
            session.umount_and_join().map_err(|source| Error::Io { what: "unmount".into(), source })?;
        }
        Ok(())
    }
}

/// Mounts a store on a directory that exists. Answers when the file system answers.
pub fn mount(store: Arc<Store>, directory: &Path, options: &Options, log: Arc<dyn Log>) -> Result<Mounted> {
    server::start(store, directory, options, log)
}
