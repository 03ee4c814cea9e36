//! Files written by real torch.save and safetensors.

use std::fs;
use std::path::{Path, PathBuf};

use ckpt_tests::python::{python, run_python};
use ckpt_tests::run::{ckpt_ok, on, run};
use serde_json::Value;
use tempfile::TempDir;

/// What every script begins with.
const PRELUDE: &str = r#"
import collections, io, sys, torch
from safetensors.torch import load_file, save_file
torch.manual_seed(7)

def same(a, b):
    """Two nested structures of tensors and plain values are the same, bit by bit."""
    if isinstance(a, torch.Tensor):
        assert a.dtype == b.dtype and a.shape == b.shape and a.stride() == b.stride(), (a.dtype, b.dtype, a.shape, b.shape)
        assert torch.equal(a.contiguous().view(-1).view(torch.uint8), b.contiguous().view(-1).view(torch.uint8))
    elif isinstance(a, dict):
        assert list(a) == list(b)
        for key in a:
            same(a[key], b[key])
    elif isinstance(a, (list, tuple)):
        assert len(a) == len(b)
        for x, y in zip(a, b):
            same(x, y)
    else:
        assert a == b

def encoder():
    """10.5 MB that never change, large tensors and small ones."""
    g = torch.Generator().manual_seed(1)
    layers = {}
    for i in range(10):
        layers[f"encoder.{i}.weight"] = torch.randn(512, 512, generator=g) * 0.02
        layers[f"encoder.{i}.bias"] = torch.randn(512, generator=g)
    return layers

def head(step):
    """0.5 MB that train."""
    g = torch.Generator().manual_seed(step)
    return {"head.weight": torch.randn(256, 512, generator=g) * 0.02, "head.bias": torch.randn(256, generator=g)}
"#;

/// A Python with torch and safetensors, a place for files, and a store.
struct Bench {
    dir: TempDir,
}

impl Bench {
    fn new() -> Self {
        let bench = Self { dir: tempfile::tempdir().expect("a temporary directory") };
        ckpt_ok(&bench.store(), ["init"]);
        bench
    }

    fn store(&self) -> PathBuf {
        self.dir.path().join("store")
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Runs a script in the place for files.
    fn python(&self, script: &str) {
        run_python(python().current_dir(self.dir.path()).arg("-c").arg(format!("{PRELUDE}\n{script}")));
    }

    fn put(&self, name: &str, run_name: &str) -> Value {
        let ran = run(on(&self.store()).current_dir(self.dir.path()).args(["put", name, "--run", run_name, "--json"]));
        assert_eq!(ran.code, Some(0), "{ran:?}");
        ran.json()
    }

    /// Gets the latest checkpoint of a run and compares it with the file it came from.
    fn get_and_compare(&self, run_name: &str, name: &str) {
        let back = self.path(&format!("back-{}", Path::new(name).file_name().expect("a name").display()));
        ckpt_ok(&self.store(), ["get".as_ref(), run_name.as_ref(), back.as_os_str()]);
        let (a, b) = (fs::read(self.path(name)).expect("the source"), fs::read(back).expect("what came back"));
        assert!(a == b, "{name} came back as other bytes");
    }

    fn tensors(&self, run_name: &str) -> Vec<(String, Option<String>)> {
        let show = ckpt_ok(&self.store(), ["show", run_name, "--tensors", "--json"]).json();
        let list = show["members"][0]["tensors"].as_array().expect("tensors").clone();
        let text = |value: &Value| value.as_str().map(str::to_owned);
        list.iter().map(|tensor| (text(&tensor["name"]).expect("a name"), text(&tensor["dtype"]))).collect()
    }

    fn format(&self, run_name: &str) -> String {
        let show = ckpt_ok(&self.store(), ["show", run_name, "--json"]).json();
        show["members"][0]["format"].as_str().expect("a format").to_owned()
    }
}

fn bytes(value: &Value, field: &str) -> u64 {
    value[field].as_u64().unwrap_or_else(|| panic!("{field} of {value}"))
}

#[test]
fn state_dicts_of_every_kind_come_back_and_load() {
    let bench = Bench::new();
    bench.python(
        r#"
tied = torch.randn(300, 400)
base = torch.randn(1000, 64)
model = torch.nn.TransformerEncoderLayer(64, 4, 128, batch_first=True)
optimizer = torch.optim.AdamW(model.parameters())
model(torch.randn(2, 5, 64)).sum().backward()
optimizer.step()
kinds = {
    "fp32.pt": {**encoder(), **head(1)},
    "bf16.bin": {k: v.bfloat16() for k, v in encoder().items()},
    "mixed.pth": {"half": torch.randn(500, 500).half(), "double": torch.randn(200, 200).double(),
                  "int": torch.arange(100_000), "byte": torch.randint(0, 255, (99_999,), dtype=torch.uint8),
                  "bool": torch.rand(70_001) > 0.5, "complex": torch.randn(100, 100, dtype=torch.complex64),
                  "f8": torch.randn(300, 300).to(torch.float8_e4m3fn)},
    "tied.pt": {"embed": tied, "lm_head": tied},
    "views.pt": {"rows": base[10:20], "column": base[:, 3], "transposed": base.t(), "all": base},
    "nested.ckpt": {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "step": 12,
                    "deep": [{"a": (1, 2.5, "text", None)}, collections.OrderedDict(x=torch.ones(3))]},
    "many small.pt": {f"layer.{i}.norm": torch.randn(i + 1) for i in range(150)},
    "empty.pt": {},
    "zero_size.pt": {"none": torch.empty(0, 5), "scalar": torch.tensor(3.5)},
    "sparse.pt": {"zeros": torch.zeros(500, 500), "ones": torch.ones(500, 500)},
}
for name, state in kinds.items():
    torch.save(state, name)
torch.save(kinds["fp32.pt"], "legacy.pt", _use_new_zipfile_serialization=False)
torch.jit.save(torch.jit.script(torch.nn.Linear(200, 300)), "script.pt")
"#,
    );
    let names = [
        "fp32.pt",
        "bf16.bin",
        "mixed.pth",
        "tied.pt",
        "views.pt",
        "nested.ckpt",
        "many small.pt",
        "empty.pt",
        "zero_size.pt",
        "sparse.pt",
        "legacy.pt",
        "script.pt",
    ];
    for (nr, name) in names.iter().enumerate() {
        let run_name = format!("kind/{nr}");
        bench.put(name, &run_name);
        bench.get_and_compare(&run_name, name);
        let expected = match *name {
            "legacy.pt" => "torch legacy",
            "script.pt" => "torchscript",
            _ => "torch zip",
        };
        assert_eq!(bench.format(&run_name), expected, "{name}");
    }
    assert_eq!(bench.tensors("kind/6").len(), 150, "one tensor for each storage");
    ckpt_ok(&bench.store(), ["verify"]);
    bench.python(
        r#"
import glob
for name in glob.glob("back-*"):
    if "script" not in name:
        same(torch.load(name.removeprefix("back-"), weights_only=False), torch.load(name, weights_only=False))
tied = torch.load("back-tied.pt")
assert tied["embed"].data_ptr() == tied["lm_head"].data_ptr()
torch.jit.load("back-script.pt")(torch.ones(200))
"#,
    );
}

#[test]
fn safetensors_come_back_and_load() {
    let bench = Bench::new();
    bench.python(
        r#"
state = {**encoder(), **head(1), "bf16": torch.randn(99, 99).bfloat16(), "scalar": torch.tensor(1.0), "int": torch.arange(50)}
save_file(state, "model.safetensors", metadata={"format": "pt", "note": "häuser"})
save_file({}, "empty.safetensors")
"#,
    );
    for name in ["model.safetensors", "empty.safetensors"] {
        bench.put(name, name);
        bench.get_and_compare(name, name);
        assert_eq!(bench.format(name), "safetensors");
    }
    let tensors = bench.tensors("model.safetensors");
    assert_eq!(tensors.len(), 25);
    assert!(tensors.contains(&("bf16".into(), Some("BF16".into()))), "{tensors:?}");
    assert!(tensors.contains(&("encoder.3.weight".into(), Some("F32".into()))), "{tensors:?}");
    bench.python(r#"same(load_file("model.safetensors"), load_file("back-model.safetensors"))"#);
}

#[test]
fn a_frozen_part_under_another_file_name_costs_nothing_again() {
    let bench = Bench::new();
    bench.python(
        r#"
for step in (250, 500, 750):
    # The name of the file stands in every record's header, and it gets longer: all offsets move.
    stem = {250: "step=250", 500: "epoch=1-step=500-val_loss=0.25", 750: "last"}[step]
    torch.save({"epoch": step // 250, "global_step": step, "pytorch-lightning_version": "2.6.6",
                "state_dict": {**encoder(), **head(step)}, "loops": {"fit_loop": {"state_dict": {}}}, "callbacks": {},
                "optimizer_states": [{"state": {0: {"step": torch.tensor(float(step)), "exp_avg": head(step + 1)["head.weight"]}},
                                      "param_groups": [{"lr": 1e-4, "params": [0]}]}], "lr_schedulers": []}, f"{stem}.ckpt")
"#,
    );
    let first = bench.put("step=250.ckpt", "lightning");
    assert_eq!(bytes(&first, "step"), 250);
    let changed = 2 * 256 * 512 * 4;
    let small = 10 * 512 * 4 + 256 * 4 + 4;
    for name in ["epoch=1-step=500-val_loss=0.25.ckpt", "last.ckpt"] {
        let put = bench.put(name, "lightning");
        let added = bytes(&put, "added_bytes");
        // What trained, the small tensors (one of them trained, and they share a chunk), and the headers of the records.
        let headers = 64 << 10;
        assert!(
            (changed..changed + small + headers).contains(&added),
            "{name}: {added} bytes of {}",
            bytes(&put, "logical_bytes")
        );
        bench.get_and_compare("lightning", name);
    }
    bench.python(r#"same(torch.load("last.ckpt"), torch.load("back-last.ckpt"))"#);
    let again = bench.put("last.ckpt", "again");
    assert_eq!((bytes(&again, "added_bytes"), bytes(&again, "new_chunks")), (0, 0));
}

#[test]
fn the_same_tensors_in_another_container_share_their_chunks() {
    let bench = Bench::new();
    bench.python(
        r#"
state = {**encoder(), **head(1)}
torch.save(state, "model.pt")
save_file(state, "model.safetensors")
torch.save({"state_dict": state, "extra": list(range(1000))}, "wrapped.ckpt")
"#,
    );
    bench.put("model.pt", "torch");
    for name in ["model.safetensors", "wrapped.ckpt"] {
        let put = bench.put(name, name);
        // The large tensors are all there; the small ones stand in another order, and headers are others.
        let added = bytes(&put, "added_bytes");
        assert!(added < 64 << 10, "{name}: {added} bytes of {}", bytes(&put, "logical_bytes"));
        bench.get_and_compare(name, name);
    }
}

#[test]
fn a_folder_as_transformers_writes_it_shares_what_did_not_change() {
    let bench = Bench::new();
    bench.python(
        r#"
import json, os
for step in (500, 1000):
    folder = f"checkpoint-{step}"
    os.makedirs(folder)
    save_file({**encoder(), **head(step)}, f"{folder}/model.safetensors", metadata={"format": "pt"})
    torch.save({"state": head(step)}, f"{folder}/optimizer.pt")
    torch.save({"cpu": torch.get_rng_state()}, f"{folder}/rng_state.pth")
    json.dump({"vocab": {f"token{i}": i for i in range(20_000)}}, open(f"{folder}/tokenizer.json", "w"))
    json.dump({"global_step": step}, open(f"{folder}/trainer_state.json", "w"))
"#,
    );
    let first = bench.put("checkpoint-500", "hf");
    assert_eq!((bytes(&first, "step"), bytes(&first, "files")), (500, 5));
    let second = bench.put("checkpoint-1000", "hf");
    let head = 256 * 512 * 4 + 256 * 4;
    let added = bytes(&second, "added_bytes");
    assert!(added < 2 * head + (128 << 10), "{added} of {}", bytes(&second, "logical_bytes"));
    ckpt_ok(&bench.store(), ["get".as_ref(), "hf@500".as_ref(), bench.path("back").as_os_str()]);
    bench.python(
        r#"
import filecmp
names = ["model.safetensors", "optimizer.pt", "rng_state.pth", "tokenizer.json", "trainer_state.json"]
assert filecmp.cmpfiles("checkpoint-500", "back", names, shallow=False) == (names, [], [])
"#,
    );
}
