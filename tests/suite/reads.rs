//! Reads of an open checkpoint: any bytes, in any order, by many threads, while others drop and collect and damage the store.
#![allow(clippy::unwrap_used, reason = "a test may fail by panicking")]

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use ckpt_store::limits::{CACHE_BYTES, READ_AHEAD_BYTES};
use ckpt_store::{Content, Error, Notice, OpenCheckpoint, OpenTensor, Progress, Quiet, Span, Stage, Store};
use ckpt_tests::lab::{Lab, pack_lines};
use ckpt_tests::sample;
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

const MIB: usize = 1 << 20;

/// A checkpoint of files of every kind, and their bytes by their places in it.
struct Sample {
    lab: Lab,
    files: Vec<Vec<u8>>,
}

impl Sample {
    fn new() -> Self {
        let lab = Lab::quick();
        // Many tensors that share chunks, some of many chunks, and two that are the same.
        let mut records: Vec<(u64, usize)> = (0..300).map(|nr| (nr, 1 + nr as usize * 11)).collect();
        records.extend([(1000, 700_000), (1001, 262_144), (1000, 700_000), (1002, 300_001)]);
        records.extend((2000..2100).map(|nr| (nr, 2000)));
        lab.write("source/model.pt", &sample::torch_zip(&records));
        let tensors = [("a", 1000, 700_000), ("b", 1003, 500_000), ("empty", 1, 0), ("small", 5, 56), ("z", 6, 1)];
        lab.write("source/model.safetensors", &sample::safetensors(&tensors));
        lab.write("source/opaque.bin", &sample::noise(77, 3_500_000));
        lab.write("source/text/notes.txt", b"a few words");
        lab.write("source/text/empty", b"");
        lab.write("source/text/vocabulary.txt", "token ".repeat(60_000).as_bytes());
        lab.put(&[&lab.path("source")], "r", 1).unwrap();
        let files = read_files(&lab, &lab.path("source"));
        Self { lab, files }
    }

    fn open(&self) -> OpenCheckpoint {
        Arc::new(self.lab.open()).open_checkpoint("r@latest", &Quiet).unwrap()
    }

    fn number(&self, open: &OpenCheckpoint, path: &str) -> u32 {
        open.files().iter().position(|file| &file.path[..] == path.as_bytes()).unwrap() as u32
    }
}

/// The bytes of the files of `r@1`, in the order of the checkpoint, directories as empty ones.
fn read_files(lab: &Lab, source: &Path) -> Vec<Vec<u8>> {
    let open = Arc::new(lab.open()).open_checkpoint("r@1", &Quiet).unwrap();
    let path = |file: &ckpt_store::File| source.join(std::str::from_utf8(&file.path).unwrap());
    open.files().iter().map(|file| fs::read(path(file)).unwrap_or_default()).collect()
}

fn is_file(open: &OpenCheckpoint, file: usize) -> bool {
    matches!(open.files()[file].content, Content::File { .. })
}

/// A range that begins anywhere, also behind the end, of a length from nothing to several chunks.
fn range(rng: &mut SmallRng, size: usize) -> (usize, usize) {
    let len = match rng.random_range(0..4) {
        0 => rng.random_range(0..100),
        1 => rng.random_range(0..70_000),
        2 => rng.random_range(0..2_000_000),
        _ => rng.random_range(0..6_000_000),
    };
    (rng.random_range(0..size + size / 20 + 10), len)
}

fn check_read(open: &OpenCheckpoint, file: usize, bytes: &[u8], offset: usize, len: usize) {
    let mut buffer = vec![0xa5; len];
    let got = open.read_at(file as u32, offset as u64, &mut buffer, &Quiet).unwrap();
    let from = offset.min(bytes.len());
    let expected = &bytes[from..from.saturating_add(len).min(bytes.len())];
    assert_eq!(got, expected.len(), "{len} bytes from {offset} on of file {file} of {}", bytes.len());
    assert!(buffer[..got] == *expected, "{len} bytes from {offset} on of file {file}");
    assert!(buffer[got..].iter().all(|byte| *byte == 0xa5), "behind the end nothing is written");
}

#[test]
fn any_read_brings_the_bytes_that_were_stored() {
    let sample = Sample::new();
    for seed in 0..6 {
        let mut rng = SmallRng::seed_from_u64(seed);
        let open = sample.open();
        for _ in 0..60 {
            let file = rng.random_range(0..sample.files.len());
            let bytes = &sample.files[file];
            let (offset, len) = range(&mut rng, bytes.len());
            if !is_file(&open, file) {
                assert!(matches!(open.read_at(file as u32, 0, &mut [0; 9], &Quiet), Err(Error::Invalid(_))));
                continue;
            }
            check_read(&open, file, bytes, offset, len);
            // Go on for a while, in pieces of one length.
            let len = len.min(300_000);
            (0..rng.random_range(0..8)).for_each(|nr| check_read(&open, file, bytes, offset + nr * len, len));
        }
    }
}

#[test]
fn many_ranges_are_read_at_once() {
    let sample = Sample::new();
    for seed in 0..20 {
        let mut rng = SmallRng::seed_from_u64(seed);
        let open = sample.open();
        if seed % 2 == 0 {
            // With some of it in the cache already.
            check_read(&open, sample.number(&open, "model.pt") as usize, &sample.files[0], 5000, 400_000);
        }
        let (mut spans, mut buffers) = (Vec::new(), Vec::new());
        for _ in 0..rng.random_range(0..60) {
            let file = rng.random_range(0..sample.files.len());
            let size = sample.files[file].len();
            let (offset, len) = range(&mut rng, size);
            if is_file(&open, file) {
                let offset = offset.min(size);
                let len = len.min(size - offset);
                spans.push(Span { file: file as u32, offset: offset as u64, len: len as u64 });
                buffers.push(vec![0; len]);
            }
        }
        let mut to: Vec<&mut [u8]> = buffers.iter_mut().map(|buffer| &mut buffer[..]).collect();
        open.read_many(&spans, &mut to, &Quiet).unwrap();
        for (span, buffer) in spans.iter().zip(&buffers) {
            let from = span.offset as usize;
            assert!(sample.files[span.file as usize][from..from + buffer.len()] == **buffer, "{span:?}");
        }
    }
}

#[test]
fn ranges_that_do_not_fit_are_refused() {
    let sample = Sample::new();
    let open = sample.open();
    let file = sample.number(&open, "opaque.bin");
    let size = 3_500_000;
    let folder = sample.number(&open, "text");
    let read = |file, offset, len: u64, buffer: usize| {
        open.read_many(&[Span { file, offset, len }], &mut [&mut vec![0; buffer]], &Quiet)
    };
    read(file, size - 10, 10, 10).unwrap();
    read(file, size, 0, 0).unwrap();
    for (file, offset, len, buffer) in [
        (file, size - 10, 11, 11),
        (file, size + 1, 0, 0),
        (file, u64::MAX, 2, 2),
        (file, 0, 10, 9),
        (folder, 0, 0, 0),
        (999, 0, 1, 1),
    ] {
        let refused = read(file, offset, len, buffer);
        assert!(matches!(refused, Err(Error::Invalid(_))), "{file} {offset} {len} {buffer}: {refused:?}");
    }
    assert!(matches!(open.read_many(&[Span { file, offset: 0, len: 1 }], &mut [], &Quiet), Err(Error::Invalid(_))));
    assert_eq!(open.read_at(file, u64::MAX, &mut [0; 5], &Quiet).unwrap(), 0);
    assert!(matches!(open.read_at(999, 0, &mut [], &Quiet), Err(Error::Invalid(_))));
}

#[test]
fn tensors_are_described_and_read_by_that() {
    let sample = Sample::new();
    let open = sample.open();
    assert_eq!((&*open.entry().run, open.entry().step), ("r", Some(1)));
    let file = sample.number(&open, "model.safetensors");
    let tensors: Vec<OpenTensor> = open.tensors().into_iter().filter(|tensor| tensor.file == file).collect();
    let b = tensors.iter().find(|tensor| tensor.bare_name == "b").unwrap();
    assert_eq!(
        (b.dtype.as_deref(), b.shape.as_deref(), b.strides.as_deref()),
        (Some("F32"), Some(&[500_000][..]), None)
    );
    assert_eq!((&*b.name, b.len), ("b", 2_000_000));
    let mut bytes = vec![0; 2_000_000];
    open.read_many(&[b.span()], &mut [&mut bytes], &Quiet).unwrap();
    assert!(bytes == sample::weights(1003, 500_000));
    assert!(tensors.iter().any(|tensor| tensor.name == "empty" && tensor.len == 0));
}

/// The raw bytes of a checkpoint's chunks, each counted once.
fn distinct_bytes(store: &Store, reference: &str) -> u64 {
    let manifest = store.manifest(store.resolve(reference).unwrap().id).unwrap();
    let mut seen = BTreeSet::new();
    let lens = manifest.chunks().zip(&manifest.chunk_lens);
    lens.filter(|(id, _)| seen.insert(id.0)).map(|(_, len)| u64::from(*len)).sum()
}

#[test]
fn a_pass_over_a_file_decodes_each_chunk_once() {
    let lab = Lab::quick();
    // Larger than the cache: what is between the tensors lies in one chunk that is needed all the time.
    let mut records: Vec<(u64, usize)> = (0..80).map(|nr| (nr, 300_000 + nr as usize * 3)).collect();
    records.extend((100..900).map(|nr| (nr, 500)));
    let bytes = sample::torch_zip(&records);
    assert!(bytes.len() > CACHE_BYTES + CACHE_BYTES / 4);
    let path = lab.write("model.pt", &bytes);
    lab.put(&[&path], "r", 1).unwrap();
    let store = Arc::new(lab.open());
    let all = distinct_bytes(&store, "r@1");
    for piece in [7_000, 64 << 10, MIB, 5_000_000, 48 << 20] {
        let open = store.open_checkpoint("r", &Quiet).unwrap();
        let mut buffer = vec![0; piece];
        for offset in (0..bytes.len()).step_by(piece) {
            let got = open.read_at(0, offset as u64, &mut buffer, &Quiet).unwrap();
            assert!(buffer[..got] == bytes[offset..(offset + piece).min(bytes.len())], "at {offset} by {piece}");
        }
        assert_eq!(open.read_bytes(), all, "in pieces of {piece}");
    }
}

#[test]
fn many_ranges_decode_each_chunk_once() {
    let sample = Sample::new();
    let open = sample.open();
    // Every tensor, and each of them again: tied ones and small ones share chunks.
    let mut tensors = open.tensors();
    tensors.extend(tensors.clone());
    let mut buffers: Vec<Vec<u8>> = tensors.iter().map(|tensor| vec![0; tensor.len as usize]).collect();
    let spans: Vec<Span> = tensors.iter().map(OpenTensor::span).collect();
    let mut to: Vec<&mut [u8]> = buffers.iter_mut().map(|buffer| &mut buffer[..]).collect();
    open.read_many(&spans, &mut to, &Quiet).unwrap();
    let needed: u64 = {
        let (mut seen, store) = (BTreeSet::new(), sample.lab.open());
        let manifest = store.manifest(open.entry().id).unwrap();
        for tensor in &tensors {
            for extent in manifest.extents(tensor.file) {
                let end = extent.file_at + u64::from(extent.len);
                if extent.file_at < tensor.offset + tensor.len && end > tensor.offset {
                    seen.insert((
                        manifest.chunk_id(extent.chunk as usize).0,
                        manifest.chunk_lens[extent.chunk as usize],
                    ));
                }
            }
        }
        seen.iter().map(|(_, len)| u64::from(*len)).sum()
    };
    assert_eq!(open.read_bytes(), needed);
    for (span, buffer) in spans.iter().zip(&buffers) {
        let from = span.offset as usize;
        assert!(sample.files[span.file as usize][from..from + buffer.len()] == **buffer, "{span:?}");
    }
}

#[test]
fn who_leaps_about_is_not_read_ahead_of() {
    let lab = Lab::quick();
    let bytes = sample::noise(3, 40 * MIB);
    let path = lab.write("model.safetensors", &ckpt_tests::lab::safetensors(&[("t", "U8", &bytes)]));
    lab.put(&[&path], "r", 1).unwrap();
    let open = Arc::new(lab.open()).open_checkpoint("r", &Quiet).unwrap();
    for nr in [30, 3, 21, 12] {
        open.read_at(0, nr * MIB as u64 + 5000, &mut [0; 100], &Quiet).unwrap();
    }
    assert_eq!(open.read_bytes(), 4 * MIB as u64);
    // Who reads on is, and not without end.
    for nr in 0..80 {
        open.read_at(0, nr * 100_000, &mut vec![0; 100_000], &Quiet).unwrap();
    }
    assert!(open.read_bytes() > 12 * MIB as u64);
    assert!(open.read_bytes() <= (4 + 8 + 4 + 4) * MIB as u64 + READ_AHEAD_BYTES, "{}", open.read_bytes());
}

#[test]
fn many_threads_read_one_file() {
    let sample = Sample::new();
    let open = sample.open();
    let file = sample.number(&open, "model.pt") as usize;
    let bytes = &sample.files[file];
    std::thread::scope(|scope| {
        for seed in 0..8 {
            let open = &open;
            scope.spawn(move || {
                let mut rng = SmallRng::seed_from_u64(seed);
                if seed < 4 {
                    // From front to back, all at once.
                    (0..bytes.len()).step_by(50_000).for_each(|at| check_read(open, file, bytes, at, 50_000));
                }
                for _ in 0..40 {
                    let (offset, len) = range(&mut rng, bytes.len());
                    check_read(open, file, bytes, offset, len);
                    if len > 1_000_000 {
                        let (from, len) = (offset.min(bytes.len()), len.min(bytes.len() - offset.min(bytes.len())));
                        let mut buffer = vec![0; len];
                        let span = Span { file: file as u32, offset: from as u64, len: len as u64 };
                        open.read_many(&[span], &mut [&mut buffer], &Quiet).unwrap();
                        assert!(buffer == bytes[from..from + len]);
                    }
                }
            });
        }
    });
}

#[test]
fn what_is_open_stays_while_others_drop_and_collect() {
    let sample = Sample::new();
    let lab = &sample.lab;
    // Another checkpoint shares some of it, so that gc has packs to rewrite.
    lab.write("other/model.safetensors", &fs::read(lab.path("source/model.safetensors")).unwrap());
    lab.put(&[&lab.path("other")], "other", 1).unwrap();
    let open = sample.open();
    let file = sample.number(&open, "model.pt") as usize;
    check_read(&open, file, &sample.files[file], 0, 100_000);
    lab.ok(&[&"rm", &"r@1"]);
    lab.ok(&[&"gc"]);
    for (file, bytes) in sample.files.iter().enumerate().filter(|(file, _)| is_file(&open, *file)) {
        check_read(&open, file, bytes, 0, bytes.len() + 10);
    }
    drop(open);
    let gone = Arc::new(lab.open()).open_checkpoint("r@1", &Quiet).err();
    assert!(matches!(gone, Some(Error::NotFound { .. })), "{gone:?}");
    let before = lab.ok(&[&"df", &"--json"]).json()["stored_bytes"].as_u64();
    lab.ok(&[&"gc"]);
    assert!(lab.ok(&[&"df", &"--json"]).json()["stored_bytes"].as_u64() < before, "nothing keeps it any more");
}

#[test]
fn a_pack_that_gc_rewrites_meanwhile_is_found_again() {
    let lab = Lab::quick();
    let keep = ckpt_tests::world::tensors(&[1, 2, 3, 11]);
    let all = ckpt_tests::world::tensors(&[4, 5, 6, 7, 8, 9, 10, 1, 2, 3]);
    all.write(&lab.path("all.safetensors"));
    lab.put(&[&lab.path("all.safetensors")], "all", 1).unwrap();
    keep.write(&lab.path("keep.safetensors"));
    lab.put(&[&lab.path("keep.safetensors")], "r", 1).unwrap();
    let bytes = fs::read(lab.path("keep.safetensors")).unwrap();
    let open = Arc::new(lab.open()).open_checkpoint("r", &Quiet).unwrap();
    // Now it knows all places, and has opened the one pack of the two that stays.
    check_read(&open, 0, &bytes, bytes.len() - 100, 100);
    lab.ok(&[&"rm", &"all@1"]);
    let report = lab.ok(&[&"gc", &"--json"]).json();
    assert_eq!(report["packs_rewritten"].as_u64(), Some(1), "{report}");
    check_read(&open, 0, &bytes, 0, bytes.len());
}

/// Damages the payload of the largest chunk of each pack.
fn damage(root: &Path) {
    for path in ckpt_tests::lab::files(&root.join("packs")) {
        let mut pack = fs::read(&path).unwrap();
        let line = pack_lines(&pack).into_iter().max_by_key(|line| line.stored_len).unwrap();
        pack[line.offset + line.stored_len / 2] ^= 1;
        fs::write(&path, pack).unwrap();
    }
}

#[test]
fn damage_is_told_and_healed_and_never_handed_out() {
    let sample = Sample::new();
    let lab = &sample.lab;
    damage(&lab.store());
    let store = Arc::new(lab.open());
    let open = store.open_checkpoint("r", &Quiet).unwrap();
    let mut damaged = 0;
    for (file, bytes) in sample.files.iter().enumerate().filter(|(file, _)| is_file(&open, *file)) {
        // In small pieces: reading ahead meets the damage first and must not tell of it before somebody asks.
        for at in (0..bytes.len()).step_by(100_000) {
            let mut buffer = vec![0; 100_000.min(bytes.len() - at)];
            match open.read_at(file as u32, at as u64, &mut buffer, &Quiet) {
                Ok(got) => assert!(buffer[..got] == bytes[at..at + got], "file {file} at {at}"),
                Err(Error::Damaged(places)) => {
                    damaged += 1;
                    assert!(!places.is_empty());
                    let path = String::from_utf8_lossy(&open.files()[file].path).into_owned();
                    assert!(places.iter().all(|place| place.file == path && place.pack.is_some()), "{places:?}");
                    assert!(path != "model.safetensors" || places[0].tensor.is_some(), "{places:?}");
                }
                Err(error) => panic!("{error}"),
            }
        }
        let span = Span { file: file as u32, offset: 0, len: bytes.len() as u64 };
        let mut whole = vec![0; bytes.len()];
        match open.read_many(&[span], &mut [&mut whole], &Quiet) {
            Ok(()) => assert!(whole == *bytes),
            Err(error) => assert!(matches!(error, Error::Damaged(_)), "{error}"),
        }
    }
    assert!((1..=30).contains(&damaged), "{damaged} reads met the damaged chunk");
    // It was set aside: the same bytes are stored again, and whoever has the checkpoint open reads them.
    let report = lab.put(&[&lab.path("source")], "again", 1).unwrap();
    assert!(report.new_chunks >= 1);
    let open = store.open_checkpoint("r", &Quiet).unwrap();
    for (file, bytes) in sample.files.iter().enumerate().filter(|(file, _)| is_file(&open, *file)) {
        check_read(&open, file, bytes, 0, bytes.len());
    }
}

/// Counts what it is told, and says stop after some chunks.
#[derive(Default)]
struct Counter {
    begun: AtomicU64,
    done: AtomicU64,
    stop: AtomicBool,
}

impl Progress for Counter {
    fn begin(&self, stage: Stage, bytes: u64) {
        assert_eq!(stage, Stage::Read);
        self.begun.fetch_add(bytes, Ordering::SeqCst);
    }
    fn advance(&self, bytes: u64) {
        self.done.fetch_add(bytes, Ordering::SeqCst);
    }
    fn notice(&self, notice: Notice) {
        panic!("{notice:?}");
    }
    fn interrupted(&self) -> bool {
        self.stop.load(Ordering::SeqCst)
    }
}

#[test]
fn reading_many_tells_how_far_it_is_and_stops_when_told() {
    let sample = Sample::new();
    let open = sample.open();
    let counter = Counter::default();
    let (mut spans, mut buffers) = (Vec::new(), Vec::new());
    for (file, bytes) in sample.files.iter().enumerate().filter(|(file, _)| is_file(&open, *file)) {
        spans.push(Span { file: file as u32, offset: 0, len: bytes.len() as u64 });
        buffers.push(vec![0; bytes.len()]);
    }
    let mut to: Vec<&mut [u8]> = buffers.iter_mut().map(|buffer| &mut buffer[..]).collect();
    open.read_many(&spans, &mut to, &counter).unwrap();
    let total: u64 = spans.iter().map(|span| span.len).sum();
    assert_eq!((counter.begun.load(Ordering::SeqCst), counter.done.load(Ordering::SeqCst)), (total, total));
    counter.stop.store(true, Ordering::SeqCst);
    let fresh = sample.open();
    assert!(matches!(fresh.read_many(&spans, &mut to, &counter), Err(Error::Interrupted)));
    assert!(matches!(fresh.read_at(spans[0].file, 0, &mut [0; 10], &counter), Err(Error::Interrupted)));
    // What was announced and not brought is nobody's to wait for.
    counter.stop.store(false, Ordering::SeqCst);
    let read = fresh.read_at(spans[0].file, 0, to[0], &counter).unwrap();
    assert!(to[0][..read] == sample.files[spans[0].file as usize]);
}
