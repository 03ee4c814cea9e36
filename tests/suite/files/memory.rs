//! What a put and a get hold in memory, whatever the size of the file.

use std::fs::{self, File};
use std::io::Write;
use std::process::Child;
use std::time::Duration;

use ckpt_tests::lab::{Lab, noise};

const ANON_KB_MAX: u64 = 400_000;

/// The most anonymous memory that a process was seen to have until it ended, in kB.
fn peak_anon_kb(child: &mut Child) -> u64 {
    let mut peak = 0;
    while child.try_wait().unwrap().is_none() {
        let status = fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap_or_default();
        let anon = status.lines().find_map(|line| line.strip_prefix("RssAnon:"));
        peak = peak.max(anon.and_then(|rest| rest.trim().strip_suffix(" kB")?.parse().ok()).unwrap_or(0));
        std::thread::sleep(Duration::from_millis(2));
    }
    peak
}

#[test]
fn a_large_file_needs_little_memory() {
    let lab = Lab::new();
    // 1.2 GB that take 300 MB of the disk: a hole, and noise of which no two chunks are the same.
    let path = lab.path("large.pt");
    let mut file = File::create(&path).unwrap();
    for block in 0..30 {
        file.write_all(&noise(block, 10_000_000)).unwrap();
    }
    file.set_len(1_200_000_000).unwrap();
    drop(file);
    let mut put = lab.start(&[&"put", &path, &"--run", &"r", &"--step", &"1"]);
    let peak = peak_anon_kb(&mut put);
    assert!(put.wait().unwrap().success());
    assert!((1000..=ANON_KB_MAX).contains(&peak), "put held {peak} kB");
    let mut get = lab.start(&[&"get", &"r@1", &"back.pt"]);
    let peak = peak_anon_kb(&mut get);
    assert!(get.wait().unwrap().success());
    assert!((1000..=ANON_KB_MAX).contains(&peak), "get held {peak} kB");
    let same = std::process::Command::new("cmp").arg(&path).arg(lab.path("back.pt")).status().unwrap();
    assert!(same.success());
}
