//! The short version of the mounts of `make torture`: everybody is at the store while three mounts of it are read.

use std::time::Duration;

use ckpt_tests::lab::Lab;
use ckpt_tests::mount::mountable;
use ckpt_tests::mounts::on_small_disk;
use ckpt_tests::storm::{Figures, Plan, rage};

const PLAN: Plan = Plan {
    seed: 0x0CEA,
    kills: 0,
    commits: 10,
    longest: Duration::from_secs(60),
    shortest: Duration::from_secs(8),
    full: false,
    mounts: true,
};

/// That enough happened for it to mean something.
fn assert_wild(figures: &Figures) {
    let mounted = &figures.mounted;
    let counts = ["opened", "reads", "directories listed", "links read", "attributes asked for"];
    assert!(counts.iter().all(|name| mounted.count(name) > 10) && mounted.kills > 0, "{mounted:?}");
    assert!(figures.killed() > 5 && figures.done.contains_key("gc with rules"), "{figures:?}");
}

#[test]
fn a_mount_shows_what_is_there_whoever_is_at_the_store() {
    if mountable() {
        assert_wild(&rage(&Lab::quick(), PLAN));
    }
}

#[test]
fn a_mount_shows_what_is_there_on_a_disk_that_is_full_half_of_the_time() {
    if !mountable() {
        return;
    }
    on_small_disk(160 << 20, |lab| {
        let figures = rage(lab, Plan { full: true, ..PLAN });
        assert_wild(&figures);
        assert!(figures.refused.contains_key("put"), "{figures:?}");
    });
}
