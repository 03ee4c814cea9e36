//! Where a get puts things: as cp does.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::process::CommandExt;
use std::path::Path;

use ckpt_tests::lab::{Lab, names, noise, tree};
use ckpt_tests::run::run;

use super::hugging_face;

/// A store with a file as `file@1`, a directory `d` as `dir@1` and two files as `two@1`.
fn stored() -> Lab {
    let lab = Lab::new();
    let file = lab.write("src/a.pt", &noise(1, 100_000));
    let other = lab.write("src/b.json", b"{}");
    lab.write("src/d/x/one.pt", b"one");
    lab.write("src/d/x/two.pt", b"two");
    lab.write("src/d/three.txt", b"three");
    lab.put(&[&file], "file", 1).unwrap();
    lab.put(&[&lab.path("src/d")], "dir", 1).unwrap();
    lab.put(&[&file, &other], "two", 1).unwrap();
    lab
}

/// Nothing but these names, so nothing temporary either.
#[track_caller]
fn assert_names(directory: &Path, expected: &[&str]) {
    assert_eq!(names(directory).into_iter().collect::<Vec<_>>(), expected);
}

#[test]
fn a_file_goes_where_cp_would_put_it() {
    let lab = stored();
    let (out, bytes) = (lab.path("out"), noise(1, 100_000));
    fs::create_dir(&out).unwrap();
    lab.ok(&[&"get", &"file@1", &"out"]);
    lab.ok(&[&"get", &"file@1", &"out/new.pt"]);
    assert_names(&out, &["a.pt", "new.pt"]);
    assert!(fs::read(out.join("a.pt")).unwrap() == bytes && fs::read(out.join("new.pt")).unwrap() == bytes);
    // A second time it is there already, by either name.
    for there in ["out", "out/", "out/a.pt", "out/new.pt"] {
        lab.run(&[&"get", &"file@1", &there]).expect(7).says("exists already").says("--force");
    }
    lab.run(&[&"get", &"file@1", &"none/new.pt"]).expect(3).says("no destination none");
    // With a slash at its end it has to be a directory, and there is none.
    let ran = lab.run(&[&"get", &"file@1", &"nodir/"]);
    assert!(ran.code == Some(3) && !lab.path("nodir").exists(), "{ran:?}");
    lab.run(&[&"get", &"file@1", &"out/a.pt/below"]).expect(3);
    assert!(lab.ok(&[&"get", &"file@1", &"-"]).stdout == bytes);
    assert_names(&out, &["a.pt", "new.pt"]);
}

#[test]
fn force_replaces_a_file() {
    let lab = stored();
    let there = lab.write("out/a.pt", b"old");
    symlink("../precious", lab.path("out/link.pt")).unwrap();
    let precious = lab.write("precious", b"precious");
    lab.ok(&[&"get", &"file@1", &"out", &"--force"]);
    assert!(fs::read(&there).unwrap() == noise(1, 100_000));
    // A link is replaced and not followed.
    lab.ok(&[&"get", &"file@1", &"out/link.pt", &"--force"]);
    assert!(fs::symlink_metadata(lab.path("out/link.pt")).unwrap().is_file());
    assert_eq!(fs::read(precious).unwrap(), b"precious");
    assert_names(&lab.path("out"), &["a.pt", "link.pt"]);
}

#[test]
fn a_directory_goes_where_cp_would_put_it() {
    let lab = stored();
    fs::create_dir(lab.path("out")).unwrap();
    lab.ok(&[&"get", &"dir@1", &"out"]);
    lab.ok(&[&"get", &"dir@1", &"out/new"]);
    lab.ok(&[&"get", &"dir@1", &"out/slash/"]);
    assert_names(&lab.path("out"), &["d", "new", "slash"]);
    for name in ["d", "new", "slash"] {
        assert_eq!(tree(&lab.path("out").join(name)), tree(&lab.path("src/d")), "{name}");
    }
    lab.run(&[&"get", &"dir@1", &"out"]).expect(7).says("out/d exists already").says("--force");
    // What is in the way goes as a whole, a file as well as a directory.
    lab.write("out/new/stale.pt", b"stale");
    lab.write("out/file", b"file");
    fs::create_dir(lab.path("out/keep")).unwrap();
    for (destination, there) in [("out", "out/d"), ("out/file", "out/file")] {
        lab.ok(&[&"get", &"dir@1", &destination, &"--force"]);
        assert_eq!(tree(&lab.path(there)), tree(&lab.path("src/d")), "{there}");
    }
    assert_names(&lab.path("out"), &["d", "file", "keep", "new", "slash"]);
    lab.run(&[&"get", &"dir@1", &"-"]).expect(2).says("3 files");
}

#[test]
fn several_files_go_into_a_directory_that_exists() {
    let lab = stored();
    lab.write("out/mine.txt", b"mine");
    lab.ok(&[&"get", &"two@1", &"out"]);
    assert_names(&lab.path("out"), &["a.pt", "b.json", "mine.txt"]);
    lab.run(&[&"get", &"two@1", &"out"]).expect(7).says("out/a.pt exists already");
    // One that is there already stops all of them.
    fs::remove_file(lab.path("out/a.pt")).unwrap();
    lab.run(&[&"get", &"two@1", &"out"]).expect(7).says("out/b.json exists already");
    assert_names(&lab.path("out"), &["b.json", "mine.txt"]);
    // Force replaces those that come, and nothing else that is there.
    fs::write(lab.path("out/b.json"), b"old").unwrap();
    lab.ok(&[&"get", &"two@1", &"out", &"--force"]);
    assert_names(&lab.path("out"), &["a.pt", "b.json", "mine.txt"]);
    assert_eq!(fs::read(lab.path("out/b.json")).unwrap(), b"{}");
    assert_eq!(fs::read(lab.path("out/mine.txt")).unwrap(), b"mine");
    lab.ok(&[&"get", &"two@1", &"new"]);
    assert_names(&lab.path("new"), &["a.pt", "b.json"]);
}

#[test]
fn globs_choose_files() {
    let lab = stored();
    fs::create_dir(lab.path("out")).unwrap();
    // One file goes by its own name, several keep their folders.
    lab.ok(&[&"get", &"dir@1", &"out", &"--file", &"three.txt"]);
    lab.ok(&[&"get", &"dir@1", &"out/1.pt", &"--file", &"x/one.pt"]);
    lab.ok(&[&"get", &"dir@1", &"out/both", &"--file", &"*.pt"]);
    assert_names(&lab.path("out"), &["1.pt", "both", "three.txt"]);
    assert_names(&lab.path("out/both"), &["x"]);
    assert_names(&lab.path("out/both/x"), &["one.pt", "two.pt"]);
    lab.ok(&[&"get", &"dir@1", &"out", &"--file", &"x/*", &"--file", &"three.txt"]);
    assert_eq!(tree(&lab.path("out/d")).len(), 4);
    assert_eq!(lab.ok(&[&"get", &"dir@1", &"-", &"--file", &"two.pt"]).stdout, b"two");
    lab.run(&[&"get", &"dir@1", &"-", &"--file", &"*.pt"]).expect(2).says("2 files");
    lab.run(&[&"get", &"dir@1", &"none", &"--file", &"four*"]).expect(3).says("four* in dir@1");
    lab.run(&[&"get", &"dir@1", &"none", &"--file", &"[z"]).expect(2).says("is no glob");
    assert!(!lab.path("none").exists());
}

/// Root may write into a directory of mode 0555; the owner of most checkpoints may not.
#[test]
fn an_ordinary_user_gets_and_replaces_read_only_directories() {
    let lab = Lab::new();
    hugging_face(&lab, "checkpoint-500");
    lab.put(&[&lab.path("checkpoint-500")], "hf", 500).unwrap();
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: only root can become another user");
        return;
    }
    run(std::process::Command::new("chmod").args(["-R", "a+rwX"]).arg(lab.store())).expect(0);
    for open in [lab.dir().to_owned(), lab.path("out")] {
        fs::create_dir_all(&open).unwrap();
        fs::set_permissions(&open, fs::Permissions::from_mode(0o777)).unwrap();
    }
    // The command may lie where that user can't go.
    fs::copy(ckpt_tests::run::binary(), lab.path("ckpt")).unwrap();
    let as_nobody = |args: &[&str]| {
        let mut command = std::process::Command::new(lab.path("ckpt"));
        run(command.arg("--store").arg(lab.store()).args(args).current_dir(lab.path("out")).uid(65534).gid(65534))
    };
    as_nobody(&["get", "hf@500", "."]).expect(0);
    assert_eq!(tree(&lab.path("out/checkpoint-500")), tree(&lab.path("checkpoint-500")));
    as_nobody(&["get", "hf@500", "."]).expect(7);
    as_nobody(&["get", "hf@500", ".", "--force"]).expect(0);
    assert_eq!(tree(&lab.path("out/checkpoint-500")), tree(&lab.path("checkpoint-500")));
    assert_names(&lab.path("out"), &["checkpoint-500"]);
    as_nobody(&["put", "checkpoint-500", "--run", "nobody", "--step", "1"]).expect(0);
}
