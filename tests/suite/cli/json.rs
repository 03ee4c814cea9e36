//! The fields of every JSON answer.

use ckpt_tests::run::{on, run};
use serde_json::Value;

use super::Desk;

#[test]
fn every_json_has_the_fields_that_scripts_rely_on() {
    let desk = Desk::new();
    let made = run(on(&desk.path("second")).args(["init", "--json"])).json();
    assert_eq!(made["store"], desk.path("second").to_str().expect("UTF-8"));
    assert!(made["id"].is_string());
    assert_eq!(desk.json(&["ls"]), Value::Array(Vec::new()));

    desk.file("step=250.bin", 200_000);
    let put = desk.json(&[
        "put",
        "step=250.bin",
        "--run",
        "r",
        "--metric",
        "val_loss=0.25",
        "--metric",
        "x=nan",
        "--meta",
        "k=v",
        "--tag",
        "t",
    ]);
    let check_checkpoint = |value: &Value| {
        for field in ["files", "logical_bytes", "added_bytes", "written_bytes"] {
            assert!(value[field].is_u64(), "{field} of {value}");
        }
        assert_eq!((&value["run"], &value["step"]), (&"r".into(), &250.into()), "{value}");
        assert_eq!((&value["ref"], &value["tags"]), (&"r@250".into(), &serde_json::json!(["t"])), "{value}");
        assert_eq!(value["metrics"], serde_json::json!({"val_loss": 0.25, "x": null}), "{value}");
        assert!(value["pinned"].is_boolean(), "{value}");
        assert!(value["id"].as_str().is_some_and(|id| id.len() == 26), "{value}");
        assert!(value["time"].as_str().is_some_and(is_rfc3339), "{value}");
    };
    check_checkpoint(&put);
    for field in ["new_bytes", "chunks", "new_chunks"] {
        assert!(put[field].is_u64(), "{field} of {put}");
    }
    assert!(put["seconds"].is_f64() && put["logical_bytes"] == 200_000 && put["new_bytes"] == 200_000, "{put}");

    let ls = desk.json(&["ls", "r"]);
    check_checkpoint(&ls[0]);
    let runs = desk.json(&["ls"]);
    check_checkpoint(&runs[0]["latest"]);
    assert_eq!((&runs[0]["run"], &runs[0]["checkpoints"]), (&"r".into(), &1.into()));
    assert!(runs[0]["logical_bytes"].is_u64() && runs[0]["added_bytes"].is_u64());

    let show = desk.json(&["show", "r", "--tensors"]);
    check_checkpoint(&show);
    assert_eq!(show["meta"], serde_json::json!({"k": "v"}));
    let member = &show["members"][0];
    assert_eq!((&member["path"], &member["kind"]), (&"step=250.bin".into(), &"file".into()));
    assert_eq!((&member["bytes"], &member["format"]), (&200_000.into(), &"opaque".into()));
    assert!(
        member["mode"].is_string() && member["time"].as_str().is_some_and(is_rfc3339) && member["tensors"].is_array()
    );

    for args in [["pin", "r@250"], ["unpin", "r@250"]] {
        let changed = desk.json(&args);
        check_checkpoint(&changed);
        assert_eq!(changed["pinned"], args[0] == "pin");
    }
    assert_eq!(desk.json(&["untag", "r@t"])["tags"], serde_json::json!([]));
    check_checkpoint(&desk.json(&["tag", "r@250", "t"]));

    let get = desk.json(&["get", "r@250", "back"]);
    check_checkpoint(&get["checkpoint"]);
    assert_eq!((&get["path"], &get["files"], &get["bytes"]), (&"back".into(), &1.into(), &200_000.into()));
    assert!(get["seconds"].is_f64());

    let df = desk.json(&["df"]);
    for field in ["logical_bytes", "stored_bytes", "checkpoints", "free_bytes", "reclaimable_bytes"] {
        assert!(df[field].is_u64(), "{field} of {df}");
    }
    assert_eq!(df["per_run"]["r"]["checkpoints"], 1);
    for field in ["logical_bytes", "added_bytes", "written_bytes", "stored_bytes", "unique_bytes", "growth_bytes"] {
        assert!(df["per_run"]["r"][field].is_u64(), "{field} of {df}");
    }
    assert!(df["per_run"]["r"]["dedup_ratio"].is_f64() && df["full_at"].is_null(), "one checkpoint has no pace: {df}");

    for args in [&["verify"][..], &["verify", "--quick"], &["verify", "r"]] {
        let verify = desk.json(args);
        assert!(verify["chunks"].is_u64() && verify["bytes"].is_u64(), "{verify}");
        assert_eq!((&verify["checkpoints"], &verify["damaged"]), (&1.into(), &serde_json::json!([])));
        assert_eq!(verify["damaged_objects"], serde_json::json!([]));
    }
    let gc = desk.json(&["gc", "--keep-last", "1"]);
    check_checkpoint(&gc["kept"][0]);
    assert_eq!(gc["kept"][0]["reasons"], serde_json::json!(["the newest", "tagged t", "among the last 1"]));
    assert_eq!((&gc["dropped"], &gc["dry_run"]), (&serde_json::json!([]), &false.into()));
    assert!(gc["freed_bytes"].is_u64() && gc["packs_deleted"].is_u64());
    check_checkpoint(&desk.json(&["rm", "r@250"])[0]);
}

fn is_rfc3339(text: &str) -> bool {
    let shape: String = text.chars().map(|c| if c.is_ascii_digit() { '0' } else { c }).collect();
    let fraction = shape.strip_prefix("0000-00-00T00:00:00").and_then(|rest| rest.strip_suffix('Z'));
    fraction.is_some_and(|rest| rest.is_empty() || (rest.starts_with('.') && rest[1..].chars().all(|c| c == '0')))
}
