//! Habits as tests: import direction, file length, banned calls, docs that match.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The rooms of the library from the top down. A room may use those that stand in a later row; those of one row don't
/// know each other. `docs/architecture.md` shows the same table.
const RANKS: &[&[&str]] = &[
    &["ops"],
    &["store"],
    &["catalog", "index", "archive"],
    &["packs", "session"],
    &["backend", "parallel", "space"],
    &["format"],
    &["codec"],
    &["split", "names"],
    &["pickle"],
    &["limits", "progress", "error"],
    &["id"],
];

/// The modules of the mount, in the same way.
const FUSE_RANKS: &[&[&str]] = &[
    &["server"],
    &["facts", "watch"],
    &["mounted", "materialize"],
    &["warm", "look", "place", "unmount", "laid"],
    &["files", "metadata", "mounts", "status"],
    &["workers", "held", "directory", "manifests", "listing", "answers", "mountinfo"],
    &["checkpoint", "tree", "handle"],
    &["members", "views", "inodes", "ahead"],
    &["told", "own_directory"],
    &["node", "names", "xattrs", "limits", "errno", "error", "runs"],
];

/// Modules of the mount that do nothing but reckon, and what they must not name.
const FUSE_PURE: &[&str] =
    &["node", "names", "tree", "members", "views", "checkpoint", "inodes", "xattrs", "directory", "ahead"];
const FUSE_IMPURE: &[&str] = &["std::fs", "rustix", "fuser", "Store,", "Store}", "Store>", "&Store", "OpenCheckpoint"];

/// Arrows that the table does not allow and that stay for the reason given. Should be empty.
const ARROWS_ALLOWED: &[(&str, &str, &str)] = &[];

/// The longest file, tests not counted.
const LINES_MAX: usize = 400;

/// Files that are longer, and why. Should be empty.
const LONG_FILES_ALLOWED: &[(&str, &str)] = &[];

/// Calls that don't belong where they would be, and what to use instead: folder, text, replacement.
const BANNED: &[(&str, &str, &str)] = &[
    ("store/src", "println!(", "a value, or crate::progress::Notice"),
    ("store/src", "print!(", "a value, or crate::progress::Notice"),
    ("store/src", "std::env", "an argument: the environment is the command's to read"),
    ("store/src", "env::var", "an argument: the environment is the command's to read"),
    ("store/src", "home_dir", "an argument"),
    ("store/src", "std::process::exit", "an error"),
    ("store/src", "fs::write(", "backend::Disk, which makes it durable and lets tests cut it short"),
    ("store/src", "mmap", "read_exact_at: a mapped file that shrinks is SIGBUS"),
    ("store/src", "SystemTime::now", "Store::now_ms"),
    ("store/src", "clap", "nothing: the library has no command line"),
    ("store/src", "_ne_bytes", "the _le_ form: files are read on other machines"),
    ("cli/src", "_ne_bytes", "the _le_ form"),
    ("store/src", ".unwrap()", "?, or an expect-free match"),
    ("cli/src", ".unwrap()", "?"),
    ("store/src", ".expect(", "?"),
    ("cli/src", ".expect(", "?"),
    ("cli/src", " println!(", "output::print, which bears a reader that went away"),
    ("fuse/src", "println!(", "a line to the log"),
    ("fuse/src", "std::env", "an argument: the environment is the command's to read"),
    ("fuse/src", "env::var", "an argument: the environment is the command's to read"),
    ("fuse/src", "std::process::exit", "an error"),
    ("fuse/src", ".unwrap()", "?, or an expect-free match"),
    ("fuse/src", ".expect(", "?"),
    ("fuse/src", "mmap", "pread: a mapped pack that shrinks is SIGBUS, and takes the whole mount along"),
    ("fuse/src", "_ne_bytes", "the _le_ form"),
    ("python/src", "println!(", "a value, or Python's logging"),
    ("python/src", "env::var", "an argument: what the environment says is the package's to read"),
    ("python/src", ".unwrap()", "?"),
    ("python/src", ".expect(", "?"),
    ("python/src", "_ne_bytes", "the _le_ form"),
    ("python/src", "rayon::spawn", "work::run: the global pool does not survive a fork"),
    ("python/src", "Python::attach(", "Python::try_attach, which does not panic while the interpreter ends"),
    ("tests", "thread::sleep_ms", "a loop that waits for what it needs"),
    ("tests", ".elapsed() <", "nothing: a slow machine is no failure, and benchmarks measure time"),
    ("tests", "SystemTime::now", "fixed times: a test must not depend on the day"),
];

/// Places that may use a banned text: file, text. Those of `elapsed` give up waiting for another process.
const BANNED_ALLOWED: &[(&str, &str)] = &[
    ("store/src/store.rs", "SystemTime::now"),
    ("tests/suite/processes/killed.rs", ".elapsed() <"),
    ("tests/kit/process.rs", ".elapsed() <"),
    ("tests/kit/mount.rs", ".elapsed() <"),
    ("tests/kit/storm/mounts.rs", ".elapsed() <"),
];

fn root() -> PathBuf {
    fs::canonicalize(Path::new(env!("CARGO_MANIFEST_DIR")).join("..")).expect("the workspace's directory")
}

/// Paths that git tracks, relative to the root.
fn tracked() -> Vec<String> {
    let listed = Command::new("git")
        .current_dir(root())
        .args(["-c", "safe.directory=*", "ls-files", "-z", "--cached", "--others", "--exclude-standard"])
        .output()
        .expect("git can be started");
    assert!(listed.status.success(), "{listed:?}");
    let listed = String::from_utf8_lossy(&listed.stdout).into_owned();
    listed.split('\0').filter(|path| root().join(path).is_file()).map(str::to_owned).collect()
}

fn rust_files(folder: &str) -> Vec<(String, String)> {
    let prefix = format!("{folder}/");
    let paths = tracked().into_iter().filter(|path| path.starts_with(&prefix) && path.ends_with(".rs"));
    let read = |path: String| {
        let text = fs::read_to_string(root().join(&path)).expect("a tracked file can be read");
        (path, text)
    };
    let files: Vec<(String, String)> = paths.map(read).collect();
    assert!(!files.is_empty(), "{folder} has no Rust files: is this test looking in the right place?");
    files
}

/// The lines of a file with their numbers, up to the tests in it, without comments.
fn code(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let lines = text.lines().take_while(|line| !line.starts_with("mod tests {"));
    lines.zip(1..).filter(|(line, _)| !line.trim_start().starts_with("//")).map(|(line, number)| (number, line))
}

/// The modules of the Python package and the examples, by their paths.
fn python_files() -> Vec<(String, String)> {
    let ours = |path: &String| path.starts_with("python/ckpt_store/") || path.starts_with("examples/");
    let paths = tracked().into_iter().filter(|path| ours(path) && path.ends_with(".py"));
    paths.map(|path| (path.clone(), fs::read_to_string(root().join(&path)).expect("a tracked file"))).collect()
}

fn is_test_file(path: &str) -> bool {
    path.ends_with("/tests.rs") || path.contains("/tests/") || path.starts_with("tests/suite")
}

/// The room of a file of the library.
fn room(path: &str) -> Option<&str> {
    let name = path.strip_prefix("store/src/")?.split('/').next()?;
    Some(name.strip_suffix(".rs").unwrap_or(name)).filter(|room| *room != "lib")
}

fn rank(room: &str) -> usize {
    let found = RANKS.iter().position(|rooms| rooms.contains(&room));
    found.unwrap_or_else(|| panic!("room {room} has no rank: add it to RANKS and to docs/architecture.md"))
}

/// The rooms that a line names as `crate::room…` or `crate::{room…, room…}`.
fn rooms_named(line: &str) -> Vec<&str> {
    let mut named = Vec::new();
    for (at, _) in line.match_indices("crate::") {
        let rest = &line[at + "crate::".len()..];
        let word = |text: &str| text.chars().take_while(|c| c.is_ascii_lowercase() || *c == '_').count();
        match rest.strip_prefix('{') {
            // Only the outer names: what stands in inner braces belongs to the room before it.
            Some(list) => {
                let mut depth = 0;
                let mut start = true;
                for (at, c) in list.char_indices() {
                    if depth == 0 && start && c.is_ascii_lowercase() {
                        named.push(&list[at..at + word(&list[at..])]);
                    }
                    start = (start && c == ' ') || c == ',';
                    match c {
                        '{' => depth += 1,
                        '}' if depth == 0 => break,
                        '}' => depth -= 1,
                        _ => {}
                    }
                }
            }
            None => named.push(&rest[..word(rest)]),
        }
    }
    // `crate::Error` and the like are the re-exports of lib.rs: no room above.
    named.retain(|room| !room.is_empty());
    named
}

#[test]
fn imports_point_downward() {
    let mut upward = Vec::new();
    let mut seen = 0;
    for (path, text) in rust_files("store/src") {
        let Some(from) = room(&path).filter(|_| !is_test_file(&path)) else { continue };
        for (number, line) in code(&text) {
            for to in rooms_named(line) {
                seen += 1;
                let allowed = ARROWS_ALLOWED.iter().any(|(a, b, _)| (*a, *b) == (from, to));
                if to != from && rank(to) <= rank(from) && !allowed {
                    upward.push(format!("{path}:{number}: {from} must not know {to}: {}", line.trim()));
                }
            }
        }
    }
    assert!(seen > 100, "only {seen} imports were found: the parser has gone blind");
    assert!(upward.is_empty(), "{}", upward.join("\n"));
}

#[test]
fn modules_of_the_mount_know_each_other_downward_and_the_pure_ones_nothing() {
    let rank = |module: &str| {
        let found = FUSE_RANKS.iter().position(|modules| modules.contains(&module));
        found.unwrap_or_else(|| panic!("the module {module} of fuse has no rank: add it to FUSE_RANKS"))
    };
    let docs = fs::read_to_string(root().join("docs/architecture.md")).expect("docs/architecture.md");
    let (mut wrong, mut seen, mut pure) = (Vec::new(), 0, 0);
    for (path, text) in rust_files("fuse/src") {
        let Some(from) = path["fuse/src/".len()..].split('/').next().map(|name| name.trim_end_matches(".rs")) else {
            continue;
        };
        if from == "lib" || is_test_file(&path) {
            continue;
        }
        assert!(docs.contains(&format!("`{from}`")), "docs/architecture.md does not show the module {from} of fuse");
        let head: String = text.lines().take_while(|line| line.starts_with("//!")).collect();
        assert!(["never", "Never"].iter().any(|word| head.contains(word)), "{path} does not say what it never does");
        let is_pure = FUSE_PURE.contains(&from);
        pure += usize::from(is_pure);
        for (number, line) in code(&text) {
            for to in rooms_named(line) {
                seen += 1;
                if to != from && rank(to) <= rank(from) {
                    wrong.push(format!("{path}:{number}: {from} must not know {to}: {}", line.trim()));
                }
            }
            if let Some(word) = FUSE_IMPURE.iter().find(|word| is_pure && line.contains(**word)) {
                wrong.push(format!("{path}:{number}: {from} is pure and names {word}: {}", line.trim()));
            }
        }
        rank(from);
    }
    assert!(seen > 40, "only {seen} imports were found: the parser has gone blind");
    assert_eq!(pure, FUSE_PURE.len(), "FUSE_PURE lists modules that are not there");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn the_parser_of_imports_sees_all_forms() {
    assert_eq!(rooms_named("use crate::format::pack::{self, Line};"), ["format"]);
    assert_eq!(rooms_named("use crate::{codec::{Codec, Decoder}, index, Error};"), ["codec", "index"]);
    assert_eq!(rooms_named("    let x = crate::progress::Quiet; crate::id::ChunkId::of(b)"), ["progress", "id"]);
    assert_eq!(rooms_named("Err(crate::Error::Interrupted)"), Vec::<&str>::new());
}

#[test]
fn every_room_is_ranked_and_shown_in_the_docs() {
    let docs = fs::read_to_string(root().join("docs/architecture.md")).expect("docs/architecture.md");
    let mut rooms: Vec<String> =
        rust_files("store/src").iter().filter_map(|(path, _)| room(path).map(str::to_owned)).collect();
    rooms.sort_unstable();
    rooms.dedup();
    let mut ranked: Vec<&str> = RANKS.iter().flat_map(|rooms| rooms.iter().copied()).collect();
    ranked.sort_unstable();
    assert_eq!(rooms, ranked, "RANKS lists the rooms that there are");
    for room in rooms {
        assert!(docs.contains(&format!("`{room}`")), "docs/architecture.md does not show the room {room}");
    }
}

#[test]
fn the_command_uses_the_public_api_alone() {
    let api = fs::read_to_string(root().join("store/src/lib.rs")).expect("store/src/lib.rs");
    let hidden: Vec<&str> = api
        .lines()
        .filter_map(|line| line.trim().strip_prefix("pub mod ").or_else(|| line.strip_prefix("mod ")))
        .map(|name| name.trim_end_matches(';'))
        .collect();
    assert!(hidden.len() > 10, "lib.rs lists its rooms as `mod name;`");
    for (path, text) in rust_files("cli/src") {
        for (number, line) in code(&text) {
            for (at, _) in line.match_indices("ckpt_store::") {
                let rest = &line[at + "ckpt_store::".len()..];
                let bad = hidden.iter().find(|room| rest.starts_with(&format!("{room}::")));
                assert!(bad.is_none(), "{path}:{number}: the command uses a room of the library: {}", line.trim());
            }
        }
    }
    let manifest = fs::read_to_string(root().join("cli/Cargo.toml")).expect("cli/Cargo.toml");
    for library in ["rocksdb", "blake3", "zstd", "rmp-serde"] {
        assert!(!manifest.contains(library), "the command must not know {library}: that is the library's");
    }
}

#[test]
fn files_are_short() {
    let mut long = Vec::new();
    for (path, text) in ["store/src", "fuse/src", "cli/src", "python/src", "tests/kit"].into_iter().flat_map(rust_files)
    {
        let lines = text.lines().take_while(|line| !line.starts_with("mod tests {")).count();
        if lines > LINES_MAX && !is_test_file(&path) && !LONG_FILES_ALLOWED.iter().any(|(file, _)| *file == path) {
            long.push(format!("{path} has {lines} lines"));
        }
    }
    assert!(long.is_empty(), "at most {LINES_MAX} lines without tests: {}", long.join(", "));
}

#[test]
fn every_room_says_what_it_never_does() {
    for (path, text) in ["store/src", "fuse/src", "cli/src", "python/src"].into_iter().flat_map(rust_files) {
        let is_test = is_test_file(&path);
        assert!(is_test || text.starts_with("//! "), "{path} does not begin with what it is");
        let is_room =
            room(&path).is_some_and(|room| path == format!("store/src/{room}.rs") || path.ends_with("/mod.rs"));
        if is_room && !is_test {
            let head: String = text.lines().take_while(|line| line.starts_with("//!")).collect();
            let says = ["never", "Never", "nothing"].iter().any(|word| head.contains(word));
            assert!(says, "{path}: a room says what it never does");
        }
    }
}

/// Modules of the package that import no framework before something asks for one: `import ckpt_store` costs little
/// anywhere.
const LIGHT: &[&str] = &["__init__", "store", "saving", "file", "errors", "checkpoint", "materialized", "_scratch"];
/// What is a framework to them.
const FRAMEWORKS: &[&str] =
    &["torch", "numpy", "lightning", "pytorch_lightning", "transformers", "accelerate", "keras", "jax", "fsspec"];
/// The modules for one framework each, which don't know each other.
const HOOKS: &[&str] = &["lightning", "transformers", "accelerate", "keras", "dcp", "torch", "jax", "fsspec"];

/// The modules that a line of Python imports, of the package those after the dots: `from .torch import x` names
/// `.torch`.
fn modules_imported(line: &str) -> Vec<String> {
    let line = line.split('#').next().unwrap_or_default();
    let words: Vec<&str> = line.split([' ', ',', '(', ')']).filter(|word| !word.is_empty()).collect();
    match &words[..] {
        ["import", modules @ ..] => modules.iter().map(|module| (*module).to_owned()).collect(),
        // `from . import a, b` names modules where others name what is in one.
        ["from", dots @ ("." | ".."), "import", modules @ ..] => {
            modules.iter().map(|module| format!("{dots}{module}")).collect()
        }
        ["from", module, "import", ..] => vec![(*module).to_owned()],
        _ => Vec::new(),
    }
}

#[test]
fn python_modules_say_what_they_are_and_know_few() {
    let mut wrong = Vec::new();
    let files = python_files();
    assert!(files.len() > 20, "only {} Python files: is this test looking in the right place?", files.len());
    for (path, text) in &files {
        let module = path.strip_prefix("python/ckpt_store/").map(|path| path.trim_end_matches(".py"));
        let head = text.split("\n\n").next().unwrap_or_default();
        let says = ["never", "Never", "nothing"].iter().any(|word| head.contains(word));
        if !text.starts_with("\"\"\"") || module.is_some_and(|module| module != "__init__" && !says) {
            wrong.push(format!("{path} does not begin with what it is, and of a module what it never does"));
        }
        if text.lines().count() > LINES_MAX {
            wrong.push(format!("{path} has more than {LINES_MAX} lines"));
        }
        let room = module.and_then(|module| module.split('/').next()).unwrap_or_default();
        for (line, number) in text.lines().zip(1..) {
            if line.chars().count() > 120 {
                wrong.push(format!("{path}:{number}: more than 120 columns"));
            }
            for name in modules_imported(line) {
                let ours = name.trim_start_matches('.');
                let first = ours.split('.').next().unwrap_or_default();
                let is_ours = name.starts_with("..") || name.starts_with('.') && !path.contains("/lightning/");
                if is_ours && HOOKS.contains(&first) && first != room && HOOKS.contains(&room) {
                    wrong.push(format!("{path}:{number}: the hook {room} must not know the hook {first}"));
                }
                let is_framework = if is_ours { HOOKS.contains(&first) } else { FRAMEWORKS.contains(&first) };
                if LIGHT.contains(&room) && is_framework && !line.starts_with(' ') {
                    wrong.push(format!("{path}:{number}: {room} imports {name}, which it may do in a function"));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert_eq!(modules_imported("from . import _core, errors"), ["._core", ".errors"]);
    assert_eq!(modules_imported("from ..torch import (CheckpointManager)"), ["..torch"]);
    assert!(modules_imported("    importing = 1").is_empty());
}

#[test]
fn banned_calls_are_not_used() {
    let mut found = Vec::new();
    for (folder, banned, instead) in BANNED {
        for (path, text) in rust_files(folder) {
            let is_here = path == "tests/suite/tidy.rs" || BANNED_ALLOWED.contains(&(&path, banned));
            if is_here || (is_test_file(&path) && *folder != "tests") {
                continue;
            }
            for (number, line) in code(&text).filter(|(_, line)| line.contains(banned)) {
                found.push(format!("{path}:{number}: use {instead}: {}", line.trim()));
            }
        }
    }
    assert!(found.is_empty(), "{}", found.join("\n"));
}

#[test]
fn files_name_no_machine_and_no_registry() {
    // Put together here, so that this file is none of them.
    let private = [["/ro", "ot/"].concat(), ["/wo", "rk/"].concat(), ["/home", "/user"].concat()];
    let hosts = ["index.crates.io", "static.crates.io", "files.pythonhosted.org", "artifactory", "proxy.golang"];
    let mut found = Vec::new();
    for path in tracked() {
        // Golden stores are bytes; the lock file names the registry by its own fixed address.
        if path.starts_with("tests/golden/") || path == "Cargo.lock" || path == "tests/suite/tidy.rs" {
            continue;
        }
        let text = String::from_utf8_lossy(&fs::read(root().join(&path)).expect("a tracked file")).into_owned();
        for (line, number) in text.lines().zip(1..) {
            if private.iter().any(|text| line.contains(&**text)) || hosts.iter().any(|host| line.contains(host)) {
                found.push(format!("{path}:{number}: {}", line.trim()));
            }
        }
    }
    assert!(found.is_empty(), "{}", found.join("\n"));
}

#[test]
fn links_in_the_docs_lead_somewhere() {
    let mut broken = Vec::new();
    for path in tracked().into_iter().filter(|path| path.ends_with(".md")) {
        let text = fs::read_to_string(root().join(&path)).expect("a tracked file");
        let folder = root().join(&path).parent().expect("a folder").to_owned();
        for (at, _) in text.match_indices("](") {
            let target = text[at + 2..].split([')', ' ']).next().unwrap_or_default();
            if target.contains("://") || target.starts_with("mailto:") {
                continue;
            }
            let (file, anchor) = target.split_once('#').unwrap_or((target, ""));
            let file = if file.is_empty() { root().join(&path) } else { folder.join(file) };
            if !file.exists() {
                broken.push(format!("{path}: {target} is not there"));
            } else if !anchor.is_empty() && !anchors(&fs::read_to_string(&file).unwrap_or_default()).contains(anchor) {
                broken.push(format!("{path}: {target} has no such heading"));
            }
        }
    }
    assert!(broken.is_empty(), "{}", broken.join("\n"));
}

/// The anchors that a page's headings get, as forges make them.
fn anchors(text: &str) -> std::collections::BTreeSet<String> {
    let headings = text.lines().filter(|line| line.starts_with('#')).map(|line| line.trim_start_matches('#').trim());
    let letters = |heading: &str| -> String {
        let kept = heading.to_lowercase();
        kept.chars()
            .filter(|c| c.is_alphanumeric() || " -_".contains(*c))
            .map(|c| if c == ' ' { '-' } else { c })
            .collect()
    };
    headings.map(letters).collect()
}

#[test]
fn every_dependency_has_its_reason_and_a_licence_that_fits() {
    let manifest = fs::read_to_string(root().join("Cargo.toml")).expect("Cargo.toml");
    let record = fs::read_to_string(root().join("docs/decisions/0002-libraries.md")).expect("the record of libraries");
    let reasons: BTreeMap<&str, &str> =
        record.lines().filter_map(|line| line.strip_prefix("| `")?.split_once('`')).collect();
    let names = manifest
        .lines()
        .skip_while(|line| *line != "[workspace.dependencies]")
        .skip(1)
        .take_while(|line| !line.starts_with('['))
        .filter_map(|line| line.split_once(" = ").map(|(name, _)| name))
        .filter(|name| !name.starts_with("ckpt-"));
    let mut count = 0;
    for name in names {
        let reason =
            reasons.get(name).unwrap_or_else(|| panic!("docs/decisions/0002-libraries.md says nothing of {name}"));
        let fits =
            ["MIT", "Apache-2.0", "BSD", "Unlicense", "Zlib", "CC0"].iter().any(|licence| reason.contains(licence));
        assert!(fits, "{name} has no licence that goes with MIT OR Apache-2.0: {reason}");
        count += 1;
    }
    assert_eq!(count, reasons.len(), "docs/decisions/0002-libraries.md lists libraries that are not used");
}

/// The functions that a fuzz target must call: whatever reads bytes in `format`, and each splitter. The compiler checks
/// that the targets call what there is, this test that there is a target for it.
#[test]
fn every_parser_has_a_fuzz_target() {
    let targets: Vec<(String, String)> = rust_files("fuzz/fuzz_targets");
    let code: String =
        targets.iter().flat_map(|(_, text)| text.lines()).filter(|line| !line.starts_with("//")).collect();
    let manifest = fs::read_to_string(root().join("fuzz/Cargo.toml")).expect("fuzz/Cargo.toml");
    for (path, _) in &targets {
        assert!(manifest.contains(path.trim_start_matches("fuzz/")), "fuzz/Cargo.toml does not list {path}");
    }
    let mut parsers = Vec::new();
    for (path, text) in rust_files("store/src/format") {
        let mut owner = "";
        for line in text.lines() {
            if let Some(rest) = line.strip_prefix("impl ") {
                owner = rest.split([' ', '<']).next().unwrap_or_default();
            } else if line == "}" {
                owner = "";
            }
            let Some(name) = line.trim_start().strip_prefix("pub fn ") else { continue };
            let name = name.split(['(', '<']).next().unwrap_or_default();
            let reads = name.ends_with("from_bytes") || (path.ends_with("envelope.rs") && name != "seal");
            if reads {
                parsers.push(if owner.is_empty() { name.to_owned() } else { format!("{owner}::{name}") });
            }
        }
    }
    assert!(parsers.len() >= 9, "only {parsers:?} were found: this test has gone blind");
    for parser in parsers {
        // Generic ones are called with their type in between.
        let called = code.contains(&format!("{parser}(")) || code.contains(&format!("{parser}::<"));
        assert!(called, "no fuzz target calls {parser}");
    }
    let rooms = fs::read_to_string(root().join("store/src/split/mod.rs")).expect("store/src/split/mod.rs");
    let helpers = ["arrange", "dtype", "layout", "source", "tests", "torch", "window"];
    for splitter in rooms.lines().filter_map(|line| line.strip_prefix("mod ")?.strip_suffix(';')) {
        let path = format!("fuzz/fuzz_targets/split_{splitter}.rs");
        assert!(helpers.contains(&splitter) || root().join(&path).exists(), "{path} is missing");
    }
}
