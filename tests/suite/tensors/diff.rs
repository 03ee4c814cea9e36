//! `ckpt diff`: members and tensors that differ, by how much, and what is read to find out.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};

use serde_json::{Value, json};

use super::{Bench, model};

/// The names in a list.
fn names(list: &Value) -> Vec<&str> {
    list.as_array().expect("a list").iter().map(|one| one["name"].as_str().expect("a name")).collect()
}

#[test]
fn differences_are_those_of_torch() {
    let bench = Bench::new();
    let said = bench.python(
        r#"
import json, math, torch
from safetensors.torch import save_file
g = torch.Generator().manual_seed(5)
x = torch.randn(700, 900, generator=g)
d = torch.where(torch.rand(700, 900, generator=g) < 0.1, torch.randn(700, 900, generator=g), torch.zeros(700, 900))
i = torch.randint(-1000, 1000, (300, 300), generator=g)
odd = torch.randn(100, generator=g)
became = odd.clone()
became[3], became[4] = torch.nan, torch.inf
c = torch.complex(x[:50, :50], x[50:100, 50:100])
before = {"f32": x, "bf16": x[:100].bfloat16(), "f64": x[:200].double(), "i64": i, "bool": i > 0, "odd": odd, "frozen": x + 1,
          "f8": x[:50].to(torch.float8_e4m3fn), "zero": torch.zeros(5), "small": x[0], "complex": c, "transposed": x.t()}
after = {"f32": x + d, "bf16": (x + d)[:100].bfloat16(), "f64": (x + d)[:200].double(), "i64": i + (i > 500), "bool": i > 10,
         "odd": became, "frozen": x + 1, "f8": (x + d)[:50].to(torch.float8_e4m3fn), "zero": torch.ones(5), "small": x[0] + d[0],
         "complex": c * (1 + 0.5j), "transposed": (x + d).t()}
torch.save(before, "before.pt")
torch.save(after, "after.pt")
said = {}
for name, a in before.items():
    b = after[name]
    wide = torch.complex128 if a.is_complex() else torch.float64
    bits = lambda t: torch.view_as_real(t) if t.is_complex() else t
    changed = (bits(a.double() if not a.is_complex() else a) != bits(b.double() if not a.is_complex() else b))
    changed = changed.any(-1) if a.is_complex() else changed
    a, b = a.to(wide).flatten(), b.to(wide).flatten()
    finite = a.isfinite() & b.isfinite()
    fa, fb = a[finite], b[finite]
    n = torch.linalg.vector_norm
    dot = torch.vdot(fa, fb).real
    said[name] = {"elements": a.numel(), "changed_elements": changed.sum().item(),
        "max_abs": (fa - fb).abs().max().item(), "mean_abs": (fa - fb).abs().mean().item(),
        "relative": (n(fa - fb) / n(fa)).item(), "cosine": (dot / (n(fa) * n(fb))).item(),
        "nonfinite_before": (~a.isfinite()).sum().item(), "nonfinite_after": (~b.isfinite()).sum().item()}
    said[name] = {k: v if math.isfinite(v) else None for k, v in said[name].items()}
print(json.dumps(said))
"#,
    );
    for (name, step) in [("before.pt", "1"), ("after.pt", "2")] {
        assert_eq!(bench.ckpt(&["put", name, "--run", "r", "--step", step]).code, Some(0));
    }
    let diff = bench.json(&["diff", "r@1", "r@2", "--tensors"]);
    let tensors = &diff["tensors"];
    for list in ["added", "removed", "reshaped"] {
        assert_eq!(tensors[list], json!([]), "{diff}");
    }
    assert_eq!(tensors["unchanged"], 1, "{diff}");
    let changed = tensors["changed"].as_array().expect("a list");
    assert_eq!(changed.len(), 11, "{:?}", names(&tensors["changed"]));
    assert_eq!(changed[0]["name"], "zero", "what was zero has grown without bound");
    let relative: Vec<f64> = changed.iter().filter_map(|change| change["relative"].as_f64()).collect();
    assert!(relative.is_sorted_by(|a, b| a >= b) && relative.len() == 10, "{relative:?}");
    for change in changed {
        let name = change["name"].as_str().expect("a name");
        for (figure, theirs) in said[name].as_object().expect("figures") {
            let (a, b) = (change[figure].as_f64(), theirs.as_f64());
            let close = match (a, b) {
                (Some(a), Some(b)) => (a - b).abs() <= 1e-9 * a.abs().max(b.abs()),
                _ => a == b,
            };
            assert!(close, "{figure} of {name}: {a:?} and {b:?}");
        }
    }
    let text = bench.ckpt(&["diff", "r@1", "r@2", "--tensors"]);
    assert!(text.text().contains("NOT FINITE") && text.text().contains("0 -> 2"), "{text:?}");
    assert!(text.text().contains("tensors: 11 changed, 1 unchanged; "), "{text:?}");
}

#[test]
fn tensors_come_go_and_change_their_shape() {
    let bench = Bench::new();
    bench.put(
        1,
        &[("m.safetensors", model(&[("same", "F32", 1, 400_000), ("gone", "F32", 2, 400), ("w", "F32", 3, 80_000)]))],
    );
    bench.put(
        2,
        &[("m.safetensors", model(&[("new", "F32", 4, 400), ("same", "F32", 1, 400_000), ("w", "I32", 3, 80_000)]))],
    );
    let diff = bench.json(&["diff", "r@1", "r@2", "--tensors"]);
    assert_eq!(diff["tensors"]["added"], json!([{"name": "new", "dtype": "F32", "shape": [100], "bytes": 400}]));
    assert_eq!(diff["tensors"]["removed"], json!([{"name": "gone", "dtype": "F32", "shape": [100], "bytes": 400}]));
    let as_type = |dtype| json!({"dtype": dtype, "shape": [20_000], "bytes": 80_000});
    assert_eq!(diff["tensors"]["reshaped"], json!([{"name": "w", "before": as_type("F32"), "after": as_type("I32")}]));
    assert_eq!((&diff["tensors"]["changed"], &diff["tensors"]["unchanged"]), (&json!([]), &json!(1)));
    assert_eq!(diff["read_bytes"], 0, "ids and headers tell: {diff}");
    let text = bench.ckpt(&["diff", "r@1", "r@2", "--tensors"]);
    assert!(text.text().contains("F32 [20000] -> I32 [20000]"), "{text:?}");
    let same = bench.json(&["diff", "r@1", "r@1", "--tensors"]);
    assert_eq!(
        (&same["tensors"]["unchanged"], &same["files_unchanged"], &same["files"]),
        (&3.into(), &1.into(), &json!([]))
    );
}

#[test]
fn checkpoints_that_share_most_are_read_for_the_rest() {
    let bench = Bench::new();
    // 19 of 20 large tensors are the same; a few small ones share a chunk and one of them changed.
    let of = |step: u64| {
        let large: Vec<String> = (0..20).map(|nr| format!("layer.{nr}.weight")).collect();
        let small: Vec<String> = (0..20).map(|nr| format!("layer.{nr}.bias")).collect();
        let seed = |nr: u64| if nr == 7 { 1000 * step } else { nr };
        let mut tensors: Vec<(&str, &str, u64, usize)> = Vec::new();
        tensors.extend((0..).zip(&large).map(|(nr, name)| (&**name, "F32", seed(nr), 1_200_000)));
        tensors.extend((0..).zip(&small).map(|(nr, name)| (&**name, "F32", 50 + seed(nr), 400)));
        model(&tensors)
    };
    bench.put(1, &[("m.safetensors", of(1))]);
    bench.put(2, &[("m.safetensors", of(2))]);
    let diff = bench.json(&["diff", "r@1", "r@2", "--tensors"]);
    assert_eq!(names(&diff["tensors"]["changed"]).len(), 2, "{diff}");
    assert_eq!(diff["tensors"]["unchanged"], 38, "those in the chunk of small ones are found to be the same: {diff}");
    // The large one and the chunk of small ones, of both.
    assert_eq!(diff["read_bytes"], 2 * (1_200_000 + 20 * 400), "{diff}");
}

#[test]
fn the_same_tensors_in_another_container_and_run_are_the_same() {
    let bench = Bench::new();
    bench.python(
        r#"
import torch
from safetensors.torch import save_file
g = torch.Generator().manual_seed(5)
state = {f"layer.{i}.weight": torch.randn(300, 300, generator=g) for i in range(5)}
state |= {f"layer.{i}.bias": torch.randn(30 + i, generator=g) for i in range(5)}
torch.save(state, "a.pt")
save_file(state, "a.safetensors")
print("{}")
"#,
    );
    assert_eq!(bench.ckpt(&["put", "a.pt", "--run", "torch"]).code, Some(0));
    assert_eq!(bench.ckpt(&["put", "a.safetensors", "--run", "safe"]).code, Some(0));
    let diff = bench.json(&["diff", "torch", "safe", "--tensors"]);
    assert_eq!((&diff["tensors"]["changed"], &diff["tensors"]["unchanged"]), (&json!([]), &10.into()), "{diff}");
}

#[test]
fn members_that_differ_are_listed() {
    let bench = Bench::new();
    let folder = bench.path("tree");
    let write = |name: &str, bytes: &[u8]| fs::write(folder.join(name), bytes).expect("it can be written");
    fs::create_dir_all(folder.join("sub")).expect("it can be made");
    let text = |word: &str| word.repeat(900).into_bytes();
    // Small files of a checkpoint share chunks: that the first changes says nothing of the others.
    write("a.txt", &text("before "));
    write("config.json", &text("{\"hidden\": 384} "));
    write("sub/gone.txt", b"x");
    write("mode.txt", b"m");
    symlink("a.txt", folder.join("link")).expect("it can be made");
    let put = |step: &str, loss: &str| {
        let args = [
            "put", "tree", "--run", "r", "--step", step, "--metric", loss, "--metric", "same=1", "--metric", "odd=nan",
        ];
        assert_eq!(bench.ckpt(&args).code, Some(0));
    };
    put("1", "loss=0.5");
    write("a.txt", &text("later! "));
    fs::remove_file(folder.join("sub/gone.txt")).expect("it can be removed");
    write("new.txt", b"new");
    fs::set_permissions(folder.join("mode.txt"), fs::Permissions::from_mode(0o600)).expect("it can be set");
    fs::remove_file(folder.join("link")).expect("it can be removed");
    symlink("new.txt", folder.join("link")).expect("it can be made");
    put("2", "loss=0.25");
    let diff = bench.json(&["diff", "r@1", "r@2"]);
    assert_eq!(diff["metrics"], json!({"loss": {"before": 0.5, "after": 0.25}}), "{diff}");
    let files = diff["files"].as_array().expect("a list");
    let listed: Vec<(&str, &str, bool)> = files
        .iter()
        .map(|file| {
            let text = |field: &str| file[field].as_str().expect("text");
            (text("path"), text("change"), file["content"].as_bool().expect("a truth value"))
        })
        .collect();
    let expected = [
        ("a.txt", "changed", true),
        ("link", "changed", true),
        ("mode.txt", "changed", false),
        ("new.txt", "added", true),
        ("sub/gone.txt", "removed", true),
    ];
    assert_eq!(listed, expected, "{diff}");
    assert_eq!(diff["files_unchanged"], 2, "config.json and sub: {diff}");
    assert_eq!((&files[1]["before"]["target"], &files[1]["after"]["target"]), (&"a.txt".into(), &"new.txt".into()));
    assert!(diff.get("tensors").is_none() && diff["read_bytes"].is_u64() && diff["seconds"].is_f64());
    let text = bench.ckpt(&["diff", "r@1", "r@2"]);
    for part in ["r@1 -> r@2\n", "  loss 0.5 -> 0.25\n", "mode 644 -> 600", "link to a.txt -> link to new.txt"] {
        assert!(text.text().contains(part), "{part}: {text:?}");
    }
    assert!(text.text().ends_with("\nfiles: 1 added, 1 removed, 3 changed, 2 unchanged\n"), "{text:?}");
}

#[test]
fn two_single_files_are_compared_under_any_names() {
    let bench = Bench::new();
    fs::write(bench.path("step=1.bin"), vec![1; 100_000]).expect("it can be written");
    fs::write(bench.path("step=2.bin"), vec![1; 100_000]).expect("it can be written");
    fs::write(bench.path("step=3.bin"), vec![3; 90_000]).expect("it can be written");
    for step in 1..=3 {
        assert_eq!(bench.ckpt(&["put", &format!("step={step}.bin"), "--run", "r"]).code, Some(0));
    }
    assert_eq!(bench.json(&["diff", "r@1", "r@2"])["files_unchanged"], 1);
    let diff = bench.json(&["diff", "r@1", "r@3"]);
    assert_eq!((&diff["files"][0]["path"], &diff["files"][0]["was"]), (&"step=3.bin".into(), &"step=1.bin".into()));
}

#[test]
fn a_damaged_checkpoint_is_named_and_another_one_offered() {
    let bench = Bench::new();
    for step in 1..=3 {
        bench
            .put(step, &[("m.safetensors", model(&[("w", "F32", step, 400_000), ("v", "F32", 10 + step, 2_000_000)]))]);
    }
    bench.damage_the_newest_pack();
    for pair in [["r@1", "r@3"], ["r@3", "r@1"]] {
        let ran = bench.ckpt(&["diff", pair[0], pair[1], "--tensors"]);
        assert_eq!((ran.code, ran.text()), (Some(4), ""), "{ran:?}");
        assert!(ran.stderr.contains("damaged: r@3: file \"m.safetensors\", tensor "), "{ran:?}");
        assert!(ran.stderr.contains("Hint: r@2 is sound"), "{ran:?}");
    }
    assert_eq!(bench.ckpt(&["diff", "r@1", "r@2", "--tensors"]).code, Some(0), "what is sound can be compared");
    let good = bench.json(&["diff", "r@1", "r@2"]);
    let settled = bench.ckpt(&["diff", "r@1", "r@latest-good", "--json"]);
    assert_eq!(
        (settled.code, settled.json()["after"]["ref"].clone()),
        (Some(0), good["after"]["ref"].clone()),
        "{settled:?}"
    );
    assert_eq!(bench.ckpt(&["diff", "r@1", "r@9"]).code, Some(3));
}
