//! What goes on beside the writers and the gcs: somebody verifies, reads, fills the disk; and what must hold when all
//! have ended.

use std::fs;
use std::time::Duration;

use rand::RngExt;
use rand::rngs::SmallRng;

use super::runs::{CONTENTS, Kept};
use super::{Storm, WRITERS, lock, seen};
use crate::lab::{leftovers, names};
use crate::mounts::free_bytes;

impl Storm<'_> {
    /// Verifies the store, whatever goes on in it.
    pub(super) fn verify(&self, rng: &mut SmallRng) {
        self.command("verify", 0.3, rng, &[], &[&"verify"]);
        std::thread::sleep(Duration::from_millis(rng.random_range(50..200)));
    }

    /// Gets one checkpoint and compares it.
    pub(super) fn read(&self, nr: u64, rng: &mut SmallRng) {
        let writer = rng.random_range(0..WRITERS);
        let listed = self.listed(writer);
        let Some(step) = listed.keys().nth(rng.random_range(0..listed.len().max(1))).copied() else { return };
        // Another may be put in its place meanwhile.
        let kept = || lock(&self.runs[writer]).get(&step).cloned();
        let before = kept();
        let dest = self.lab.path(format!("out/{nr}"));
        fs::create_dir_all(dest.parent().expect("it is in a directory")).expect("directories can be made");
        let ran = self.command("get", 0.4, rng, &[3], &[&"get", &format!("w{writer}@{step}"), &dest]);
        let there = dest.exists();
        assert_eq!(there, ran.code == Some(0) || (ran.code.is_none() && there), "{ran:?}");
        if there {
            let bytes = fs::read(&dest).expect("a file can be read");
            self.compare(writer, step, before.filter(|before| kept().as_ref() == Some(before)), &bytes);
        }
        if ran.code == Some(3) {
            let left = self.listed(writer);
            assert!(!left.contains_key(&step), "w{writer}@{step} is there and was not found");
        }
        fs::remove_dir_all(dest.parent().expect("it is in a directory")).expect("a directory can be removed");
    }

    /// Bytes that came back are those of this checkpoint: all contents are known by writer and number.
    fn compare(&self, writer: usize, step: u64, kept: Option<Kept>, bytes: &[u8]) {
        // Dropped or replaced meanwhile, only that it is one of the writer's can be said.
        let hash = *blake3::hash(bytes).as_bytes();
        match kept {
            Some(kept) => assert!(kept.hash == hash, "w{writer}@{step} came back as another"),
            None => {
                let is_one = (0..CONTENTS).any(|content| self.model(writer, content) == bytes);
                assert!(is_one, "w{writer}@{step} came back as nothing that was ever put");
            }
        }
        lock(&self.figures).compared += 1;
    }

    /// Fills the disk for a while, and then gives the room back.
    pub(super) fn fill(&self, rng: &mut SmallRng) {
        let ballast = self.lab.store().join("ballast");
        let leave = rng.random_range(0..6) * 64 * 1024;
        let free = usize::try_from(free_bytes(&self.lab.store())).expect("a small disk");
        // Others write at the same time: full is full.
        drop(fs::write(&ballast, vec![1; free.saturating_sub(leave)]));
        std::thread::sleep(Duration::from_millis(rng.random_range(50..400)));
        drop(fs::remove_file(&ballast));
        std::thread::sleep(Duration::from_millis(rng.random_range(50..400)));
    }

    /// Nobody is left: everything is there, and two gcs leave nothing else.
    pub(super) fn settle(&self) {
        drop(fs::remove_file(self.lab.store().join("ballast")));
        self.lab.ok(&[&"verify"]);
        for (writer, run) in self.runs.iter().enumerate() {
            let run = lock(run).clone();
            assert_eq!(self.listed(writer), seen(&run), "w{writer}");
            for (step, kept) in run {
                let got = self.lab.ok(&[&"get", &format!("w{writer}@{step}"), &"-"]);
                assert!(*blake3::hash(&got.stdout).as_bytes() == kept.hash, "w{writer}@{step} came back as another");
                lock(&self.figures).compared += 1;
            }
        }
        self.lab.ok(&[&"gc"]);
        self.lab.ok(&[&"gc"]);
        assert_eq!(leftovers(&self.lab.store()), [""; 0]);
        for folder in ["tmp", "sessions"] {
            assert!(names(&self.lab.store().join(folder)).is_empty(), "{folder} holds something");
        }
        self.lab.ok(&[&"verify"]);
    }
}
