//! The tensors that are found in files of real torch, against what torch itself says of them: names, types, shapes, strides, and
//! each element by its place in the file.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::Arc;

use ckpt_store::split::{self, DistributedNames, Kind, Source, Split};
use ckpt_store::{Content, File, PartRequest, Prepared, PutRequest, Quiet};
use ckpt_tests::lab::{Lab, put_request};
use ckpt_tests::python::{python, run_python};
use serde_json::Value;
use tempfile::TempDir;

const SCRIPT: &str = include_str!("torch/files.py");

struct Bytes(Vec<u8>);

impl Source for Bytes {
    fn size(&self) -> u64 {
        self.0.len() as u64
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> std::io::Result<()> {
        let start = usize::try_from(offset).ok().and_then(|at| self.0.get(at..)).and_then(|rest| rest.get(..buf.len()));
        buf.copy_from_slice(start.ok_or(std::io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }
}

/// What the script wrote: the files, and for each what torch says of its tensors.
fn files(which: &str) -> (TempDir, Value) {
    let dir = tempfile::tempdir().expect("a temporary directory");
    run_python(python().current_dir(dir.path()).arg("-c").arg(SCRIPT).arg(which));
    let said = serde_json::from_str(&fs::read_to_string(dir.path().join("said.json")).expect("what torch said"));
    (dir, said.expect("it is JSON"))
}

fn split_of(bytes: &[u8]) -> Split {
    let source: Arc<dyn Source> = Arc::new(Bytes(bytes.to_vec()));
    let split = split::split(&source).expect("memory can be read");
    assert!(split::check_tiling(bytes.len() as u64, &split.segments));
    split
}

/// A tensor in words: type, shape, strides as far as they mean something, and the bytes of its elements in order.
type Said = (String, Vec<u64>, Vec<u64>, String);

/// Strides of dimensions that have more than one place to go to.
fn strides_that_count(shape: &[u64], strides: &[u64]) -> Vec<u64> {
    let is_empty = shape.contains(&0);
    shape.iter().zip(strides).filter(|(dim, _)| **dim > 1 && !is_empty).map(|(_, stride)| *stride).collect()
}

fn row_major(shape: &[u64]) -> Vec<u64> {
    let mut strides = vec![1; shape.len()];
    for at in (1..shape.len()).rev() {
        strides[at - 1] = strides[at] * shape[at].max(1);
    }
    strides
}

/// The elements of a tensor in a file, as hex.
fn elements(file: &[u8], offset: u64, width: u64, shape: &[u64], strides: &[u64]) -> String {
    let count: u64 = shape.iter().product();
    let mut hex = String::new();
    for mut number in 0..count {
        let mut at = 0;
        for (dim, stride) in shape.iter().zip(strides).rev() {
            at += number % dim * stride;
            number /= dim;
        }
        let start = (offset + at * width) as usize;
        file[start..start + width as usize].iter().for_each(|byte| hex += &format!("{byte:02x}"));
    }
    hex
}

/// The tensors that were found in a file, with their elements.
fn found(file: &[u8], split: &Split) -> BTreeMap<String, Said> {
    let mut tensors = BTreeMap::new();
    let mut add = |name: &str, dtype: String, shape: &[u64], strides: &[u64], offset: u64, len: u64| {
        let reach: u64 = 1 + shape.iter().zip(strides).map(|(dim, stride)| dim.saturating_sub(1) * stride).sum::<u64>();
        let width = if len == 0 { 0 } else { len / reach };
        let hex = elements(file, offset, width, shape, strides);
        let said = (dtype, shape.to_vec(), strides_that_count(shape, strides), hex);
        assert!(tensors.insert(name.to_owned(), said).is_none(), "{name} is there twice");
    };
    let mut at = 0;
    for segment in &split.segments {
        if let Kind::Tensor { name, dtype: Some(dtype), shape: Some(shape) } = &segment.kind {
            add(name, dtype.to_string(), shape, &row_major(shape), at, segment.len);
        }
        at += segment.len;
    }
    for view in &split.views {
        let strides = view.strides.clone().unwrap_or_else(|| row_major(&view.shape));
        let dtype = view.dtype.as_ref().expect("torch tells types").to_string();
        add(&view.name, dtype, &view.shape, &strides, view.offset, view.len);
    }
    tensors
}

/// What torch said of a file's tensors.
fn said(tensors: &Value) -> BTreeMap<String, Said> {
    let numbers = |value: &Value| -> Vec<u64> {
        value.as_array().expect("numbers").iter().map(|number| number.as_u64().expect("a number")).collect()
    };
    let text = |value: &Value| value.as_str().expect("a text").to_owned();
    let one = |tensor: &Value| {
        let (shape, strides) = (numbers(&tensor[2]), numbers(&tensor[3]));
        let strides = strides_that_count(&shape, &strides);
        (text(&tensor[0]), (text(&tensor[1]), shape, strides, text(&tensor[4])))
    };
    tensors.as_array().expect("tensors").iter().map(one).collect()
}

#[test]
fn every_tensor_has_the_name_type_shape_strides_and_place_that_torch_says() {
    let (dir, all) = files("names");
    let all = all.as_object().expect("files");
    assert!(all.len() > 100, "only {} files", all.len());
    for (name, told) in all {
        let file = fs::read(dir.path().join(name)).expect("the file");
        let split = split_of(&file);
        assert_eq!(split.format.to_string(), told["format"].as_str().expect("a format"), "{name}");
        let (found, expected) = (found(&file, &split), said(&told["tensors"]));
        let names = |map: &BTreeMap<String, Said>| map.keys().cloned().collect::<Vec<_>>();
        assert_eq!(names(&found), names(&expected), "{name}");
        for (tensor, expected) in &expected {
            assert_eq!(&found[tensor], expected, "{tensor} of {name}");
        }
    }
}

#[test]
fn the_metadata_of_a_distributed_checkpoint_names_the_tensors_of_its_files() {
    let (dir, all) = files("distributed");
    for (folder, told) in all.as_object().expect("checkpoints") {
        let folder = dir.path().join(folder);
        let metadata = Bytes(fs::read(folder.join(".metadata")).expect("the metadata"));
        let names = DistributedNames::read(&metadata).expect("memory can be read").expect("it is understood");
        let mut all = BTreeMap::new();
        let files = files_in(&folder);
        let first = split_of(&files[0].1);
        for (path, file) in &files {
            let mut split = split_of(file);
            names.apply(path, &mut split);
            all.extend(found(file, &split));
        }
        assert_eq!(all, said(told), "{}", folder.display());
        // One that ends anywhere, or says anything else, is not believed or names what there is.
        for len in 0..metadata.0.len() {
            let cut = Bytes(metadata.0[..len].to_vec());
            assert!(DistributedNames::read(&cut).expect("memory can be read").is_none(), "cut at {len}");
            let mut changed = metadata.0.clone();
            changed[len] ^= 1 << (len % 8);
            if let Some(names) = DistributedNames::read(&Bytes(changed)).expect("memory can be read") {
                let mut split = first.clone();
                names.apply(&files[0].0, &mut split);
                let lens = |split: &Split| split.segments.iter().map(|segment| segment.len).collect::<Vec<_>>();
                assert_eq!(lens(&split), lens(&first));
            }
        }
    }
}

#[test]
fn parts_of_a_distributed_checkpoint_get_the_names_that_one_put_gives() {
    let (dir, all) = files("distributed");
    for folder in all.as_object().expect("checkpoints").keys() {
        let lab = Lab::new();
        let store = lab.open();
        let folder = dir.path().join(folder);
        let whole = store.put(&put_request(&[&folder], "r", 1), &Quiet).expect("a put").entry;
        let prepared: Vec<Prepared> = files_in(&folder)
            .into_iter()
            .map(|(name, _)| {
                let request = PartRequest { paths: vec![folder.join(name)], ..PartRequest::default() };
                store.prepare(&request, &Quiet).expect("a part")
            })
            .collect();
        let parts: Vec<Vec<u8>> = prepared.iter().map(|part| part.to_bytes().to_vec()).collect();
        let root = folder.file_name().and_then(|name| name.to_str()).map(str::to_owned);
        let request = PutRequest { root, ..put_request(&[&folder.join(".metadata")], "r", 2) };
        let joined = store.commit_parts(&request, &parts, &Quiet).expect("a commit").entry;
        let tensors = |id| -> Vec<_> {
            let files = store.manifest(id).expect("a manifest").files.into_iter();
            let of = |file: File| match file.content {
                Content::File { segments, views, .. } => {
                    let named = segments.into_iter().map(|segment| (segment.0, segment.3)).collect::<Vec<_>>();
                    (file.path, named, views)
                }
                other => panic!("{other:?}"),
            };
            files.map(of).collect()
        };
        assert_eq!(tensors(joined.id), tensors(whole.id));
        assert_eq!(joined.logical_bytes, whole.logical_bytes);
    }
}

fn files_in(folder: &Path) -> Vec<(String, Vec<u8>)> {
    let entries = fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry"));
    let mut files: Vec<_> = entries
        .map(|entry| (entry.file_name().to_string_lossy().into_owned(), fs::read(entry.path()).expect("a file")))
        .filter(|(name, _)| name != ".metadata")
        .collect();
    files.sort();
    files
}

#[test]
fn a_real_file_of_which_any_byte_is_changed_or_missing_is_tiled_and_its_tensors_lie_in_it() {
    let (dir, all) = files("small");
    let check = |file: &[u8]| {
        let split = split_of(file);
        let fits = |view: &split::View| view.offset.checked_add(view.len).is_some_and(|end| end <= file.len() as u64);
        assert!(split.views.iter().all(fits), "{:?}", split.views);
    };
    for name in all.as_object().expect("files").keys() {
        let file = fs::read(dir.path().join(name)).expect("the file");
        assert!(!split_of(&file).views.is_empty(), "{name} has a view");
        for at in 0..file.len() {
            check(&file[..at]);
            for flip in [0x01, 0x80, 0xff] {
                let mut changed = file.clone();
                changed[at] ^= flip;
                check(&changed);
            }
            let mut changed = file.clone();
            changed[at] = b'.';
            check(&changed);
            if name.starts_with("legacy") && at > 15 {
                let cut = split::cut_short(&Bytes(file[..at].to_vec()), name).expect("memory can be read");
                assert_eq!(cut, Some("it ends before its last storage"), "{name} cut at {at}");
            }
        }
        assert_eq!(split::cut_short(&Bytes(file), name).expect("memory can be read"), None, "{name}");
    }
}
