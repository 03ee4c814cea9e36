//! A disk that is slow or refuses, and a process that is short of descriptors: nobody else waits, and the log says why, once.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::time::{Duration, Instant};

use ckpt_tests::mount::{Mounting, has_program, mountable};
use ckpt_tests::sample::{self, Node, Tree};

use super::Scene;

/// A checkpoint of one file that no other has a byte of.
fn put(scene: &Scene, run: &str, seed: u64, bytes: usize) {
    scene.put(&Tree::directory().with("model.bin", Node::File(sample::noise(seed, bytes), 0o644)), run, 1);
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
    let calls = scene.lab.path("calls");
    let strace = ["strace", "-f", "-qq", "-e", "trace=openat", "-e", "inject=openat:delay_enter=6000000", "-o"];
    let wrapper = strace.iter().map(OsStr::new).chain([calls.as_os_str(), OsStr::new("-P"), manifest.as_os_str()]);
    let mount = Mounting::new(&scene.lab.store(), &scene.lab.path("mnt")).under(wrapper).start();
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
    // A signal would be strace's.
    mount.umount();
}
