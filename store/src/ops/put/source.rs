//! A regular file of the checkpoint that is being stored: where its bytes come from, and whether it is still what it was.
//! Never reads content other than when asked to as a [`Source`], and never maps a file.

use std::fs::{self, File, Metadata};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::error::{Error, Result};
use crate::id::ChunkId;
use crate::split::Source;

/// A regular file as it was when the put began.
pub struct SourceFile {
    /// Where it is, or the path that it gets when it is nowhere else: errors name it.
    path: PathBuf,
    size: u64,
    origin: Origin,
}

enum Origin {
    /// A file on the disk; kept open, or opened again for each read.
    Disk(Identity, Option<File>),
    /// What the caller gives.
    Given(Arc<dyn Source>),
}

/// What changes when a file does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Identity {
    device: u64,
    inode: u64,
    size: u64,
    mtime: (i64, i64),
}

impl Identity {
    /// That of the file with this metadata.
    pub fn of(metadata: &Metadata) -> Self {
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            size: metadata.size(),
            mtime: (metadata.mtime(), metadata.mtime_nsec()),
        }
    }
}

impl SourceFile {
    /// The file that was opened at `path`; held open if `keep`.
    pub fn open(path: &Path, file: File, keep: bool) -> Result<Self> {
        let now = file.metadata().map_err(|error| Error::io("read", path, error))?;
        let identity = Identity::of(&now);
        let origin = Origin::Disk(identity, Some(file).filter(|_| keep));
        Ok(Self { path: path.to_owned(), size: identity.size, origin })
    }

    /// A file that is only given, with its path inside the checkpoint.
    pub fn given(path: &str, source: &Arc<dyn Source>) -> Self {
        Self { path: path.into(), size: source.size(), origin: Origin::Given(Arc::clone(source)) }
    }

    /// What it was when it was opened; none for a file that is not on the disk.
    pub fn identity(&self) -> Option<Identity> {
        if let Origin::Disk(identity, _) = &self.origin { Some(*identity) } else { None }
    }

    /// Turns an error of reading it into one that says when the file shrank.
    pub fn read_error(&self, error: io::Error) -> Error {
        match error.kind() {
            io::ErrorKind::UnexpectedEof => self.changed("it became shorter"),
            io::ErrorKind::NotFound => self.changed("it was removed"),
            _ => Error::io("read", &self.path, error),
        }
    }

    /// The error for a file that is not what it was.
    pub fn changed(&self, what: &str) -> Error {
        Error::Changed { path: self.path.display().to_string(), what: what.to_owned() }
    }

    /// Fails when the file at the path is no longer the one that was opened, or was written to. What is in memory can't be
    /// asked: there each chunk that is stored was hashed as it is stored.
    pub fn check_unchanged(&self) -> Result<()> {
        let Origin::Disk(then, _) = &self.origin else { return Ok(()) };
        let now = fs::metadata(&self.path).map_err(|error| self.read_error(error))?;
        let now = Identity::of(&now);
        if now == *then {
            return Ok(());
        }
        Err(self.changed(if (now.device, now.inode) != (then.device, then.inode) {
            "another file took its place"
        } else if now.size != then.size {
            "its size is another"
        } else {
            "it was written to"
        }))
    }
}

impl Source for SourceFile {
    fn size(&self) -> u64 {
        self.size
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        match &self.origin {
            Origin::Disk(_, Some(file)) => file.read_exact_at(buf, offset),
            Origin::Disk(_, None) => File::open(&self.path)?.read_exact_at(buf, offset),
            Origin::Given(source) => source.read_exact_at(buf, offset),
        }
    }

    fn bytes(&self, offset: u64, len: usize) -> Option<&[u8]> {
        let Origin::Given(source) = &self.origin else { return None };
        source.bytes(offset, len).filter(|bytes| bytes.len() == len)
    }

    fn known_id(&self, offset: u64, len: u32) -> Option<ChunkId> {
        if let Origin::Given(source) = &self.origin { source.known_id(offset, len) } else { None }
    }
}
