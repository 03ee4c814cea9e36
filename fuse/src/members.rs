//! The directories of one checkpoint, from its manifest. Pure: never reads anything, and never changes a name: all that a manifest
//! has are names of files.

use std::cmp::Ordering;
use std::collections::HashMap;
use std::ops::Range;

use ckpt_store::{Content, File, Manifest};

use crate::node::{Attributes, Kind};

/// Stands for the checkpoint's own directory where others have a number.
const TOP: u32 = u32::MAX;

/// What is in which directory of a checkpoint. Members are named by their numbers in the manifest, its own directory by none.
pub struct Members {
    /// The directory that each member is in.
    parents: Vec<u32>,
    /// All members by their directories, in each by their names.
    order: Vec<u32>,
    /// The part of `order` that each directory has, and how many directories are in it.
    ranges: HashMap<u32, (Range<usize>, u32)>,
}

impl Members {
    /// The directories of a manifest that was checked.
    pub fn new(manifest: &Manifest) -> Self {
        let files = &manifest.files;
        let mut directories: HashMap<&[u8], u32> = HashMap::new();
        let mut parents = Vec::with_capacity(files.len());
        for (number, file) in (0..).zip(files) {
            let (parent, _) = split(&file.path);
            parents.push(parent.and_then(|path| directories.get(path).copied()).unwrap_or(TOP));
            if matches!(file.content, Content::Directory) {
                directories.insert(&file.path, number);
            }
        }
        let mut order: Vec<u32> = (0..).zip(files).map(|(number, _)| number).collect();
        let key = |number: &u32| (parents[*number as usize], name_of(&files[*number as usize]));
        order.sort_unstable_by(|a, b| key(a).cmp(&key(b)));
        let mut ranges: HashMap<u32, (Range<usize>, u32)> = HashMap::new();
        for (at, number) in order.iter().enumerate() {
            let range = ranges.entry(parents[*number as usize]).or_insert((at..at, 0));
            range.0.end = at + 1;
            range.1 += u32::from(matches!(files[*number as usize].content, Content::Directory));
        }
        Self { parents, order, ranges }
    }

    /// What is in a directory, by names.
    pub fn in_directory(&self, directory: Option<u32>) -> &[u32] {
        self.ranges.get(&directory.unwrap_or(TOP)).map_or(&[], |(range, _)| &self.order[range.clone()])
    }

    /// The member of this name in a directory.
    pub fn get(&self, manifest: &Manifest, directory: Option<u32>, name: &[u8]) -> Option<u32> {
        let members = self.in_directory(directory);
        let at = members.binary_search_by(|number| {
            manifest.files.get(*number as usize).map_or(Ordering::Less, |file| name_of(file).cmp(name))
        });
        at.ok().map(|at| members[at])
    }

    /// The directory that a member is in.
    pub fn parent(&self, member: u32) -> Option<u32> {
        self.parents.get(member as usize).copied().filter(|parent| *parent != TOP)
    }

    /// What `stat` tells of a member.
    pub fn attributes(&self, manifest: &Manifest, member: u32) -> Option<Attributes> {
        let file = manifest.files.get(member as usize)?;
        let (kind, links, size) = match &file.content {
            Content::File { size, .. } => (Kind::File, 1, *size),
            Content::Directory => {
                let directories = self.ranges.get(&member).map_or(0, |(_, directories)| *directories);
                (Kind::Directory, directories.saturating_add(2), 0)
            }
            Content::Link { target } => return Some(Attributes::link(target, file.mtime_ms)),
        };
        Some(Attributes { kind, mode: (file.mode & 0o777) as u16, links, size, mtime_ms: file.mtime_ms })
    }

    /// About how many bytes of memory it takes.
    pub fn bytes(&self) -> usize {
        8 * self.parents.len() + 64 * self.ranges.len()
    }
}

/// The last component of a member's path.
pub fn name_of(file: &File) -> &[u8] {
    split(&file.path).1
}

/// The directory and the name of a path.
fn split(path: &[u8]) -> (Option<&[u8]>, &[u8]) {
    match path.iter().rposition(|byte| *byte == b'/') {
        Some(at) => (Some(&path[..at]), &path[at + 1..]),
        None => (None, path),
    }
}
