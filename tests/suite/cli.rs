//! The command as its users meet it: help, messages, exit codes, JSON.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use ckpt_tests::run::{Ran, ckpt, ckpt_fails, ckpt_ok, command, on, run};
use serde_json::Value;
use tempfile::TempDir;

/// A store and a place for files beside it.
struct Desk {
    dir: TempDir,
}

impl Desk {
    fn new() -> Self {
        let desk = Self { dir: tempfile::tempdir().expect("a temporary directory") };
        ckpt_ok(&desk.store(), ["init"]);
        desk
    }

    fn store(&self) -> PathBuf {
        self.dir.path().join("store")
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// A file of `bytes` bytes that nothing compresses, others for each name.
    fn file(&self, name: &str, bytes: usize) -> PathBuf {
        let mut content = vec![0; bytes];
        blake3::Hasher::new().update(name.as_bytes()).finalize_xof().fill(&mut content);
        let path = self.path(name);
        fs::write(&path, content).expect("writing a sample");
        path
    }

    fn ok(&self, args: &[&str]) -> Ran {
        let ran = run(on(&self.store()).current_dir(self.dir.path()).args(args));
        assert_eq!(ran.code, Some(0), "{args:?}: {ran:?}");
        assert_eq!(ran.stderr, "", "{args:?} talks although nothing is wrong");
        ran
    }

    fn json(&self, args: &[&str]) -> Value {
        self.ok(&[args, &["--json"]].concat()).json()
    }

    /// Runs a command that must fail with this code, say `message` and nothing else but `hint`, and answer nothing.
    fn fails(&self, args: &[&str], code: i32, message: &str, hint: &str) {
        let ran = run(on(&self.store()).current_dir(self.dir.path()).args(args));
        assert_eq!(ran.code, Some(code), "{args:?}: {ran:?}");
        assert_eq!(ran.text(), "", "{args:?} answers although it failed");
        let expected =
            if hint.is_empty() { format!("Error: {message}\n") } else { format!("Error: {message}\nHint: {hint}\n") };
        assert_eq!(ran.stderr, expected, "{args:?}");
    }

    /// Six checkpoints of run `a/b`, steps 100 to 600, each with 100 kB of its own.
    fn six() -> Self {
        let desk = Self::new();
        for (at, loss) in ["0.9", "0.4", "nan", "0.5", "0.3", "0.8"].iter().enumerate() {
            let name = format!("step={}00.bin", at + 1);
            desk.file(&name, 100_000);
            desk.ok(&["put", &name, "--run", "a/b", "--metric", &format!("val_loss={loss}")]);
        }
        desk
    }
}

fn docs() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/cli.md")
}

/// The commands that `--help` lists, and none for the help of `ckpt` itself.
fn commands() -> Vec<String> {
    let help = run(command().arg("-h"));
    let listed =
        help.text().lines().skip_while(|line| *line != "Commands:").skip(1).take_while(|line| !line.is_empty());
    listed.filter_map(|line| line.split_whitespace().next().map(str::to_owned)).filter(|name| name != "help").collect()
}

/// What `ckpt NAME --help` prints, as docs/cli.md shows it: without spaces at the ends of lines.
fn help_of(name: &str) -> String {
    let mut command = command();
    if !name.is_empty() {
        command.arg(name);
    }
    let ran = run(command.arg("--help"));
    assert_eq!((ran.code, &*ran.stderr), (Some(0), ""), "{ran:?}");
    ran.text().lines().map(|line| line.trim_end().to_owned() + "\n").collect()
}

#[test]
fn docs_show_the_help_of_every_command() {
    let mut text = fs::read_to_string(docs()).expect("docs/cli.md can be read");
    let mut stale = Vec::new();
    for name in std::iter::once(String::new()).chain(commands()) {
        let title = format!("`ckpt {name}").trim_end().to_owned() + " --help`";
        let opening = format!("{title}\n\n```text\n");
        let begins =
            text.find(&opening).unwrap_or_else(|| panic!("docs/cli.md has no block for {title}")) + opening.len();
        let ends = begins + text[begins..].find("```\n").expect("a block that begins also ends");
        let help = help_of(&name);
        if text[begins..ends] != help {
            text.replace_range(begins..ends, &help);
            stale.push(title);
        }
    }
    if std::env::var_os("UPDATE_DOCS").is_some() {
        fs::write(docs(), text).expect("docs/cli.md can be written");
    } else {
        assert!(stale.is_empty(), "docs/cli.md differs from {stale:?}; UPDATE_DOCS=1 writes it anew");
    }
}

#[test]
fn help_names_no_command_that_is_not_built() {
    let promised = [
        "init",
        "put",
        "get",
        "ls",
        "show",
        "rm",
        "tag",
        "untag",
        "pin",
        "unpin",
        "gc",
        "df",
        "verify",
        "import",
        "watch",
        "completions",
    ];
    assert_eq!(commands(), promised);
    assert_eq!(run(command().arg("--version")).text(), format!("ckpt {}\n", env!("CARGO_PKG_VERSION")));
    assert_eq!(run(command().args(["help", "put"])).text(), run(command().args(["put", "--help"])).text());
}

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
        &["gc", "--run", "r*"],
        2,
        "--run says which runs the rules are for, and there is no rule",
        "add --keep-last 3, for instance",
    );
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
        "Hint: `ckpt verify` names all damage. Putting the same files again heals every checkpoint that shares them"
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
fn refs_find_steps_tags_and_the_best() {
    let desk = Desk::six();
    desk.ok(&["tag", "a/b@100", "first"]);
    let step = |reference: &str| desk.json(&["show", reference])["step"].as_u64().expect("a step");
    assert_eq!((step("a/b"), step("a/b@latest"), step("a/b@300"), step("a/b@first")), (600, 600, 300, 100));
    // A NaN is never the best, whichever end is good.
    assert_eq!((step("a/b@best"), step("a/b@best:val_loss:min"), step("a/b@best:val_loss:max")), (500, 500, 100));
    desk.ok(&["tag", "a/b@400", "first"]);
    assert_eq!(step("a/b@first"), 400, "a tag moves");
    assert_eq!(desk.json(&["show", "a/b@100"])["tags"], serde_json::json!([]));
    assert!(desk.ok(&["ls", "a/b"]).text().contains("val_loss=NaN"));
}

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
    // Without a rule nothing is dropped.
    let plan = desk.json(&["gc"]);
    assert_eq!((&plan["dropped"], &plan["kept"]), (&serde_json::json!([]), &serde_json::json!([])));
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
fn completions_know_the_commands() {
    for shell in ["bash", "zsh", "fish"] {
        let ran = run(command().args(["completions", shell]));
        assert_eq!((ran.code, &*ran.stderr), (Some(0), ""));
        assert!(ran.text().contains("verify") && ran.text().contains("keep-last"), "{shell}");
    }
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

fn steps(checkpoints: &Value) -> Vec<u64> {
    let list = checkpoints.as_array().expect("a list of checkpoints");
    list.iter().map(|checkpoint| checkpoint["step"].as_u64().expect("a step")).collect()
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

fn is_rfc3339(text: &str) -> bool {
    let shape: String = text.chars().map(|c| if c.is_ascii_digit() { '0' } else { c }).collect();
    let fraction = shape.strip_prefix("0000-00-00T00:00:00").and_then(|rest| rest.strip_suffix('Z'));
    fraction.is_some_and(|rest| rest.is_empty() || (rest.starts_with('.') && rest[1..].chars().all(|c| c == '0')))
}
