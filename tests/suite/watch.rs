//! Watching a directory while somebody writes into it: everything complete is stored once, and nothing half-written ever.
#![allow(clippy::unwrap_used, reason = "a test that can't go on has failed")]

use std::fs::{self, File};
use std::io::Write;
use std::path::PathBuf;
use std::process::Child;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::sleep;
use std::time::Duration;

use ckpt_store::{ImportRequest, Notice, Progress, Stage, WatchEvent, WatchRequest};
use ckpt_tests::gate::wait_until;
use ckpt_tests::lab::{Lab, names, noise};
use ckpt_tests::run::Ran;
use ckpt_tests::sample::torch_zip;
use rustix::process::{Pid, Signal, kill_process};

const PAUSE: Duration = Duration::from_millis(700);

fn start(lab: &Lab, more: &[&str]) -> Child {
    fs::create_dir_all(lab.path("d")).unwrap();
    let mut command = lab.command(&[&"watch", &"d", &"--run", &"r", &"--settle", &"0.3"]);
    command.args(more).spawn().unwrap()
}

fn stop(child: Child) -> Ran {
    kill_process(Pid::from_child(&child), Signal::TERM).unwrap();
    Ran::from(child.wait_with_output().unwrap()).expect(0)
}

fn is_stored(lab: &Lab, reference: &str) -> bool {
    lab.open().resolve(reference).is_ok()
}

fn bytes_of(lab: &Lab, reference: &str) -> Vec<u8> {
    lab.ok(&[&"get", &reference, &"-"]).stdout
}

#[test]
fn a_slow_writer_is_waited_for_also_across_a_restart() {
    let lab = Lab::quick();
    let bytes = noise(1, 90_000);
    let first = start(&lab, &[]);
    // Bytes of no known structure: only that the file is still open tells that more is to come.
    let mut file = File::create(lab.path("d/step=1.pt")).unwrap();
    for piece in bytes[..60_000].chunks(30_000) {
        file.write_all(piece).unwrap();
        sleep(PAUSE);
    }
    assert!(!is_stored(&lab, "r"));
    stop(first);
    let second = start(&lab, &["--json"]);
    sleep(PAUSE);
    assert!(!is_stored(&lab, "r"), "the new watch did not see that the file is open");
    file.write_all(&bytes[60_000..]).unwrap();
    drop(file);
    wait_until(|| is_stored(&lab, "r@1"));
    sleep(PAUSE);
    let said = stop(second);
    let lines: Vec<serde_json::Value> = said.text().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len(), 1, "{said:?}");
    assert_eq!((&lines[0]["path"], &lines[0]["done"]), (&"step=1.pt".into(), &"stored".into()), "{said:?}");
    assert!(bytes_of(&lab, "r@1") == bytes);
    // A third one finds it stored, and says nothing.
    let ran = Ran::from(start(&lab, &["--once"]).wait_with_output().unwrap()).expect(0);
    assert_eq!((ran.text(), &*ran.stderr), ("", ""));
    assert_eq!(lab.open().checkpoints().unwrap().len(), 1);
}

#[test]
fn files_that_are_not_whole_are_left() {
    let lab = Lab::quick();
    let zip = torch_zip(&[(1, 9000), (2, 9000)]);
    let tensors = ckpt_tests::sample::safetensors(&[("a", 1, 9000)]);
    let mut hdf5 = b"\x89HDF\r\n\x1a\n\0\0\0\0\0\x08\x08\0".to_vec();
    hdf5.resize(40, 0);
    hdf5.extend(4096_u64.to_le_bytes());
    hdf5.resize(4096, 7);
    // Closed, and quiet for as long as one likes.
    for (step, whole) in [(1, &zip), (2, &tensors), (3, &hdf5)] {
        lab.write(format!("d/step={step}.safetensors"), &whole[..whole.len() - 10]);
    }
    lab.write("d/step=4.pt", b"");
    let ran = Ran::from(start(&lab, &["--once"]).wait_with_output().unwrap()).expect(0);
    assert!(lab.open().checkpoints().unwrap().is_empty(), "{ran:?}");
    ran.says("zip directory is not there yet").says("its header says").says("its superblock says").says("it is empty");
    for (step, whole) in [(1, &zip), (2, &tensors), (3, &hdf5)] {
        lab.write(format!("d/step={step}.safetensors"), whole);
    }
    Ran::from(start(&lab, &["--once", "--delete-source"]).wait_with_output().unwrap()).expect(0);
    assert_eq!(names(&lab.path("d")).into_iter().collect::<Vec<_>>(), ["step=4.pt"]);
    assert!(bytes_of(&lab, "r@1") == zip && bytes_of(&lab, "r@2") == tensors && bytes_of(&lab, "r@3") == hdf5);
}

#[test]
fn what_is_renamed_into_place_and_what_is_filled_file_by_file() {
    let lab = Lab::quick();
    let child = start(&lab, &["--delete-source"]);
    lab.write("elsewhere.pt", &noise(1, 50_000));
    fs::rename(lab.path("elsewhere.pt"), lab.path("d/step=1.pt")).unwrap();
    lab.write("d/checkpoint-2/config.json", b"{}");
    lab.write("d/checkpoint-2/model.bin", &noise(2, 50_000));
    sleep(PAUSE);
    wait_until(|| is_stored(&lab, "r@1"));
    lab.write("d/checkpoint-2/optimizer.pt", &noise(3, 50_000));
    sleep(PAUSE);
    assert!(!is_stored(&lab, "r@2"), "it was stored without its trainer_state.json");
    lab.write("d/checkpoint-2/trainer_state.json", br#"{"global_step": 2, "log_history": []}"#);
    wait_until(|| names(&lab.path("d")).is_empty());
    // It is not only stored but whole.
    lab.ok(&[&"get", &"r@2", &"back"]);
    assert_eq!(names(&lab.path("back")).len(), 4);
    stop(child);
}

/// Removes the files of a directory when storing begins.
struct Remover(PathBuf, AtomicBool);

impl Progress for Remover {
    fn begin(&self, stage: Stage, _: u64) {
        if stage == Stage::Hash && !self.1.swap(true, Ordering::SeqCst) {
            fs::remove_file(self.0.join("step=1.pt")).unwrap();
        }
    }
    fn advance(&self, _: u64) {}
    fn notice(&self, _: Notice) {}
    fn interrupted(&self) -> bool {
        false
    }
}

#[test]
fn a_checkpoint_that_is_removed_while_it_is_stored_is_passed_over() {
    let lab = Lab::quick();
    lab.write("d/step=1.pt", &noise(1, 50_000));
    lab.write("d/step=2.pt", &noise(2, 50_000));
    let import = ImportRequest { dir: lab.path("d"), run: "r".into(), ..ImportRequest::default() };
    let request = WatchRequest { import, settle: Duration::from_millis(100), once: true };
    let mut passed = Vec::new();
    let mut tell = |event: WatchEvent<'_>| {
        if let WatchEvent::Passed(name, reason) = event {
            passed.push(format!("{}: {reason}", name.display()));
        }
    };
    let remover = Remover(lab.path("d"), AtomicBool::new(false));
    let report = lab.open().watch(&request, &mut tell, &remover).unwrap();
    assert_eq!((report.stored, report.failed), (1, 0));
    assert_eq!(passed, ["step=1.pt: it was removed before it was stored"]);
    assert!(is_stored(&lab, "r@2") && !is_stored(&lab, "r@1"));
}

#[test]
fn a_term_lets_the_current_one_come_to_its_end() {
    let lab = Lab::quick();
    let large = noise(1, 150_000_000);
    lab.write("d/step=1.pt", &large);
    let child = start(&lab, &[]);
    let tmp = lab.store().join("tmp");
    wait_until(|| names(&tmp).iter().any(|name| !name.ends_with(".session")));
    stop(child);
    assert!(bytes_of(&lab, "r@1") == large);
}

#[test]
fn names_that_come_again_keep_their_checkpoints() {
    let lab = Lab::quick();
    lab.write("d/step=1.ckpt", &noise(1, 5000));
    Ran::from(start(&lab, &["--once"]).wait_with_output().unwrap()).expect(0);
    // Lightning's second of the same step: both are kept, and the step stays with the first.
    lab.write("d/step=1-v1.ckpt", &noise(2, 5000));
    lab.write("d/last.ckpt", &noise(2, 5000));
    Ran::from(start(&lab, &["--once"]).wait_with_output().unwrap()).expect(0);
    assert!(bytes_of(&lab, "r@1") == noise(1, 5000) && bytes_of(&lab, "r@last") == noise(2, 5000));
    // The same name with other bytes is another matter.
    lab.write("d/step=1.ckpt", &noise(3, 5000));
    lab.write("d/last.ckpt", &noise(4, 5000));
    let ran = Ran::from(start(&lab, &["--once"]).wait_with_output().unwrap()).expect(1);
    ran.says("step=1.ckpt: r@1 is stored and is something else");
    assert!(bytes_of(&lab, "r@1") == noise(1, 5000) && bytes_of(&lab, "r@last") == noise(4, 5000));
    let count = lab.open().checkpoints().unwrap().len();
    assert_eq!(count, 4);
}
