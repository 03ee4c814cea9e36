//! `RUN@latest-good` is the newest checkpoint that reads back sound, and whoever meets a damaged one is told of it.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;

use ckpt_tests::lab::{Lab, files, noise, pack_lines};

/// Three checkpoints that share nothing, and the pack of each.
struct Three {
    lab: Lab,
    packs: [PathBuf; 3],
}

impl Three {
    fn new() -> Self {
        let lab = Lab::quick();
        let mut seen = BTreeSet::new();
        let packs = [1, 2, 3].map(|step: u64| {
            let path = lab.write("model.bin", &noise(step, 300_000));
            lab.put(&[&path], "r", step).unwrap();
            let now: BTreeSet<PathBuf> = files(&lab.store().join("packs")).into_iter().collect();
            let new = now.difference(&seen).next().unwrap().clone();
            seen = now;
            new
        });
        Self { lab, packs }
    }

    fn flip(&self, step: usize) {
        let path = &self.packs[step - 1];
        let mut bytes = fs::read(path).unwrap();
        let at = pack_lines(&bytes)[0].offset + 100;
        bytes[at] ^= 1;
        fs::write(path, bytes).unwrap();
    }
}

#[test]
fn latest_good_is_the_newest_that_reads_back_sound() {
    let three = Three::new();
    let lab = &three.lab;
    assert_eq!(lab.ok(&[&"get", &"r@latest-good", &"-"]).stdout, noise(3, 300_000));
    three.flip(3);
    let got = lab.ok(&[&"get", &"r@latest-good", &"-"]).says("r@3 is passed over").says("model.bin");
    assert_eq!(got.stdout, noise(2, 300_000));
    lab.get("r@latest-good", &lab.path("back")).unwrap();
    assert_eq!(fs::read(lab.path("back")).unwrap(), noise(2, 300_000), "by the library as well");
    let shown = lab.ok(&[&"show", &"r@latest-good", &"--json"]).says("r@3 is passed over");
    assert_eq!(shown.json()["step"], 2);
    lab.ok(&[&"tag", &"r@latest-good", &"good"]);
    lab.ok(&[&"pin", &"r@latest-good"]);
    let entry = lab.open().resolve("r@2").unwrap();
    assert!(entry.pinned && entry.tags.contains("good"));
    lab.ok(&[&"unpin", &"r@latest-good"]);
    lab.ok(&[&"untag", &"r@latest-good", &"good"]);
    lab.ok(&[&"verify", &"r@latest-good"]);
    assert_eq!(lab.ok(&[&"rm", &"r@latest-good", &"--json"]).json()[0]["step"], 2);
    // A pack that is gone, and a manifest.
    assert_eq!(lab.open().resolve("r@latest-good").unwrap().step, Some(1));
    fs::remove_file(lab.store().join("checkpoints").join(lab.open().resolve("r@3").unwrap().id.to_string())).unwrap();
    assert_eq!(lab.open().resolve("r@latest-good").unwrap().step, Some(1));
    fs::remove_file(&three.packs[0]).unwrap();
    lab.run(&[&"get", &"r@latest-good", &"none"]).expect(4).says("r@3").says("r@1");
    lab.run(&[&"get", &"none@latest-good", &"none"]).expect(3);
    lab.run(&[&"tag", &"r@1", &"latest-good"]).expect(2);
}

#[test]
fn whoever_meets_a_damaged_one_is_told_which_is_sound() {
    let three = Three::new();
    let lab = &three.lab;
    three.flip(3);
    let told = "`ckpt get r@latest-good DEST`";
    for reference in ["r", "r@latest", "r@3"] {
        lab.run(&[&"get", &reference, &"back"]).expect(4).says("r@3").says("model.bin").says("r@2 is sound").says(told);
        lab.run(&[&"get", &reference, &"-"]).expect(4).says("r@2 is sound");
        lab.run(&[&"verify", &reference]).expect(4).says("r@2 is sound");
    }
    assert!(!lab.run(&[&"verify", &"r@2"]).stderr.contains("Hint"));
    fs::remove_file(lab.store().join("checkpoints").join(lab.open().resolve("r@3").unwrap().id.to_string())).unwrap();
    for args in [&["get", "r", "back"][..], &["show", "r"], &["verify", "r"]] {
        let args: Vec<&dyn AsRef<_>> = args.iter().map(|arg| arg as _).collect();
        lab.run(&args).expect(4).says("r@2 is sound").says(told);
    }
    // What is no better is not named.
    three.flip(2);
    lab.run(&[&"get", &"r", &"back"]).expect(4).says("r@1 is sound");
    three.flip(1);
    let ran = lab.run(&[&"get", &"r", &"back"]).expect(4);
    assert!(!ran.stderr.contains("is sound"), "{ran:?}");
    assert!(!lab.path("back").exists());
}
