//! What paths are and what is known of them: lookups, attributes, directories, links, extended attributes. Never opens
//! a checkpoint, and never reads a manifest but for who looks into that checkpoint.

mod news;
#[cfg(test)]
mod tests;

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ckpt_store::{Body, CheckpointId, Content as File, Store};
use fuser::{Errno, FileAttr, FileType};

use self::news::News;
use crate::answers::{Found, Listed, ListedPlus, Source, Space, file_attr, file_type};
use crate::checkpoint::Checkpoint;
use crate::directory::{Content, Directory, place, version};
use crate::inodes::Inodes;
use crate::limits::FIXED;
use crate::listing::Listing;
use crate::manifests::Manifests;
use crate::node::{Attributes, Kind, Node, Row};
use crate::told::{Told, causes};
use crate::tree;
use crate::tree::Tree;
use crate::views::{SAFETENSORS, TENSORS};
use crate::xattrs::{self, About};
use crate::{Log, Result};

/// Everything about paths but the bytes of files.
pub struct Metadata {
    store: Arc<Store>,
    listing: Listing,
    manifests: Manifests,
    inodes: Inodes,
    owner: (u32, u32),
    log: Told,
    news: Mutex<News>,
    /// Trees that were found to have changed before anybody looked for changes.
    overtaken: Mutex<Vec<Arc<Tree>>>,
}

impl Metadata {
    /// Everything about the paths of a store, or of those runs that a glob matches. All belongs to `owner`, a user and
    /// a group.
    ///
    /// # Errors
    /// When the catalog can't be read, or the glob is none.
    pub fn new(store: Arc<Store>, runs: Option<&str>, owner: (u32, u32), log: Arc<dyn Log>) -> Result<Self> {
        let listing = Listing::new(Arc::clone(&store), runs)?;
        let (manifests, inodes) = (Manifests::default(), Inodes::new());
        let (log, news, overtaken) = (Told::new(log), Mutex::default(), Mutex::default());
        Ok(Self { store, listing, manifests, inodes, owner, log, news, overtaken })
    }

    /// What is of this name in a directory, and counts that the kernel knows it.
    pub fn lookup(&self, parent: u64, name: &OsStr) -> std::result::Result<Found, Errno> {
        let name = name.as_bytes();
        let mut answering = None;
        let found = match self.node(parent)? {
            node @ (Node::Runs(_) | Node::ById) => {
                let tree = answering.insert(self.listing.tree());
                // One that is gone is as one that was removed: nothing is in it.
                let item = tree.directory(&node).and_then(|directory| directory.get(name));
                item.map(|item| (item.node.clone(), item.attributes))
            }
            Node::Checkpoint(id) => self.inside(id)?.get(None, name),
            Node::Member(id, number) => self.inside(id)?.get(Some(number), name),
            Node::Tensors(id) => self.inside(id)?.tensor(name),
            _ => return Err(Errno::ENOTDIR),
        };
        let (ino, attributes) = match found {
            Some((node, attributes)) => (self.inodes.look_up(&node, attributes), attributes),
            None => (0, Attributes { kind: Kind::File, mode: 0, links: 0, size: 0, mtime_ms: 0 }),
        };
        Ok(Found { attr: self.attr(ino, attributes), entry_ttl: FIXED, attr_ttl: FIXED, _answering: answering })
    }

    /// Takes lookups back.
    pub fn forget(&self, ino: u64, lookups: u64) {
        self.inodes.forget(ino, lookups);
    }

    /// What `stat` tells of an inode, and how long that may be believed.
    pub fn attributes(&self, ino: u64) -> std::result::Result<(FileAttr, Duration), Errno> {
        let (node, known) = self.inodes.get(ino).ok_or(Errno::ESTALE)?;
        let now = self.listing_of(&node).map(|directory| directory.attributes);
        let attributes = now.or(known).ok_or(Errno::ESTALE)?;
        Ok((self.attr(ino, attributes), FIXED))
    }

    /// Where a link points.
    pub fn read_link(&self, ino: u64) -> std::result::Result<Vec<u8>, Errno> {
        match self.node(ino)? {
            Node::Link(link) => Ok(link.target.as_bytes().to_vec()),
            Node::Member(id, number) => {
                let inside = self.inside(id)?;
                match inside.manifest.files.get(number as usize).map(|file| &file.content) {
                    Some(File::Link { target }) => Ok(target.to_vec()),
                    _ => Err(Errno::EINVAL),
                }
            }
            _ => Err(Errno::EINVAL),
        }
    }

    /// A directory to be read from `from` on: as it is now, or as it was when somebody began to read it.
    pub fn directory(&self, ino: u64, from: u64) -> std::result::Result<Directory, Errno> {
        let (node, known) = self.inodes.get(ino).ok_or(Errno::ESTALE)?;
        let tree = self.listing.tree();
        let (mut is_current, mut answering) = (true, None);
        let (parent, content) = match &node {
            Node::Runs(_) | Node::ById => {
                let mut directory = tree.directory(&node).cloned();
                let version = version(from);
                if version > 0
                    && directory.as_ref().is_none_or(|now| now.version != version)
                    && let Some(old) = self.listing.old(&node, version)
                {
                    (directory, is_current) = (Some(old), false);
                }
                let directory = directory.unwrap_or_else(|| Arc::new(tree::Directory::gone(node.clone())));
                answering = Some(tree);
                (directory.parent.clone(), Content::Tree(directory))
            }
            Node::Checkpoint(id) => {
                let parent = tree.checkpoint(*id).map(|(parent, _)| parent);
                (parent.unwrap_or_else(Node::root), Content::Members(self.inside(*id)?, None))
            }
            Node::Member(id, number) => {
                let inside = self.inside(*id)?;
                let parent = inside.members.parent(*number);
                let parent = parent.map_or(Node::Checkpoint(*id), |parent| Node::Member(*id, parent));
                (parent, Content::Members(inside, Some(*number)))
            }
            Node::Tensors(id) => (Node::Checkpoint(*id), Content::Tensors(self.inside(*id)?)),
            _ => return Err(Errno::ENOTDIR),
        };
        let attributes = match &content {
            Content::Tree(directory) => directory.attributes,
            _ => known.ok_or(Errno::ESTALE)?,
        };
        if attributes.kind != Kind::Directory {
            return Err(Errno::ENOTDIR);
        }
        let parent = self.inodes.number(&parent);
        Ok(Directory { inode: ino, parent, attributes, is_current, content, _answering: answering })
    }

    /// Gives the names of a directory from `from` on, until `add` answers that it has no room for that one.
    pub fn entries(&self, directory: &Directory, from: u64, mut add: impl FnMut(Listed<'_>) -> bool) {
        for at in place(from).. {
            let next = directory.next(at);
            let full = match directory.dots(at) {
                Some((name, ino)) => add(Listed { name: OsStr::new(name), next, ino, kind: FileType::Directory }),
                None => {
                    let Some(Row { name, node, attributes }) = directory.row(at) else { return };
                    let kind = file_type(attributes.kind);
                    add(Listed { name, next, ino: self.inodes.number(&node), kind })
                }
            };
            if full {
                return;
            }
        }
    }

    /// As [`Self::entries`] with what `stat` tells of each. Counts a lookup of each that was taken, but for `.` and
    /// `..`.
    pub fn entries_plus(&self, directory: &Directory, from: u64, mut add: impl FnMut(ListedPlus<'_>) -> bool) {
        // What is read as it was is not what the kernel should remember.
        let ttl = if directory.is_current { FIXED } else { Duration::ZERO };
        for at in place(from).. {
            let next = directory.next(at);
            if let Some((name, ino)) = directory.dots(at) {
                // The kernel looks at nothing but the inode and that it is a directory.
                let attr = self.attr(ino, directory.attributes);
                if add(ListedPlus { name: OsStr::new(name), next, attr, ttl: Duration::ZERO }) {
                    return;
                }
                continue;
            }
            let Some(Row { name, node, attributes }) = directory.row(at) else { return };
            let ino = self.inodes.look_up(&node, attributes);
            if add(ListedPlus { name, next, attr: self.attr(ino, attributes), ttl }) {
                self.forget(ino, 1);
                return;
            }
        }
    }

    /// The value of an extended attribute. `stored` tells what a file takes, by its number in the manifest.
    pub fn xattr(
        &self,
        ino: u64,
        name: &OsStr,
        stored: impl FnOnce(CheckpointId, u32) -> std::result::Result<u64, Errno>,
    ) -> std::result::Result<Vec<u8>, Errno> {
        // The kernel asks for others at each turn.
        if !name.as_bytes().starts_with(xattrs::PREFIX.as_bytes()) {
            return Err(Errno::NO_XATTR);
        }
        if name == xattrs::STORED_BYTES
            && let Some((id, file)) = self.stored_file(ino)
        {
            return Ok(stored(id, file)?.to_string().into_bytes());
        }
        let mut all = self.xattrs(ino)?.into_iter();
        all.find(|(known, _)| *known == name).map(|(_, value)| value).ok_or(Errno::NO_XATTR)
    }

    /// The names of all extended attributes, each with a NUL behind it.
    pub fn xattr_names(&self, ino: u64) -> std::result::Result<Vec<u8>, Errno> {
        let mut all = self.xattrs(ino)?;
        all.extend(self.stored_file(ino).map(|_| (xattrs::STORED_BYTES, Vec::new())));
        Ok(xattrs::list(&all))
    }

    /// The regular file of a checkpoint that this is.
    fn stored_file(&self, ino: u64) -> Option<(CheckpointId, u32)> {
        match self.inodes.get(ino)? {
            (Node::Member(id, number), Some(attributes)) if attributes.kind == Kind::File => Some((id, number)),
            _ => None,
        }
    }

    /// The room that there is.
    pub fn statfs(&self) -> std::result::Result<Space, Errno> {
        let there = rustix::fs::statvfs(self.store.root()).map_err(|error| Errno::from(std::io::Error::from(error)))?;
        Ok(Space {
            blocks: there.f_blocks,
            free: there.f_bfree,
            available: there.f_bavail,
            files: self.listing.tree().len() as u64,
            block_bytes: u32::try_from(there.f_frsize).unwrap_or(512),
            name_bytes_max: crate::names::NAME_BYTES_MAX as u32,
        })
    }

    /// What opening a file takes.
    pub fn source(&self, ino: u64) -> std::result::Result<Source, Errno> {
        let node = self.node(ino)?;
        let Some(checkpoint) = node.checkpoint() else {
            return Err(if matches!(node, Node::Link(_)) { Errno::ELOOP } else { Errno::EISDIR });
        };
        let inside = self.inside(checkpoint)?;
        let manifest = &inside.manifest;
        let (file, body) = match node {
            Node::Member(_, number) => {
                let file = manifest.files.get(number as usize).ok_or(Errno::ESTALE)?;
                let body = match file.content {
                    File::File { .. } => Body::of_file(manifest, number).map(Arc::new),
                    File::Directory => return Err(Errno::EISDIR),
                    File::Link { .. } => return Err(Errno::ELOOP),
                };
                (String::from_utf8_lossy(&file.path).into_owned(), body)
            }
            Node::Safetensors(_) => (SAFETENSORS.to_owned(), inside.views.safetensors(manifest).cloned()),
            Node::Tensor(_, number) => {
                let name = inside.tensors().files.get(number as usize).map(|file| &*file.name);
                (format!("{TENSORS}/{}", name.unwrap_or_default()), inside.tensors().body(number))
            }
            _ => return Err(Errno::EISDIR),
        };
        let name = match manifest.step {
            Some(step) => format!("{}@{step}", manifest.run),
            None => checkpoint.to_string(),
        };
        Ok(Source { checkpoint, name, file, body: body.ok_or(Errno::ESTALE)? })
    }

    /// The regular files of a checkpoint: the inode of each, and what its bytes are made of.
    ///
    /// # Errors
    /// When its manifest can't be read.
    pub fn files_of(&self, id: CheckpointId) -> ckpt_store::Result<Vec<(u64, Arc<Body>)>> {
        let manifest = Arc::clone(&self.manifests.get(&self.store, id)?.manifest);
        let file = |number| {
            let body = Arc::new(Body::of_file(&manifest, number)?);
            Some((self.inodes.number(&Node::Member(id, number)), body))
        };
        Ok((0..manifest.files.len() as u32).filter_map(file).collect())
    }

    /// Whether the kernel knows an inode.
    pub fn is_known(&self, ino: u64) -> bool {
        self.inodes.get(ino).is_some()
    }

    fn node(&self, ino: u64) -> std::result::Result<Node, Errno> {
        self.inodes.get(ino).map(|(node, _)| node).ok_or(Errno::ESTALE)
    }

    fn listing_of(&self, node: &Node) -> Option<Arc<tree::Directory>> {
        match node {
            Node::Runs(_) | Node::ById => self.listing.tree().directory(node).cloned(),
            _ => None,
        }
    }

    /// A checkpoint to look into, which may be one that was dropped as long as its manifest is there.
    fn inside(&self, id: CheckpointId) -> std::result::Result<Arc<Checkpoint>, Errno> {
        self.manifests.get(&self.store, id).map_err(|error| {
            // Dropped and collected a moment ago is not damaged.
            self.catch_up();
            let tree = self.listing.tree();
            let Some((_, entry)) = tree.checkpoint(id) else { return Errno::ESTALE };
            self.log.once(&format!("{} can't be shown: {}", ckpt_store::name_of(entry), self.why(&error)));
            Errno::EIO
        })
    }

    /// What people should hear of an error: a store that is away would look as one that is damaged.
    fn why(&self, error: &ckpt_store::Error) -> String {
        let root = self.store.root();
        if root.exists() { causes(error) } else { format!("no store in {}", root.display()) }
    }

    fn xattrs(&self, ino: u64) -> std::result::Result<Vec<(&'static str, Vec<u8>)>, Errno> {
        let node = self.node(ino)?;
        let Some(id) = node.checkpoint() else {
            let directory = self.listing_of(&node);
            let whole_name = directory.as_ref().and_then(|directory| directory.whole_name.as_deref());
            return Ok(About { whole_name, ..About::default() }.all());
        };
        let tree = self.listing.tree();
        let inside = match node {
            Node::Tensor(..) => Some(self.inside(id)?),
            // What was dropped is in no catalog.
            _ if tree.checkpoint(id).is_none() => Some(self.inside(id)?),
            _ => None,
        };
        let entry = tree.checkpoint(id).map(|(_, entry)| entry);
        let checkpoint = match (entry, &inside) {
            (Some(entry), _) => Some((id, &*entry.run, entry.step)),
            (None, Some(inside)) => Some((id, &*inside.manifest.run, inside.manifest.step)),
            (None, None) => None,
        };
        let stored_bytes = match node {
            Node::Checkpoint(_) => entry.map(|entry| entry.written_bytes),
            _ => None,
        };
        let whole_name = match (&node, &inside) {
            (Node::Tensor(_, number), Some(inside)) => {
                inside.tensors().files.get(*number as usize).and_then(|file| file.whole_name.as_deref())
            }
            _ => None,
        };
        Ok(About { checkpoint, stored_bytes, whole_name }.all())
    }

    fn attr(&self, ino: u64, attributes: Attributes) -> FileAttr {
        file_attr(ino, attributes, self.owner)
    }
}
