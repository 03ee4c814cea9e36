//! File systems that are full or can't be written to.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::path::Path;
use std::sync::Arc;

use ckpt_store::{Body, Quiet};
use ckpt_tests::gate::wait_until;
use ckpt_tests::lab::{Lab, leftovers, names, noise, safetensors, tree};
use ckpt_tests::mounts::{self, free_bytes, make_read_only, mount_with, with_mounts};
use ckpt_tests::run::{Ran, run};
use rustix::process::Signal;

use super::{assert_sound, model, signal};

/// A lab whose store has a small disk to itself, with one checkpoint `r@1`, of which `work` gets the bytes.
fn on_small_disk(bytes: u64, work: impl FnOnce(&Lab, Vec<u8>) + Send) {
    mounts::on_small_disk(bytes, |lab| {
        let kept = model(1, 1);
        lab.ok(&[&"put", &lab.write("kept.safetensors", &kept), &"--run", &"r", &"--step", &"1"]);
        work(lab, kept);
    });
}

/// Fills the disk but for so many bytes.
fn fill(lab: &Lab, leave: u64) {
    let free = usize::try_from(free_bytes(&lab.store()) - leave).unwrap();
    fs::write(lab.store().join("ballast"), vec![1; free]).unwrap();
}

fn empty(lab: &Lab) {
    fs::remove_file(lab.store().join("ballast")).unwrap();
}

/// Stores a file as a step of run `r`.
fn put(lab: &Lab, path: &Path, step: &str, more: &[&str]) -> Ran {
    let args: [&dyn AsRef<OsStr>; 6] = [&"put", &path, &"--run", &"r", &"--step", &step];
    lab.run(&args.into_iter().chain(more.iter().map(|arg| arg as &dyn AsRef<OsStr>)).collect::<Vec<_>>())
}

#[test]
fn a_put_that_does_not_fit_is_refused_before_it_writes() {
    on_small_disk(12 << 20, |lab, kept| {
        let large = lab.write("large.pt", &noise(3, 30 << 20));
        let before = stored(lab);
        let free = size(free_bytes(&lab.store()));
        let refused = put(lab, &large, "2", &[]).expect(5);
        // 30 MiB in chunks of about 256 KiB, each at a multiple of 4 KiB, and what is besides.
        assert_eq!(
            refused.stderr,
            format!(
                "Error: no room left for r@2: it needs about 31.89 MB, {free} are free and 125.83 kB are to stay free\n\
                 Hint: nothing was changed. `ckpt gc` frees nothing now; `ckpt policy set` says which checkpoints may go\n"
            )
        );
        assert_eq!(stored(lab), before);
        assert_eq!(names(&lab.store().join("tmp")).len() + names(&lab.store().join("sessions")).len(), 0);
        // What the store has already takes no room, and what compresses takes less.
        put(lab, &lab.path("kept.safetensors"), "2", &[]).expect(0);
        let text: String = (0..2_500_000).map(|nr| format!("{nr:09} ")).collect();
        put(lab, &lab.write("text.txt", text.as_bytes()), "3", &[]).expect(0);
        let kept_again = kept.clone();
        let expected = [("r@1", kept), ("r@2", kept_again), ("r@3", text.into_bytes())];
        assert_sound(lab, &expected.map(|(reference, bytes)| (reference.to_owned(), bytes)).into());
    });
}

/// More chunks than are looked up at once: what repeats between two batches is counted and stored once.
#[test]
fn a_large_put_is_checked_as_a_whole() {
    on_small_disk(16 << 20, |lab, kept| {
        let of = |distinct: u64| {
            let contents: Vec<Vec<u8>> = (0..distinct).map(|seed| noise(seed + 100, 32 << 10)).collect();
            let names: Vec<String> = (0..4200).map(|nr| format!("{nr}")).collect();
            let content = |nr: usize| &contents[nr % contents.len()][..];
            let tensors: Vec<_> = names.iter().enumerate().map(|(nr, name)| (&**name, "F32", content(nr))).collect();
            safetensors(&tensors)
        };
        let before = stored(lab);
        let refused = put(lab, &lab.write("all.safetensors", &of(4200)), "2", &[]).expect(5);
        refused.says("no room left for r@2: it needs about 139.").says("nothing was changed");
        assert_eq!(stored(lab), before);
        let repeating = of(300);
        put(lab, &lab.write("repeating.safetensors", &repeating), "2", &[]).expect(0);
        assert_sound(lab, &BTreeMap::from([("r@1".to_owned(), kept), ("r@2".to_owned(), repeating)]));
    });
}

#[test]
fn the_reserve_of_a_put_is_what_one_says() {
    on_small_disk(12 << 20, |lab, kept| {
        fill(lab, 1 << 20);
        let small = lab.write("small.pt", &noise(5, 900_000));
        let refused = put(lab, &small, "2", &[]).expect(5);
        refused.says("1.05 MB are free and 125.83 kB are to stay free").says("with `--reserve 0` it fits");
        let refused = run(lab.command(&[&"put", &small, &"--run", &"r"]).env("CKPT_RESERVE", "500kB")).expect(5);
        refused.says("500 kB are to stay free");
        put(lab, &small, "2", &["--reserve", "0"]).expect(0);
        let expected = [("r@1".to_owned(), kept), ("r@2".to_owned(), noise(5, 900_000))];
        assert_sound(lab, &BTreeMap::from(expected));
    });
}

#[test]
fn what_reads_goes_on_when_not_one_byte_is_free() {
    on_small_disk(12 << 20, |lab, kept| {
        fill(lab, 0);
        let small = lab.write("small.pt", &noise(5, 100_000));
        let before = stored(lab);
        let refused = put(lab, &small, "3", &[]).expect(5);
        refused.says("no room left").says("0 B are free").says("`ckpt policy set` says which checkpoints may go");
        assert_eq!(stored(lab), before);
        assert!(lab.ok(&[&"ls", &"r", &"--json"]).text().contains("r@1"));
        lab.ok(&[&"show", &"r@1"]);
        lab.ok(&[&"df"]);
        assert!(lab.ok(&[&"get", &"r@1", &"-"]).stdout == kept);
        lab.ok(&[&"verify"]);
        empty(lab);
        put(lab, &small, "3", &[]).expect(0);
        let expected = [("r@1".to_owned(), kept), ("r@3".to_owned(), noise(5, 100_000))];
        assert_sound(lab, &BTreeMap::from(expected));
    });
}

/// A disk that has room for the packs but not for what comes after them, at every distance from full.
#[test]
fn a_disk_that_fills_at_any_moment_of_a_put() {
    on_small_disk(12 << 20, |lab, kept| {
        let bytes = noise(6, 200_000);
        let small = lab.write("small.pt", &bytes);
        let mut refused = 0;
        // The pages of a tmpfs have 4 KiB: each round leaves one more.
        for pages in 0..70 {
            fill(lab, pages * 4096);
            let outcome = put(lab, &small, "2", &["--reserve", "0"]);
            empty(lab);
            if outcome.code == Some(0) {
                break;
            }
            outcome.expect(5);
            refused += 1;
            assert_eq!(lab.open().checkpoints().unwrap().len(), 1);
            lab.ok(&[&"gc"]);
            assert_eq!(leftovers(&lab.store()), [""; 0]);
        }
        assert!((40..70).contains(&refused), "{refused} were refused");
        assert_sound(lab, &BTreeMap::from([("r@1".to_owned(), kept), ("r@2".to_owned(), bytes)]));
    });
}

/// Room for bytes but not for files: what no check can foresee fails in the middle, at every file that a put makes.
#[test]
fn a_disk_without_room_for_files_stops_a_put_anywhere() {
    let lab = Lab::bare();
    fs::create_dir(lab.store()).unwrap();
    with_mounts(|| {
        mount_with(&lab.store(), "size=24m,nr_inodes=200");
        lab.ok(&[&"init"]);
        let kept = model(1, 1);
        put(&lab, &lab.write("kept.safetensors", &kept), "1", &[]).expect(0);
        let bytes = noise(6, 200_000);
        let small = lab.write("small.pt", &bytes);
        let mut refused = 0;
        for left in 0..20 {
            let ballast = lab.store().join("ballast");
            fs::create_dir(&ballast).unwrap();
            let made = (0..).take_while(|nr| fs::File::create(ballast.join(format!("{nr}"))).is_ok()).count();
            (0..left).for_each(|nr| fs::remove_file(ballast.join(format!("{}", made - 1 - nr))).unwrap());
            let outcome = put(&lab, &small, "2", &[]);
            let done = outcome.code == Some(0);
            if !done {
                outcome.expect(5).says("no room left while writing").says("nothing was changed");
                refused += 1;
            }
            fs::remove_dir_all(&ballast).unwrap();
            if done {
                break;
            }
            assert_eq!(lab.open().checkpoints().unwrap().len(), 1);
            lab.ok(&[&"gc"]);
            assert_eq!(leftovers(&lab.store()), [""; 0]);
        }
        assert!((3..20).contains(&refused), "{refused} were refused");
        assert_sound(&lab, &BTreeMap::from([("r@1".to_owned(), kept), ("r@2".to_owned(), bytes)]));
    });
}

/// With nothing free at all one can still say what may go, drop it, and get its room.
#[test]
fn rm_policies_and_gc_work_when_not_one_byte_is_free() {
    for by_policy in [false, true] {
        on_small_disk(16 << 20, |lab, _| {
            let last = noise(9, 300_000);
            put(lab, &lab.write("m.pt", &noise(8, 3 << 20)), "2", &[]).expect(0);
            put(lab, &lab.write("m.pt", &last), "3", &[]).expect(0);
            let reserve = fs::metadata(lab.store().join("reserve")).unwrap().len();
            assert_eq!(reserve, 1 << 20, "one sixteenth of the disk");
            fill(lab, 0);
            if by_policy {
                lab.ok(&[&"tag", &"r@1", &"t"]);
                lab.ok(&[&"untag", &"r@t"]);
                lab.ok(&[&"policy", &"set", &"other", &"--keep-last", &"5"]);
                lab.ok(&[&"policy", &"rm", &"other"]);
                lab.ok(&[&"policy", &"set", &"*", &"--keep-last", &"1"]);
            } else {
                lab.ok(&[&"rm", &"r@1"]);
                lab.ok(&[&"rm", &"r@2"]);
            }
            // What is left of the reserve is kept from others until gc comes.
            assert_eq!(free_bytes(&lab.store()), 0);
            assert!(fs::metadata(lab.store().join("reserve")).unwrap().len() > reserve / 2);
            let plan = lab.ok(&[&"gc", &"--dry-run", &"--json"]).json();
            let gc = lab.ok(&[&"gc", &"--json"]).json();
            assert_eq!(gc["freed_bytes"], plan["freed_bytes"]);
            assert!(gc["freed_bytes"].as_u64() > Some(4_000_000), "{gc}");
            assert_eq!(fs::metadata(lab.store().join("reserve")).unwrap().len(), reserve, "it is made again");
            empty(lab);
            assert_sound(lab, &BTreeMap::from([("r@3".to_owned(), last)]));
        });
    }
}

/// What is being read is spared by gc also where nothing can be written: the room to say so is taken off the reserve.
#[test]
fn what_is_open_on_a_full_disk_is_spared() {
    on_small_disk(16 << 20, |lab, kept| {
        put(lab, &lab.write("m.pt", &noise(8, 3 << 20)), "2", &[]).expect(0);
        let reserve = || fs::metadata(lab.store().join("reserve")).unwrap().len();
        let whole = reserve();
        let store = Arc::new(lab.open());
        let open = || store.open_checkpoint("r@1", &Quiet).unwrap();
        drop(open());
        assert_eq!(reserve(), whole, "there is room without it");
        fill(lab, 0);
        let reader = open();
        assert!(reader.is_pinned());
        assert_eq!((reserve(), free_bytes(&lab.store())), (whole - 8192, 4096));
        drop(open());
        assert_eq!(reserve(), whole - 8192, "what was taken is given back");
        lab.ok(&[&"rm", &"r@1"]);
        lab.ok(&[&"gc"]);
        // By this thread: those of a pool may have been started where the disk is not mounted.
        let body = Body::of_file(&store.manifest(reader.entry().id).unwrap(), 0).unwrap();
        let read = reader.slices(&body, 0, body.len(), &Quiet).unwrap();
        assert!(read.iter().flat_map(|slice| slice.to_vec()).eq(kept));
        drop(reader);
        let freed = lab.ok(&[&"gc", &"--json"]).json()["freed_bytes"].as_u64();
        assert!(freed > Some(1_000_000), "{freed:?}");
        assert_eq!(reserve(), whole);
        // However many read, there is enough left for gc.
        empty(lab);
        fill(lab, 0);
        let readers: Vec<_> = (0..200).map(|_| store.open_checkpoint("r@2", &Quiet).unwrap()).collect();
        let pinned = readers.iter().filter(|reader| reader.is_pinned()).count() as u64;
        assert!(pinned >= whole / 2 / 8192 && pinned < 200 && reserve() >= whole / 2, "{pinned} of 200");
        lab.ok(&[&"rm", &"r@2"]);
        lab.ok(&[&"gc"]);
        drop(readers);
        lab.ok(&[&"gc"]);
        assert_eq!(reserve(), whole);
        empty(lab);
        assert_sound(lab, &BTreeMap::new());
    });
}

#[test]
fn put_with_gc_makes_the_room_that_policies_allow() {
    on_small_disk(12 << 20, |lab, kept| {
        for step in ["2", "3", "4"] {
            put(lab, &lab.write("m.pt", &noise(step.len() as u64 + step.as_bytes()[0] as u64, 2 << 20)), step, &[])
                .expect(0);
        }
        lab.ok(&[&"pin", &"r@1"]);
        let next = noise(20, 4 << 20);
        let path = lab.write("next.pt", &next);
        let before = stored(lab);
        // Without policies nothing may go, and then nothing does.
        let refused = put(lab, &path, "5", &["--gc"]).expect(5);
        refused.says("no room left for r@5").says("`ckpt gc` frees nothing now");
        assert_eq!(stored(lab), before);
        lab.ok(&[&"policy", &"set", &"r", &"--keep-last", &"1"]);
        let refused = put(lab, &path, "5", &[]).expect(5);
        refused.says("by dropping 2 checkpoints as the policies say, and `put --gc` does that first");
        // What would not be enough is not begun.
        let huge = lab.write("huge.pt", &noise(21, 11 << 20));
        put(lab, &huge, "5", &["--gc"]).expect(5);
        assert_eq!(lab.open().checkpoints().unwrap().len(), 4);
        let done = put(lab, &path, "5", &["--gc"]).expect(0);
        done.says("Note: room was short; a gc dropped r@2, r@3, as the policies say, and freed 4.2");
        let expected = [("r@1", kept), ("r@4", noise(1 + u64::from(b'4'), 2 << 20)), ("r@5", next)];
        let text = lab.ok(&[&"gc", &"--dry-run", &"--json"]).json();
        assert_eq!(text["dropped"][0]["ref"], "r@4", "{text}");
        lab.ok(&[&"policy", &"rm", &"r"]);
        assert_sound(lab, &expected.map(|(reference, bytes)| (reference.to_owned(), bytes)).into());
    });
}

/// What rm left behind is room as well, and needs no policy.
#[test]
fn put_with_gc_takes_garbage_without_policies() {
    on_small_disk(12 << 20, |lab, kept| {
        put(lab, &lab.write("m.pt", &noise(2, 6 << 20)), "2", &[]).expect(0);
        lab.ok(&[&"rm", &"r@2"]);
        let next = noise(3, 6 << 20);
        let path = lab.write("next.pt", &next);
        put(lab, &path, "3", &[]).expect(5).says("`ckpt gc` frees 6.3");
        put(lab, &path, "3", &["--gc"]).expect(0).says("a gc dropped no checkpoint, and freed 6.3");
        assert_sound(lab, &BTreeMap::from([("r@1".to_owned(), kept), ("r@3".to_owned(), next)]));
    });
}

/// A put that is killed on a nearly full disk leaves what a gc on the disk, then full, takes away.
#[test]
fn a_put_killed_on_a_nearly_full_disk_is_cleaned_up() {
    on_small_disk(48 << 20, |lab, kept| {
        let large = lab.write("large.pt", &noise(3, 38 << 20));
        let child = lab.start(&[&"put", &large, &"--run", &"r", &"--step", &"2"]);
        wait_until(|| names(&lab.store().join("tmp")).iter().any(|name| !name.ends_with(".session")));
        signal(&child, Signal::KILL);
        assert_eq!(Ran::from(child.wait_with_output().unwrap()).code, None);
        fill(lab, 0);
        put(lab, &lab.path("kept.safetensors"), "3", &[]).expect(5);
        lab.ok(&[&"gc"]);
        assert_eq!(leftovers(&lab.store()), [""; 0]);
        empty(lab);
        put(lab, &large, "2", &[]).expect(0);
        let expected = [("r@1".to_owned(), kept), ("r@2".to_owned(), noise(3, 38 << 20))];
        assert_sound(lab, &BTreeMap::from(expected));
    });
}

#[test]
fn a_store_that_is_read_only_is_read() {
    on_small_disk(24 << 20, |lab, kept| {
        let path = lab.path("kept.safetensors");
        make_read_only(&lab.store());
        lab.ok(&[&"ls"]);
        lab.ok(&[&"ls", &"r"]);
        lab.ok(&[&"show", &"r@1", &"--tensors"]);
        lab.ok(&[&"df"]);
        lab.ok(&[&"policy", &"ls"]);
        lab.ok(&[&"verify"]);
        lab.ok(&[&"verify", &"r@1"]);
        lab.ok(&[&"gc", &"--dry-run"]);
        assert!(lab.ok(&[&"get", &"r@1", &"-"]).stdout == kept);
        lab.ok(&[&"get", &"r@1", &"out", &"--force"]);
        assert!(fs::read(lab.path("out")).unwrap() == kept);
        for change in [
            &[&"put" as &dyn AsRef<_>, &path, &"--run", &"r", &"--step", &"2"][..],
            &[&"rm", &"r@1"],
            &[&"tag", &"r@1", &"t"],
            &[&"policy", &"set", &"r", &"--keep-last", &"1"],
            &[&"gc"],
        ] {
            lab.run(change).expect(6).says("Read-only file system").says("mounted read-only");
        }
    });
}

/// The index is derived: a store that can't make it anew is read by the packs' own lists.
#[test]
fn a_read_only_store_without_index_is_read() {
    on_small_disk(24 << 20, |lab, kept| {
        fs::remove_dir_all(lab.store().join("index")).unwrap();
        make_read_only(&lab.store());
        assert!(lab.ok(&[&"get", &"r@1", &"-"]).stdout == kept);
        lab.ok(&[&"verify"]);
        lab.ok(&[&"verify", &"r@1"]);
    });
}

/// A size as the command prints it, from a thousand bytes on.
fn size(bytes: u64) -> String {
    let (unit, name) = if bytes < 1_000_000 { (1e3, "kB") } else { (1e6, "MB") };
    format!("{:.2} {name}", bytes as f64 / unit)
}

/// What the store consists of: all but what is derived or disposable.
fn stored(lab: &Lab) -> Vec<Vec<u8>> {
    let derived = [&b"index"[..], b"locks", b"sessions", b"tmp", b"reserve", b"ballast"];
    let is_stored = |path: &Vec<u8>| !derived.iter().any(|name| path.starts_with(name));
    let all = tree(&lab.store()).into_iter().filter(|(path, _)| is_stored(path));
    // Folders of packs stay; only files count.
    all.filter(|(path, _)| !path.starts_with(b"packs") || path.len() > 8)
        .map(|(path, node)| format!("{path:?} {node:?}").into_bytes())
        .collect()
}
