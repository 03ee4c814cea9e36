//! What a path of the mount can be. Never knows its inode, and never where in a directory it stands.

use std::ffi::OsStr;
use std::sync::Arc;

use ckpt_store::CheckpointId;

/// A file, directory or link of the mount.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Node {
    /// A directory of runs, by its path below the mount point as it is shown; empty is the root.
    Runs(Arc<str>),
    /// The directory of all checkpoints by their ids.
    ById,
    /// A link that the mount makes: `latest`, `best`, a tag, an id.
    Link(Arc<Link>),
    /// The directory of a checkpoint.
    Checkpoint(CheckpointId),
    /// A file, directory or link of a checkpoint, by its number in the manifest.
    Member(CheckpointId, u32),
    /// A checkpoint as one safetensors file.
    Safetensors(CheckpointId),
    /// The directory of a checkpoint's tensors.
    Tensors(CheckpointId),
    /// A tensor as a NumPy file, by its number among those of the checkpoint.
    Tensor(CheckpointId, u32),
}

/// A link that the mount makes. One that comes to point elsewhere is another one, so that nobody remembers a wrong target.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Link {
    /// The path of its directory, as it is shown.
    pub directory: Arc<str>,
    /// Its name, as it is shown.
    pub name: Arc<str>,
    /// Where it points.
    pub target: Arc<str>,
}

/// What kind of thing a node is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link.
    Link,
}

/// What `stat` tells of a node, but for its inode and its owner.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attributes {
    /// What it is.
    pub kind: Kind,
    /// Permission bits.
    pub mode: u16,
    /// Names that lead to it: of a directory 2 and its directories, or 1 where these are not counted.
    pub links: u32,
    /// Bytes.
    pub size: u64,
    /// Time of the last change, milliseconds since 1970.
    pub mtime_ms: i64,
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

impl Attributes {
    /// Those of a directory that the mount makes. Its owner may write to it as far as it goes: nobody can here, but in what `cp`
    /// makes of it.
    pub fn directory(links: u32, mtime_ms: i64) -> Self {
        Self { kind: Kind::Directory, mode: 0o755, links, size: 0, mtime_ms }
    }

    /// Those of a link.
    pub fn link(target: &[u8], mtime_ms: i64) -> Self {
        Self { kind: Kind::Link, mode: 0o777, links: 1, size: target.len() as u64, mtime_ms }
    }

    /// Those of a file that the mount makes of the bytes of others.
    pub fn view(mode: u16, size: u64, mtime_ms: i64) -> Self {
        Self { kind: Kind::File, mode, links: 1, size, mtime_ms }
    }

    /// Those of the directory of a checkpoint. What is in it is counted only by who reads the manifest, so it has one link,
    /// as directories have on file systems that don't count.
    pub fn checkpoint(time_ms: i64) -> Self {
        Self::directory(1, time_ms)
    }
}

impl Node {
    /// The root.
    pub fn root() -> Self {
        Self::Runs("".into())
    }

    /// The checkpoint that it is a part of.
    pub fn checkpoint(&self) -> Option<CheckpointId> {
        match self {
            Self::Checkpoint(id)
            | Self::Member(id, _)
            | Self::Safetensors(id)
            | Self::Tensors(id)
            | Self::Tensor(id, _) => Some(*id),
            Self::Runs(_) | Self::ById | Self::Link(_) => None,
        }
    }

    /// Bytes that no other node has, the same in every process and on every machine.
    pub fn to_bytes(&self) -> Vec<u8> {
        let texts = |kind: u8, texts: &[&str]| {
            let mut bytes = vec![kind];
            for text in texts {
                bytes.extend((text.len() as u64).to_le_bytes());
                bytes.extend(text.as_bytes());
            }
            bytes
        };
        let of = |kind: u8, id: &CheckpointId, number: u32| {
            let mut bytes = vec![kind];
            bytes.extend(id.to_bytes());
            bytes.extend(number.to_le_bytes());
            bytes
        };
        match self {
            Self::Runs(path) => texts(0, &[path]),
            Self::ById => texts(1, &[]),
            Self::Link(link) => texts(2, &[&link.directory, &link.name, &link.target]),
            Self::Checkpoint(id) => of(3, id, 0),
            Self::Member(id, number) => of(4, id, *number),
            Self::Safetensors(id) => of(5, id, 0),
            Self::Tensors(id) => of(6, id, 0),
            Self::Tensor(id, number) => of(7, id, *number),
        }
    }
}
