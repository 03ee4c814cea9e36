//! A user whose quota is used up: the disk says that it has room, and refuses it. What there is goes free when the
//! reserve file gets shorter, as with a real quota.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Read;
use std::path::PathBuf;

use ckpt_tests::lab::{Lab, leftovers, noise};
use ckpt_tests::mount::{Mounting, mountable};
use ckpt_tests::run::{Ran, on};
use ckpt_tests::shim::{EDQUOT, Fault, NEED_ROOM};

use super::assert_sound;

fn reserve(lab: &Lab) -> (PathBuf, u64) {
    let path = lab.store().join("reserve");
    let len = fs::metadata(&path).unwrap().len();
    (path, len)
}

/// Nothing can be written below the store while its reserve, which can be made shorter, has so many bytes.
fn used_up(lab: &Lab, while_bytes: u64) -> Fault {
    Fault::at(1).of(NEED_ROOM).without("reserve").errno(EDQUOT).lasting().while_there(&reserve(lab).0, while_bytes)
}

/// Runs a command whose user's quota is used up, but for what the reserve has of it.
fn run(lab: &Lab, args: &str) -> Ran {
    let (ran, watch) = used_up(lab, 1).run(on(&lab.store()).args(args.split(' ')), &lab.store());
    assert!(watch.fired().is_some(), "{args}: nothing was refused");
    ran
}

fn lab() -> Lab {
    let lab = Lab::quick();
    for step in 1..=4 {
        lab.ok(&[&"put", &lab.write("m.pt", &noise(step, 2 << 20)), &"--run", &"r", &"--step", &step.to_string()]);
    }
    lab
}

#[test]
fn what_makes_room_works_with_a_quota_that_is_used_up() {
    let lab = lab();
    let whole = reserve(&lab).1;
    for args in ["rm r@1", "tag r@2 t", "policy set * --keep-last 2", "gc"] {
        run(&lab, args).expect(0);
        assert_eq!(reserve(&lab).1, whole, "{args}: it is made again");
    }
    assert_eq!(leftovers(&lab.store()), [""; 0]);
    let left = [("r@2", 2), ("r@3", 3), ("r@4", 4)].map(|(name, seed)| (name.to_owned(), noise(seed, 2 << 20)));
    assert_sound(&lab, &BTreeMap::from(left));
}

#[test]
fn a_put_says_that_it_is_a_quota() {
    let lab = lab();
    lab.write("m.pt", &noise(9, 2 << 20));
    let path = lab.path("m.pt");
    let refused = run(&lab, &format!("put {} --run r --step 9", path.display())).expect(5);
    let refused =
        refused.says("Caused by: Disk quota exceeded").says("a quota is used up").says("gc` frees nothing now");
    for misleading in ["are free", "--reserve"] {
        assert!(!refused.stderr.contains(misleading), "{}", refused.stderr);
    }
    // A gc that frees enough is worth it, however much of the disk is free.
    lab.ok(&[&"rm", &"r@1"]);
    let refused = run(&lab, &format!("put {} --run r --step 9", path.display())).expect(5);
    refused.says("`ckpt gc` frees 2.1").says("`put --gc` does that first");
}

#[test]
fn what_a_mount_reads_is_spared_with_a_quota_that_is_used_up() {
    if !mountable() {
        return;
    }
    // Once more, and again and again where others take what it lends.
    for times in [1, 4] {
        let lab = lab();
        let (path, whole) = reserve(&lab);
        let fault = used_up(&lab, whole - (times - 1) * 8192);
        let mount = Mounting::new(&lab.store(), &lab.path("mnt")).faulty(fault, &lab.store()).start();
        let mut file = File::open(mount.path("r/step-1/m.pt")).unwrap();
        assert!(mount.has_failed());
        assert_eq!(fs::metadata(&path).unwrap().len(), whole - times * 8192, "a little of it is lent");
        lab.ok(&[&"rm", &"r@1"]);
        assert!(lab.ok(&[&"gc"]).stderr.contains("still read"));
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).unwrap();
        assert!(bytes == noise(1, 2 << 20));
        drop(file);
        mount.umount();
        assert_eq!(fs::metadata(&path).unwrap().len(), whole, "what was taken is given back");
    }
}
