//! Faults under the real command: a sample of the calls that `make torture` lets fail one by one.

use ckpt_tests::faults::{Figures, MODES, Mode, OPERATIONS, Operation, try_calls};

/// Lets five or so calls fail in each way, others for each operation.
fn try_some(picks: impl Fn(&Operation) -> bool) {
    let mut all = Figures::default();
    for (nr, operation) in OPERATIONS.iter().enumerate().filter(|(_, operation)| picks(operation)) {
        for (mode_nr, mode) in MODES.iter().enumerate() {
            let offset = (nr * 5 + mode_nr * 3) as u64;
            all.add(&try_calls(operation, mode, |call, calls| {
                let step = (calls / 5).max(1);
                call % step == offset % step
            }));
        }
    }
    assert!(all.refused > 20 && all.killed > 20 && all.borne > 20, "{all:?}");
}

#[test]
fn a_put_survives_faults() {
    try_some(|operation| operation.name.starts_with("put"));
}

#[test]
fn other_commands_survive_faults() {
    try_some(|operation| !operation.name.starts_with("put"));
}

/// A checkpoint that can't be read must not be taken for one that needs nothing.
#[test]
fn gc_takes_nothing_away_when_it_can_not_read_what_is_used() {
    let operation = OPERATIONS.iter().find(|operation| operation.name.starts_with("gc")).unwrap();
    for on in ["/checkpoints", "/catalog", "/sessions", "/HEAD"] {
        let figures = try_calls(operation, &Mode { on, ..MODES[0] }, |_, _| true);
        assert!(figures.refused > 0, "{on}: {figures:?}");
    }
}

/// It once did: what the disk refused for a moment was taken for damaged, and gone with the pack that was rewritten.
#[test]
fn repair_drops_nothing_that_the_disk_gives_the_second_time() {
    let operation = OPERATIONS.iter().find(|operation| operation.name.starts_with("repair")).unwrap();
    let figures = try_calls(operation, &Mode { on: "/packs/", ..MODES[0] }, |_, _| true);
    assert!(figures.faults > 20 && figures.borne > 0, "{figures:?}");
}

/// It once did: where FORMAT could not be looked at, there was none.
#[test]
fn init_makes_no_store_anew_whatever_fails() {
    let operation = OPERATIONS.iter().find(|operation| operation.name.starts_with("init")).unwrap();
    let figures = try_calls(operation, &MODES[0], |_, _| true);
    assert!(figures.refused > 5, "{figures:?}");
}

/// It once did: a session could be left away, the list of what it reads could not.
#[test]
fn verify_needs_no_room() {
    let operation = OPERATIONS.iter().find(|operation| operation.name == "verify").unwrap();
    for mode in MODES.iter().filter(|mode| mode.name.contains("ENOSPC")) {
        let figures = try_calls(operation, mode, |_, _| true);
        assert!(figures.borne > 3 && figures.refused == 0, "{}: {figures:?}", mode.name);
    }
}
