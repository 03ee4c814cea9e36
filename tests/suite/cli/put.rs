//! `ckpt put`: its line and the step that it reads from names.

use super::Desk;

#[test]
fn put_says_what_it_did_in_one_line() {
    let desk = Desk::new();
    desk.file("step=250.bin", 200_000);
    let line = desk.ok(&["put", "step=250.bin", "--run", "se-st/40k"]).text().to_owned();
    assert!(line.starts_with("se-st/40k@250: 200 kB in 0."), "{line}");
    assert!(line.contains(" s, 0 B already stored, 200 kB new, 20"), "{line}");
    assert!(line.ends_with(" kB written\n") && line.lines().count() == 1, "{line}");
    let line = desk.ok(&["put", "step=250.bin", "--run", "again"]).text().to_owned();
    assert!(line.ends_with(" s, 200 kB already stored, 0 B new, 0 B written\n"), "{line}");
}

#[test]
fn a_step_is_read_from_names_that_leave_no_doubt() {
    let desk = Desk::new();
    for (name, step) in [
        ("epoch=3-step=1200-val_loss=0.31.ckpt", Some(1200)),
        ("model_step_10000.pt", Some(10_000)),
        ("checkpoint-500", Some(500)),
        ("last.ckpt", None),
        ("v2-final.pt", None),
    ] {
        desk.file(name, 10);
        let put = desk.json(&["put", name, "--run", "r"]);
        assert_eq!(put["step"].as_u64(), step, "{name}");
    }
    // A given step wins, and a checkpoint without one is named by its id and may stand there many times.
    assert_eq!(desk.json(&["put", "checkpoint-500", "--run", "r", "--step", "7"])["step"], 7);
    let id = desk.json(&["put", "last.ckpt", "--run", "r"])["id"].as_str().expect("an id").to_owned();
    assert_eq!(desk.json(&["show", &id])["id"], *id);
    assert_eq!(desk.json(&["show", &id[..20]])["id"], *id, "the beginning of an id is enough");
    assert_eq!(desk.json(&["show", "r"])["id"], *id, "the latest is the one that was stored last");
    assert!(desk.ok(&["show", "r"]).text().starts_with(&format!("r ({id})\n")));
}

#[test]
fn metrics_come_back_as_they_were_given() {
    let desk = Desk::new();
    desk.file("a.bin", 10);
    // Which is another number for whoever reads decimals in a hurry.
    let loss = 0.241_325_955_692_259_79_f64;
    desk.ok(&["put", "a.bin", "--run", "r", "--step", "1", "--metric", &format!("loss={loss}")]);
    let is_so = || {
        let entries =
            ckpt_store::Store::open(&desk.store()).and_then(|store| store.checkpoints()).expect("HEAD can be read");
        entries[0].metrics["loss"].to_bits() == loss.to_bits()
    };
    assert!(is_so());
    // HEAD is read and written again each time.
    for name in ["a", "b", "c"] {
        desk.ok(&["tag", "r@1", name]);
        assert!(is_so(), "after the tag {name}");
    }
}
