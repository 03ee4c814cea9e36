//! A store together with the originals of everything that was put into it, and what must hold of every store.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

use ckpt_store::{
    CheckpointId, Entry, GcReport, GcRequest, GetRequest, Progress, PutRequest, Quiet, Result, Rules, Store,
    VerifyRequest,
};
use tempfile::TempDir;

use crate::sample::{self, Tree};

/// A folder for a store, for sources and for what comes back.
pub struct World {
    folder: TempDir,
    counter: AtomicUsize,
    /// The originals.
    pub trees: BTreeMap<CheckpointId, Tree>,
}

impl Default for World {
    fn default() -> Self {
        Self { folder: sample::scratch(), counter: AtomicUsize::new(0), trees: BTreeMap::new() }
    }
}

impl World {
    /// Where the store is.
    pub fn root(&self) -> PathBuf {
        self.folder.path().join("store")
    }

    /// The folder that all of it is in.
    pub fn dir(&self) -> &Path {
        self.folder.path()
    }

    /// A path that nothing had before.
    pub fn fresh(&self, what: &str) -> PathBuf {
        let nr = self.counter.fetch_add(1, Ordering::Relaxed);
        self.folder.path().join(format!("{what}-{nr}"))
    }

    /// A request for `tree` as a checkpoint; its source lies ready.
    pub fn request(&self, run: &str, step: u64, tree: &Tree) -> PutRequest {
        let source = self.fresh("source");
        tree.write(&source);
        PutRequest { paths: vec![source], run: run.into(), step: Some(step), ..PutRequest::default() }
    }

    /// Puts, and remembers the original.
    pub fn put(&mut self, store: &Store, request: &PutRequest) -> Result<Entry> {
        let report = store.put(request, &Quiet)?;
        self.trees.insert(report.entry.id, Tree::read(&request.paths[0]));
        Ok(report.entry)
    }

    /// Puts what can be put.
    pub fn put_tree(&mut self, store: &Store, run: &str, step: u64, tree: &Tree) -> Entry {
        let request = self.request(run, step, tree);
        self.put(store, &request).expect("a put on a sound disk succeeds")
    }

    /// Gets a checkpoint.
    pub fn get(&self, store: &Store, reference: &str, progress: &dyn Progress) -> Result<Tree> {
        let to = self.fresh("got");
        store.get(&GetRequest { reference: reference.into(), ..GetRequest::default() }, &to, progress)?;
        let tree = Tree::read(&to);
        sample::remove(&to);
        Ok(tree)
    }

    /// Gets every checkpoint and compares it with its original.
    pub fn assert_exact(&self, store: &Store, entries: &[Entry], what: &str) {
        for entry in entries {
            let got = self.get(store, &entry.id.to_string(), &Quiet);
            let got = got.unwrap_or_else(|error| panic!("{what}: get {}@{:?}: {error}", entry.run, entry.step));
            assert_eq!(&got, &self.trees[&entry.id], "{what}: {}@{:?} is another", entry.run, entry.step);
        }
    }
}

/// A tree of one safetensors file, of tensors of 36 kB by their seeds: each is a chunk of its own.
pub fn tensors(seeds: &[u64]) -> Tree {
    let names: Vec<String> = (0..seeds.len()).map(|nr| format!("layer.{nr}.weight")).collect();
    let tensors: Vec<(&str, u64, usize)> =
        names.iter().zip(seeds).map(|(name, seed)| (name.as_str(), *seed, 9000)).collect();
    Tree::file(sample::safetensors(&tensors))
}

/// Collects as the policies say, and without them what nothing uses.
pub fn gc(store: &Store) -> Result<GcReport> {
    store.gc(&GcRequest::default(), &Quiet)
}

/// A request that keeps the last of each run.
pub fn keep_last(count: u64) -> GcRequest {
    GcRequest { rules: Rules { last: Some(count), ..Rules::default() }, ..GcRequest::default() }
}

/// What HEAD says, read without the library.
pub fn head(bytes: &[u8]) -> serde_json::Value {
    let mut outer: serde_json::Value = serde_json::from_slice(bytes).expect("HEAD is JSON");
    outer["head"].take()
}

/// What the HEAD of the store in `root` says.
pub fn head_of(root: &Path) -> serde_json::Value {
    head(&fs::read(root.join("HEAD")).expect("a store has a HEAD"))
}

/// Checks the whole store by its own verify.
pub fn assert_sound(store: &Store, what: &str) {
    let report = store.verify(&VerifyRequest::default(), &Quiet);
    let report = report.unwrap_or_else(|error| panic!("{what}: verify: {error}"));
    assert!(report.is_sound(), "{what}: {report:?}");
}

/// The names in a directory of a store.
pub fn names(root: &Path, directory: &str) -> BTreeSet<String> {
    let entries = fs::read_dir(root.join(directory)).unwrap_or_else(|error| panic!("{directory}: {error}"));
    entries.map(|entry| entry.expect("a directory can be listed").file_name().to_string_lossy().into_owned()).collect()
}

/// The packs of a store.
pub fn packs(root: &Path) -> BTreeSet<String> {
    names(root, "packs").iter().flat_map(|folder| names(root, &format!("packs/{folder}"))).collect()
}

/// Checks that a store holds nothing but what its checkpoints need, as it must after a gc that nobody disturbed.
pub fn assert_swept(store: &Store, what: &str) {
    let root = store.root();
    assert!(names(root, "tmp").is_empty(), "{what}: tmp holds {:?}", names(root, "tmp"));
    assert!(names(root, "sessions").is_empty(), "{what}: sessions holds {:?}", names(root, "sessions"));
    let ids = store.checkpoints().expect("HEAD can be read").iter().map(|entry| entry.id.to_string()).collect();
    assert_eq!(names(root, "checkpoints"), ids, "{what}: manifests");
    let head = head_of(root);
    let catalogs: BTreeSet<String> = head["catalog"].as_str().map(str::to_owned).into_iter().collect();
    assert_eq!(names(root, "catalog"), catalogs, "{what}: catalogs");
    assert_eq!(head["condemned"], serde_json::json!({}), "{what}");
    assert_eq!(head["deleting"], serde_json::json!([]), "{what}");
    // By a rule that keeps all, whatever the policies say.
    let again = store.gc(&GcRequest { dry_run: true, ..keep_last(u64::MAX) }, &Quiet);
    let again = again.unwrap_or_else(|error| panic!("{what}: gc: {error}"));
    assert_eq!((again.freed_bytes, again.packs_unreadable), (0, Vec::new()), "{what}");
}
