//! A directory that somebody reads: what is in it. Never counts a lookup, and never changes.

use std::ffi::OsStr;
use std::sync::Arc;

use crate::checkpoint::Checkpoint;
use crate::node::{Attributes, Row};
use crate::tree;

/// Where the version stands in what reading goes on from.
const VERSION_SHIFT: u32 = 32;

/// A directory that somebody reads. To be kept until the kernel has what was read: before that, it is not told what changed.
pub struct Directory {
    /// Its inode.
    pub inode: u64,
    /// The inode of the one that it is in.
    pub parent: u64,
    /// Its own.
    pub attributes: Attributes,
    /// Whether it is as it is now, and not as it was when somebody began to read it.
    pub is_current: bool,
    /// What is in it.
    pub content: Content,
    /// The tree by which the answer is made, if it is.
    pub(crate) _answering: Option<Arc<tree::Tree>>,
}

/// What a directory has in it.
pub enum Content {
    /// Runs, checkpoints and links.
    Tree(Arc<tree::Directory>),
    /// What is in a directory of a checkpoint, by its number; none is its own.
    Members(Arc<Checkpoint>, Option<u32>),
    /// A checkpoint's tensors.
    Tensors(Arc<Checkpoint>),
}

impl Directory {
    /// From where reading goes on behind a place: that tells the version as well, so that it goes on in what it began with.
    pub fn next(&self, at: u64) -> u64 {
        u64::from(self.version()) << VERSION_SHIFT | (at + 1)
    }

    /// The version of what is in it; 0 where that never changes.
    fn version(&self) -> u32 {
        match &self.content {
            Content::Tree(directory) => directory.version,
            _ => 0,
        }
    }

    /// The names that every directory has, at their places, and their inodes.
    pub fn dots(&self, at: u64) -> Option<(&'static str, u64)> {
        match at {
            0 => Some((".", self.inode)),
            1 => Some(("..", self.parent)),
            _ => None,
        }
    }

    /// The name at any other place.
    pub fn row(&self, at: u64) -> Option<Row<'_>> {
        let at = usize::try_from(at.checked_sub(2)?).ok()?;
        match &self.content {
            Content::Tree(directory) => {
                let item = directory.items.get(at)?;
                Some(Row { name: OsStr::new(&*item.name), node: item.node.clone(), attributes: item.attributes })
            }
            Content::Members(checkpoint, directory) => checkpoint.row(*directory, at),
            Content::Tensors(checkpoint) => checkpoint.tensor_row(at),
        }
    }
}

/// The place in a directory that reading goes on from.
pub fn place(from: u64) -> u64 {
    from & ((1 << VERSION_SHIFT) - 1)
}

/// The version of the directory that is read on; 0 for none.
pub fn version(from: u64) -> u32 {
    (from >> VERSION_SHIFT) as u32
}
