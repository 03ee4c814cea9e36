//! What is derived or disposable may be lost or hold anything: no result changes.

use std::fs;
use std::path::Path;

use ckpt_tests::lab::{Lab, noise};

use super::{Sample, spread};

/// Sees that nothing changed: gets and verify, and that a put finds all chunks. Answers nothing; fails by panic.
#[track_caller]
fn assert_unchanged(sample: &Sample, what: &str) {
    assert_eq!(sample.get_all("nothing"), 0, "{what}");
    assert_eq!(sample.verify(), "", "{what}");
    let put = sample.lab.put(&[&sample.lab.path("source")], "again", 1).unwrap_or_else(|e| panic!("{what}: {e:?}"));
    assert_eq!((put.new_chunks, put.entry.written_bytes), (0, 0), "{what}");
    sample.lab.open().remove(&["again@1".to_owned()]).unwrap();
}

/// Puts the index back as it was. HEAD has moved on, and that an older index catches up is part of the promise.
fn restore(sample: &Sample) {
    sample.restore(sample.of_kind("index")[0].0);
}

#[test]
fn any_damage_of_the_index_changes_no_result() {
    let sample = Sample::new();
    let index = sample.lab.store().join("index");
    for (path, bytes) in sample.of_kind("index") {
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        let flips = if name.ends_with(".sst") || name.starts_with("MANIFEST") { 30 } else { 6 };
        for at in spread(bytes.len(), flips) {
            let mut damaged = bytes.to_vec();
            damaged[at] ^= 0x10;
            fs::write(path, damaged).unwrap();
            assert_unchanged(&sample, &format!("a flip in byte {at} of {name}"));
            restore(&sample);
        }
        for len in [0, bytes.len() / 2, bytes.len().saturating_sub(1)] {
            fs::write(path, &bytes[..len]).unwrap();
            assert_unchanged(&sample, &format!("{name} cut to {len}"));
            restore(&sample);
        }
        fs::write(path, noise(9, bytes.len().max(100))).unwrap();
        assert_unchanged(&sample, &format!("garbage in {name}"));
        restore(&sample);
        fs::remove_file(path).unwrap();
        assert_unchanged(&sample, &format!("{name} removed"));
        restore(&sample);
    }
    for name in ["000999.sst", "999999.log", "notes.txt", "MANIFEST-999999"] {
        fs::write(index.join(name), noise(10, 5000)).unwrap();
        assert_unchanged(&sample, &format!("a stray {name}"));
        restore(&sample);
    }
    fs::remove_dir_all(&index).unwrap();
    assert_unchanged(&sample, "no index");
    restore(&sample);
    fs::remove_dir_all(&index).unwrap();
    fs::create_dir(&index).unwrap();
    assert_unchanged(&sample, "an empty index");
    restore(&sample);
    fs::remove_dir_all(&index).unwrap();
    fs::write(&index, b"a file").unwrap();
    assert_unchanged(&sample, "a file in the index's place");
}

#[test]
fn the_index_of_another_store_changes_no_result() {
    let sample = Sample::new();
    let other = Lab::new();
    // It knows the same chunks, elsewhere.
    other.put(&[&sample.lab.path("source")], "r", 1).unwrap();
    let (index, theirs) = (sample.lab.store().join("index"), other.store().join("index"));
    for round in ["theirs", "an old one of theirs"] {
        fs::remove_dir_all(&index).unwrap();
        copy(&theirs, &index);
        assert_eq!(sample.get_all("nothing"), 0, "{round}");
        assert_eq!(sample.verify(), "", "{round}");
        sample.lab.put(&[&sample.lab.path("source")], "again", 1).unwrap();
        sample.lab.get("again@1", &sample.lab.path(round)).unwrap();
        sample.lab.open().remove(&["again@1".to_owned()]).unwrap();
        assert_eq!(sample.get_all("nothing"), 0, "{round}");
        other.put(&[&sample.lab.path("source")], "r", 2).unwrap();
    }
}

#[test]
fn strays_in_sessions_locks_and_tmp_change_nothing() {
    let sample = Sample::new();
    let store = sample.lab.store();
    for folder in ["sessions", "locks", "tmp"] {
        let names =
            ["head", "index", "gc", "HEAD", "notes.txt", "01k9zzzzzzzzzzzzzzzzzzzzzz", "01k9zzzzzzzzzzzzzzzzzzzzzz.3"];
        for name in names {
            fs::write(store.join(folder).join(name), noise(1, 3000)).unwrap();
        }
        assert_unchanged(&sample, folder);
        sample.lab.ok(&[&"gc"]);
        assert_unchanged(&sample, folder);
    }
    fs::remove_file(store.join("locks/head")).unwrap();
    fs::remove_file(store.join("locks/index")).unwrap();
    fs::remove_file(store.join("locks/gc")).unwrap();
    assert_unchanged(&sample, "no locks");
    for family in ["packs", "checkpoints", "catalog", "packs/00"] {
        fs::create_dir_all(store.join(family)).unwrap();
        fs::write(store.join(family).join("notes.txt"), b"stray").unwrap();
        fs::create_dir_all(store.join(family).join("01k9zzzzzzzzzzzzzzzzzzzzzz")).unwrap();
    }
    assert_unchanged(&sample, "strays among the objects");
    sample.lab.ok(&[&"gc"]);
    assert!(store.join("packs/00/notes.txt").exists(), "what is not the store's own is left alone");
    assert_unchanged(&sample, "strays after gc");
}

/// Copies the files of a directory.
fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
}
