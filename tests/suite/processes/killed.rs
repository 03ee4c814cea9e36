//! kill -9 and Ctrl-C at any time.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use ckpt_tests::lab::{Lab, names, noise};
use ckpt_tests::run::Ran;
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use rustix::process::Signal;

use super::{assert_sound, model, signal};

/// Kills whatever `args` start after a random part of the time that such a command takes. Answers whether it was too late.
fn kill_at_random(lab: &Lab, rng: &mut SmallRng, longest: Duration, args: &[&dyn AsRef<std::ffi::OsStr>]) -> bool {
    let mut child = lab.start(args);
    std::thread::sleep(longest.mul_f64(rng.random_range(0.0..1.1)));
    child.kill().unwrap();
    let outcome = Ran::from(child.wait_with_output().unwrap());
    assert!(matches!(outcome.code, None | Some(0)), "a command failed by itself: {outcome:?}");
    outcome.code == Some(0)
}

#[test]
fn puts_and_gcs_killed_at_random_times_leave_the_store_sound() {
    let lab = Lab::new();
    let mut rng = SmallRng::seed_from_u64(0x5EED);
    let mut expected = BTreeMap::new();
    let started = Instant::now();
    let path = lab.write("m.safetensors", &model(0, 0));
    lab.ok(&[&"put", &path, &"--run", &"r", &"--step", &"0"]);
    let longest = started.elapsed();
    expected.insert("r@0".to_owned(), model(0, 0));
    let (mut finished, mut killed) = (0, 0);
    for step in 1..=30_u64 {
        let bytes = model(step % 3, step);
        let path = lab.write("m.safetensors", &bytes);
        let reference = format!("r@{step}");
        let step_text = step.to_string();
        let put: [&dyn AsRef<std::ffi::OsStr>; 6] = [&"put", &path, &"--run", &"r", &"--step", &step_text];
        // Some always end and some are always killed early, however fast the machine is at the moment.
        let done = match step % 5 {
            0 => lab.ok(&put).code == Some(0),
            1 => kill_at_random(&lab, &mut rng, longest.div_f64(8.0), &put),
            _ => kill_at_random(&lab, &mut rng, longest, &put),
        };
        // Killed after HEAD was durable it is there all the same; said to be done it has to be.
        let there = lab.open().resolve(&reference).is_ok();
        assert!(there || !done, "{reference} was reported and is not there");
        if there {
            expected.insert(reference, bytes);
            finished += 1;
        } else {
            killed += 1;
        }
        if step % 3 == 0 && expected.len() > 1 {
            let dropped = expected.keys().nth(rng.random_range(0..expected.len())).unwrap().clone();
            lab.ok(&[&"rm", &dropped]);
            expected.remove(&dropped);
            kill_at_random(&lab, &mut rng, longest.div_f64(2.0), &[&"gc"]);
        }
        if step % 10 == 0 {
            let report = lab.verify().unwrap();
            assert!(report.is_sound(), "{report:?}");
        }
    }
    assert!(finished > 2 && killed > 2, "the times were not random: {finished} finished, {killed} killed");
    assert_sound(&lab, &expected);
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
