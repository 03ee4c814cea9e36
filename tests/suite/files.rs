//! Trees of files: empty ones, links, modes, odd names, thousands of small ones.
#![allow(clippy::unwrap_used, reason = "a test may fail by panicking")]

mod destination;
mod memory;
mod odd;

use std::fs::{self, File, FileTimes, Permissions};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::time::{Duration, SystemTime};

use ckpt_store::{Error, Thing};
use ckpt_tests::lab::{Lab, Node, noise, safetensors, tree};

/// Gives a path a mode and an old time of change; links keep theirs.
fn age(path: &Path, mode: u32, millis: u64) {
    let file = File::open(path).unwrap();
    file.set_permissions(Permissions::from_mode(mode)).unwrap();
    file.set_times(FileTimes::new().set_modified(SystemTime::UNIX_EPOCH + Duration::from_millis(millis))).unwrap();
}

/// What a Transformers training leaves: weights in shards, an optimizer, a tokenizer, small JSON, a link, empty things.
fn hugging_face(lab: &Lab, name: &str) -> std::path::PathBuf {
    let weights =
        |seed| safetensors(&[("a.weight", "F32", &noise(seed, 400_000)), ("a.bias", "F32", &noise(seed + 1, 4000))]);
    lab.write(format!("{name}/model-00001-of-00002.safetensors"), &weights(1));
    lab.write(format!("{name}/model-00002-of-00002.safetensors"), &weights(3));
    lab.write(format!("{name}/optimizer.pt"), &noise(5, 200_000));
    lab.write(format!("{name}/trainer_state.json"), br#"{"global_step": 500, "log_history": []}"#);
    lab.write(format!("{name}/tokenizer/vocab.json"), &noise(6, 100_000));
    lab.write(format!("{name}/tokenizer/merges.txt"), b"");
    lab.write(format!("{name}/global_step500/zero_pp_rank_0.pt"), &noise(7, 70_000));
    let root = lab.path(name);
    fs::create_dir(root.join("runs")).unwrap();
    symlink("model-00001-of-00002.safetensors", root.join("model.safetensors")).unwrap();
    symlink("../tokenizer/vocab.json", root.join("global_step500/vocab.json")).unwrap();
    symlink("tokenizer", root.join("tok")).unwrap();
    for (at, (path, node)) in tree(&root).into_iter().enumerate().collect::<Vec<_>>().into_iter().rev() {
        let path = root.join(String::from_utf8(path).unwrap());
        let mode = [0o600, 0o755, 0o444, 0o640][at % 4];
        match node {
            Node::File(..) => age(&path, mode, 1_600_000_000_123 + at as u64 * 1001),
            Node::Directory(..) => {
                age(&path, if path.ends_with("tokenizer") { 0o555 } else { 0o700 }, 1_500_000_000_456)
            }
            Node::Link(_) => {}
        }
    }
    root
}

#[test]
fn a_hugging_face_folder_comes_back_with_all_that_it_has() {
    let lab = Lab::new();
    let root = hugging_face(&lab, "checkpoint-500");
    let put = lab.ok(&[&"put", &"checkpoint-500/", &"--run", &"hf", &"--json"]).json();
    assert_eq!((&put["step"], &put["ref"], &put["files"]), (&500.into(), &"hf@500".into(), &7.into()));
    lab.ok(&[&"get", &"hf@500", &"back"]);
    assert_eq!(tree(&lab.path("back")), tree(&root));
    // Into a directory that exists it goes by its own name, as with cp -r.
    fs::create_dir(lab.path("into")).unwrap();
    lab.ok(&[&"get", &"hf@500", &"into"]);
    assert_eq!(tree(&lab.path("into/checkpoint-500")), tree(&root));
    assert_eq!(tree(&lab.path("into")).keys().filter(|path| !path.contains(&b'/')).count(), 1);
}

#[test]
fn empty_things_are_checkpoints() {
    let lab = Lab::new();
    let empty = lab.write("empty.pt", b"");
    fs::create_dir_all(lab.path("dir")).unwrap();
    fs::create_dir_all(lab.path("nest/a/b")).unwrap();
    lab.put(&[&empty], "file", 1).unwrap();
    lab.put(&[&lab.path("dir")], "dir", 1).unwrap();
    lab.put(&[&lab.path("nest")], "nest", 1).unwrap();
    lab.put(&[&empty, &lab.path("dir")], "both", 1).unwrap();
    for run in ["file", "dir", "nest", "both"] {
        lab.ok(&[&"get", &run, &format!("back-{run}")]);
    }
    assert_eq!(fs::read(lab.path("back-file")).unwrap(), b"");
    assert!(tree(&lab.path("back-dir")).is_empty());
    assert_eq!(tree(&lab.path("back-nest")), tree(&lab.path("nest")));
    assert_eq!(tree(&lab.path("back-both")).into_keys().collect::<Vec<_>>(), [b"dir".to_vec(), b"empty.pt".to_vec()]);
    assert_eq!(lab.ok(&[&"get", &"file", &"-"]).stdout, b"");
    assert!(lab.verify().unwrap().is_sound());
    lab.ok(&[&"gc"]);
    lab.ok(&[&"show", &"dir"]);
}

#[test]
fn thousands_of_small_files_and_one_that_changes() {
    let lab = Lab::new();
    for nr in 0..5000_u64 {
        let bytes = noise(nr, 40 + usize::try_from(nr % 400).unwrap());
        lab.write(format!("many/{:02}/{nr}.json", nr % 50), &bytes);
    }
    let first = lab.put(&[&lab.path("many")], "r", 1).unwrap();
    assert_eq!(first.entry.files, 5000);
    let second = lab.put(&[&lab.path("many")], "r", 2).unwrap();
    assert_eq!((second.new_chunks, second.entry.added_bytes, second.entry.written_bytes), (0, 0, 0));
    lab.write("many/07/1007.json", b"another text, of another length");
    let third = lab.put(&[&lab.path("many")], "r", 3).unwrap();
    let logical = third.entry.logical_bytes;
    assert!(third.entry.added_bytes < logical / 2, "{} of {logical} bytes are new", third.entry.added_bytes);
    lab.get("r@3", &lab.path("back")).unwrap();
    assert_eq!(tree(&lab.path("back")), tree(&lab.path("many")));
}

#[test]
fn several_paths_are_one_checkpoint() {
    let lab = Lab::new();
    let model = lab.write("a/model.pt", &noise(1, 100_000));
    let tokenizer = lab.write("b/tokenizer.json", b"{}");
    lab.write("c/logs/deep/log.txt", b"log");
    let logs = lab.path("c/logs");
    lab.ok(&[&"put", &model, &tokenizer, &logs, &"--run", &"r", &"--step", &"1"]);
    lab.ok(&[&"get", &"r@1", &"back"]);
    let names: Vec<Vec<u8>> = tree(&lab.path("back")).into_keys().collect();
    assert_eq!(
        names,
        ["logs", "logs/deep", "logs/deep/log.txt", "model.pt", "tokenizer.json"].map(|n| n.as_bytes().to_vec())
    );
    assert_eq!(fs::read(lab.path("back/model.pt")).unwrap(), noise(1, 100_000));

    let twin = lab.write("b/model.pt", b"other");
    lab.run(&[&"put", &model, &twin, &"--run", &"r", &"--step", &"2"]).expect(2).says("both named \"model.pt\"");
    lab.run(&[&"put", &model, &model, &"--run", &"r", &"--step", &"2"]).expect(2).says("both named \"model.pt\"");
    let twin = lab.path("d/logs");
    fs::create_dir_all(&twin).unwrap();
    lab.run(&[&"put", &logs, &twin, &"--run", &"r", &"--step", &"2"]).expect(2).says("both named \"logs\"");
    let missing = lab.run(&[&"put", &"a/mode.pt", &"--run", &"r", &"--step", &"2"]).expect(3);
    missing.says("a/mode.pt");
    assert_eq!(lab.open().checkpoints().unwrap().len(), 1);
}

#[test]
fn a_store_inside_of_what_is_put_is_left_out() {
    let lab = Lab::bare();
    lab.write("project/model.pt", &noise(1, 300_000));
    let in_project = |args: &[&str]| {
        ckpt_tests::run::run(ckpt_tests::run::command().args(args).current_dir(lab.path("project"))).expect(0)
    };
    in_project(&["init"]);
    for step in ["1", "2"] {
        in_project(&["put", ".", "--run", "r", "--step", step]);
    }
    let shown = in_project(&["show", "r@2", "--json"]);
    assert!(!shown.text().contains("HEAD") && shown.text().contains("model.pt"), "{}", shown.text());
    in_project(&["get", "r@2", "../back"]);
    assert_eq!(tree(&lab.path("back")).into_keys().collect::<Vec<_>>(), [b"model.pt".to_vec()]);
    // From a folder below, by the path of the folder above and by an absolute one.
    fs::create_dir(lab.path("project/sub")).unwrap();
    let ran = ckpt_tests::run::run(
        ckpt_tests::run::command()
            .args(["put", "..", "--run", "r", "--step", "3"])
            .current_dir(lab.path("project/sub")),
    );
    ran.expect(0);
    let absolute = lab.path("project");
    in_project(&["put", absolute.to_str().unwrap(), "--run", "r", "--step", "4"]);
    for step in [3, 4] {
        let back = lab.path(format!("back{step}"));
        in_project(&["get", &format!("r@{step}"), back.to_str().unwrap()]);
        assert_eq!(tree(&back).into_keys().collect::<Vec<_>>(), [b"model.pt".to_vec(), b"sub".to_vec()]);
    }
}

#[test]
fn a_link_that_is_named_stores_the_file() {
    let lab = Lab::new();
    let real = lab.write("epoch=3-step=1200.ckpt", &noise(1, 200_000));
    symlink("epoch=3-step=1200.ckpt", lab.path("last.ckpt")).unwrap();
    lab.put(&[&lab.path("last.ckpt")], "r", 1).unwrap();
    lab.get("r@1", &lab.path("back.ckpt")).unwrap();
    assert!(fs::symlink_metadata(lab.path("back.ckpt")).unwrap().is_file());
    assert_eq!(fs::read(lab.path("back.ckpt")).unwrap(), fs::read(real).unwrap());
    // A link to a directory stores the directory.
    lab.write("real/a.pt", b"a");
    symlink("real", lab.path("link")).unwrap();
    lab.put(&[&lab.path("link")], "r", 2).unwrap();
    lab.get("r@2", &lab.path("back")).unwrap();
    assert_eq!(tree(&lab.path("back")), tree(&lab.path("real")));
    // One that leads nowhere is a source that is not there.
    symlink("nowhere", lab.path("dangling")).unwrap();
    let error = lab.put(&[&lab.path("dangling")], "r", 3).unwrap_err();
    assert!(matches!(error, Error::NotFound { thing: Thing::Source, .. }), "{error:?}");
}
