//! Files that are laid down whole beside a mount, and that the kernel then reads by itself.

use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use ckpt_tests::lab::files;
use ckpt_tests::map::Map;
use ckpt_tests::mount::{Mount, Mounting, NOBODY, has_program, is_root, mountable};
use ckpt_tests::mounts::{mount_small, open_fuse_to_all, with_mounts};
use ckpt_tests::readers::{assert_same_bytes, assert_same_reads};
use ckpt_tests::run::{command_by, copy_for_all, on, run};
use ckpt_tests::sample::{self, Node, Tree};
use serde_json::Value;

use super::{NOTICES, Scene, program, wait_for};

/// How long it may take to lay some MB down while other tests run.
const LAYS_DOWN: Duration = Duration::from_secs(30);

/// Two files of these numbers of bytes.
fn two(a: usize, b: usize) -> Tree {
    let bytes = |seed, len| Node::File(sample::noise(seed, len), 0o644);
    Tree::directory().with("a.bin", bytes(1, a)).with("b.bin", bytes(2, b))
}

fn mounted(scene: &Scene, at: &str, limit: &str) -> Mount {
    let laid = scene.lab.path("laid");
    let args = ["--materialize".as_ref(), laid.as_os_str(), "--materialize-limit".as_ref(), limit.as_ref()];
    Mounting::new(&scene.lab.store(), &scene.lab.path(at)).args(args).start()
}

/// Whether files can be handed to the kernel here at all, which takes root and Linux 6.9. Says so when not.
fn passes_through(scene: &Scene) -> bool {
    let mount = mounted(scene, "probe", "1MB");
    let why = status(scene, &mount)["materialize_why_not"].as_str().map(str::to_owned);
    why.iter().for_each(|why| eprintln!("skipped: {why}"));
    why.is_none()
}

fn status(scene: &Scene, mount: &Mount) -> Value {
    run(on(&scene.lab.store()).args(["mount", "--status", "--json"]).arg(mount.at())).json()
}

/// The files that are laid down.
fn laid(scene: &Scene) -> Vec<PathBuf> {
    let is_one = |path: &PathBuf| path.file_name().is_some_and(|name| !name.to_string_lossy().contains("lock"));
    files(&scene.lab.path("laid")).into_iter().filter(is_one).collect()
}

fn laid_down(scene: &Scene, mount: &Mount, count: u64) {
    wait_for("files are laid down", LAYS_DOWN, || status(scene, mount)["materialized"]["files"] == count);
}

/// All of a file, mapped as loaders do.
fn map_of(file: &File) -> Map {
    Map::new(file, 0, usize::MAX, libc::MAP_SHARED).unwrap()
}

/// Opens a file, reads it through and closes it, twice.
fn read_twice(path: &Path) {
    for _ in 0..2 {
        // Not from the page cache: only what is read here is known to be wanted.
        ckpt_tests::calls::forget(&File::open(path).unwrap());
        fs::read(path).unwrap();
    }
    File::open(path).unwrap();
}

#[test]
fn files_that_are_opened_again_are_read_by_the_kernel_itself() {
    let scene = Scene::new();
    if !mountable() || !passes_through(&scene) {
        return;
    }
    let original = scene.put(&two(5_000_001, 3 << 20), "r", 1);
    let mount = mounted(&scene, "mnt", "100MB");
    let at = mount.path("r/step-1");
    // One that is open by way of the server keeps all others from being read in the other way.
    let early = File::open(at.join("a.bin")).unwrap();
    read_twice(&at.join("a.bin"));
    read_twice(&at.join("b.bin"));
    laid_down(&scene, &mount, 2);
    let mut map = map_of(&early);
    assert_same_reads(&original, &at, 1, 150);
    let bytes = fs::read(original.join("a.bin")).unwrap();
    assert!(map.bytes() == bytes);
    let path = laid(&scene).into_iter().find(|path| path.metadata().unwrap().len() == 5_000_001).unwrap();
    assert!(fs::read(&path).unwrap() == bytes);
    // What only the kernel can see when it reads that file itself.
    let file = File::options().write(true).open(&path).unwrap();
    file.write_all_at(&[!bytes[4_000_000]], 4_000_000).unwrap();
    let seen = |file: &File| {
        let mut byte = [0];
        file.read_exact_at(&mut byte, 4_000_000).unwrap();
        byte[0] != bytes[4_000_000]
    };
    let with_early = File::open(at.join("a.bin")).unwrap();
    assert!(!seen(&early) && !seen(&with_early), "it is read by way of the server as long as somebody does");
    drop((early, with_early));
    map = map_of(&File::open(at.join("b.bin")).unwrap());
    // The last page of the mapping and the last handle are gone; the kernel tells the server a moment later.
    wait_for("the kernel reads it", NOTICES, || seen(&File::open(at.join("a.bin")).unwrap()));
    let through: Vec<File> = (0..5).map(|_| File::open(at.join("a.bin")).unwrap()).collect();
    assert!(through.iter().all(seen));
    file.write_all_at(&[bytes[4_000_000]], 4_000_000).unwrap();
    assert!(!through.iter().any(seen));
    assert_same_reads(&original, &at, 2, 300);
    // It is gone from under those that have it open, and from under the next one.
    fs::remove_file(&path).unwrap();
    drop(through[0].try_clone().unwrap());
    assert_same_reads(&original, &at, 3, 50);
    drop(through);
    assert_same_bytes(&original, &at, "by way of the server again");
    assert!(map.bytes() == fs::read(original.join("b.bin")).unwrap());
    assert_eq!(mount.log().lines().filter(|line| line.contains("laid")).count(), 0, "{}", mount.log());
    drop(map);
    drop(mount);
    assert_eq!(laid(&scene), Vec::<PathBuf>::new(), "nothing is left of a mount that ended");
}

#[test]
fn views_are_laid_down_too() {
    let scene = Scene::new();
    if !mountable() || !passes_through(&scene) {
        return;
    }
    let tensors = [("a", 1000, 700_000), ("b", 1003, 500_000)];
    let tree = Tree::directory().with("m.safetensors", Node::File(sample::safetensors(&tensors), 0o644));
    scene.put(&tree, "r", 1);
    let mount = mounted(&scene, "mnt", "100MB");
    let views = [mount.path("r/step-1/.safetensors"), mount.path("r/step-1/.tensors/a.npy")];
    let before: Vec<Vec<u8>> = views.iter().map(|path| fs::read(path).unwrap()).collect();
    views.iter().for_each(|path| read_twice(path));
    laid_down(&scene, &mount, 2);
    for (path, before) in views.iter().zip(before) {
        assert!(fs::read(path).unwrap() == before);
    }
    let mut lens: Vec<u64> = laid(&scene).iter().map(|path| path.metadata().unwrap().len()).collect();
    lens.sort_unstable();
    assert_eq!(lens[0], 700_000 * 4 + 128);
}

#[test]
fn there_is_never_more_than_the_limit_and_what_is_open_stays() {
    let scene = Scene::new();
    if !mountable() || !passes_through(&scene) {
        return;
    }
    let original = scene.put(&two(3_000_000, 2_500_000), "r", 1);
    scene.put(&Tree::directory().with("c.bin", Node::File(sample::noise(3, 5_000_001), 0o644)), "r", 2);
    let mount = mounted(&scene, "mnt", "5MB");
    let at = mount.path("r/step-1");
    // One of those that are listed may go before it is looked at.
    let sizes = || laid(&scene).iter().filter_map(|path| Some(path.metadata().ok()?.len())).collect::<Vec<_>>();
    read_twice(&at.join("a.bin"));
    laid_down(&scene, &mount, 1);
    assert_eq!(sizes(), [3_000_000]);
    read_twice(&mount.path("r/step-2/c.bin"));
    let why_not = || status(&scene, &mount)["materialize_why_not"].clone();
    assert_eq!(why_not(), "c.bin of r@2 is larger than all that may be laid down");
    read_twice(&at.join("b.bin"));
    wait_for("the other one takes its place", LAYS_DOWN, || sizes() == [2_500_000]);
    wait_for("it is ready", LAYS_DOWN, || status(&scene, &mount)["materialized"]["bytes"] == 2_500_000);
    let mut open = File::open(at.join("b.bin")).unwrap();
    read_twice(&at.join("a.bin"));
    read_twice(&at.join("a.bin"));
    assert_eq!(sizes(), [2_500_000]);
    let mut bytes = Vec::new();
    open.read_to_end(&mut bytes).unwrap();
    assert!(bytes == fs::read(original.join("b.bin")).unwrap());
    assert_same_bytes(&original, &at, "whatever is laid down");
    assert_eq!(sizes(), [2_500_000]);
}

#[test]
fn mounts_share_a_directory_and_what_a_killed_one_left_is_removed() {
    let scene = Scene::new();
    if !mountable() || !passes_through(&scene) {
        return;
    }
    let original = scene.put(&two(2_000_000, 1_500_000), "r", 1);
    let mut killed = mounted(&scene, "mnt-1", "100MB");
    let other = mounted(&scene, "mnt-2", "100MB");
    read_twice(&killed.path("r/step-1/a.bin"));
    read_twice(&other.path("r/step-1/b.bin"));
    laid_down(&scene, &killed, 1);
    laid_down(&scene, &other, 1);
    fs::write(scene.lab.path("laid/mine"), b"mine").unwrap();
    killed.kill();
    drop(killed);
    assert_eq!(laid(&scene).len(), 3);
    let third = mounted(&scene, "mnt-3", "100MB");
    let left: Vec<u64> = laid(&scene).iter().map(|path| path.metadata().unwrap().len()).collect();
    assert!(left.len() == 2 && left.contains(&1_500_000) && left.contains(&4), "{left:?}");
    for mount in [&other, &third] {
        assert_same_bytes(&original, &mount.path("r/step-1"), "after one was killed");
    }
}

#[test]
fn no_room_is_no_error_for_who_reads() {
    let scene = Scene::new();
    if !mountable() || !passes_through(&scene) {
        return;
    }
    let original = scene.put(&two(3_000_000, 400_000), "r", 1);
    with_mounts(|| {
        fs::create_dir_all(scene.lab.path("laid")).unwrap();
        mount_small(&scene.lab.path("laid"), 1 << 20);
        // A tmpfs lets everybody write at first.
        fs::set_permissions(scene.lab.path("laid"), fs::Permissions::from_mode(0o755)).unwrap();
        let mount = mounted(&scene, "mnt", "100MB");
        let at = mount.path("r/step-1");
        read_twice(&at.join("a.bin"));
        wait_for("it says so", LAYS_DOWN, || mount.log().contains("a.bin of r@1 is not laid down"));
        assert_eq!(laid(&scene), Vec::<PathBuf>::new());
        assert_same_reads(&original, &at, 1, 100);
        assert_eq!(mount.log().matches("laid").count(), 1, "{}", mount.log());
        assert_eq!(status(&scene, &mount)["materialized"]["bytes"], 0);
        let why = status(&scene, &mount)["materialize_why_not"].to_string();
        assert!(why.contains("laid can't be written to: No space left on device"), "{why}");
        let text = run(on(&scene.lab.store()).args(["mount", "--status"]).arg(mount.at()));
        assert!(text.text().contains("\nnot laid down  /"), "{}", text.text());
    });
}

#[test]
fn a_damaged_file_keeps_no_other_from_being_laid_down() {
    let scene = Scene::new();
    if !mountable() || !passes_through(&scene) {
        return;
    }
    scene.put(&Tree::directory().with("bad.bin", Node::File(sample::noise(5, 3_000_000), 0o644)), "r", 1);
    for path in files(&scene.lab.store().join("packs")) {
        let mut pack = fs::read(&path).unwrap();
        let middle = pack.len() / 2;
        pack[middle] ^= 1;
        fs::write(&path, pack).unwrap();
    }
    scene.put(&two(1_000_000, 50_000), "r", 2);
    let mount = mounted(&scene, "mnt", "100MB");
    for _ in 0..3 {
        ckpt_tests::calls::forget(&File::open(mount.path("r/step-1/bad.bin")).unwrap());
        fs::read(mount.path("r/step-1/bad.bin")).unwrap_err();
    }
    // What lies before the damage was read through too seldom by now.
    let bad = File::open(mount.path("r/step-1/bad.bin")).unwrap();
    let mut byte = [0];
    for at in (0..3_000_000).step_by(4096) {
        let _ = bad.read_at(&mut byte, at);
    }
    drop(bad);
    drop(File::open(mount.path("r/step-1/bad.bin")).unwrap());
    wait_for("it is tried", LAYS_DOWN, || mount.log().contains("bad.bin of r@1 is not laid down"));
    read_twice(&mount.path("r/step-2/a.bin"));
    laid_down(&scene, &mount, 1);
    assert_eq!(status(&scene, &mount)["materialize_why_not"], Value::Null);
}

#[test]
fn who_may_not_hand_files_over_is_told_why() {
    if !mountable() || !is_root() || !has_program("fusermount3") {
        return;
    }
    with_mounts(by_an_ordinary_user);
}

fn by_an_ordinary_user() {
    let scene = Scene::new();
    fs::create_dir(scene.lab.path("dev")).unwrap();
    open_fuse_to_all(&scene.lab.path("dev"));
    let path = scene.lab.path("mnt");
    let original = scene.put(&two(100_000, 50_000), "r", 1);
    fs::create_dir_all(scene.lab.path("laid")).unwrap();
    program(Command::new("chmod").arg("755").arg(scene.lab.dir()));
    let theirs = [scene.lab.store(), scene.lab.path("laid"), original.clone()];
    program(Command::new("chown").arg("-R").arg(NOBODY.to_string()).args(theirs));
    let ckpt = copy_for_all(scene.lab.dir());
    let laid_in = scene.lab.path("laid");
    let mounting = Mounting::new(&scene.lab.store(), &path).by(&ckpt).user(NOBODY);
    let mount = mounting.args(["--materialize".as_ref(), laid_in.as_os_str()]).start();
    for _ in 0..3 {
        let compare = ["-r", "--exclude=.safetensors", "--exclude=.tensors"];
        program(Command::new("diff").args(compare).arg(&original).arg(path.join("r/step-1")).uid(NOBODY).gid(NOBODY));
    }
    let mut asking = command_by(&ckpt);
    asking.arg("--store").arg(scene.lab.store()).args(["mount", "--status", "--json"]).arg(mount.at());
    let told = run(asking.uid(NOBODY).gid(NOBODY));
    assert_eq!(told.code, Some(0), "{told:?}");
    assert_eq!(told.json()["materialize_why_not"], "only root may hand files to the kernel");
    assert_eq!((&told.json()["materialized"]["files"], laid(&scene)), (&Value::from(0), Vec::new()));
    assert!(mount.log().contains("Note: files are not laid down: only root may hand"), "{}", mount.log());
    assert!(mount.log().contains("only root may hand files to the kernel"), "{}", mount.log());
}
