//! A repair that is cut short anywhere: by a power cut after each of its changes, by each of its calls failing. Nothing gets
//! worse, and the next repair ends where an undisturbed one does.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use ckpt_store::{CheckpointId, Error, Notice, Progress, Quiet, RepairReport, RepairRequest, Stage, Store};
use ckpt_tests::disk::{FailingDisk, RecordingDisk};
use ckpt_tests::image::{self, Directory, Image, LOSSES};
use ckpt_tests::world::{World, gc, tensors};

use super::repair::{repair_all, without_index};

/// Damage to a store: what becomes of some of its files; none means that the file is gone.
type Damage = BTreeMap<PathBuf, Option<Vec<u8>>>;

/// Notices whether a repair said that it could not make the index anew.
#[derive(Default)]
struct Watch {
    index_behind: AtomicBool,
}

impl Progress for Watch {
    fn begin(&self, _: Stage, _: u64) {}
    fn advance(&self, _: u64) {}
    fn notice(&self, notice: Notice) {
        if matches!(notice, Notice::IndexBehind { .. }) {
            self.index_behind.store(true, Ordering::Relaxed);
        }
    }
    fn interrupted(&self) -> bool {
        false
    }
}

struct Scene {
    world: World,
    log: Vec<ckpt_tests::disk::Change>,
    /// Every file of the store before it was damaged, by its path in there.
    files: BTreeMap<PathBuf, Vec<u8>>,
    damage: Damage,
}

impl Scene {
    /// Four checkpoints in four packs: one pack loses its trailer, one a chunk, and what `lost` names is lost besides.
    fn new(lost: &[&str]) -> Self {
        let mut world = World::default();
        let disk = RecordingDisk::new(&world.root());
        let store = Store::init_on(&world.root(), disk.clone()).unwrap();
        let mut packs = Vec::new();
        for (step, seeds) in [(1, &[1, 2][..]), (2, &[1, 3]), (3, &[4, 5]), (4, &[6, 1])] {
            world.put_tree(&store, "a", step, &tensors(seeds));
            let now = ckpt_tests::lab::files(&world.root().join("packs"));
            packs.extend(now.into_iter().filter(|path| !packs.contains(path)).collect::<Vec<_>>());
        }
        let root = world.root();
        let inside = |path: &Path| path.strip_prefix(&root).unwrap().to_owned();
        let files: BTreeMap<PathBuf, Vec<u8>> =
            super::repair::contents(&root).into_iter().map(|(path, bytes)| (inside(&path), bytes)).collect();
        let mut damage = Damage::new();
        let [first, _, third, _] = &packs[..] else { panic!("{packs:?}") };
        let mut bytes = fs::read(first).unwrap();
        let len = bytes.len();
        bytes[len - 5] ^= 1;
        damage.insert(inside(first), Some(bytes));
        let mut bytes = fs::read(third).unwrap();
        let at = ckpt_tests::lab::pack_lines(&bytes)[0].offset;
        bytes[at + 99] ^= 1;
        damage.insert(inside(third), Some(bytes));
        for (nr, name) in lost.iter().enumerate() {
            let bytes = &files[Path::new(name)];
            damage.insert(name.into(), (nr % 2 == 1).then(|| bytes[..bytes.len() / 2].to_vec()));
        }
        Self { log: disk.log(), world, files, damage }
    }

    /// Damages an image of the store, as far as it still has what is to be damaged.
    fn damage(&self, image: &mut Image) {
        for (path, damaged) in &self.damage {
            if image.get(path).is_some_and(|bytes| bytes.as_deref() == Some(&self.files[path][..])) {
                match damaged {
                    Some(bytes) => drop(image.insert(path.clone(), Some(bytes.clone()))),
                    None => drop(image.remove(path)),
                }
            }
        }
    }

    fn damage_in(&self, root: &Path) {
        for (path, damaged) in &self.damage {
            match damaged {
                Some(bytes) => fs::write(root.join(path), bytes).unwrap(),
                None => fs::remove_file(root.join(path)).unwrap(),
            }
        }
    }

    /// Which checkpoints come back exactly; the others fail.
    fn whole(&self, root: &Path, what: &str) -> BTreeSet<CheckpointId> {
        let store = Store::open(root).unwrap_or_else(|error| panic!("{what}: {error}"));
        let mut whole = BTreeSet::new();
        for entry in store.checkpoints().unwrap_or_else(|error| panic!("{what}: {error}")) {
            match self.world.get(&store, &entry.id.to_string(), &Quiet) {
                Ok(tree) => {
                    assert_eq!(tree, self.world.trees[&entry.id], "{what}: {entry:?}");
                    whole.insert(entry.id);
                }
                Err(Error::Damaged(_)) => {}
                Err(error) => panic!("{what}: {entry:?}: {error}"),
            }
        }
        whole
    }

    /// Repairs once more: it ends where an undisturbed repair does, and what comes after it works.
    fn assert_mended(&self, root: &Path, expected: &BTreeSet<CheckpointId>, what: &str) {
        let report = Store::repair(root, &RepairRequest::default(), &Quiet);
        report.unwrap_or_else(|error| panic!("{what}: repair: {error}"));
        assert_eq!(self.whole(root, what), *expected, "{what}");
        without_index(root);
        let again = repair_all(root);
        assert!(again.is_idle(), "{what}: {again:?}");
        let store = Store::open(root).unwrap();
        let verified = store.verify(&Default::default(), &Quiet).unwrap();
        assert!(verified.objects.is_empty() && verified.harmless.is_empty(), "{what}: {verified:?}");
        gc(&store).unwrap_or_else(|error| panic!("{what}: gc: {error}"));
        assert_eq!(self.whole(root, what), *expected, "{what}, after gc");
    }
}

fn cut_everywhere(lost: &[&str]) {
    let scene = Scene::new(lost);
    let root = scene.world.root();
    // The repair is recorded on the damaged store, its changes are made to the image of the sound one, and that is damaged.
    scene.damage_in(&root);
    let disk = RecordingDisk::new(&root);
    let report = Store::repair_on(&root, disk.clone(), &RepairRequest::default(), &Quiet).unwrap();
    assert_done(&report, lost);
    let expected = scene.whole(&root, "undisturbed");
    assert_eq!(expected.len(), 3);
    let mut all = scene.log.clone();
    let files = all.iter().filter(|change| matches!(change, ckpt_tests::disk::Change::Create(..))).count();
    let begin = all.len();
    all.extend(disk.log().into_iter().map(|change| renumbered(change, files)));
    let at = scene.world.fresh("image");
    let mut seen = BTreeSet::new();
    for cut in begin..=all.len() {
        let directory = Directory::after(&all[..cut]);
        for loss in LOSSES {
            let mut image = directory.cut(loss, cut as u64);
            scene.damage(&mut image);
            if !seen.insert(image::digest(&image)) {
                continue;
            }
            let what = format!("{lost:?} cut after change {} of {}, {loss:?}", cut - begin, all.len() - begin);
            image::write(&image, &at);
            scene.assert_mended(&at, &expected, &what);
            fs::remove_dir_all(&at).unwrap();
        }
    }
    assert!(seen.len() > 10, "only {} images", seen.len());
}

fn assert_done(report: &RepairReport, lost: &[&str]) {
    assert_eq!((report.mended.len(), report.remade.len()), (2, lost.len()), "{report:?}");
    assert!(report.left.is_empty(), "{report:?}");
    // Without HEAD only what is whole comes back; with it, what is not is told.
    let told = if lost.is_empty() { (0, false) } else { (3, true) };
    assert_eq!((report.recovered.len(), report.damaged.is_empty()), told, "{report:?}");
}

/// A change of a second disk on the same directory: its files are numbered after those of the first.
fn renumbered(change: ckpt_tests::disk::Change, files: usize) -> ckpt_tests::disk::Change {
    use ckpt_tests::disk::Change;
    match change {
        Change::Create(path, nr) => Change::Create(path, nr + files),
        Change::Append(nr, bytes) => Change::Append(nr + files, bytes),
        Change::Sync(nr) => Change::Sync(nr + files),
        other => other,
    }
}

#[test]
fn a_repair_of_packs_can_be_cut_short_anywhere() {
    cut_everywhere(&[]);
}

#[test]
fn a_repair_of_everything_can_be_cut_short_anywhere() {
    // One is gone, the other half there.
    cut_everywhere(&["HEAD", "FORMAT"]);
}

#[test]
fn a_repair_survives_every_failing_call() {
    const EIO: i32 = 5;
    const ENOSPC: i32 = 28;
    for lost in [&[][..], &["HEAD", "FORMAT"]] {
        let scene = Scene::new(lost);
        scene.damage_in(&scene.world.root());
        let undisturbed = scene.world.fresh("undisturbed");
        image::copy(&scene.world.root(), &undisturbed);
        repair_all(&undisturbed);
        let expected = scene.whole(&undisturbed, "undisturbed");
        assert_eq!(expected.len(), 3);
        let root = scene.world.fresh("copy");
        image::copy(&scene.world.root(), &root);
        let before = if lost.is_empty() { scene.whole(&root, "before") } else { BTreeSet::new() };
        fs::remove_dir_all(&root).unwrap();
        for (errno, lasting) in [(EIO, false), (ENOSPC, false), (ENOSPC, true)] {
            for call in 0.. {
                image::copy(&scene.world.root(), &root);
                let (disk, failing) = FailingDisk::new(call, errno, lasting);
                let watch = Watch::default();
                let outcome = Store::repair_on(&root, disk, &RepairRequest::default(), &watch);
                let Some(failed) = failing.failed() else {
                    outcome.unwrap();
                    assert!(call > 8, "only {call} calls were made to fail");
                    fs::remove_dir_all(&root).unwrap();
                    break;
                };
                let what = format!("{lost:?}: call {call} fails with {errno}, lasting {lasting}: {failed}");
                match outcome {
                    Err(Error::NoSpace { .. }) if errno == ENOSPC => {}
                    Err(Error::Unavailable { .. }) if errno == EIO => {}
                    // The index was making the name of a pack durable that it took in. It is derived, and says so.
                    Ok(_) if watch.index_behind.load(Ordering::Relaxed) => {}
                    other => panic!("{what}: {other:?}"),
                }
                if lost.is_empty() {
                    assert!(scene.whole(&root, &what).is_superset(&before), "{what}: worse than before");
                }
                scene.assert_mended(&root, &expected, &what);
                fs::remove_dir_all(&root).unwrap();
            }
        }
    }
}
