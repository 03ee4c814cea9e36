//! `ckpt log`: its figures against torch's, what it reads, and what it says where there is nothing to follow.

use serde_json::{Value, json};

use super::{Bench, model};

/// A field of each row.
fn column(log: &Value, field: &str) -> Vec<Value> {
    let rows = log["checkpoints"].as_array().expect("checkpoints");
    rows.iter().map(|row| row.get(field).cloned().unwrap_or(Value::Null)).collect()
}

#[track_caller]
fn assert_close(what: &str, ours: &Value, theirs: &Value) {
    if let (Some(a), Some(b)) = (ours.as_f64(), theirs.as_f64()) {
        assert!((a - b).abs() <= 1e-9 * a.abs().max(b.abs()), "{what}: {a} and {b}");
    } else {
        assert_eq!(ours, theirs, "{what}");
    }
}

#[test]
fn figures_of_every_type_are_those_of_torch() {
    let bench = Bench::new();
    let said = bench.python(
        r#"
import json, math, torch
from safetensors.torch import save_file
g = torch.Generator().manual_seed(3)
x = torch.randn(123, 457, generator=g)
state = {
    "f64": x.double() * 1e3 + 1e6, "f32": x, "f16": x.half(), "bf16": x.bfloat16(),
    "f8_e4m3": x.to(torch.float8_e4m3fn), "f8_e5m2": x.to(torch.float8_e5m2),
    "f8_e4m3fnuz": x.to(torch.float8_e4m3fnuz), "f8_e5m2fnuz": x.to(torch.float8_e5m2fnuz),
    "i8": (x * 30).to(torch.int8), "u8": (x.abs() * 50).to(torch.uint8), "i16": (x * 5e3).to(torch.int16),
    "i32": (x * 5e8).to(torch.int32), "i64": (x * 1e12).to(torch.int64), "u16": (x.abs() * 5e3).to(torch.uint16),
    "bool": x > 0.3, "scalar": torch.tensor(0.25), "one": torch.tensor([7.0]), "none": torch.empty(0, 3),
    "odd": torch.where(x > 3, torch.nan, torch.where(x < -3, -torch.inf, x)),
}
save_file(state, "all.safetensors")
views = {"whole": x, "transposed": x.t(), "sliced": x[5:50, 3:7], "expanded": x[0].expand(3, 457),
         "complex": torch.complex(x[:50, :50], x[50:100, 50:100])}
torch.save(views, "views.pt")
said = {}
for name, t in {**state, **views}.items():
    # Compared as doubles: torch itself sums up in the tensor's own precision.
    n = t.to(torch.complex128).abs() if t.is_complex() else t.double()
    finite = n[n.isfinite()]
    numbers = n[~n.isnan()]
    some = lambda f, of, least=1: f(of).item() if of.numel() >= least else None
    at = [s // 2 for s in t.shape]
    value = t[tuple(at)].item() if t.numel() else None
    said[name] = {
        "figures": {"count": n.numel(), "nan": n.isnan().sum().item(), "infinite": n.isinf().sum().item(),
            "min": some(torch.min, numbers), "max": some(torch.max, numbers), "mean": some(torch.mean, finite),
            "std": some(torch.std, finite, 2), "norm": torch.linalg.vector_norm(finite).item()},
        "shape": list(t.shape), "index": at, "value": [value.real, value.imag] if t.is_complex() else value,
    }
    for key, number in said[name]["figures"].items():
        if number is not None and not math.isfinite(number):
            said[name]["figures"][key] = None
print(json.dumps(said))
"#,
    );
    for (name, run) in [("all.safetensors", "all"), ("views.pt", "views")] {
        assert_eq!(bench.ckpt(&["put", name, "--run", run, "--step", "1"]).code, Some(0));
    }
    let said = said.as_object().expect("an object");
    assert_eq!(said.len(), 24);
    for (name, said) in said {
        let is_view = ["whole", "transposed", "sliced", "expanded", "complex"].contains(&&**name);
        let run = if is_view { "views" } else { "all" };
        let log = bench.json(&["log", run, "--tensor", name]);
        let row = &log["checkpoints"][0];
        assert_eq!((&row["state"], &row["shape"]), (&"present".into(), &said["shape"]), "{name}: {row}");
        for (figure, theirs) in said["figures"].as_object().expect("figures") {
            assert_close(&format!("{figure} of {name}"), &row[figure], theirs);
        }
        let index: Vec<String> = said["index"].as_array().expect("a list").iter().map(Value::to_string).collect();
        if said["value"].is_null() || index.is_empty() {
            continue;
        }
        let log = bench.json(&["log", run, "--tensor", name, "--index", &index.join(",")]);
        let value = &log["checkpoints"][0]["value"];
        assert!(*value == said["value"] || value.as_f64() == said["value"].as_f64(), "{name}: {value} and {said}");
        assert_eq!(log["checkpoints"][0].get("mean"), None, "{log}");
    }
}

#[test]
fn rows_say_what_changed_and_nothing_is_read_twice() {
    let bench = Bench::new();
    let of =
        |seed| vec![("model.safetensors", model(&[("w", "F32", seed, 400_000), ("other", "F32", 99 + seed, 80_000)]))];
    bench.put(1, &of(1));
    bench.put(2, &[("model.safetensors", model(&[("w", "F32", 1, 400_000), ("other", "F32", 7, 80_000)]))]);
    bench.put(3, &of(2));
    bench.put(4, &[("model.safetensors", model(&[("other", "F32", 7, 80_000)]))]);
    bench.put(5, &of(2));
    bench.put(6, &[("model.safetensors", model(&[("w", "I32", 2, 400_000)]))]);
    bench.put(7, &[("model.safetensors", model(&[("w", "I32", 2, 200_000)]))]);
    let log = bench.json(&["log", "r", "--tensor", "w"]);
    assert_eq!(column(&log, "step"), [1, 2, 3, 4, 5, 6, 7].map(Value::from));
    let (yes, no, unknown) = (Value::from(true), Value::from(false), Value::Null);
    assert_eq!(
        column(&log, "changed"),
        [&unknown, &no, &yes, &unknown, &no, &yes, &yes].map(Clone::clone),
        "absent ones are passed over: {log}"
    );
    assert_eq!(column(&log, "state")[3], "absent");
    assert_eq!(column(&log, "dtype")[4..], [json!("F32"), json!("I32"), json!("I32")]);
    assert_eq!(column(&log, "shape")[5..], [json!([100_000]), json!([50_000])]);
    assert_eq!(column(&log, "mean")[0], column(&log, "mean")[1]);
    assert_ne!(column(&log, "mean")[0], column(&log, "mean")[2]);
    // Steps 1, 3, 6 and 7; what is the same as before is not read.
    assert_eq!(log["read_bytes"], 3 * 400_000 + 200_000, "{log}");

    let text = bench.ckpt(&["log", "r", "--tensor", "w"]);
    let lines: Vec<&str> = text.text().lines().collect();
    assert_eq!(lines[..2], ["w", "6 of 7 checkpoints of r have it"], "{text:?}");
    assert_eq!(lines.len(), 4 + 7, "a table and no bars, for this is no terminal: {text:?}");
    assert!(lines[3].starts_with("STEP  CHANGED  DTYPE  SHAPE"), "{text:?}");
    assert!(lines[7].trim_start().starts_with('4') && lines[7].ends_with("absent"), "{text:?}");
    assert!(lines[5].trim_start().starts_with("2  no  "), "{text:?}");
}

#[test]
fn a_small_tensor_is_the_same_although_its_neighbors_in_the_chunk_are_not() {
    let bench = Bench::new();
    for step in 1..=3 {
        let tensors = [("scale", "F32", 5, 4000), ("bias", "F32", step, 4000)];
        bench.put(step, &[("model.safetensors", model(&tensors))]);
    }
    let log = bench.json(&["log", "r", "--tensor", "scale"]);
    assert_eq!(column(&log, "changed"), [Value::Null, false.into(), false.into()], "{log}");
    let log = bench.json(&["log", "r", "--tensor", "bias"]);
    assert_eq!(column(&log, "changed"), [Value::Null, true.into(), true.into()], "{log}");
}

#[test]
fn a_run_of_many_checkpoints_is_read_for_what_changes_of_the_tensor() {
    let bench = Bench::new();
    // More than are opened at once, so that what was read last is carried on.
    for step in 0..20 {
        let tensors =
            [("encoder", "F32", 1, 2_000_000), ("head", "F32", 100 + step / 2, 300_000), ("b", "F32", step, 400)];
        bench.put(step, &[("model.safetensors", model(&tensors))]);
    }
    let log = bench.json(&["log", "r", "--tensor", "head"]);
    assert_eq!(log["read_bytes"], 10 * 300_000, "{log}");
    let changed: Vec<Value> = (1..20).map(|step| (step % 2 == 0).into()).collect();
    assert_eq!(column(&log, "changed")[1..], changed);
    assert_eq!(bench.json(&["log", "r", "--tensor", "encoder"])["read_bytes"], 2_000_000);
    // Of one element only the chunk that it is in: the second of the encoder, of 1 MiB at most.
    let log = bench.json(&["log", "r", "--tensor", "encoder", "--index", "-1"]);
    assert_eq!(log["read_bytes"], 2_000_000 - (1 << 20), "{log}");
}

#[test]
fn names_may_be_globs_for_one_tensor() {
    let bench = Bench::new();
    let tensors = [("layers.0.weight", "F32", 1, 400), ("layers.0.bias", "F32", 2, 40), ("layers[1]", "F32", 3, 40)];
    bench.put(1, &[("model.safetensors", model(&tensors))]);
    bench.put(2, &[("model.safetensors", model(&[("other", "F32", 1, 400)]))]);
    assert_eq!(bench.json(&["log", "r", "--tensor", "*.weight"])["tensor"], "layers.0.weight");
    assert_eq!(bench.json(&["log", "r", "--tensor", "layers[1]"])["tensor"], "layers[1]");
    let fails = |tensor: &str, code, message: &str, hint: &str| {
        let ran = bench.ckpt(&["log", "r", "--tensor", tensor]);
        assert_eq!((ran.code, ran.text()), (Some(code), ""), "{ran:?}");
        assert_eq!(ran.stderr, format!("Error: {message}\n{hint}"), "{ran:?}");
    };
    fails("layers.0.*", 2, "\"layers.0.*\" matches several tensors: layers.0.weight, layers.0.bias", "");
    fails(
        "layers.0.wieght",
        3,
        "no tensor layers.0.wieght in r",
        "Hint: `ckpt show REF --tensors` lists the tensors\n",
    );
    bench.put(3, &[("model.safetensors", model(&tensors))]);
    let near = "Hint: did you mean layers.0.weight or layers.0.bias?\n";
    fails("layers.0.wieght", 3, "no tensor layers.0.wieght in r", near);
    let near = "Hint: did you mean layers.0.weight?\n";
    fails("state_dict.layers.0.weight", 3, "no tensor state_dict.layers.0.weight in r", near);
    assert_eq!(bench.ckpt(&["log", "rr", "--tensor", "w"]).code, Some(3));
}

#[test]
fn one_element_is_followed_by_its_index() {
    let bench = Bench::new();
    bench.python(
        r#"
import torch
from safetensors.torch import save_file
for step in range(4):
    t = torch.zeros(3, 50000, dtype=torch.int64)
    t[1, 2] = 2**60 + step // 2
    t[0, 0] = step
    save_file({"t": t}, f"step={step}.safetensors")
print("{}")
"#,
    );
    for step in 0..4 {
        assert_eq!(bench.ckpt(&["put", &format!("step={step}.safetensors"), "--run", "r"]).code, Some(0));
    }
    let log = bench.json(&["log", "r", "--tensor", "t", "--index", "1,-49998"]);
    let large = 1_u64 << 60;
    assert_eq!(column(&log, "value"), [large, large, large + 1, large + 1].map(Value::from), "exactly: {log}");
    assert_eq!(
        column(&log, "changed"),
        [Value::Null, false.into(), true.into(), false.into()],
        "of the element: {log}"
    );
    assert_eq!(log["index"], json!([1, -49998]));

    let csv = bench.ckpt(&["log", "r", "--tensor", "t", "--index", "1,2", "--csv"]);
    let lines: Vec<&str> = csv.text().lines().collect();
    assert_eq!((lines.len(), lines[0]), (5, "step,id,time,dtype,shape,changed,value,note"));
    assert!(lines[1].starts_with("0,") && lines[1].ends_with(",I64,3x50000,,1152921504606846976,"), "{lines:?}");
    let csv = bench.ckpt(&["log", "r", "--tensor", "t", "--csv"]);
    let lines: Vec<&str> = csv.text().lines().collect();
    assert_eq!(lines[0], "step,id,time,dtype,shape,changed,count,nan,infinite,min,max,mean,std,norm,note");
    assert!(lines[2].contains(",I64,3x50000,true,150000,0,0,0,1152921504606847000,"), "{lines:?}");
    for (args, said) in [
        (vec!["--index", "3,0"], "Error: t has no such element: dimension 0 has 3 positions\n"),
        (vec!["--index", "3"], "Error: t has no such element: it has 2 dimensions\n"),
        (vec!["--csv", "--json"], "Error: --csv and --json can't both be what is printed\n"),
    ] {
        let ran = bench.ckpt(&[&["log", "r", "--tensor", "t"], &args[..]].concat());
        assert_eq!((ran.code, ran.text()), (Some(2), ""), "{ran:?}");
        assert!(ran.stderr.starts_with(said), "{ran:?}");
    }
}

#[test]
fn what_is_sound_is_shown_where_something_is_damaged() {
    let bench = Bench::new();
    for step in 1..=3 {
        bench.put(step, &[("model.safetensors", model(&[("w", "F32", step, 400_000)]))]);
        if step == 2 {
            bench.damage_the_newest_pack();
        }
    }
    let ran = bench.ckpt(&["log", "r", "--tensor", "w"]);
    assert_eq!(ran.code, Some(4), "{ran:?}");
    assert!(
        ran.stderr.starts_with("Error: 1 place is damaged: r@2: file \"model.safetensors\", tensor \"w\""),
        "{ran:?}"
    );
    let lines: Vec<&str> = ran.text().lines().skip(4).collect();
    assert_eq!(lines.len(), 3, "{ran:?}");
    assert!(
        lines[1].contains("damaged: ") && !lines[0].contains("damaged") && !lines[2].contains("damaged"),
        "{ran:?}"
    );
    let json = bench.ckpt(&["log", "r", "--tensor", "w", "--json"]);
    assert_eq!(json.code, Some(4));
    let log = json.json();
    assert_eq!(column(&log, "state"), ["present", "damaged", "present"], "{log}");
    assert_eq!(
        column(&log, "changed"),
        [Value::Null, Value::Null, true.into()],
        "against the last that is sound: {log}"
    );
    assert!(column(&log, "mean")[1].is_null() && column(&log, "mean")[2].is_f64(), "{log}");

    // A checkpoint whose manifest is lost.
    let manifests = ckpt_tests::lab::files(&bench.store().join("checkpoints"));
    std::fs::remove_file(manifests.iter().max().expect("a manifest")).expect("it can be removed");
    let ran = bench.ckpt(&["log", "r", "--tensor", "w", "--json"]);
    assert_eq!(
        (ran.code, column(&ran.json(), "state")),
        (Some(4), ["present", "damaged", "damaged"].map(Value::from).to_vec())
    );
}

#[test]
fn a_terminal_gets_lines_of_bars() {
    let bench = Bench::new();
    for step in 1..=5 {
        bench.put(step, &[("model.safetensors", model(&[("w", "U8", step, 4000)]))]);
    }
    let script = format!(
        r#"
import json, os, pty
said = b""
def read(fd):
    global said
    data = os.read(fd, 65536)
    said += data
    return b" " if data else data
out, err = os.dup(1), os.open(os.devnull, os.O_WRONLY)
os.dup2(err, 1)
code = pty.spawn([{:?}, "--store", {:?}, "log", "r", "--tensor", "w"], read)
os.dup2(out, 1)
print(json.dumps({{"code": code, "said": said.decode()}}))
"#,
        ckpt_tests::run::binary(),
        bench.store()
    );
    let said = bench.python(&script);
    assert_eq!(said["code"], 0, "{said}");
    let said = said["said"].as_str().expect("text");
    for name in ["mean", "std", "norm"] {
        let line = said.lines().find(|line| line.starts_with(name)).unwrap_or_else(|| panic!("no {name}: {said}"));
        assert!(line.contains('█') && line.contains('▁') && line.contains(" to "), "{line}");
    }
}
