//! Manifests that pass their BLAKE3 and want something else than to describe a checkpoint: nothing follows them.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::symlink;

use ckpt_store::{CheckpointId, Content, Error, File, Manifest, Segment, SessionId, StoreId, View};
use ckpt_tests::lab::{Lab, Node, noise, tree};
use serde_bytes::ByteBuf;

/// A store with one checkpoint of a directory, which holds a long file, a short one, a directory and a link.
fn stored() -> (Lab, CheckpointId) {
    let lab = Lab::quick();
    lab.write("source/long.pt", &noise(1, 2_500_000));
    lab.write("source/short.json", b"{}");
    lab.write("source/sub/inner.pt", &noise(2, 100_000));
    symlink("sub/inner.pt", lab.path("source/to-inner")).unwrap();
    let put = lab.put(&[&lab.path("source")], "r", 1).unwrap();
    lab.write("cage/canary", b"canary");
    (lab, put.entry.id)
}

fn file<'a>(manifest: &'a mut Manifest, name: &str) -> &'a mut File {
    manifest.files.iter_mut().find(|file| *file.path == name.as_bytes()).unwrap()
}

fn segments<'a>(manifest: &'a mut Manifest, name: &str) -> (&'a mut u64, &'a mut Vec<Segment>) {
    match &mut file(manifest, name).content {
        Content::File { size, segments, .. } => (size, segments),
        other => panic!("{other:?}"),
    }
}

/// Gets into a directory of its own beside a canary, which must fail as damage and leave all as it was.
#[track_caller]
fn assert_refused(lab: &Lab, id: CheckpointId, bytes: &[u8], what: &str) {
    fs::write(lab.store().join("checkpoints").join(id.to_string()), bytes).unwrap();
    let before = outside(lab);
    let error = lab.get("r@1", &lab.path("cage/back")).expect_err(what);
    assert!(matches!(error, Error::Corrupt { .. } | Error::Unsupported(_)), "{what}: {error:?}");
    assert!(error.to_string().contains(&id.to_string()), "{what}: {error}");
    assert!(outside(lab) == before, "{what} wrote something");
    let report = lab.verify().unwrap();
    assert!(!report.is_sound(), "{what}: verify finds nothing");
    // What gc needs of it is which chunks it names; that it was written for another store does not matter there.
    let gc = lab.open().gc(&ckpt_store::GcRequest::default(), &ckpt_store::Quiet);
    assert!(gc.is_err() || what == "the name of another store", "{what}: gc goes on");
}

/// All that is in the directory but the store.
fn outside(lab: &Lab) -> BTreeMap<Vec<u8>, Node> {
    tree(lab.dir()).into_iter().filter(|(path, _)| !path.starts_with(b"store")).collect()
}

type Change = Box<dyn Fn(&mut Manifest)>;

fn path(name: &'static str, to: &'static [u8]) -> (String, Change) {
    let what = format!("{name} at {:?}", String::from_utf8_lossy(&to[..to.len().min(40)]));
    (what, Box::new(move |manifest| file(manifest, name).path = ByteBuf::from(to)))
}

fn link(target: &'static str) -> (String, Change) {
    let content = Content::Link { target: ByteBuf::from(target) };
    (format!("a link to {target:?}"), Box::new(move |manifest| file(manifest, "to-inner").content = content.clone()))
}

fn root(name: &'static [u8]) -> (String, Change) {
    (format!("root {name:?}"), Box::new(move |manifest| manifest.root = Some(ByteBuf::from(name))))
}

fn first_segment(what: &str, change: impl Fn(&mut u64, &mut Segment) + 'static) -> (String, Change) {
    let change = move |manifest: &mut Manifest| {
        let (size, segments) = segments(manifest, "long.pt");
        change(size, &mut segments[0]);
    };
    (format!("a segment with {what}"), Box::new(change))
}

fn view(what: &str, view: View) -> (String, Change) {
    let change = move |manifest: &mut Manifest| match &mut file(manifest, "long.pt").content {
        Content::File { views, .. } => views.push(view.clone()),
        other => panic!("{other:?}"),
    };
    (format!("a view {what}"), Box::new(change))
}

fn any(what: &str, change: impl Fn(&mut Manifest) + 'static) -> (String, Change) {
    (what.to_owned(), Box::new(change))
}

fn hostile() -> Vec<(String, Change)> {
    let long_name: &'static [u8] = &[b'n'; 256];
    let mut all = vec![
        link(""),
        link("/etc/passwd"),
        link("../x"),
        link("sub/../../x"),
        link("sub/.."),
        link("a\0b"),
        root(b""),
        root(b"."),
        root(b".."),
        root(b"a/b"),
        root(b"../x"),
        root(b"/x"),
        root(b"a\0b"),
        root(long_name),
        first_segment("no bytes", |_, segment| segment.0 = 0),
        first_segment("2^63 bytes", |_, segment| segment.0 = 1 << 63),
        first_segment("all bytes there are", |_, segment| segment.0 = u64::MAX),
        first_segment("2^63 bytes in a file of 2^63", |size, segment| (*size, segment.0) = (1 << 63, 1 << 63)),
        first_segment("a chunk that is none", |_, segment| segment.1 = Some(u32::MAX)),
        first_segment("a start beyond its chunk", |_, segment| segment.2 = 1 << 20),
        first_segment("a start of 2^32 - 1", |_, segment| segment.2 = u32::MAX),
        first_segment("inline bytes that are none", |_, segment| segment.1 = None),
        view("past the end", View("t".into(), None, vec![8], None, 200_000_000, 8)),
        view("whose end overflows", View("t".into(), None, vec![8], None, u64::MAX, 8)),
        view("of more elements than bytes", View("t".into(), Some("F32".into()), vec![3], None, 0, 8)),
        view("whose elements overflow", View("t".into(), None, vec![u64::MAX, 2], None, 0, 8)),
        view("whose strides reach out", View("t".into(), Some("U8".into()), vec![3], Some(vec![4]), 0, 8)),
        view("whose strides overflow", View("t".into(), None, vec![3], Some(vec![u64::MAX]), 0, 8)),
        view("of fewer strides than dimensions", View("t".into(), None, vec![2, 2], Some(vec![1]), 0, 8)),
        view("of too many dimensions", View("t".into(), None, vec![1; 65], None, 0, 8)),
        any("a size too small", |manifest| *segments(manifest, "long.pt").0 -= 1),
        any("a size of 2^64 - 1", |manifest| *segments(manifest, "long.pt").0 = u64::MAX),
        any("a size without segments", |manifest| segments(manifest, "long.pt").1.clear()),
        any("segments that overflow", |manifest| {
            let all = segments(manifest, "long.pt").1;
            all.push(Segment(u64::MAX, Some(0), 0, None));
        }),
        any("a chunk of no bytes", |manifest| manifest.chunk_lens[0] = 0),
        any("a chunk of 2^32 - 1 bytes", |manifest| manifest.chunk_lens[0] = u32::MAX),
        any("an id too few", |manifest| manifest.chunk_ids.truncate(32)),
        any("half an id", |manifest| manifest.chunk_ids.truncate(80)),
        any("a length too few", |manifest| manifest.chunk_lens.truncate(1)),
        any("more inline bytes than there may be", |manifest| manifest.inline.resize(1 << 20, 0)),
        any("a set-uid file", |manifest| file(manifest, "long.pt").mode = 0o4755),
        any("a mode of all bits", |manifest| file(manifest, "sub").mode = u32::MAX),
        any("the same name twice", |manifest| manifest.files.push(manifest.files[0].clone())),
        any("a file in a file", |manifest| {
            file(manifest, "sub").content = file(manifest, "short.json").content.clone()
        }),
        any("a file through a link", |manifest| {
            file(manifest, "sub").content = Content::Link { target: ByteBuf::from("..") };
        }),
        any("a file through a link that stays inside", |manifest| {
            file(manifest, "sub").content = Content::Link { target: ByteBuf::from("none") };
        }),
        any("a file before its directory", |manifest| manifest.files.reverse()),
        any("the id of another", |manifest| manifest.id = CheckpointId::generate()),
        any("the name of another store", |manifest| manifest.store = StoreId::generate()),
    ];
    let paths: [&'static [u8]; 14] = [
        b"",
        b".",
        b"..",
        b"/",
        b"/tmp/evil",
        b"../evil",
        b"../../evil",
        b"sub/../../evil",
        b"sub/../evil",
        b"sub//evil",
        b"sub/",
        b"./evil",
        b"a\0b",
        long_name,
    ];
    all.extend(paths.into_iter().map(|to| path("short.json", to)));
    all.extend(paths.into_iter().map(|to| path("to-inner", to)));
    all.push(path("sub", b".."));
    let deep: &'static [u8] = Box::leak("a/".repeat(3000).into_bytes().into_boxed_slice());
    all.push(path("short.json", deep));
    all
}

#[test]
fn no_manifest_leads_out_of_the_destination() {
    let (lab, id) = stored();
    let good = lab.open().manifest(id).unwrap();
    let original = fs::read(lab.store().join("checkpoints").join(id.to_string())).unwrap();
    for (what, change) in hostile() {
        let mut manifest = good.clone();
        change(&mut manifest);
        assert_ne!(manifest, good, "{what} changes nothing");
        assert_refused(&lab, id, &manifest.to_bytes(SessionId::generate()).unwrap(), &what);
    }
    // By the command, too.
    let mut manifest = good.clone();
    file(&mut manifest, "short.json").path = ByteBuf::from("../../evil");
    fs::write(lab.store().join("checkpoints").join(id.to_string()), manifest.to_bytes(SessionId::generate()).unwrap())
        .unwrap();
    for args in [["get", "r@1", "back"], ["get", "r@1", "-"], ["show", "r@1", "--tensors"]] {
        let args: Vec<&dyn AsRef<_>> = args.iter().map(|arg| arg as _).collect();
        lab.run(&args).expect(4).says(&id.to_string()).says("no name of a file");
    }
    fs::write(lab.store().join("checkpoints").join(id.to_string()), original).unwrap();
    lab.get("r@1", &lab.path("back")).unwrap();
    assert_eq!(tree(&lab.path("back")), tree(&lab.path("source")));
}

#[test]
fn no_envelope_is_believed() {
    let (lab, id) = stored();
    let good = fs::read(lab.store().join("checkpoints").join(id.to_string())).unwrap();
    let body = &good[..good.len() - 32];
    let number = |at: usize, value: u64, bytes: usize| {
        let mut body = body.to_vec();
        body[at..at + bytes].copy_from_slice(&value.to_le_bytes()[..bytes]);
        body
    };
    let raw_len = u64::from_le_bytes(body[48..56].try_into().unwrap());
    let bodies = [
        ("a kind of its own", number(0, 7, 8)),
        ("version 2", number(8, 2, 2)),
        ("a flag", number(10, 1, 2)),
        ("the id of another", number(16, 7, 8)),
        ("2^62 bytes", number(48, 1 << 62, 8)),
        ("no bytes", number(48, 0, 8)),
        ("a byte too few", number(48, raw_len - 1, 8)),
        ("a byte too much", number(48, raw_len + 1, 8)),
        ("a payload cut short", body[..body.len() - 10].to_vec()),
        ("garbage as payload", [&body[..56], &noise(3, 500)].concat()),
        ("no payload", body[..56].to_vec()),
        ("half a header", body[..30].to_vec()),
        ("nothing", Vec::new()),
    ];
    for (what, body) in bodies {
        let check = blake3::hash(&body);
        assert_refused(&lab, id, &[&body[..], check.as_bytes()].concat(), what);
    }
    assert_refused(&lab, id, b"", "an empty file");
}

/// A manifest that is sound in itself but not of these packs.
#[test]
fn a_manifest_that_lies_about_chunks_gets_no_bytes() {
    let (lab, id) = stored();
    let good = lab.open().manifest(id).unwrap();
    let changes: [(&str, Change); 2] = [
        ("a chunk that no pack holds", Box::new(|manifest| manifest.chunk_ids[5] ^= 1)),
        (
            "chunks of other lengths",
            Box::new(|manifest| {
                manifest.chunk_lens[0] -= 1;
                let (size, segments) = segments(manifest, "long.pt");
                *size -= 1;
                segments[0].0 -= 1;
            }),
        ),
    ];
    for (what, change) in changes {
        let mut manifest = good.clone();
        change(&mut manifest);
        let bytes = manifest.to_bytes(SessionId::generate()).unwrap();
        fs::write(lab.store().join("checkpoints").join(id.to_string()), bytes).unwrap();
        let error = lab.get("r@1", &lab.path("cage/back")).expect_err(what);
        assert!(matches!(error, Error::Damaged(_)), "{what}: {error:?}");
        assert_eq!(tree(&lab.path("cage")).len(), 1, "{what}");
    }
    // Times that no clock shows are no reason to fail.
    for mtime_ms in [i64::MIN, i64::MAX, -1] {
        let mut manifest = good.clone();
        manifest.files.iter_mut().for_each(|file| file.mtime_ms = mtime_ms);
        let bytes = manifest.to_bytes(SessionId::generate()).unwrap();
        fs::write(lab.store().join("checkpoints").join(id.to_string()), bytes).unwrap();
        lab.get("r@1", &lab.path(format!("back{mtime_ms}"))).unwrap();
        lab.ok(&[&"show", &"r@1"]);
    }
}
