//! Faults under the real command, a sample of what `make torture` tries in full.

use std::time::Instant;

use ckpt_tests::faults::{Figures, MODES, OPERATIONS, Operation, try_calls};

/// One in so many calls, by how many there are to choose from.
fn sample(operation: usize, mode: usize) -> impl Fn(u64, u64) -> bool {
    let offset = (operation * 5 + mode * 3) as u64;
    move |nr, calls| {
        let step = (calls / 5).max(1);
        nr % step == offset % step
    }
}

fn try_some(picks: impl Fn(&Operation) -> bool) {
    let mut all = Figures::default();
    for (nr, operation) in OPERATIONS.iter().enumerate().filter(|(_, operation)| picks(operation)) {
        for (mode_nr, mode) in MODES.iter().enumerate() {
            let started = Instant::now();
            let figures = try_calls(operation, mode, sample(nr, mode_nr));
            eprintln!("{}, {}: {figures:?} {:?}", operation.name, mode.name, started.elapsed());
            all.add(&figures);
        }
    }
    assert!(all.refused > 0 && all.killed > 0 && all.borne > 0, "{all:?}");
}

#[test]
fn a_put_survives_faults() {
    try_some(|operation| operation.name.starts_with("put"));
}

#[test]
fn other_commands_survive_faults() {
    try_some(|operation| !operation.name.starts_with("put"));
}
