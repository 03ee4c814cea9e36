//! gc rewrites packs that are mostly dead: what it says beforehand is what it does, and whoever relies on a pack that is being
//! rewritten, at whatever moment, loses nothing.
#![allow(clippy::unwrap_used, reason = "a test that can't go on has failed")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

use ckpt_store::{GcReport, GcRequest, Quiet, Stage, Store};
use ckpt_tests::disk::{Call, HookDisk};
use ckpt_tests::gate::{StopAt, gate, stopping, stopping_at};
use ckpt_tests::lab::{Lab, files, noise, pack_lines, safetensors};
use ckpt_tests::sample::weights;
use ckpt_tests::world::{World, assert_sound, assert_swept, gc, head_of, packs, tensors};

/// A store of one pack of which a third is in use, and of the checkpoint that uses it.
fn mostly_dead() -> (World, Store) {
    let mut world = World::default();
    let store = Store::init(&world.root()).unwrap();
    world.put_tree(&store, "a", 1, &tensors(&[1, 2, 3]));
    world.put_tree(&store, "b", 1, &tensors(&[1, 9]));
    store.remove(&["a@1".into()]).unwrap();
    (world, store)
}

/// The store in `root` on a disk where HEAD can be replaced only so often: an operation dies there.
fn dying(root: &Path, heads: usize) -> Store {
    let renamed = AtomicUsize::new(0);
    let disk = HookDisk::new(move |call| match call {
        Call::Rename(_, to) if to.ends_with("HEAD") && renamed.fetch_add(1, Ordering::SeqCst) >= heads => {
            Err(io::Error::other("killed here"))
        }
        _ => Ok(()),
    });
    Store::open_on(root, disk).unwrap()
}

/// The store in `root` on a disk that has no room for a pack.
fn without_room_for_packs(root: &Path) -> Store {
    let disk = HookDisk::new(|call| match call {
        Call::Append(path, bytes) if path.to_string_lossy().contains("/tmp/") && bytes.len() > 4096 => {
            Err(io::Error::from(io::ErrorKind::QuotaExceeded))
        }
        _ => Ok(()),
    });
    Store::open_on(root, disk).unwrap()
}

/// Bytes of everything that counts as the store's.
fn stored_bytes(root: &Path) -> u64 {
    let folders = ["packs", "checkpoints", "catalog", "tmp"];
    folders.iter().flat_map(|folder| files(&root.join(folder))).map(|path| fs::metadata(path).unwrap().len()).sum()
}

/// Collects, and sees that the dry run before it told everything, and that the bytes are those that came free.
fn gc_as_planned(store: &Store) -> GcReport {
    let plan = store.gc(&GcRequest { dry_run: true, ..GcRequest::default() }, &Quiet).unwrap();
    let before = stored_bytes(store.root());
    let report = gc(store).unwrap();
    assert_eq!(report, plan, "a dry run tells what is done");
    assert_eq!(before - stored_bytes(store.root()), report.freed_bytes, "the bytes are those that came free");
    report
}

fn assert_whole(world: &World, store: &Store, what: &str) {
    world.assert_exact(store, &store.checkpoints().unwrap(), what);
    assert_sound(store, what);
}

/// The files of the packs, the oldest first.
fn pack_files(root: &Path) -> Vec<PathBuf> {
    let mut found = files(&root.join("packs"));
    found.sort_by_key(|path| path.file_name().unwrap().to_owned());
    found
}

/// Flips a bit in the payload of the chunk that is needed of a pack.
fn damage(pack: &Path) {
    let mut bytes = fs::read(pack).unwrap();
    // Which of its chunks comes first is for the threads that write it to settle.
    let needed = blake3::hash(&weights(1, 9000));
    let lines = pack_lines(&bytes);
    let line = lines.iter().find(|line| line.chunk == *needed.as_bytes()).unwrap();
    let at = line.offset as usize + 1000;
    bytes[at] ^= 1;
    fs::write(pack, bytes).unwrap();
}

#[test]
fn a_dry_run_tells_what_is_rewritten_to_the_byte() {
    let (world, store) = mostly_dead();
    let report = gc_as_planned(&store);
    assert_eq!((report.packs_deleted, report.packs_rewritten), (0, 1));
    assert!(report.copied_bytes > 24_000 && report.freed_bytes > 48_000, "{report:?}");
    assert_whole(&world, &store, "after gc");
    assert_swept(&store, "after gc");
    // Whoever puts the same finds it where it is now.
    let again = store.put(&world.request("c", 1, &tensors(&[1])), &Quiet).unwrap();
    assert_eq!(again.new_chunks, 0, "the index knows the new place");
    store.remove(&["c@1".into()]).unwrap();
    fs::remove_dir_all(world.root().join("index")).unwrap();
    assert_whole(&world, &store, "without an index");
    assert_eq!(gc_as_planned(&store).packs_rewritten, 0, "once is enough");
}

#[test]
fn without_room_for_the_new_pack_the_rest_is_freed() {
    let (mut world, store) = mostly_dead();
    world.put_tree(&store, "c", 1, &tensors(&[20, 21]));
    store.remove(&["c@1".into()]).unwrap();
    let report = gc(&without_room_for_packs(&world.root())).unwrap();
    assert_eq!((report.packs_deleted, report.packs_rewritten, report.copied_bytes), (1, 0, 0));
    assert_whole(&world, &store, "without room");
    assert!(files(&world.root().join("tmp")).is_empty(), "nothing is left of the attempt");
    assert_eq!(gc_as_planned(&store).packs_rewritten, 1, "the next one has room");
    assert_whole(&world, &store, "with room");
}

#[test]
fn half_dead_is_left_alone() {
    let mut world = World::default();
    let store = Store::init(&world.root()).unwrap();
    world.put_tree(&store, "a", 1, &tensors(&[1, 2]));
    world.put_tree(&store, "b", 1, &tensors(&[1, 9]));
    store.remove(&["a@1".into()]).unwrap();
    gc_as_planned(&store);
    let again = gc_as_planned(&store);
    assert_eq!((again.freed_bytes, again.packs_rewritten, again.packs_deleted), (0, 0, 0));
}

#[test]
fn many_small_packs_become_few() {
    let mut world = World::default();
    let store = Store::init(&world.root()).unwrap();
    for step in 0..70 {
        world.put_tree(&store, "a", step, &tensors(&[100 + step]));
    }
    assert_eq!(packs(&world.root()).len(), 70);
    let report = gc_as_planned(&store);
    assert_eq!(report.packs_rewritten, 70);
    assert_eq!(packs(&world.root()).len(), 1);
    assert_whole(&world, &store, "merged");
    assert_swept(&store, "merged");
}

/// A gc that dies after each of its swaps, with a put in the middle that relies on what the pack holds besides.
#[test]
fn a_put_that_reuses_a_dead_chunk_meets_a_gc_that_dies() {
    for heads in 0..4 {
        for finished in [false, true] {
            let what = format!("after {heads} swaps, carried on before the put: {finished}");
            let (mut world, store) = mostly_dead();
            let request = world.request("c", 1, &tensors(&[2, 10]));
            let (gate, keeper) = gate();
            let stopped = stopping_at(&world.root(), "checkpoints", gate);
            let put = thread::spawn(move || stopped.put(&request, &Quiet));
            keeper.wait();
            assert_eq!(gc(&dying(&world.root(), heads)).is_ok(), heads == 3, "{what}");
            assert_eq!(head_of(&world.root())["condemned"].to_string().len() > 2, heads == 1, "{what}");
            assert_eq!(head_of(&world.root())["deleting"].to_string().len() > 2, heads == 2, "{what}");
            if finished {
                gc(&store).unwrap();
            }
            keeper.open();
            let report = put.join().unwrap().unwrap();
            world.trees.insert(report.entry.id, tensors(&[2, 10]));
            assert_whole(&world, &store, &what);
            for _ in 0..2 {
                gc_as_planned(&store);
                assert_whole(&world, &store, &what);
            }
            assert_swept(&store, &what);
        }
    }
}

/// A gc that lives on, stopped before it copies, publishes, and unlinks; a whole put happens meanwhile.
#[test]
fn a_gc_that_rewrites_spares_what_was_put_meanwhile() {
    type Here = fn(Call<'_>) -> bool;
    let stops: [(&str, Here); 3] = [
        ("copies", |call| matches!(call, Call::Create(path) if !path.ends_with("HEAD"))),
        ("publishes", |call| matches!(call, Call::Rename(_, to) if to.to_string_lossy().contains("/packs/"))),
        ("unlinks", |call| matches!(call, Call::Remove(path) if path.to_string_lossy().contains("/packs/"))),
    ];
    for (what, here) in stops {
        let (mut world, store) = mostly_dead();
        let (gate, keeper) = gate();
        let collecting = stopping(&world.root(), gate, here);
        let gc_thread = thread::spawn(move || gc(&collecting));
        keeper.wait();
        world.put_tree(&store, "c", 1, &tensors(&[2, 10]));
        keeper.open();
        let report = gc_thread.join().unwrap().unwrap();
        assert_eq!(report.packs_rewritten, u64::from(what == "unlinks"), "before it {what}");
        assert_whole(&world, &store, what);
        for _ in 0..2 {
            gc_as_planned(&store);
            assert_whole(&world, &store, what);
        }
        assert_swept(&store, what);
    }
}

/// Killed between publishing the new pack and condemning the old one: both hold what is needed, and one of them may be damaged.
#[test]
fn of_two_copies_the_sound_one_stays() {
    for damaged in [None, Some(0), Some(2)] {
        let what = format!("pack {damaged:?} is damaged");
        let (world, store) = mostly_dead();
        gc(&dying(&world.root(), 0)).unwrap_err();
        let all = pack_files(&world.root());
        assert_eq!(all.len(), 3, "old, the other checkpoint's, and the copy");
        if let Some(at) = damaged {
            damage(&all[at]);
        }
        let report = gc_as_planned(&store);
        assert_eq!(report.packs_damaged, [], "{what}");
        assert_eq!((report.packs_deleted, report.packs_rewritten), if damaged == Some(2) { (0, 1) } else { (1, 0) });
        world.assert_exact(&store, &store.checkpoints().unwrap(), &what);
        assert!(!all[0].exists(), "{what}: the old pack goes, as it is or after another copy");
        gc_as_planned(&store);
        gc(&store).unwrap();
        assert_whole(&world, &store, &what);
        assert_swept(&store, &what);
        assert_eq!(packs(&world.root()).len(), 2, "{what}");
        let again = store.put(&world.request("c", 1, &tensors(&[1, 9])), &Quiet).unwrap();
        assert_eq!(again.new_chunks, 0, "{what}: the index knows the copy that stays");
    }
}

#[test]
fn a_pack_with_damage_that_matters_is_left_alone() {
    let (world, store) = mostly_dead();
    world.get(&store, "b@1", &Quiet).unwrap();
    let old = pack_files(&world.root()).remove(0);
    damage(&old);
    let report = gc(&store).unwrap();
    assert_eq!((report.packs_rewritten, report.copied_bytes, report.freed_bytes > 0), (0, 0, true), "{report:?}");
    let names: Vec<String> = report.packs_damaged.iter().map(ToString::to_string).collect();
    assert_eq!(names, [old.file_name().unwrap().to_str().unwrap()]);
    assert!(old.exists() && ckpt_tests::world::names(&world.root(), "tmp").is_empty());
    // Stored again it is whole, and then the damaged pack can go.
    drop(store.verify(&Default::default(), &Quiet).unwrap());
    store.put(&world.request("b", 2, &tensors(&[1])), &Quiet).unwrap();
    store.remove(&["b@2".into()]).unwrap();
    gc(&store).unwrap();
    gc(&store).unwrap();
    assert!(!old.exists());
    assert_whole(&world, &store, "healed");
}

/// Everything that a get has looked up moves before it reads the first byte, and more than once.
#[test]
fn a_get_follows_what_is_rewritten_under_it() {
    let mut world = World::default();
    let store = Store::init(&world.root()).unwrap();
    for (run, own) in [("a", 1), ("b", 2), ("c", 3)] {
        world.put_tree(&store, run, 1, &tensors(&[own, own + 10, own + 20]));
    }
    world.put_tree(&store, "kept", 1, &tensors(&[1, 2, 3]));
    let (gate, keeper) = gate();
    let reading = Store::open(&world.root()).unwrap();
    let before = packs(&world.root());
    let got = thread::scope(|scope| {
        let world = &world;
        let get = scope.spawn(move || world.get(&reading, "kept@1", &StopAt(Stage::Read, gate)));
        keeper.wait();
        store.remove(&["a@1".into(), "b@1".into(), "c@1".into()]).unwrap();
        assert_eq!(gc(&store).unwrap().packs_rewritten, 3);
        let store_again = store.put(&world.request("d", 1, &tensors(&[30, 31, 32, 33])), &Quiet).unwrap();
        assert_eq!(store_again.new_chunks, 4);
        keeper.open();
        get.join().unwrap().unwrap()
    });
    assert_eq!(got, tensors(&[1, 2, 3]));
    assert!(before.is_disjoint(&packs(&world.root())), "everything had moved");
}

/// The same with real processes: gets never fail while puts come and go and gc rewrites packs all the time.
#[test]
fn gets_by_other_processes_while_packs_are_rewritten() {
    let lab = Lab::new();
    let shared = noise(1, 300_000);
    let model = |own: u64| {
        safetensors(&[
            ("shared", "F32", &shared),
            ("own", "F32", &noise(own, 200_000)),
            ("x", "F32", &noise(own + 1, 200_000)),
        ])
    };
    let kept = model(10);
    let path = lab.write("kept.safetensors", &kept);
    let mut rewritten = 0;
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let getter = scope.spawn(|| {
            let mut gets = 0;
            while !done.load(Ordering::Relaxed) || gets == 0 {
                // Until it is there.
                let ran = lab.run(&[&"get", &"kept@1", &"-"]);
                if ran.code == Some(3) {
                    continue;
                }
                assert!(ran.expect(0).stdout == kept, "it came back with other bytes");
                gets += 1;
            }
        });
        // Its parts come with others that go, so that they are carried from pack to pack.
        for round in 0..6_u64 {
            let other = lab.write("other.safetensors", &model(100 + 10 * round));
            lab.ok(&[&"put", &other, &"--run", &"other", &"--step", &round.to_string()]);
            if round == 0 {
                lab.ok(&[&"put", &path, &"--run", &"kept", &"--step", &"1"]);
            }
            lab.ok(&[&"rm", &format!("other@{round}")]);
            let report: serde_json::Value = serde_json::from_slice(&lab.ok(&[&"gc", &"--json"]).stdout).unwrap();
            rewritten += report["packs_rewritten"].as_u64().unwrap();
        }
        done.store(true, Ordering::Relaxed);
        getter.join().unwrap();
    });
    assert!(rewritten > 0, "nothing was rewritten");
    assert_eq!(lab.ok(&[&"get", &"kept@1", &"-"]).stdout, kept);
    lab.ok(&[&"verify"]);
}

/// What each run uses, and what only it uses.
#[test]
fn stats_tell_runs_apart() {
    let mut world = World::default();
    let store = Store::init(&world.root()).unwrap();
    world.put_tree(&store, "a", 1, &tensors(&[1, 2]));
    world.put_tree(&store, "a", 2, &tensors(&[1, 3]));
    world.put_tree(&store, "b", 1, &tensors(&[1, 9]));
    // Each chunk is stored with some 25,000 bytes.
    let stats = store.stats(&Quiet).unwrap();
    let told: BTreeMap<&str, (u64, u64)> = stats
        .runs
        .iter()
        .map(|(name, run)| (&**name, (run.stored_bytes / 25_000, run.unique_bytes / 25_000)))
        .collect();
    assert_eq!(told, BTreeMap::from([("a", (3, 2)), ("b", (2, 1))]));
    store.remove(&["b@1".into()]).unwrap();
    let stats = store.stats(&Quiet).unwrap();
    assert_eq!(stats.runs.keys().collect::<BTreeSet<_>>().len(), 1);
    assert_eq!(stats.runs["a"].stored_bytes, stats.runs["a"].unique_bytes, "nobody shares it any more");
    assert_eq!(gc(&store).unwrap().freed_bytes, stats.reclaimable_bytes);
}
