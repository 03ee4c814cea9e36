//! A mounted store is a disk to whoever reads it: the same names, the same bytes in every way of reading, errors and no
//! hangs.
#![allow(clippy::unwrap_used, reason = "a test may fail by panicking")]

mod changes;
mod damage;
mod dying;
mod fio;
mod life;
mod loaders;
mod memory;
mod mutations;
mod own_mount;
mod passthrough;
mod raging;
mod reads;
mod refused;
mod shown;
mod troubles;
mod watched;
mod words;

use std::fs::{File, FileTimes};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime};

use ckpt_tests::lab::Lab;
use ckpt_tests::mount::Mount;
use ckpt_tests::process::wait_for;
use ckpt_tests::readers::paths;
use ckpt_tests::sample::{self, Tree};

/// A store, and the originals of what is in it.
struct Scene {
    lab: Lab,
}

impl Scene {
    fn new() -> Self {
        Self { lab: Lab::quick() }
    }

    /// Stores a tree, and answers where its original lies.
    fn put(&self, tree: &Tree, run: &str, step: u64) -> PathBuf {
        let original = self.lab.path(format!("original-{}-{step}", run.replace('/', "-")));
        tree.write(&original);
        set_times(&original);
        self.lab.put(&[&original], run, step).unwrap();
        original
    }

    fn mount(&self) -> Mount {
        Mount::new(&self.lab.store(), &self.lab.path("mnt"))
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        // Also what is below directories that nobody may write to.
        for entry in std::fs::read_dir(self.lab.dir()).unwrap() {
            let path = entry.unwrap().path();
            if path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("original")) {
                sample::remove(&path);
            }
        }
    }
}

/// Gives everything below a directory, and that itself, times of whole milliseconds, which are what a store keeps: old
/// ones and new ones, some before 1970.
fn set_times(root: &Path) {
    let mut found = paths(root);
    // What lies in a directory is touched before it.
    found.reverse();
    for (nr, (path, metadata)) in found.into_iter().enumerate() {
        let time = match nr % 4 {
            0 => SystemTime::UNIX_EPOCH - Duration::from_millis(86_400_001 * nr as u64),
            1 => SystemTime::UNIX_EPOCH + Duration::from_millis(4_200_000_000_123),
            _ => SystemTime::UNIX_EPOCH + Duration::from_millis(1_700_000_000_007 + 1001 * nr as u64),
        };
        if !metadata.is_symlink() {
            let file = File::open(root.join(path)).unwrap();
            file.set_times(FileTimes::new().set_modified(time)).unwrap();
        }
    }
}

/// How long a mount may take to notice what happened to the store: twice what is promised, because a machine may be
/// slow.
const NOTICES: Duration = Duration::from_secs(4);

/// Runs a program, which must succeed, and answers what it prints.
#[track_caller]
fn program(command: &mut Command) -> String {
    let ran = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(ran.status.success(), "{command:?}: {}\n{}{}", ran.status, text(&ran.stdout), text(&ran.stderr));
    text(&ran.stdout)
}
