//! Random layouts, read at random by every system call, against the originals.

use std::fs;
use std::path::Path;
use std::process::Command;

use ckpt_tests::mount::{Mounting, NOBODY, is_root, mountable};
use ckpt_tests::mounts::{open_fuse_to_all, with_mounts};
use ckpt_tests::odd;
use ckpt_tests::readers::{assert_same_by_many, assert_same_bytes, assert_same_metadata, assert_same_reads, files};
use ckpt_tests::run::{copy_for_all, run};
use ckpt_tests::sample::{self, Node, Tree};

use super::{Scene, program};

/// A checkpoint of few large files: chunks that are kept raw, that are encoded, that are shared and that are gathered.
fn large() -> Tree {
    let mut records: Vec<(u64, usize)> = (0..400).map(|nr| (nr, 1 + nr as usize * 13)).collect();
    records.extend([(1000, 700_000), (1001, 262_144), (1000, 700_000), (1002, 1_300_001)]);
    let tensors = [("a", 1000, 700_000), ("b", 1003, 500_000), ("empty", 1, 0), ("small", 5, 56), ("z", 6, 1)];
    Tree::directory()
        .with("model.pt", Node::File(sample::torch_zip(&records), 0o644))
        .with("model.safetensors", Node::File(sample::safetensors(&tensors), 0o644))
        .with("opaque.bin", Node::File(sample::noise(77, 9_500_001), 0o644))
        .with("vocabulary.txt", Node::File("token ".repeat(90_000).into_bytes(), 0o644))
}

/// The ways to read are right where the kernel itself answers, and what compares them sees one wrong bit.
#[test]
fn the_ways_agree_on_a_plain_directory() {
    let scene = Scene::new();
    let original = scene.lab.path("original-plain");
    large().write(&original);
    assert_same_metadata(&original, &original, "itself");
    assert_same_reads(&original, &original, 1, 300);
    assert_same_by_many(&original.join("model.pt"), &original.join("model.pt"), 1, 4, 30);
    let copy = scene.lab.path("original-copy");
    large().write(&copy);
    let mut bytes = fs::read(copy.join("model.pt")).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(copy.join("model.pt"), bytes).unwrap();
    let fails = |work: &(dyn Fn() + std::panic::RefUnwindSafe)| assert!(std::panic::catch_unwind(work).is_err());
    fails(&|| assert_same_bytes(&original, &copy, "one bit"));
    fails(&|| assert_same_reads(&original, &copy, 2, 2000));
    fails(&|| assert_same_metadata(&original, &copy, "the time"));
}

#[test]
fn odd_checkpoints_are_what_they_were() {
    if !mountable() {
        return;
    }
    let scene = Scene::new();
    let runs = ["r", "se-st/40k", "se-st/40k/deeper", "häuser"];
    let originals: Vec<_> = (0..12)
        .map(|seed| {
            let run = runs[seed as usize % runs.len()];
            (format!("{run}/step-{seed}"), scene.put(&odd::tree(seed), run, seed))
        })
        .collect();
    let mount = scene.mount();
    for (seed, (path, original)) in originals.iter().enumerate() {
        let mounted = mount.path(path);
        assert_same_metadata(original, &mounted, path);
        assert_same_reads(original, &mounted, seed as u64, 120);
        assert_same_bytes(original, &mounted, path);
    }
    mount.umount();
}

#[test]
fn any_read_in_any_way_brings_the_bytes_that_were_stored() {
    if !mountable() {
        return;
    }
    let scene = Scene::new();
    let original = scene.put(&large(), "r", 1);
    for (seed, cache) in [(1, "256MB"), (2, "8MB")] {
        let mount = Mounting::new(&scene.lab.store(), &scene.lab.path("mnt")).args(["--cache-size", cache]).start();
        assert_same_reads(&original, &mount.path("r/step-1"), seed, 500);
        assert_same_bytes(&original, &mount.path("r/latest"), "latest");
    }
}

#[test]
fn many_threads_read_one_descriptor() {
    if !mountable() {
        return;
    }
    let scene = Scene::new();
    let original = scene.put(&large(), "r", 1);
    let mount = scene.mount();
    for (seed, path) in files(&original).iter().enumerate() {
        assert_same_by_many(&original.join(path), &mount.path("r/step-1").join(path), seed as u64, 8, 40);
    }
    // And many files, each with a descriptor of its own.
    std::thread::scope(|scope| {
        for seed in 10..18 {
            let (original, mounted) = (&original, mount.path("r/step-1"));
            scope.spawn(move || assert_same_reads(original, &mounted, seed, 40));
        }
    });
}

/// The files that real frameworks wrote for the golden tests.
#[test]
fn files_of_frameworks_are_what_they_were() {
    if !mountable() {
        return;
    }
    let scene = Scene::new();
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("golden/formats");
    let original = scene.lab.path("original-formats");
    fs::create_dir(&original).unwrap();
    for path in files(&golden) {
        fs::copy(golden.join(&path), original.join(&path)).unwrap();
    }
    super::set_times(&original);
    scene.lab.put(&[&original], "formats", 7).unwrap();
    // A single file lies in the directory of its checkpoint under its own name.
    scene.lab.put(&[&original.join("model.keras")], "single", 1).unwrap();
    let mount = scene.mount();
    assert_same_metadata(&original, &mount.path("formats/step-7"), "formats");
    assert_same_reads(&original, &mount.path("formats/step-7"), 3, 200);
    let single = fs::read(mount.path("single/step-1/model.keras")).unwrap();
    assert!(single == fs::read(original.join("model.keras")).unwrap());
}

/// One who is not root mounts by fusermount3, sees all of it, and others see nothing unless that was asked for.
#[test]
fn an_ordinary_user_mounts_and_reads() {
    if !mountable() || !is_root() || !ckpt_tests::mount::has_program("fusermount3") {
        return;
    }
    let mut worked = false;
    with_mounts(|| {
        by_an_ordinary_user();
        worked = true;
    });
    assert!(worked, "root can mount");
}

fn by_an_ordinary_user() {
    let scene = Scene::new();
    let (original, path) = (scene.put(&large(), "r", 1), scene.lab.path("mnt"));
    fs::create_dir(scene.lab.path("dev")).unwrap();
    open_fuse_to_all(&scene.lab.path("dev"));
    fs::set_permissions(scene.lab.dir(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    program(Command::new("chown").arg("-R").arg(NOBODY.to_string()).args([scene.lab.store(), original.clone()]));
    let ckpt = copy_for_all(scene.lab.dir());
    let _mount = Mounting::new(&scene.lab.store(), &path).by(&ckpt).user(NOBODY).start();
    let by = |uid: u32, program: &str, args: &[&str]| {
        use std::os::unix::process::CommandExt;
        run(Command::new(program).args(args).arg(&original).arg(path.join("r/step-1")).uid(uid).gid(uid))
    };
    let compared = by(NOBODY, "diff", &["-r", "--exclude=.safetensors", "--exclude=.tensors"]);
    assert_eq!((compared.code, compared.text()), (Some(0), ""), "{compared:?}");
    for other in [0, 1] {
        let refused = by(other, "diff", &["-r"]);
        assert_eq!(refused.code, Some(2), "{refused:?}");
        assert!(refused.stderr.contains("Permission denied"), "{refused:?}");
    }
}
