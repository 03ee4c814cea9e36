//! What a test needs another process for that is not the command: prepares a part and stays until it is told to end,
//! commits parts, or forks while it uses a store; or that reads a mount. Never judges but that: what else it says and
//! leaves is for the test.
#![allow(clippy::unwrap_used, reason = "a helper of a test may fail by panicking")]

use std::fs;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use ckpt_store::{GcRequest, GetRequest, PartRequest, PutRequest, Quiet, Store};
use ckpt_tests::storm::read_mount;

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    match args[..] {
        ["prepare", store, out, ref paths @ ..] => prepare(Path::new(store), Path::new(out), paths),
        ["commit", store, run, step, ref parts @ ..] => commit(Path::new(store), run, step.parse().unwrap(), parts),
        ["fork", store, folder] => fork(Path::new(store), Path::new(folder)),
        ["read-mount", at, truth, life, seed] => {
            read_mount(Path::new(at), Path::new(truth), Path::new(life), seed.parse().unwrap());
        }
        _ => panic!("{args:?} is nothing that it does"),
    }
}

/// Prepares a part of `paths`, writes it to `out`, says so, and keeps it until its input ends.
fn prepare(store: &Path, out: &Path, paths: &[&str]) {
    let store = Store::open(store).unwrap();
    let request = PartRequest { paths: paths.iter().map(PathBuf::from).collect(), ..PartRequest::default() };
    let prepared = store.prepare(&request, &Quiet).unwrap();
    fs::write(out, prepared.to_bytes()).unwrap();
    say("prepared");
    std::io::stdin().read_to_end(&mut Vec::new()).unwrap();
    drop(prepared);
}

/// Commits parts as a directory, with one file of its own.
fn commit(store: &Path, run: &str, step: u64, parts: &[&str]) {
    let store = Store::open(store).unwrap();
    let parts: Vec<Vec<u8>> = parts.iter().map(|part| fs::read(part).unwrap()).collect();
    let root = Some(format!("step-{step}"));
    let request = PutRequest { run: run.into(), step: Some(step), root, ..PutRequest::default() };
    match store.commit_parts(&request, &parts, &Quiet) {
        Ok(report) => say(&format!("committed, {} new chunks", report.new_chunks)),
        Err(error) => say(&format!("refused: {error:?}")),
    }
}

/// Puts of each process: more than the tables that RocksDB's background threads merge, and those do not survive a fork.
const PUTS: u64 = 10;

/// Puts, prepares and forks; the child ends what it has a copy of, puts, gets and collects; then the parent goes on.
fn fork(root: &Path, folder: &Path) {
    let file = |name: &str, salt: u8| {
        let path = folder.join(name);
        let bytes: Vec<u8> = (0..3_000_000_u32).map(|at| (at.wrapping_mul(2_654_435_761) >> 13) as u8 ^ salt).collect();
        fs::write(&path, bytes).unwrap();
        path
    };
    let request = |path: PathBuf, step| PutRequest {
        paths: vec![path],
        run: "r".into(),
        step: Some(step),
        ..PutRequest::default()
    };
    let get = |store: &Store, step: u64, to: &str| {
        let request = GetRequest { reference: format!("r@{step}"), ..GetRequest::default() };
        store.get(&request, &folder.join(to), &Quiet).unwrap();
    };
    // A pool does not survive a fork: each process works in its own, as the Python package does.
    let pool = || rayon::ThreadPoolBuilder::new().num_threads(2).build().unwrap();
    // A process that waits for what never comes is ended. SAFETY: of both processes, by a signal that nobody handles.
    let limit = || unsafe { libc::alarm(100) };
    let many = |store: &Store, run: &str| {
        for step in 0..PUTS {
            let path = folder.join("small");
            fs::write(&path, format!("{run} {step} ").repeat(1000)).unwrap();
            store.put(&PutRequest { run: run.into(), ..request(path, step) }, &Quiet).unwrap();
        }
    };
    limit();
    let store = Store::open(root).unwrap();
    let parents = pool();
    parents.install(|| store.put(&request(file("one", 1), 1), &Quiet)).unwrap();
    parents.install(|| many(&store, "before"));
    let part = PartRequest { paths: vec![file("part", 9)], ..PartRequest::default() };
    let prepared = parents.install(|| store.prepare(&part, &Quiet)).unwrap();
    // SAFETY: the child uses nothing that a thread which it does not have could hold: its own pool, and the store.
    let child = unsafe { libc::fork() };
    assert!(child >= 0, "{}", std::io::Error::last_os_error());
    if child == 0 {
        let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            limit();
            drop(prepared);
            pool().install(|| {
                many(&store, "child");
                store.put(&request(file("two", 2), 2), &Quiet).unwrap();
                get(&store, 1, "child-1");
                get(&store, 2, "child-2");
                store.gc(&GcRequest::default(), &Quiet).unwrap();
            });
        }));
        // SAFETY: ends the process at once, as a worker of a DataLoader does; there is nothing left to run.
        unsafe { libc::_exit(i32::from(done.is_err())) };
    }
    let mut status = 0;
    // SAFETY: `status` is there for the call, and `child` is a child of this process.
    assert_eq!(unsafe { libc::waitpid(child, &raw mut status, 0) }, child);
    say(&format!("child {status}, {} sessions", fs::read_dir(root.join("sessions")).unwrap().count()));
    parents.install(|| {
        many(&store, "after");
        store.put(&request(file("three", 3), 3), &Quiet).unwrap();
        store.gc(&GcRequest::default(), &Quiet).unwrap();
        let request = PutRequest { run: "r".into(), step: Some(4), ..PutRequest::default() };
        store.commit_parts(&request, &[prepared.to_bytes().to_vec()], &Quiet).unwrap();
        (1..5).for_each(|step| get(&store, step, &format!("parent-{step}")));
    });
    drop(prepared);
    say(&format!("done, {} sessions", fs::read_dir(root.join("sessions")).unwrap().count()));
}

fn say(text: &str) {
    let mut out = std::io::stdout();
    writeln!(out, "{text}").unwrap();
    out.flush().unwrap();
}
