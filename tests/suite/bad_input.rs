//! Files and stores that lie, and sources that change.
#![allow(clippy::unwrap_used, reason = "a test may fail by panicking")]

mod hostile;
mod lying;
mod manifests;
mod sources;

use std::fs;

use ckpt_store::Store;
use ckpt_tests::lab::{Lab, noise};
use ckpt_tests::run::{ckpt, command, run};

/// FORMAT as the library writes it, with another body and the right checksum.
fn write_format(lab: &Lab, body: &serde_json::Value) {
    let body = body.to_string();
    let check = blake3::hash(body.as_bytes()).to_hex();
    fs::write(lab.store().join("FORMAT"), format!("{{\"blake3\":\"{check}\",\"format\":{body}}}\n")).unwrap();
}

#[test]
fn a_store_of_another_version_is_refused_by_every_command() {
    let lab = Lab::new();
    let path = lab.write("a.pt", &noise(1, 1000));
    lab.put(&[&path], "r", 1).unwrap();
    let id = lab.open().id().to_string();
    write_format(&lab, &serde_json::json!({ "version": 1, "store": id, "features": [] }));
    lab.ok(&[&"ls"]);
    let bodies = [
        (serde_json::json!({ "version": 2, "store": id, "features": [] }), "format version 2"),
        (serde_json::json!({ "version": 0, "store": id, "features": [] }), "format version 0"),
        (serde_json::json!({ "version": 1, "store": id, "features": ["rainbow"] }), "\"rainbow\""),
        (serde_json::json!({ "version": 2, "store": id, "features": ["rainbow"], "more": 1 }), "format version 2"),
    ];
    for (body, named) in bodies {
        write_format(&lab, &body);
        let commands: [&[&dyn AsRef<std::ffi::OsStr>]; 6] = [
            &[&"ls"],
            &[&"get", &"r@1", &"back"],
            &[&"put", &path, &"--run", &"r", &"--step", &"2"],
            &[&"gc"],
            &[&"verify"],
            &[&"rm", &"r@1"],
        ];
        for args in commands {
            lab.run(args).expect(1).says(named).says("Hint: use the version of ckpt that wrote the store");
        }
        assert!(!lab.path("back").exists());
    }
    // FORMAT of another store: each half is sound.
    let stranger = Lab::new().open().id().to_string();
    write_format(&lab, &serde_json::json!({ "version": 1, "store": stranger, "features": [] }));
    lab.run(&[&"ls"]).expect(4).says("another store");
    write_format(&lab, &serde_json::json!({ "version": 1, "store": id, "features": [] }));
    lab.ok(&[&"get", &"r@1", &"back"]);
}

#[test]
fn what_is_no_store_is_told_apart() {
    let lab = Lab::bare();
    let file = lab.write("file", b"bytes");
    lab.write("full/notes.txt", b"mine");
    fs::create_dir(lab.path("empty")).unwrap();
    for place in ["none", "empty", "full"] {
        for args in [&["ls"][..], &["get", "r@1", "back"], &["put", "file", "--run", "r"], &["gc"], &["verify"]] {
            let ran = run(ckpt_tests::run::on(&lab.path(place)).args(args).current_dir(lab.dir())).expect(3);
            ran.says("no store").says(place).says("ckpt init");
        }
    }
    assert!(!lab.path("none").exists() && fs::read_dir(lab.path("empty")).unwrap().next().is_none());
    run(command().arg("ls").current_dir(lab.dir())).expect(3).says("no store").says("ckpt init");
    ckpt(&lab.path("full"), ["init"]).expect(2).says("other things than a store");
    assert_eq!(fs::read(lab.path("full/notes.txt")).unwrap(), b"mine");
    let ran = ckpt(&file, ["init"]);
    assert!(ran.code != Some(0) && fs::read(&file).unwrap() == b"bytes", "{ran:?}");
    ckpt(&lab.path("empty"), ["init"]).expect(0);
    ckpt(&lab.path("empty"), ["init"]).expect(7);
    assert!(Store::open(&lab.path("empty")).unwrap().checkpoints().unwrap().is_empty());
}
