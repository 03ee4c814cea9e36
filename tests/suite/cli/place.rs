//! Where the store is, where the answer goes, and what arguments may hold.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::process::Stdio;

use ckpt_tests::run::{ckpt_fails, ckpt_ok, command, on, run};
use serde_json::Value;

use super::Desk;

#[test]
fn a_store_without_its_empty_directories_works() {
    let desk = Desk::six();
    for name in ["sessions", "tmp", "locks", "index"] {
        fs::remove_dir_all(desk.store().join(name)).expect("removing a directory");
    }
    desk.ok(&["ls"]);
    desk.ok(&["get", "a/b@100", "back"]);
    desk.file("more", 100_000);
    desk.ok(&["put", "more", "--run", "b"]);
    desk.ok(&["gc", "--keep-last", "1"]);
    desk.ok(&["verify"]);
}

#[test]
fn a_closed_stdout_ends_quietly() {
    let desk = Desk::six();
    for args in [&["ls", "a/b"][..], &["show", "a/b", "--json"], &["completions", "bash"], &["get", "a/b@100", "-"]] {
        let (reader, writer) = std::io::pipe().expect("a pipe");
        drop(reader);
        let ran = run(on(&desk.store()).args(args).stdout(writer).stderr(Stdio::piped()));
        assert_eq!((ran.code, &*ran.stderr), (Some(0), ""), "{args:?}");
    }
}

#[test]
fn the_store_is_the_named_one_else_the_nearest() {
    let desk = Desk::new();
    desk.file("a", 10);
    let deep = desk.path("work/deep");
    fs::create_dir_all(&deep).expect("directories");
    assert_eq!(run(command().current_dir(desk.path("work")).arg("init")).text(), "made a store in .ckpt\n");
    let put = ["put", "../../a", "--run"];
    assert_eq!(run(command().current_dir(&deep).args(put).arg("nearest")).code, Some(0));
    assert_eq!(run(command().current_dir(&deep).env("CKPT_STORE", desk.store()).args(put).arg("env")).code, Some(0));
    let ran = run(command()
        .current_dir(&deep)
        .env("CKPT_STORE", "/nowhere")
        .arg("--store")
        .arg(desk.store())
        .args(put)
        .arg("flag"));
    assert_eq!(ran.code, Some(0), "{ran:?}");
    let runs = |value: Value| -> Vec<String> {
        value.as_array().expect("a list").iter().map(|run| run["run"].as_str().expect("a name").to_owned()).collect()
    };
    assert_eq!(runs(run(command().current_dir(&deep).args(["ls", "--json"])).json()), ["nearest"]);
    assert_eq!(runs(desk.json(&["ls"])), ["env", "flag"]);
}

#[test]
fn arguments_need_not_be_utf8() {
    let desk = Desk::new();
    let odd = OsStr::from_bytes(b"step=5-\xff\xfe.bin");
    fs::write(desk.dir.path().join(odd), b"content").expect("a file with an odd name");
    let store = desk.dir.path().join(OsStr::from_bytes(b"st\xffre"));
    ckpt_ok(&store, ["init"]);
    let mut put = on(&store);
    let ran = run(put.current_dir(desk.dir.path()).arg("put").arg(odd).args(["--run", "r", "--step", "5"]));
    assert_eq!(ran.code, Some(0), "{ran:?}");
    let into = desk.path("into");
    fs::create_dir(&into).expect("a directory");
    ckpt_ok(&store, ["get".as_ref(), "r@5".as_ref(), into.as_os_str()]);
    assert_eq!(fs::read(into.join(odd)).expect("the same name"), b"content");
    assert!(ckpt_ok(&store, ["show", "r"]).text().contains("step=5-\u{fffd}\u{fffd}.bin"));
    // What has to be text says so.
    for args in [["show".as_ref(), odd], ["ls".as_ref(), odd]] {
        let ran = ckpt_fails(&store, args, 2);
        assert!(ran.stderr.contains("UTF-8"), "{ran:?}");
    }
}
