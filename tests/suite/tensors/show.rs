//! `ckpt show --tensors`.

use std::collections::BTreeMap;

use serde_json::Value;

use super::{Bench, model};

/// What became of each tensor, and who has the same.
fn since(bench: &Bench, reference: &str) -> BTreeMap<String, (Value, Vec<String>)> {
    let show = bench.ckpt(&["show", reference, "--tensors", "--json"]);
    assert_eq!(show.code, Some(0), "{show:?}");
    let show = show.json();
    let members = show["members"].as_array().expect("members");
    let tensors = members.iter().flat_map(|member| member["tensors"].as_array().expect("tensors"));
    let text = |value: &Value| value.as_str().expect("a text").to_owned();
    let refs = |tensor: &Value| tensor["shared_with"].as_array().expect("a list").iter().map(text).collect();
    tensors.map(|tensor| (text(&tensor["name"]), (tensor["since_previous"].clone(), refs(tensor)))).collect()
}

#[test]
fn tells_what_changed_since_the_step_before_and_who_has_the_same() {
    let bench = Bench::new();
    let step = |trained: u64, extra: &[(&str, &str, u64, usize)]| {
        let tensors = [
            &[
                ("frozen", "F32", 1, 2_100_000),
                ("trained", "F32", trained, 2_100_000),
                // These two share a chunk: only one of them changes.
                ("small.frozen", "F32", 3, 4000),
                ("small.trained", "F32", trained + 100, 4000),
            ],
            extra,
        ];
        vec![("model.safetensors", model(&tensors.concat()))]
    };
    bench.put(1, &step(10, &[("head", "F32", 5, 40_000)]));
    bench.put(2, &step(20, &[("head", "F32", 5, 44_000)]));
    bench.put(3, &step(10, &[("head", "F16", 5, 44_000), ("late", "U8", 6, 50_000)]));

    let word = |text: &str| Value::from(text);
    let first = since(&bench, "r@1");
    assert!(first.values().all(|(since, _)| since.is_null()), "{first:?}");
    let second = since(&bench, "r@2");
    let of = |tensors: &BTreeMap<String, (Value, Vec<String>)>, name: &str| tensors[name].clone();
    assert_eq!(of(&second, "frozen"), (word("same"), vec!["r@1".into(), "r@3".into()]));
    assert_eq!(of(&second, "trained"), (word("changed"), vec![]));
    assert_eq!(of(&second, "small.frozen"), (word("same"), vec!["r@1".into(), "r@3".into()]), "found out by reading");
    assert_eq!(of(&second, "small.trained").0, "changed");
    assert_eq!(of(&second, "head").0, "reshaped");
    let third = since(&bench, "r@3");
    assert_eq!(of(&third, "trained"), (word("changed"), vec!["r@1".into()]));
    assert_eq!(of(&third, "head").0, "reshaped", "of another type");
    assert_eq!(of(&third, "late"), (word("new"), vec![]));

    let text = bench.ckpt(&["show", "r@3", "--tensors"]);
    let line = text.text().lines().find(|line| line.starts_with("frozen")).expect("its line");
    assert!(line.contains("same") && line.ends_with("2 from @1 to @2"), "{line}");
    assert!(text.text().contains("SINCE: what became of it after @2"), "{text:?}");
}

#[test]
fn looks_at_the_nearest_checkpoints_of_a_long_run_and_says_so() {
    let bench = Bench::new();
    for step in 0..20 {
        bench.put(step, &[("m.safetensors", model(&[("frozen", "F32", 1, 40_000), ("w", "F32", step, 40_000)]))]);
    }
    for (reference, nearest) in [("r@0", 1..=16), ("r@10", 2..=18), ("r@19", 3..=18)] {
        let shared = since(&bench, reference)["frozen"].1.clone();
        let expected = nearest.map(|step| format!("r@{step}")).filter(|other| other != reference);
        assert_eq!(shared, expected.collect::<Vec<_>>(), "{reference}");
    }
    let text = bench.ckpt(&["show", "r@10", "--tensors"]);
    assert!(text.text().contains("of the 16 nearest of 19 other checkpoints"), "{text:?}");
}

#[test]
fn a_damaged_neighbor_leaves_the_answer_open() {
    let bench = Bench::new();
    for step in 1..=2 {
        bench.put(step, &[("m.safetensors", model(&[("a", "F32", 1, 4000), ("b", "F32", step, 4000)]))]);
    }
    let manifests = std::fs::read_dir(bench.store().join("checkpoints")).expect("a folder");
    let mut manifests: Vec<_> = manifests.map(|entry| entry.expect("an entry").path()).collect();
    manifests.sort();
    std::fs::write(&manifests[0], b"torn").expect("it can be written");
    let tensors = since(&bench, "r@2");
    assert!(tensors.values().all(|(since, shared)| since.is_null() && shared.is_empty()), "{tensors:?}");
}
