//! A put that is under way while a repair takes a pack away that it relies on, or makes HEAD anew under it.

use std::fs;
use std::thread;

use ckpt_store::{Quiet, RepairRequest, Store};
use ckpt_tests::disk::Call;
use ckpt_tests::gate::{gate, stopping, stopping_at};
use ckpt_tests::lab::{files, pack_lines};
use ckpt_tests::world::{World, assert_sound, assert_swept, gc, tensors};

use super::repair::repair_all;

#[test]
fn a_put_stores_again_what_repair_took_away() {
    let mut world = World::default();
    let store = Store::init(&world.root()).unwrap();
    world.put_tree(&store, "a", 1, &tensors(&[1, 2]));
    let path = files(&world.root().join("packs")).remove(0);
    let mut bytes = fs::read(&path).unwrap();
    let at = pack_lines(&bytes)[0].offset + 99;
    bytes[at] ^= 1;
    fs::write(&path, bytes).unwrap();
    // Nobody has seen the damage yet, so the put relies on both chunks.
    let request = world.request("a", 2, &tensors(&[1, 2, 3]));
    let (gate, keeper) = gate();
    let stopped = stopping_at(&world.root(), "checkpoints", gate);
    let put = thread::spawn(move || stopped.put(&request, &Quiet));
    keeper.wait();
    let report = repair_all(&world.root());
    assert_eq!((report.mended.len(), report.mended[0].lost, report.left.len()), (1, 1, 0), "{report:?}");
    keeper.open();
    let report = put.join().unwrap().unwrap();
    world.trees.insert(report.entry.id, tensors(&[1, 2, 3]));
    for what in ["after both", "after gc"] {
        world.assert_exact(&store, &store.checkpoints().unwrap(), what);
        assert_sound(&store, what);
        gc(&store).unwrap();
    }
    assert_swept(&store, "after gc");
}

#[test]
fn a_put_commits_to_the_head_that_repair_made() {
    let mut world = World::default();
    let store = Store::init(&world.root()).unwrap();
    world.put_tree(&store, "a", 1, &tensors(&[1, 2]));
    let request = world.request("b", 1, &tensors(&[2, 3]));
    let (gate, keeper) = gate();
    // Its manifest has its name already, and no HEAD speaks of it.
    let is_here = |call: Call<'_>| matches!(call, Call::SyncDir(path) if path.ends_with("checkpoints"));
    let stopped = stopping(&world.root(), gate, is_here);
    let put = thread::spawn(move || stopped.put(&request, &Quiet));
    keeper.wait();
    fs::remove_file(world.root().join("HEAD")).unwrap();
    let report = Store::repair(&world.root(), &RepairRequest::default(), &Quiet).unwrap();
    assert_eq!(report.recovered.len(), 1, "what is being put is not for repair to recover: {report:?}");
    keeper.open();
    let report = put.join().unwrap().unwrap();
    world.trees.insert(report.entry.id, tensors(&[2, 3]));
    let entries = store.checkpoints().unwrap();
    assert_eq!(entries.iter().map(ckpt_store::name_of).collect::<Vec<_>>(), ["recovered/a@1", "b@1"]);
    for what in ["after both", "after gc"] {
        world.assert_exact(&store, &entries, what);
        assert_sound(&store, what);
        gc(&store).unwrap();
    }
    assert_swept(&store, "after gc");
}
