//! What [`crate::metadata`] answers, as plain values. Never finds anything out.

use std::ffi::OsStr;
use std::sync::Arc;
use std::time::Duration;

use ckpt_store::{Body, CheckpointId};
use fuser::{FileAttr, FileType};

/// What a lookup found. Nothing is an inode of 0: a reply of that tells the kernel how long it may remember that nothing is there.
#[derive(Debug, Clone, Copy)]
pub struct Found {
    /// What `stat` tells.
    pub attr: FileAttr,
    /// How long the name may be believed.
    pub entry_ttl: Duration,
    /// How long the attributes may.
    pub attr_ttl: Duration,
}

/// One name of a directory, as `readdir` gives it.
pub struct Listed<'a> {
    /// The name.
    pub name: &'a OsStr,
    /// From where reading goes on behind it.
    pub next: u64,
    /// Its inode.
    pub ino: u64,
    /// What it is.
    pub kind: FileType,
}

/// One name of a directory, as `readdirplus` gives it.
pub struct ListedPlus<'a> {
    /// The name.
    pub name: &'a OsStr,
    /// From where reading goes on behind it.
    pub next: u64,
    /// What `stat` tells.
    pub attr: FileAttr,
    /// How long name and attributes may be believed.
    pub ttl: Duration,
}

/// What opening a file takes.
pub struct Source {
    /// The checkpoint that it belongs to, whose id is a ref that nothing else can mean.
    pub checkpoint: CheckpointId,
    /// How messages name that checkpoint.
    pub name: String,
    /// How messages name the file.
    pub file: String,
    /// What the file's bytes are.
    pub body: Arc<Body>,
}

/// The room of the disk that the store is on, and how many checkpoints it has.
#[derive(Debug, Clone, Copy)]
pub struct Space {
    /// In units of `block_bytes`.
    pub blocks: u64,
    /// Those that nothing uses.
    pub free: u64,
    /// Those of them that are for everybody.
    pub available: u64,
    /// Checkpoints.
    pub files: u64,
    /// The unit.
    pub block_bytes: u32,
    /// The longest name.
    pub name_bytes_max: u32,
}
