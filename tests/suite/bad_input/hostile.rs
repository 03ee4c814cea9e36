//! A store that somebody made to do harm: odd files and links in its places, bombs, lists that lie. Every command ends, in
//! its own memory, and nothing outside the store and the destination changes.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::thread;
use std::time::Duration;

use ckpt_store::{CatalogId, PackId, SessionId};
use ckpt_tests::image;
use ckpt_tests::lab::{Lab, Node, files, noise, tree};
use ckpt_tests::run::{Ran, on};
use rustix::fs::{CWD, FileType, Mode, mknodat};

/// What a command on such a store may take: threads with their buffers, RocksDB, and an object or two.
const MEMORY_MAX: u64 = 400 << 20;
/// Looks at a running command, ten milliseconds apart, before it counts as hanging. They only end what would never end.
const LOOKS: usize = 6000;

/// Runs a command on `store` in the lab, to its end; watches its memory.
#[track_caller]
fn run_bounded(lab: &Lab, store: &Path, args: &[&str], what: &str) -> Ran {
    let mut command = on(store);
    command.args(args).current_dir(lab.dir()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let (mut out, mut err) = (child.stdout.take().unwrap(), child.stderr.take().unwrap());
    let out = thread::spawn(move || {
        let mut bytes = Vec::new();
        out.read_to_end(&mut bytes).map(|_| bytes)
    });
    let err = thread::spawn(move || {
        let mut text = Vec::new();
        err.read_to_end(&mut text).map(|_| String::from_utf8_lossy(&text).into_owned())
    });
    let (mut most, mut ended) = (0, None);
    for _ in 0..LOOKS {
        let status = fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap_or_default();
        let anonymous = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap_or("0 kB");
        let kilobytes: u64 = anonymous.trim().trim_end_matches(" kB").parse().unwrap();
        most = most.max(kilobytes << 10);
        ended = child.try_wait().unwrap();
        if ended.is_some() || most > MEMORY_MAX {
            break;
        }
        thread::sleep(Duration::from_millis(10));
    }
    if ended.is_none() {
        child.kill().unwrap();
        child.wait().unwrap();
    }
    assert!(most <= MEMORY_MAX, "{what}: {args:?} takes more than {} MB of memory", MEMORY_MAX >> 20);
    let status = ended.unwrap_or_else(|| panic!("{what}: {args:?} does not end"));
    let ran = Ran { code: status.code(), stdout: out.join().unwrap().unwrap(), stderr: err.join().unwrap().unwrap() };
    assert!(ran.code.is_some_and(|code| (0..=7).contains(&code)), "{what}: {args:?}: {ran:?}");
    assert!(!ran.stderr.contains("panicked"), "{what}: {args:?}: {ran:?}");
    ran
}

/// Every command that reads a store, and those that write to it.
const COMMANDS: [&[&str]; 9] = [
    &["ls"],
    &["show", "r@1", "--tensors"],
    &["get", "r@1", "out/back"],
    &["get", "r@1", "-", "--file", "a.pt"],
    &["verify"],
    &["verify", "r@1", "--quick"],
    &["df"],
    &["put", "source", "--run", "r", "--step", "2"],
    &["gc", "--keep-last", "1"],
];

/// A store with one checkpoint, and beside it what must not change.
fn stored() -> Lab {
    let lab = Lab::quick();
    lab.write("source/a.pt", &noise(1, 200_000));
    lab.write("source/sub/b.json", b"{}");
    lab.put(&[&lab.path("source")], "r", 1).unwrap();
    lab.write("precious/file", b"precious");
    lab.write("precious/01m85dmv2ay8nx4xphtwd29bj0", b"named like an object");
    fs::create_dir(lab.path("out")).unwrap();
    lab
}

/// All that no command may change.
fn outside(lab: &Lab) -> BTreeMap<Vec<u8>, Node> {
    let mut all = tree(&lab.path("precious"));
    all.extend(tree(&lab.path("source")));
    all
}

/// Runs every command, each on a copy of `store` and with an empty destination.
#[track_caller]
fn run_all(lab: &Lab, what: &str, spoil: &dyn Fn(&Path)) {
    let before = outside(lab);
    for args in COMMANDS {
        let copy = lab.path("copy");
        image::copy(&lab.store(), &copy);
        spoil(&copy);
        run_bounded(lab, &copy, args, what);
        assert!(outside(lab) == before, "{what}: {args:?} changed something outside");
        let _ = fs::remove_dir_all(lab.path("out/back"));
        assert_eq!(fs::read_dir(lab.path("out")).unwrap().count(), 0, "{what}: {args:?} left something");
        fs::remove_dir_all(&copy).unwrap();
    }
}

/// What can lie where a file should be.
fn put_there(kind: &str, path: &Path, precious: &Path) {
    let _ = fs::remove_file(path);
    match kind {
        "a FIFO" => mknodat(CWD, path, FileType::Fifo, Mode::from_raw_mode(0o600), 0).unwrap(),
        "a socket" => drop(UnixListener::bind(path).unwrap()),
        "a directory" => fs::create_dir(path).unwrap(),
        "a link to a device without end" => symlink("/dev/zero", path).unwrap(),
        "a link to another's file" => symlink(precious.join("file"), path).unwrap(),
        "a link to nothing yet" => symlink(precious.join("made"), path).unwrap(),
        "a link to itself" => symlink(path, path).unwrap(),
        "a file of 1 GB" => File::create(path).unwrap().set_len(1_000_000_000).unwrap(),
        "an empty file" => drop(File::create(path).unwrap()),
        _ => unreachable!("{kind}"),
    }
}

const KINDS: [&str; 9] = [
    "a FIFO",
    "a socket",
    "a directory",
    "a link to a device without end",
    "a link to another's file",
    "a link to nothing yet",
    "a link to itself",
    "a file of 1 GB",
    "an empty file",
];

/// The file of `folder` in a store.
fn only_file(store: &Path, folder: &str) -> PathBuf {
    files(&store.join(folder)).pop().unwrap()
}

#[track_caller]
fn every_kind_at(place: impl Fn(&Path) -> PathBuf, what: &str) {
    let lab = stored();
    for kind in KINDS {
        // A manifest of 1 GB may be one: what it costs is bounded, but not by this test's measure.
        if kind == "a file of 1 GB" && what == "a manifest" {
            continue;
        }
        let spoil = |store: &Path| put_there(kind, &place(store), &lab.path("precious"));
        run_all(&lab, &format!("{kind} as {what}"), &spoil);
    }
}

#[test]
fn odd_files_as_head() {
    every_kind_at(|store| store.join("HEAD"), "HEAD");
}

#[test]
fn odd_files_as_format() {
    every_kind_at(|store| store.join("FORMAT"), "FORMAT");
}

#[test]
fn odd_files_as_manifest() {
    every_kind_at(|store| only_file(store, "checkpoints"), "a manifest");
}

#[test]
fn odd_files_as_pack() {
    every_kind_at(|store| only_file(store, "packs"), "a pack");
}

#[test]
fn odd_files_as_sessions() {
    every_kind_at(|store| store.join("sessions").join(SessionId::generate().to_string()), "a session");
}

#[test]
fn odd_files_as_leftovers() {
    every_kind_at(|store| store.join("tmp").join(format!("{}.0", SessionId::generate())), "a leftover");
    every_kind_at(|store| store.join("tmp/HEAD"), "HEAD that is being written");
}

#[test]
fn odd_files_as_locks() {
    for lock in ["head", "gc", "index"] {
        every_kind_at(|store| store.join("locks").join(lock), &format!("the lock of {lock}"));
    }
}

#[test]
fn odd_files_in_the_index() {
    for file in ["CURRENT", "LOCK", "LOG", "000099.log"] {
        every_kind_at(|store| store.join("index").join(file), &format!("the index's {file}"));
    }
}

/// A store whose folders lead elsewhere: what is written, swept or unlinked in them would be somebody else's.
#[test]
fn folders_that_are_links_are_refused() {
    let lab = stored();
    for folder in ["catalog", "checkpoints", "packs", "sessions", "index", "locks", "tmp"] {
        let spoil = |store: &Path| {
            fs::remove_dir_all(store.join(folder)).unwrap();
            symlink(lab.path("precious"), store.join(folder)).unwrap();
        };
        run_all(&lab, &format!("{folder}/ as a link"), &spoil);
        let copy = lab.path("copy");
        image::copy(&lab.store(), &copy);
        spoil(&copy);
        run_bounded(&lab, &copy, &["ls"], folder).expect(4).says(folder).says("is a link");
        fs::remove_dir_all(&copy).unwrap();
    }
    // The folder of a pack: its packs are not there, and nothing is put or unlinked there.
    let pack = PackId::generate();
    for nr in 0..=255_u8 {
        let folder = format!("packs/{nr:02x}");
        if lab.store().join(&folder).exists() {
            let spoil = |store: &Path| {
                fs::remove_dir_all(store.join(&folder)).unwrap();
                symlink(lab.path("precious"), store.join(&folder)).unwrap();
            };
            run_all(&lab, "a pack's folder as a link", &spoil);
        }
    }
    let spoil = |store: &Path| {
        for nr in (0..=255_u8).filter(|nr| !store.join(format!("packs/{nr:02x}")).exists()) {
            symlink(lab.path("precious"), store.join(format!("packs/{nr:02x}"))).unwrap();
        }
        rewrite_head(store, |head| {
            head["deleting"] = serde_json::json!(["01m85dmv2ay8nx4xphtwd29bj0", pack.to_string()])
        });
    };
    run_all(&lab, "every other pack's folder as a link", &spoil);
}

/// Changes HEAD and gives it the hash that it should have.
fn rewrite_head(store: &Path, change: impl Fn(&mut serde_json::Value)) {
    let mut outer: serde_json::Value = serde_json::from_slice(&fs::read(store.join("HEAD")).unwrap()).unwrap();
    change(&mut outer["head"]);
    write_head(store, &outer["head"].to_string());
}

fn write_head(store: &Path, body: &str) {
    let check = blake3::hash(body.as_bytes()).to_hex();
    fs::write(store.join("HEAD"), format!("{{\"blake3\":\"{check}\",\"head\":{body}}}\n")).unwrap();
}

#[test]
fn heads_that_lie() {
    let lab = stored();
    let ids = |count: usize| -> Vec<String> { (0..count).map(|_| PackId::generate().to_string()).collect() };
    let many = ids(50_000);
    let condemned: serde_json::Map<String, serde_json::Value> =
        many.iter().map(|id| (id.clone(), serde_json::json!(u64::MAX))).collect();
    type Change = Box<dyn Fn(&mut serde_json::Value)>;
    let manifest = only_file(&lab.store(), "checkpoints").file_name().unwrap().to_string_lossy().into_owned();
    let pack = only_file(&lab.store(), "packs").file_name().unwrap().to_string_lossy().into_owned();
    let set = |field: &'static str, value: serde_json::Value| -> (String, Change) {
        (format!("HEAD with {field} = {:.40}", value.to_string()), Box::new(move |head| head[field] = value.clone()))
    };
    let changes = [
        set("deleting", serde_json::json!(many)),
        set("condemned", condemned.into()),
        // Ids of other kinds, as if a pack were called so.
        set("deleting", serde_json::json!([manifest])),
        set("catalog", serde_json::json!(pack)),
        set("catalog", serde_json::json!(CatalogId::generate().to_string())),
        set("seq", serde_json::json!(u64::MAX)),
        set("epoch", serde_json::json!(u64::MAX)),
        set("packs_seq", serde_json::json!(u64::MAX)),
        set("nonce", serde_json::json!("x".repeat(1 << 20))),
        set("deleting", serde_json::json!(["../../../precious/file"])),
        set("catalog", serde_json::json!("../../precious/file")),
        set("changes", serde_json::json!([{ "remove": "../x" }])),
        set("changes", serde_json::json!(vec![serde_json::json!({ "tag": [manifest, "x"] }); 10_000])),
    ];
    for (what, change) in changes {
        run_all(&lab, &what, &|store| rewrite_head(store, &change));
    }
    for (what, body) in [("nested lists", "[".repeat(100_000)), ("nested objects", "{\"a\":".repeat(100_000))] {
        run_all(&lab, what, &|store| write_head(store, &body));
    }
}

/// One frame of Zstandard that unpacks to `front` and then `count` times `byte`, of a few bytes for each 128 KiB.
fn zstd_bomb(front: &[u8], byte: u8, count: usize) -> Vec<u8> {
    // No checksum, no content size, a window of 128 KiB.
    let mut frame = vec![0x28, 0xB5, 0x2F, 0xFD, 0x00, 0x38];
    let mut block = |last: bool, kind: u32, size: usize, bytes: &[u8]| {
        let header = (u32::try_from(size).unwrap() << 3) | (kind << 1) | u32::from(last);
        frame.extend_from_slice(&header.to_le_bytes()[..3]);
        frame.extend_from_slice(bytes);
    };
    block(false, 0, front.len(), front);
    let full = count / (128 << 10);
    (0..full).for_each(|_| block(false, 1, 128 << 10, &[byte]));
    block(true, 1, count % (128 << 10), &[byte]);
    frame
}

/// An envelope of `raw_len` stated bytes around a payload that is packed already.
fn envelope(magic: &[u8; 8], id: &str, raw_len: usize, payload: &[u8]) -> Vec<u8> {
    let id = ulid::Ulid::from_string(id).unwrap().to_bytes();
    let fields = [&magic[..], &[1, 0, 0, 0, 0, 0, 0, 0], &id, &id, &(raw_len as u64).to_le_bytes(), payload].concat();
    let check = blake3::hash(&fields);
    [&fields[..], check.as_bytes()].concat()
}

/// A manifest of 32 KB that unpacks to lists of hundreds of millions of entries.
#[test]
fn bombs_in_manifests_and_catalogs() {
    let lab = stored();
    for count in [900 << 20, 200 << 20, 16 << 20] {
        let elements = u32::try_from(count).unwrap().to_be_bytes();
        // A map of one field, which is a list of so many zeros; or of so many absent segments.
        let lens = [&b"\x81\xaachunk_lens\xdd"[..], &elements].concat();
        let inline = [&b"\x81\xa6inline\xc6"[..], &elements].concat();
        let entries = [&b"\x81\xa7entries\xdd"[..], &elements].concat();
        for (field, front) in [("lengths", &lens), ("inline bytes", &inline)] {
            run_all(&lab, &format!("a manifest of {count} {field}"), &|store| {
                let path = only_file(store, "checkpoints");
                let id = path.file_name().unwrap().to_string_lossy().into_owned();
                let bomb = envelope(b"CKPTMANI", &id, front.len() + count, &zstd_bomb(front, 0, count));
                assert!(bomb.len() < 64 << 10);
                fs::write(path, bomb).unwrap();
            });
        }
        run_all(&lab, &format!("a catalog of {count} entries"), &|store| {
            let id = CatalogId::generate().to_string();
            let bomb = envelope(b"CKPTCATA", &id, entries.len() + count, &zstd_bomb(&entries, 0x80, count));
            fs::write(store.join("catalog").join(&id), bomb).unwrap();
            rewrite_head(store, |head| head["catalog"] = serde_json::json!(id));
        });
    }
}

/// A destination that is full of links: a get makes files, and follows none of them.
#[test]
fn a_destination_of_links_leads_nowhere() {
    let lab = stored();
    let before = outside(&lab);
    for (there, to) in
        [("back", "../precious"), ("back", "../precious/file"), ("back", "../precious/made"), ("back", "back")]
    {
        let link = lab.path("out").join(there);
        symlink(to, &link).unwrap();
        let ran = run_bounded(&lab, &lab.store(), &["get", "r@1", "out/back", "--file", "a.pt"], to);
        assert!(to == "../precious" || ran.code == Some(7), "{to}: {ran:?}");
        // Into the directory that it leads to, as the person who named it wants.
        let _ = fs::remove_file(lab.path("precious/a.pt"));
        run_bounded(&lab, &lab.store(), &["get", "r@1", "out/new"], to).expect(0);
        fs::remove_dir_all(lab.path("out/new")).unwrap();
        fs::remove_file(&link).unwrap();
        // Times of the directory that was written to are none of this test's.
        assert_eq!(fs::read(lab.path("precious/file")).unwrap(), b"precious", "{to}");
        assert!(!lab.path("precious/made").exists(), "{to}");
    }
    assert_eq!(outside(&lab).keys().collect::<Vec<_>>(), before.keys().collect::<Vec<_>>());
}
