//! The short version of the mounts of `make torture`: everybody is at the store while three mounts of it are read.

use std::time::Duration;

use ckpt_tests::lab::Lab;
use ckpt_tests::mount::mountable;
use ckpt_tests::storm::{Plan, rage};

#[test]
fn a_mount_shows_what_is_there_whoever_is_at_the_store() {
    if !mountable() {
        return;
    }
    let (shortest, longest) = (Duration::from_secs(8), Duration::from_secs(60));
    let plan = Plan { seed: 0x0CEA, shortest, longest, commits: 10, mounts: true, ..Plan::default() };
    let figures = rage(&Lab::quick(), plan);
    let mounted = &figures.mounted;
    let counts = ["opened", "reads", "directories listed", "links read", "attributes asked for"];
    assert!(counts.iter().all(|name| mounted.count(name) > 10) && mounted.kills > 0, "{mounted:?}");
    assert!(figures.killed() > 5 && figures.done.contains_key("gc with rules"), "{figures:?}");
}
