//! kill -9 and Ctrl-C at any time.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use ckpt_tests::lab::{Lab, names, noise};
use ckpt_tests::mounts::on_small_disk;
use ckpt_tests::run::Ran;
use ckpt_tests::storm::{Plan, rage};
use rustix::process::Signal;

use super::{assert_sound, signal};

/// The short version of what `make torture` does a thousand times.
#[test]
fn nothing_is_lost_however_often_everybody_is_killed() {
    let figures = rage(&Lab::new(), Plan { seed: 0x5EED, kills: 60, commits: 20, ..Plan::default() });
    assert!(figures.killed() > 20 && figures.committed > 10 && figures.compared > 10, "{figures:?}");
    assert!(figures.done.contains_key("gc") && figures.done.contains_key("put"), "{figures:?}");
}

#[test]
fn nothing_is_lost_on_a_disk_that_is_full_half_of_the_time() {
    on_small_disk(24 << 20, |lab| {
        let figures = rage(lab, Plan { seed: 0xF011, kills: 25, commits: 20, full: true, ..Plan::default() });
        assert!(figures.committed > 5 && figures.refused.contains_key("put"), "{figures:?}");
    });
}

#[test]
fn an_interrupted_put_changes_nothing() {
    let lab = Lab::new();
    let kept = noise(1, 500_000);
    lab.put(&[&lab.write("kept.pt", &kept)], "r", 1).unwrap();
    let large = lab.write("large.pt", &noise(2, 150_000_000));
    for sent in [Signal::INT, Signal::TERM] {
        let child = lab.start(&[&"put", &large, &"--run", &"r", &"--step", &"2"]);
        wait_until(|| names(&lab.store().join("tmp")).iter().any(|name| !name.ends_with(".session")));
        signal(&child, sent);
        let outcome = Ran::from(child.wait_with_output().unwrap()).expect(130);
        outcome.says("interrupted").says("nothing was changed");
        assert_eq!(names(&lab.store().join("tmp")).len() + names(&lab.store().join("sessions")).len(), 0);
    }
    assert_sound(&lab, &BTreeMap::from([("r@1".to_owned(), kept)]));
    lab.ok(&[&"put", &large, &"--run", &"r", &"--step", &"2"]);
}

/// Waits for something that happens soon.
fn wait_until(mut happened: impl FnMut() -> bool) {
    let started = Instant::now();
    while !happened() {
        assert!(started.elapsed() < Duration::from_secs(20), "it did not happen");
        std::thread::sleep(Duration::from_micros(200));
    }
}
