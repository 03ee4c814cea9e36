//! Storing the same bytes again mends every checkpoint that needs them, and a second copy is as good as the first.

use std::fs;
use std::path::Path;

use ckpt_tests::lab::{Lab, names, pack_lines};

use super::Sample;

/// Damages the pack that both checkpoints share: one payload, or the parts without which none can be found.
fn damage(path: &Path, bytes: &[u8], how: &str) {
    let line = pack_lines(bytes).into_iter().max_by_key(|line| line.stored_len).unwrap();
    let mut damaged = bytes.to_vec();
    match how {
        "payload" => damaged[line.offset + 1000] ^= 1,
        "header" => damaged[20] ^= 1,
        "trailer" => damaged[bytes.len() - 100] ^= 1,
        "footer" => damaged[bytes.len() - 1] ^= 1,
        "cut" => damaged.truncate(line.offset + 10),
        "gone" => return fs::remove_file(path).unwrap(),
        other => panic!("{other}"),
    }
    fs::write(path, damaged).unwrap();
}

/// Stores again what `r@1` holds, as another run.
fn put_again(sample: &Sample, step: u64) {
    for (name, bytes) in &sample.expected["r@1"] {
        sample.lab.write(format!("again/{name}"), bytes);
    }
    sample.lab.put(&[&sample.lab.path("again")], "again", step).unwrap();
}

#[test]
fn putting_the_same_bytes_heals_every_checkpoint() {
    for how in ["payload", "header", "trailer", "footer", "cut", "gone"] {
        for found_by in ["get", "verify", "verify r@2"] {
            let sample = Sample::new();
            let lab = &sample.lab;
            let (path, bytes) = sample.of_kind("packs")[0];
            damage(path, bytes, how);
            match found_by {
                "get" => drop(sample.get_all("")),
                "verify" => assert_ne!(sample.verify(), "", "{how}"),
                _ => drop(lab.run(&[&"verify", &"r@2"])),
            }
            put_again(&sample, 1);
            assert_eq!(sample.get_all("nothing"), 0, "{how} found by {found_by}");
            // The copy does not live by the index alone.
            fs::remove_dir_all(lab.store().join("index")).unwrap();
            assert_eq!(sample.get_all("nothing"), 0, "{how} found by {found_by}, without index");
            let report = lab.verify().unwrap();
            assert!(report.damaged.is_empty(), "{how} found by {found_by}: {report:?}");
            assert!(how != "payload" || report.is_sound(), "{report:?}");
            // It heals once: the same put again writes nothing.
            let again = lab.put(&[&lab.path("again")], "again", 2).unwrap();
            assert_eq!((again.new_chunks, again.entry.written_bytes), (0, 0), "{how} found by {found_by}");
            lab.ok(&[&"gc"]);
            assert_eq!(sample.get_all("nothing"), 0, "{how} found by {found_by}, after gc");
        }
    }
}

/// A pack without its list of chunks can't be relied on, whether or not anybody saw that before.
#[test]
fn a_put_relies_on_no_pack_without_its_trailer() {
    for how in ["header", "trailer", "footer", "cut", "gone"] {
        let sample = Sample::new();
        let (path, bytes) = sample.of_kind("packs")[0];
        damage(path, bytes, how);
        put_again(&sample, 1);
        fs::remove_dir_all(sample.lab.store().join("index")).unwrap();
        assert_eq!(sample.get_all("nothing"), 0, "{how}");
    }
}

#[test]
fn a_second_copy_serves_when_the_first_is_damaged() {
    let sample = Sample::new();
    let lab = &sample.lab;
    // A copy of each chunk, as two puts at once or a healing leave it: the first pack is away while the same is put again.
    let (first, bytes) = sample.of_kind("packs")[0];
    let before = names_of_packs(lab);
    fs::remove_file(first).unwrap();
    put_again(&sample, 1);
    fs::write(first, bytes).unwrap();
    let second: Vec<_> = names_of_packs(lab).into_iter().filter(|path| !before.contains(path)).collect();
    let [second] = &second[..] else { panic!("{second:?}") };
    for (damaged, other) in [(first, &**second), (&**second, first)] {
        let good = fs::read(damaged).unwrap();
        for index in ["as it is", "gone"] {
            damage(damaged, &good, "payload");
            if index == "gone" {
                fs::remove_dir_all(lab.store().join("index")).unwrap();
            }
            assert_eq!(sample.get_all("nothing"), 0);
            let report = lab.verify().unwrap();
            let name = damaged.file_name().unwrap().to_str().unwrap();
            assert!(report.is_sound() && report.harmless.iter().any(|(what, _)| what.contains(name)), "{report:?}");
            fs::write(damaged, &good).unwrap();
        }
        // Without the other it is missed.
        let aside = fs::read(other).unwrap();
        fs::remove_file(other).unwrap();
        damage(damaged, &good, "payload");
        assert_eq!(sample.get_all(""), 2);
        fs::write(damaged, &good).unwrap();
        fs::write(other, aside).unwrap();
    }
}

fn names_of_packs(lab: &Lab) -> Vec<std::path::PathBuf> {
    let packs = lab.store().join("packs");
    let folders = names(&packs).into_iter().map(|name| packs.join(name));
    folders.flat_map(|folder| names(&folder).into_iter().map(move |name| folder.join(name))).collect()
}
