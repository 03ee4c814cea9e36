//! `ckpt get --tensor` and `--as safetensors`.

use std::fs;

use ckpt_tests::lab::noise;
use ckpt_tests::python::{python, run_python};
use safetensors::SafeTensors;
use serde_json::Value;

use super::{Bench, model};

fn names(file: &[u8]) -> Vec<String> {
    let tensors = SafeTensors::deserialize(file).expect("the crate reads it");
    let mut names: Vec<String> = tensors.names().into_iter().map(str::to_owned).collect();
    names.sort();
    names
}

fn two_files() -> Vec<(&'static str, Vec<u8>)> {
    let encoder = [("encoder.w", "F32", 1, 2_500_000), ("encoder.b", "F32", 2, 400), ("norm", "BF16", 3, 6)];
    vec![
        ("encoder.safetensors", model(&encoder)),
        ("head/model.safetensors", model(&[("w", "F32", 4, 40_000), ("norm", "U8", 5, 3)])),
    ]
}

#[test]
fn gives_the_chosen_tensors_bit_for_bit() {
    let bench = Bench::new();
    bench.put(1, &two_files());
    let got = bench.ckpt(&["get", "r@1", "some.safetensors", "--tensor", "encoder.*", "--tensor", "w", "--json"]);
    assert_eq!(got.code, Some(0), "{got:?}");
    assert_eq!((got.json()["tensors"].as_u64(), got.json()["tied"].as_u64()), (Some(3), Some(0)));
    let file = fs::read(bench.path("some.safetensors")).expect("the file");
    assert_eq!(got.json()["bytes"].as_u64(), Some(file.len() as u64));
    assert_eq!(names(&file), ["encoder.b", "encoder.w", "w"]);
    let tensors = SafeTensors::deserialize(&file).expect("the crate reads it");
    for (name, seed, len) in [("encoder.w", 1, 2_500_000), ("encoder.b", 2, 400), ("w", 4, 40_000)] {
        let tensor = tensors.tensor(name).expect(name);
        assert_eq!((tensor.dtype(), tensor.shape()), (safetensors::Dtype::F32, &[len / 4][..]), "{name}");
        assert!(tensor.data() == noise(seed, len), "{name} has other elements");
    }
    let (_, metadata) = SafeTensors::read_metadata(&file).expect("its header");
    let metadata = metadata.metadata().clone().expect("metadata");
    assert_eq!((metadata["format"].as_str(), metadata["ckpt"].as_str()), ("pt", "r@1"));
}

#[test]
fn gives_all_tensors_as_one_file_with_distinct_names() {
    let bench = Bench::new();
    bench.put(1, &two_files());
    fs::create_dir(bench.path("there")).expect("a directory");
    let got = bench.ckpt(&["get", "r@1", "there", "--as", "safetensors"]);
    assert_eq!(got.code, Some(0), "{got:?}");
    let file = fs::read(bench.path("there/model.safetensors")).expect("the file");
    let all = ["encoder.b", "encoder.safetensors:norm", "encoder.w", "head/model.safetensors:norm", "w"];
    assert_eq!(names(&file), all);
    // The same bytes again, and on stdout.
    let again = bench.ckpt(&["get", "r@1", "-", "--as", "safetensors"]);
    assert!(again.stdout == file, "two exports differ");
    let listed = bench.ckpt(&["show", "r@1", "--tensors"]);
    assert!(all.iter().all(|name| listed.text().contains(name)), "{listed:?}");
    // Of one file alone the names are its own.
    let got = bench.ckpt(&["get", "r@1", "head.safetensors", "--as", "safetensors", "--file", "head/*"]);
    assert_eq!(got.code, Some(0), "{got:?}");
    let head = fs::read(bench.path("head.safetensors")).expect("the file");
    assert_eq!(names(&head), ["head/model.safetensors:norm", "w"]);
}

#[test]
fn replaces_only_when_told_to_and_leaves_nothing_half_done() {
    let bench = Bench::new();
    bench.put(1, &two_files());
    fs::write(bench.path("there"), b"mine").expect("a file");
    let listing = || fs::read_dir(bench.dir.path()).expect("a listing").count();
    let before = listing();
    let refused = bench.ckpt(&["get", "r@1", "there", "--as", "safetensors"]);
    assert_eq!(refused.code, Some(7), "{refused:?}");
    let nowhere = bench.ckpt(&["get", "r@1", "no/such/place", "--as", "safetensors"]);
    assert_eq!(nowhere.code, Some(3), "{nowhere:?}");
    let missing = bench.ckpt(&["get", "r@1", "new", "--tensor", "encoder.ww"]);
    assert_eq!(missing.code, Some(3), "{missing:?}");
    assert!(missing.stderr.contains("no tensor encoder.ww in r@1"), "{missing:?}");
    assert!(missing.stderr.contains("did you mean encoder.w"), "{missing:?}");
    let usage = bench.ckpt(&["get", "r@1", "new", "--as", "gguf"]);
    assert_eq!(usage.code, Some(2), "{usage:?}");
    assert_eq!((fs::read(bench.path("there")).expect("it is there"), listing()), (b"mine".to_vec(), before));
    let forced = bench.ckpt(&["get", "r@1", "there", "--as", "safetensors", "--force"]);
    assert_eq!(forced.code, Some(0), "{forced:?}");
    assert_eq!(names(&fs::read(bench.path("there")).expect("it is there")).len(), 5);
    assert_eq!(listing(), before);
}

#[test]
fn refuses_types_that_safetensors_does_not_have() {
    let bench = Bench::new();
    bench.put(1, &[("m.safetensors", model(&[("block", "Q9_X", 1, 50_000), ("w", "F32", 2, 40_000)]))]);
    let refused = bench.ckpt(&["get", "r@1", "all", "--as", "safetensors"]);
    assert_eq!(refused.code, Some(1), "{refused:?}");
    assert!(refused.stderr.contains("\"block\" has the type Q9_X"), "{refused:?}");
    assert!(!bench.path("all").exists());
    let others = bench.ckpt(&["get", "r@1", "all", "--tensor", "w"]);
    assert_eq!(others.code, Some(0), "{others:?}");
}

#[test]
fn refuses_what_no_pickle_describes() {
    let bench = Bench::new();
    // Its bytes are not its values, so it has no name but that of its storage.
    let script =
        "import torch; torch.save({'w': torch.ones(9), 'c': torch.ones(5, dtype=torch.cfloat).conj()}, 'm.pt')";
    run_python(python().current_dir(bench.dir.path()).args(["-c", script]));
    let put = bench.ckpt(&["put", "m.pt", "--run", "r", "--step", "1"]);
    assert_eq!(put.code, Some(0), "{put:?}");
    let refused = bench.ckpt(&["get", "r@1", "all", "--as", "safetensors"]);
    assert_eq!(refused.code, Some(1), "{refused:?}");
    assert!(refused.stderr.contains("\"data/1\" has a shape that its file doesn't tell"), "{refused:?}");
    let named = bench.ckpt(&["get", "r@1", "all", "--tensor", "w"]);
    assert_eq!(named.code, Some(0), "{named:?}");
}

#[test]
fn names_the_damaged_tensor_and_leaves_no_file() {
    let bench = Bench::new();
    bench.put(1, &[("m.safetensors", model(&[("bad", "F32", 1, 2_000_000), ("good", "F32", 2, 2_000_000)]))]);
    let packs = bench.store().join("packs");
    let pack = walk(&packs).into_iter().next().expect("a pack");
    let mut bytes = fs::read(&pack).expect("it can be read");
    bytes[20_000] ^= 1;
    fs::write(&pack, bytes).expect("it can be written");
    let whole = bench.ckpt(&["get", "r@1", "all", "--as", "safetensors"]);
    assert_eq!(whole.code, Some(4), "{whole:?}");
    assert!(whole.stderr.contains("tensor \"bad\""), "{whole:?}");
    assert!(!bench.path("all").exists());
    let good = bench.ckpt(&["get", "r@1", "good", "--tensor", "good"]);
    assert_eq!(good.code, Some(0), "{good:?}");
    let json: Value = bench.ckpt(&["get", "r@1", "again", "--tensor", "good", "--json"]).json();
    assert_eq!(json["tensors"], 1);
}

fn walk(folder: &std::path::Path) -> Vec<std::path::PathBuf> {
    let entries = fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry").path());
    entries.flat_map(|path| if path.is_dir() { walk(&path) } else { vec![path] }).collect()
}
