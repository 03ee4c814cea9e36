//! Random damage: whatever happens to a store's files, after a repair what was whole is whole, what is not says so, and the
//! same bytes heal.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use ckpt_store::{CheckpointId, Damage, Error, Quiet, RepairReport, RepairRequest, Store};
use ckpt_tests::image;
use ckpt_tests::sample::{Node, Tree, noise};
use ckpt_tests::world::{World, tensors};
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

use super::repair::{contents, repair_all, without_index};

/// Damages a file in some way; answers how.
fn damage(rng: &mut SmallRng, path: &Path) -> String {
    let mut bytes = fs::read(path).unwrap();
    let len = bytes.len().max(1);
    let at = rng.random_range(0..len);
    let how = match rng.random_range(0..7) {
        0 => {
            fs::remove_file(path).unwrap();
            return "gone".into();
        }
        1 => {
            bytes.truncate(at);
            format!("cut to {at}")
        }
        2 => {
            bytes.extend(noise(at as u64, 1 + at % 500));
            "longer".into()
        }
        3 => {
            let end = (at + 4096).min(bytes.len());
            bytes[at.min(end)..end].fill(0);
            format!("zeros from {at} to {end}")
        }
        4 => {
            let end = (at + 512).min(bytes.len());
            let start = at.min(end);
            bytes[start..end].copy_from_slice(&noise(7, end - start));
            format!("noise from {start} to {end}")
        }
        _ => {
            for _ in 0..rng.random_range(1..4) {
                if let Some(byte) = bytes.get_mut(rng.random_range(0..len)) {
                    *byte ^= 1 << rng.random_range(0..8);
                }
            }
            "flips".into()
        }
    };
    fs::write(path, bytes).unwrap();
    how
}

/// Which checkpoints of a store come back exactly. Any other fails.
fn whole(world: &World, root: &Path, what: &str) -> BTreeSet<CheckpointId> {
    let store = Store::open(root).unwrap_or_else(|error| panic!("{what}: {error}"));
    let mut whole = BTreeSet::new();
    for entry in store.checkpoints().unwrap_or_else(|error| panic!("{what}: {error}")) {
        match world.get(&store, &entry.id.to_string(), &Quiet) {
            Ok(tree) => {
                assert_eq!(tree, world.trees[&entry.id], "{what}: {entry:?} came back with other bytes");
                whole.insert(entry.id);
            }
            Err(Error::Damaged(_) | Error::Corrupt { .. } | Error::Unsupported(_)) => {}
            Err(error) => panic!("{what}: {entry:?}: {error}"),
        }
    }
    whole
}

/// A store of several packs, with a catalog and changes in HEAD.
fn world() -> (World, BTreeMap<PathBuf, Vec<u8>>) {
    let mut world = World::default();
    let store = Store::init(&world.root()).unwrap();
    let folder = Tree::directory()
        .with("text.txt", Node::File(b"many words, again and again. ".repeat(900), 0o644))
        .with("noise.bin", Node::File(noise(40, 90_000), 0o644));
    world.put_tree(&store, "a", 1, &tensors(&[1, 2, 3]));
    world.put_tree(&store, "a", 2, &tensors(&[1, 4]));
    world.put_tree(&store, "b/c", 1, &folder);
    for nr in 0..66 {
        store.tag("a@1", &format!("t{}", nr % 3)).unwrap();
    }
    world.put_tree(&store, "a", 3, &tensors(&[5, 6, 2]));
    let files = contents(&world.root());
    assert!(files.keys().any(|path| path.starts_with(world.root().join("catalog"))));
    (world, files)
}

#[test]
fn whatever_happens_a_repair_loses_nothing_more() {
    let (mut world, files) = world();
    let origin = world.root();
    let (mut lossy, mut mended, mut recovered) = (0, 0, 0);
    for seed in 0..200 {
        let mut rng = SmallRng::seed_from_u64(seed);
        let root = world.fresh("store");
        image::copy(&origin, &root);
        let inside = |path: &Path| root.join(path.strip_prefix(&origin).unwrap());
        let mut hits = Vec::new();
        for _ in 0..rng.random_range(1..4) {
            let path = files.keys().nth(rng.random_range(0..files.len())).unwrap();
            let path = inside(path);
            if path.exists() {
                hits.push(format!("{}: {}", path.display(), damage(&mut rng, &path)));
            }
        }
        if rng.random() {
            without_index(&root);
        }
        let what = format!("seed {seed}: {hits:?}");
        // What can be had at all: with FORMAT, HEAD and the catalog as they were, whatever was done to them.
        let ideal = world.fresh("ideal");
        image::copy(&root, &ideal);
        for (path, bytes) in &files {
            let path = path.strip_prefix(&origin).unwrap();
            if ["FORMAT", "HEAD", "catalog"].iter().any(|name| path.starts_with(name)) {
                fs::write(ideal.join(path), bytes).unwrap();
            }
        }
        let before = whole(&world, &ideal, &what);
        let report = Store::repair(&root, &RepairRequest::default(), &Quiet).unwrap_or_else(|e| panic!("{what}: {e}"));
        mended += report.mended.len();
        recovered += report.recovered.len();
        let after = whole(&world, &root, &what);
        assert!(after.is_superset(&before), "{what}: whole before {before:?}, after {after:?}: {report:?}");
        lossy += usize::from(after.len() < 4);
        let again = repair_all(&root);
        assert!(again.is_idle(), "{what}: the second repair: {again:?}");
        let places = |report: &RepairReport| {
            let place = |damage: &Damage| (damage.checkpoint.clone(), damage.file.clone(), damage.chunk);
            report.damaged.iter().map(place).collect::<BTreeSet<_>>()
        };
        assert_eq!((again.is_sound(), places(&again)), (report.is_sound(), places(&report)), "{what}");
        // The index changes no result.
        without_index(&root);
        assert_eq!(whole(&world, &root, &what), after, "{what}: without index");
        let store = Store::open(&root).unwrap();
        let verified = store.verify(&Default::default(), &Quiet).unwrap();
        assert_eq!(verified.is_sound(), report.is_sound(), "{what}: {verified:?} {report:?}");
        // The same bytes heal every checkpoint whose description is left.
        let trees: Vec<Tree> = world.trees.values().cloned().collect();
        for (step, tree) in (0..).zip(&trees) {
            let request = world.request("again", step, tree);
            world.put(&store, &request).unwrap_or_else(|error| panic!("{what}: {error}"));
        }
        without_index(&root);
        let entries = store.checkpoints().unwrap();
        let unreadable: BTreeSet<_> = report.manifests.iter().map(|(entry, _)| entry.id).collect();
        let healed = whole(&world, &root, &what);
        assert_eq!(healed.len() + unreadable.len(), entries.len(), "{what}: {unreadable:?}");
        let gone: Vec<CheckpointId> = world.trees.keys().copied().skip(4).collect();
        gone.iter().for_each(|id| drop(world.trees.remove(id)));
        fs::remove_dir_all(&root).unwrap();
        fs::remove_dir_all(&ideal).unwrap();
    }
    assert!(
        lossy > 20 && mended > 50 && recovered > 50,
        "{lossy} with loss, {mended} packs mended, {recovered} recovered"
    );
}
