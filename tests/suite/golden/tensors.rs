//! Tensors of version 1: `tests/golden/v1-tensors/store` holds one checkpoint of files whose tensors are segments and views of
//! all kinds, `tensors.json` beside it what they are. `GOLDEN=tensors` makes both anew until a version is released.

use std::fs;
use std::path::{Path, PathBuf};

use ckpt_store::{ExportRequest, GetRequest, PutRequest, Quiet, Store, TensorRef};
use ckpt_tests::python::python;
use ckpt_tests::sample::scratch;
use serde_json::{Value, json};

use super::copy_tree;

/// One tensor in each way in which it can lie in a torch file.
const TORCH: &str = r#"
import sys, torch
torch.manual_seed(1)
w = torch.randn(64, 160)
torch.save({
    "embedding": w, "head": w, "turned": w.t(), "row": w[3], "spread": torch.ones(1, 5).expand(4, 5), "none": torch.empty(0, 3),
    "half": torch.randn(7).to(torch.bfloat16), "odd": torch.randn(2, dtype=torch.complex128), "scalar": torch.tensor(3),
}, sys.argv[1])
"#;

fn golden() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("golden/v1-tensors")
}

/// Everything that a store tells of its tensors, and the digests of what it gives out.
fn told(store: &Store, scratch: &Path) -> Value {
    let entry = store.resolve("r@1").expect("the checkpoint");
    let manifest = store.manifest(entry.id).expect("its manifest");
    let tensor = |tensor: TensorRef<'_>| {
        let TensorRef { name, dtype, shape, strides, offset, len } = tensor;
        json!({"name": name, "dtype": dtype, "shape": shape, "strides": strides, "offset": offset, "len": len})
    };
    let digest = |path: &Path| blake3::hash(&fs::read(path).expect("what came out")).to_hex().to_string();
    let files = manifest.files.iter().map(|file| {
        let path = String::from_utf8_lossy(&file.path).into_owned();
        let back = scratch.join(format!("back-{path}"));
        let request = GetRequest { reference: "r@1".into(), files: vec![path.clone()], ..GetRequest::default() };
        store.get(&request, &back, &Quiet).expect("get");
        let tensors: Vec<Value> = file.tensors().into_iter().map(tensor).collect();
        json!({"path": path, "blake3": digest(&back), "tensors": tensors})
    });
    let files: Vec<Value> = files.collect();
    let out = scratch.join("out.safetensors");
    // All but the one type that safetensors lacks.
    let tensors = ["[!o]*".to_owned()].into();
    let request = ExportRequest { reference: "r@1".into(), tensors, ..ExportRequest::default() };
    let report = store.export(&request, &out, &Quiet).expect("export");
    json!({"files": files, "export": {"tensors": report.tensors, "tied": report.tied, "blake3": digest(&out)}})
}

#[test]
fn tensors_of_version_1_are_read() {
    if std::env::var_os("GOLDEN").is_some_and(|value| value == "tensors") {
        write_golden();
    }
    let dir = scratch();
    let path = dir.path().join("store");
    copy_tree(&golden().join("store"), &path);
    let expected: Value =
        serde_json::from_slice(&fs::read(golden().join("tensors.json")).expect("tensors.json")).expect("JSON");
    let store = Store::open(&path).expect("a sound store");
    assert_eq!(told(&store, dir.path()), expected);
    let of = |name: &str| {
        let files = expected["files"].as_array().expect("files").iter();
        let mut all = files.flat_map(|file| file["tensors"].as_array().expect("tensors"));
        all.find(|tensor| tensor["name"] == name).unwrap_or_else(|| panic!("no {name}"))
    };
    // The file is not one of segments alone.
    assert_eq!((&of("turned")["strides"], &of("spread")["strides"]), (&json!([1, 160]), &json!([0, 1])));
    assert_eq!(of("head")["offset"], of("embedding")["offset"]);
    assert_eq!(of("none")["len"], 0);
    assert_eq!(of("odd")["dtype"], "C128");
}

/// Makes the golden store anew, with the library as it is.
fn write_golden() {
    let dir = scratch();
    let torch = dir.path().join("model.pt");
    let made = python().args(["-c", TORCH]).arg(&torch).status().expect("Python");
    assert!(made.success());
    let keras = Path::new(env!("CARGO_MANIFEST_DIR")).join("golden/formats/model.keras");
    let path = dir.path().join("store");
    let store = Store::init(&path).expect("init");
    let request = PutRequest { paths: vec![torch, keras], run: "r".into(), step: Some(1), ..PutRequest::default() };
    store.put(&request, &Quiet).expect("put");
    let text = serde_json::to_string_pretty(&told(&store, dir.path())).expect("JSON") + "\n";
    for folder in ["index", "locks", "sessions", "tmp"] {
        fs::remove_dir_all(path.join(folder)).expect("what is derived or disposable");
    }
    let _ = fs::remove_file(path.join("reserve"));
    let _ = fs::remove_dir_all(golden());
    copy_tree(&path, &golden().join("store"));
    fs::write(golden().join("tensors.json"), text).expect("tensors.json");
}
