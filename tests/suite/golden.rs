//! Golden files of every stored kind, written by earlier versions.
//!
//! `tests/golden/v1/store` is a store as version 1 wrote it, without what is derived or disposable; `contents.json` beside it
//! says what must come back; `tests/golden/v1-policies` is another one with policies. They are never changed once a version is released: a new version gets a folder of its own.
//! Until then `GOLDEN=write` makes them anew.

mod tensors;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, UNIX_EPOCH};

use ckpt_store::{Best, Error, GcRequest, GetRequest, Mode, Policy, PutRequest, Quiet, Rules, Store, VerifyRequest};
use ckpt_tests::lab::pack_lines;
use ckpt_tests::sample::{Node, Tree, noise, safetensors, scratch, torch_zip, weights};
use serde_json::{Value, json};

fn golden() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("golden/v1")
}

/// What the golden store is to hold: reference, and the tree that was stored.
fn samples() -> Vec<(&'static str, Tree)> {
    let lines: String = (0..4000).map(|nr| format!("step {nr}: loss {}\n", f64::from(nr) / 7.0)).collect();
    let tensors = safetensors(&[("encoder", 1, 9000), ("head.bias", 2, 16), ("head.scale", 3, 700)]);
    let tree = Tree::directory()
        .with("empty", Node::File(Vec::new(), 0o600))
        .with("log.txt", Node::File(lines.into_bytes(), 0o644))
        .with("model.safetensors", Node::File(tensors, 0o640))
        .with("noise.bin", Node::File(noise(4, 66_000), 0o755))
        .with("sub", Node::Directory(0o750))
        .with("sub/deeper", Node::Directory(0o755))
        .with("sub/latest", Node::Link("../model.safetensors".into()))
        .with("sub/a \u{e9} name", Node::File(b"short".to_vec(), 0o444));
    vec![
        ("a/tree@100", tree),
        ("a/torch@best:loss", Tree::file(torch_zip(&[(1, 9000), (5, 12), (6, 9000)]))),
        ("inline", Tree::file(b"all of it stands in the manifest".to_vec())),
        ("a/zeros@7", Tree::file(vec![0; 70_000])),
    ]
}

/// Digests of what is at `path`: relative path to what a store keeps of it.
fn digest(path: &Path) -> Value {
    let tree = Tree::read(path);
    let describe = |(relative, node): (&PathBuf, &Node)| {
        let at = if relative.as_os_str().is_empty() { path.to_owned() } else { path.join(relative) };
        let told = match node {
            Node::File(bytes, mode) => {
                let changed = fs::metadata(at).and_then(|metadata| metadata.modified()).expect("a time");
                let changed = changed.duration_since(UNIX_EPOCH).expect("after 1970").as_millis();
                let hash = blake3::hash(bytes).to_hex().to_string();
                json!({"bytes": bytes.len(), "blake3": hash, "mode": format!("{mode:o}"), "mtime_ms": changed as u64})
            }
            Node::Directory(mode) => json!({"directory": format!("{mode:o}")}),
            Node::Link(target) => json!({"link": target}),
        };
        (String::from_utf8_lossy(relative.as_os_str().as_bytes()).into_owned(), told)
    };
    Value::Object(tree.0.iter().map(describe).collect())
}

/// What the store says of its checkpoints.
fn entries(store: &Store) -> Value {
    let entry = |entry: &ckpt_store::Entry| {
        let metrics: BTreeMap<&String, String> = entry.metrics.iter().map(|(k, v)| (k, v.to_string())).collect();
        json!({
            "id": entry.id.to_string(), "run": entry.run, "step": entry.step, "time_ms": entry.time_ms, "metrics": metrics,
            "tags": entry.tags, "pinned": entry.pinned, "files": entry.files, "logical_bytes": entry.logical_bytes,
            "added_bytes": entry.added_bytes, "written_bytes": entry.written_bytes,
            "meta": store.manifest(entry.id).expect("a sound manifest").meta,
        })
    };
    store.checkpoints().expect("a sound catalog").iter().map(entry).collect()
}

fn contents(store: &Store) -> Value {
    let dir = scratch();
    let mut files = serde_json::Map::new();
    for (nr, (reference, _)) in samples().into_iter().enumerate() {
        let to = dir.path().join(nr.to_string());
        let request = GetRequest { reference: reference.into(), ..GetRequest::default() };
        store.get(&request, &to, &Quiet).unwrap_or_else(|error| panic!("{reference}: {error}"));
        files.insert(reference.into(), digest(&to));
    }
    json!({"checkpoints": entries(store), "files": files})
}

/// A copy of the golden store that may be damaged.
fn copy() -> (tempfile::TempDir, PathBuf) {
    let dir = scratch();
    let store = dir.path().join("store");
    copy_tree(&golden().join("store"), &store);
    (dir, store)
}

fn copy_tree(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("a directory can be made");
    for entry in fs::read_dir(from).unwrap_or_else(|error| panic!("{}: {error}", from.display())) {
        let path = entry.expect("a listed entry").path();
        let to = to.join(path.file_name().expect("a name"));
        if path.is_dir() {
            copy_tree(&path, &to);
        } else {
            fs::copy(&path, &to).expect("a file can be copied");
        }
    }
}

/// The one file in a folder of the store, or below it.
fn only(folder: &Path) -> PathBuf {
    let mut all = below(folder);
    assert_eq!(all.len(), 1, "{all:?}");
    all.remove(0)
}

fn below(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display())) {
        let path = entry.expect("a listed entry").path();
        if path.is_dir() { found.extend(below(&path)) } else { found.push(path) }
    }
    found.sort_unstable();
    found
}

/// FORMAT or HEAD with a changed body and the right hash.
fn rewrite(path: &Path, name: &str, change: impl Fn(&mut Value)) {
    let mut outer: Value = serde_json::from_slice(&fs::read(path).expect("the object")).expect("JSON");
    change(&mut outer[name]);
    let body = serde_json::to_string(&outer[name]).expect("JSON");
    let hash = blake3::hash(body.as_bytes()).to_hex();
    fs::write(path, format!("{{\"blake3\":\"{hash}\",\"{name}\":{body}}}\n")).expect("writing the object");
}

#[test]
fn version_1_reads_as_it_was_written() {
    if std::env::var_os("GOLDEN").is_some_and(|value| value == "write") {
        write_golden();
    }
    let (_dir, path) = copy();
    let expected: Value =
        serde_json::from_slice(&fs::read(golden().join("contents.json")).expect("contents.json")).expect("JSON");
    let store = Store::open(&path).expect("a sound store");
    assert_eq!(contents(&store), expected);
    let report = store.verify(&VerifyRequest::default(), &Quiet).expect("verify runs");
    assert!(report.is_sound() && report.harmless.is_empty(), "{report:?}");

    // And it goes on: what gc had begun is carried to its end, and what is stored again is known.
    let doomed = fs::read(path.join("HEAD")).expect("HEAD");
    assert!(
        String::from_utf8_lossy(&doomed).contains("\"deleting\":[\""),
        "the golden HEAD has packs that are being deleted"
    );
    let before = below(&path.join("packs")).len();
    let gc = store.gc(&GcRequest::default(), &Quiet).expect("gc runs");
    assert_eq!((gc.packs_deleted, below(&path.join("packs")).len()), (1, before - 2));
    let head = fs::read_to_string(path.join("HEAD")).expect("HEAD");
    assert!(head.contains("\"condemned\":{},\"deleting\":[]"), "{head}");
    let again = scratch();
    samples()[0].1.write(&again.path().join("tree"));
    let request = PutRequest { paths: vec![again.path().join("tree")], run: "again".into(), ..PutRequest::default() };
    let put = store.put(&request, &Quiet).expect("put runs");
    assert_eq!(put.new_chunks, 0, "with the same rules the same bytes get the same chunks");
    assert_eq!(contents(&store)["files"], expected["files"]);
}

#[test]
fn version_1_has_every_stored_kind() {
    let store = golden().join("store");
    let head: Value = serde_json::from_slice(&fs::read(store.join("HEAD")).expect("HEAD")).expect("JSON");
    let head = &head["head"];
    assert!(head["catalog"].is_string() && below(&store.join("catalog")).len() == 1);
    let kinds: BTreeSet<&String> = head["changes"]
        .as_array()
        .expect("changes")
        .iter()
        .flat_map(|change| change.as_object().expect("a change").keys())
        .collect();
    assert_eq!(kinds.into_iter().collect::<Vec<_>>(), ["add", "pin", "remove", "tag", "untag"]);
    assert!(head["condemned"].as_object().is_some_and(|packs| packs.len() == 1));
    assert!(head["deleting"].as_array().is_some_and(|packs| packs.len() == 1));
    let mut codecs = BTreeSet::new();
    for pack in below(&store.join("packs")) {
        codecs.extend(pack_lines(&fs::read(pack).expect("a pack")).iter().map(|line| line.codec));
    }
    assert_eq!(codecs, BTreeSet::from([0, 1, 2]), "raw, zstd and planes");
    let bytes: u64 = below(&golden()).iter().map(|path| path.metadata().expect("a size").len()).sum();
    assert!(bytes < 300_000, "golden files are small: {bytes}");
}

/// Opens a copy after `damage`, verifies it and gets everything; answers the first error, or the damage that verify found.
fn refusal(damage: impl Fn(&Path)) -> String {
    let (dir, path) = copy();
    damage(&path);
    let said = || -> ckpt_store::Result<String> {
        let store = Store::open(&path)?;
        let report = store.verify(&VerifyRequest::default(), &Quiet)?;
        let mut said: Vec<String> =
            report.objects.iter().map(|(what, reason)| format!("{what} is damaged: {reason}")).collect();
        said.extend(report.damaged.iter().map(ToString::to_string));
        let (mut got, mut refused) = (0, 0);
        for (nr, entry) in store.checkpoints()?.into_iter().enumerate() {
            let request = GetRequest { reference: entry.id.to_string(), ..GetRequest::default() };
            let to = dir.path().join(nr.to_string());
            match store.get(&request, &to, &Quiet) {
                Ok(_) => got += 1,
                Err(Error::Corrupt { .. } | Error::Damaged(_)) if !to.exists() => refused += 1,
                Err(error) => return Err(error),
            }
        }
        assert!(report.is_sound() == (refused == 0) || got > 0, "{report:?}");
        said.push(format!("refused {refused}"));
        Ok(said.join("; "))
    };
    said().unwrap_or_else(|error| error.to_string())
}

fn flip(path: &Path, at: usize) {
    let mut bytes = fs::read(path).expect("the object");
    bytes[at] ^= 0x10;
    fs::write(path, bytes).expect("writing the object");
}

#[test]
fn damaged_copies_are_refused_by_name() {
    let sound = golden().join("store");
    let relative = |path: PathBuf| path.strip_prefix(&sound).expect("inside").to_str().expect("UTF-8").to_owned();
    let catalog = relative(only(&sound.join("catalog")));
    let packs: Vec<(String, Vec<u8>)> = below(&sound.join("packs"))
        .into_iter()
        .map(|path| (relative(path.clone()), fs::read(path).expect("a pack")))
        .collect();
    // The pack that has most: the tree's.
    let (pack, bytes) = packs.iter().max_by_key(|(_, bytes)| bytes.len()).expect("a pack");
    let len = bytes.len();
    let (_dir, path) = copy();
    let tree = Store::open(&path).and_then(|store| store.resolve("a/tree@100")).expect("the tree");
    let manifest = format!("checkpoints/{}", tree.id);

    let unknown = "which this program does not know";
    let hash = "its BLAKE3 does not match its bytes";
    for (said, expected) in [
        (
            refusal(|root| rewrite(&root.join("FORMAT"), "format", |format| format["version"] = 2.into())),
            "FORMAT: it is a store of format version 2, this program reads version 1".to_owned(),
        ),
        (
            refusal(|root| rewrite(&root.join("FORMAT"), "format", |format| format["features"] = json!(["delta"]))),
            format!("FORMAT: the store uses \"delta\", {unknown}"),
        ),
        (refusal(|root| flip(&root.join("FORMAT"), 100)), format!("FORMAT is damaged: {hash}")),
        (refusal(|root| flip(&root.join("HEAD"), 120)), format!("HEAD is damaged: {hash}")),
        (
            refusal(|root| fs::remove_file(root.join("HEAD")).expect("removing HEAD")),
            "HEAD is damaged: it is missing".into(),
        ),
        (refusal(|root| flip(&root.join(&catalog), 70)), format!("{catalog} is damaged: {hash}")),
        (
            refusal(|root| fs::remove_file(root.join(&catalog)).expect("removing the catalog")),
            format!("{catalog} is damaged: it is missing"),
        ),
    ] {
        assert_eq!(said, expected);
    }
    let lines = pack_lines(bytes);
    let at = |codec: u8| lines.iter().find(|line| line.codec == codec).map(|line| line.offset).expect("a record");
    let trailer = len - 64 - 56 * lines.len();
    for (what, said, expected) in [
        ("manifest", refusal(|root| flip(&root.join(&manifest), 200)), format!("{manifest} is damaged: {hash}")),
        (
            "no manifest",
            refusal(|root| fs::remove_file(root.join(&manifest)).expect("removing")),
            format!("{manifest} is damaged: it is missing"),
        ),
        (
            "header",
            refusal(|root| flip(&root.join(pack), 20)),
            format!("{pack} is damaged: the checksum of its header is wrong"),
        ),
        ("magic", refusal(|root| flip(&root.join(pack), 0)), format!("{pack} is damaged: it does not begin as a pack")),
        (
            "record",
            refusal(|root| flip(&root.join(pack), 64 + 10)),
            format!("{pack} is damaged: the checksum of a record's header is wrong"),
        ),
        ("raw", refusal(|root| flip(&root.join(pack), at(0) + 5)), "a/tree@100: file ".into()),
        ("zstd", refusal(|root| flip(&root.join(pack), at(1) + 50)), "a/tree@100: file ".into()),
        ("planes", refusal(|root| flip(&root.join(pack), at(2) + 500)), "a/tree@100: file ".into()),
        (
            "trailer",
            refusal(|root| flip(&root.join(pack), trailer + 3)),
            format!("{pack} is damaged: the BLAKE3 of its trailer does not match"),
        ),
        (
            "footer",
            refusal(|root| flip(&root.join(pack), len - 50)),
            format!("{pack} is damaged: the checksum of its footer is wrong"),
        ),
        (
            "end",
            refusal(|root| flip(&root.join(pack), len - 64)),
            format!("{pack} is damaged: it does not end as a pack"),
        ),
        (
            "half",
            refusal(|root| {
                drop(File::options().write(true).open(root.join(pack)).and_then(|file| file.set_len(len as u64 / 2)))
            }),
            format!("{pack} is damaged: it does not end as a pack"),
        ),
        ("none", refusal(|root| fs::remove_file(root.join(pack)).expect("removing")), "no pack holds it".into()),
    ] {
        assert!(said.contains(&expected), "{what}: {said}\n  has not: {expected}");
        // The header of a record serves a salvage alone: all others keep what they can't vouch for to themselves.
        assert!(what == "record" || !said.ends_with("refused 0"), "{what}: {said}");
    }
}

fn golden_policies() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("golden/v1-policies")
}

/// The policies of the second golden store: those in its catalog, with what its HEAD changes.
fn policies() -> Vec<Policy> {
    let best = Best { count: 1, metric: "loss".into(), mode: Mode::Min };
    let most = Best { count: 2, metric: "acc".into(), mode: Mode::Max };
    let policy = |runs: &str, rules| Policy { runs: runs.into(), rules };
    vec![
        policy("*", Rules { last: Some(1), ..Rules::default() }),
        policy("a/*", Rules { last: Some(2), best: Some(best), every: Some(100), within_ms: Some(604_800_000) }),
        policy("a/torch", Rules { best: Some(most), ..Rules::default() }),
    ]
}

#[test]
fn policies_of_version_1_are_read() {
    if std::env::var_os("GOLDEN").is_some_and(|value| value == "policies") {
        write_golden_policies();
    }
    // The bytes that docs/format.md describes, in HEAD and, packed, in the catalog.
    let head: Value = serde_json::from_slice(&fs::read(golden_policies().join("HEAD")).expect("HEAD")).expect("JSON");
    let changes = head["head"]["changes"].as_array().expect("changes");
    let kinds: Vec<&String> = changes.iter().flat_map(|change| change.as_object().expect("a change").keys()).collect();
    assert_eq!(kinds, ["set_policy", "remove_policy"]);
    assert_eq!(
        changes[0]["set_policy"],
        json!({"runs": "a/torch", "keep_best": {"count": 2, "metric": "acc", "mode": "max"}})
    );
    assert_eq!(changes[1]["remove_policy"], "gone/*");
    let dir = scratch();
    let path = dir.path().join("store");
    copy_tree(&golden_policies(), &path);
    let store = Store::open(&path).expect("a sound store");
    let told = store.policies().expect("sound policies");
    assert_eq!(told.iter().map(|used| used.policy.clone()).collect::<Vec<_>>(), policies());
    assert_eq!(told.into_iter().flat_map(|used| used.runs).collect::<Vec<_>>(), ["b", "a/torch"]);
    let plan = store.gc(&GcRequest { dry_run: true, ..GcRequest::default() }, &Quiet).expect("a plan");
    let kept: Vec<(&str, bool)> =
        plan.verdicts.iter().map(|verdict| (verdict.policy.as_deref().expect("a policy"), verdict.keep)).collect();
    assert_eq!(kept, [("a/torch", false), ("a/torch", true), ("*", false), ("*", true)]);
}

/// Makes the golden store with policies anew, with the library as it is.
fn write_golden_policies() {
    let dir = scratch();
    let path = dir.path().join("store");
    let store = Store::init(&path).expect("init");
    for policy in &policies()[..2] {
        store.set_policy(policy).expect("a policy");
    }
    store.set_policy(&Policy { runs: "gone/*".into(), ..policies()[0].clone() }).expect("a policy");
    store.set_policy(&Policy { runs: "a/torch".into(), ..policies()[0].clone() }).expect("a policy");
    for (run, step, acc) in [("a/torch", 1, f64::NAN), ("a/torch", 2, 0.5), ("b", 1, 0.0), ("b", 2, 0.0)] {
        let file = dir.path().join("file");
        fs::write(&file, format!("{run} {step}")).expect("a source");
        let metrics = [("acc".to_owned(), acc)].into();
        let request =
            PutRequest { paths: vec![file], run: run.into(), step: Some(step), metrics, ..PutRequest::default() };
        store.put(&request, &Quiet).expect("put");
    }
    while !fs::read_to_string(path.join("HEAD")).expect("HEAD").contains("\"changes\":[]") {
        store.tag("b@1", "t").expect("tag");
        store.untag("b@1", Some("t")).expect("untag");
    }
    store.set_policy(&policies()[2]).expect("a policy");
    store.remove_policy("gone/*").expect("a policy");
    store.gc(&GcRequest { runs: Some("none".into()), ..GcRequest::default() }, &Quiet).expect("gc takes old catalogs");
    for folder in ["index", "locks", "sessions", "tmp"] {
        fs::remove_dir_all(path.join(folder)).expect("what is derived or disposable");
    }
    let _ = fs::remove_file(path.join("reserve"));
    let _ = fs::remove_dir_all(golden_policies());
    copy_tree(&path, &golden_policies());
}

/// Makes the golden store anew, with the library as it is.
fn write_golden() {
    let dir = scratch();
    let path = dir.path().join("store");
    let store = Store::init(&path).expect("init");
    let put = |name: &str, tree: &Tree, request: PutRequest| {
        let at = dir.path().join(name);
        tree.write(&at);
        for (relative, node) in tree.0.iter().rev().filter(|(_, node)| !matches!(node, Node::Link(_))) {
            let time = UNIX_EPOCH + Duration::from_millis(1_700_000_000_123);
            let file = if relative.as_os_str().is_empty() { at.clone() } else { at.join(relative) };
            if matches!(node, Node::File(..)) {
                let mode = fs::metadata(&file).expect("a mode").permissions();
                fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).expect("a mode");
                let opened = File::options().write(true).open(&file).expect("a file");
                opened.set_modified(time).expect("a time");
                fs::set_permissions(&file, mode).expect("a mode");
            }
        }
        store.put(&PutRequest { paths: vec![at], ..request }, &Quiet).expect("put");
    };
    let request = |run: &str, step: Option<u64>| PutRequest { run: run.into(), step, ..PutRequest::default() };
    let trees: Vec<Tree> = samples().into_iter().map(|(_, tree)| tree).collect();
    let metrics = |values: &[(&str, f64)]| values.iter().map(|(name, value)| ((*name).to_owned(), *value)).collect();

    let more = |step, loss| PutRequest { metrics: metrics(&[("loss", loss)]), ..request("a/torch", Some(step)) };
    put("torch.pt", &trees[1], more(1, 0.25));
    put("torch.pt", &Tree::file(b"diverged".to_vec()), more(2, f64::NAN));
    // More changes than HEAD holds, so that there is a catalog.
    for _ in 0..33 {
        store.tag("a/torch@1", "t").expect("tag");
        store.untag("a/torch@1", Some("t")).expect("untag");
    }
    let tags = ["kept".to_owned()].into();
    let meta = [("commit".to_owned(), "abc123".to_owned())].into();
    let odd = metrics(&[("loss", f64::INFINITY), ("acc", -0.5), ("low", f64::NEG_INFINITY)]);
    put("tree", &trees[0], PutRequest { tags, meta, metrics: odd, ..request("a/tree", Some(100)) });
    put("inline.txt", &trees[2], request("inline", None));
    put("zeros.bin", &trees[3], request("a/zeros", Some(7)));
    store.pin("a/tree@100", true).expect("pin");
    store.tag("a/zeros@7", "gone").expect("tag");
    store.untag("a/zeros@7", Some("gone")).expect("untag");
    // Two checkpoints that were dropped: one pack is condemned, the other was being deleted when gc died.
    let known = below(&path.join("packs"));
    put("dropped.bin", &Tree::file(weights(8, 2000)), request("dropped", Some(1)));
    put("dropped.bin", &Tree::file(weights(9, 2000)), request("dropped", Some(2)));
    let name = |pack: &PathBuf| pack.file_name().and_then(|name| name.to_str()).expect("a name").to_owned();
    let dead: Vec<String> = below(&path.join("packs")).iter().filter(|pack| !known.contains(*pack)).map(name).collect();
    assert_eq!(dead.len(), 2);
    let dropped = store.remove(&["dropped@1".into(), "dropped@2".into()]).expect("rm");
    rewrite(&path.join("HEAD"), "head", |head| {
        head["epoch"] = 2.into();
        head["condemned"] = json!({ dead[0].as_str(): 1 });
        head["deleting"] = json!([dead[1]]);
    });
    for entry in dropped {
        fs::remove_file(path.join("checkpoints").join(entry.id.to_string())).expect("a manifest that gc would remove");
    }
    let made = contents(&Store::open(&path).expect("the new store"));
    for folder in ["index", "locks", "sessions", "tmp"] {
        fs::remove_dir_all(path.join(folder)).expect("what is derived or disposable");
    }
    let _ = fs::remove_file(path.join("reserve"));
    let _ = fs::remove_dir_all(golden());
    copy_tree(&path, &golden().join("store"));
    let text = serde_json::to_string_pretty(&made).expect("JSON") + "\n";
    fs::write(golden().join("contents.json"), text).expect("contents.json");
}
