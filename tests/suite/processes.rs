//! Several processes on one store at once, and processes that are stopped or killed. Always the real command.
#![allow(clippy::unwrap_used, reason = "a test may fail by panicking")]

mod faults;
mod killed;
mod quota;
mod rooms;
mod stopped;

use std::collections::BTreeMap;
use std::fs;
use std::process::Child;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use ckpt_store::{GcRequest, Notice, Progress, Stage};
use ckpt_tests::lab::{Lab, leftovers, noise, safetensors};
use ckpt_tests::run::Ran;
use rustix::process::{Pid, Signal, kill_process};

/// Sends a signal to a command that has not been waited for.
fn signal(child: &Child, signal: Signal) {
    let pid = Pid::from_raw(i32::try_from(child.id()).unwrap()).unwrap();
    kill_process(pid, signal).unwrap();
}

/// Sees that the store is sound, that each checkpoint gives back the bytes of this map, and that a gc leaves nothing that
/// no checkpoint needs.
#[track_caller]
fn assert_sound(lab: &Lab, expected: &BTreeMap<String, Vec<u8>>) {
    lab.ok(&[&"verify"]);
    for (reference, bytes) in expected {
        let got = lab.ok(&[&"get", reference, &"-"]);
        assert!(got.stdout == *bytes, "{reference} came back with other bytes");
    }
    assert_eq!(lab.open().checkpoints().unwrap().len(), expected.len());
    lab.ok(&[&"gc"]);
    assert_eq!(leftovers(&lab.store()), [""; 0]);
    lab.ok(&[&"verify"]);
}

/// A model of which a part is the same in all, a part is its worker's and a part is its own.
fn model(worker: u64, step: u64) -> Vec<u8> {
    safetensors(&[
        ("frozen", "F32", &noise(0, 1 << 20)),
        ("worker", "F32", &noise(1000 + worker, 300_000)),
        ("head", "F32", &noise(1_000_000 + worker * 1000 + step, 200_000)),
    ])
}

#[test]
fn six_puts_with_gets_and_gcs_meanwhile() {
    let lab = Lab::new();
    let committed: Mutex<BTreeMap<String, Vec<u8>>> = Mutex::default();
    let (working, gets, gcs) = (AtomicU64::new(6), AtomicU64::new(0), AtomicU64::new(0));
    let busy = || working.load(Ordering::SeqCst) > 0;
    let putter = |worker: u64| {
        for step in 0..4 {
            let bytes = model(worker, step);
            let path = lab.write(format!("w{worker}.safetensors"), &bytes);
            // A checkpoint that goes again at once, so that gc always has something to take that others want to reuse.
            lab.ok(&[&"put", &path, &"--run", &format!("scratch{worker}"), &"--step", &"1"]);
            lab.ok(&[&"rm", &format!("scratch{worker}@1")]);
            lab.ok(&[&"put", &path, &"--run", &format!("run{worker}"), &"--step", &step.to_string()]);
            committed.lock().unwrap().insert(format!("run{worker}@{step}"), bytes);
        }
        working.fetch_sub(1, Ordering::SeqCst);
    };
    let collector = || {
        while busy() {
            lab.ok(&[&"gc"]);
            gcs.fetch_add(1, Ordering::Relaxed);
        }
    };
    let getter = || {
        while busy() {
            let Some((reference, bytes)) =
                committed.lock().unwrap().iter().next_back().map(|(r, b)| (r.clone(), b.clone()))
            else {
                continue;
            };
            let got = lab.ok(&[&"get", &reference, &"-"]);
            assert!(got.stdout == bytes, "{reference} came back with other bytes");
            gets.fetch_add(1, Ordering::Relaxed);
        }
    };
    std::thread::scope(|scope| {
        scope.spawn(collector);
        scope.spawn(getter);
        let (putter, working) = (&putter, &working);
        for worker in 0..6 {
            scope.spawn(move || {
                // The others watch this count: a worker that fails must not leave them waiting.
                let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| putter(worker)));
                if let Err(panic) = done {
                    working.store(0, Ordering::SeqCst);
                    std::panic::resume_unwind(panic);
                }
            });
        }
    });
    assert!(gcs.load(Ordering::Relaxed) > 1 && gets.load(Ordering::Relaxed) > 1, "gc and get took part");
    let committed = committed.into_inner().unwrap();
    assert_eq!(committed.len(), 24);
    assert_sound(&lab, &committed);
}

#[test]
fn of_two_puts_of_one_step_exactly_one_wins() {
    let lab = Lab::new();
    let (mine, yours) = (noise(1, 900_000), noise(2, 900_000));
    let (first, second) = (lab.write("first.pt", &mine), lab.write("second.pt", &yours));
    for step in 0..8 {
        let step_text = step.to_string();
        let begin = |path| lab.start(&[&"put", path, &"--run", &"r", &"--step", &step_text]);
        let outcomes = [begin(&first), begin(&second)].map(|child| Ran::from(child.wait_with_output().unwrap()));
        let codes = [outcomes[0].code, outcomes[1].code];
        assert!(codes == [Some(0), Some(7)] || codes == [Some(7), Some(0)], "{outcomes:?}");
        let winner = if codes[0] == Some(0) { &mine } else { &yours };
        let got = lab.ok(&[&"get", &format!("r@{step}"), &"-"]);
        assert!(got.stdout == *winner, "the checkpoint is the winner's");
        let [_, loser] = if codes[0] == Some(0) {
            outcomes
        } else {
            let [a, b] = outcomes;
            [b, a]
        };
        loser.says("exists already").says("--replace");
    }
    lab.ok(&[&"gc"]);
    assert_eq!(leftovers(&lab.store()), [""; 0]);
}

/// Runs the command's gc while this process is in the middle of its own.
struct SecondGc<'a> {
    lab: &'a Lab,
    ran: AtomicBool,
}

impl Progress for SecondGc<'_> {
    fn begin(&self, stage: Stage, _: u64) {
        if stage == Stage::Mark && !self.ran.swap(true, Ordering::SeqCst) {
            let refused = self.lab.run(&[&"gc"]).expect(6);
            refused.says("another gc is at work").says(&std::process::id().to_string());
            // What changes nothing is not refused.
            self.lab.ok(&[&"gc", &"--dry-run"]);
        }
    }
    fn advance(&self, _: u64) {}
    fn notice(&self, _: Notice) {}
    fn interrupted(&self) -> bool {
        false
    }
}

#[test]
fn a_second_gc_is_refused_and_told_who_runs() {
    let lab = Lab::new();
    let path = lab.write("a.pt", b"a");
    lab.put(&[&path], "r", 1).unwrap();
    let second = SecondGc { lab: &lab, ran: AtomicBool::new(false) };
    lab.open().gc(&GcRequest::default(), &second).unwrap();
    assert!(second.ran.into_inner());
    lab.ok(&[&"gc"]);
}

#[test]
fn a_lock_of_a_dead_process_is_no_lock() {
    let lab = Lab::new();
    let path = lab.write("a.pt", &noise(1, 100_000));
    lab.put(&[&path], "r", 1).unwrap();
    fs::write(lab.store().join("locks/gc"), "1").unwrap();
    fs::write(lab.store().join("sessions").join(ulid::Ulid::generate().to_string().to_lowercase()), "no json").unwrap();
    fs::write(lab.store().join("tmp").join("01k9zzzzzzzzzzzzzzzzzzzzzz.0"), noise(2, 1000)).unwrap();
    assert_sound(&lab, &BTreeMap::from([("r@1".to_owned(), noise(1, 100_000))]));
}
