//! Makes checkpoints of known content, and compares what comes back with them: bytes, modes, links, empty directories.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use safetensors::tensor::{Dtype, TensorView};

/// Bytes that do not compress, always the same for one seed.
pub fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut bytes);
    bytes
}

/// Weights as training leaves them: small floats around 0, 4 bytes each. Their exponents compress.
pub fn weights(seed: u64, count: usize) -> Vec<u8> {
    let noise = noise(seed, count * 2);
    let float = |pair: &[u8]| (f32::from(u16::from_le_bytes([pair[0], pair[1]])) / 65536.0 - 0.5) * 0.04;
    noise.chunks_exact(2).flat_map(|pair| float(pair).to_le_bytes()).collect()
}

/// A safetensors file of `(name, seed, floats)`. Tensors of one seed and length are the same bytes wherever they stand.
pub fn safetensors(tensors: &[(&str, u64, usize)]) -> Vec<u8> {
    let data: Vec<Vec<u8>> = tensors.iter().map(|(_, seed, count)| weights(*seed, *count)).collect();
    let views = tensors.iter().zip(&data).map(|((name, _, count), data)| {
        (*name, TensorView::new(Dtype::F32, vec![*count], data).expect("4 bytes for each float"))
    });
    safetensors::serialize(views, None).expect("tensors of known lengths")
}

/// A zip of stored records as `torch.save` lays it out: data at multiples of 64, sizes in the central directory alone, and
/// no CRC. Records of one seed and length are the same bytes wherever they stand.
pub fn torch_zip(records: &[(u64, usize)]) -> Vec<u8> {
    let pickle = ("archive/data.pkl".to_owned(), noise(records.len() as u64, 200));
    let stored = records.iter().enumerate();
    let stored = stored.map(|(nr, (seed, count))| (format!("archive/data/{nr}"), weights(*seed, *count)));
    let (mut file, mut directory, mut entries) = (Vec::new(), Vec::new(), 0_u16);
    for (name, data) in std::iter::once(pickle).chain(stored) {
        let at = file.len() as u32;
        let padding = (64 - (file.len() + 30 + name.len() + 4) % 64) % 64;
        file.extend(b"PK\x03\x04\x14\0\x08\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0");
        file.extend((name.len() as u16).to_le_bytes());
        file.extend((4 + padding as u16).to_le_bytes());
        file.extend(name.as_bytes());
        file.extend(b"FB");
        file.extend((padding as u16).to_le_bytes());
        file.extend(vec![b'Z'; padding]);
        file.extend(&data);
        let size = (data.len() as u32).to_le_bytes();
        file.extend(b"PK\x07\x08\0\0\0\0");
        file.extend(size);
        file.extend(size);
        directory.extend(b"PK\x01\x02\x14\0\x14\0\x08\0\0\0\0\0\0\0\0\0\0\0");
        directory.extend(size);
        directory.extend(size);
        directory.extend((name.len() as u16).to_le_bytes());
        directory.extend([0; 12]);
        directory.extend(at.to_le_bytes());
        directory.extend(name.as_bytes());
        entries += 1;
    }
    let at = file.len() as u32;
    file.extend(&directory);
    file.extend(b"PK\x05\x06\0\0\0\0");
    file.extend(entries.to_le_bytes());
    file.extend(entries.to_le_bytes());
    file.extend((directory.len() as u32).to_le_bytes());
    file.extend(at.to_le_bytes());
    file.extend([0; 2]);
    file
}

/// One thing in a tree.
#[derive(Clone, PartialEq, Eq)]
pub enum Node {
    /// A file: its bytes and permission bits.
    File(Vec<u8>, u32),
    /// A directory: its permission bits.
    Directory(u32),
    /// A symbolic link and where it points.
    Link(PathBuf),
}

/// What is at a path: one file, or a directory with all that is in it. Two are equal when nothing that a store keeps
/// differs, times left out.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Tree(pub BTreeMap<PathBuf, Node>);

impl fmt::Debug for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(bytes, mode) => {
                write!(f, "file of {} bytes {:.8} {mode:o}", bytes.len(), blake3::hash(bytes).to_hex())
            }
            Self::Directory(mode) => write!(f, "directory {mode:o}"),
            Self::Link(target) => write!(f, "link to {}", target.display()),
        }
    }
}

impl Tree {
    /// A single file.
    pub fn file(bytes: Vec<u8>) -> Self {
        Self(BTreeMap::from([(PathBuf::new(), Node::File(bytes, 0o644))]))
    }

    /// A directory without anything in it.
    pub fn directory() -> Self {
        Self(BTreeMap::from([(PathBuf::new(), Node::Directory(0o755))]))
    }

    /// Adds a member; directories above it must have been added before.
    #[must_use]
    pub fn with(mut self, path: &str, node: Node) -> Self {
        self.0.insert(path.into(), node);
        self
    }

    /// Writes it to `path`, in place of anything that is there.
    pub fn write(&self, path: &Path) {
        remove(path);
        for (relative, node) in &self.0 {
            let at = if relative.as_os_str().is_empty() { path.to_owned() } else { path.join(relative) };
            match node {
                Node::File(bytes, _) => fs::write(&at, bytes).expect("a file can be written"),
                Node::Directory(_) => fs::create_dir(&at).expect("a directory can be made"),
                Node::Link(target) => symlink(target, &at).expect("a link can be made"),
            }
        }
        // Modes last and deepest first: a directory that nobody may write to could not be filled.
        for (relative, node) in self.0.iter().rev() {
            let at = if relative.as_os_str().is_empty() { path.to_owned() } else { path.join(relative) };
            if let Node::File(_, mode) | Node::Directory(mode) = node {
                fs::set_permissions(&at, fs::Permissions::from_mode(*mode)).expect("a mode can be set");
            }
        }
    }

    /// Reads what is at `path`.
    pub fn read(path: &Path) -> Self {
        let mut tree = Self::default();
        tree.read_into(path, PathBuf::new());
        tree
    }

    fn read_into(&mut self, path: &Path, relative: PathBuf) {
        let metadata = fs::symlink_metadata(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let mode = metadata.permissions().mode() & 0o7777;
        let node = if metadata.is_symlink() {
            Node::Link(fs::read_link(path).expect("a link can be read"))
        } else if metadata.is_dir() {
            for entry in fs::read_dir(path).expect("a directory can be listed") {
                let entry = entry.expect("a directory can be listed");
                self.read_into(&entry.path(), relative.join(entry.file_name()));
            }
            Node::Directory(mode)
        } else {
            Node::File(fs::read(path).expect("a file can be read"), mode)
        };
        self.0.insert(relative, node);
    }

    /// Bytes of all its files.
    pub fn bytes(&self) -> u64 {
        self.0.values().map(|node| if let Node::File(bytes, _) = node { bytes.len() as u64 } else { 0 }).sum()
    }
}

/// Removes whatever is at `path`, also below directories that nobody may write to.
pub fn remove(path: &Path) {
    let Ok(metadata) = fs::symlink_metadata(path) else { return };
    if metadata.is_dir() {
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).expect("a mode can be set");
        for entry in fs::read_dir(path).expect("a directory can be listed") {
            remove(&entry.expect("a directory can be listed").path());
        }
        fs::remove_dir(path).expect("an empty directory can be removed");
    } else {
        fs::remove_file(path).expect("a file can be removed");
    }
}

/// A directory for a test, in memory where there is such a place: what a crash loses is simulated, so nothing is gained
/// from a real disk but the wait for it.
pub fn scratch() -> tempfile::TempDir {
    let memory = Path::new("/dev/shm");
    let made = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() };
    made.or_else(|_| tempfile::tempdir()).expect("a directory for the test")
}
