//! Crash images through the disk seam: what a power cut leaves after every single change that an operation makes, in every
//! kind of loss, must be the store before the operation or after it. And every single call that fails in turn.
#![allow(clippy::unwrap_used, reason = "a test that can't go on has failed")]

use std::collections::HashSet;
use std::fs;
use std::path::Path;

use ckpt_store::{Entry, Error, Policy, PolicyUse, PutRequest, Quiet, Result, Rules, Store};
use ckpt_tests::disk::{Change, FailingDisk, RecordingDisk};
use ckpt_tests::image::{self, Directory, LOSSES};
use ckpt_tests::sample::{Node, Tree, noise, torch_zip};
use ckpt_tests::world::{World, assert_sound, assert_swept, gc, head, keep_last, packs, tensors};

/// An operation: what is there before, and what is done then. What it says of its own failure is what matters here.
struct Operation {
    prepare: fn(&mut World, &Store),
    request: fn(&World) -> PutRequest,
    run: fn(&Store, &PutRequest) -> Result<()>,
}

/// What a store says that it holds.
type State = (Vec<Entry>, Vec<PolicyUse>);

fn state(store: &Store) -> Result<State> {
    Ok((store.checkpoints()?, store.policies()?))
}

/// What is in the index when the power comes back: RocksDB keeps its own promises, so all that matters is which time it
/// is from.
#[derive(Debug, Clone, Copy)]
enum Index {
    Absent,
    Before,
    After,
}

const INDEXES: [Index; 3] = [Index::Absent, Index::Before, Index::After];

fn put(store: &Store, request: &PutRequest) -> Result<()> {
    store.put(request, &Quiet).map(drop)
}

fn folder(seed: u64) -> Tree {
    Tree::directory()
        .with("model.pt", Node::File(torch_zip(&[(1, 9000), (seed, 9000)]), 0o640))
        .with("notes", Node::Directory(0o755))
        .with("notes/log.txt", Node::File(noise(seed, 30), 0o600))
        .with("optimizer.bin", Node::File(noise(seed + 1, 100_000), 0o644))
        .with("last", Node::Link("model.pt".into()))
}

/// Three checkpoints of one run; the first two share a tensor.
fn three(world: &mut World, store: &Store) {
    world.put_tree(store, "a", 1, &tensors(&[1, 2]));
    world.put_tree(store, "a", 2, &tensors(&[1, 3]));
    world.put_tree(store, "a", 3, &folder(4));
}

const PUT_NEW: Operation = Operation { prepare: three, request: |world| world.request("b", 1, &folder(10)), run: put };

const PUT_REUSING: Operation =
    Operation { prepare: three, request: |world| world.request("b", 1, &tensors(&[3, 20, 1])), run: put };

const PUT_REPLACING: Operation = Operation {
    prepare: three,
    request: |world| PutRequest { replace: true, ..world.request("a", 2, &tensors(&[2, 30])) },
    run: put,
};

/// Folds the catalog: more changes than HEAD carries, in a store that has a catalog already.
const PUT_FOLDING: Operation = Operation {
    prepare: |world, store| {
        three(world, store);
        let request = PutRequest { tags: many_tags(), ..world.request("a", 4, &tensors(&[1, 4])) };
        world.put(store, &request).unwrap();
    },
    request: |world| PutRequest { tags: many_tags(), ..world.request("b", 1, &tensors(&[1, 40])) },
    run: put,
};

const GC: Operation = Operation {
    prepare: |world, store| {
        three(world, store);
        world.put_tree(store, "a", 4, &tensors(&[4, 5]));
        world.put_tree(store, "a", 5, &tensors(&[60]));
        world.put_tree(store, "b", 1, &tensors(&[50, 2]));
    },
    request: |_| PutRequest::default(),
    run: |store, _| store.gc(&keep_last(1), &Quiet).map(drop),
};

/// Of the first checkpoint's pack a third is needed: it is copied and the pack deleted.
const GC_REWRITING: Operation = Operation {
    prepare: |world, store| {
        world.put_tree(store, "a", 1, &tensors(&[1, 2, 3]));
        world.put_tree(store, "a", 2, &tensors(&[1, 9]));
    },
    request: |_| PutRequest::default(),
    run: |store, _| store.gc(&keep_last(1), &Quiet).map(drop),
};

const RM: Operation = Operation {
    prepare: three,
    request: |_| PutRequest::default(),
    run: |store, _| store.remove(&["a@1".into(), "a@3".into()]).map(drop),
};

const TAG: Operation = Operation {
    prepare: |world, store| {
        three(world, store);
        store.tag("a@1", "good").unwrap();
    },
    request: |_| PutRequest::default(),
    run: |store, _| store.tag("a@2", "good").map(drop),
};

/// Replaces a policy that a folded catalog holds.
const POLICY: Operation = Operation {
    prepare: |world, store| {
        three(world, store);
        store.set_policy(&policy("a*", 2)).unwrap();
        let request = PutRequest { tags: many_tags(), ..world.request("a", 4, &tensors(&[1, 4])) };
        world.put(store, &request).unwrap();
    },
    request: |_| PutRequest::default(),
    run: |store, _| store.set_policy(&policy("a*", 1)).map(drop),
};

const POLICY_RM: Operation = Operation {
    prepare: POLICY.prepare,
    request: |_| PutRequest::default(),
    run: |store, _| match store.remove_policy("a*") {
        // Tried again after the swap that nobody could tell of.
        Err(Error::NotFound { .. }) => Ok(()),
        other => other,
    },
};

fn policy(runs: &str, last: u64) -> Policy {
    Policy { runs: runs.into(), rules: Rules { last: Some(last), ..Rules::default() } }
}

fn many_tags() -> std::collections::BTreeSet<String> {
    (0..70).map(|nr| format!("tag-{nr}")).collect()
}

#[test]
fn a_put_of_new_content_is_done_or_not() {
    cut_everywhere(&PUT_NEW);
}

#[test]
fn a_put_that_reuses_is_done_or_not() {
    cut_everywhere(&PUT_REUSING);
}

#[test]
fn a_put_that_replaces_is_done_or_not() {
    cut_everywhere(&PUT_REPLACING);
}

#[test]
fn a_put_that_folds_the_catalog_is_done_or_not() {
    cut_everywhere(&PUT_FOLDING);
}

#[test]
fn a_gc_is_done_or_not() {
    cut_everywhere(&GC);
}

#[test]
fn a_gc_that_rewrites_is_done_or_not() {
    cut_everywhere(&GC_REWRITING);
}

#[test]
fn rm_and_tag_are_done_or_not() {
    cut_everywhere(&RM);
    cut_everywhere(&TAG);
}

#[test]
fn a_policy_is_set_or_not_and_removed_or_not() {
    cut_everywhere(&POLICY);
    cut_everywhere(&POLICY_RM);
}

#[test]
fn an_init_is_done_or_can_be_done_again() {
    let mut world = World::default();
    let disk = RecordingDisk::new(&world.root());
    Store::init_on(&world.root(), disk.clone()).unwrap();
    let log = disk.log();
    let root = world.fresh("image");
    for cut in 0..=log.len() {
        let directory = Directory::after(&log[..cut]);
        for loss in LOSSES {
            let what = format!("init cut after {cut} of {}, {loss:?}", log.len());
            image::write(&directory.cut(loss, cut as u64), &root);
            if cut == log.len() {
                Store::open(&root).unwrap_or_else(|error| panic!("{what}: {error}"));
            }
            let store = match Store::init(&root) {
                Err(Error::Exists { .. }) => Store::open(&root),
                other => other,
            };
            let store = store.unwrap_or_else(|error| panic!("{what}: {error}"));
            let entry = world.put_tree(&store, "a", 1, &tensors(&[1]));
            world.assert_exact(&store, &[entry], &what);
            gc(&store).unwrap();
            assert_swept(&store, &what);
            fs::remove_dir_all(&root).unwrap();
        }
    }
}

#[test]
fn a_gc_frees_room_whatever_the_index_is_like() {
    for damage in ["CURRENT is missing", "it can't be written to"] {
        let mut world = World::default();
        let store = Store::init(&world.root()).unwrap();
        (GC.prepare)(&mut world, &store);
        let index = world.root().join("index");
        if damage.starts_with("CURRENT") {
            fs::remove_file(index.join("CURRENT")).unwrap();
        } else {
            // As root nothing is forbidden, but no database can lock a directory.
            drop(fs::remove_file(index.join("LOCK")));
            fs::create_dir(index.join("LOCK")).unwrap();
        }
        let report = store.gc(&keep_last(1), &Quiet).unwrap_or_else(|error| panic!("{damage}: {error}"));
        assert_eq!(report.packs_deleted, 3, "{damage}");
        assert_swept(&store, damage);
        // Gone if the index was made anew.
        drop(fs::remove_dir(index.join("LOCK")));
        world.assert_exact(&store, &store.checkpoints().unwrap(), damage);
        assert_sound(&store, damage);
    }
}

/// Records an operation, and looks at what a power cut leaves after each of its changes.
fn cut_everywhere(operation: &Operation) {
    let mut world = World::default();
    let root = world.root();
    let disk = RecordingDisk::new(&root);
    let store = Store::init_on(&root, disk.clone()).unwrap();
    (operation.prepare)(&mut world, &store);
    let before = state(&store).unwrap();
    let indexes = [world.fresh("index"), world.fresh("index")];
    image::copy(&root.join("index"), &indexes[0]);
    let begin = disk.log().len();
    let request = (operation.request)(&world);
    (operation.run)(&store, &request).unwrap();
    let log = disk.log();
    let after = state(&store).unwrap();
    image::copy(&root.join("index"), &indexes[1]);
    learn(&mut world, &before, &after, &request);

    let at = world.fresh("image");
    let mut seen = HashSet::new();
    let mut directory = Directory::after(&log[..begin]);
    for cut in begin..=log.len() {
        if cut > begin {
            assert_announced(&directory, &log[cut - 1]);
            directory.apply(&log[cut - 1]);
        }
        let is_whole = cut == log.len();
        for (nr, loss) in LOSSES.into_iter().enumerate() {
            let image = directory.cut(loss, cut as u64);
            // What was reported as done has to be there with every index; before that they take turns.
            for index in if is_whole { &INDEXES[..] } else { &INDEXES[(cut + nr) % 3..][..1] } {
                if !seen.insert((image::digest(&image), is_whole)) && !is_whole {
                    continue;
                }
                let what = format!("cut after change {} of {}, {loss:?}, {index:?}", cut - begin, log.len() - begin);
                image::write(&image, &at);
                put_index(&at, *index, &indexes);
                let allowed: &[&State] = if is_whole { &[&after] } else { &[&before, &after] };
                let store = assert_state(&mut world, &at, allowed, &what);
                assert_usable(&mut world, &store, &request, &what);
                fs::remove_dir_all(&at).unwrap();
            }
        }
    }
    assert!(seen.len() > 10, "only {} images of {} changes were looked at", seen.len(), log.len() - begin);
}

/// Remembers what the operation stored, if it was a put.
fn learn(world: &mut World, before: &State, after: &State, request: &PutRequest) {
    assert_ne!(before, after, "the operation does nothing");
    if let Some(entry) = after.0.iter().find(|entry| before.0.iter().all(|old| old.id != entry.id)) {
        world.trees.insert(entry.id, Tree::read(&request.paths[0]));
    }
}

/// No pack is unlinked unless the HEAD that would survive says that it is being deleted.
fn assert_announced(directory: &Directory, change: &Change) {
    let Change::Remove(path) = change else { return };
    if path.starts_with("packs") {
        let deleting = &head(directory.durable(Path::new("HEAD")).expect("HEAD is durable"))["deleting"];
        let name = path.file_name().unwrap().to_str().unwrap();
        assert!(deleting.as_array().unwrap().contains(&name.into()), "{path:?} is unlinked, HEAD lists {deleting}");
    }
}

fn put_index(root: &Path, index: Index, copies: &[std::path::PathBuf; 2]) {
    fs::remove_dir_all(root.join("index")).unwrap();
    match index {
        Index::Absent => {}
        Index::Before => image::copy(&copies[0], &root.join("index")),
        Index::After => image::copy(&copies[1], &root.join("index")),
    }
}

/// The store holds one of the allowed states, bit-exact.
fn assert_state(world: &mut World, root: &Path, allowed: &[&State], what: &str) -> Store {
    let store = Store::open(root).unwrap_or_else(|error| panic!("{what}: open: {error}"));
    let state = state(&store).unwrap_or_else(|error| panic!("{what}: {error}"));
    assert!(allowed.contains(&&state), "{what}: neither the old state nor the new one: {state:#?}");
    world.assert_exact(&store, &state.0, what);
    assert_sound(&store, what);
    store
}

/// The store goes on: the same put again, a gc that clears every leftover, and nothing is lost by either.
fn assert_usable(world: &mut World, store: &Store, request: &PutRequest, what: &str) {
    let seq = |store: &Store| ckpt_tests::world::head_of(store.root())["seq"].as_u64().unwrap();
    let began = seq(store);
    let again = match request.paths.is_empty() {
        // Some of it is in packs that the gc deletes: they must not be relied on.
        true => PutRequest { replace: true, ..world.request("a", 1, &tensors(&[1, 3, 5, 61])) },
        false => PutRequest { replace: true, ..request.clone() },
    };
    let entry = world.put(store, &again).unwrap_or_else(|error| panic!("{what}: put again: {error}"));
    assert!(seq(store) > began, "{what}: HEAD's seq must grow");
    world.assert_exact(store, &[entry], what);
    let report = gc(store).unwrap_or_else(|error| panic!("{what}: gc: {error}"));
    assert!(report.packs_unreadable.is_empty(), "{what}: {report:?}");
    assert_swept(store, what);
    assert_sound(store, what);
}

#[test]
fn a_put_survives_every_failing_call() {
    fail_everywhere(&PUT_REUSING);
    fail_everywhere(&PUT_REPLACING);
}

#[test]
fn folding_survives_every_failing_call() {
    fail_everywhere(&PUT_FOLDING);
}

#[test]
fn a_gc_survives_every_failing_call() {
    fail_everywhere(&GC);
}

#[test]
fn a_policy_survives_every_failing_call() {
    fail_everywhere(&POLICY);
    fail_everywhere(&POLICY_RM);
}

#[test]
fn a_gc_that_rewrites_survives_every_failing_call() {
    fail_everywhere(&GC_REWRITING);
}

#[test]
fn a_tag_survives_every_failing_call() {
    fail_everywhere(&TAG);
}

/// Whether an operation other than a put may be done though this call was refused room: for a moment, because it had the
/// reserve to fall back on; for good, because a gc can do without copies of chunks, and removes without room. Never when
/// a name was to be made durable; in `packs` itself there is none but those of directories.
fn may_be_done(call: &str, lasting: bool) -> bool {
    let is_in_tmp = call.contains("/tmp/") && !call.contains("/tmp/HEAD");
    let is_copying = call.ends_with("/packs") || call.contains("/packs/") || is_in_tmp;
    let names = call.starts_with("SyncDir") && !call.ends_with("/packs");
    !names && (!lasting || is_copying || call.starts_with("Remove"))
}

/// Lets each call of an operation fail in turn: with an I/O error, on a disk that is full for a moment, on one that stays so.
fn fail_everywhere(operation: &Operation) {
    const EIO: i32 = 5;
    const ENOSPC: i32 = 28;
    let mut world = World::default();
    let store = Store::init(&world.root()).unwrap();
    (operation.prepare)(&mut world, &store);
    let before = state(&store).unwrap();
    let request = (operation.request)(&world);
    let is_put = !request.paths.is_empty();
    let root = world.fresh("copy");
    for (errno, lasting) in [(EIO, false), (ENOSPC, false), (ENOSPC, true)] {
        for call in 0.. {
            image::copy(&world.root(), &root);
            let (disk, failing) = FailingDisk::new(call, errno, lasting);
            let outcome = (operation.run)(&Store::open_on(&root, disk).unwrap(), &request);
            let Some(failed) = failing.failed() else {
                outcome.unwrap();
                assert!(call > 5, "only {call} calls were made to fail");
                break;
            };
            let what = format!("call {call} fails with {errno}, lasting {lasting}: {failed}");
            let is_done = outcome.is_ok();
            match outcome {
                Ok(()) if errno == ENOSPC && !is_put && may_be_done(failed.trim_end_matches('"'), lasting) => {}
                Err(Error::NoSpace { .. }) if errno == ENOSPC => {}
                Err(Error::Unavailable { .. }) if errno == EIO => {}
                other => panic!("{what}: {other:?}"),
            }
            let after = state(&Store::open(&root).unwrap()).unwrap();
            if is_done {
                assert_ne!(after, before, "{what}: said to be done, and is not");
                learn(&mut world, &before, &after, &request);
            } else if failing.head_was_renamed() {
                // Then nobody can say whether it is done, and either answer is right.
                if after != before {
                    learn(&mut world, &before, &after, &request);
                }
            } else {
                assert_eq!(after, before, "{what}: a failed operation left its mark");
            }
            if is_put {
                let left = ckpt_tests::world::names(&root, "tmp");
                assert!(left.is_empty(), "{what}: tmp holds {left:?}");
            }
            let store = assert_state(&mut world, &root, &[&after], &what);
            match (operation.run)(&store, &request) {
                Ok(()) => {}
                Err(Error::Exists { .. }) if after != before => {}
                other => panic!("{what}: trying again: {other:?}"),
            }
            assert_usable(&mut world, &store, &request, &what);
            fs::remove_dir_all(&root).unwrap();
        }
        fs::remove_dir_all(&root).unwrap();
    }
    assert!(!packs(&world.root()).is_empty());
}
