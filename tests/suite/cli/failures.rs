//! What each exit code means, with its message and its hint.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::path::{Path, PathBuf};

use ckpt_tests::run::{Ran, ckpt, ckpt_fails, command, on, run};
use serde_json::Value;

use super::Desk;

#[test]
fn wrong_calls_are_exit_2() {
    let desk = Desk::new();
    desk.file("a", 10);
    for args in [
        &["frobnicate"][..],
        &["put", "a"],
        &["put", "--run", "r"],
        &["put", "a", "--run", "r", "--step", "-1"],
        &["put", "a", "--run", "r", "--metric", "loss"],
        &["put", "a", "--run", "r", "--metric", "loss=low"],
        &["gc", "--keep-best", "1"],
        &["gc", "--mode", "min", "--keep-last", "1"],
        &["gc", "--keep-within", "1y"],
        &["gc", "--keep-within", "-1d"],
        &["completions", "tcsh"],
    ] {
        let ran = ckpt_fails(&desk.store(), args, 2);
        assert_eq!(ran.text(), "", "{args:?}");
    }
    let any_name = "1 to 255 bytes, no control characters, no space at its ends";
    let elsewhere = "a ref would mean something else by it";
    desk.fails(&["put", "a", "--run", ""], 2, &format!("\"\" can't name a run: {any_name}"), "");
    let parts = "no '@', and parts between '/' must be names";
    desk.fails(&["put", "a", "--run", "a@b"], 2, &format!("\"a@b\" can't name a run: {parts}"), "");
    desk.fails(&["put", "a", "--run", "a//b"], 2, &format!("\"a//b\" can't name a run: {parts}"), "");
    for tag in ["latest", "best", "12", "a/b"] {
        let message = format!("{tag:?} can't be a tag: {elsewhere}");
        desk.fails(&["put", "a", "--run", "r", "--tag", tag], 2, &message, "");
    }
    desk.fails(&["show", "@5"], 2, "\"@5\" names no run: a ref is RUN@STEP, RUN@TAG, RUN or an id", "");
    desk.fails(&["gc", "--keep-last", "0"], 2, "keep-last 0 keeps nothing; leave the rule away instead", "");
    desk.fails(
        &["gc", "--keep-best", "1", "--metric", "reward"],
        2,
        "whether small or large reward is good can't be told from its name",
        "add --mode min or --mode max",
    );
    let ran = ckpt_fails(Path::new("s3://bucket/x"), ["ls"], 2);
    let message = "s3://bucket/x is not a directory: this version has no s3 stores";
    assert_eq!(ran.stderr, format!("Error: {message}\nHint: give --store a directory\n"));
    let ran = run(command().env("CKPT_STORE", "").arg("ls"));
    assert_eq!(ran.code, Some(2));
    assert_eq!(
        ran.stderr,
        "Error: the name of the store is empty\nHint: give --store a directory, or unset CKPT_STORE\n"
    );
}

#[test]
fn what_is_not_there_is_exit_3_with_what_may_be_meant() {
    let desk = Desk::six();
    desk.ok(&["tag", "a/b@200", "good"]);
    desk.fails(&["get", "a/c", "x"], 3, "no run a/c", "did you mean a/b?");
    desk.fails(&["ls", "quite-another"], 3, "no run quite-another", "`ckpt ls` lists the runs");
    desk.fails(&["show", "a/b@310"], 3, "no checkpoint a/b@310", "did you mean a/b@300 or a/b@400 or a/b@200?");
    desk.fails(&["show", "a/b@goood"], 3, "no checkpoint a/b@goood", "did you mean a/b@good?");
    desk.fails(&["show", "a/b@other"], 3, "no checkpoint a/b@other", "`ckpt ls a/b` lists its checkpoints");
    desk.fails(&["untag", "a/b@200", "bad"], 3, "no tag bad of a/b@200", "did you mean good?");
    let id = "01zzzzzzzzzzzzzzzzzzzzzzzz";
    let lists = "`ckpt ls RUN` lists a run's checkpoints, with `--json` their ids";
    desk.fails(&["show", id], 3, &format!("no checkpoint {id}"), lists);
    desk.fails(&["get", "a/b@100", "x", "--file", "*.pt"], 3, "no file *.pt in a/b@100", "did you mean step=100.bin?");
    desk.fails(
        &["put", "stp=100.bin", "--run", "r"],
        3,
        "no file or directory stp=100.bin",
        "did you mean step=100.bin or step=200.bin or step=300.bin?",
    );
    desk.fails(&["get", "a/b@100", "no/such/place"], 3, "no destination no/such", "make the directory first");
    // One wrong ref drops none.
    desk.fails(&["rm", "a/b@100", "a/b@7"], 3, "no checkpoint a/b@7", "did you mean a/b@100 or a/b@200 or a/b@300?");
    assert_eq!(desk.json(&["ls", "a/b"]).as_array().map(Vec::len), Some(6));

    let nowhere = desk.path("nowhere");
    let makes = "`ckpt init` makes one; `--store` or CKPT_STORE says where it is";
    for store in [nowhere.as_path(), &desk.path("step=100.bin")] {
        let ran = ckpt_fails(store, ["ls"], 3);
        assert_eq!(ran.stderr, format!("Error: no store in {}\nHint: {makes}\n", store.display()));
    }
    fs::create_dir(&nowhere).expect("a directory");
    let ran = run(command().current_dir(&nowhere).arg("ls"));
    assert_eq!((ran.code, ran.text()), (Some(3), ""));
    assert!(ran.stderr.starts_with("Error: no store here or above (/"), "{ran:?}");
}

#[test]
fn damage_is_exit_4_and_named() {
    let desk = Desk::new();
    desk.file("weights", 300_000);
    desk.ok(&["put", "weights", "--run", "r", "--step", "1"]);
    let pack = only_pack(&desk.store());
    let mut bytes = fs::read(&pack).expect("reading the pack");
    bytes[5000] ^= 1;
    fs::write(&pack, bytes).expect("writing the pack");
    let name = pack.file_name().and_then(OsStr::to_str).expect("a name");

    let ran = ckpt_fails(&desk.store(), ["get".as_ref(), "r@1".as_ref(), desk.path("back").as_os_str()], 4);
    let [error, hint] = ran.stderr.lines().collect::<Vec<_>>()[..] else { panic!("{ran:?}") };
    assert!(error.starts_with("Error: 1 place is damaged: r@1: file \"weights\", chunk "), "{ran:?}");
    assert!(error.ends_with(&format!("in pack {name}: its bytes are not those that were stored")), "{ran:?}");
    assert_eq!(
        hint,
        "Hint: `ckpt verify` names all damage. Putting the same files again heals every checkpoint that shares them, and \
         so does `ckpt repair --from` a copy of the store"
    );
    assert!(!desk.path("back").exists());

    // The report is verify's answer and goes to stdout; what to do about it is talk.
    let ran = ckpt(&desk.store(), ["verify"]);
    assert_eq!(ran.code, Some(4), "{ran:?}");
    assert!(ran.text().starts_with("damaged: r@1: file \"weights\""), "{ran:?}");
    assert!(ran.text().ends_with("of 1 checkpoint: damage found\n"), "{ran:?}");
    assert!(ran.stderr.starts_with("Hint: "), "{ran:?}");
    let ran = ckpt(&desk.store(), ["verify", "r@1", "--json"]);
    assert_eq!(ran.code, Some(4), "{ran:?}");
    let damaged = &ran.json()["damaged"][0];
    assert_eq!((&damaged["checkpoint"], &damaged["file"]), (&"r@1".into(), &"weights".into()));
    assert_eq!((&damaged["tensor"], &damaged["pack"]), (&Value::Null, &name.into()));
}

#[test]
fn a_full_disk_is_exit_5_and_a_busy_store_6() {
    let desk = Desk::six();
    for args in [&["get", "a/b@100", "-"][..], &["ls"]] {
        let full = File::options().write(true).open("/dev/full").expect("/dev/full");
        let ran: Ran = run(on(&desk.store()).args(args).stdout(full));
        assert_eq!(ran.code, Some(5), "{ran:?}");
        assert!(ran.stderr.starts_with("Error: no room left while writing "), "{ran:?}");
        assert!(ran.stderr.contains("\nCaused by: No space left on device"), "{ran:?}");
        assert!(ran.stderr.contains("\nHint: nothing was changed. `ckpt df` shows what takes the room"), "{ran:?}");
    }
    let lock = File::options().create(true).append(true).open(desk.store().join("locks/gc")).expect("gc's lock");
    lock.lock().expect("nobody else has it");
    fs::write(desk.store().join("locks/gc"), "4711").expect("writing a process id");
    desk.fails(&["gc"], 6, "another gc is at work on this store (process 4711)", "");
    // Looking is allowed.
    desk.ok(&["gc", "--dry-run"]);
    let missing = desk.store().join("sessions");
    fs::rename(&missing, desk.path("elsewhere")).expect("moving a directory");
    fs::write(&missing, "").expect("a file where a directory should be");
    let ran = ckpt_fails(&desk.store(), ["pin", "a/b@100"], 6);
    assert!(ran.stderr.contains("\nCaused by: "), "{ran:?}");
}

#[test]
fn what_exists_is_exit_7() {
    let desk = Desk::new();
    desk.file("a", 10);
    desk.ok(&["put", "a", "--run", "r", "--step", "5"]);
    let both = "`--replace` takes its place; another `--run` or `--step` keeps both";
    desk.fails(&["put", "a", "--run", "r", "--step", "5"], 7, "checkpoint r@5 exists already", both);
    desk.ok(&["put", "a", "--run", "r", "--step", "5", "--replace"]);
    assert_eq!(desk.json(&["ls", "r"]).as_array().map(Vec::len), Some(1));

    fs::write(desk.path("there"), "mine").expect("a file");
    desk.fails(&["get", "r@5", "there"], 7, "destination there exists already", "`--force` replaces it");
    assert_eq!(fs::read(desk.path("there")).expect("still there"), b"mine");
    desk.ok(&["get", "r@5", "there", "--force"]);
    assert_eq!(fs::read(desk.path("there")).expect("replaced"), fs::read(desk.path("a")).expect("the source"));

    let store = desk.store();
    desk.fails(&["init"], 7, &format!("store {} exists already", store.display()), "it can be used as it is");
    let ran = ckpt_fails(&desk.path("a"), ["init"], 2);
    assert_eq!(ran.stderr, format!("Error: {} is not a directory\n", desk.path("a").display()));
    let ran = ckpt_fails(desk.dir.path(), ["init"], 2);
    assert_eq!(ran.stderr, format!("Error: {} holds other things than a store\n", desk.dir.path().display()));
}

#[test]
fn a_store_of_another_version_is_exit_1() {
    let desk = Desk::new();
    let format = r#"{"version":2,"store":"01m85bxjjgrtg4x4kwr76pv2xr","features":[]}"#;
    let hash = blake3::hash(format.as_bytes()).to_hex();
    fs::write(desk.store().join("FORMAT"), format!(r#"{{"blake3":"{hash}","format":{format}}}"#)).expect("FORMAT");
    let message = "FORMAT: it is a store of format version 2, this program reads version 1";
    desk.fails(&["ls"], 1, message, "use the version of ckpt that wrote the store, or a newer one");
}

fn only_pack(store: &Path) -> PathBuf {
    let folders = fs::read_dir(store.join("packs")).expect("packs");
    let mut packs: Vec<PathBuf> = folders
        .flat_map(|folder| fs::read_dir(folder.expect("a folder").path()).expect("a folder of packs"))
        .map(|pack| pack.expect("a pack").path())
        .collect();
    assert_eq!(packs.len(), 1);
    packs.remove(0)
}
