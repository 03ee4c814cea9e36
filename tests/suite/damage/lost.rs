//! FORMAT, HEAD, the catalog or a manifest is lost: what manifests and packs still say brings the store back, under names that
//! nobody takes for the old ones.

use std::fs;

use ckpt_store::{Error, Quiet, Store};
use ckpt_tests::lab::{Lab, names};
use ckpt_tests::world::head_of;

use super::Sample;
use super::repair::{repair_all, without_index};

/// Sees that `r@1` and `r@2` come back exactly, under these names.
#[track_caller]
fn assert_back(sample: &Sample, names: [&str; 2]) {
    for (reference, name) in ["r@1", "r@2"].into_iter().zip(names) {
        let out = sample.lab.path("out");
        sample.lab.get(name, &out).unwrap_or_else(|error| panic!("{name}: {error:?}"));
        for (file, bytes) in &sample.expected[reference] {
            assert!(fs::read(out.join(file)).unwrap() == *bytes, "{name}: {file} is another");
        }
        fs::remove_dir_all(out).unwrap();
    }
}

/// The store goes on: it is sound, takes a put, survives a gc.
#[track_caller]
fn assert_usable(lab: &Lab) {
    lab.ok(&[&"verify"]);
    lab.put(&[&lab.path("source")], "later", 1).unwrap();
    lab.ok(&[&"gc"]);
    lab.ok(&[&"verify"]);
    without_index(&lab.store());
    lab.ok(&[&"verify"]);
    assert!(repair_all(&lab.store()).is_idle(), "a second repair has nothing to do");
}

#[test]
fn a_lost_format_is_written_anew() {
    for how in ["gone", "flipped", "another store's", "cut"] {
        let sample = Sample::new();
        let root = sample.lab.store();
        let path = root.join("FORMAT");
        let good = fs::read(&path).unwrap();
        match how {
            "gone" => fs::remove_file(&path).unwrap(),
            "another store's" => fs::write(&path, fs::read(Lab::new().store().join("FORMAT")).unwrap()).unwrap(),
            "cut" => fs::write(&path, &good[..good.len() / 2]).unwrap(),
            _ => {
                let mut bytes = good.clone();
                bytes[good.len() / 2] ^= 1;
                fs::write(&path, bytes).unwrap();
            }
        }
        let damaged = fs::read(&path).ok();
        sample.lab.run(&[&"ls"]).expect(4).says("FORMAT").says("ckpt repair");
        let head = fs::read(root.join("HEAD")).unwrap();
        let report = repair_all(&root);
        assert!(report.is_sound() && report.recovered.is_empty(), "{how}: {report:?}");
        assert_eq!(fs::read(&path).unwrap(), good, "{how}: it says what it said");
        assert_eq!(fs::read(root.join("HEAD")).unwrap(), head, "{how}: HEAD is as it was");
        let kept = damaged
            .map(|bytes| (report.kept_aside.len(), fs::read(root.join(&report.kept_aside[0])).unwrap() == bytes));
        assert!(kept.is_none_or(|kept| kept == (1, true)), "{how}: what was there is kept");
        assert_back(&sample, ["r@1", "r@2"]);
        assert_usable(&sample.lab);
    }
}

#[test]
fn a_lost_head_is_made_anew_from_the_manifests() {
    for how in ["gone", "flipped", "cut", "empty", "garbage"] {
        let sample = Sample::new();
        let root = sample.lab.store();
        let path = root.join("HEAD");
        let good = fs::read(&path).unwrap();
        let old = head_of(&root);
        match how {
            "gone" => fs::remove_file(&path).unwrap(),
            "cut" => fs::write(&path, &good[..good.len() / 2]).unwrap(),
            "empty" => fs::write(&path, b"").unwrap(),
            "garbage" => fs::write(&path, [0xff; 5000]).unwrap(),
            _ => {
                let mut bytes = good.clone();
                bytes[good.len() / 2] ^= 1;
                fs::write(&path, bytes).unwrap();
            }
        }
        let damaged = fs::read(&path).ok();
        let ran = sample.lab.ok(&[&"repair", &"--json"]).json();
        let found: Vec<&str> =
            ran["recovered"].as_array().unwrap().iter().map(|entry| entry["ref"].as_str().unwrap()).collect();
        assert_eq!(found, ["recovered/r@1", "recovered/r@2"], "{how}");
        match damaged {
            Some(bytes) => {
                let name = ran["kept_aside"][0].as_str().unwrap();
                assert!(name.starts_with("HEAD.damaged-"), "{name}");
                assert_eq!(fs::read(root.join(name)).unwrap(), bytes, "{how}");
            }
            None => assert_eq!(ran["kept_aside"], serde_json::json!([])),
        }
        let new = head_of(&root);
        for number in ["seq", "epoch", "packs_seq"] {
            assert!(new[number].as_u64().unwrap() > old["seq"].as_u64().unwrap(), "{how}: {number} of {new}");
        }
        assert_back(&sample, ["recovered/r@1", "recovered/r@2"]);
        assert!(
            matches!(sample.lab.open().resolve("r@1"), Err(Error::NotFound { .. })),
            "nobody takes it for the old one"
        );
        assert_usable(&sample.lab);
    }
}

#[test]
fn tags_and_pins_come_back_from_the_newest_catalog_that_can_be_read() {
    let sample = Sample::new();
    let lab = &sample.lab;
    let store = lab.open();
    store.pin("r@2", true).unwrap();
    // Until a catalog has been written that knows of it.
    let catalogs = || names(&lab.store().join("catalog"));
    let before = catalogs();
    while catalogs() == before {
        store.tag("r@1", "kept").unwrap();
        store.tag("r@1", "other").unwrap();
    }
    fs::remove_file(lab.store().join("HEAD")).unwrap();
    repair_all(&lab.store());
    let entries = lab.open().checkpoints().unwrap();
    assert!(entries[0].tags.contains("kept") && entries[1].pinned, "{entries:?}");
    assert!(entries[0].added_bytes > 0, "what storing it cost is known from there too");
    assert_back(&sample, ["recovered/r@kept", "recovered/r"]);
}

#[test]
fn a_lost_catalog_leaves_what_head_itself_says() {
    for how in ["gone", "flipped"] {
        let sample = Sample::new();
        let lab = &sample.lab;
        lab.put(&[&lab.path("source")], "r", 3).unwrap();
        lab.ok(&[&"rm", &"r@2"]);
        let head = head_of(&lab.store());
        let path = lab.store().join("catalog").join(head["catalog"].as_str().unwrap());
        assert!(head["changes"].to_string().contains("\"step\":3"), "the sample's HEAD carries the new one itself");
        if how == "gone" {
            fs::remove_file(&path).unwrap();
        } else {
            let mut bytes = fs::read(&path).unwrap();
            bytes[70] ^= 1;
            fs::write(&path, bytes).unwrap();
        }
        lab.run(&[&"ls"]).expect(4).says("ckpt repair");
        let report = repair_all(&lab.store());
        assert!(report.is_sound(), "{how}: {report:?}");
        let found: Vec<String> = lab.open().checkpoints().unwrap().iter().map(ckpt_store::name_of).collect();
        assert_eq!(
            found,
            ["recovered/r@1", "r@3"],
            "{how}: what HEAD dropped stays dropped, what it added keeps its name"
        );
        assert_eq!(head_of(&lab.store())["seq"].as_u64(), head["seq"].as_u64().map(|seq| seq + 1));
        assert_back(&sample, ["recovered/r@1", "r@3"]);
        assert_usable(lab);
    }
}

#[test]
fn all_three_lost_and_a_broken_pack_besides() {
    let sample = Sample::new();
    let root = sample.lab.store();
    for (path, _) in sample.of_kind("catalog") {
        fs::remove_file(path).unwrap();
    }
    fs::remove_file(root.join("HEAD")).unwrap();
    fs::remove_file(root.join("FORMAT")).unwrap();
    let (path, bytes) = sample.shared_pack();
    fs::write(path, &bytes[..bytes.len() - 30]).unwrap();
    let report = repair_all(&root);
    assert!(report.is_sound(), "{report:?}");
    assert_eq!((report.recovered.len(), report.mended.len()), (2, 1));
    assert_back(&sample, ["recovered/r@1", "recovered/r@2"]);
    assert_usable(&sample.lab);
}

#[test]
fn what_does_not_resolve_whole_is_left_alone() {
    let sample = Sample::new();
    let root = sample.lab.store();
    // The pack that only r@2 needs.
    let shared = sample.shared_pack().0;
    let (own, bytes) = sample.of_kind("packs").into_iter().find(|(path, _)| *path != shared).unwrap();
    fs::remove_file(own).unwrap();
    fs::remove_file(root.join("HEAD")).unwrap();
    let report = repair_all(&root);
    assert_eq!((report.recovered.len(), report.unresolved.len()), (1, 1), "{report:?}");
    assert!(report.unresolved[0].0.starts_with("checkpoints/") && report.unresolved[0].1.contains("r@2"), "{report:?}");
    let entries = sample.lab.open().checkpoints().unwrap();
    assert_eq!(entries.iter().map(ckpt_store::name_of).collect::<Vec<_>>(), ["recovered/r@1"]);
    assert!(root.join(&report.unresolved[0].0).exists());
    // With the pack it is found, once HEAD is lost again.
    fs::write(own, bytes).unwrap();
    fs::remove_file(root.join("HEAD")).unwrap();
    assert_eq!(repair_all(&root).recovered.len(), 2);
    assert_back(&sample, ["recovered/r@1", "recovered/r@2"]);
}

#[test]
fn a_lost_manifest_is_told_and_rm_is_the_way() {
    for how in ["gone", "flipped"] {
        let sample = Sample::new();
        let lab = &sample.lab;
        let id = lab.open().resolve("r@1").unwrap().id.to_string();
        let path = lab.store().join("checkpoints").join(&id);
        if how == "gone" {
            fs::remove_file(&path).unwrap();
        } else {
            let mut bytes = fs::read(&path).unwrap();
            bytes[80] ^= 1;
            fs::write(&path, bytes).unwrap();
        }
        let before = fs::read(lab.store().join("HEAD")).unwrap();
        let ran = lab.run(&[&"repair"]).expect(4).says("ckpt rm r@1");
        assert!(ran.text().contains(&id), "{ran:?}");
        assert_eq!(fs::read(lab.store().join("HEAD")).unwrap(), before, "it drops nothing by itself");
        lab.run(&[&"gc"]).expect(4);
        lab.ok(&[&"rm", &"r@1"]);
        lab.ok(&[&"gc"]);
        lab.ok(&[&"repair"]);
        lab.ok(&[&"verify"]);
        assert!(lab.open().resolve("r@2").is_ok());
    }
}

#[test]
fn a_directory_that_is_no_store_is_not_made_one() {
    let lab = Lab::bare();
    lab.write("full/packs/notes.txt", b"mine");
    fs::create_dir(lab.path("empty")).unwrap();
    for place in ["full", "empty", "none"] {
        let error = Store::repair(&lab.path(place), &ckpt_store::RepairRequest::default(), &Quiet).unwrap_err();
        assert!(matches!(error, Error::NotFound { .. }), "{place}: {error:?}");
    }
    assert_eq!(names(&lab.path("full")).len() + names(&lab.path("empty")).len(), 1);
    assert!(!lab.path("none").exists());
}
