//! A disk that is slow or refuses, and a process that is short of descriptors: nobody else waits, and the log says why,
//! once.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::{Duration, Instant};

use ckpt_tests::lab::files;
use ckpt_tests::mount::{Mount, Mounting, has_program, mountable};
use ckpt_tests::sample::{self, Node, Tree};

use super::{NOTICES, Scene, wait_for};

/// A checkpoint of one file that no other has a byte of.
fn put(scene: &Scene, run: &str, seed: u64, bytes: usize) {
    scene.put(&Tree::directory().with("model.bin", Node::File(sample::noise(seed, bytes), 0o644)), run, 1);
}

/// A mount whose server meets this each time that it opens a file of the store. A signal to it would be strace's.
fn opening(scene: &Scene, path: &Path, meets: &str) -> Mount {
    let (calls, inject) = (scene.lab.path("calls"), format!("inject=openat:{meets}"));
    let strace = ["strace", "-f", "-qq", "-e", "trace=openat", "-e", &inject, "-o"].map(OsStr::new);
    let wrapper = strace.into_iter().chain([calls.as_os_str(), OsStr::new("-P"), path.as_os_str()]);
    Mounting::new(&scene.lab.store(), &scene.lab.path("mnt")).under(wrapper).start()
}

#[test]
fn one_that_is_slow_to_open_keeps_nobody_else_waiting() {
    if !mountable() || !has_program("strace") {
        return;
    }
    let scene = Scene::new();
    put(&scene, "slow", 1, 100_000);
    put(&scene, "quick", 2, 100_000);
    let id = scene.lab.open().resolve("slow@1").unwrap().id;
    let manifest = scene.lab.store().canonicalize().unwrap().join(format!("checkpoints/{id}"));
    let mount = opening(&scene, &manifest, "delay_enter=6000000");
    let [slow, quick] = ["slow", "quick"].map(|run| mount.path(format!("{run}/step-1/model.bin")));
    // Now both are known by their names, and none is open.
    assert!(fs::metadata(&slow).unwrap().is_file() && fs::metadata(&quick).unwrap().is_file());
    std::thread::scope(|scope| {
        let opening = scope.spawn(|| {
            let begun = Instant::now();
            File::open(&slow).unwrap();
            begun.elapsed()
        });
        std::thread::sleep(Duration::from_millis(500));
        let others = Instant::now();
        assert!(fs::read(&quick).unwrap() == sample::noise(2, 100_000));
        let others = others.elapsed();
        let slow = opening.join().unwrap();
        assert!(slow >= Duration::from_secs(6), "nothing was slow: {slow:?}");
        assert!(others < Duration::from_secs(5), "another one took {others:?}");
    });
    mount.umount();
}

#[test]
fn many_checkpoints_are_open_at_a_time() {
    if !mountable() {
        return;
    }
    let scene = Scene::new();
    // Each in packs of its own, which stay open for a while.
    let runs: Vec<String> = (0..60).map(|nr| format!("r{nr}")).collect();
    runs.iter().zip(0..).for_each(|(run, nr)| put(&scene, run, nr, 50_000));
    let few = ["sh", "-c", "ulimit -Sn 100; exec \"$@\"", "sh"];
    let mount = Mounting::new(&scene.lab.store(), &scene.lab.path("mnt")).under(few).start();
    let open = |run: &String| File::open(mount.path(run).join("step-1/model.bin")).unwrap();
    let open: Vec<File> = runs.iter().map(open).collect();
    for (file, nr) in open.iter().zip(0..) {
        let mut bytes = vec![0; 50_000];
        file.read_exact_at(&mut bytes, 0).unwrap_or_else(|error| panic!("{nr}: {error}: {}", mount.log()));
        assert!(bytes == sample::noise(nr, 50_000));
    }
}

#[test]
fn why_a_file_can_not_be_read_is_told_once_and_with_its_cause() {
    if !mountable() || !has_program("strace") {
        return;
    }
    let scene = Scene::new();
    put(&scene, "r", 1, 3_000_000);
    let pack = files(&scene.lab.store().canonicalize().unwrap().join("packs")).remove(0);
    let mount = opening(&scene, &pack, "error=EIO");
    let file = File::open(mount.path("r/step-1/model.bin")).unwrap();
    for at in 0..20 {
        assert_eq!(file.read_at(&mut [0; 10], at * 100_000).unwrap_err().raw_os_error(), Some(libc::EIO));
    }
    let told = format!("can't open {}: Input/output error (os error 5)\n", pack.display());
    assert_eq!(mount.log().matches("can't open").count(), 1, "{}", mount.log());
    assert!(mount.log().contains(&told), "{}", mount.log());
    drop(file);
    mount.umount();
}

#[test]
fn why_nothing_changes_any_more_is_told_once() {
    if !mountable() {
        return;
    }
    let scene = Scene::new();
    put(&scene, "r", 1, 100_000);
    let mount = scene.mount();
    let lines = |text: &str| mount.log().lines().filter(|line| line.contains(text)).count();
    let (head, aside) = (scene.lab.store().join("HEAD"), scene.lab.path("HEAD.aside"));
    fs::rename(&head, &aside).unwrap();
    wait_for("it is told", NOTICES, || lines("what is shown stays as it was") > 0);
    std::thread::sleep(Duration::from_millis(2500));
    assert_eq!(lines("what is shown stays as it was"), 1, "{}", mount.log());
    assert!(mount.path("r/step-1/model.bin").is_file());
    // What keeps a file from being opened is told as well, here while nothing else is.
    for _ in 0..5 {
        assert!(File::open(mount.path("r/step-1/model.bin")).is_err());
    }
    assert_eq!(lines("HEAD is damaged: it is missing"), 2, "{}", mount.log());
    fs::rename(&aside, &head).unwrap();
    wait_for("it is told", NOTICES, || lines("the store can be read again") == 1);
    put(&scene, "s", 2, 1000);
    wait_for("it is shown", NOTICES, || mount.path("s/step-1/model.bin").is_file());
    assert!(fs::read(mount.path("r/step-1/model.bin")).unwrap() == sample::noise(1, 100_000));
}
