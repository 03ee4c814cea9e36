//! Processes that stand still, as on a laptop that was closed or a node that swaps, while others go on.

use std::collections::BTreeMap;
use std::process::Child;
use std::time::{Duration, Instant};

use ckpt_tests::lab::Lab;
use ckpt_tests::run::Ran;
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use rustix::process::Signal;

use super::{assert_sound, model, signal};

/// Whether a command ends soon. One that waits for a lock of the stopped process doesn't, and may.
fn ends_soon(child: &mut Child) -> bool {
    let started = Instant::now();
    while started.elapsed() < Duration::from_secs(1) {
        if child.try_wait().unwrap().is_some() {
            return true;
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    false
}

#[test]
fn a_put_that_slept_through_two_gcs_is_bit_exact_or_fails() {
    let mut rng = SmallRng::seed_from_u64(7);
    let (mut committed, mut waited) = (0, 0);
    let lab = Lab::new();
    let mut expected = BTreeMap::new();
    for round in 0..14 {
        let bytes = model(round, 0);
        let path = lab.write("m.safetensors", &bytes);
        let started = Instant::now();
        lab.ok(&[&"put", &path, &"--run", &"old", &"--step", &"1"]);
        let longest = started.elapsed();
        // Its chunks are free to go, and the next put wants to rely on them.
        lab.ok(&[&"rm", &"old@1"]);
        let reference = format!("new@{round}");
        let put = lab.start(&[&"put", &path, &"--run", &"new", &"--step", &round.to_string()]);
        std::thread::sleep(longest.mul_f64(rng.random_range(0.0..1.0)));
        signal(&put, Signal::STOP);
        let mut gcs = Vec::new();
        for _ in 0..2 {
            let mut gc = lab.start(&[&"gc"]);
            let ended = ends_soon(&mut gc);
            gcs.push(gc);
            if !ended {
                waited += 1;
                break;
            }
        }
        signal(&put, Signal::CONT);
        let outcome = Ran::from(put.wait_with_output().unwrap());
        for gc in gcs {
            Ran::from(gc.wait_with_output().unwrap()).expect(0);
        }
        if outcome.code == Some(0) {
            expected.insert(reference, bytes);
            committed += 1;
        } else {
            assert!(outcome.code.is_some() && outcome.stderr.starts_with("Error: "), "{outcome:?}");
            assert!(lab.open().resolve(&reference).is_err(), "{outcome:?}");
        }
    }
    assert!(committed > 0 && waited < 14, "{committed} committed, {waited} waited");
    assert_sound(&lab, &expected);
}
