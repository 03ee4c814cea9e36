//! `make torture`
use std::time::Duration;

use ckpt_tests::faults::{MODES, OPERATIONS, try_calls};
use ckpt_tests::lab::Lab;
use ckpt_tests::mounts::{mount_small, with_mounts};
use ckpt_tests::storm::{Plan, rage, table};

fn main() {
    let wanted = std::env::args().nth(1).unwrap_or_default();
    let kills: usize = std::env::args().nth(2).unwrap_or_default().parse().unwrap_or(100);
    if wanted == "storm" {
        let lab = Lab::new();
        let figures = rage(&lab, Plan { seed: 1, kills, longest: Duration::from_secs(500), full: false });
        println!("{}{figures:#?}", table(&figures));
        return;
    }
    if wanted == "full" {
        let lab = Lab::bare();
        std::fs::create_dir(lab.store()).expect("a directory");
        with_mounts(|| {
            mount_small(&lab.store(), 24 << 20);
            lab.ok(&[&"init"]);
            let figures = rage(&lab, Plan { seed: 1, kills, longest: Duration::from_secs(500), full: true });
            println!("{}{figures:#?}", table(&figures));
        });
        return;
    }
    for operation in OPERATIONS.iter().filter(|o| o.name.starts_with(&wanted)) {
        for mode in MODES {
            let done = std::panic::catch_unwind(|| try_calls(operation, mode, |_, _| true));
            println!("{}, {}: {done:?}", operation.name, mode.name);
        }
    }
}
