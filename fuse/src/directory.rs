//! A directory that somebody has open: what was in it at that moment. Never counts a lookup, and never changes while it is open.

use std::ffi::OsStr;
use std::sync::Arc;

use crate::checkpoint::Checkpoint;
use crate::node::{Attributes, Row};
use crate::tree;

/// A directory that is open.
pub struct Directory {
    /// Its inode.
    pub inode: u64,
    /// The inode of the one that it is in.
    pub parent: u64,
    /// Its own.
    pub attributes: Attributes,
    content: Content,
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
    /// Opens what is in it now.
    pub fn new(inode: u64, parent: u64, attributes: Attributes, content: Content) -> Self {
        Self { inode, parent, attributes, content }
    }

    /// What it shows of the tree, if that is what it shows.
    pub fn of_tree(&self) -> Option<&Arc<tree::Directory>> {
        match &self.content {
            Content::Tree(directory) => Some(directory),
            _ => None,
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
