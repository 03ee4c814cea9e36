//! The metadata of real stores, against the directories that were stored. Mounts nothing.

mod changes;
mod views;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use ckpt_store::{PutRequest, Quiet};
use tempfile::TempDir;

use super::*;
use crate::answers::Change;
use crate::inodes::ROOT;
use crate::limits::TELLS_MAX;

struct Lines(Mutex<Vec<String>>);

impl Log for Lines {
    fn line(&self, text: &str) {
        self.0.lock().expect("no poison").push(text.to_owned());
    }
}

struct Fixture {
    directory: TempDir,
    store: Arc<Store>,
    lines: Arc<Lines>,
}

impl Fixture {
    fn new() -> Self {
        let directory = TempDir::new().expect("a directory");
        let store = Arc::new(Store::init(&directory.path().join("store")).expect("a store"));
        Self { directory, store, lines: Arc::new(Lines(Mutex::default())) }
    }

    fn put(&self, run: &str, step: Option<u64>, paths: &[PathBuf], metric: Option<f64>, tags: &[&str]) -> CheckpointId {
        let request = PutRequest {
            paths: paths.to_vec(),
            run: run.into(),
            step,
            metrics: metric.map(|value| ("val_loss".to_owned(), value)).into_iter().collect(),
            tags: tags.iter().map(|tag| (*tag).to_owned()).collect(),
            reserve: Some(0),
            replace: true,
            ..PutRequest::default()
        };
        self.store.put(&request, &Quiet).expect("a put").entry.id
    }

    fn file(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.directory.path().join(name);
        fs::write(&path, bytes).expect("a file");
        path
    }

    /// A directory with all kinds of members.
    fn tree(&self) -> PathBuf {
        let top = self.directory.path().join("tree");
        fs::create_dir_all(top.join("sub/deep/empty")).expect("directories");
        for (name, len) in [("model.bin", 100_000), ("sub/100% x", 5), ("sub/deep/a\nb", 0), ("sub-", 1), ("sub0", 2)] {
            fs::write(top.join(name), vec![7; len]).expect("a file");
        }
        fs::set_permissions(top.join("model.bin"), fs::Permissions::from_mode(0o640)).expect("a mode");
        fs::set_permissions(top.join("sub"), fs::Permissions::from_mode(0o700)).expect("a mode");
        symlink("sub/100% x", top.join("link")).expect("a link");
        top
    }

    fn metadata(&self, runs: Option<&str>) -> Metadata {
        Metadata::new(Arc::clone(&self.store), runs, (11, 22), self.lines.clone()).expect("metadata")
    }
}

/// What a file takes, made up.
fn stored(_: CheckpointId, file: u32) -> std::result::Result<u64, Errno> {
    Ok(1000 + u64::from(file))
}

fn find(metadata: &Metadata, path: &str) -> Option<Found> {
    let mut found = None;
    let mut parent = ROOT;
    for name in path.split('/') {
        let next = metadata.lookup(parent, OsStr::new(name)).expect("a lookup");
        if next.attr.ino.0 == 0 {
            return None;
        }
        parent = next.attr.ino.0;
        found = Some(next);
    }
    found
}

/// All names of a directory with what is told of them, as one reader who has room for `room` names at a time gets them.
fn list(metadata: &Metadata, ino: u64, room: usize) -> BTreeMap<Vec<u8>, FileAttr> {
    let directory = metadata.directory(ino, 0).expect("a directory");
    let mut listed = BTreeMap::new();
    let mut from = 0;
    loop {
        let mut taken = 0;
        metadata.entries_plus(&directory, from, |entry| {
            if taken == room {
                return true;
            }
            (taken, from) = (taken + 1, entry.next);
            assert!(listed.insert(entry.name.as_bytes().to_vec(), entry.attr).is_none(), "{:?} twice", entry.name);
            false
        });
        if taken == 0 {
            break;
        }
    }
    let mut plain = BTreeMap::new();
    metadata.entries(&directory, 0, |entry| {
        plain.insert(entry.name.as_bytes().to_vec(), (entry.ino, entry.kind));
        false
    });
    let same: BTreeMap<_, _> = listed.iter().map(|(name, attr)| (name.clone(), (attr.ino.0, attr.kind))).collect();
    assert_eq!(plain, same, "readdir and readdirplus tell the same");
    listed
}

/// Walks everything, looks up each name, and answers all paths with their attributes; forgets each lookup.
fn walk(metadata: &Metadata) -> BTreeMap<String, FileAttr> {
    let mut all = BTreeMap::new();
    let mut left = vec![(String::new(), ROOT, ROOT)];
    let mut known = Vec::new();
    while let Some((path, ino, parent)) = left.pop() {
        let mut directories = 0;
        for (name, listed) in list(metadata, ino, 3) {
            let dots = [(&b"."[..], ino), (b"..", parent)];
            if let Some((_, expected)) = dots.iter().find(|(dot, _)| *dot == name) {
                assert_eq!((listed.ino.0, listed.kind), (*expected, FileType::Directory), "{name:?} of {path}");
                continue;
            }
            let found = metadata.lookup(ino, OsStr::from_bytes(&name)).expect("a lookup");
            assert_eq!(found.attr, listed, "{name:?} of {path}");
            assert_eq!(metadata.attributes(listed.ino.0), Ok((listed, found.attr_ttl)));
            known.push(listed.ino.0);
            let path = format!("{path}/{}", String::from_utf8_lossy(&name));
            if listed.kind == FileType::Directory {
                directories += 1;
                left.push((path.clone(), listed.ino.0, ino));
            } else {
                assert_eq!(metadata.directory(listed.ino.0, 0).err(), Some(Errno::ENOTDIR));
            }
            assert!(all.insert(path, listed).is_none());
        }
        let (own, _) = metadata.attributes(ino).expect("attributes");
        assert!([1, directories + 2].contains(&own.nlink), "{path} has {} links", own.nlink);
        let none = metadata.lookup(ino, OsStr::new("no such name")).expect("a lookup");
        assert_eq!(none.attr.ino.0, 0);
    }
    // Once when it was listed, once when it was looked up.
    known.iter().for_each(|ino| metadata.forget(*ino, 2));
    assert_eq!(metadata.inodes.len(), 0, "every lookup was counted once");
    all
}

#[test]
fn whatever_is_listed_is_found_and_the_same_after_every_mount() {
    let fixture = Fixture::new();
    let tree = fixture.tree();
    let file = fixture.file("a.ckpt", b"bytes");
    fixture.put("a", Some(5), std::slice::from_ref(&tree), Some(0.5), &["good"]);
    fixture.put("a", Some(10), std::slice::from_ref(&file), Some(0.7), &[]);
    let id = fixture.put("a/step-5/x", None, &[file], None, &[]);
    let first = walk(&fixture.metadata(None));
    assert_eq!(first, walk(&fixture.metadata(None)));
    let by_id = format!("/by-id/{id}");
    for path in ["/a/step-5/sub/deep/a\nb", "/a/step-10/a.ckpt", "/a/%73tep-5/x/latest", "/a/best", "/a/good", &by_id] {
        assert!(first.contains_key(path), "{path} is not there: {:?}", first.keys());
    }
    assert!(!first.contains_key("/a/%73tep-5/best") && !first.contains_key("/a/%73tep-5/x/best"));
    let inodes: BTreeSet<u64> = first.values().map(|attr| attr.ino.0).collect();
    assert_eq!(inodes.len(), first.len(), "each has an inode of its own");
    let only: Vec<String> = walk(&fixture.metadata(Some("a/*"))).into_keys().collect();
    assert!(only.iter().any(|path| path == "/a/%73tep-5/x/latest"), "{only:?}");
    assert!(!only.iter().any(|path| path == "/a/step-5"), "{only:?}");
    let bad = Metadata::new(Arc::clone(&fixture.store), Some("a["), (0, 0), fixture.lines.clone());
    assert!(bad.is_err_and(|error| error.to_string().contains("no glob")));
}

#[test]
fn a_checkpoint_looks_as_the_directory_that_it_was() {
    let fixture = Fixture::new();
    let tree = fixture.tree();
    fixture.put("a", Some(5), std::slice::from_ref(&tree), None, &[]);
    let metadata = fixture.metadata(None);
    let mut left = vec![(tree.clone(), "a/step-5".to_owned())];
    let mut count = 0;
    while let Some((here, there)) = left.pop() {
        let found = find(&metadata, &there).expect("a directory");
        let names: BTreeSet<Vec<u8>> = list(&metadata, found.attr.ino.0, 100).into_keys().collect();
        let mut expected: BTreeSet<Vec<u8>> = [b".".to_vec(), b"..".to_vec()].into();
        for entry in fs::read_dir(&here).expect("a directory") {
            let path = entry.expect("an entry").path();
            let name = path.file_name().expect("a name").to_str().expect("text");
            expected.insert(name.into());
            let shown = format!("{there}/{name}");
            let attr = find(&metadata, &shown).expect("it is there").attr;
            let real = fs::symlink_metadata(&path).expect("metadata");
            let kind = if real.is_symlink() {
                let target = metadata.read_link(attr.ino.0).map(|target| PathBuf::from(OsStr::from_bytes(&target)));
                assert_eq!(target, Ok(fs::read_link(&path).expect("a target")));
                FileType::Symlink
            } else if real.is_dir() {
                left.push((path.clone(), shown));
                FileType::Directory
            } else {
                FileType::RegularFile
            };
            assert_eq!((attr.kind, u32::from(attr.perm)), (kind, real.mode() & 0o777), "{path:?}");
            if !real.is_dir() {
                assert_eq!((attr.size, attr.blocks), (real.len(), real.len().div_ceil(512)), "{path:?}");
            }
            let nlink = |directory: &Path| fs::metadata(directory).map(|real| real.nlink());
            if real.is_dir() && nlink(&tree).is_ok_and(|links| links > 1) {
                assert_eq!(u64::from(attr.nlink), real.nlink(), "{path:?}");
            }
            let stored = real.modified().expect("a time").duration_since(UNIX_EPOCH).expect("after 1970").as_millis();
            let told = attr.mtime.duration_since(UNIX_EPOCH).expect("after 1970");
            assert_eq!((told.as_millis(), told.subsec_nanos() % 1_000_000), (stored, 0), "{path:?}");
            assert_eq!((attr.atime, attr.ctime, attr.uid, attr.gid), (attr.mtime, attr.mtime, 11, 22));
            count += 1;
        }
        assert_eq!(names, expected);
    }
    assert_eq!(count, 9);
}

#[test]
fn who_reads_a_directory_reads_on_in_what_it_was() {
    let fixture = Fixture::new();
    let file = fixture.file("a.ckpt", b"bytes");
    for step in 1..6 {
        fixture.put("a", Some(step), std::slice::from_ref(&file), None, &[]);
    }
    let metadata = fixture.metadata(None);
    let run = find(&metadata, "a").expect("a run").attr.ino.0;
    let read = |from: u64, count: usize| {
        let directory = metadata.directory(run, from).expect("a directory");
        let (mut names, mut next) = (Vec::new(), from);
        metadata.entries_plus(&directory, from, |entry| {
            if names.len() == count {
                return true;
            }
            let ttl =
                if directory.is_current && !entry.name.as_bytes().starts_with(b".") { FIXED } else { Duration::ZERO };
            assert_eq!(entry.ttl, ttl);
            names.push(entry.name.to_str().expect("text").to_owned());
            next = entry.next;
            false
        });
        (names, next, directory.is_current)
    };
    let (first, next, _) = read(0, 4);
    assert_eq!(first, [".", "..", "step-1", "step-2"]);
    fixture.store.remove(&["a@1".into(), "a@4".into()]).expect("removed");
    metadata.look(|_| Ok(()));
    assert_eq!(read(next, 9), (["step-3", "step-4", "step-5", "latest"].map(str::to_owned).into(), next + 4, false));
    assert_eq!(read(0, 9).0, [".", "..", "step-2", "step-3", "step-5", "latest"]);
    assert!(read(0, 9).2);
    // One that was long ago is read on where it would be now.
    assert_eq!(read(77 << 32 | 4, 9).0, ["step-5", "latest"]);
    assert!(read(u64::MAX, 9).0.is_empty());
}

#[test]
fn checkpoints_tell_of_themselves() {
    let fixture = Fixture::new();
    let id = fixture.put("a/b", Some(5), &[fixture.tree()], None, &[]);
    let metadata = fixture.metadata(None);
    let written = fixture.store.resolve("a/b@5").expect("an entry").written_bytes;
    let get = |path: &str, name: &str| {
        let ino = find(&metadata, path).expect("it is there").attr.ino.0;
        metadata.xattr(ino, OsStr::new(name), stored).map(|value| String::from_utf8(value).expect("text"))
    };
    for path in ["a/b/step-5", "a/b/step-5/sub", "a/b/step-5/sub/deep/a\nb", "a/b/step-5/model.bin"] {
        assert_eq!(get(path, "user.ckpt.id"), Ok(id.to_string()));
        assert_eq!(get(path, "user.ckpt.run"), Ok("a/b".into()));
        assert_eq!(get(path, "user.ckpt.step"), Ok("5".into()));
        assert_eq!(get(path, "user.ckpt.name"), Err(Errno::ENODATA));
        assert_eq!(get(path, "security.selinux"), Err(Errno::ENODATA));
    }
    assert_eq!(get("a/b/step-5", "user.ckpt.stored_bytes"), Ok(written.to_string()));
    assert!(get("a/b/step-5/model.bin", "user.ckpt.stored_bytes").is_ok_and(|bytes| bytes.starts_with("100")));
    assert_eq!(get("a/b/step-5/sub", "user.ckpt.stored_bytes"), Err(Errno::ENODATA));
    let names = |path: &str| metadata.xattr_names(find(&metadata, path).expect("it").attr.ino.0);
    let all = b"user.ckpt.id\0user.ckpt.run\0user.ckpt.step\0user.ckpt.stored_bytes\0";
    assert_eq!(names("a/b/step-5"), Ok(all.to_vec()));
    assert_eq!(names("a/b/step-5/model.bin"), Ok(all.to_vec()));
    assert_eq!(names("a/b/step-5/sub"), Ok(all[..all.len() - "user.ckpt.stored_bytes ".len()].to_vec()));
    assert_eq!(names("a/b"), Ok(Vec::new()));
}

#[test]
fn only_files_have_bytes_and_only_links_a_target() {
    let fixture = Fixture::new();
    let id = fixture.put("a", Some(5), &[fixture.tree()], None, &[]);
    let metadata = fixture.metadata(None);
    let ino = |path: &str| find(&metadata, path).expect("it is there").attr.ino.0;
    let source = metadata.source(ino("a/step-5/model.bin")).expect("a source");
    assert_eq!((source.checkpoint, source.body.len()), (id, 100_000));
    assert_eq!((&*source.name, &*source.file), ("a@5", "model.bin"));
    for (path, error) in [
        ("a", Errno::EISDIR),
        ("by-id", Errno::EISDIR),
        ("a/step-5", Errno::EISDIR),
        ("a/step-5/sub", Errno::EISDIR),
        ("a/latest", Errno::ELOOP),
        ("a/step-5/link", Errno::ELOOP),
    ] {
        assert_eq!(metadata.source(ino(path)).err(), Some(error), "{path}");
    }
    for path in ["a", "a/step-5", "a/step-5/sub", "a/step-5/model.bin"] {
        assert_eq!(metadata.read_link(ino(path)), Err(Errno::EINVAL), "{path}");
    }
    for ino in [0, 99] {
        assert_eq!(metadata.attributes(ino).err(), Some(Errno::ESTALE));
        assert_eq!(metadata.lookup(ino, OsStr::new("a")).err(), Some(Errno::ESTALE));
        assert_eq!(metadata.directory(ino, 0).err(), Some(Errno::ESTALE));
        metadata.forget(ino, 1);
    }
    assert_eq!(metadata.lookup(ino("a/step-5/model.bin"), OsStr::new("x")).map(|found| found.attr.ino.0), Ok(0));
    assert_eq!(metadata.lookup(ino("a/latest"), OsStr::new("x")).err(), Some(Errno::ENOTDIR));
}
