//! A flipped, missing or cut byte in each kind of file of a store: bytes come back exactly, or a command fails and names it.
#![allow(clippy::unwrap_used, reason = "a test may fail by panicking")]

mod beside;
mod good;
mod healed;
mod index;
mod lost;
mod mending;
mod random;
mod repair;
mod verified;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use ckpt_store::{Error, GetRequest, Quiet, Store};
use ckpt_tests::lab::{Lab, files, names, noise, pack_lines, safetensors};
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

/// A small store that holds something of each kind, as it was before anything was damaged.
struct Sample {
    lab: Lab,
    /// Files that gets bring back, by checkpoint and path in it.
    expected: BTreeMap<&'static str, BTreeMap<String, Vec<u8>>>,
    /// Every file of the store.
    files: BTreeMap<PathBuf, Vec<u8>>,
}

/// Floats as training leaves them: they compress by planes, so that the codec's own headers are hit as well.
fn weights(seed: u64, count: usize) -> Vec<u8> {
    let mut rng = SmallRng::seed_from_u64(seed);
    (0..count).flat_map(|_| ((rng.random::<f32>() - 0.5) * 0.04).to_le_bytes()).collect()
}

impl Sample {
    fn new() -> Self {
        let lab = Lab::quick();
        let model = |head: u64| {
            safetensors(&[
                ("encoder.weight", "F32", &weights(1, 40_000)),
                ("raw", "U8", &noise(2, 100_000)),
                ("bias", "F32", &weights(3, 500)),
                ("head.weight", "F32", &weights(head, 20_000)),
            ])
        };
        let text: String = (0..4000).map(|nr| format!("token{} ", nr % 97)).collect();
        let tree = |head| {
            BTreeMap::from([
                ("model.safetensors".to_owned(), model(head)),
                ("tokenizer.txt".to_owned(), text.clone().into_bytes()),
                ("config.json".to_owned(), b"{\"hidden\": 384}".to_vec()),
            ])
        };
        let mut expected = BTreeMap::new();
        for (nr, reference) in [(10, "r@1"), (11, "r@2")] {
            let files = tree(nr);
            files.iter().for_each(|(name, bytes)| drop(lab.write(format!("source/{name}"), bytes)));
            lab.put(&[&lab.path("source")], "r", nr - 9).unwrap();
            expected.insert(reference, files);
        }
        // Enough changes that a catalog is written, and one more that HEAD carries.
        let store = lab.open();
        for _ in 0..34 {
            store.tag("r@1", "good").unwrap();
            store.untag("r@1", Some("good")).unwrap();
        }
        store.tag("r@1", "good").unwrap();
        let all = files(&lab.store()).into_iter().map(|path| (path.clone(), fs::read(path).unwrap())).collect();
        Self { lab, expected, files: all }
    }

    /// The files of the store under a folder, or the one of this name.
    fn of_kind(&self, kind: &str) -> Vec<(&Path, &[u8])> {
        let under = self.lab.store().join(kind);
        let found: Vec<_> = self
            .files
            .iter()
            .filter(|(path, _)| path.starts_with(&under))
            .map(|(path, bytes)| (&**path, &**bytes))
            .collect();
        assert!(!found.is_empty(), "the sample has no {kind}");
        found
    }

    /// The pack that both checkpoints need.
    fn shared_pack(&self) -> (&Path, &[u8]) {
        self.of_kind("packs").into_iter().max_by_key(|(_, bytes)| bytes.len()).unwrap()
    }

    /// Puts everything back as it was: the file, and what the store concluded from its damage.
    fn restore(&self, damaged: &Path) {
        fs::create_dir_all(damaged.parent().unwrap()).unwrap();
        fs::write(damaged, &self.files[damaged]).unwrap();
        let index = self.lab.store().join("index");
        if let Ok(there) = fs::symlink_metadata(&index) {
            if there.is_dir() { fs::remove_dir_all(&index).unwrap() } else { fs::remove_file(&index).unwrap() }
        }
        fs::create_dir(&index).unwrap();
        self.of_kind("index").into_iter().for_each(|(path, bytes)| fs::write(path, bytes).unwrap());
    }

    /// Gets every checkpoint. Each comes back exactly, or fails, says what is damaged in words that contain `named`, and
    /// leaves nothing behind. Answers how many failed.
    #[track_caller]
    fn get_all(&self, named: &str) -> usize {
        let mut failed = 0;
        for (reference, expected) in &self.expected {
            let out = self.lab.path("out");
            fs::create_dir(&out).unwrap();
            let request = GetRequest { reference: (*reference).to_owned(), ..GetRequest::default() };
            let got = Store::open(&self.lab.store()).and_then(|store| store.get(&request, &out.join("it"), &Quiet));
            match got {
                Ok(_) => {
                    assert_eq!(names(&out.join("it")), expected.keys().cloned().collect::<BTreeSet<_>>());
                    for (name, bytes) in expected {
                        let back = fs::read(out.join("it").join(name)).unwrap();
                        assert!(back == *bytes, "{reference}: {name} came back with other bytes");
                    }
                }
                Err(error) => {
                    assert!(
                        matches!(error, Error::Corrupt { .. } | Error::Damaged(_) | Error::Unsupported(_)),
                        "{error:?}"
                    );
                    // Once a get has set a damaged chunk aside, and its pack has no list any more, nobody knows where it was.
                    let told = error.to_string();
                    let is_named =
                        told.contains(named) || (told.contains(reference) && told.contains("no pack holds it"));
                    assert!(is_named, "{told} does not name {named}");
                    assert!(names(&out).is_empty(), "{:?} was left", names(&out));
                    failed += 1;
                }
            }
            fs::remove_dir_all(&out).unwrap();
        }
        failed
    }

    /// What verify says is damaged; nothing when it says all is sound.
    fn verify(&self) -> String {
        match self.lab.verify() {
            Ok(report) if report.is_sound() => String::new(),
            Ok(report) => format!("{:?} {:?}", report.objects, report.damaged),
            Err(error @ (Error::Corrupt { .. } | Error::Unsupported(_))) => error.to_string(),
            Err(error) => panic!("verify itself fails: {error:?}"),
        }
    }

    /// Damages a file in one way, sees what verify and the gets say, and puts it back.
    #[track_caller]
    fn try_damage(&self, path: &Path, how: &str, verify_first: bool, damage: impl FnOnce()) -> usize {
        damage();
        let name = path.file_name().unwrap().to_str().unwrap();
        let before = if verify_first { self.verify() } else { name.to_owned() };
        let failed = self.get_all(name);
        let after = self.verify();
        // Of a pack that is gone nobody knows the name.
        let is_told = |text: &str| text.contains(name) || (how == "removal" && text.contains("no pack holds it"));
        assert!(is_told(&before) && is_told(&after), "{how} of {name}: verify says {before:?}, then {after:?}");
        self.restore(path);
        failed
    }

    /// Flips one bit at each of these offsets of a file, one after the other. Answers how often a get failed.
    #[track_caller]
    fn flip(&self, path: &Path, offsets: impl IntoIterator<Item = usize>) -> usize {
        let mut failed = 0;
        for (nr, at) in offsets.into_iter().enumerate() {
            let mut bytes = self.files[path].clone();
            bytes[at] ^= 1 << (nr % 8);
            let damage = || fs::write(path, bytes).unwrap();
            failed += self.try_damage(path, &format!("a bit of byte {at}"), nr % 2 == 0, damage);
        }
        assert_eq!(self.get_all("nothing"), 0, "the sample is whole again");
        failed
    }

    /// Cuts a file at several places and takes it away. Answers how often a get failed.
    #[track_caller]
    fn cut(&self, path: &Path) -> usize {
        let bytes = &self.files[path];
        let mut failed = 0;
        // The newline that ends FORMAT and HEAD says nothing.
        for len in [0, 1, bytes.len() / 3, bytes.len() * 9 / 10, bytes.trim_ascii_end().len() - 1] {
            failed += self
                .try_damage(path, &format!("a cut to {len}"), len % 2 == 0, || fs::write(path, &bytes[..len]).unwrap());
        }
        let longer = [bytes, &b"x"[..]].concat();
        failed += self.try_damage(path, "a byte too much", true, || fs::write(path, longer).unwrap());
        failed + self.try_damage(path, "removal", true, || fs::remove_file(path).unwrap())
    }
}

/// At most `count` offsets below `len`, evenly spread.
fn spread(len: usize, count: usize) -> impl Iterator<Item = usize> {
    (0..len).step_by(len.div_ceil(count).max(1))
}

#[test]
fn each_byte_of_format_and_head_counts() {
    let sample = Sample::new();
    for kind in ["FORMAT", "HEAD"] {
        let (path, bytes) = sample.of_kind(kind)[0];
        assert_eq!(sample.flip(path, spread(bytes.len(), 400)), 2 * spread(bytes.len(), 400).count());
        assert_eq!(sample.cut(path), 14);
    }
}

#[test]
fn each_byte_of_catalog_and_manifests_counts() {
    let sample = Sample::new();
    let head = fs::read_to_string(sample.lab.store().join("HEAD")).unwrap();
    for (path, bytes) in sample.of_kind("catalog") {
        assert!(head.contains(path.file_name().unwrap().to_str().unwrap()), "the catalog is in use");
        assert_eq!(sample.flip(path, 0..bytes.len()), 2 * bytes.len());
        assert_eq!(sample.cut(path), 14);
    }
    assert_eq!(sample.of_kind("checkpoints").len(), 2);
    for (path, bytes) in sample.of_kind("checkpoints") {
        // One checkpoint suffers and the other does not.
        assert_eq!(sample.flip(path, spread(bytes.len(), 300)), spread(bytes.len(), 300).count());
        assert_eq!(sample.cut(path), 7);
    }
}

#[test]
fn each_part_of_a_pack_counts() {
    let sample = Sample::new();
    let packs = sample.of_kind("packs");
    assert_eq!(packs.len(), 2);
    for (path, bytes) in packs {
        let lines = pack_lines(bytes);
        // Headers of the pack and of its records, with the padding around them.
        let mut end = 64;
        let mut fronts: Vec<usize> = (0..64).collect();
        for line in &lines {
            fronts.extend(spread(line.offset - end, 30).map(|at| end + at));
            end = line.offset + line.stored_len;
        }
        assert_eq!(sample.flip(path, fronts), 0, "what lies between payloads is no part of a checkpoint");
        let payloads: Vec<usize> =
            lines.iter().flat_map(|line| spread(line.stored_len, 12).map(|at| line.offset + at)).collect();
        let flips = payloads.len();
        let failed = sample.flip(path, payloads);
        // Not each: a codec may have bits that mean nothing. But then the bytes came back exactly all the same.
        assert!(failed >= flips * 9 / 10, "{failed} of {flips} flips were felt");
        sample.flip(path, (end..bytes.len() - 64).step_by(3));
        sample.flip(path, bytes.len() - 64..bytes.len());
        assert!(sample.cut(path) > 0);
    }
}

#[test]
fn the_command_says_what_is_damaged() {
    let sample = Sample::new();
    let lab = &sample.lab;
    let (path, bytes) = sample.shared_pack();
    let line = pack_lines(bytes).into_iter().max_by_key(|line| line.stored_len).unwrap();
    let mut damaged = bytes.to_vec();
    damaged[line.offset + line.stored_len / 2] ^= 4;
    fs::write(path, &damaged).unwrap();
    let pack = path.file_name().unwrap().to_str().unwrap();
    for destination in ["back", "-"] {
        let ran = lab.run(&[&"get", &"r@1", &destination, &"--file", &"model.safetensors"]).expect(4);
        ran.says("r@1").says("model.safetensors").says("encoder.weight").says(pack).says("Hint: ");
        assert!(!lab.path("back").exists());
    }
    lab.ok(&[&"get", &"r@1", &"config", &"--file", &"config.json"]);
    let verified = lab.run(&[&"verify", &"--json"]).expect(4).json();
    assert_eq!(verified["damaged"].as_array().unwrap().len(), 2, "{verified}");
    assert_eq!(verified["damaged"][0]["tensor"], "encoder.weight");
    assert_eq!(verified["damaged"][0]["pack"], pack);
    lab.run(&[&"verify", &"r@2"]).expect(4);
    for (kind, args) in [("checkpoints", ["get", "r@1"]), ("HEAD", ["ls", "r"]), ("FORMAT", ["ls", "r"])] {
        let (path, bytes) = sample.of_kind(kind)[0];
        let mut damaged = bytes.to_vec();
        damaged[bytes.len() / 2] ^= 1;
        fs::write(path, &damaged).unwrap();
        let name = path.file_name().unwrap().to_str().unwrap();
        let destination = if args[0] == "get" { &["back"][..] } else { &[] };
        let args: Vec<&dyn AsRef<_>> = args.iter().chain(destination).map(|arg| arg as _).collect();
        lab.run(&args).expect(4).says(name);
        lab.run(&[&"verify"]).expect(4);
        // An incomplete mark deletes nothing.
        lab.run(&[&"gc"]).expect(4).says(name);
        sample.restore(path);
    }
}

/// A store that lost FORMAT is not an empty directory: making it anew would lose all that it holds.
#[test]
fn init_does_not_make_a_damaged_store_anew() {
    let sample = Sample::new();
    let lab = &sample.lab;
    for lost in [&["FORMAT"][..], &["FORMAT", "HEAD"]] {
        for name in lost {
            fs::remove_file(lab.store().join(name)).unwrap();
        }
        lab.run(&[&"init"]).expect(4).says("FORMAT is damaged: it is missing");
        lab.run(&[&"ls"]).expect(4).says("FORMAT is damaged: it is missing");
        for name in lost {
            sample.restore(&lab.store().join(name));
        }
        assert_eq!(sample.get_all("nothing"), 0);
    }
    fs::remove_file(lab.store().join("HEAD")).unwrap();
    lab.run(&[&"init"]).expect(7);
    lab.run(&[&"ls"]).expect(4).says("HEAD is damaged: it is missing");
}
