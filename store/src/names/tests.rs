//! The table of names.

use std::path::PathBuf;

use super::trainer_state::TrainerState;
use super::*;

fn metrics(list: &[(&str, f64)]) -> BTreeMap<String, f64> {
    list.iter().map(|(name, value)| ((*name).to_owned(), *value)).collect()
}

#[test]
fn names_that_leave_no_doubt() {
    let table: &[(&str, Option<u64>, &[(&str, f64)])] = &[
        ("epoch=3-step=1200-val_loss=0.31.ckpt", Some(1200), &[("val_loss", 0.31)]),
        ("epoch=3-step=1200-val_loss=0.31-v1.ckpt", Some(1200), &[("val_loss", 0.31)]),
        ("epoch=03-val/acc=0.91.ckpt", None, &[("val/acc", 0.91)]),
        ("sample-mnist-epoch=02-val_loss=0.32.ckpt", None, &[("val_loss", 0.32)]),
        ("model_epoch=02_val_loss=0.31.ckpt", None, &[("val_loss", 0.31)]),
        ("step=7-a=-1.5e-05-b=nan-c=inf.ckpt", Some(7), &[("a", -1.5e-5), ("c", f64::INFINITY)]),
        ("best-val_loss=5.ckpt", None, &[("val_loss", 5.0)]),
        ("last.ckpt", None, &[]),
        ("checkpoint-500", Some(500), &[]),
        ("model.weights.h5", None, &[]),
        ("epoch-05-0.31.keras", None, &[]),
        ("ckpt-0100.keras", None, &[]),
        ("model_step_10000.pt", Some(10000), &[]),
        ("iter_0005000", Some(5000), &[]),
        ("global_step1000", Some(1000), &[]),
        ("step_100", Some(100), &[]),
        ("Step-250.ckpt", Some(250), &[]),
        ("Iteration 12.pt", Some(12), &[]),
        // No whole numbers, or none that stands for itself.
        ("step-0.5.pt", None, &[]),
        ("step=1e3.pt", None, &[]),
        ("step=100k.pt", None, &[]),
        ("step=-5.pt", None, &[]),
        ("footstep.5.pt", None, &[]),
        ("step-99999999999999999999999.pt", None, &[]),
        ("model-500.pt", None, &[]),
        // Names that may be cut in two ways, and numbers that are none.
        ("epoch=3-val-loss=0.31.ckpt", None, &[]),
        ("val-loss=0.31.ckpt", None, &[]),
        ("val_loss=0.31abc.ckpt", None, &[]),
        ("val_loss=.ckpt", None, &[]),
        ("a=1-a=2.ckpt", None, &[]),
        ("a=1-a=2-a=2.ckpt", None, &[]),
        ("=5.ckpt", None, &[]),
        ("日本=5-é=0.5.ckpt", None, &[("日本", 5.0), ("é", 0.5)]),
    ];
    for (name, step, expected) in table {
        let mut named = from_name(name);
        if name.contains("nan") {
            assert!(named.metrics.remove("b").is_some_and(f64::is_nan), "{name}");
        }
        assert_eq!((named.step, &named.metrics, &named.doubt), (*step, &metrics(expected), &None), "{name}");
    }
    let doubtful = from_name("step=250-checkpoint-500.ckpt");
    assert_eq!((doubtful.step, doubtful.doubt.as_deref()), (None, Some("its name could mean step 250 or 500")));
}

#[test]
fn the_step_of_several_paths() {
    let step = |names: &[&str]| step_of(&names.iter().map(PathBuf::from).collect::<Vec<_>>());
    assert_eq!(step(&["epoch=3-step=1200-val_loss=0.31.ckpt"]), Some(1200));
    assert_eq!(step(&["runs/checkpoint-500/"]), Some(500));
    assert_eq!(step(&["model_step_10000.pt"]), Some(10000));
    assert_eq!(step(&["step=35000"]), Some(35000));
    assert_eq!(step(&["Step-250.ckpt", "optimizer_step_250.pt"]), Some(250));
    assert_eq!(step(&["step250.pt"]), Some(250));
    assert_eq!(step(&["step-250.ckpt", "step-500.ckpt"]), None);
    assert_eq!(step(&["model-500.pt"]), None);
    assert_eq!(step(&["last.ckpt"]), None);
    assert_eq!(step(&["footstep.5.pt"]), None);
    assert_eq!(step(&["step-99999999999999999999999.pt"]), None);
}

#[test]
fn kinds_of_names() {
    for name in
        ["a.ckpt", "a.pt", "a.pth", "a.bin", "a.safetensors", "a.keras", "a.h5", "a.weights.h5", "a.npz", "a.gguf"]
    {
        assert!(has_checkpoint_ending(name), "{name}");
        assert_eq!(stem(name), "a", "{name}");
    }
    for name in [".ckpt", "a.json", "latest", "ckpt", "a.pt.gz", "", "events.out.tfevents"] {
        assert!(!has_checkpoint_ending(name), "{name}");
    }
    for name in [".a.ckpt", "a.ckpt.tmp", "a.pt.part", "a.tmp.pt", "tmp-checkpoint-5", "tmp_a.pt", "a.pt~", "A.TMP"] {
        assert!(is_temporary(name), "{name}");
    }
    assert!(!is_temporary("template.pt"));
    for name in
        ["checkpoint-500", "checkpoint_0", "global_step1000", "iter_0005000", "step_100", "step=35000", "step100"]
    {
        assert!(is_checkpoint_folder(name), "{name}");
    }
    for name in ["checkpoint-final", "version_0", "epoch_3", "500", "-500", "my-checkpoint-500", ""] {
        assert!(!is_checkpoint_folder(name), "{name}");
    }
    assert!(is_part("model-00001-of-00004.safetensors") && is_part("pytorch_model-00001-of-00002.bin"));
    assert!(!is_part("one-of-two.pt") && !is_part("a.pt"));
    assert!(is_numbered("epoch-05-0.31.keras") && is_numbered("model2.pt") && is_numbered("5-v1.pt"));
    assert!(!is_numbered("best.pt") && !is_numbered("best-v12.ckpt") && !is_numbered("model.weights.h5"));
}

#[test]
fn what_a_trainer_state_says() {
    let json =
        br#"{"best_metric": 0.25, "epoch": 1.0, "global_step": 500, "is_local_process_zero": true, "log_history": [
        {"eval_loss": 0.5, "eval_runtime": 1.2, "step": 250},
        {"loss": 0.4, "learning_rate": 1e-05, "step": 500},
        {"epoch": 1.0, "eval_a_loss": 0.3, "eval_samples_per_second": 8, "step": 500},
        {"epoch": 1.0, "eval_b_loss": 2, "eval_note": "x", "eval_list": [1, {"a": null}], "step": 500},
        {"train_loss": 0.2, "step": 500}], "max_steps": 1000, "stateful_callbacks": {"a": {"b": [1]}}}"#;
    let state = trainer_state(json).unwrap();
    assert_eq!((state.step, state.best_metric), (Some(500), Some(0.25)));
    assert_eq!(state.metrics, metrics(&[("eval_a_loss", 0.3), ("eval_b_loss", 2.0)]));
    // Evaluated at an earlier step than this one: not this checkpoint's.
    let earlier = br#"{"global_step": 500, "log_history": [{"eval_loss": 0.5, "step": 250}]}"#;
    assert_eq!(trainer_state(earlier).unwrap(), TrainerState { step: Some(500), ..TrainerState::default() });
    assert_eq!(trainer_state(b"{}").unwrap(), TrainerState::default());
    assert_eq!(trainer_state(br#"{"best_metric": null, "global_step": 3}"#).unwrap().step, Some(3));
}

#[test]
fn a_hostile_trainer_state_gives_none() {
    let deep = ["{\"log_history\":".to_owned(), "[".repeat(100_000)].concat();
    let texts =
        ["", "null", "[]", "{\"global_step\": \"500\"}", "{\"global_step\": -1}", "{\"global_step\": 1.5}", &deep];
    for text in texts {
        assert_eq!(trainer_state(text.as_bytes()), None, "{:.40}", text);
    }
    assert_eq!(trainer_state(b"\xff\xfe"), None);
    let many: String = (0..10_000).map(|nr| format!("\"eval_{nr}\": 1, ")).collect();
    let many = format!("{{\"global_step\": 1, \"log_history\": [{{{many} \"step\": 1}}]}}");
    assert_eq!(trainer_state(many.as_bytes()).unwrap().metrics.len(), NAMED_METRICS_MAX);
    let odd = br#"{"global_step": 1, "log_history": [{"eval_\u0007": 1, "eval_ ": 2, "eval_ok": 3, "step": 1}]}"#;
    assert_eq!(trainer_state(odd).unwrap().metrics, metrics(&[("eval_ok", 3.0)]));
}
