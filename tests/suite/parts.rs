//! Checkpoints of parts that several processes prepare: the bytes come back, gc takes nothing that a live part needs, and what
//! is gone with a process is missed before the commit.
#![allow(clippy::unwrap_used, reason = "a test may fail by panicking")]

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use ckpt_store::{Disk, Error, GcRequest, Notice, PartRequest, Prepared, Progress, PutRequest, Quiet, Stage, Store};
use ckpt_tests::disk::{Call, HookDisk};
use ckpt_tests::lab::{Lab, leftovers, noise, put_request, safetensors, tree};

/// A process that holds a part.
struct Rank {
    child: Child,
    out: PathBuf,
}

fn helper() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ckpt-test-helper"));
    command.stdin(Stdio::piped()).stdout(Stdio::piped());
    command
}

impl Rank {
    fn prepare(lab: &Lab, nr: usize, paths: &[&Path]) -> Self {
        let out = lab.path(format!("part{nr}"));
        let mut child = helper().arg("prepare").arg(lab.store()).arg(&out).args(paths).spawn().unwrap();
        let mut said = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut said).unwrap();
        assert_eq!(said, "prepared\n");
        Self { child, out }
    }

    fn kill(mut self) -> PathBuf {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        self.out
    }

    fn end(mut self) {
        drop(self.child.stdin.take());
        assert!(self.child.wait().unwrap().success());
    }
}

fn commit(lab: &Lab, step: u64, parts: &[&Path]) -> String {
    let done = helper().arg("commit").arg(lab.store()).arg("r").arg(step.to_string()).args(parts).output().unwrap();
    assert!(done.status.success());
    String::from_utf8(done.stdout).unwrap()
}

fn model(seeds: &[u64]) -> Vec<u8> {
    let tensors: Vec<(String, Vec<u8>)> = seeds.iter().map(|seed| (format!("t{seed}"), noise(*seed, 90_000))).collect();
    let views: Vec<(&str, &str, &[u8])> = tensors.iter().map(|(name, bytes)| (&**name, "U8", &**bytes)).collect();
    safetensors(&views)
}

/// The files of two ranks, some chunks in both, with literals that are together more than a manifest takes inline.
fn shards(lab: &Lab) -> [PathBuf; 2] {
    let text = |nr: u64| noise(50 + nr, 3500);
    lab.write("a/rank0.txt", &text(0));
    lab.write("a/sub/shard0.safetensors", &model(&[1, 2, 3]));
    lab.write("b/rank1.txt", &text(1));
    lab.write("b/sub/shard1.safetensors", &model(&[3, 4, 5]));
    [lab.path("a"), lab.path("b")]
}

/// The paths in a folder, so that a part has no root of its own.
fn inside(folder: &Path) -> Vec<PathBuf> {
    let mut paths: Vec<PathBuf> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths
}

/// Files with their bytes, without times.
fn contents(folder: &Path) -> BTreeMap<Vec<u8>, Option<[u8; 32]>> {
    use ckpt_tests::lab::Node;
    let hash = |node| if let Node::File(_, _, _, hash) = node { Some(hash) } else { None };
    tree(folder).into_iter().map(|(path, node)| (path, hash(node))).collect()
}

#[track_caller]
fn assert_back(lab: &Lab, reference: &str) {
    let back = lab.path(format!("back-{reference}"));
    ckpt_tests::sample::remove(&back);
    lab.get(reference, &back).unwrap();
    let mut expected = contents(&lab.path("a"));
    expected.extend(contents(&lab.path("b")));
    assert_eq!(contents(&back), expected, "{reference}");
    assert!(lab.verify().unwrap().is_sound());
}

#[test]
fn two_processes_prepare_and_a_third_commits() {
    let lab = Lab::new();
    let folders = shards(&lab);
    for step in 1..3 {
        let ranks: Vec<Rank> = (0..2)
            .map(|nr| {
                let paths = inside(&folders[nr]);
                Rank::prepare(&lab, nr, &paths.iter().map(|path| &**path).collect::<Vec<_>>())
            })
            .collect();
        // Nothing of it is there before the commit, and all of it after any number of gcs.
        assert_eq!(lab.open().checkpoints().unwrap().len() as u64, step - 1);
        lab.ok(&[&"gc"]);
        let said = commit(&lab, step, &[&ranks[0].out, &ranks[1].out]);
        // The chunk of tensor 3 may be stored once or twice.
        let new = said.strip_prefix("committed, ").and_then(|said| said.split(' ').next()?.parse::<u64>().ok());
        // The literals of both are a chunk more.
        assert!(if step == 1 { (6..=8).contains(&new.unwrap()) } else { new == Some(0) }, "{said}");
        ranks.into_iter().for_each(Rank::end);
        lab.ok(&[&"gc"]);
        assert_back(&lab, &format!("r@{step}"));
        assert_eq!(leftovers(&lab.store()), Vec::<String>::new());
    }
    // The same as one put would have made, but for the order of chunks.
    let all = lab.path("all");
    fs::create_dir(&all).unwrap();
    for path in folders.iter().flat_map(|folder| inside(folder)) {
        assert!(Command::new("cp").arg("-r").arg(&path).arg(&all).status().unwrap().success());
    }
    let store = lab.open();
    let put = store.put(&put_request(&[&all], "whole", 1), &Quiet).unwrap();
    // But for the stream of literals, which is cut over all of them.
    assert!(put.new_chunks <= 1, "{put:?}");
    let ids = |reference: &str| {
        let manifest = store.manifest(store.resolve(reference).unwrap().id).unwrap();
        manifest.chunks().collect::<std::collections::BTreeSet<_>>()
    };
    assert!(ids("r@1").symmetric_difference(&ids("whole@1")).count() <= 2);
    assert_eq!(store.resolve("r@1").unwrap().files, 4);
    assert_eq!(store.resolve("r@1").unwrap().logical_bytes, put.entry.logical_bytes);
}

#[test]
fn what_went_with_a_process_is_missed_before_the_commit() {
    let lab = Lab::new();
    let folders = shards(&lab);
    let start = |nr: usize| {
        let paths = inside(&folders[nr]);
        Rank::prepare(&lab, nr, &paths.iter().map(|path| &**path).collect::<Vec<_>>())
    };
    let (first, second) = (start(0), start(1));
    let dead = second.kill();
    // Killed, and nobody has collected: all of it is there still.
    assert!(commit(&lab, 1, &[&first.out, &dead]).starts_with("committed"));
    assert_back(&lab, "r@1");
    first.end();
    lab.ok(&[&"rm", &"r@1"]);
    lab.ok(&[&"gc"]);

    let (first, second) = (start(0), start(1));
    let dead = second.kill();
    lab.ok(&[&"gc"]);
    let said = commit(&lab, 2, &[&first.out, &dead]);
    assert!(said.starts_with("refused: Busy") && said.contains("save it again"), "{said}");
    assert!(lab.open().checkpoints().unwrap().is_empty());
    // The one that is lost prepares again.
    let second = start(1);
    assert!(commit(&lab, 2, &[&first.out, &second.out]).starts_with("committed"));
    first.end();
    second.end();
    lab.ok(&[&"gc"]);
    assert_back(&lab, "r@2");

    // A store that was put back has the epoch of the part and not its packs.
    let third = start(0);
    lab.write("a/rank0.txt", &noise(77, 200_000));
    let fourth = start(0);
    let packs: Vec<PathBuf> = ckpt_tests::lab::files(&lab.store().join("packs"));
    let newest = packs.iter().max_by_key(|path| path.file_name().map(ToOwned::to_owned)).unwrap();
    fs::remove_file(newest).unwrap();
    let said = commit(&lab, 3, &[&fourth.out]);
    assert!(said.starts_with("refused: Busy"), "{said}");
    third.end();
    fourth.end();
}

/// Drops the checkpoint that a part relies on and collects, at one moment of what is going on.
struct Collector {
    root: PathBuf,
    left: AtomicUsize,
    ran: AtomicBool,
}

impl Collector {
    fn at(root: &Path, moment: usize) -> Arc<Self> {
        let (left, ran) = (AtomicUsize::new(moment), AtomicBool::new(false));
        Arc::new(Self { root: root.to_owned(), left, ran })
    }

    fn moment(&self) {
        if !self.ran.load(Ordering::SeqCst) && self.left.fetch_sub(1, Ordering::SeqCst) == 0 {
            self.ran.store(true, Ordering::SeqCst);
            let store = Store::open(&self.root).unwrap();
            if store.resolve("old@1").is_ok() {
                store.remove(&["old@1".into()]).unwrap();
            }
            store.gc(&GcRequest::default(), &Quiet).unwrap();
        }
    }

    /// A disk on which each name that something gets is such a moment.
    fn disk(self: &Arc<Self>) -> Arc<dyn Disk> {
        let own = Arc::clone(self);
        HookDisk::new(move |call| {
            let path = match call {
                Call::Rename(_, to) => Some(to),
                Call::SyncDir(path) => Some(path),
                _ => None,
            };
            // HEAD is replaced under its lock, where a gc would wait for ever.
            if path.is_some_and(|path| path.to_string_lossy().contains("packs/") || path.ends_with("checkpoints")) {
                own.moment();
            }
            Ok(())
        })
    }
}

impl Progress for Collector {
    fn begin(&self, stage: Stage, _: u64) {
        // The index is brought up to date under its lock.
        if stage != Stage::Index {
            self.moment();
        }
    }
    fn advance(&self, _: u64) {}
    fn notice(&self, _: Notice) {}
    fn interrupted(&self) -> bool {
        false
    }
}

#[test]
fn a_gc_at_any_moment_takes_nothing_that_a_part_relies_on() {
    let (mut moments, mut rescued) = (0, 0);
    for moment in 0.. {
        let lab = Lab::quick();
        let folders = shards(&lab);
        // Most of the first part is in a checkpoint that is dropped while it is prepared or committed.
        let old = lab.write("old.safetensors", &model(&[1, 2, 7]));
        lab.put(&[&old], "old", 1).unwrap();
        let collector = Collector::at(&lab.store(), moment);
        let store = Store::open_on(&lab.store(), collector.disk()).unwrap();
        let prepare = |nr: usize| -> Prepared {
            let request = PartRequest { paths: inside(&folders[nr]), ..PartRequest::default() };
            let prepared = store.prepare(&request, &*collector).unwrap();
            collector.moment();
            prepared
        };
        let parts = [prepare(0), prepare(1)];
        rescued += u64::from(parts[0].added_bytes() < 200_000);
        let request = PutRequest { run: "r".into(), step: Some(1), root: Some("x".into()), ..PutRequest::default() };
        let bytes: Vec<Vec<u8>> = parts.iter().map(|part| part.to_bytes().to_vec()).collect();
        store.commit_parts(&request, &bytes, &*collector).unwrap();
        drop(parts);
        let ran = collector.ran.load(Ordering::SeqCst);
        collector.moment();
        assert_back(&lab, "r@1");
        if !ran {
            break;
        }
        lab.open().gc(&GcRequest::default(), &Quiet).unwrap();
        assert_back(&lab, "r@1");
        moments += 1;
    }
    assert!(moments >= 8 && rescued >= 3, "{moments} moments, {rescued} times from the old packs");
}

#[test]
fn parts_that_do_not_fit_are_refused() {
    let lab = Lab::new();
    let folders = shards(&lab);
    let store = lab.open();
    let prepare =
        |paths: Vec<PathBuf>| store.prepare(&PartRequest { paths, ..PartRequest::default() }, &Quiet).unwrap();
    let request = |step| PutRequest { run: "r".into(), step: Some(step), ..PutRequest::default() };
    let commit = |request: &PutRequest, parts: &[&[u8]]| {
        store.commit_parts(request, &parts.iter().map(|part| part.to_vec()).collect::<Vec<_>>(), &Quiet)
    };
    let (one, two) = (prepare(inside(&folders[0])), prepare(inside(&folders[1])));
    let is_invalid = |done: ckpt_store::Result<_>| matches!(done, Err(Error::Invalid(_)));
    // The same file twice, nothing, bytes that are no part or not all of one, another store, two roots, a run that is none.
    assert!(is_invalid(commit(&request(1), &[one.to_bytes(), one.to_bytes()])));
    assert!(is_invalid(commit(&request(1), &[])));
    assert!(is_invalid(commit(&request(1), &[b"no part"])));
    let bytes = one.to_bytes();
    for at in (0..bytes.len()).step_by(7) {
        let mut changed = bytes.to_vec();
        changed[at] ^= 1;
        assert!(commit(&request(1), &[&changed]).is_err() && commit(&request(1), &[&bytes[..at]]).is_err());
    }
    let other = Lab::new();
    let elsewhere = other.open().prepare(&PartRequest { paths: inside(&folders[0]), ..PartRequest::default() }, &Quiet);
    assert!(is_invalid(commit(&request(1), &[elsewhere.unwrap().to_bytes()])));
    let rooted = prepare(vec![folders[1].clone()]);
    assert!(is_invalid(commit(&request(1), &[one.to_bytes(), rooted.to_bytes()])));
    assert!(is_invalid(commit(&PutRequest { run: "@".into(), ..request(1) }, &[one.to_bytes()])));
    assert!(store.checkpoints().unwrap().is_empty());
    // With a name for all it fits, and a step that exists is refused as in a put.
    let named = PutRequest { root: Some("both".into()), ..request(1) };
    commit(&named, &[one.to_bytes(), rooted.to_bytes()]).unwrap();
    assert!(matches!(commit(&named, &[one.to_bytes(), two.to_bytes()]), Err(Error::Exists { .. })));
    assert_back(&lab, "r@1");
}

#[test]
fn a_child_that_was_forked_does_its_parent_no_harm() {
    let lab = Lab::new();
    let work = lab.path("work");
    fs::create_dir(&work).unwrap();
    let done = helper().arg("fork").arg(lab.store()).arg(&work).output().unwrap();
    let said = String::from_utf8_lossy(&done.stdout).into_owned();
    assert!(done.status.success(), "{said}{}", String::from_utf8_lossy(&done.stderr));
    // The child has ended what is a copy of its parent's, and the parent's is there.
    assert_eq!(said, "child 0, 1 sessions\ndone, 0 sessions\n");
    for (file, copies) in
        [("one", ["child-1", "parent-1"]), ("two", ["child-2", "parent-2"]), ("three", ["parent-3"; 2])]
    {
        for copy in copies {
            assert_eq!(fs::read(work.join(copy)).unwrap(), fs::read(work.join(file)).unwrap(), "{copy}");
        }
    }
    assert_eq!(fs::read(work.join("parent-4")).unwrap(), fs::read(work.join("part")).unwrap());
    assert!(lab.verify().unwrap().is_sound());
}
