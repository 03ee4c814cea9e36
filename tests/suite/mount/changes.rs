//! Others store, tag, drop and collect while a store is mounted and read.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use ckpt_store::{GcRequest, PutRequest, Quiet, Store};
use ckpt_tests::calls::forget;
use ckpt_tests::lab::put_request;
use ckpt_tests::map::Map;
use ckpt_tests::mount::{Mount, mountable};
use ckpt_tests::readers::{assert_same_bytes, assert_same_reads};
use ckpt_tests::sample::{self, Node, Tree};
use ckpt_tests::world::{assert_sound, gc, packs};
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

use super::{NOTICES, Scene, wait_for};

fn noise(seed: u64, bytes: usize) -> Tree {
    Tree::directory().with("model.bin", Node::File(sample::noise(seed, bytes), 0o644))
}

/// A directory with a file of tensors by their seeds.
fn model(seeds: &[u64]) -> Tree {
    let file = ckpt_tests::world::tensors(seeds).0.remove(Path::new("")).unwrap();
    Tree::directory().with("model.safetensors", file)
}

fn is_there(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok()
}

fn names(path: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(path) else { return Vec::new() };
    let mut names: Vec<String> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn what_others_do_is_seen_without_remounting() {
    if !mountable() {
        return;
    }
    let scene = Scene::new();
    let mount = scene.mount();
    let path = |relative: &str| mount.path(relative);
    // Each was looked for before, so that whoever remembers that it was missing has to learn.
    assert!(!is_there(&path("r")) && !is_there(&path("r/step-1")));
    let one = scene.put(&noise(1, 100_000), "r", 1);
    wait_for("a first checkpoint", NOTICES, || is_there(&path("r/step-1/model.bin")));
    assert_same_bytes(&one, &path("r/step-1"), "the first");
    assert_eq!(names(&path("r")), ["latest", "step-1"]);
    assert!(!is_there(&path("r/step-2")) && !is_there(&path("r/good")) && !is_there(&path("r/deeper")));
    let two = scene.put(&noise(2, 100_000), "r", 2);
    wait_for("a second", NOTICES, || is_there(&path("r/step-2")));
    wait_for("latest moves on", NOTICES, || fs::read_link(path("r/latest")).unwrap() == Path::new("step-2"));
    assert_same_bytes(&two, &path("r/latest"), "latest");
    scene.lab.ok(&[&"tag", &"r@1", &"good"]);
    wait_for("a tag", NOTICES, || fs::read_link(path("r/good")).is_ok_and(|to| to == Path::new("step-1")));
    scene.lab.ok(&[&"untag", &"r@1", &"good"]);
    wait_for("no tag", NOTICES, || !is_there(&path("r/good")));
    // A name that nobody has asked for, in a directory whose time stays: what the kernel keeps of its listing must go.
    assert_eq!(names(&path("r")), ["latest", "step-1", "step-2"]);
    scene.lab.ok(&[&"tag", &"r@1", &"unasked"]);
    wait_for("a tag in the listing", NOTICES, || names(&path("r")).contains(&"unasked".to_owned()));
    scene.lab.ok(&[&"untag", &"r@1", &"unasked"]);
    wait_for("no tag in the listing", NOTICES, || !names(&path("r")).contains(&"unasked".to_owned()));
    scene.put(&noise(3, 1000), "r/deeper", 1);
    wait_for("a run below a run", NOTICES, || is_there(&path("r/deeper/step-1/model.bin")));
    wait_for("all of it listed", NOTICES, || names(&path("r")) == ["deeper", "latest", "step-1", "step-2"]);
    assert_eq!(names(&path("by-id")).len(), 3);
    // Another in its place: by the same name, and another thing.
    let before = fs::metadata(path("r/step-2")).unwrap();
    let mut open = File::open(path("r/step-2/model.bin")).unwrap();
    let other = scene.lab.path("original-other");
    noise(4, 100_000).write(&other);
    let replace = PutRequest { replace: true, ..put_request(&[&other], "r", 2) };
    scene.lab.open().put(&replace, &Quiet).unwrap();
    wait_for("another in its place", NOTICES, || fs::metadata(path("r/step-2")).unwrap().ino() != before.ino());
    assert_same_bytes(&other, &path("r/step-2"), "what is in its place");
    let mut old = Vec::new();
    open.read_to_end(&mut old).unwrap();
    assert!(old == fs::read(two.join("model.bin")).unwrap(), "who has it open goes on reading what it was");
    scene.lab.ok(&[&"rm", &"r@1"]);
    wait_for("one leaves", NOTICES, || !is_there(&path("r/step-1")) && names(&path("by-id")).len() == 2);
    scene.lab.ok(&[&"rm", &"r/deeper@1"]);
    wait_for("a run leaves", NOTICES, || names(&path("r")) == ["latest", "step-2"] && !is_there(&path("r/deeper")));
    scene.lab.ok(&[&"rm", &"r@2"]);
    wait_for("all leave", NOTICES, || names(mount.at()) == ["by-id"] && names(&path("by-id")).is_empty());
}

#[test]
fn a_name_under_which_another_is_put_can_always_be_opened() {
    if !mountable() {
        return;
    }
    let scene = Scene::new();
    let originals = [1, 2].map(|seed| {
        let path = scene.lab.path(format!("original-{seed}"));
        noise(seed, 50_000).write(&path);
        path
    });
    let bytes = originals.each_ref().map(|path| fs::read(path.join("model.bin")).unwrap());
    let put = |nr: usize| {
        let replace = PutRequest { replace: true, ..put_request(&[&originals[nr % 2]], "r", 1) };
        scene.lab.open().put(&replace, &Quiet).unwrap();
    };
    put(0);
    let mount = scene.mount();
    let shown = mount.path("r/step-1/model.bin");
    let (stop, opened) = (AtomicBool::new(false), AtomicU64::new(0));
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| {
            while !stop.load(Ordering::SeqCst) {
                let got = fs::read(&shown).unwrap_or_else(|error| panic!("after {opened:?}: {error}"));
                assert!(bytes.contains(&got), "other bytes");
                opened.fetch_add(1, Ordering::SeqCst);
            }
        });
        for nr in 1..12 {
            let before = opened.load(Ordering::SeqCst);
            put(nr);
            wait_for("it is read", NOTICES, || opened.load(Ordering::SeqCst) > before + 5 || reader.is_finished());
        }
        stop.store(true, Ordering::SeqCst);
        reader.join().unwrap();
    });
    wait_for("the last one is there", NOTICES, || fs::read(&shown).unwrap() == bytes[1]);
}

#[test]
fn what_was_collected_a_moment_ago_is_gone_and_not_damaged() {
    if !mountable() {
        return;
    }
    let scene = Scene::new();
    scene.put(&noise(1, 1000), "kept", 1);
    let mount = scene.mount();
    let store = scene.lab.open();
    for step in 1..12 {
        scene.put(&noise(step, 1000), "r", step);
        let shown = mount.path(format!("r/step-{step}"));
        wait_for("it is there", NOTICES, || is_there(&shown));
        scene.lab.open().remove(&[format!("r@{step}")]).unwrap();
        gc(&store).unwrap();
        // Nobody has looked into it, and the mount may not have heard yet.
        let error = fs::metadata(shown.join("model.bin")).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::ENOENT), "step {step}: {error}; {}", mount.log());
        let error = fs::read_dir(&shown).map(Iterator::count).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::ENOENT), "step {step}: {error}; {}", mount.log());
        wait_for("its name goes from the list", NOTICES, || !names(mount.at()).contains(&"r".to_owned()));
    }
    assert_eq!(mount.log(), "");
    mount.umount();
}

/// The packs that a gc leaves.
fn packs_after_gc(store: &Store) -> usize {
    gc(store).unwrap();
    packs(store.root()).len()
}

#[test]
fn an_open_file_keeps_its_chunks_until_it_is_closed() {
    if !mountable() {
        return;
    }
    let scene = Scene::new();
    let tree = noise(5, 9_000_000).with("never.read", Node::File(sample::noise(6, 3_000_000), 0o644));
    let original = scene.put(&tree, "r", 1);
    let store = scene.lab.open();
    for (nr, how) in ["descriptor", "mapping", "descriptor and mapping"].into_iter().enumerate() {
        if nr > 0 {
            store.put(&put_request(&[&original], "r", 1), &Quiet).unwrap();
        }
        let mount = scene.mount();
        let file = File::open(mount.path("r/step-1/model.bin")).unwrap();
        let map = how.contains("mapping").then(|| Map::new(&file, 0, usize::MAX, libc::MAP_SHARED).unwrap());
        let mut file = Some(file).filter(|_| how.contains("descriptor"));
        map.iter().for_each(|map| map.advise(libc::MADV_RANDOM).unwrap());
        scene.lab.ok(&[&"rm", &"r@1"]);
        wait_for("it leaves", NOTICES, || !is_there(&mount.path("r/step-1")));
        for _ in 0..3 {
            assert!(packs_after_gc(&store) > 0, "{how}: what is open was collected");
        }
        let expected = fs::read(original.join("model.bin")).unwrap();
        if let Some(file) = &mut file {
            for _ in 0..2 {
                forget(file);
                let mut got = Vec::new();
                file.seek(SeekFrom::Start(0)).unwrap();
                file.read_to_end(&mut got).unwrap();
                assert!(got == expected, "{how}: other bytes");
            }
        }
        if let Some(map) = map {
            assert!(map.bytes() == expected, "{how}: other bytes in memory");
        }
        // The mapping went with that; and with the descriptor nobody has it open.
        drop(file);
        wait_for("what nobody has open goes", Duration::from_secs(15), || packs_after_gc(&store) == 0);
        assert_eq!(fs::read_dir(scene.lab.store().join("sessions")).unwrap().count(), 0, "{how}: a session stays");
        mount.umount();
    }
    assert_sound(&store, "at the end");
}

/// Reads files over and over in several threads while `work` is done, and answers how many reads were good and how many
/// failed.
fn while_reading(paths: &[(PathBuf, PathBuf)], may_fail: bool, work: impl FnOnce()) -> (u64, u64) {
    let (stop, good, failed) = (AtomicBool::new(false), AtomicU64::new(0), AtomicU64::new(0));
    std::thread::scope(|scope| {
        for seed in 0..4 {
            let (stop, good, failed) = (&stop, &good, &failed);
            scope.spawn(move || {
                let mut rng = SmallRng::seed_from_u64(seed);
                while !stop.load(Ordering::SeqCst) {
                    let (original, mounted) = &paths[rng.random_range(0..paths.len())];
                    let from = rng.random_range(0..fs::metadata(original).unwrap().len());
                    let mut buffer = vec![0; rng.random_range(1..400_000)];
                    let read = File::open(mounted).and_then(|file| {
                        forget(&file);
                        file.read_at(&mut buffer, from)
                    });
                    match read {
                        Ok(got) => {
                            ckpt_tests::readers::assert_same(
                                &buffer[..got],
                                original,
                                from,
                                got,
                                "while others are at it",
                            );
                            assert!(got > 0, "nothing at {from} of {}", mounted.display());
                            good.fetch_add(1, Ordering::SeqCst);
                        }
                        Err(error) => {
                            assert!(may_fail, "{}: {error}", mounted.display());
                            failed.fetch_add(1, Ordering::SeqCst);
                        }
                    }
                }
            });
        }
        wait_for("reads", Duration::from_secs(20), || good.load(Ordering::SeqCst) > 20);
        let worked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work));
        let before = good.load(Ordering::SeqCst) + failed.load(Ordering::SeqCst);
        let go_on = || good.load(Ordering::SeqCst) + failed.load(Ordering::SeqCst) > before + 20;
        let waited = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            wait_for("reads go on", Duration::from_secs(20), go_on);
        }));
        stop.store(true, Ordering::SeqCst);
        worked.and(waited).unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    });
    (good.into_inner(), failed.into_inner())
}

#[test]
fn gc_moves_chunks_under_who_reads_them() {
    if !mountable() {
        return;
    }
    let scene = Scene::new();
    let store = scene.lab.open();
    // Packs of which most is dropped, so that what stays is copied to others.
    let seeds = |step: u64| (0..40).map(|nr| if nr % 10 == 0 { nr } else { 1000 * step + nr }).collect::<Vec<u64>>();
    let mut first = Default::default();
    let kept: Vec<_> = (1..4)
        .map(|step| {
            let original = scene.put(&model(&seeds(step)), "r", step);
            if step == 1 {
                first = packs(store.root());
            }
            (format!("r/step-{step}/model.safetensors"), original.join("model.safetensors"))
        })
        .collect();
    let mount = scene.mount();
    let paths: Vec<_> = kept.iter().map(|(path, original)| (original.clone(), mount.path(path))).collect();
    let (good, failed) = while_reading(&paths[2..], false, || {
        for nr in 0..6 {
            for step in 10 + nr..14 + nr {
                let original = scene.put(&model(&seeds(step)), "churn", step);
                sample::remove(&original);
            }
            for entry in store.checkpoints().unwrap().iter().filter(|entry| &*entry.run == "churn") {
                scene.lab.ok(&[&"rm", &entry.id.to_string()]);
            }
            if nr == 2 {
                scene.lab.ok(&[&"rm", &"r@1", &"r@2"]);
            }
            gc(&store).unwrap();
            std::thread::sleep(Duration::from_millis(300));
        }
        // What is read lies in it, with much that is not needed any more.
        wait_for("the first pack is gone", Duration::from_secs(15), || {
            gc(&store).unwrap();
            packs(store.root()).is_disjoint(&first)
        });
    });
    assert!(good > 100 && failed == 0, "{good} reads");
    assert_eq!(names(&mount.path("r")), ["latest", "step-3"]);
    assert_sound(&store, "at the end");
}

#[test]
fn a_killed_server_leaves_errors_and_no_hangs() {
    if !mountable() {
        return;
    }
    let scene = Scene::new();
    let original = scene.put(&noise(7, 30_000_000), "r", 1).join("model.bin");
    let store = scene.lab.open();
    let mut mount = scene.mount();
    let mounted = mount.path("r/step-1/model.bin");
    let open = File::open(&mounted).unwrap();
    let at = mount.at().to_owned();
    let (_, failed) = while_reading(&[(original.clone(), mounted.clone())], true, || mount.kill());
    assert!(failed > 20);
    let error = fs::metadata(&mounted).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::ENOTCONN), "{error}");
    forget(&open);
    assert!(open.read_at(&mut [0; 5000], 20_000_000).is_err());
    // The dead one is recognised, and another takes its place.
    let again = Mount::new(&scene.lab.store(), &at);
    assert_same_reads(original.parent().unwrap(), &again.path("r/step-1"), 1, 20);
    assert!(open.read_at(&mut [0; 5000], 25_000_000).is_err(), "what was opened there stays dead");
    drop(again);
    drop(mount);
    assert_sound(&store, "after a kill");
    // What it pinned is free.
    scene.lab.ok(&[&"rm", &"r@1"]);
    store.gc(&GcRequest::default(), &Quiet).unwrap();
    assert_eq!(packs(store.root()).len(), 0);
}

/// Puts, drops and gcs in any order by several threads, while every checkpoint that is there is read: right, or gone.
#[test]
fn reads_are_right_or_gone_whatever_others_do() {
    if !mountable() {
        return;
    }
    let scene = Scene::new();
    let original = scene.put(&noise(8, 2_000_000), "kept", 1).join("model.bin");
    let mount = scene.mount();
    let kept = [(original, mount.path("kept/step-1/model.bin"))];
    let originals: BTreeMap<u64, Vec<u8>> = (0..4).map(|seed| (seed, sample::noise(100 + seed, 700_000))).collect();
    let right = AtomicU64::new(0);
    let (good, failed) = while_reading(&kept, false, || {
        std::thread::scope(|scope| {
            for thread in 0..3 {
                let (scene, mount, originals, right) = (&scene, &mount, &originals, &right);
                scope.spawn(move || {
                    let mut rng = SmallRng::seed_from_u64(thread);
                    let store = scene.lab.open();
                    for step in 0..12 {
                        let seed = rng.random_range(0..4);
                        let file = scene.lab.write(format!("source-{thread}/{step}"), &originals[&seed]);
                        let run = format!("churn-{thread}");
                        store.put(&put_request(&[&file], &run, step), &Quiet).unwrap();
                        let shown = mount.path(format!("{run}/step-{step}/{step}"));
                        let mut got = Vec::new();
                        wait_for("a put is seen", NOTICES, || is_there(&shown));
                        let mut open = File::open(&shown).unwrap();
                        let drops = rng.random_range(0..2) == 0;
                        if drops {
                            scene.lab.ok(&[&"rm", &format!("{run}@{step}")]);
                            // Another one may be at it.
                            let _ = store.gc(&GcRequest::default(), &Quiet);
                        }
                        open.read_to_end(&mut got).unwrap();
                        assert!(got == originals[&seed], "{run}@{step}: other bytes");
                        right.fetch_add(1, Ordering::SeqCst);
                    }
                });
            }
        });
    });
    assert!(good > 50 && failed == 0 && right.into_inner() == 36, "{good} reads");
    drop(mount);
    let store = scene.lab.open();
    gc(&store).unwrap();
    assert_sound(&store, "at the end");
}
