//! A directory that somebody reads: what is in it. Never counts a lookup, and never changes.

use std::ffi::OsStr;
use std::sync::Arc;

use crate::checkpoint::Checkpoint;
use crate::node::{Attributes, Row};
use crate::tree;

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
    /// The version of what is in it; 0 where that never changes.
    pub fn version(&self) -> u32 {
        match &self.content {
            Content::Tree(directory) => directory.version,
            _ => 0,
        }
    }

    /// The name at this place, `.` and `..` not counted.
    pub fn row(&self, at: usize) -> Option<Row<'_>> {
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
