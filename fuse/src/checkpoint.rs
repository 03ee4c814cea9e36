//! A checkpoint that somebody looks into: what is in which of its directories. Never reads anything but the manifest that it has.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;

use ckpt_store::{CheckpointId, Content, File, Manifest, Segment, Tensor};

use crate::members::{Members, name_of};
use crate::node::{Attributes, Node, Row};
use crate::views::{SAFETENSORS, TENSORS, Tensors, Views};

/// About what each tensor takes once somebody looked at the views.
const VIEW_BYTES: usize = 512;

/// The permission of everybody to read a file.
const ALL_READ: u16 = 0o444;
/// The permission of everybody to search a directory.
const ALL_SEARCH: u16 = 0o111;

/// A checkpoint and what follows from its manifest.
pub struct Checkpoint {
    /// What it holds.
    pub manifest: Arc<Manifest>,
    /// Its directories.
    pub members: Members,
    /// What it is shown as besides.
    pub views: Views,
}

impl Checkpoint {
    /// The checkpoint of a manifest that was checked.
    pub fn new(manifest: Manifest) -> Self {
        let (members, views) = (Members::new(&manifest), Views::default());
        Self { manifest: Arc::new(manifest), members, views }
    }

    /// Its id.
    pub fn id(&self) -> CheckpointId {
        self.manifest.id
    }

    /// Its tensors as files.
    pub fn tensors(&self) -> &Tensors {
        self.views.tensors(&self.manifest)
    }

    /// What is of this name in one of its directories; none is its own.
    pub fn get(&self, directory: Option<u32>, name: &[u8]) -> Option<(Node, Attributes)> {
        match self.members.get(&self.manifest, directory, name) {
            Some(number) => Some((Node::Member(self.id(), number), self.members.attributes(&self.manifest, number)?)),
            None if directory.is_none() => self.view(name),
            None => None,
        }
    }

    /// The row at this place of one of its directories; none is its own. The views are in no row: who copies or counts a
    /// checkpoint means its own files.
    pub fn row(&self, directory: Option<u32>, at: usize) -> Option<Row<'_>> {
        let number = *self.members.in_directory(directory).get(at)?;
        let file = self.manifest.files.get(number as usize)?;
        let attributes = self.members.attributes(&self.manifest, number)?;
        Some(Row { name: OsStr::from_bytes(name_of(file)), node: Node::Member(self.id(), number), attributes })
    }

    /// The tensor that is shown by this name.
    pub fn tensor(&self, name: &[u8]) -> Option<(Node, Attributes)> {
        let number = self.tensors().get(name)?;
        let row = self.tensor_row(number as usize)?;
        Some((row.node, row.attributes))
    }

    /// The row at this place of the directory of tensors.
    pub fn tensor_row(&self, at: usize) -> Option<Row<'_>> {
        let file = self.tensors().files.get(at)?;
        let node = Node::Tensor(self.id(), u32::try_from(at).ok()?);
        let attributes = Attributes::view(self.readable(file.of()), file.len, self.manifest.time_ms);
        Some(Row { name: OsStr::new(&*file.name), node, attributes })
    }

    /// A view that has this name, whether or not a file has it as well.
    fn view(&self, name: &[u8]) -> Option<(Node, Attributes)> {
        let time_ms = self.manifest.time_ms;
        if name == SAFETENSORS.as_bytes() {
            let body = self.views.safetensors(&self.manifest)?;
            let files = (0..).zip(&self.manifest.files).filter(|(_, file)| has_tensors(file));
            let mode = files.fold(ALL_READ, |mode, (number, _)| mode & self.readable(number));
            return Some((Node::Safetensors(self.id()), Attributes::view(mode, body.len(), time_ms)));
        }
        let is_there = name == TENSORS.as_bytes() && !self.tensors().files.is_empty();
        is_there.then(|| (Node::Tensors(self.id()), Attributes::directory(2, time_ms)))
    }

    /// Who may read a member, as the permissions of a view of its bytes: nobody may who can't read it by its own path.
    fn readable(&self, member: u32) -> u16 {
        let mode = |number: u32| self.manifest.files.get(number as usize).map_or(0, |file| file.mode as u16);
        let mut readable = mode(member) & ALL_READ;
        let mut above = self.members.parent(member);
        while let Some(directory) = above {
            // Who may search it.
            readable &= (mode(directory) & ALL_SEARCH) << 2;
            above = self.members.parent(directory);
        }
        readable
    }

    /// About how many bytes of memory it takes, with the views.
    pub fn bytes(&self) -> usize {
        let manifest = &self.manifest;
        let tensor = |tensor: &Option<Tensor>| match tensor {
            Some(Tensor(name, dtype, shape)) => {
                VIEW_BYTES
                    + 4 * (name.len() + dtype.as_ref().map_or(0, String::len))
                    + 16 * shape.as_ref().map_or(0, Vec::len)
            }
            None => 0,
        };
        let content = |content: &Content| match content {
            Content::File { segments, views, .. } => {
                let segments = segments.iter().map(|segment| size_of::<Segment>() + tensor(&segment.3)).sum::<usize>();
                let views = views.iter().map(|view| 256 + VIEW_BYTES + 4 * view.0.len() + 32 * view.2.len());
                segments + views.sum::<usize>()
            }
            Content::Directory => 0,
            Content::Link { target } => target.len(),
        };
        let files = manifest.files.iter().map(|file| 192 + file.path.len() + content(&file.content));
        let meta = manifest.meta.iter().map(|(name, text)| 64 + name.len() + text.len());
        let chunks = 36 * manifest.chunk_count();
        1024 + manifest.inline.len() + chunks + files.sum::<usize>() + meta.sum::<usize>() + self.members.bytes()
    }
}

fn has_tensors(file: &File) -> bool {
    let Content::File { segments, views, .. } = &file.content else { return false };
    !views.is_empty() || segments.iter().any(|segment| segment.3.is_some())
}
