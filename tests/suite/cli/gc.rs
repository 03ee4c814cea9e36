//! `ckpt gc` and what keeps a checkpoint from it.

use super::{Desk, steps};

#[test]
fn a_pin_keeps_a_checkpoint_from_rm_replace_and_gc() {
    let desk = Desk::six();
    desk.ok(&["pin", "a/b@100"]);
    let message = "a/b@100 is pinned";
    desk.fails(&["rm", "a/b@200", "a/b@100"], 2, message, "`ckpt unpin` it first");
    desk.fails(&["put", "step=100.bin", "--run", "a/b", "--replace"], 2, message, "`ckpt unpin` it first");
    assert_eq!(steps(&desk.json(&["gc", "--keep-last", "1"])["kept"]), [100, 600]);
    desk.ok(&["unpin", "a/b@100"]);
    assert_eq!(
        desk.ok(&["rm", "a/b@100"]).text(),
        "a/b@100: dropped\n`ckpt gc` frees the room that nothing else uses\n"
    );
}

#[test]
fn each_rule_of_gc_keeps_what_it_says() {
    let desk = Desk::six();
    for (rules, kept) in [
        (&["--keep-last", "2"][..], &[500, 600][..]),
        (&["--keep-best", "2", "--metric", "val_loss"], &[200, 500, 600]),
        (&["--keep-best", "1", "--metric", "val_loss", "--mode", "max"], &[100, 600]),
        (&["--keep-best", "3", "--metric", "accuracy"], &[600]),
        (&["--keep-every", "300"], &[300, 600]),
        (&["--keep-within", "1h"], &[100, 200, 300, 400, 500, 600]),
        (&["--keep-within", "0s"], &[600]),
        (
            &["--keep-last", "1", "--keep-every", "200", "--keep-best", "1", "--metric", "val_loss"],
            &[200, 400, 500, 600],
        ),
        (&["--keep-last", "1", "--run", "a/*"], &[600]),
        (&["--keep-last", "1", "--run", "other*"], &[]),
    ] {
        let plan = desk.json(&[&["gc", "--dry-run"], rules].concat());
        assert_eq!(steps(&plan["kept"]), kept, "{rules:?}");
        let judged = steps(&plan["kept"]).len() + steps(&plan["dropped"]).len();
        assert_eq!(judged, if kept.is_empty() { 0 } else { 6 }, "{rules:?}");
    }
    // Without a rule and without a policy nothing is dropped.
    let done = desk.json(&["gc"]);
    assert_eq!((&done["dropped"], steps(&done["kept"]).len()), (&serde_json::json!([]), 6));
    assert_eq!(done["kept"][0]["reasons"], serde_json::json!(["no policy for this run"]));
    assert_eq!(desk.json(&["ls", "a/b"]).as_array().map(Vec::len), Some(6));
}

#[test]
fn a_dry_run_says_exactly_what_gc_then_does() {
    let desk = Desk::six();
    let rules = ["--keep-last", "1", "--keep-every", "300"];
    let planned = desk.json(&[&["gc", "--dry-run"][..], &rules].concat());
    assert_eq!(desk.json(&["ls", "a/b"]).as_array().map(Vec::len), Some(6), "a dry run changes nothing");
    assert_eq!(desk.json(&["df"])["reclaimable_bytes"], 0);
    let mut done = desk.json(&[&["gc"][..], &rules].concat());
    assert_eq!((&planned["dry_run"], &done["dry_run"]), (&true.into(), &false.into()));
    done["dry_run"] = true.into();
    assert_eq!(planned, done);
    assert!(done["freed_bytes"].as_u64() > Some(400_000), "{done}");
    assert_eq!(desk.json(&["df"])["reclaimable_bytes"], 0);
    desk.ok(&["verify"]);
    // df says what rm alone left behind.
    desk.ok(&["rm", "a/b@300"]);
    let reclaimable = desk.json(&["df"])["reclaimable_bytes"].clone();
    assert!(reclaimable.as_u64() > Some(100_000), "{reclaimable}");
    assert_eq!(desk.json(&["gc"])["freed_bytes"], reclaimable);
}
