//! Which things in a directory are checkpoints, and what each is stored as.

use std::fs;
use std::os::unix::fs::symlink;

use ckpt_tests::lab::{Lab, names, noise};
use serde_json::{Value, json};

fn small(seed: u64) -> Vec<u8> {
    noise(seed, 5000)
}

/// Path, done, step and tags of every result of an import.
fn table(report: &Value) -> Vec<Value> {
    let results = report["results"].as_array().unwrap();
    let line = |r: &Value| json!([r["path"], r["done"], r["checkpoint"]["step"], r["checkpoint"]["tags"]]);
    results.iter().map(line).collect()
}

#[test]
fn what_is_taken_and_what_is_not() {
    let lab = Lab::quick();
    lab.write("d/epoch=1-step=20-val_loss=0.5.ckpt", &small(1));
    lab.write("d/epoch=0-step=10-val_loss=0.9.ckpt", &small(2));
    lab.write("d/epoch=0-step=10-val_loss=0.9-v1.ckpt", &small(3));
    lab.write("d/epoch=2-step=30-val/acc=0.25.ckpt", &small(4));
    lab.write("d/final.pt", &small(5));
    lab.write("d/best.pt", &small(6));
    lab.write("d/model_0001.keras", &small(7));
    lab.write("d/checkpoint-40/model.bin", &small(8));
    let state = r#"{"global_step": 40, "best_metric": 0.1, "log_history": [{"eval_loss": 0.125, "step": 40}]}"#;
    lab.write("d/checkpoint-40/trainer_state.json", state.as_bytes());
    lab.write("d/global_step50/mp_rank_00_model_states.pt", &small(9));
    lab.write("d/dcp/.metadata", &small(10));
    for passed in [
        "half.ckpt.tmp",
        ".hidden.ckpt",
        "notes.txt",
        "model-00001-of-00002.safetensors",
        "logs/events.pt",
        "e.pt.part",
    ] {
        lab.write(format!("d/{passed}"), &small(11));
    }
    symlink("epoch=1-step=20-val_loss=0.5.ckpt", lab.path("d/last.ckpt")).unwrap();
    symlink("../outside.ckpt", lab.path("d/away.ckpt")).unwrap();
    lab.write("outside.ckpt", &small(12));
    let report = lab.ok(&[&"import", &"d", &"--run", &"r", &"--delete-source", &"--json"]).json();
    let none = json!(null);
    let expected = [
        json!(["final.pt", "stored", none, ["final"]]),
        json!(["best.pt", "stored", none, []]),
        json!(["model_0001.keras", "stored", none, []]),
        json!(["dcp", "stored", none, ["dcp"]]),
        json!(["epoch=0-step=10-val_loss=0.9.ckpt", "stored", none, []]),
        json!(["epoch=0-step=10-val_loss=0.9-v1.ckpt", "stored", 10, []]),
        json!(["epoch=1-step=20-val_loss=0.5.ckpt", "stored", 20, []]),
        json!(["epoch=2-step=30-val/acc=0.25.ckpt", "stored", 30, []]),
        json!(["checkpoint-40", "stored", 40, []]),
        json!(["global_step50", "stored", 50, []]),
        json!(["last.ckpt", "tagged", 20, ["last"]]),
        json!(["away.ckpt", "skipped", none, none]),
        json!(["model-00001-of-00002.safetensors", "skipped", none, none]),
    ];
    let found = table(&report);
    for line in &expected {
        assert!(found.contains(line), "{line} is not in {found:#?}");
    }
    assert_eq!(found.len(), expected.len(), "{found:#?}");
    let metrics = |reference: &str| lab.ok(&[&"show", &reference, &"--json"]).json()["metrics"].clone();
    assert_eq!(metrics("r@20"), json!({ "val_loss": 0.5 }));
    assert_eq!(metrics("r@30"), json!({ "val/acc": 0.25 }));
    assert_eq!(metrics("r@40"), json!({ "eval_loss": 0.125 }));
    let meta = lab.ok(&[&"show", &"r@40", &"--json"]).json()["meta"].clone();
    assert_eq!(meta["best_metric"], "0.1");
    assert!(meta["source"].as_str().unwrap().ends_with("/d/checkpoint-40"), "{meta}");
    let left: Vec<String> = names(&lab.path("d")).into_iter().collect();
    let kept = [
        ".hidden.ckpt",
        "away.ckpt",
        "e.pt.part",
        "half.ckpt.tmp",
        "logs",
        "model-00001-of-00002.safetensors",
        "notes.txt",
    ];
    assert_eq!(left, kept);
    assert_eq!(fs::read(lab.path("outside.ckpt")).unwrap(), small(12));
}

#[test]
fn a_pattern_chooses() {
    let lab = Lab::quick();
    lab.write("d/a/weights.dat", &small(1));
    lab.write("d/b/weights.dat", &small(2));
    lab.write("d/step=5.ckpt", &small(3));
    let report = lab.ok(&[&"import", &"d", &"--run", &"r", &"--pattern", &"*/weights.dat", &"--json"]).json();
    assert_eq!(report["stored"], 2, "{report}");
    let again = lab.ok(&[&"import", &"d", &"--run", &"r", &"--pattern", &"*/weights.dat", &"--json"]).json();
    assert_eq!((&again["stored"], &again["already_stored"]), (&json!(0), &json!(2)), "{again}");
    let report = lab.ok(&[&"import", &"d", &"--run", &"s", &"--pattern", &"[ab]", &"--json"]).json();
    assert_eq!(report["stored"], 2, "{report}");
    lab.run(&[&"import", &"d", &"--run", &"r", &"--pattern", &"[a"]).expect(2).says("is no glob");
}

#[test]
fn directories_that_are_no_place_to_import_from() {
    let lab = Lab::quick();
    lab.write("checkpoint-5/model.safetensors", &small(1));
    lab.write("checkpoint-5/config.json", b"{}");
    lab.write("checkpoint-5/trainer_state.json", b"{}");
    lab.run(&[&"import", &"checkpoint-5", &"--run", &"r", &"--delete-source"]).expect(2).says("itself a checkpoint");
    lab.run(&[&"import", &"store/packs", &"--run", &"r"]).expect(2).says("belongs to the store");
    lab.run(&[&"import", &"nowhere", &"--run", &"r"]).expect(3).says("nowhere");
    lab.run(&[&"import", &"checkpoint-5/config.json", &"--run", &"r"]).expect(2).says("no directory");
    lab.run(&[&"import", &".", &"--run", &"a@b"]).expect(2).says("can't name a run");
    // The store's own directory in it is left out, and the folder is one checkpoint.
    let report = lab.ok(&[&"import", &".", &"--run", &"r", &"--pattern", &"*", &"--json"]).json();
    assert_eq!(table(&report), [json!(["checkpoint-5", "stored", 5, []])]);
    assert_eq!(names(&lab.path("checkpoint-5")).len(), 3);
}

#[test]
fn what_cant_be_stored_is_reported_and_the_rest_goes_on() {
    let lab = Lab::quick();
    lab.write("d/checkpoint-1/model.bin", &small(1));
    symlink("/etc/passwd", lab.path("d/checkpoint-1/leak")).unwrap();
    lab.write("d/step=2.pt", &small(2));
    let ran = lab.run(&[&"import", &"d", &"--run", &"r", &"--delete-source"]).expect(1);
    ran.says("checkpoint-1").says("outside of what is being stored");
    assert_eq!(names(&lab.path("d")).into_iter().collect::<Vec<_>>(), ["checkpoint-1"]);
    assert_eq!(lab.open().checkpoints().unwrap().len(), 1);
}
