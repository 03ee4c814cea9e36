//! What [`crate::metadata`] answers, as plain values. Never finds anything out.

use std::ffi::OsStr;
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use ckpt_store::{Body, CheckpointId};
use fuser::{FileAttr, FileType, INodeNo};

use crate::node::{Attributes, Kind};
use crate::tree::Tree;

/// What one read should be, as programs are told.
const BLOCK_BYTES: u32 = 1 << 20;
/// The unit of `st_blocks`.
const SECTOR_BYTES: u64 = 512;

/// What a lookup found. Nothing is an inode of 0: a reply of that tells the kernel how long it may remember that nothing is there.
/// To be kept until the kernel has it: before that, it is not told what changed.
#[derive(Clone)]
pub struct Found {
    /// What `stat` tells.
    pub attr: FileAttr,
    /// How long the name may be believed.
    pub entry_ttl: Duration,
    /// How long the attributes may.
    pub attr_ttl: Duration,
    pub(crate) _answering: Option<Arc<Tree>>,
}

/// What the kernel has to be told when the store has changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change<'a> {
    /// A name of a directory means something else now, or nothing.
    Name {
        /// The directory's inode.
        parent: u64,
        /// The name.
        name: &'a str,
    },
    /// What is in this directory is different, or what `stat` tells of it. After the names that are.
    Directory(u64),
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

/// What `stat` tells of an inode of this owner.
pub fn file_attr(ino: u64, attributes: Attributes, owner: (u32, u32)) -> FileAttr {
    let since = Duration::from_millis(attributes.mtime_ms.unsigned_abs());
    let time = if attributes.mtime_ms < 0 { UNIX_EPOCH.checked_sub(since) } else { UNIX_EPOCH.checked_add(since) };
    let time = time.unwrap_or(UNIX_EPOCH);
    // The kernel takes no more.
    let size = attributes.size.min(i64::MAX as u64);
    FileAttr {
        ino: INodeNo(ino),
        size,
        blocks: size.div_ceil(SECTOR_BYTES),
        atime: time,
        mtime: time,
        ctime: time,
        crtime: time,
        kind: file_type(attributes.kind),
        perm: attributes.mode,
        nlink: attributes.links,
        uid: owner.0,
        gid: owner.1,
        rdev: 0,
        blksize: BLOCK_BYTES,
        flags: 0,
    }
}

/// What the kernel calls a kind.
pub fn file_type(kind: Kind) -> FileType {
    match kind {
        Kind::File => FileType::RegularFile,
        Kind::Directory => FileType::Directory,
        Kind::Link => FileType::Symlink,
    }
}
