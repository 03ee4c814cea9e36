//! Putting from memory: what is given makes the checkpoint that files of the same bytes make, and memory that changes, lies or
//! has a hostile path is refused.
#![allow(clippy::unwrap_used, reason = "a test may fail by panicking")]

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use ckpt_store::{ChunkId, Content, Error, Given, Manifest, Notice, Progress, PutRequest, Quiet, Source, Stage, Store};
use ckpt_tests::lab::{self, Lab, leftovers};
use ckpt_tests::sample::{Node, Tree, noise, safetensors, torch_zip};

/// Bytes in memory, and what of them it lets a put see.
#[derive(Default)]
struct Memory {
    bytes: Vec<u8>,
    /// Whether they can be looked at where they lie.
    in_place: bool,
    /// What it says that its ranges are called.
    known: Option<fn(&[u8]) -> ChunkId>,
    /// What the bytes are from the moment on when `is_other` is set.
    other: Vec<u8>,
    is_other: AtomicBool,
    reads: AtomicUsize,
}

impl Memory {
    fn range<'a>(&self, of: &'a [u8], offset: u64, len: usize) -> Option<&'a [u8]> {
        let start = usize::try_from(offset).ok()?;
        of.get(start..start.checked_add(len)?)
    }
}

impl Source for Memory {
    fn size(&self) -> u64 {
        self.bytes.len() as u64
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        self.reads.fetch_add(1, Ordering::SeqCst);
        let now = if self.is_other.load(Ordering::SeqCst) { &self.other } else { &self.bytes };
        buf.copy_from_slice(self.range(now, offset, buf.len()).ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn bytes(&self, offset: u64, len: usize) -> Option<&[u8]> {
        self.range(&self.bytes, offset, len).filter(|_| self.in_place)
    }

    fn known_id(&self, offset: u64, len: u32) -> Option<ChunkId> {
        Some(self.known?(self.range(&self.bytes, offset, len as usize)?))
    }
}

fn of(bytes: &[u8]) -> Memory {
    Memory { bytes: bytes.to_vec(), ..Memory::default() }
}

fn given(path: &str, memory: Memory) -> Given {
    Given { path: path.into(), mode: 0o644, source: Arc::new(memory) }
}

fn request(given: Vec<Given>, step: u64) -> PutRequest {
    PutRequest { given, run: "r".into(), step: Some(step), ..PutRequest::default() }
}

/// What a manifest says of its files, but for their times.
fn described(store: &Store, request: &PutRequest) -> (Manifest, Vec<(Vec<u8>, u32, Content)>) {
    let entry = store.put(request, &Quiet).expect("a put").entry;
    let manifest = store.manifest(entry.id).expect("a manifest");
    let files = manifest.files.iter().map(|file| (file.path.to_vec(), file.mode, file.content.clone())).collect();
    (manifest, files)
}

fn samples() -> Vec<(&'static str, Vec<u8>)> {
    let tensors = safetensors(&[("encoder", 1, 700_000), ("head.bias", 2, 16), ("head.scale", 3, 700), ("x", 9, 9000)]);
    vec![
        ("a/config.json", b"{\"layers\": 2}".to_vec()),
        ("a/deep/model.safetensors", tensors),
        ("log.txt", noise(5, 200_000)),
        ("model.pt", torch_zip(&[(1, 700_000), (5, 12), (6, 9000), (7, 20)])),
        ("nothing", Vec::new()),
    ]
}

#[test]
fn memory_makes_the_checkpoint_that_files_make() {
    let kinds: [fn(Vec<u8>) -> Memory; 3] = [
        |bytes| Memory { bytes, ..Memory::default() },
        |bytes| Memory { bytes, in_place: true, ..Memory::default() },
        |bytes| Memory { bytes, known: Some(ChunkId::of), ..Memory::default() },
    ];
    for kind in kinds {
        let (disk, memory) = (Lab::new(), Lab::new());
        let (on_disk, in_memory) = (disk.open(), memory.open());
        // Each file alone, then all of them as one directory.
        for (step, (path, bytes)) in (1..).zip(samples()) {
            let file = disk.write(format!("single/{path}"), &bytes);
            let name = file.file_name().unwrap().to_str().unwrap().to_owned();
            let (there, files) = described(&on_disk, &lab::put_request(&[&file], "r", step));
            let (here, from_memory) = described(&in_memory, &request(vec![given(&name, kind(bytes))], step));
            assert_eq!(files, from_memory);
            assert_eq!((&there.chunk_ids, &there.chunk_lens), (&here.chunk_ids, &here.chunk_lens));
            assert_eq!((there.root, there.inline), (here.root, here.inline));
        }
        let all: Vec<Given> = samples().into_iter().rev().map(|(path, bytes)| given(path, kind(bytes))).collect();
        let whole = PutRequest { root: Some("single".into()), ..request(all.clone(), 10) };
        let (there, files) = described(&on_disk, &lab::put_request(&[&disk.path("single")], "r", 10));
        let (here, from_memory) = described(&in_memory, &whole);
        assert_eq!(files, from_memory);
        assert_eq!((&there.chunk_ids, &there.chunk_lens), (&here.chunk_ids, &here.chunk_lens));
        assert_eq!((there.root, there.inline), (here.root, here.inline));

        // Nothing is stored anew, not even over the files' own store.
        for store in [&in_memory, &on_disk] {
            let again = store.put(&PutRequest { step: Some(11), ..whole.clone() }, &Quiet).unwrap();
            assert_eq!((again.new_chunks, again.entry.added_bytes, again.entry.written_bytes), (0, 0, 0));
        }
        let entry = in_memory.resolve("r@11").unwrap();
        assert!(here.files.iter().all(|file| file.mtime_ms > 0 && file.mtime_ms <= entry.time_ms));
        memory.get("r@11", &memory.path("back")).unwrap();
        for (path, bytes) in samples() {
            assert_eq!(std::fs::read(memory.path("back").join(path)).unwrap(), bytes, "{path}");
        }
        memory.get("r@4", &memory.path("back.pt")).unwrap();
        assert_eq!(std::fs::read(memory.path("back.pt")).unwrap(), samples()[3].1);
        assert!(memory.verify().unwrap().is_sound());
    }
}

#[test]
fn what_is_known_is_not_read() {
    let lab = Lab::new();
    let store = lab.open();
    let bytes = noise(1, 3_000_000);
    let file = safetensors(&[("w", 1, 750_000)]);
    assert!(bytes.len() < file.len());
    store.put(&request(vec![given("m", of(&file))], 1), &Quiet).unwrap();
    let counted = Arc::new(Memory { known: Some(ChunkId::of), ..of(&file) });
    let again = Given { path: "m".into(), mode: 0o644, source: Arc::<Memory>::clone(&counted) };
    assert_eq!(store.put(&request(vec![again], 2), &Quiet).unwrap().new_chunks, 0);
    // The header and nothing else.
    assert!(counted.reads.load(Ordering::SeqCst) < 6, "{} reads", counted.reads.load(Ordering::SeqCst));
}

/// Makes memory other when a stage begins.
struct At<'a>(Stage, &'a Memory);

impl Progress for At<'_> {
    fn begin(&self, stage: Stage, _: u64) {
        if stage == self.0 {
            self.1.is_other.store(true, Ordering::SeqCst);
        }
    }
    fn advance(&self, _: u64) {}
    fn notice(&self, _: Notice) {}
    fn interrupted(&self) -> bool {
        false
    }
}

fn state_of(lab: &Lab) -> BTreeMap<Vec<u8>, lab::Node> {
    let mut tree = lab::tree(&lab.store());
    // The index and empty files and folders may be made by looking.
    tree.retain(|path, node| matches!(node, lab::Node::File(_, _, 1.., _)) && !path.starts_with(b"index"));
    tree
}

#[test]
fn memory_that_changes_or_lies_is_refused() {
    let lab = Lab::new();
    let store = lab.open();
    let old = safetensors(&[("w", 1, 300_000), ("v", 2, 9000)]);
    let new = safetensors(&[("w", 1, 300_000), ("v", 3, 9000)]);
    store.put(&request(vec![given("other", of(b"something"))], 1), &Quiet).unwrap();
    let before = state_of(&lab);
    let changing = || Memory { other: new.clone(), ..of(&old) };
    let lying: fn(&[u8]) -> ChunkId = |_| ChunkId::of(b"lie");
    let cases = [
        ("between naming and storing", changing()),
        ("after hashing in place", Memory { in_place: true, ..changing() }),
        ("under a name that was known", Memory { known: Some(ChunkId::of), ..changing() }),
        ("known by a false name", Memory { known: Some(lying), ..of(&old) }),
        ("shorter", Memory { other: old[..1000].to_vec(), ..of(&old) }),
    ];
    for (what, memory) in cases {
        let memory = Arc::new(memory);
        let bad = Given { path: "sub/model.st".into(), mode: 0o600, source: Arc::<Memory>::clone(&memory) };
        let at = At(Stage::Write, &memory);
        let refused = store.put(&request(vec![given("fine", of(&noise(7, 90_000))), bad], 2), &at);
        match refused {
            Err(Error::Changed { path, .. }) => assert_eq!(path, "sub/model.st", "{what}"),
            other => panic!("{what}: {other:?}"),
        }
        assert_eq!(state_of(&lab), before, "{what}");
        assert_eq!(leftovers(&lab.store()), Vec::<String>::new(), "{what}");
    }
    // The same sources, left alone.
    let sound = Memory { other: new.clone(), ..of(&old) };
    store.put(&request(vec![given("sub/model.st", sound)], 2), &Quiet).unwrap();
    assert!(lab.verify().unwrap().is_sound());
}

#[test]
fn given_files_join_those_of_paths() {
    let lab = Lab::new();
    let store = lab.open();
    lab.write("out/model/weights.bin", &noise(1, 90_000));
    let one = lab.write("one.pt", &noise(2, 40_000));
    let more = || vec![given("model/extra.json", of(b"{}")), given("rng/0/state", of(&noise(3, 5000)))];
    // One directory: the given files are in it.
    let into = PutRequest { paths: vec![lab.path("out")], ..request(more(), 1) };
    store.put(&into, &Quiet).unwrap();
    lab.get("r@1", &lab.path("back1")).unwrap();
    let node = |bytes: &[u8], mode| Node::File(bytes.to_vec(), mode);
    let paths = |tree: &Tree| tree.0.keys().map(|path| path.to_str().unwrap().to_owned()).collect::<Vec<_>>();
    let back = Tree::read(&lab.path("back1"));
    let expected =
        ["", "model", "model/extra.json", "model/weights.bin", "rng", "rng/0", "rng/0/state"].map(str::to_owned);
    assert_eq!(paths(&back), expected);
    assert_eq!(back.0[&PathBuf::from("model/extra.json")], node(b"{}", 0o644));
    assert_eq!(back.0[&PathBuf::from("rng/0")], Node::Directory(0o755));
    // A file and given ones; a name for the directory of all.
    let beside = PutRequest { paths: vec![one], root: Some("all".into()), ..request(more(), 2) };
    let entry = store.put(&beside, &Quiet).unwrap().entry;
    assert_eq!(store.manifest(entry.id).unwrap().root.as_deref().map(|root| &root[..]), Some(&b"all"[..]));
    lab.get("r@2", &lab.path("back2")).unwrap();
    let expected = ["", "model", "model/extra.json", "one.pt", "rng", "rng/0", "rng/0/state"].map(str::to_owned);
    assert_eq!(paths(&Tree::read(&lab.path("back2"))), expected);
    assert!(lab.verify().unwrap().is_sound());
}

#[test]
fn clashes_and_hostile_paths_are_refused() {
    let lab = Lab::new();
    let store = lab.open();
    let dir = lab.write("out/model.pt", b"bytes");
    let before = state_of(&lab);
    let long = "n".repeat(300);
    let deep = ["d"; 2100].join("/");
    let hostile =
        ["", ".", "..", "../x", "/x", "/", "a//b", "a/", "a/../b", "./a", "a\0b", &long, &format!("a/{long}"), &deep];
    let mut cases: Vec<(String, PutRequest)> = Vec::new();
    for path in hostile {
        cases.push((format!("{path:?}"), request(vec![given(path, of(b"x"))], 1)));
    }
    for root in ["", "..", "a/b", "a\0", &long] {
        let request = PutRequest { root: Some(root.into()), ..request(vec![given("x", of(b"x"))], 1) };
        cases.push((format!("root {root:?}"), request));
    }
    let two = |a: &str, b: &str| request(vec![given(a, of(b"x")), given(b, of(b"y"))], 1);
    cases.push(("twice".into(), two("a/x", "a/x")));
    cases.push(("in a file".into(), two("a", "a/x")));
    cases.push(("as a directory".into(), two("a/x", "a")));
    let with = |path: PathBuf, at: &str| PutRequest { paths: vec![path], ..request(vec![given(at, of(b"x"))], 1) };
    cases.push(("as a path's file".into(), with(dir.clone(), "model.pt")));
    cases.push(("in a path's file".into(), with(lab.path("out"), "model.pt/x")));
    let mut strange = given("x", of(b"x"));
    strange.mode = 0o4755;
    cases.push(("mode".into(), request(vec![strange], 1)));
    cases.push(("nothing".into(), request(Vec::new(), 1)));
    for (what, request) in cases {
        let refused = store.put(&request, &Quiet);
        assert!(matches!(refused, Err(Error::Invalid(_))), "{what:.40}: {refused:?}");
    }
    assert_eq!(state_of(&lab), before);
}
