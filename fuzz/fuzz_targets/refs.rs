//! Refs, names, tags and ids as a person types them, on a store that has some checkpoints.
#![no_main]

use std::sync::LazyLock;

use ckpt_fuzz::catalog::State;
use ckpt_fuzz::catalog::refs::{check_name, check_run, check_tag, distance, mode_of, resolve};
use ckpt_fuzz::{CheckpointId, HeadOnly, hashed_json};
use libfuzzer_sys::fuzz_target;

static STATE: LazyLock<State> = LazyLock::new(|| {
    let add = |nr: u8, run: &str, step: u64, more: &str| {
        let id = CheckpointId::from_bytes([nr; 16]);
        format!(
            r#"{{"add":{{"id":"{id}","run":"{run}","step":{step},"time_ms":{nr},"files":1,"logical_bytes":1,"added_bytes":1,"written_bytes":1{more}}}}}"#
        )
    };
    let changes = [
        add(1, "a/b", 1, ""),
        add(2, "a/b", 2, r#","metrics":{"val_loss":0.5,"acc":"NaN"},"tags":["good","10x"]"#),
        add(3, "a/b", 30, r#","metrics":{"val_loss":0.25}"#),
        add(4, "ü", 18446744073709551615, r#","metrics":{"val_loss":"inf"}"#),
    ];
    let store = CheckpointId::from_bytes(ckpt_fuzz::ID);
    let body = format!(
        r#"{{"store":"{store}","seq":4,"epoch":0,"packs_seq":0,"catalog":null,"changes":[{}],"condemned":{{}},"deleting":[],"nonce":""}}"#,
        changes.join(",")
    );
    State::load(&HeadOnly { head: hashed_json("head", body.as_bytes()), catalog: Vec::new() }).expect("it is sound")
});

fuzz_target!(|data: &[u8]| {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Ok(entry) = resolve(&STATE, text) {
        assert!(STATE.entry(entry.id).is_some());
    }
    if text.len() < 300 {
        assert_eq!(distance(text, text), 0);
    }
    if check_run(text).is_ok() {
        // A run that may be stored can be named.
        assert!(!text.contains('@') && text.parse::<CheckpointId>().is_err() || text.len() != 26);
    }
    let _ = (check_tag(text), check_name("metric", text), mode_of(text));
    if let Ok(id) = text.parse::<CheckpointId>() {
        assert!(id.to_string().eq_ignore_ascii_case(text));
    }
});
