//! Taking over checkpoints that lie in a directory: nothing is lost at any moment, whatever happens.
#![allow(clippy::unwrap_used, reason = "a test that can't go on has failed")]

mod names;

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::Path;
use std::time::{Duration, Instant};

use ckpt_store::{Error, GetRequest, ImportAction, ImportDone, ImportRequest, ImportResult, Quiet, Store};
use ckpt_tests::disk::{Call, FailingDisk, HookDisk};
use ckpt_tests::lab::{Lab, names, noise};
use ckpt_tests::mounts::{free_bytes, mount_small, with_mounts};
use ckpt_tests::run::Ran;
use ckpt_tests::sample::{self, Node, Tree};
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

/// A checkpoint of a frozen part and one that trains.
fn model(step: u64, frozen: usize, trained: usize) -> Vec<u8> {
    sample::safetensors(&[("frozen", 7, frozen), ("head", 1000 + step, trained)])
}

fn get(store: &Path, reference: &str, to: &Path) -> Option<Tree> {
    sample::remove(to);
    let request = GetRequest { reference: reference.into(), ..GetRequest::default() };
    Store::open(store).unwrap().get(&request, to, &Quiet).ok()?;
    Some(Tree::read(to))
}

fn request(lab: &Lab) -> ImportRequest {
    ImportRequest { dir: lab.path("d"), run: "r".into(), delete_source: true, ..ImportRequest::default() }
}

/// Imports in this process; the results by their paths.
fn import(store: &Store, request: &ImportRequest) -> (BTreeMap<String, ImportResult>, Option<Error>) {
    let report = store.import(store.plan_import(request).unwrap(), &mut |_| (), &Quiet);
    let by_name = |result: ImportResult| (result.item.name.to_string_lossy().into_owned(), result);
    (report.results.into_iter().map(by_name).collect(), report.stopped)
}

/// Each is still in the directory as it was, or in the store as it was.
fn assert_nothing_lost(lab: &Lab, originals: &BTreeMap<String, (String, Tree)>, what: &str) {
    for (name, (reference, original)) in originals {
        let path = lab.path("d").join(name);
        if path.exists() {
            assert_eq!(&Tree::read(&path), original, "{what}: {name} is another");
        } else {
            let got = get(&lab.store(), reference, &lab.path("back"));
            assert_eq!(got.as_ref(), Some(original), "{what}: {name} is gone and not stored");
        }
    }
}

fn write_all(lab: &Lab, originals: &BTreeMap<String, (String, Tree)>) {
    fs::create_dir_all(lab.path("d")).unwrap();
    originals.iter().for_each(|(name, (_, tree))| tree.write(&lab.path("d").join(name)));
}

/// Case D: the checkpoints take most of the disk, what is free is less than they take.
#[test]
fn a_nearly_full_disk_is_taken_over() {
    let lab = Lab::bare();
    fs::create_dir(lab.path("disk")).unwrap();
    with_mounts(|| {
        mount_small(&lab.path("disk"), 64 << 20);
        let (store, dir) = (lab.path("disk/store"), lab.path("disk/d"));
        fs::create_dir(&dir).unwrap();
        let originals: Vec<(String, Vec<u8>)> = (1..=13)
            .map(|epoch| {
                let name = format!("epoch={epoch}-step={}-val_loss=0.{}.ckpt", epoch * 100, 90 - epoch);
                (name, [model(epoch, 300_000, 10_000), noise(epoch, 2_500_000)].concat())
            })
            .collect();
        originals.iter().for_each(|(name, bytes)| fs::write(dir.join(name), bytes).unwrap());
        let total: u64 = originals.iter().map(|(_, bytes)| bytes.len() as u64).sum();
        let on = |args: &[&str]| {
            let mut command = ckpt_tests::run::on(&store);
            ckpt_tests::run::run(command.args(args).current_dir(lab.path("disk")))
        };
        on(&["init"]).expect(0);
        assert!(free_bytes(&dir) < total / 2, "the disk is too large for this test");
        // Without removing anything there is no room for all of them, and nothing is lost by trying.
        let full = on(&["import", "d", "--run", "r"]).expect(5);
        full.says("no room").says("The same command goes on from here");
        for (name, bytes) in &originals {
            assert!(fs::read(dir.join(name)).unwrap() == *bytes, "{name}");
        }
        let stored = Store::open(&store).unwrap().checkpoints().unwrap().len();
        assert!((1..13).contains(&stored), "{stored} were stored");
        let done = on(&["import", "d", "--run", "r", "--delete-source", "--json"]);
        let done = done.expect(0).json();
        assert_eq!(done["already_stored"], stored, "{done}");
        assert_eq!((&done["removed"], &done["failed"]), (&13.into(), &0.into()), "{done}");
        assert!(names(&dir).is_empty());
        for (epoch, (_, bytes)) in (1..).zip(&originals) {
            let reference = format!("r@{}", epoch * 100);
            assert!(on(&["get", &reference, "-"]).expect(0).stdout == *bytes, "{reference}");
        }
        let best = on(&["show", "r@best", "--json"]).expect(0).json();
        assert_eq!((&best["step"], &best["metrics"]["val_loss"]), (&1300.into(), &0.77.into()));
        on(&["verify"]).expect(0);
    });
}

/// A few files and a tree, with what they are in the store.
fn series(round: u64) -> BTreeMap<String, (String, Tree)> {
    let file = |step: u64| {
        let tree = Tree::file(model(round * 100 + step, 200_000, 20_000));
        (format!("epoch={step}-step={step}.ckpt"), (format!("r{round}@{step}"), tree))
    };
    let mut all: BTreeMap<_, _> = (1..=6).map(file).collect();
    let mut tree = Tree::directory();
    for nr in 0..20 {
        tree = tree.with(&format!("part{nr:02}.bin"), Node::File(noise(round * 50 + nr, 30_000), 0o644));
    }
    tree = tree.with("sub", Node::Directory(0o755)).with("sub/x.pt", Node::File(noise(round, 200_000), 0o600));
    all.insert("checkpoint-9".into(), (format!("r{round}@9"), tree.with("link", Node::Link("sub/x.pt".into()))));
    all
}

#[test]
fn killed_at_any_moment_it_loses_nothing_and_goes_on() {
    let lab = Lab::quick();
    let mut rng = SmallRng::seed_from_u64(0x1234_5678);
    let mut longest = Duration::from_millis(400);
    let (mut killed, mut half) = (0, 0);
    for round in 0..26 {
        let originals = series(round);
        write_all(&lab, &originals);
        let run = format!("r{round}");
        let args: [&dyn AsRef<std::ffi::OsStr>; 5] = [&"import", &"d", &"--run", &run, &"--delete-source"];
        for attempt in 0.. {
            let started = Instant::now();
            let mut child = lab.start(&args);
            if attempt < 3 {
                std::thread::sleep(longest.mul_f64(rng.random_range(0.0..1.0)));
                child.kill().unwrap();
            }
            let outcome = Ran::from(child.wait_with_output().unwrap());
            assert!(matches!(outcome.code, None | Some(0)), "{outcome:?}");
            assert_nothing_lost(&lab, &originals, &format!("round {round}, attempt {attempt}"));
            if outcome.code == Some(0) {
                longest = if attempt == 0 { started.elapsed() } else { longest };
                break;
            }
            killed += 1;
            half += usize::from(names(&lab.path("d")).len() < originals.len());
        }
        assert!(names(&lab.path("d")).is_empty(), "round {round}: {:?}", names(&lab.path("d")));
        assert_eq!(lab.open().checkpoints_of(&run).unwrap().len(), originals.len(), "round {round}");
        assert_nothing_lost(&lab, &originals, &format!("round {round}"));
    }
    assert!(killed > 20 && half > 3, "the times were not random: {killed} killed, {half} in the middle");
    assert!(lab.verify().unwrap().is_sound());
}

/// What an import of one file and one tree does when `hook` is asked before each change of the disk.
fn with_hook(hook: impl Fn(&Path, Call<'_>) -> std::io::Result<()> + Send + Sync + 'static) -> (Lab, ImportResult) {
    let lab = Lab::quick();
    lab.write("d/step=5.ckpt", &model(5, 100_000, 10_000));
    let root = lab.dir().to_owned();
    let store = Store::open_on(&lab.store(), HookDisk::new(move |call| hook(&root, call))).unwrap();
    let (mut results, stopped) = import(&store, &request(&lab));
    assert!(stopped.is_none(), "{stopped:?}");
    let result = results.remove("step=5.ckpt").unwrap();
    (lab, result)
}

fn is_of_source(root: &Path, path: &Path) -> bool {
    path == root.join("d/step=5.ckpt")
}

#[test]
fn a_source_that_changes_before_it_is_removed_is_kept() {
    let (lab, result) = with_hook(|root, call| {
        if let Call::Rename(from, _) = call
            && is_of_source(root, from)
        {
            OpenOptions::new().append(true).open(from)?.write_all(b"more")?;
        }
        Ok(())
    });
    assert!(matches!(&result.outcome, Err(Error::Changed { .. })), "{result:?}");
    let original = model(5, 100_000, 10_000);
    assert!(fs::read(lab.path("d/step=5.ckpt")).unwrap() == [&original[..], b"more"].concat());
    assert_eq!(names(&lab.path("d")).len(), 1);
    assert_eq!(get(&lab.store(), "r@5", &lab.path("back")), Some(Tree::file(original)));
}

#[test]
fn a_file_that_takes_the_name_before_the_removal_is_kept() {
    let (lab, result) = with_hook(|root, call| {
        if let Call::Rename(from, _) = call
            && is_of_source(root, from)
        {
            fs::write(root.join("new"), b"a newer one")?;
            fs::rename(root.join("new"), from)?;
        }
        Ok(())
    });
    assert!(matches!(&result.outcome, Err(Error::Changed { .. })), "{result:?}");
    assert_eq!(fs::read(lab.path("d/step=5.ckpt")).unwrap(), b"a newer one");
}

#[test]
fn a_stored_copy_that_is_damaged_keeps_the_source() {
    let (lab, result) = with_hook(|root, call| {
        if matches!(call, Call::Rename(_, to) if to.ends_with("HEAD")) {
            for pack in ckpt_tests::lab::files(&root.join("store/packs")) {
                let mut bytes = fs::read(&pack)?;
                bytes[4200..4400].fill(0x55);
                fs::write(&pack, bytes)?;
            }
        }
        Ok(())
    });
    assert!(matches!(&result.outcome, Err(Error::Damaged(_))), "{result:?}");
    assert!(!result.removed);
    assert!(fs::read(lab.path("d/step=5.ckpt")).unwrap() == model(5, 100_000, 10_000));
}

/// At the moment at which a source loses its name, the store has it and gives it back.
#[test]
fn a_source_is_removed_only_when_it_is_stored() {
    let (lab, result) = with_hook(|root, call| {
        if let Call::Rename(from, _) = call
            && is_of_source(root, from)
        {
            let original = Tree::read(from);
            assert_eq!(get(&root.join("store"), "r@5", &root.join("back")), Some(original));
            fs::write(root.join("seen"), b"")?;
        }
        Ok(())
    });
    assert!(matches!(&result.outcome, Ok(ImportDone::Stored(_))) && result.removed, "{result:?}");
    assert!(lab.path("seen").exists() && names(&lab.path("d")).is_empty());
}

#[test]
fn every_call_that_fails_leaves_each_source_or_its_stored_copy() {
    let originals: BTreeMap<String, (String, Tree)> =
        series(0).into_iter().filter(|(name, _)| name.as_str() > "epoch=5" || name.starts_with('c')).collect();
    assert_eq!(originals.len(), 3);
    for (errno, lasting) in [(5, false), (28, false), (28, true)] {
        let mut failures = 0;
        for at in 0.. {
            let lab = Lab::quick();
            write_all(&lab, &originals);
            let (disk, failing) = FailingDisk::new(at, errno, lasting);
            // Opening makes no change on a sound store.
            let store = Store::open_on(&lab.store(), disk).unwrap();
            let request = ImportRequest { run: "r0".into(), ..request(&lab) };
            let (results, stopped) = import(&store, &request);
            let Some(failed) = failing.failed() else {
                assert!(stopped.is_none() && results.values().all(|result| result.removed), "{results:?}");
                break;
            };
            failures += 1;
            let what = format!("{failed} fails with {errno}");
            assert_nothing_lost(&lab, &originals, &what);
            // The same again on a disk that works.
            let store = lab.open();
            let (results, stopped) = import(&store, &request);
            assert!(stopped.is_none() && results.values().all(|result| result.outcome.is_ok()), "{what}: {results:?}");
            assert!(names(&lab.path("d")).is_empty(), "{what}: {:?}", names(&lab.path("d")));
            assert_nothing_lost(&lab, &originals, &what);
        }
        assert!(failures > 30, "only {failures} calls failed");
    }
}

#[test]
fn what_is_stored_already_is_recognised_by_its_bytes() {
    let lab = Lab::quick();
    let (a, b) = (model(1, 50_000, 10_000), model(2, 50_000, 10_000));
    lab.write("d/step=1.ckpt", &a);
    lab.write("d/step=2.ckpt", &b);
    let ran = lab.ok(&[&"import", &"d", &"--run", &"r"]);
    assert!(ran.text().ends_with("2 stored\n"), "{ran:?}");
    // One is another by now, of the same size and time.
    let time = fs::metadata(lab.path("d/step=2.ckpt")).unwrap().modified().unwrap();
    let mut other = b.clone();
    *other.last_mut().unwrap() ^= 1;
    let path = lab.write("d/step=2.ckpt", &other);
    fs::File::options().write(true).open(path).unwrap().set_modified(time).unwrap();
    let ran = lab.run(&[&"import", &"d", &"--run", &"r", &"--delete-source"]).expect(1);
    ran.says("step=2.ckpt").says("r@2 is stored and is something else");
    assert_eq!(names(&lab.path("d")).into_iter().collect::<Vec<_>>(), ["step=2.ckpt"]);
    assert!(fs::read(lab.path("d/step=2.ckpt")).unwrap() == other);
    assert_eq!(get(&lab.store(), "r@2", &lab.path("back")), Some(Tree::file(b)));
    assert_eq!(get(&lab.store(), "r@1", &lab.path("back")), Some(Tree::file(a)));
}

#[test]
fn the_rest_of_a_tree_is_removed_only_if_it_is_stored() {
    for spoilt in [false, true] {
        let lab = Lab::quick();
        let tree = series(0).remove("checkpoint-9").unwrap().1;
        fs::create_dir(lab.path("d")).unwrap();
        tree.write(&lab.path("d/checkpoint-9"));
        lab.ok(&[&"import", &"d", &"--run", &"r"]);
        // As a kill in the middle of a removal leaves it.
        let id = lab.open().resolve("r@9").unwrap().id;
        let hidden = lab.path("d").join(format!(".{id}.ckpt-removing"));
        fs::rename(lab.path("d/checkpoint-9"), &hidden).unwrap();
        fs::remove_file(hidden.join("part03.bin")).unwrap();
        if spoilt {
            fs::write(hidden.join("sub/new.pt"), b"not stored").unwrap();
        }
        lab.ok(&[&"import", &"d", &"--run", &"r"]);
        assert!(hidden.exists(), "it was removed without being asked to");
        let ran = lab.run(&[&"import", &"d", &"--run", &"r", &"--delete-source"]);
        if spoilt {
            ran.expect(1).says("sub/new.pt").says("it is kept");
            assert!(hidden.join("sub/new.pt").exists() && hidden.join("part04.bin").exists());
        } else {
            ran.expect(0);
            assert!(names(&lab.path("d")).is_empty());
        }
        assert_eq!(get(&lab.store(), "r@9", &lab.path("back")), Some(tree));
    }
}

/// What is to stay free is asked for as with put, and the import stops at once.
#[test]
fn the_reserve_is_heeded() {
    let lab = Lab::new();
    let originals = series(0);
    write_all(&lab, &originals);
    let all = [&"import" as &dyn AsRef<std::ffi::OsStr>, &"d", &"--run", &"r0", &"--delete-source"];
    let refused = lab.run(&[&all[..], &[&"--reserve", &"900TB"]].concat()).expect(5);
    refused.says("no room left for r0@").says("900 TB are to stay free");
    assert_nothing_lost(&lab, &originals, "refused");
    assert!(lab.open().checkpoints().unwrap().is_empty());
    lab.ok(&[&all[..], &[&"--reserve", &"0"]].concat());
    assert_nothing_lost(&lab, &originals, "with no reserve");
    assert_eq!(lab.open().checkpoints().unwrap().len(), originals.len());
}

#[test]
fn a_plan_changes_nothing() {
    let lab = Lab::quick();
    lab.write("d/step=2.ckpt", &model(2, 50_000, 1000));
    lab.write("d/step=1.ckpt", &model(1, 50_000, 1000));
    let before = Tree::read(&lab.path("d"));
    let plan = lab.ok(&[&"import", &"d", &"--run", &"r", &"--delete-source", &"--dry-run"]);
    let at = |text: &str| plan.text().find(text).unwrap_or_else(|| panic!("no {text}: {plan:?}"));
    assert!(at("step=1.ckpt") < at("step=2.ckpt") && at("would take over 2 checkpoints") > 0);
    assert_eq!(Tree::read(&lab.path("d")), before);
    assert!(lab.open().checkpoints().unwrap().is_empty());
    let plan = lab.open().plan_import(&request(&lab)).unwrap();
    assert!(plan.items.iter().all(|item| item.action == ImportAction::Store));
    assert_eq!(plan.bytes(), before.bytes());
}
