//! A directory that somebody has open: what was in it at that moment. Never counts a lookup, and never changes while it is open.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;

use ckpt_store::CheckpointId;

use crate::manifests::Loaded;
use crate::members::name_of;
use crate::node::{Attributes, Node};
use crate::{tree, views};

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
    /// Members of a checkpoint: of one of its directories, or those beside which its views are.
    Members(CheckpointId, Arc<Loaded>, Option<u32>),
    /// A checkpoint's tensors.
    Tensors(CheckpointId, Arc<Loaded>),
}

/// One name of a directory.
pub struct Row<'a> {
    /// The name.
    pub name: &'a OsStr,
    /// What it is.
    pub node: Node,
    /// What `stat` tells of it.
    pub attributes: Attributes,
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
            Content::Members(id, loaded, directory) => {
                let members = loaded.members.in_directory(*directory);
                let Some(number) = members.get(at) else {
                    let views = directory.is_none().then(|| loaded.views(*id));
                    return views?.nth(at - members.len());
                };
                let file = loaded.manifest.files.get(*number as usize)?;
                let attributes = loaded.members.attributes(&loaded.manifest, *number)?;
                Some(Row { name: OsStr::from_bytes(name_of(file)), node: Node::Member(*id, *number), attributes })
            }
            Content::Tensors(id, loaded) => {
                let tensor = loaded.tensors().files.get(at)?;
                let node = Node::Tensor(*id, u32::try_from(at).ok()?);
                let attributes = views::attributes(tensor.len, &loaded.manifest);
                Some(Row { name: OsStr::new(&*tensor.name), node, attributes })
            }
        }
    }
}
