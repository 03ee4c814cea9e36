//! Sources that change while they are put: a clear error, and nothing is stored.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use ckpt_store::{Error, Notice, Progress, Stage};
use ckpt_tests::lab::{Lab, leftovers, names, noise, put_request, safetensors};
use ckpt_tests::run::Ran;
use rustix::process::{Pid, Signal, kill_process};

/// What may happen to a file.
const CHANGES: [&str; 7] = ["grow", "shrink", "empty", "replace", "rewrite the start", "rewrite the end", "remove"];

fn change(path: &Path, how: &str) {
    let open = || OpenOptions::new().write(true).open(path).unwrap();
    let len = fs::metadata(path).unwrap().len();
    match how {
        "grow" => OpenOptions::new().append(true).open(path).unwrap().write_all(b"more").unwrap(),
        "shrink" => open().set_len(len / 2).unwrap(),
        "empty" => open().set_len(0).unwrap(),
        "replace" => {
            let other = path.with_extension("other");
            fs::copy(path, &other).unwrap();
            fs::rename(other, path).unwrap();
        }
        "rewrite the start" => open().write_all_at(&noise(99, 1000), 0).unwrap(),
        "rewrite the end" => open().write_all_at(&noise(98, 1000), len - 1000).unwrap(),
        "remove" => fs::remove_file(path).unwrap(),
        other => panic!("{other}"),
    }
}

/// Changes a file at the moment when a stage begins.
struct At<'a> {
    stage: Stage,
    path: &'a Path,
    how: &'a str,
    done: AtomicBool,
}

impl Progress for At<'_> {
    fn begin(&self, stage: Stage, _: u64) {
        if stage == self.stage && !self.done.swap(true, Ordering::SeqCst) {
            change(self.path, self.how);
        }
    }
    fn advance(&self, _: u64) {}
    fn notice(&self, _: Notice) {}
    fn interrupted(&self) -> bool {
        false
    }
}

/// Sees that a put was refused for this file and that the store is as an empty one.
#[track_caller]
fn assert_refused(lab: &Lab, error: &Error, path: &Path, how: &str) {
    assert!(matches!(error, Error::Changed { .. }), "{how}: {error:?}");
    assert!(error.to_string().contains(&*path.to_string_lossy()), "{how}: {error}");
    assert!(lab.open().checkpoints().unwrap().is_empty(), "{how}");
    assert_eq!(leftovers(&lab.store()), [""; 0], "{how}");
    assert!(ckpt_tests::lab::files(&lab.store().join("packs")).is_empty(), "{how} left a pack");
}

#[test]
fn a_file_that_changes_at_any_stage_is_not_stored() {
    let lab = Lab::quick();
    let model = safetensors(&[("a", "F32", &noise(1, 3_000_000)), ("b", "F32", &noise(2, 500_000))]);
    for (name, bytes) in [("m.safetensors", model), ("opaque.bin", noise(3, 3_000_000)), ("small.json", noise(4, 3000))]
    {
        for stage in [Stage::Hash, Stage::Write] {
            for how in CHANGES {
                let path = lab.write(name, &bytes);
                let at = At { stage, path: &path, how, done: AtomicBool::new(false) };
                let put = lab.open().put(&put_request(&[&path], "r", 1), &at);
                if name == "small.json" && stage == Stage::Write {
                    // It stands inline in the manifest: there is nothing to write before.
                    assert!(put.is_ok() && !at.done.into_inner());
                    lab.open().remove(&["r@1".to_owned()]).unwrap();
                    lab.ok(&[&"gc"]);
                    continue;
                }
                assert!(at.done.into_inner(), "the stage never began");
                assert_refused(&lab, &put.expect_err(how), &path, &format!("{how} of {name} at {stage:?}"));
            }
        }
    }
}

/// More files than are kept open at once: those are opened again by name for each read.
#[test]
fn one_of_many_files_that_changes_is_named() {
    let lab = Lab::quick();
    for how in CHANGES {
        for nr in 0..150 {
            lab.write(format!("many/{nr:03}.bin"), &noise(nr, 70_000));
        }
        for changed in ["many/001.bin", "many/149.bin"] {
            let path = lab.path(changed);
            let bytes = fs::read(&path).unwrap();
            let at = At { stage: Stage::Write, path: &path, how, done: AtomicBool::new(false) };
            let error = lab.open().put(&put_request(&[&lab.path("many")], "r", 1), &at).expect_err(how);
            assert_refused(&lab, &error, &path, how);
            fs::write(&path, bytes).unwrap();
        }
    }
}

/// The command, stopped in the middle of a large file: it must not die of SIGBUS, whatever became of the file.
#[test]
fn a_large_file_that_changes_under_the_command() {
    let lab = Lab::quick();
    let bytes = noise(5, 60_000_000);
    for how in CHANGES {
        let path = lab.write("large.pt", &bytes);
        let child = lab.start(&[&"put", &path, &"--run", &"r", &"--step", &"1"]);
        let pid = Pid::from_raw(i32::try_from(child.id()).unwrap()).unwrap();
        let writes = || names(&lab.store().join("tmp")).iter().any(|name| !name.ends_with(".session"));
        let begun = (0..1_000_000).any(|_| {
            std::thread::sleep(Duration::from_micros(100));
            writes()
        });
        assert!(begun, "the put did not begin to write");
        kill_process(pid, Signal::STOP).unwrap();
        change(&path, how);
        kill_process(pid, Signal::CONT).unwrap();
        let ran = Ran::from(child.wait_with_output().unwrap()).expect(1);
        ran.says("large.pt changed while it was being stored").says("Hint: nothing was stored");
        assert!(lab.open().checkpoints().unwrap().is_empty());
        assert_eq!(leftovers(&lab.store()), [""; 0]);
    }
    let path = lab.write("large.pt", &bytes);
    lab.ok(&[&"put", &path, &"--run", &"r", &"--step", &"1"]);
}
