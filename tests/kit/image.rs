//! What a power cut leaves of a directory, by the rules of POSIX and nothing kinder: bytes of a file are safe once the file
//! was synced, a name is safe once its directory was.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use crate::disk::Change;
use crate::sample;

/// What becomes of bytes that were not synced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bytes {
    /// They are there.
    Kept,
    /// They are gone.
    Lost,
    /// A part of them is there.
    Torn,
    /// The file has its length, but other bytes.
    Garbage,
}

/// What becomes of names that were made, moved or removed in directories that were not synced since.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Names {
    /// They are as they were last.
    Kept,
    /// They are as they were when the directory was synced.
    Lost,
    /// Removals are there, new names are not.
    Removed,
    /// Each is as it was at some moment since, by the seed.
    Some(u64),
}

/// A kind of power cut.
pub type Loss = (Bytes, Names);

/// Every kind that is tried.
pub const LOSSES: [Loss; 9] = [
    (Bytes::Kept, Names::Kept),
    (Bytes::Lost, Names::Kept),
    (Bytes::Torn, Names::Kept),
    (Bytes::Garbage, Names::Kept),
    (Bytes::Kept, Names::Lost),
    (Bytes::Lost, Names::Lost),
    (Bytes::Torn, Names::Removed),
    (Bytes::Lost, Names::Some(1)),
    (Bytes::Garbage, Names::Some(2)),
];

/// Files and directories by their paths; a directory has no bytes.
pub type Image = BTreeMap<PathBuf, Option<Vec<u8>>>;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Thing {
    Directory,
    File(usize),
}

#[derive(Debug, Clone, Default)]
struct Content {
    bytes: Vec<u8>,
    durable: usize,
}

/// A directory while it is being changed, with all that it may be after a power cut.
#[derive(Debug, Clone, Default)]
pub struct Directory {
    files: Vec<Content>,
    /// What each name stood for: first what is durable, last what is so now.
    names: BTreeMap<PathBuf, Vec<Option<Thing>>>,
}

impl Directory {
    /// A directory after these changes.
    pub fn after(changes: &[Change]) -> Self {
        let mut directory = Self::default();
        changes.iter().for_each(|change| directory.apply(change));
        directory
    }

    /// Makes one more change.
    pub fn apply(&mut self, change: &Change) {
        match change {
            Change::Create(path, nr) => {
                assert_eq!(*nr, self.files.len(), "files are numbered in the order in which they are made");
                self.files.push(Content::default());
                self.set(path, Some(Thing::File(*nr)));
            }
            Change::Append(nr, bytes) => self.files[*nr].bytes.extend(bytes),
            Change::Sync(nr) => self.files[*nr].durable = self.files[*nr].bytes.len(),
            Change::Rename(from, to) => {
                let thing = self.names.get(from).and_then(|history| history.last().copied().flatten());
                self.set(to, thing);
                self.set(from, None);
            }
            Change::SyncDir(directory) => {
                for (path, history) in &mut self.names {
                    if path.parent() == Some(directory) {
                        history.drain(..history.len() - 1);
                    }
                }
            }
            Change::Remove(path) => self.set(path, None),
            Change::CreateDir(path) => self.set(path, Some(Thing::Directory)),
        }
    }

    fn set(&mut self, path: &Path, thing: Option<Thing>) {
        self.names.entry(path.to_owned()).or_insert_with(|| vec![None]).push(thing);
    }

    /// The bytes that a file is sure to have after a power cut; none when its name is not safe.
    pub fn durable(&self, path: &Path) -> Option<&[u8]> {
        match self.names.get(path)?.first()? {
            Some(Thing::File(nr)) => Some(&self.files[*nr].bytes[..self.files[*nr].durable]),
            _ => None,
        }
    }

    /// What a power cut now leaves. `nr` varies what is left to chance.
    pub fn cut(&self, (bytes, names): Loss, nr: u64) -> Image {
        let mut image = Image::new();
        for (path, history) in &self.names {
            let chance = |seed: u64| {
                let hash = blake3::hash(format!("{nr} {seed} {}", path.display()).as_bytes());
                usize::from(hash.as_bytes()[0]) << 8 | usize::from(hash.as_bytes()[1])
            };
            let (first, last) = (history[0], history[history.len() - 1]);
            let thing = match names {
                Names::Kept => last,
                Names::Lost => first,
                Names::Removed => {
                    if last.is_none() {
                        last
                    } else {
                        first
                    }
                }
                Names::Some(seed) => history[chance(seed) % history.len()],
            };
            // Names come in order, so a directory that is lost is known before what was in it.
            let is_placed = path
                .parent()
                .is_none_or(|parent| parent.as_os_str().is_empty() || matches!(image.get(parent), Some(None)));
            match thing {
                Some(Thing::Directory) if is_placed => drop(image.insert(path.clone(), None)),
                Some(Thing::File(file)) if is_placed => {
                    let Content { bytes: all, durable } = &self.files[file];
                    let unsafe_bytes = all.len() - durable;
                    let left = match bytes {
                        Bytes::Kept => all.clone(),
                        Bytes::Lost => all[..*durable].to_vec(),
                        Bytes::Torn => all[..durable + chance(77) % (unsafe_bytes + 1)].to_vec(),
                        Bytes::Garbage => [&all[..*durable], &sample::noise(nr, unsafe_bytes)].concat(),
                    };
                    image.insert(path.clone(), Some(left));
                }
                _ => {}
            }
        }
        image
    }
}

/// Writes an image to `root`, which must not exist.
pub fn write(image: &Image, root: &Path) {
    fs::create_dir(root).expect("a directory can be made");
    for (path, bytes) in image {
        match bytes {
            None => fs::create_dir(root.join(path)).expect("a directory can be made"),
            Some(bytes) => fs::write(root.join(path), bytes).expect("a file can be written"),
        }
    }
}

/// A short name of an image: two that are the same need be looked at only once.
pub fn digest(image: &Image) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new();
    for (path, bytes) in image {
        hasher.update(path.as_os_str().as_encoded_bytes()).update(b"\0");
        if let Some(bytes) = bytes {
            hasher.update(b"f").update(&(bytes.len() as u64).to_le_bytes()).update(bytes);
        }
    }
    *hasher.finalize().as_bytes()
}

/// Copies a directory and all that is in it to `to`, which must not exist.
pub fn copy(from: &Path, to: &Path) {
    fs::create_dir(to).expect("a directory can be made");
    for entry in fs::read_dir(from).expect("a directory can be listed") {
        let entry = entry.expect("a directory can be listed");
        let (from, to) = (entry.path(), to.join(entry.file_name()));
        if entry.file_type().expect("a file has a type").is_dir() {
            copy(&from, &to);
        } else {
            fs::copy(&from, &to).expect("a file can be copied");
        }
    }
}
