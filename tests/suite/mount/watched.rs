//! The kit itself: a mount that hangs fails its test and hangs nobody, and nothing is left behind.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use ckpt_tests::calls::forget;
use ckpt_tests::mount::{Mounting, minor_of, mountable};
use ckpt_tests::sample::{self, Node, Tree};

use super::Scene;

#[test]
fn a_mount_that_hangs_fails_its_test() {
    if !mountable() {
        return;
    }
    let scene = Scene::new();
    let tree = Tree::directory().with("model.bin", Node::File(sample::noise(1, 20_000_000), 0o644));
    scene.put(&tree, "r", 1);
    let at = scene.lab.path("mnt");
    let failed = catch_unwind(AssertUnwindSafe(|| {
        let mount = Mounting::new(&scene.lab.store(), &at).limit(Duration::from_secs(2)).start();
        let file = File::open(mount.path("r/step-1/model.bin")).unwrap();
        forget(&file);
        // SAFETY: a signal to the server, which this test has started.
        unsafe { libc::kill(mount.server().cast_signed(), libc::SIGSTOP) };
        // Nobody answers this, until the watchdog has broken the mount up.
        assert!(file.read_at(&mut [0; 100], 15_000_000).is_err());
    }));
    let panic = failed.expect_err("a hang is a failure");
    let told = panic.downcast_ref::<String>().cloned().unwrap_or_default();
    assert!(told.starts_with("it hung"), "{told}");
    assert!(minor_of(&at).is_none(), "the mount is still there");
    assert_eq!(fs::read_dir(&at).unwrap().count(), 0);
}

#[test]
fn a_test_that_panics_leaves_no_mount_and_no_server() {
    if !mountable() {
        return;
    }
    let scene = Scene::new();
    scene.put(&Tree::directory().with("file", Node::File(b"words".to_vec(), 0o644)), "r", 1);
    let (at, mut server) = (scene.lab.path("mnt"), 0);
    let failed = catch_unwind(AssertUnwindSafe(|| {
        let mount = scene.mount();
        server = mount.server();
        // What is open when a test fails does not keep the mount.
        let _open = File::open(mount.path("r/step-1/file")).unwrap();
        panic!("as a failing test");
    }));
    assert_eq!(failed.unwrap_err().downcast_ref::<&str>(), Some(&"as a failing test"));
    assert!(minor_of(&at).is_none() && server > 0);
    let cmdline = fs::read(format!("/proc/{server}/cmdline")).unwrap_or_default();
    assert!(!String::from_utf8_lossy(&cmdline).contains("mount"), "the server lives");
}
