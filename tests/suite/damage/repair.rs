//! `ckpt repair` on packs: whatever is sound in a broken one is saved, what is not is in no pack any more, and a store that is
//! sound is left as it is.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use ckpt_store::{RepairReport, RepairRequest, Store, VerifyReport};
use ckpt_tests::image;
use ckpt_tests::lab::{Lab, files, pack_lines};

use super::Sample;

/// Repairs in this process.
pub fn repair(root: &Path, request: &RepairRequest) -> RepairReport {
    Store::repair(root, request, &ckpt_store::Quiet).unwrap()
}

pub fn repair_all(root: &Path) -> RepairReport {
    repair(root, &RepairRequest::default())
}

/// Takes the index away: what a repair does has to be in the packs.
pub fn without_index(root: &Path) {
    drop(fs::remove_dir_all(root.join("index")));
}

/// Every file of a store but what is derived or disposable.
pub fn contents(root: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let is_derived =
        |path: &PathBuf| ["index", "locks", "sessions", "tmp"].iter().any(|name| path.starts_with(root.join(name)));
    files(root)
        .into_iter()
        .filter(|path| !is_derived(path))
        .map(|path| (path.clone(), fs::read(path).unwrap()))
        .collect()
}

/// Stores again what `r@1` holds, in a run of its own.
fn put_again(sample: &Sample) {
    for (name, bytes) in &sample.expected["r@1"] {
        sample.lab.write(format!("again/{name}"), bytes);
    }
    sample.lab.put(&[&sample.lab.path("again")], "again", 1).unwrap();
}

fn verified(lab: &Lab) -> VerifyReport {
    lab.verify().unwrap()
}

/// The offsets of the payload in the middle of the largest record, and of the record after it.
fn largest(bytes: &[u8]) -> (usize, usize) {
    let lines = pack_lines(bytes);
    let line = lines.iter().max_by_key(|line| line.stored_len).unwrap();
    (line.offset, line.stored_len)
}

#[test]
fn a_pack_without_its_list_is_saved_whole() {
    for how in [
        "header",
        "version",
        "header and trailer",
        "trailer",
        "footer",
        "half of the trailer",
        "a byte too much",
        "another's name",
    ] {
        let sample = Sample::new();
        let root = sample.lab.store();
        let (path, bytes) = sample.shared_pack();
        let records = pack_lines(bytes);
        let mut damaged = bytes.to_vec();
        match how {
            "header" => damaged[20] ^= 1,
            "version" => damaged[8] ^= 2,
            "header and trailer" => {
                damaged[20] ^= 1;
                damaged[bytes.len() - 100] ^= 1;
            }
            "trailer" => damaged[bytes.len() - 100] ^= 1,
            "footer" => damaged[bytes.len() - 1] ^= 1,
            "half of the trailer" => damaged.truncate(bytes.len() - 64 - 28 * records.len()),
            "another's name" => damaged[..64].copy_from_slice(
                &sample.of_kind("packs").into_iter().find(|(other, _)| *other != path).unwrap().1[..64],
            ),
            _ => damaged.push(7),
        }
        fs::write(path, &damaged).unwrap();
        let report = repair_all(&root);
        assert!(report.is_sound() && !report.is_idle(), "{how}: {report:?}");
        assert_eq!(
            (report.mended.len(), report.mended[0].saved, report.mended[0].lost),
            (1, records.len() as u64, 0),
            "{how}"
        );
        assert!(!path.exists(), "{how}: the broken pack has no use any more");
        for index in ["as repair made it", "gone"] {
            if index == "gone" {
                without_index(&root);
            }
            assert_eq!(sample.get_all("nothing"), 0, "{how}, index {index}");
            let report = verified(&sample.lab);
            assert!(report.is_sound() && report.harmless.is_empty(), "{how}: {report:?}");
        }
        let again = sample.lab.put(&[&sample.lab.path("source")], "again", 1).unwrap();
        assert_eq!((again.new_chunks, again.entry.written_bytes), (0, 0), "{how}: what was saved is found");
        sample.lab.ok(&[&"gc"]);
        assert_eq!(sample.get_all("nothing"), 0, "{how}, after gc");
        assert!(repair_all(&root).is_idle(), "{how}: it mends once");
    }
}

#[test]
fn a_damaged_chunk_is_in_no_pack_any_more_and_heals_for_good() {
    for how in ["payload", "payload without trailer", "cut", "gone", "zeros over two records"] {
        let sample = Sample::new();
        let root = sample.lab.store();
        let (path, bytes) = sample.shared_pack();
        let (at, len) = largest(bytes);
        let mut damaged = bytes.to_vec();
        match how {
            "payload" => damaged[at + len / 2] ^= 1,
            "payload without trailer" => {
                damaged[at + len / 2] ^= 1;
                damaged[bytes.len() - 100] ^= 1;
            }
            "cut" => damaged.truncate(at + 10),
            // The end of one payload, the header of the next record and the beginning of its payload.
            "zeros over two records" => damaged[at + len - 50..at + len + 5000].fill(0),
            _ => {}
        }
        if how == "gone" {
            fs::remove_file(path).unwrap()
        } else {
            fs::write(path, &damaged).unwrap()
        }
        let sound_before = pack_lines(bytes).len();
        let report = repair_all(&root);
        assert!(!report.is_sound() && report.is_idle() == (how == "gone"), "{how}: {report:?}");
        let lost = if how == "gone" { sound_before } else { sound_before - report.mended[0].saved as usize };
        match how {
            "payload" | "payload without trailer" => assert_eq!(lost, 1, "{how}"),
            _ => assert!(lost > 1, "{how}"),
        }
        let is_lost = |damage: &ckpt_store::Damage| (damage.checkpoint.clone(), damage.file.clone(), damage.chunk);
        let after = verified(&sample.lab);
        assert!(
            after.objects.is_empty() && after.harmless.is_empty(),
            "{how}: only what is lost is damaged: {after:?}"
        );
        let mut named: Vec<_> = after.damaged.iter().map(is_lost).collect();
        let mut told: Vec<_> = report.damaged.iter().map(is_lost).collect();
        named.sort();
        told.sort();
        assert_eq!(named, told, "{how}: repair and verify say the same");
        assert!(report.damaged.iter().all(|damage| ["r@1", "r@2"].contains(&&*damage.checkpoint)), "{report:?}");
        assert!(repair_all(&root).is_idle(), "{how}: there is nothing more to mend");
        // Nothing but the packs knows that the chunk was damaged, and they say that it is not there.
        without_index(&root);
        put_again(&sample);
        assert_eq!(sample.get_all("nothing"), 0, "{how}: the same bytes heal");
        without_index(&root);
        assert_eq!(sample.get_all("nothing"), 0, "{how}: for good");
        assert!(verified(&sample.lab).is_sound(), "{how}");
    }
}

#[test]
fn what_lies_between_payloads_is_put_right() {
    let sample = Sample::new();
    let root = sample.lab.store();
    let (path, bytes) = sample.shared_pack();
    let line = pack_lines(bytes).into_iter().max_by_key(|line| line.offset).unwrap();
    for (what, at) in [("a record's header", 64 + 9), ("the padding after it", line.offset + line.stored_len)] {
        let at = if what == "the padding after it" && bytes[at..at + 1] != [0] { continue } else { at };
        let mut damaged = bytes.to_vec();
        damaged[at] ^= 1;
        fs::write(path, &damaged).unwrap();
        assert!(!verified(&sample.lab).is_sound(), "{what}");
        let report = repair_all(&root);
        assert!(report.is_sound(), "{what}: {report:?}");
        assert_eq!((report.mended.len(), report.mended[0].lost), (1, 0), "{what}");
        assert!(verified(&sample.lab).is_sound(), "{what}");
        assert_eq!(sample.get_all("nothing"), 0, "{what}");
        return_to(&sample, path);
    }
}

/// Puts the pack back that a repair replaced, and takes the new ones away.
fn return_to(sample: &Sample, path: &Path) {
    for new in files(&sample.lab.store().join("packs")) {
        if !sample.files.contains_key(&new) {
            fs::remove_file(new).unwrap();
        }
    }
    sample.restore(path);
}

#[test]
fn another_store_gives_back_what_is_lost() {
    for other in ["a copy", "a store of its own", "a damaged copy"] {
        let sample = Sample::new();
        let root = sample.lab.store();
        let (path, bytes) = sample.shared_pack();
        let from = sample.lab.path("other");
        if other == "a store of its own" {
            let store = Store::init(&from).unwrap();
            let request = ckpt_tests::lab::put_request(&[&sample.lab.path("source")], "elsewhere", 9);
            store.put(&request, &ckpt_store::Quiet).unwrap();
        } else {
            image::copy(&root, &from);
        }
        let (at, len) = largest(bytes);
        let mut damaged = bytes.to_vec();
        damaged[at + len / 2] ^= 1;
        if other == "a damaged copy" {
            // Of what both have lost the copy is of no help, with the rest it is.
            fs::write(from.join(path.strip_prefix(&root).unwrap()), &damaged).unwrap();
            let raw = pack_lines(bytes).into_iter().find(|line| line.codec == 0).unwrap();
            damaged[raw.offset + 100] ^= 1;
        }
        fs::write(path, &damaged).unwrap();
        let before = contents(&from);
        let request = RepairRequest { from: Some(from.clone()), dry_run: false };
        let report = repair(&root, &request);
        assert_eq!(contents(&from), before, "{other}: it is left as it was");
        assert_eq!(report.healed_chunks, 1, "{other}: {report:?}");
        without_index(&root);
        assert_eq!(sample.get_all("no pack holds it") > 0, other == "a damaged copy", "{other}");
        assert_eq!(verified(&sample.lab).is_sound(), other != "a damaged copy", "{other}");
    }
    let sample = Sample::new();
    let root = sample.lab.store();
    sample.lab.run(&[&"repair", &"--from", &root]).expect(2).says("from itself");
    sample.lab.run(&[&"repair", &"--from", &"nowhere"]).expect(3).says("no store");
}

#[test]
fn a_sound_store_is_left_as_it_is() {
    let sample = Sample::new();
    let root = sample.lab.store();
    let before = contents(&root);
    let report = repair_all(&root);
    assert!(report.is_idle() && report.is_sound(), "{report:?}");
    assert_eq!(contents(&root), before);
    sample.lab.ok(&[&"repair"]);
    assert_eq!(contents(&root), before);
    // An older HEAD is a sound one: the store as it was then.
    let old = fs::read(root.join("HEAD")).unwrap();
    sample.lab.ok(&[&"tag", &"r@2", &"later"]);
    fs::write(root.join("HEAD"), old).unwrap();
    assert!(repair_all(&root).is_idle());
    assert_eq!(contents(&root), before);
    // The index is derived; a repair makes it anew without a word of damage.
    without_index(&root);
    let ran = sample.lab.ok(&[&"repair", &"--json"]).json();
    assert_eq!(ran["packs_mended"], serde_json::json!([]));
    let again = sample.lab.put(&[&sample.lab.path("source")], "again", 1).unwrap();
    assert_eq!(again.new_chunks, 0);
}

#[test]
fn a_dry_run_says_what_would_be_done_and_does_nothing() {
    let sample = Sample::new();
    let root = sample.lab.store();
    let from = sample.lab.path("other");
    image::copy(&root, &from);
    let (path, bytes) = sample.shared_pack();
    let mut damaged = bytes.to_vec();
    let (at, len) = largest(bytes);
    damaged[at + len / 2] ^= 1;
    damaged[bytes.len() - 1] ^= 1;
    fs::write(path, &damaged).unwrap();
    fs::remove_file(root.join("FORMAT")).unwrap();
    for from in [None, Some(from)] {
        let before = contents(&root);
        let planned = repair(&root, &RepairRequest { from: from.clone(), dry_run: true });
        assert_eq!(contents(&root), before, "nothing was changed");
        assert_eq!((planned.remade.len(), planned.mended.len(), planned.is_sound()), (1, 1, from.is_some()));
        let copy = sample.lab.path("copy");
        image::copy(&root, &copy);
        let done = repair(&copy, &RepairRequest { from, dry_run: false });
        assert_eq!(planned, done, "what was planned was done");
        fs::remove_dir_all(copy).unwrap();
    }
}

#[test]
fn the_command_tells_and_its_exit_code_too() {
    let sample = Sample::new();
    let lab = &sample.lab;
    let (path, bytes) = sample.shared_pack();
    let pack = path.file_name().unwrap().to_str().unwrap().to_owned();
    let mut damaged = bytes.to_vec();
    damaged[bytes.len() - 1] ^= 1;
    fs::write(path, &damaged).unwrap();
    lab.run(&[&"verify"]).expect(4).says("ckpt repair");
    let lock = fs::File::options().write(true).create(true).truncate(false).open(lab.store().join("locks/gc")).unwrap();
    lock.lock().unwrap();
    lab.run(&[&"repair"]).expect(6).says("at work on this store");
    drop(lock);
    let ran = lab.ok(&[&"repair"]);
    assert!(ran.text().contains(&format!("rewritten: pack {pack}")) && ran.text().contains("all mended"), "{ran:?}");
    assert!(lab.ok(&[&"repair"]).text().contains("nothing to mend"));
    let (_, other) = sample.of_kind("packs").into_iter().find(|(other, _)| *other != path).unwrap();
    let (at, _) = largest(other);
    let other_path = sample.of_kind("packs").into_iter().find(|(other, _)| *other != path).unwrap().0;
    let mut damaged = other.to_vec();
    damaged[at + 20] ^= 1;
    fs::write(other_path, &damaged).unwrap();
    let ran = lab.run(&[&"repair", &"--json"]).expect(4).json();
    assert_eq!(ran["packs_mended"][0]["lost_chunks"], 1, "{ran}");
    assert_eq!(ran["damaged"][0]["checkpoint"], "r@2", "{ran}");
    lab.run(&[&"repair"]).expect(4).says("--from");
    lab.ok(&[&"get", &"r@1", &"back"]);
}

/// CRC32C, bit by bit.
fn crc32c(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(u32::MAX, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| (crc >> 1) ^ if crc & 1 == 1 { 0x82f6_3b78 } else { 0 })
    })
}

#[test]
fn what_another_version_wrote_is_not_thrown_away() {
    let sample = Sample::new();
    let root = sample.lab.store();
    let (path, bytes) = sample.shared_pack();
    let records = pack_lines(bytes).len() as u64;
    let mut damaged = bytes.to_vec();
    assert_eq!(damaged[64..68], *b"CKRC");
    // The first record is of a codec that nobody knows here, and the list is lost.
    damaged[64 + 4] = 9;
    let check = crc32c(&damaged[64..64 + 60]);
    damaged[64 + 60..64 + 64].copy_from_slice(&check.to_le_bytes());
    damaged[bytes.len() - 1] ^= 1;
    fs::write(path, &damaged).unwrap();
    for round in 0..2 {
        let report = repair_all(&root);
        assert!(report.mended.is_empty() && report.left.len() == 1 && !report.is_sound(), "{report:?}");
        assert!(report.left[0].1.contains("another version"), "{report:?}");
        assert_eq!(fs::read(path).unwrap(), damaged, "it stays as it is");
        // What is known of it was saved, once.
        let saved: usize = files(&root.join("packs"))
            .iter()
            .filter(|path| !sample.files.contains_key(*path))
            .map(|path| pack_lines(&fs::read(path).unwrap()).len())
            .sum();
        assert_eq!(saved as u64, records - 1, "round {round}");
    }
}
