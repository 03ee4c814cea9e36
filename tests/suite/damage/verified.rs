//! What verify remembers, what it does beside others who move packs, and what its quick look sees.

use std::collections::BTreeSet;
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use ckpt_store::{Error, Notice, Progress, Quiet, Stage, Store, VerifyReport, VerifyRequest};
use ckpt_tests::gate::{Gate, StopAt, gate};
use ckpt_tests::lab::{Lab, files, noise, pack_lines};

use super::Sample;
use super::repair::without_index;

const HOUR: i64 = 3_600_000;

/// A store of as many packs, each of one checkpoint.
fn many(packs: u64) -> Lab {
    let lab = Lab::quick();
    for step in 0..packs {
        let path = lab.write("model.bin", &noise(step, 70_000));
        lab.put(&[&path], "r", step).unwrap();
    }
    lab
}

fn packs(lab: &Lab) -> Vec<PathBuf> {
    files(&lab.store().join("packs"))
}

fn bytes_of_packs(lab: &Lab) -> u64 {
    packs(lab).iter().map(|path| fs::metadata(path).unwrap().len()).sum()
}

fn verify(
    lab: &Lab,
    reference: Option<&str>,
    not_since_ms: Option<i64>,
    progress: &dyn Progress,
) -> ckpt_store::Result<VerifyReport> {
    let request = VerifyRequest { reference: reference.map(str::to_owned), quick: false, not_since_ms };
    lab.open().verify(&request, progress)
}

#[test]
fn what_was_found_sound_not_long_ago_is_not_read_again() {
    let lab = many(5);
    let all = bytes_of_packs(&lab);
    let first = verify(&lab, None, Some(HOUR), &Quiet).unwrap();
    assert_eq!((first.bytes, first.skipped_bytes), (all, 0), "nothing is remembered yet");
    let second = verify(&lab, None, Some(HOUR), &Quiet).unwrap();
    assert_eq!((second.bytes, second.skipped_bytes, second.chunks), (0, all, first.chunks));
    let one = verify(&lab, Some("r@3"), Some(HOUR), &Quiet).unwrap();
    assert!(one.bytes == 0 && one.skipped_bytes >= 70_000, "{one:?}");
    let path = lab.write("model.bin", &noise(99, 70_000));
    lab.put(&[&path], "r", 99).unwrap();
    let third = verify(&lab, None, Some(HOUR), &Quiet).unwrap();
    assert!(third.bytes > 0 && third.skipped_bytes == all, "only the new pack is read: {third:?}");
    assert_eq!(verify(&lab, None, None, &Quiet).unwrap().skipped_bytes, 0, "without an age all is read");
    thread::sleep(std::time::Duration::from_millis(5));
    assert_eq!(verify(&lab, None, Some(1), &Quiet).unwrap().skipped_bytes, 0, "that was too long ago");
    without_index(&lab.store());
    assert_eq!(verify(&lab, None, Some(HOUR), &Quiet).unwrap().skipped_bytes, 0, "without the index it is forgotten");
    let told = lab.ok(&[&"verify", &"--not-since", &"1h"]);
    assert!(told.text().contains("not read"), "{told:?}");
    let json = lab.ok(&[&"verify", &"--not-since", &"1h", &"--json"]).json();
    assert_eq!(json["skipped_bytes"], bytes_of_packs(&lab));
    lab.run(&[&"verify", &"--not-since", &"1h", &"--quick"]).expect(2);
    // A gc forgets what it takes away, and no more.
    lab.ok(&[&"rm", &"r@0"]);
    lab.ok(&[&"gc"]);
    let after = verify(&lab, None, Some(HOUR), &Quiet).unwrap();
    assert_eq!((after.bytes, after.skipped_bytes), (0, bytes_of_packs(&lab)));
}

#[test]
fn a_pack_that_was_found_damaged_is_always_read_again() {
    let lab = many(4);
    verify(&lab, None, None, &Quiet).unwrap();
    let path = &packs(&lab)[1];
    let good = fs::read(path).unwrap();
    let mut bytes = good.clone();
    let at = pack_lines(&bytes)[0].offset + 9;
    bytes[at] ^= 1;
    fs::write(path, &bytes).unwrap();
    assert!(verify(&lab, None, Some(HOUR), &Quiet).unwrap().is_sound(), "it was not read");
    assert!(!verify(&lab, None, None, &Quiet).unwrap().is_sound());
    assert!(!verify(&lab, None, Some(HOUR), &Quiet).unwrap().is_sound(), "now it is known to be damaged");
    fs::write(path, good).unwrap();
    verify(&lab, None, None, &Quiet).unwrap();
    fs::write(path, &bytes).unwrap();
    let step = (0..4).find(|step| lab.get(&format!("r@{step}"), &lab.path(format!("back-{step}"))).is_err());
    assert!(step.is_some() && !verify(&lab, None, Some(HOUR), &Quiet).unwrap().is_sound(), "a get saw it");
    // A list that is damaged is seen even so.
    let other = &packs(&lab)[2];
    let mut bytes = fs::read(other).unwrap();
    let len = bytes.len();
    bytes[len - 3] ^= 1;
    fs::write(other, bytes).unwrap();
    let name = other.file_name().unwrap().to_str().unwrap().to_owned();
    let report = verify(&lab, None, Some(HOUR), &Quiet).unwrap();
    assert!(report.objects.iter().any(|(what, _)| what.contains(&name)), "{report:?}");
}

/// Ends the work after so many bytes: as Ctrl-C does, or as kill -9 does, which nobody can answer.
struct EndAfter {
    bytes: u64,
    killed: bool,
    done: AtomicU64,
}

impl Progress for EndAfter {
    fn begin(&self, _: Stage, _: u64) {}
    fn advance(&self, bytes: u64) {
        let done = self.done.fetch_add(bytes, Ordering::SeqCst) + bytes;
        assert!(!self.killed || done < self.bytes, "killed");
    }
    fn notice(&self, _: Notice) {}
    fn interrupted(&self) -> bool {
        self.done.load(Ordering::SeqCst) >= self.bytes
    }
}

#[test]
fn a_verify_that_was_ended_goes_on_where_it_was() {
    let lab = many(50);
    let all = bytes_of_packs(&lab);
    for killed in [false, true] {
        without_index(&lab.store());
        lab.ok(&[&"verify", &"--quick"]);
        let end = EndAfter { bytes: all * 9 / 10, killed, done: AtomicU64::new(0) };
        let ended = catch_unwind(AssertUnwindSafe(|| verify(&lab, None, Some(HOUR), &end)));
        match ended {
            Ok(outcome) => assert!(!killed && matches!(outcome, Err(Error::Interrupted)), "{outcome:?}"),
            Err(_) => assert!(killed),
        }
        let next = verify(&lab, None, Some(HOUR), &Quiet).unwrap();
        // What was not yet written down when it was killed is read again, and no more.
        let least = if killed { all / 2 } else { all * 8 / 10 };
        assert!(next.skipped_bytes >= least && next.bytes > 0, "killed {killed}: {next:?}");
        assert_eq!(next.bytes + next.skipped_bytes, all);
    }
}

/// Moves what is in the packs of a store to other packs, as a gc that rewrites does.
struct Mover {
    old: Vec<PathBuf>,
    new: Vec<(PathBuf, Vec<u8>)>,
}

impl Mover {
    /// Two copies of each chunk, of which one is away until the move.
    fn new(sample: &Sample) -> Self {
        let lab = &sample.lab;
        let old = packs(lab);
        let aside: Vec<Vec<u8>> = old.iter().map(|path| fs::read(path).unwrap()).collect();
        old.iter().for_each(|path| fs::remove_file(path).unwrap());
        without_index(&lab.store());
        for (reference, files) in &sample.expected {
            files.iter().for_each(|(name, bytes)| drop(lab.write(format!("source/{name}"), bytes)));
            lab.put(&[&lab.path("source")], "copy", if *reference == "r@1" { 1 } else { 2 }).unwrap();
        }
        let known: BTreeSet<&PathBuf> = old.iter().collect();
        let new: Vec<(PathBuf, Vec<u8>)> = packs(lab)
            .into_iter()
            .filter(|path| !known.contains(path))
            .map(|path| (path.clone(), fs::read(&path).unwrap()))
            .collect();
        new.iter().for_each(|(path, _)| fs::remove_file(path).unwrap());
        old.iter().zip(aside).for_each(|(path, bytes)| fs::write(path, bytes).unwrap());
        without_index(&lab.store());
        let report = lab.verify().unwrap();
        assert!(report.is_sound(), "before the move: {report:?}");
        Self { old, new }
    }

    fn go(&self) {
        self.new.iter().for_each(|(path, bytes)| fs::write(path, bytes).unwrap());
        self.old.iter().for_each(|path| fs::remove_file(path).unwrap());
    }

    fn undo(&self, sample: &Sample) {
        self.old.iter().for_each(|path| fs::write(path, &sample.files[path]).unwrap());
        self.new.iter().for_each(|(path, _)| fs::remove_file(path).unwrap());
    }
}

#[test]
fn packs_that_move_meanwhile_are_no_damage() {
    let sample = Sample::new();
    let mover = Mover::new(&sample);
    for (reference, quick) in [(None, false), (None, true), (Some("r@2"), false), (Some("r@2"), true)] {
        let (gate, keeper) = gate();
        let store = Store::open(&sample.lab.store()).unwrap();
        let request = VerifyRequest { reference: reference.map(str::to_owned), quick, not_since_ms: None };
        // Packs are listed, none is open yet.
        let verify = thread::spawn(move || store.verify(&request, &StopAt(Stage::Verify, gate)));
        keeper.wait();
        mover.go();
        keeper.open();
        let report = verify.join().unwrap().unwrap();
        assert!(report.is_sound(), "{reference:?}, quick {quick}: {report:?}");
        assert!(report.chunks > 3);
        mover.undo(&sample);
    }
}

/// Waits at a gate once so many bytes have been read.
struct After {
    bytes: u64,
    done: AtomicU64,
    gate: Arc<Gate>,
}

impl Progress for After {
    fn begin(&self, _: Stage, _: u64) {}
    fn advance(&self, bytes: u64) {
        if self.done.fetch_add(bytes, Ordering::SeqCst) + bytes >= self.bytes {
            self.gate.pass();
        }
    }
    fn notice(&self, _: Notice) {}
    fn interrupted(&self) -> bool {
        false
    }
}

/// The same when all packs have been read already, and what one of them had damaged is sound where it is now.
#[test]
fn what_was_mended_meanwhile_is_no_damage() {
    let sample = Sample::new();
    let mover = Mover::new(&sample);
    let (path, bytes) = sample.shared_pack();
    let mut damaged = bytes.to_vec();
    damaged[pack_lines(bytes)[0].offset + 10] ^= 1;
    fs::write(path, damaged).unwrap();
    for moves in [false, true] {
        let (gate, keeper) = gate();
        let store = Store::open(&sample.lab.store()).unwrap();
        // What is before the first record of a pack does not count as read.
        let bytes = bytes_of_packs(&sample.lab) - 64 * packs(&sample.lab).len() as u64;
        let after = After { bytes, done: AtomicU64::new(0), gate };
        let verify = thread::spawn(move || store.verify(&VerifyRequest::default(), &after));
        keeper.wait();
        if moves {
            mover.go();
        }
        keeper.open();
        let report = verify.join().unwrap().unwrap();
        assert_eq!(report.is_sound(), moves, "{report:?}");
        assert!(!moves || report.harmless.is_empty(), "a pack that is gone suffers no damage: {report:?}");
    }
}
