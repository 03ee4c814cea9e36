//! Files that real frameworks write, by the scripts in `tests/formats`: their tensors are those that the framework reports,
//! every file comes back bit-exact, and the same weights cost their bytes once whatever the format.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use ckpt_tests::lab::{Lab, Node, tree};
use ckpt_tests::python::{python, run_python};
use ckpt_tests::run::run;
use serde_json::Value;

/// The types of elements that safetensors has, of those that the writers use.
const SAFETENSORS: [&str; 19] = [
    "BOOL",
    "U8",
    "I8",
    "I16",
    "U16",
    "I32",
    "U32",
    "I64",
    "U64",
    "F16",
    "BF16",
    "F32",
    "F64",
    "C64",
    "F8_E4M3",
    "F8_E5M2",
    "F8_E4M3FNUZ",
    "F8_E5M2FNUZ",
    "F8_E8M0",
];

/// A tensor as the truth and `show --tensors` both tell it: name, dtype, shape.
type Told = (String, String, String);

fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("formats").join(format!("{name}.py"))
}

fn told(tensor: &Value) -> Told {
    (tensor["name"].as_str().expect("a name").to_owned(), tensor["dtype"].to_string(), tensor["shape"].to_string())
}

fn list<'a>(value: &'a Value, field: &str) -> &'a [Value] {
    value[field].as_array().unwrap_or_else(|| panic!("no list {field} in {value}"))
}

fn text<'a>(value: &'a Value, field: &str) -> &'a str {
    value[field].as_str().unwrap_or_else(|| panic!("no text {field} in {value}"))
}

/// Has a script write its files, and holds what `ckpt` makes of them against the truth.
fn agrees_with(writer: &str) {
    let lab = Lab::quick();
    run_python(python().arg(script(writer)).arg(lab.path("files")));
    let truth = fs::read(lab.path("files/truth.json")).expect("the script writes the truth");
    let truth: Vec<Value> = serde_json::from_slice(&truth).expect("the truth is JSON");
    assert!(truth.len() > 1, "{writer} wrote too little");
    let values = lab.path("values");
    fs::create_dir(&values).expect("a folder for them");
    let mut wrong = Vec::new();
    let mut tensors = 0;
    for (step, checkpoint) in truth.iter().enumerate() {
        let path = text(checkpoint, "path");
        let reference = format!("it@{step}");
        lab.ok(&[&"put", &lab.path("files").join(path), &"--run", &"it", &"--step", &step.to_string()]);
        let shown = lab.ok(&[&"show", &reference, &"--tensors", &"--json"]).json();
        let members: BTreeMap<&str, &Value> =
            list(&shown, "members").iter().map(|member| (text(member, "path"), member)).collect();
        for expected in list(checkpoint, "members") {
            let name = text(expected, "path");
            let member = members.get(name).unwrap_or_else(|| panic!("{path} has no {name}: {members:?}"));
            let place = if name == path { name.to_owned() } else { format!("{path}/{name}") };
            if !expected["format"].is_null() && expected["format"] != member["format"] {
                wrong.push(format!("{place}: is {}, not {}", expected["format"], member["format"]));
            }
            tensors += list(expected, "tensors").len();
            wrong.extend(differences(expected, member).map(|difference| format!("{place}: {difference}")));
        }
        if let Some(problem) = as_safetensors(&lab, &reference, checkpoint, &values.join(format!("{step}.safetensors")))
        {
            wrong.push(format!("{path}: {problem}"));
        }
        lab.ok(&[&"get", &reference, &lab.path(format!("back-{step}"))]);
        assert!(
            same_bytes(&lab.path("files").join(path), &lab.path(format!("back-{step}"))),
            "{path} came back changed"
        );
    }
    assert!(tensors > 0, "{writer} wrote no tensor");
    let compare = run_python(python().arg(script("compare_values")).arg(lab.path("files/truth.json")).arg(&values));
    wrong.extend(compare.lines().map(str::to_owned));
    assert!(wrong.is_empty(), "{} of {writer} disagree:\n{}", wrong.len(), wrong.join("\n"));
    lab.ok(&[&"verify"]);
}

/// Gives the tensors of a checkpoint back as safetensors: all of them, or those of a type that safetensors has when there are
/// others, which must be an error that names one.
fn as_safetensors(lab: &Lab, reference: &str, checkpoint: &Value, to: &Path) -> Option<String> {
    let all = || list(checkpoint, "members").iter().flat_map(|member| list(member, "tensors"));
    let (known, foreign): (Vec<&Value>, Vec<&Value>) =
        all().partition(|tensor| SAFETENSORS.contains(&text(tensor, "dtype")));
    let ran = lab.run(&[&"get", &reference, &to, &"--as", &"safetensors"]);
    if foreign.is_empty() && !known.is_empty() {
        return (ran.code != Some(0)).then(|| format!("--as safetensors: {ran:?}"));
    }
    if ran.code == Some(0) || to.exists() {
        return Some(format!("--as safetensors gave something, without {foreign:?}"));
    }
    if !foreign.is_empty() && !foreign.iter().any(|tensor| ran.stderr.contains(text(tensor, "name"))) {
        return Some(format!("--as safetensors names none of {foreign:?}: {ran:?}"));
    }
    let names: Vec<[&str; 2]> = known.iter().map(|tensor| ["--tensor", text(tensor, "name")]).collect();
    let mut command = lab.command(&[&"get", &reference, &to]);
    let ran = (!names.is_empty()).then(|| run(command.args(names.as_flattened())))?;
    (ran.code != Some(0)).then(|| format!("--tensor: {ran:?}"))
}

/// What the tensors of a member are and should not be, or the other way round.
fn differences(expected: &Value, member: &Value) -> impl Iterator<Item = String> {
    let (truth, ours) = (list(expected, "tensors"), list(member, "tensors"));
    let known: BTreeSet<Told> = truth.iter().map(told).collect();
    let found: BTreeSet<Told> = ours.iter().map(told).collect();
    let line = |sign: &str, (name, dtype, shape): &Told| format!("{sign} {name} {dtype} {shape}");
    let missing: Vec<String> = known.difference(&found).map(|tensor| line("missing", tensor)).collect();
    let surplus: Vec<String> = found.difference(&known).map(|tensor| line("surplus", tensor)).collect();
    let twice = (found.len() != ours.len()).then(|| format!("{} tensors stand twice", ours.len() - found.len()));
    missing.into_iter().chain(surplus).chain(twice)
}

/// Whether two files, or the files of two folders, have the same names and bytes.
fn same_bytes(a: &Path, b: &Path) -> bool {
    let bytes = |root: &Path| -> BTreeMap<Vec<u8>, [u8; 32]> {
        if root.is_file() {
            return [(Vec::new(), *blake3::hash(&fs::read(root).expect("it can be read")).as_bytes())].into();
        }
        let files = tree(root).into_iter();
        files
            .filter_map(|(path, node)| if let Node::File(.., hash) = node { Some((path, hash)) } else { None })
            .collect()
    };
    bytes(a) == bytes(b)
}

macro_rules! writers {
    ($($test:ident: $script:literal,)*) => {
        $(#[test]
        fn $test() {
            agrees_with($script);
        })*
    };
}

writers! {
    torch_zip_agrees: "torch_zip",
    torch_legacy_agrees: "torch_legacy",
    torch_script_agrees: "torch_script",
    lightning_agrees: "lightning_run",
    transformers_agrees: "transformers_run",
    safetensors_agrees: "safetensors_files",
    keras_agrees: "keras_files",
    hdf5_agrees: "hdf5_files",
    numpy_agrees: "numpy_files",
    gguf_agrees: "gguf_files",
    distributed_checkpoint_agrees: "distributed_run",
    tar_agrees: "tar_files",
}

/// Every script is one of the tests above, or what they share.
#[test]
fn every_writer_is_run() {
    let here = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("suite/formats.rs")).expect("this file");
    for entry in fs::read_dir(script("x").parent().expect("a folder")).expect("the scripts") {
        let path = entry.expect("it can be listed").path();
        let name = path.file_stem().expect("a name").to_string_lossy().into_owned();
        let shared = ["truth", "torch_states", "compare_values", "mounted_loaders", "__pycache__"].contains(&&*name);
        assert!(shared || here.contains(&format!("\"{name}\"")), "no test runs {name}.py");
    }
}

/// The formats that keep the bytes of a tensor in one piece, by their suffixes.
const RAW: [&str; 8] = ["pt", "pth", "ckpt", "safetensors", "keras", "h5", "npz", "gguf"];

#[test]
fn the_same_weights_cost_their_bytes_once() {
    let lab = Lab::quick();
    for name in ["model", "epoch=3-step=12000"] {
        let formats =
            ["torch-zip", "torch-legacy", "lightning", "safetensors", "keras", "hdf5", "npz", "gguf"].map(Path::new);
        run_python(python().arg(script("same_state")).arg(lab.path("files")).args([name, "--small"]).args(formats));
    }
    let put = |name: &str, suffix: &str, step: &str| {
        let file = lab.path("files").join(format!("{name}.{suffix}"));
        let put = lab.ok(&[&"put", &file, &"--run", &suffix, &"--step", &step, &"--json"]).json();
        ["added_bytes", "written_bytes", "logical_bytes"].map(|field| put[field].as_u64().expect("a number"))
    };
    // They share chunks with each other, in the order of their file.
    let small_tensors = 57_344;
    let mut wrong = Vec::new();
    for suffix in RAW {
        let [added, _, logical] = put("model", suffix, "1");
        // HDF5's own structures are 127 kB.
        let most = if suffix == RAW[0] { logical } else { small_tensors + 140_000 };
        if added > most {
            wrong.push(format!("{suffix}: {added} bytes of {logical} were new"));
        }
    }
    for suffix in RAW {
        let [added, written, logical] = put("epoch=3-step=12000", suffix, "2");
        // torch before 1.6 put storages in the order of their addresses, another one each time.
        let most = (16 << 10) + if suffix == "pth" { small_tensors } else { 0 };
        if written > most {
            wrong.push(format!("{suffix} saved again: {written} bytes were written, {added} of {logical} were new"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
