//! File systems that are full or can't be written to.

use std::collections::BTreeMap;
use std::fs;

use ckpt_tests::lab::{Lab, leftovers, names, noise, tree};
use ckpt_tests::mounts::{free_bytes, make_read_only, mount_small, with_mounts};

use super::{assert_sound, model};

#[test]
fn a_full_disk_stops_a_put_and_changes_nothing() {
    let lab = Lab::bare();
    fs::create_dir(lab.store()).unwrap();
    with_mounts(|| {
        mount_small(&lab.store(), 12 << 20);
        lab.ok(&[&"init"]);
        let kept = model(1, 1);
        lab.ok(&[&"put", &lab.write("kept.safetensors", &kept), &"--run", &"r", &"--step", &"1"]);
        let large = lab.write("large.pt", &noise(3, 30 << 20));
        let before = stored(&lab);
        for _ in 0..2 {
            let refused = lab.run(&[&"put", &large, &"--run", &"r", &"--step", &"2"]).expect(5);
            refused.says("no room left").says("nothing was changed");
            assert_eq!(stored(&lab), before);
            assert_eq!(names(&lab.store().join("tmp")).len(), 0);
        }
        // Not one byte left: what reads goes on all the same.
        let free = usize::try_from(free_bytes(&lab.store())).unwrap();
        fs::write(lab.store().join("ballast"), noise(4, free)).unwrap();
        let small = lab.write("small.pt", &noise(5, 100_000));
        let before = stored(&lab);
        lab.run(&[&"put", &small, &"--run", &"r", &"--step", &"3"]).expect(5).says("no room left");
        assert_eq!(stored(&lab), before);
        assert!(lab.ok(&[&"ls", &"r", &"--json"]).text().contains("r@1"));
        lab.ok(&[&"show", &"r@1"]);
        lab.ok(&[&"df"]);
        assert!(lab.ok(&[&"get", &"r@1", &"-"]).stdout == kept);
        lab.ok(&[&"verify"]);
        fs::remove_file(lab.store().join("ballast")).unwrap();
        lab.ok(&[&"put", &small, &"--run", &"r", &"--step", &"3"]);
        let expected = [("r@1".to_owned(), kept), ("r@3".to_owned(), noise(5, 100_000))];
        assert_sound(&lab, &BTreeMap::from(expected));
    });
}

/// A disk that has room for the packs but not for what comes after them, at every distance from full.
#[test]
fn a_disk_that_fills_at_any_moment_of_a_put() {
    let lab = Lab::bare();
    fs::create_dir(lab.store()).unwrap();
    with_mounts(|| {
        mount_small(&lab.store(), 12 << 20);
        lab.ok(&[&"init"]);
        let kept = model(1, 1);
        lab.ok(&[&"put", &lab.write("kept.safetensors", &kept), &"--run", &"r", &"--step", &"1"]);
        let bytes = noise(6, 200_000);
        let small = lab.write("small.pt", &bytes);
        let mut refused = 0;
        // The pages of a tmpfs have 4 KiB: each round leaves one more.
        for pages in 0..70 {
            let free = usize::try_from(free_bytes(&lab.store())).unwrap();
            fs::write(lab.store().join("ballast"), vec![1; free - pages * 4096]).unwrap();
            let outcome = lab.run(&[&"put", &small, &"--run", &"r", &"--step", &"2"]);
            fs::remove_file(lab.store().join("ballast")).unwrap();
            if outcome.code == Some(0) {
                break;
            }
            outcome.expect(5);
            refused += 1;
            assert_eq!(lab.open().checkpoints().unwrap().len(), 1);
            lab.ok(&[&"gc"]);
            assert_eq!(leftovers(&lab.store()), [""; 0]);
        }
        assert!((40..70).contains(&refused), "{refused} were refused");
        assert_sound(&lab, &BTreeMap::from([("r@1".to_owned(), kept), ("r@2".to_owned(), bytes)]));
    });
}

#[test]
fn a_store_that_is_read_only_is_read() {
    let lab = Lab::bare();
    fs::create_dir(lab.store()).unwrap();
    with_mounts(|| {
        mount_small(&lab.store(), 24 << 20);
        lab.ok(&[&"init"]);
        let kept = model(1, 1);
        let path = lab.write("kept.safetensors", &kept);
        lab.ok(&[&"put", &path, &"--run", &"r", &"--step", &"1"]);
        make_read_only(&lab.store());
        let reads = || {
            lab.ok(&[&"ls"]);
            lab.ok(&[&"ls", &"r"]);
            lab.ok(&[&"show", &"r@1", &"--tensors"]);
            lab.ok(&[&"df"]);
            lab.ok(&[&"verify"]);
            lab.ok(&[&"verify", &"r@1"]);
            lab.ok(&[&"gc", &"--dry-run"]);
            assert!(lab.ok(&[&"get", &"r@1", &"-"]).stdout == kept);
            lab.ok(&[&"get", &"r@1", &"out", &"--force"]);
            assert!(fs::read(lab.path("out")).unwrap() == kept);
        };
        reads();
        for change in [
            &[&"put" as &dyn AsRef<_>, &path, &"--run", &"r", &"--step", &"2"][..],
            &[&"rm", &"r@1"],
            &[&"tag", &"r@1", &"t"],
            &[&"gc"],
        ] {
            lab.run(change).expect(6).says("Read-only file system").says("mounted read-only");
        }
    });
}

/// The index is derived: a store that can't make it anew is read by the packs' own lists.
#[test]
fn a_read_only_store_without_index_is_read() {
    let lab = Lab::bare();
    fs::create_dir(lab.store()).unwrap();
    with_mounts(|| {
        mount_small(&lab.store(), 24 << 20);
        lab.ok(&[&"init"]);
        let kept = model(1, 1);
        lab.ok(&[&"put", &lab.write("kept.safetensors", &kept), &"--run", &"r", &"--step", &"1"]);
        fs::remove_dir_all(lab.store().join("index")).unwrap();
        make_read_only(&lab.store());
        assert!(lab.ok(&[&"get", &"r@1", &"-"]).stdout == kept);
        lab.ok(&[&"verify"]);
        lab.ok(&[&"verify", &"r@1"]);
    });
}

/// What the store consists of: all but what is derived or disposable.
fn stored(lab: &Lab) -> Vec<Vec<u8>> {
    let derived = [&b"index"[..], b"locks", b"sessions", b"tmp"];
    let is_stored = |path: &Vec<u8>| !derived.iter().any(|name| path.starts_with(name));
    let all = tree(&lab.store()).into_iter().filter(|(path, _)| is_stored(path));
    // Folders of packs stay; only files count.
    all.filter(|(path, _)| !path.starts_with(b"packs") || path.len() > 8)
        .map(|(path, node)| format!("{path:?} {node:?}").into_bytes())
        .collect()
}
