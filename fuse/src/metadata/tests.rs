//! The metadata of real stores, against the directories that were stored. Mounts nothing.

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
fn new_ones_appear_and_dropped_ones_leave_but_what_is_known_stays() {
    let fixture = Fixture::new();
    let file = fixture.file("a.ckpt", b"bytes");
    let metadata = fixture.metadata(None);
    let find = |path: &str| {
        metadata.look(|_| Ok(()));
        find(&metadata, path).map(|found| found.attr)
    };
    assert_eq!(find("a"), None);
    assert_eq!(metadata.statfs().map(|space| space.files), Ok(0));
    fixture.put("a", Some(5), std::slice::from_ref(&file), None, &[]);
    let first = find("a/step-5").expect("it");
    let inside = find("a/step-5/a.ckpt").expect("its file");
    let latest = find("a/latest").expect("a link").ino.0;
    // Another of the same step is another directory.
    fixture.put("a", Some(5), std::slice::from_ref(&file), None, &[]);
    let second = find("a/step-5").expect("another");
    assert_ne!(second.ino, first.ino);
    fixture.put("a", Some(6), &[file], None, &[]);
    let moved = find("a/latest").expect("a link").ino.0;
    assert_eq!((metadata.read_link(latest), metadata.read_link(moved)), (Ok(b"step-5".into()), Ok(b"step-6".into())));
    fixture.store.remove(&["a@5".into(), "a@6".into()]).expect("removed");
    assert_eq!(find("a"), None);
    assert_eq!(metadata.attributes(inside.ino.0), Ok((inside, FIXED)));
    assert_eq!(metadata.attributes(second.ino.0), Ok((second, FIXED)));
    assert_eq!(metadata.xattr(inside.ino.0, OsStr::new("user.ckpt.run"), stored), Ok(b"a".into()));
    // Nobody looked into it, and then its manifest goes away.
    fs::remove_dir_all(fixture.store.root().join("checkpoints")).expect("removed");
    assert_eq!(metadata.lookup(second.ino.0, OsStr::new("a.ckpt")).err(), Some(Errno::ESTALE));
    assert!(fixture.lines.0.lock().expect("no poison").is_empty());
}

#[test]
fn what_one_finds_who_answers_is_told_by_the_next_look() {
    let fixture = Fixture::new();
    let file = fixture.file("a.ckpt", b"bytes");
    let metadata = fixture.metadata(None);
    fixture.put("a", Some(5), std::slice::from_ref(&file), None, &[]);
    metadata.look(|_| Ok(()));
    let first = find(&metadata, "a/step-5").expect("it").attr.ino.0;
    let run = find(&metadata, "a").expect("its run").attr.ino.0;
    let second = fixture.put("a", Some(5), &[file], None, &[]);
    // Its manifest went with it, and nobody has looked at the store since.
    let manifests = fs::read_dir(fixture.store.root().join("checkpoints")).expect("a directory");
    let of_others =
        manifests.map(|entry| entry.expect("an entry")).filter(|entry| *entry.file_name() != *second.to_string());
    of_others.for_each(|entry| fs::remove_file(entry.path()).expect("removed"));
    assert_eq!(metadata.lookup(first, OsStr::new("a.ckpt")).err(), Some(Errno::ESTALE));
    let now = find(&metadata, "a/step-5").expect("what is in its place").attr.ino.0;
    assert_ne!(now, first);
    assert!(fixture.lines.0.lock().expect("no poison").is_empty());
    let told = news(&metadata);
    assert!(told.contains(&format!("{run} step-5")), "{told:?}");
    assert!(news(&metadata).is_empty());
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
        assert_eq!(metadata.directory(found.attr.ino.0, 0).err(), Some(Errno::EIO));
    }
    let lines = fixture.lines.0.lock().expect("no poison").clone();
    assert!(lines.len() == 1 && lines[0].starts_with("a@5 can't be shown: "), "{lines:?}");
    assert_eq!(metadata.xattr(found.attr.ino.0, OsStr::new("user.ckpt.step"), stored), Ok(b"5".into()));
}

#[test]
fn a_store_that_can_not_be_read_for_a_moment_is_shown_as_it_was() {
    let fixture = Fixture::new();
    fixture.put("a", Some(5), &[fixture.file("a.ckpt", b"bytes")], None, &[]);
    let metadata = fixture.metadata(None);
    let (head, aside) = (fixture.store.root().join("HEAD"), fixture.store.root().join("HEAD.aside"));
    fs::rename(&head, &aside).expect("renamed");
    let is_well = || metadata.look(|change| panic!("{change:?}"));
    assert!(!is_well() && !is_well());
    assert!(find(&metadata, "a/step-5/a.ckpt").is_some());
    fs::write(&head, b"no head").expect("written");
    assert!(!is_well() && !is_well());
    assert!(find(&metadata, "a/step-5").is_some());
    fs::rename(&aside, &head).expect("renamed");
    assert!(is_well());
    fixture.put("a", Some(6), &[fixture.file("a.ckpt", b"bytes")], None, &[]);
    assert!(metadata.look(|_| Ok(())));
    assert!(find(&metadata, "a/step-6").is_some());
    // A catalog that can't be read is as bad, and each cause is told once.
    let catalog = fixture.store.root().join("catalog");
    fs::rename(fixture.store.root(), fixture.directory.path().join("away")).expect("renamed");
    assert!(!is_well() && !is_well());
    fs::rename(fixture.directory.path().join("away"), fixture.store.root()).expect("renamed");
    assert!(is_well() && catalog.exists());
    let lines = fixture.lines.0.lock().expect("no poison").clone();
    let stays = "what is shown stays as it was until the store can be read: ";
    let causes: Vec<&str> = lines.iter().map(|line| line.strip_prefix(stays).unwrap_or(line)).collect();
    let again = "the store can be read again";
    assert_eq!((causes.len(), causes[0], causes[2], causes[4]), (5, "HEAD is damaged: it is missing", again, again));
    assert!(causes[1].starts_with("HEAD is damaged: ") && causes[3].starts_with("no store in /"), "{causes:?}");
}

/// What the kernel is told after a look.
fn news(metadata: &Metadata) -> BTreeSet<String> {
    let mut news = BTreeSet::new();
    metadata.look(|change| {
        news.insert(match change {
            Change::Name { parent, name } => {
                assert!(parent == ROOT || metadata.attributes(parent).is_ok());
                format!("{parent} {name}")
            }
            Change::Directory(inode) => inode.to_string(),
        });
        Ok(())
    });
    news
}

#[test]
fn what_the_kernel_did_not_take_it_is_told_again() {
    let fixture = Fixture::new();
    let file = fixture.file("a.ckpt", b"bytes");
    fixture.put("a", Some(5), std::slice::from_ref(&file), None, &[]);
    let metadata = fixture.metadata(None);
    find(&metadata, "a/latest").expect("it is known");
    fixture.put("a", Some(6), std::slice::from_ref(&file), None, &[]);
    let no_memory = || Err(std::io::Error::from_raw_os_error(12));
    let mut tried = 0;
    let is_well = metadata.look(|_| {
        tried += 1;
        no_memory()
    });
    assert!(tried > 2 && !is_well, "the rest is tried as well");
    fixture.put("a", Some(7), std::slice::from_ref(&file), None, &[]);
    // A part is taken, and a panic is as good as an error.
    assert!(!metadata.look(|change| if matches!(change, Change::Name { .. }) { Ok(()) } else { no_memory() }));
    let panicked = catch_unwind(AssertUnwindSafe(|| metadata.look(|_| panic!("by this test"))));
    assert!(panicked.is_err());
    let told = news(&metadata);
    let known = find(&metadata, "a").expect("it").attr.ino.0;
    for name in ["step-6", "step-7", "latest"] {
        assert!(told.contains(&format!("{known} {name}")), "{told:?}");
    }
    assert!(news(&metadata).is_empty(), "once it was taken");
    let lines = fixture.lines.0.lock().expect("no poison").clone();
    assert!(lines.len() == 1 && lines[0].contains("can't be told") && lines[0].contains("memory"), "{lines:?}");
    // What it never takes is given up.
    fixture.put("a", Some(8), &[file], None, &[]);
    (0..TELLS_MAX).for_each(|_| _ = metadata.look(|_| no_memory()));
    assert!(metadata.look(|_| panic!("too often")));
}

#[test]
fn the_kernel_is_told_what_changed_and_nothing_else() {
    let fixture = Fixture::new();
    let file = fixture.file("a.ckpt", b"bytes");
    fixture.put("a/b", Some(5), std::slice::from_ref(&file), None, &["good"]);
    let metadata = fixture.metadata(None);
    let ino = |path: &str| find(&metadata, path).expect("it is there").attr.ino.0;
    let (a, b, ids) = (ino("a"), ino("a/b"), ino("by-id"));
    let all = |parts: &[&[String]]| parts.concat().into_iter().collect::<BTreeSet<_>>();
    let times = [ROOT, a, b, ids].map(|inode| inode.to_string());
    assert!(news(&metadata).is_empty());
    let id = fixture.put("a/b", Some(6), std::slice::from_ref(&file), None, &[]);
    assert_eq!(find(&metadata, "a/b/step-6").map(|_| ()), None, "nobody has looked");
    let names = [format!("{b} step-6"), format!("{b} latest"), format!("{ids} {id}")];
    assert_eq!(news(&metadata), all(&[&times, &names]));
    assert!(news(&metadata).is_empty());
    let (second, latest) = (ino("a/b/step-6"), ino("a/b/latest"));
    // A tag moves: the time of the directory is what it was.
    fixture.store.tag("a/b@6", "good").expect("a tag");
    assert_eq!(news(&metadata), [format!("{b} good"), b.to_string()].into(), "what the kernel has listed goes as well");
    fixture.store.pin("a/b@6", true).expect("a pin");
    assert!(news(&metadata).is_empty(), "what nobody sees is no news");
    fixture.store.pin("a/b@6", false).expect("no pin");
    assert!(news(&metadata).is_empty());
    fixture.store.remove(&["a/b@6".into()]).expect("removed");
    let names = [format!("{b} step-6"), format!("{b} latest"), format!("{b} good"), format!("{ids} {id}")];
    assert_eq!(news(&metadata), all(&[&times, &names]));
    fixture.store.remove(&["a/b@5".into()]).expect("removed");
    let gone = news(&metadata);
    assert!(gone.contains(&format!("{ROOT} a")) && gone.contains(&format!("{a} b")), "{gone:?}");
    // What is not known to the kernel is nothing to tell.
    [a, b, ids, second, latest].into_iter().for_each(|inode| metadata.forget(inode, 1000));
    fixture.put("a/b", Some(7), &[file], None, &[]);
    assert_eq!(news(&metadata), [format!("{ROOT} a"), ROOT.to_string()].into());
}

#[test]
fn news_come_after_the_last_answer_made_of_what_was_known_before() {
    let fixture = Fixture::new();
    let file = fixture.file("a.ckpt", b"bytes");
    fixture.put("a", Some(5), std::slice::from_ref(&file), None, &[]);
    let metadata = fixture.metadata(None);
    let run = find(&metadata, "a").expect("a run").attr.ino.0;
    let answering = metadata.lookup(run, OsStr::new("step-6")).expect("nothing");
    fixture.put("a", Some(6), &[file], None, &[]);
    let name = format!("{run} step-6");
    // It waits for a while, then it tells all the same, and once more when the answer is out.
    assert!(news(&metadata).contains(&name));
    assert!(news(&metadata).is_empty());
    // What comes meanwhile may be told before that answer is out, which has it wrong as well.
    fixture.store.tag("a@5", "good").expect("a tag");
    let tag = format!("{run} good");
    assert!(news(&metadata).contains(&tag));
    drop(answering);
    let late = news(&metadata);
    assert!(late.contains(&name) && late.contains(&tag), "{late:?}");
    assert!(news(&metadata).is_empty());
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
    assert_eq!(metadata.xattr(whole, OsStr::new("user.ckpt.name"), stored), Ok(long.into_bytes()));
    assert_eq!(metadata.xattr(whole, OsStr::new("user.ckpt.step"), stored), Ok(b"5".into()));
    assert_eq!(
        metadata.xattr(ino("a/step-5/.tensors/a%2Fb.npy"), OsStr::new("user.ckpt.name"), stored),
        Err(Errno::ENODATA)
    );
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

#[test]
fn a_view_is_for_those_who_may_read_the_files_that_it_shows() {
    let fixture = Fixture::new();
    let top = fixture.directory.path().join("top");
    fs::create_dir_all(top.join("group")).expect("a directory");
    let mode =
        |path: &str, mode| fs::set_permissions(top.join(path), fs::Permissions::from_mode(mode)).expect("a mode");
    for (path, tensor, bits) in [("open.safetensors", "a", 0o644), ("own.safetensors", "b", 0o600)] {
        fs::write(top.join(path), safetensors(&[tensor])).expect("a file");
        mode(path, bits);
    }
    fs::write(top.join("group/c.safetensors"), safetensors(&["c"])).expect("a file");
    mode("group/c.safetensors", 0o644);
    mode("group", 0o750);
    fs::write(top.join("notes.txt"), b"no tensor").expect("a file");
    mode("notes.txt", 0o600);
    let metadata = |step| {
        fixture.put("a", Some(step), std::slice::from_ref(&top), None, &[]);
        fixture.metadata(None)
    };
    let perm = |metadata: &Metadata, path: &str| find(metadata, path).unwrap_or_else(|| panic!("{path}")).attr.perm;
    let private = metadata(5);
    for (name, expected) in [("a", 0o444), ("b", 0o400), ("c", 0o440)] {
        assert_eq!(perm(&private, &format!("a/step-5/.tensors/{name}.npy")), expected, "{name}");
    }
    assert_eq!(perm(&private, "a/step-5/.safetensors"), 0o400);
    mode("own.safetensors", 0o444);
    assert_eq!(perm(&metadata(6), "a/step-6/.safetensors"), 0o440);
}
