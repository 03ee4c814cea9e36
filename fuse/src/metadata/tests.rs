//! The metadata of real stores, against the directories that were stored. Mounts nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use ckpt_store::{PutRequest, Quiet};
use tempfile::TempDir;

use super::*;
use crate::inodes::ROOT;

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

/// Asks until the answer is `wanted`, as the tree may be a moment old.
fn wait_for<T>(mut ask: impl FnMut() -> T, wanted: impl Fn(&T) -> bool) -> T {
    for _ in 0..1000 {
        let answer = ask();
        if wanted(&answer) {
            return answer;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    panic!("it never came");
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
    let (directory, _) = metadata.open_directory(ino).expect("a directory");
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
                assert_eq!(metadata.open_directory(listed.ino.0).err(), Some(Errno::ENOTDIR));
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
fn new_ones_appear_and_dropped_ones_leave_but_what_is_known_stays() {
    let fixture = Fixture::new();
    let file = fixture.file("a.ckpt", b"bytes");
    let metadata = fixture.metadata(None);
    assert!(find(&metadata, "a").is_none());
    assert_eq!(metadata.statfs().map(|space| space.files), Ok(0));
    fixture.put("a", Some(5), std::slice::from_ref(&file), None, &[]);
    let first = wait_for(|| find(&metadata, "a/step-5"), Option::is_some).expect("it");
    assert_eq!((first.entry_ttl, first.attr_ttl), (MOVING, FIXED));
    let inside = find(&metadata, "a/step-5/a.ckpt").expect("its file");
    assert_eq!((inside.entry_ttl, inside.attr_ttl), (FIXED, FIXED));
    let latest = find(&metadata, "a/latest").expect("a link").attr.ino.0;
    // Another of the same step is another directory.
    fixture.put("a", Some(5), std::slice::from_ref(&file), None, &[]);
    let second = wait_for(|| find(&metadata, "a/step-5"), |found| found.is_some_and(|found| found.attr != first.attr));
    assert_ne!(second.map(|found| found.attr.ino), Some(first.attr.ino));
    fixture.put("a", Some(6), &[file], None, &[]);
    let moved = wait_for(|| find(&metadata, "a/latest"), |found| found.is_some_and(|found| found.attr.ino.0 != latest));
    let moved = moved.expect("a link").attr.ino.0;
    assert_eq!((metadata.read_link(latest), metadata.read_link(moved)), (Ok(b"step-5".into()), Ok(b"step-6".into())));
    fixture.store.remove(&["a@5".into(), "a@6".into()]).expect("removed");
    wait_for(|| find(&metadata, "a"), Option::is_none);
    let gone = second.expect("it").attr.ino.0;
    assert_eq!(metadata.attributes(inside.attr.ino.0), Ok((inside.attr, FIXED)));
    assert_eq!(metadata.attributes(gone).map(|(attr, _)| attr.ino.0), Ok(gone));
    assert_eq!(metadata.xattr(inside.attr.ino.0, OsStr::new("user.ckpt.run")), Ok(b"a".into()));
    // Nobody looked into it, and then its manifest goes away.
    fs::remove_dir_all(fixture.store.root().join("checkpoints")).expect("removed");
    assert_eq!(metadata.lookup(gone, OsStr::new("a.ckpt")).err(), Some(Errno::ESTALE));
    assert!(fixture.lines.0.lock().expect("no poison").is_empty());
}

#[test]
fn a_damaged_manifest_is_an_error_that_is_told_once() {
    let fixture = Fixture::new();
    let file = fixture.file("a.ckpt", b"bytes");
    let id = fixture.put("a", Some(5), &[file], None, &[]);
    let metadata = fixture.metadata(None);
    fs::write(fixture.store.root().join(format!("checkpoints/{id}")), b"other bytes").expect("damaged");
    let found = find(&metadata, "a/step-5").expect("its directory is known without it");
    for _ in 0..3 {
        assert_eq!(metadata.lookup(found.attr.ino.0, OsStr::new("a.ckpt")).err(), Some(Errno::EIO));
        assert_eq!(metadata.open_directory(found.attr.ino.0).err(), Some(Errno::EIO));
    }
    let lines = fixture.lines.0.lock().expect("no poison").clone();
    assert!(lines.len() == 1 && lines[0].starts_with("a@5 can't be shown: "), "{lines:?}");
    assert_eq!(metadata.xattr(found.attr.ino.0, OsStr::new("user.ckpt.step")), Ok(b"5".into()));
}

#[test]
fn a_store_that_can_not_be_read_for_a_moment_is_shown_as_it_was() {
    let fixture = Fixture::new();
    fixture.put("a", Some(5), &[fixture.file("a.ckpt", b"bytes")], None, &[]);
    let metadata = fixture.metadata(None);
    let (head, aside) = (fixture.store.root().join("HEAD"), fixture.store.root().join("HEAD.aside"));
    fs::rename(&head, &aside).expect("renamed");
    std::thread::sleep(Duration::from_millis(300));
    assert!(find(&metadata, "a/step-5/a.ckpt").is_some());
    fs::write(&head, b"no head").expect("written");
    std::thread::sleep(Duration::from_millis(300));
    assert!(find(&metadata, "a/step-5").is_some());
    fs::rename(&aside, &head).expect("renamed");
    fixture.put("a", Some(6), &[fixture.file("a.ckpt", b"bytes")], None, &[]);
    wait_for(|| find(&metadata, "a/step-6"), Option::is_some);
}

#[test]
fn the_kernel_keeps_what_it_read_of_a_directory_until_that_changes() {
    let fixture = Fixture::new();
    let file = fixture.file("a.ckpt", b"bytes");
    fixture.put("a", Some(5), std::slice::from_ref(&file), None, &[]);
    let metadata = fixture.metadata(None);
    let run = find(&metadata, "a").expect("a run").attr.ino.0;
    let checkpoint = find(&metadata, "a/step-5").expect("a checkpoint").attr.ino.0;
    let opened = |ino: u64| {
        let (directory, flags) = metadata.open_directory(ino).expect("a directory");
        assert!(flags.contains(FopenFlags::FOPEN_CACHE_DIR));
        (directory, flags.contains(FopenFlags::FOPEN_KEEP_CACHE))
    };
    assert!(opened(checkpoint).1, "what can't change is kept from the first time on");
    let old = opened(run);
    assert!(!old.1);
    assert!(opened(run).1);
    fixture.put("a", Some(6), std::slice::from_ref(&file), None, &["t"]);
    wait_for(|| find(&metadata, "a/step-6"), Option::is_some);
    assert!(!opened(run).1);
    assert!(!opened(run).1, "somebody who still reads the old one may bring the kernel old names");
    drop(old);
    assert!(!opened(run).1);
    assert!(opened(run).1);
    // A change elsewhere is none here.
    fixture.put("b", Some(6), &[file], None, &[]);
    wait_for(|| find(&metadata, "b"), Option::is_some);
    assert!(opened(run).1);
    metadata.forget(run, 1000);
    assert!(metadata.remembered.is_empty());
}

#[test]
fn checkpoints_tell_of_themselves() {
    let fixture = Fixture::new();
    let id = fixture.put("a/b", Some(5), &[fixture.tree()], None, &[]);
    let metadata = fixture.metadata(None);
    let written = fixture.store.resolve("a/b@5").expect("an entry").written_bytes;
    let get = |path: &str, name: &str| {
        let ino = find(&metadata, path).expect("it is there").attr.ino.0;
        metadata.xattr(ino, OsStr::new(name)).map(|value| String::from_utf8(value).expect("text"))
    };
    for path in ["a/b/step-5", "a/b/step-5/sub", "a/b/step-5/sub/deep/a\nb", "a/b/step-5/model.bin"] {
        assert_eq!(get(path, "user.ckpt.id"), Ok(id.to_string()));
        assert_eq!(get(path, "user.ckpt.run"), Ok("a/b".into()));
        assert_eq!(get(path, "user.ckpt.step"), Ok("5".into()));
        assert_eq!(get(path, "user.ckpt.name"), Err(Errno::ENODATA));
        assert_eq!(get(path, "security.selinux"), Err(Errno::ENODATA));
    }
    assert_eq!(get("a/b/step-5", "user.ckpt.stored_bytes"), Ok(written.to_string()));
    let names = |path: &str| metadata.xattr_names(find(&metadata, path).expect("it").attr.ino.0);
    let all = b"user.ckpt.id\0user.ckpt.run\0user.ckpt.step\0user.ckpt.stored_bytes\0";
    assert_eq!(names("a/b/step-5"), Ok(all.to_vec()));
    assert_eq!(names("a/b"), Ok(Vec::new()));
}

#[test]
fn only_files_have_bytes_and_only_links_a_target() {
    let fixture = Fixture::new();
    let id = fixture.put("a", Some(5), &[fixture.tree()], None, &[]);
    let metadata = fixture.metadata(None);
    let ino = |path: &str| find(&metadata, path).expect("it is there").attr.ino.0;
    let source = metadata.source(ino("a/step-5/model.bin")).expect("a source");
    assert_eq!((source.checkpoint, &*source.name, &*source.file), (id, "a@5", "model.bin"));
    assert_eq!(source.body.len(), 100_000);
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
        assert_eq!(metadata.open_directory(ino).err(), Some(Errno::ESTALE));
        metadata.forget(ino, 1);
    }
    assert_eq!(metadata.lookup(ino("a/step-5/model.bin"), OsStr::new("x")).map(|found| found.attr.ino.0), Ok(0));
    assert_eq!(metadata.lookup(ino("a/latest"), OsStr::new("x")).err(), Some(Errno::ENOTDIR));
}

/// A safetensors file of tensors of two bytes each.
fn safetensors(names: &[&str]) -> Vec<u8> {
    let tensors: serde_json::Map<String, serde_json::Value> = (0..)
        .zip(names)
        .map(|(at, name)| {
            let tensor = serde_json::json!({"dtype": "F16", "shape": [1], "data_offsets": [2 * at, 2 * at + 2]});
            ((*name).to_owned(), tensor)
        })
        .collect();
    let header = serde_json::to_string(&tensors).expect("a header");
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend(header.as_bytes());
    bytes.extend(vec![1; 2 * names.len()]);
    bytes
}

#[test]
fn tensors_are_shown_beside_the_files() {
    let fixture = Fixture::new();
    let long = "x".repeat(300);
    let file = fixture.file("model.safetensors", &safetensors(&["a.weight", "a/b", "..", "100%", &long]));
    fixture.put("a", Some(5), std::slice::from_ref(&file), None, &[]);
    fixture.put("a", Some(6), &[fixture.file("notes.txt", b"no tensor")], None, &[]);
    let metadata = fixture.metadata(None);
    // Who copies or counts a checkpoint means its own files: the views are there for who asks for them.
    assert!(walk(&metadata).keys().all(|path| !path.contains("/.")));
    let attr = |path: &str| find(&metadata, path).unwrap_or_else(|| panic!("{path} is not there")).attr;
    for name in ["a.weight", "a%2Fb", "%2E%2E", "100%25"] {
        let attr = attr(&format!("a/step-5/.tensors/{name}.npy"));
        assert_eq!((attr.size, attr.perm, attr.kind), (130, 0o444, FileType::RegularFile), "{name}");
    }
    let listed = list(&metadata, attr("a/step-5/.tensors").ino.0, 3);
    let listed: Vec<String> = listed.keys().map(|name| String::from_utf8_lossy(name).into_owned()).collect();
    assert_eq!(listed.len(), 2 + 5, "{listed:?}");
    let cut: Vec<&String> = listed.iter().filter(|name| name.contains("%~")).collect();
    assert!(cut.len() == 1 && cut[0].ends_with(".npy"), "{cut:?}");
    assert!(find(&metadata, "a/step-6/.tensors").is_none());
    let cut = format!("a/step-5/.tensors/{}", cut[0]);
    let ino = |path: &str| attr(path).ino.0;
    let whole = ino(&cut);
    assert_eq!(metadata.xattr(whole, OsStr::new("user.ckpt.name")), Ok(long.into_bytes()));
    assert_eq!(metadata.xattr(whole, OsStr::new("user.ckpt.step")), Ok(b"5".into()));
    assert_eq!(metadata.xattr(ino("a/step-5/.tensors/a%2Fb.npy"), OsStr::new("user.ckpt.name")), Err(Errno::ENODATA));
    // What is told of them is what is read of them.
    for (path, name) in
        [("a/step-5/.safetensors", ".safetensors"), ("a/step-5/.tensors/a%2Fb.npy", ".tensors/a%2Fb.npy")]
    {
        let source = metadata.source(ino(path)).expect("a source");
        assert_eq!((source.body.len(), &*source.file), (attr(path).size, name));
    }
    assert_eq!(metadata.source(ino("a/step-5/.tensors")).err(), Some(Errno::EISDIR));
}

#[test]
fn a_file_hides_the_view_of_its_name() {
    let fixture = Fixture::new();
    let top = fixture.directory.path().join("top");
    fs::create_dir_all(top.join(".tensors")).expect("a directory");
    fs::write(top.join(".safetensors"), b"mine").expect("a file");
    fs::write(top.join(".tensors/x"), b"mine too").expect("a file");
    fs::write(top.join("model.safetensors"), safetensors(&["a", "b"])).expect("a file");
    fixture.put("a", Some(5), &[top], None, &[]);
    let metadata = fixture.metadata(None);
    let all = walk(&metadata);
    assert_eq!(all.get("/a/step-5/.safetensors").map(|attr| attr.size), Some(4));
    let hidden: Vec<&String> = all.keys().filter(|path| path.contains("/.")).collect();
    assert_eq!(hidden, ["/a/step-5/.safetensors", "/a/step-5/.tensors", "/a/step-5/.tensors/x"]);
}
