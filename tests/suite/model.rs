//! Random operations against a map: whatever is done in whatever order, the store holds what the map holds.
#![allow(clippy::unwrap_used, reason = "a test that can't go on has failed")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use ckpt_store::{Entry, Error, GcRequest, Policy, PutRequest, Quiet, Rules, Store};
use ckpt_tests::sample::{Node, Tree, noise, torch_zip};
use ckpt_tests::world::{World, assert_sound, assert_swept, gc, packs, tensors};
use proptest::prelude::*;
use proptest::test_runner::{Config, FileFailurePersistence};

const RUNS: [&str; 2] = ["a", "b/c"];
/// Globs, the closest of those that match a run last.
const GLOBS: [&str; 4] = ["*", "b*", "b/*", "a"];
const TAGS: [&str; 3] = ["good", "release 1", "x"];
const STEPS: u64 = 4;

#[derive(Debug, Clone)]
enum Operation {
    Put { run: usize, step: u64, content: u64, tags: BTreeSet<usize>, replace: bool },
    Remove { run: usize, step: u64 },
    Tag { run: usize, step: u64, tag: usize },
    Untag { run: usize, tag: usize },
    Pin { run: usize, step: u64, pinned: bool },
    Gc { run: Option<usize>, last: Option<u64>, every: Option<u64> },
    SetPolicy { glob: usize, last: Option<u64>, every: Option<u64> },
    RemovePolicy { glob: usize },
    GcByPolicies { run: Option<usize> },
    DeleteIndex,
    Reopen,
    Verify,
}

/// What a checkpoint has to be. Its place in the list is the order in which it was stored.
#[derive(Debug, Clone)]
struct Kept {
    run: usize,
    step: u64,
    tree: Tree,
    tags: BTreeSet<usize>,
    pinned: bool,
}

type Model = Vec<Kept>;

/// What each glob's policy has to be: the last, and every so many steps.
type Policies = BTreeMap<usize, (Option<u64>, Option<u64>)>;

/// Sixteen contents: files and folders that share tensors, and some that differ in a mode or a link alone.
fn content(nr: u64) -> Tree {
    let folder = |seed: u64, mode: u32| {
        Tree::directory()
            .with("empty", Node::Directory(0o711))
            .with("none", Node::File(Vec::new(), 0o444))
            .with("pytorch_model.bin", Node::File(torch_zip(&[(seed, 9000), (seed + 1, 300)]), mode))
            .with("tokenizer", Node::Directory(0o750))
            .with("tokenizer/merges \u{fc}.txt", Node::File(noise(seed % 2, 70_000), 0o600))
            .with("tokenizer/best", Node::Link("../pytorch_model.bin".into()))
    };
    match nr % 16 {
        0 => Tree::directory(),
        1 => Tree::file(Vec::new()),
        2 => Tree::file(noise(1, 5000)),
        3 | 4 => Tree::file(noise(3, 300_000 + nr as usize)),
        5 => Tree::file(torch_zip(&[(1, 9000), (2, 9000)])),
        6..12 => tensors(&[1, nr / 2, nr]),
        12 => folder(1, 0o644),
        13 => folder(1, 0o755),
        14 => folder(2, 0o644),
        _ => Tree::directory().with("model.safetensors", Node::File(first_file(&tensors(&[1, 3, 6])), 0o644)),
    }
}

fn first_file(tree: &Tree) -> Vec<u8> {
    match tree.0.values().next() {
        Some(Node::File(bytes, _)) => bytes.clone(),
        _ => Vec::new(),
    }
}

fn operation() -> impl Strategy<Value = Operation> {
    let run = || 0..RUNS.len();
    let step = || 0..STEPS;
    let tag = || 0..TAGS.len();
    prop_oneof![
        8 => (run(), step(), 0..16_u64, prop::collection::btree_set(tag(), 0..2), any::<bool>())
            .prop_map(|(run, step, content, tags, replace)| Operation::Put { run, step, content, tags, replace }),
        3 => (run(), step()).prop_map(|(run, step)| Operation::Remove { run, step }),
        2 => (run(), step(), tag()).prop_map(|(run, step, tag)| Operation::Tag { run, step, tag }),
        1 => (run(), tag()).prop_map(|(run, tag)| Operation::Untag { run, tag }),
        1 => (run(), step(), any::<bool>()).prop_map(|(run, step, pinned)| Operation::Pin { run, step, pinned }),
        3 => (prop::option::of(run()), prop::option::of(1..3_u64), prop::option::of(1..4_u64))
            .prop_map(|(run, last, every)| Operation::Gc { run, last, every }),
        2 => (0..GLOBS.len(), prop::option::of(0..3_u64), prop::option::of(1..4_u64))
            .prop_map(|(glob, last, every)| Operation::SetPolicy { glob, last, every }),
        1 => (0..GLOBS.len()).prop_map(|glob| Operation::RemovePolicy { glob }),
        2 => prop::option::of(run()).prop_map(|run| Operation::GcByPolicies { run }),
        1 => Just(Operation::DeleteIndex),
        1 => Just(Operation::Reopen),
        1 => Just(Operation::Verify),
    ]
}

proptest! {
    #![proptest_config(Config {
        cases: 200,
        max_shrink_iters: 200,
        // What failed once belongs into a test of its own, not into a file beside the source.
        failure_persistence: Some(Box::new(FileFailurePersistence::Off)),
        ..Config::default()
    })]

    #[test]
    fn the_store_does_what_a_map_does(operations in prop::collection::vec(operation(), 1..25)) {
        let mut world = World::default();
        let mut store = Store::init(&world.root()).unwrap();
        let mut model = Model::new();
        let mut policies = Policies::new();
        for operation in &operations {
            apply(operation, &mut world, &mut store, &mut model, &mut policies);
            assert_same(&store, &model);
            assert_same_policies(&store, &policies);
        }
        assert_all_refs(&world, &store, &model);
        assert_sound(&store, "at the end");
        assert_room_is_freed(&store, &mut model);
    }
}

fn apply(operation: &Operation, world: &mut World, store: &mut Store, model: &mut Model, policies: &mut Policies) {
    let found =
        |model: &Model, run: usize, step: u64| model.iter().position(|kept| (kept.run, kept.step) == (run, step));
    let name = |run: usize, step: u64| format!("{}@{step}", RUNS[run]);
    match operation {
        Operation::Put { run, step, content: nr, tags, replace } => {
            let tree = content(*nr);
            let names = tags.iter().map(|tag| TAGS[*tag].to_owned()).collect();
            let request = PutRequest { tags: names, replace: *replace, ..world.request(RUNS[*run], *step, &tree) };
            let old = found(model, *run, *step);
            match world.put(store, &request) {
                Err(Error::Exists { .. }) => return assert!(old.is_some() && !replace),
                Err(Error::Invalid(_)) => return assert!(*replace && model[old.unwrap()].pinned),
                other => drop(other.unwrap()),
            }
            assert!(old.is_none_or(|at| *replace && !model[at].pinned));
            old.map(|at| model.remove(at));
            take_tags(model, *run, tags);
            model.push(Kept { run: *run, step: *step, tree, tags: tags.clone(), pinned: false });
            assert_eq!(world.get(store, RUNS[*run], &Quiet).unwrap(), content(*nr));
        }
        Operation::Remove { run, step } => {
            let at = found(model, *run, *step);
            match store.remove(&[name(*run, *step)]) {
                Ok(_) => drop(model.remove(at.unwrap())),
                Err(Error::Invalid(_)) => assert!(model[at.unwrap()].pinned),
                Err(Error::NotFound { .. }) => assert_eq!(at, None),
                other => panic!("{other:?}"),
            }
        }
        Operation::Tag { run, step, tag } => {
            match (store.tag(&name(*run, *step), TAGS[*tag]), found(model, *run, *step)) {
                (Ok(_), Some(at)) => {
                    take_tags(model, *run, &BTreeSet::from([*tag]));
                    model[at].tags.insert(*tag);
                }
                (Err(Error::NotFound { .. }), None) => {}
                other => panic!("{other:?}"),
            }
        }
        Operation::Untag { run, tag } => {
            let had = model.iter().any(|kept| kept.run == *run && kept.tags.contains(tag));
            match store.untag(&format!("{}@{}", RUNS[*run], TAGS[*tag]), None) {
                Ok(_) => assert!(had),
                Err(Error::NotFound { .. }) => assert!(!had),
                other => panic!("{other:?}"),
            }
            take_tags(model, *run, &BTreeSet::from([*tag]));
        }
        Operation::Pin { run, step, pinned } => {
            match (store.pin(&name(*run, *step), *pinned), found(model, *run, *step)) {
                (Ok(_), Some(at)) => model[at].pinned = *pinned,
                (Err(Error::NotFound { .. }), None) => {}
                other => panic!("{other:?}"),
            }
        }
        Operation::Gc { run, last, every } => {
            if last.is_none() && every.is_none() {
                // The same as by policies.
                return apply(&Operation::GcByPolicies { run: *run }, world, store, model, policies);
            }
            let rules = Rules { last: *last, every: *every, ..Rules::default() };
            gc_as_planned(store, &GcRequest { runs: run.map(|run| RUNS[run].to_owned()), rules, dry_run: false });
            keep_by_rules(model, *run, *last, *every);
        }
        Operation::GcByPolicies { run } => {
            gc_as_planned(store, &GcRequest { runs: run.map(|run| RUNS[run].to_owned()), ..GcRequest::default() });
            for nr in (0..RUNS.len()).filter(|nr| run.is_none_or(|run| run == *nr)) {
                let globs = if RUNS[nr] == "a" { [3, 0] } else { [2, 1] };
                let of_run = globs.iter().chain([&0]).find_map(|glob| policies.get(glob));
                if let Some((last, every)) = of_run {
                    keep_by_rules(model, Some(nr), *last, *every);
                }
            }
        }
        Operation::SetPolicy { glob, last, every } => {
            let rules = Rules { last: *last, every: *every, ..Rules::default() };
            match store.set_policy(&Policy { runs: GLOBS[*glob].to_owned(), rules }) {
                Ok(old) => assert_eq!(old.is_some(), policies.insert(*glob, (*last, *every)).is_some()),
                Err(Error::Invalid(_)) => assert!(*last == Some(0) || (last.is_none() && every.is_none())),
                other => panic!("{other:?}"),
            }
        }
        Operation::RemovePolicy { glob } => match store.remove_policy(GLOBS[*glob]) {
            Ok(()) => assert!(policies.remove(glob).is_some()),
            Err(Error::NotFound { .. }) => assert!(!policies.contains_key(glob)),
            other => panic!("{other:?}"),
        },
        // Whoever deletes it twice finds nothing the second time.
        Operation::DeleteIndex => drop(fs::remove_dir_all(world.root().join("index"))),
        Operation::Reopen => *store = Store::open(&world.root()).unwrap(),
        Operation::Verify => assert_sound(store, "on the way"),
    }
}

/// Collects, and sees that a dry run has said exactly what is then done.
fn gc_as_planned(store: &Store, request: &GcRequest) {
    let plan = store.gc(&GcRequest { dry_run: true, ..request.clone() }, &Quiet).unwrap();
    let report = store.gc(request, &Quiet).unwrap();
    assert_eq!(report, plan, "a dry run tells what is done, to the byte");
    assert_swept(store, "after gc");
}

fn take_tags(model: &mut Model, run: usize, tags: &BTreeSet<usize>) {
    model.iter_mut().filter(|kept| kept.run == run).for_each(|kept| kept.tags.retain(|tag| !tags.contains(tag)));
}

/// The rules as cli.md says them, in another way than the library's.
fn keep_by_rules(model: &mut Model, run: Option<usize>, last: Option<u64>, every: Option<u64>) {
    if last.is_none() && every.is_none() {
        return;
    }
    let mut seen: BTreeMap<usize, u64> = BTreeMap::new();
    let mut kept: Model = Vec::new();
    for checkpoint in model.drain(..).rev() {
        let newer = seen.entry(checkpoint.run).or_insert(0);
        let stays = run.is_some_and(|run| run != checkpoint.run)
            || *newer < last.unwrap_or(1)
            || checkpoint.pinned
            || !checkpoint.tags.is_empty()
            || every.is_some_and(|every| checkpoint.step % every == 0);
        *newer += 1;
        kept.extend(stays.then_some(checkpoint));
    }
    model.extend(kept.into_iter().rev());
}

/// What the catalog says is what the map says.
fn assert_same(store: &Store, model: &Model) {
    let told = |entry: &Entry| (entry.run.clone(), entry.step, entry.tags.clone(), entry.pinned, entry.logical_bytes);
    let wanted = |kept: &Kept| {
        let tags: BTreeSet<String> = kept.tags.iter().map(|tag| TAGS[*tag].to_owned()).collect();
        (RUNS[kept.run].to_owned(), Some(kept.step), tags, kept.pinned, kept.tree.bytes())
    };
    let entries = store.checkpoints().unwrap();
    assert_eq!(entries.iter().map(told).collect::<Vec<_>>(), model.iter().map(wanted).collect::<Vec<_>>());
}

/// The policies are those of the map.
fn assert_same_policies(store: &Store, policies: &Policies) {
    let told = store.policies().unwrap().into_iter().map(|used| used.policy);
    let told: BTreeMap<String, Rules> = told.map(|policy| (policy.runs, policy.rules)).collect();
    let rules = |(last, every): &(Option<u64>, Option<u64>)| Rules { last: *last, every: *every, ..Rules::default() };
    assert_eq!(told, policies.iter().map(|(glob, kept)| (GLOBS[*glob].to_owned(), rules(kept))).collect());
}

/// Every ref gives the files of the checkpoint that the map says it names.
fn assert_all_refs(world: &World, store: &Store, model: &Model) {
    let get = |reference: &str| world.get(store, reference, &Quiet);
    for (nr, run) in RUNS.iter().enumerate() {
        let of_run: Vec<&Kept> = model.iter().filter(|kept| kept.run == nr).collect();
        for step in 0..STEPS {
            let kept = of_run.iter().find(|kept| kept.step == step);
            match get(&format!("{run}@{step}")) {
                Ok(tree) => assert_eq!(tree, kept.unwrap().tree, "{run}@{step}"),
                Err(Error::NotFound { .. }) => assert!(kept.is_none(), "{run}@{step} is gone"),
                other => panic!("{run}@{step}: {other:?}"),
            }
        }
        let named = TAGS
            .iter()
            .enumerate()
            .map(|(tag, name)| (format!("{run}@{name}"), of_run.iter().find(|kept| kept.tags.contains(&tag))));
        for (reference, kept) in named.chain([(format!("{run}@latest"), of_run.last())]) {
            match store.resolve(&reference) {
                Ok(entry) => assert_eq!(entry.step, Some(kept.unwrap().step), "{reference}"),
                Err(Error::NotFound { .. }) => assert!(kept.is_none(), "{reference} is gone"),
                other => panic!("{reference}: {other:?}"),
            }
        }
    }
}

/// With everything dropped, nothing is left after two gcs.
fn assert_room_is_freed(store: &Store, model: &mut Model) {
    for kept in model.drain(..) {
        let name = format!("{}@{}", RUNS[kept.run], kept.step);
        store.pin(&name, false).unwrap();
        store.remove(&[name]).unwrap();
    }
    gc(store).unwrap();
    gc(store).unwrap();
    assert_eq!(packs(store.root()), BTreeSet::new());
    assert_swept(store, "with nothing left");
    assert_eq!(store.stats(&Quiet).unwrap().logical_bytes, 0);
}
