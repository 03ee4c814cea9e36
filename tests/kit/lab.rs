//! A place to work in: a temporary directory with a store, and the real command on it.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use ckpt_store::{GetRequest, PutReport, PutRequest, Quiet, Store, VerifyReport, VerifyRequest};
use tempfile::TempDir;

use crate::run::{Ran, on, run};

/// A temporary directory with a store in it; gone when dropped.
pub struct Lab {
    dir: TempDir,
}

/// What is at one path of a tree: everything that a get has to bring back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Node {
    /// A regular file: mode, time of the last change in milliseconds, size and BLAKE3.
    File(u32, i64, u64, [u8; 32]),
    /// A directory: mode and time of the last change in milliseconds.
    Directory(u32, i64),
    /// A link and its target.
    Link(Vec<u8>),
}

/// Bytes that don't compress, the same ones for the same seed.
pub fn noise(seed: u64, bytes: usize) -> Vec<u8> {
    let mut noise = vec![0; bytes];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut noise);
    noise
}

/// A safetensors file of tensors of these names, dtypes and bytes, one-dimensional, elements of one byte being `U8`.
pub fn safetensors(tensors: &[(&str, &str, &[u8])]) -> Vec<u8> {
    let mut at = 0;
    let mut header = serde_json::Map::new();
    for (name, dtype, bytes) in tensors {
        let width = if dtype.ends_with("32") {
            4
        } else if dtype.ends_with("16") {
            2
        } else {
            1
        };
        let end = at + bytes.len();
        let entry = serde_json::json!({ "dtype": dtype, "shape": [bytes.len() / width], "data_offsets": [at, end] });
        header.insert((*name).to_owned(), entry);
        at = end;
    }
    let header = serde_json::Value::Object(header).to_string();
    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.extend_from_slice(header.as_bytes());
    tensors.iter().for_each(|(_, _, bytes)| file.extend_from_slice(bytes));
    file
}

/// Everything under `root`, by relative path; `root` itself is left out.
pub fn tree(root: &Path) -> BTreeMap<Vec<u8>, Node> {
    let mut found = BTreeMap::new();
    let mut todo = vec![root.to_owned()];
    while let Some(directory) = todo.pop() {
        for entry in fs::read_dir(&directory).unwrap_or_else(|e| panic!("{}: {e}", directory.display())) {
            let path = entry.expect("a directory can be listed").path();
            let metadata = fs::symlink_metadata(&path).expect("what is listed is there");
            let mode = metadata.permissions().mode() & 0o7777;
            let mtime = metadata.mtime() * 1000 + metadata.mtime_nsec() / 1_000_000;
            let node = if metadata.is_symlink() {
                Node::Link(fs::read_link(&path).expect("a link has a target").as_os_str().as_bytes().to_vec())
            } else if metadata.is_dir() {
                todo.push(path.clone());
                Node::Directory(mode, mtime)
            } else {
                let bytes = fs::read(&path).expect("a file can be read");
                Node::File(mode, mtime, bytes.len() as u64, *blake3::hash(&bytes).as_bytes())
            };
            let relative = path.strip_prefix(root).expect("it is under its root").as_os_str().as_bytes().to_vec();
            found.insert(relative, node);
        }
    }
    found
}

/// The names in a directory, sorted.
pub fn names(directory: &Path) -> BTreeSet<String> {
    let entries = fs::read_dir(directory).unwrap_or_else(|e| panic!("{}: {e}", directory.display()));
    entries.map(|entry| entry.expect("it can be listed").file_name().to_string_lossy().into_owned()).collect()
}

/// All regular files under `root`, sorted.
pub fn files(root: &Path) -> Vec<PathBuf> {
    let is_file = |node: &Node| matches!(node, Node::File(..));
    tree(root).iter().filter(|(_, node)| is_file(node)).map(|(path, _)| root.join(OsStr::from_bytes(path))).collect()
}

/// Files of the store that no checkpoint needs, read from the files themselves and not by the store's own walk.
pub fn leftovers(root: &Path) -> Vec<String> {
    let store = Store::open(root).expect("the store opens");
    let entries = store.checkpoints().expect("the catalog can be read");
    let mut left: Vec<String> = Vec::new();
    for folder in ["tmp", "sessions"] {
        left.extend(names(&root.join(folder)).into_iter().map(|name| format!("{folder}/{name}")));
    }
    let ids: BTreeSet<String> = entries.iter().map(|entry| entry.id.to_string()).collect();
    left.extend(names(&root.join("checkpoints")).difference(&ids).map(|name| format!("checkpoints/{name}")));
    let mut needed: HashSet<[u8; 32]> = HashSet::new();
    for entry in &entries {
        needed.extend(store.manifest(entry.id).expect("a manifest can be read").chunks().map(|chunk| chunk.0));
    }
    for path in files(&root.join("packs")) {
        let pack = fs::read(&path).expect("a pack can be read");
        if !pack_lines(&pack).iter().any(|line| needed.contains(&line.chunk)) {
            left.push(path.display().to_string());
        }
    }
    left
}

/// Where a pack's bytes say that a chunk lies; docs/format.md has the table.
#[derive(Debug, Clone, Copy)]
pub struct PackLine {
    /// The chunk's id.
    pub chunk: [u8; 32],
    /// Where its payload begins.
    pub offset: usize,
    /// Bytes of its payload.
    pub stored_len: usize,
}

/// The lines of the trailer of a sound pack.
pub fn pack_lines(pack: &[u8]) -> Vec<PackLine> {
    let number = |at: usize, bytes: usize| {
        let mut le = [0; 8];
        le[..bytes].copy_from_slice(&pack[at..at + bytes]);
        usize::try_from(u64::from_le_bytes(le)).expect("a pack is small")
    };
    let footer = pack.len() - 64;
    let (start, len) = (number(footer + 8, 8), number(footer + 16, 8));
    let line = |at: usize| {
        let mut chunk = [0; 32];
        chunk.copy_from_slice(&pack[at..at + 32]);
        PackLine { chunk, offset: number(at + 32, 8), stored_len: number(at + 40, 4) }
    };
    (start..start + len).step_by(56).map(line).collect()
}

impl Lab {
    /// A directory with an empty store.
    pub fn new() -> Self {
        let lab = Self::bare();
        Store::init(&lab.store()).expect("a store can be made");
        lab
    }

    /// A directory without a store.
    pub fn bare() -> Self {
        Self { dir: TempDir::with_prefix("ckpt-test-").expect("a temporary directory can be made") }
    }

    /// The directory.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// A path in the directory.
    pub fn path(&self, name: impl AsRef<OsStr>) -> PathBuf {
        self.dir.path().join(Path::new(name.as_ref()))
    }

    /// Where the store is.
    pub fn store(&self) -> PathBuf {
        self.path("store")
    }

    /// The store, opened in this process.
    pub fn open(&self) -> Store {
        Store::open(&self.store()).expect("the store opens")
    }

    /// Writes a file and the directories that it is in.
    pub fn write(&self, name: impl AsRef<OsStr>, bytes: &[u8]) -> PathBuf {
        let path = self.path(name);
        fs::create_dir_all(path.parent().expect("it is in the directory")).expect("directories can be made");
        fs::write(&path, bytes).expect("a file can be written");
        path
    }

    /// The command on this store, to be run in the directory.
    pub fn command(&self, args: &[&dyn AsRef<OsStr>]) -> Command {
        let mut command = on(&self.store());
        command.args(args).current_dir(self.dir()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// Starts the command.
    pub fn start(&self, args: &[&dyn AsRef<OsStr>]) -> Child {
        self.command(args).spawn().expect("the command starts")
    }

    /// Runs the command to its end.
    pub fn run(&self, args: &[&dyn AsRef<OsStr>]) -> Ran {
        run(&mut self.command(args))
    }

    /// Runs the command, which must succeed.
    pub fn ok(&self, args: &[&dyn AsRef<OsStr>]) -> Ran {
        self.run(args).expect(0)
    }

    /// Stores `paths` in this process.
    pub fn put(&self, paths: &[&Path], run: &str, step: u64) -> ckpt_store::Result<PutReport> {
        self.open().put(&put_request(paths, run, step), &Quiet)
    }

    /// Gives a checkpoint back in this process.
    pub fn get(&self, reference: &str, to: &Path) -> ckpt_store::Result<()> {
        let request = GetRequest { reference: reference.to_owned(), ..GetRequest::default() };
        self.open().get(&request, to, &Quiet).map(drop)
    }

    /// Verifies the whole store in this process.
    pub fn verify(&self) -> ckpt_store::Result<VerifyReport> {
        Store::open(&self.store())?.verify(&VerifyRequest::default(), &Quiet)
    }
}

impl Default for Lab {
    fn default() -> Self {
        Self::new()
    }
}

/// A request to store `paths` as a step of a run.
pub fn put_request(paths: &[&Path], run: &str, step: u64) -> PutRequest {
    PutRequest {
        paths: paths.iter().map(|path| (*path).to_owned()).collect(),
        run: run.to_owned(),
        step: Some(step),
        ..PutRequest::default()
    }
}

impl Ran {
    /// Insists on an exit code.
    ///
    /// # Panics
    /// When it is another.
    #[track_caller]
    pub fn expect(self, code: i32) -> Self {
        assert_eq!(self.code, Some(code), "stdout: {}\nstderr: {}", String::from_utf8_lossy(&self.stdout), self.stderr);
        self
    }

    /// Insists on a text on stderr.
    ///
    /// # Panics
    /// When it is not there.
    #[track_caller]
    pub fn says(self, text: &str) -> Self {
        assert!(self.stderr.contains(text), "no {text:?} in: {}", self.stderr);
        self
    }
}
