//! Several at once, stopped at the moments that matter: both orders of a put that reuses what gc condemns, a get while its
//! checkpoint is dropped, commits that race for HEAD, a catalog that is replaced under a reader.
#![allow(clippy::unwrap_used, reason = "a test that can't go on has failed")]

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;

use ckpt_store::{Error, GcRequest, PutRequest, Quiet, SessionId, Stage, Store};
use ckpt_tests::disk::{Call, HookDisk};
use ckpt_tests::gate::{StopAt, gate, stopping, stopping_at, wait_until};
use ckpt_tests::image;
use ckpt_tests::sample::Tree;
use ckpt_tests::world::{World, assert_sound, assert_swept, gc, head_of, packs, tensors};

/// The store in `root` on a disk where HEAD can be replaced only so often, or packs not removed: an operation dies there.
fn dying(root: &Path, heads: usize, removals: bool) -> Store {
    let renamed = AtomicUsize::new(0);
    let disk = HookDisk::new(move |call| {
        let allowed = match call {
            Call::Rename(_, to) if to.ends_with("HEAD") => renamed.fetch_add(1, Ordering::SeqCst) < heads,
            Call::Remove(path) => removals || !path.components().any(|part| part.as_os_str() == "packs"),
            _ => true,
        };
        if allowed { Ok(()) } else { Err(io::Error::other("killed here")) }
    });
    Store::open_on(root, disk).unwrap()
}

/// A put of what a dropped checkpoint held, stopped when all it needs was found and nothing of it is in HEAD; `meanwhile`
/// happens, then it goes on. Everything must be there afterwards.
fn put_meanwhile(stop_at: &'static str, meanwhile: impl FnOnce(&World, &Store)) -> (World, Store) {
    let mut world = World::default();
    let store = Store::init(&world.root()).unwrap();
    let old = tensors(&[1, 2]);
    world.put_tree(&store, "a", 1, &old);
    world.put_tree(&store, "a", 2, &tensors(&[7]));
    store.remove(&["a@1".into()]).unwrap();
    let new = Tree::directory()
        .with("model.safetensors", old.0[&PathBuf::new()].clone())
        .with("more.safetensors", tensors(&[3]).0[&PathBuf::new()].clone());
    let request = world.request("a", 3, &new);
    let (gate, keeper) = gate();
    let stopped = stopping_at(&world.root(), stop_at, gate);
    let put = thread::spawn(move || stopped.put(&request, &Quiet));
    keeper.wait();
    meanwhile(&world, &store);
    keeper.open();
    let report = put.join().unwrap().unwrap();
    world.trees.insert(report.entry.id, new);
    world.assert_exact(&store, &store.checkpoints().unwrap(), "after the put");
    assert_sound(&store, "after the put");
    gc(&store).unwrap();
    world.assert_exact(&store, &store.checkpoints().unwrap(), "after gc");
    assert_swept(&store, "after gc");
    assert_sound(&store, "after gc");
    (world, store)
}

/// A gc that died between two swaps: its packs are condemned, and the put that relies on them takes them off the list.
#[test]
fn a_put_takes_what_it_reuses_off_the_condemned() {
    put_meanwhile("checkpoints", |world, _| {
        let root = world.root();
        let before = packs(&root);
        gc(&dying(&root, 1, true)).unwrap_err();
        assert_eq!(head_of(&root)["condemned"].as_object().unwrap().len(), 1);
        assert_eq!(packs(&root), before);
    });
}

/// The same with a gc that lives on: it looks again before it lists anything as being deleted. It is held up by a session
/// that seems to be writing a line just now.
#[test]
fn a_gc_looks_again_before_it_deletes() {
    let mut world = World::default();
    let store = Store::init(&world.root()).unwrap();
    let root = world.root();
    world.put_tree(&store, "a", 1, &tensors(&[1, 2]));
    world.put_tree(&store, "a", 2, &tensors(&[7]));
    store.remove(&["a@1".into()]).unwrap();
    let request = world.request("a", 3, &tensors(&[1, 2]));
    let (gate, keeper) = gate();
    let stopped = stopping_at(&root, "checkpoints", gate);
    let put = thread::spawn(move || stopped.put(&request, &Quiet));
    keeper.wait();

    let path = root.join("sessions").join(SessionId::generate().to_string());
    let session: Arc<Mutex<Option<File>>> = Arc::default();
    let (hook_path, hook_session) = (path.clone(), Arc::clone(&session));
    let disk = HookDisk::new(move |call| {
        if let Call::Rename(_, to) = call
            && to.ends_with("HEAD")
        {
            hook_session.lock().unwrap().get_or_insert_with(|| {
                let mut file = File::create(&hook_path).unwrap();
                file.lock().unwrap();
                file.write_all(b"{\"session\":").unwrap();
                file
            });
        }
        Ok(())
    });
    let collecting = Store::open_on(&root, disk).unwrap();
    let gc_thread = thread::spawn(move || gc(&collecting));
    let condemned = || head_of(&root)["condemned"].as_object().is_some_and(|condemned| !condemned.is_empty());
    wait_until(condemned);
    keeper.open();
    let report = put.join().unwrap().unwrap();
    assert!(!condemned(), "the put's own swap takes the pack off the list");
    session.lock().unwrap().as_mut().unwrap().write_all(b"{\"what\":\"test\",\"pid\":1}}\n").unwrap();
    assert_eq!(gc_thread.join().unwrap().unwrap().packs_deleted, 0);
    drop(session.lock().unwrap().take());
    world.trees.insert(report.entry.id, tensors(&[1, 2]));
    world.assert_exact(&store, &store.checkpoints().unwrap(), "after both");
    gc(&store).unwrap();
    world.assert_exact(&store, &store.checkpoints().unwrap(), "after another gc");
    assert_swept(&store, "after another gc");
}

/// A put that begins and ends between gc's mark and its first swap is seen by neither list: gc looks again.
#[test]
fn a_gc_sees_what_was_put_while_it_marked() {
    let mut world = World::default();
    let store = Store::init(&world.root()).unwrap();
    world.put_tree(&store, "a", 1, &tensors(&[1, 2]));
    world.put_tree(&store, "a", 2, &tensors(&[7]));
    store.remove(&["a@1".into()]).unwrap();
    let (gate, keeper) = gate();
    let collecting = Store::open(&world.root()).unwrap();
    let gc_thread = thread::spawn(move || collecting.gc(&GcRequest::default(), &StopAt(Stage::Mark, gate)));
    keeper.wait();
    let request = world.request("a", 3, &tensors(&[1, 2]));
    let report = store.put(&request, &Quiet).unwrap();
    assert_eq!(report.new_chunks, 0, "all of it is reused");
    world.trees.insert(report.entry.id, tensors(&[1, 2]));
    keeper.open();
    assert_eq!(gc_thread.join().unwrap().unwrap().packs_deleted, 0);
    world.assert_exact(&store, &store.checkpoints().unwrap(), "after both");
    assert_swept(&store, "after both");
}

/// The pack is gone before the put commits: its chunks are stored again.
#[test]
fn a_put_stores_again_what_gc_deleted() {
    put_meanwhile("checkpoints", |world, store| {
        assert_eq!(gc(store).unwrap().packs_deleted, 1);
        assert_eq!(packs(&world.root()).len(), 2);
    });
}

/// The pack is still there but may go at any moment, because gc died before it unlinked anything.
#[test]
fn a_put_stores_again_what_gc_is_about_to_delete() {
    let (world, _) = put_meanwhile("checkpoints", |world, _| {
        gc(&dying(&world.root(), 2, false)).unwrap_err();
        assert_eq!(head_of(&world.root())["deleting"].as_array().unwrap().len(), 1);
    });
    assert_eq!(packs(&world.root()).len(), 3);
}

/// A put that begins after gc condemned finds the chunks, but does not rely on them.
#[test]
fn a_put_does_not_reuse_what_is_condemned_or_being_deleted() {
    for (heads, list) in [(1, "condemned"), (2, "deleting")] {
        let mut world = World::default();
        let store = Store::init(&world.root()).unwrap();
        world.put_tree(&store, "a", 1, &tensors(&[1, 2]));
        store.remove(&["a@1".into()]).unwrap();
        let (index, copy) = (world.root().join("index"), world.fresh("index"));
        image::copy(&index, &copy);
        gc(&dying(&world.root(), heads, false)).unwrap_err();
        // As if gc had died before it took the packs out of the index, or that was not durable.
        fs::remove_dir_all(&index).unwrap();
        image::copy(&copy, &index);
        assert_ne!(head_of(&world.root())[list].to_string().len(), 2, "{list} lists nothing");
        let request = world.request("a", 2, &tensors(&[1, 2]));
        let report = store.put(&request, &Quiet).unwrap();
        assert_eq!(report.new_chunks, report.chunks, "{list}: nothing can be reused");
        world.trees.insert(report.entry.id, tensors(&[1, 2]));
        for what in ["after the put", "after gc"] {
            world.assert_exact(&store, &store.checkpoints().unwrap(), what);
            assert_sound(&store, what);
            gc(&store).unwrap();
        }
        assert_swept(&store, list);
    }
}

/// What a live put has published and not committed is not garbage.
#[test]
fn gc_spares_what_a_live_put_has_published() {
    // At the gate HEAD's lock is not held: the manifest has its name, the put is about to swap.
    let mut world = World::default();
    let store = Store::init(&world.root()).unwrap();
    world.put_tree(&store, "a", 1, &tensors(&[7]));
    let request = world.request("a", 2, &tensors(&[1, 2]));
    let (gate, keeper) = gate();
    let is_here = |call: Call<'_>| matches!(call, Call::SyncDir(path) if path.ends_with("checkpoints"));
    let stopped = stopping(&world.root(), gate, is_here);
    let put = thread::spawn(move || stopped.put(&request, &Quiet));
    keeper.wait();
    let report = gc(&store).unwrap();
    assert_eq!((report.packs_deleted, report.freed_bytes), (0, 0));
    keeper.open();
    let report = put.join().unwrap().unwrap();
    world.trees.insert(report.entry.id, tensors(&[1, 2]));
    world.assert_exact(&store, &store.checkpoints().unwrap(), "after the put");
    gc(&store).unwrap();
    assert_swept(&store, "after gc");
    assert_sound(&store, "after gc");
}

/// A put that was stopped between giving its pack a name and making that durable. Another one finds the pack: with only its
/// own directories made durable, a loss of power could take the pack and leave the checkpoint. The model of the protocol
/// (`NamesNotDurable`) found this.
#[test]
fn a_put_makes_durable_what_it_found() {
    let mut world = World::default();
    let store = Store::init(&world.root()).unwrap();
    world.put_tree(&store, "a", 1, &tensors(&[7]));
    let request = world.request("a", 2, &tensors(&[1, 2]));
    let (gate, keeper) = gate();
    let is_pack_folder = |path: &Path| path.parent().is_some_and(|parent| parent.ends_with("packs"));
    let is_here = move |call: Call<'_>| matches!(call, Call::SyncDir(path) if is_pack_folder(path));
    let stopped = stopping(&world.root(), gate, is_here);
    let first = thread::spawn(move || stopped.put(&request, &Quiet));
    keeper.wait();

    // An index made anew takes in all packs that it sees.
    fs::remove_dir_all(world.root().join("index")).unwrap();
    let calls: Arc<Mutex<Vec<PathBuf>>> = Arc::default();
    let seen = Arc::clone(&calls);
    let disk = HookDisk::new(move |call| {
        if let Call::SyncDir(path) | Call::Rename(_, path) = call {
            seen.lock().unwrap().push(path.to_owned());
        }
        Ok(())
    });
    let second = Store::open_on(&world.root(), disk).unwrap();
    let report = second.put(&world.request("a", 3, &tensors(&[1, 2])), &Quiet).unwrap();
    assert_eq!(report.new_chunks, 0, "the other put's pack was found");
    let calls = calls.lock().unwrap();
    let head = calls.iter().position(|path| path.ends_with("HEAD")).unwrap();
    let synced: Vec<&PathBuf> = calls[..head].iter().filter(|path| is_pack_folder(path)).collect();
    for pack in ckpt_tests::lab::files(&world.root().join("packs")) {
        let folder = pack.parent().unwrap().to_owned();
        assert!(synced.contains(&&folder), "{} was not made durable before HEAD: {calls:?}", folder.display());
    }
    keeper.open();
    first.join().unwrap().unwrap();
}

#[test]
fn a_get_goes_on_while_its_checkpoint_is_dropped_and_collected() {
    let mut world = World::default();
    let store = Store::init(&world.root()).unwrap();
    world.put_tree(&store, "a", 1, &tensors(&[1, 2]));
    world.put_tree(&store, "a", 2, &tensors(&[7]));
    let (gate, keeper) = gate();
    let reading = Store::open(&world.root()).unwrap();
    let got = thread::scope(|scope| {
        let world = &world;
        let get = scope.spawn(move || world.get(&reading, "a@1", &StopAt(Stage::Read, gate)));
        keeper.wait();
        store.remove(&["a@1".into()]).unwrap();
        assert_eq!(gc(&store).unwrap().packs_deleted, 0, "a pinned checkpoint's packs stay");
        keeper.open();
        get.join().unwrap().unwrap()
    });
    assert_eq!(got, tensors(&[1, 2]));
    assert_eq!(gc(&store).unwrap().packs_deleted, 1, "nobody reads it any more");
    assert_swept(&store, "after gc");
    assert!(matches!(world.get(&store, "a@1", &Quiet), Err(Error::NotFound { .. })));
}

/// One put is stopped between reading HEAD and swapping it; the other one wins, and neither is lost.
#[test]
fn two_commits_race_for_head() {
    let mut world = World::default();
    let store = Store::init(&world.root()).unwrap();
    world.put_tree(&store, "a", 1, &tensors(&[7]));
    let tags = (0..70).map(|nr| format!("tag-{nr}")).collect();
    let request = PutRequest { tags, ..world.request("a", 2, &tensors(&[1])) };
    let (gate, keeper) = gate();
    // A commit that folds writes a catalog between the two, which gives a place to stop at.
    let stopped = stopping_at(&world.root(), "catalog", gate);
    let put = thread::spawn(move || stopped.put(&request, &Quiet));
    keeper.wait();
    world.put_tree(&store, "a", 3, &tensors(&[1, 8]));
    keeper.open();
    let report = put.join().unwrap().unwrap();
    world.trees.insert(report.entry.id, tensors(&[1]));
    let steps: Vec<_> = store.checkpoints().unwrap().iter().map(|entry| entry.step).collect();
    assert_eq!(steps, [Some(1), Some(3), Some(2)], "in the order of the commits");
    world.assert_exact(&store, &store.checkpoints().unwrap(), "after both");
    assert_eq!(ckpt_tests::world::names(&world.root(), "catalog").len(), 1, "a catalog that lost is removed");
    assert_eq!(head_of(&world.root())["seq"], 3);
}

/// Everything at once for a while: nothing fails, nothing is lost.
#[test]
fn puts_gets_tags_and_gcs_at_once() {
    let mut world = World::default();
    let store = Store::init(&world.root()).unwrap();
    let first = world.put_tree(&store, "kept", 0, &tensors(&[1, 2]));
    let done = AtomicBool::new(false);
    let entries: Vec<_> = thread::scope(|scope| {
        let (world, done) = (&world, &done);
        let others = [
            // Catalogs are folded and collected under those who read them.
            scope.spawn(move || {
                let store = Store::open(&world.root()).unwrap();
                while !done.load(Ordering::Relaxed) {
                    gc(&store).unwrap();
                }
            }),
            scope.spawn(move || {
                let store = Store::open(&world.root()).unwrap();
                for nr in 0.. {
                    if done.load(Ordering::Relaxed) {
                        break;
                    }
                    assert!(store.checkpoints().unwrap().iter().any(|entry| entry.run == "kept"));
                    store.tag("kept", &format!("t-{}", nr % 5)).unwrap();
                    assert_eq!(world.get(&store, "kept@0", &Quiet).unwrap(), tensors(&[1, 2]));
                }
            }),
        ];
        let puts: Vec<_> = (0..3_u64)
            .map(|run| {
                scope.spawn(move || {
                    let store = Store::open(&world.root()).unwrap();
                    let mut kept = Vec::new();
                    for step in 0..30 {
                        // All three runs store and drop the same tensors again and again.
                        let tree = tensors(&[100 + step / 3, 200 + run]);
                        let name = format!("run-{run}");
                        let report = store.put(&world.request(&name, step, &tree), &Quiet).unwrap();
                        kept.push((report.entry.id, tree));
                        if step % 3 == 1 {
                            store.remove(&[format!("{name}@{step}")]).unwrap();
                            kept.pop();
                        }
                    }
                    kept
                })
            })
            .collect();
        let puts: Vec<_> = puts.into_iter().map(|put| put.join()).collect();
        done.store(true, Ordering::Relaxed);
        others.into_iter().for_each(|other| other.join().unwrap());
        puts.into_iter().flat_map(|put| put.unwrap()).collect()
    });
    world.trees.extend(entries);
    let found = store.checkpoints().unwrap();
    assert_eq!(found.len(), world.trees.len());
    assert_eq!(found[0].id, first.id);
    world.assert_exact(&store, &found, "after all");
    assert_sound(&store, "after all");
    gc(&store).unwrap();
    assert_swept(&store, "after all");
}
