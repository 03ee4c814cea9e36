//! Every call of an operation fails in turn, under the real command: what is left must be the store before it or after it,
//! bit-exact, and usable. Which operations there are stands in [`OPERATIONS`].

use std::ffi::OsString;
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use ckpt_store::{Entry, Quiet, Store};

use crate::image;
use crate::run::{Ran, on, run};
use crate::sample::{self, Node, Tree, noise, torch_zip};
use crate::shim::{ALL, CHANGES, EIO, ENOSPC, Fault, Kind, NEED_ROOM, Watch};
use crate::world::{World, assert_sound, assert_swept, gc, names, tensors};

/// One call of the command, and the store that it is tried on.
#[derive(Clone, Copy)]
pub struct Operation {
    /// What the report calls it.
    pub name: &'static str,
    /// What the store holds before.
    pub prepare: fn(&mut World, &Store),
    /// What a put stores.
    pub source: Option<fn() -> Tree>,
    /// The call: `SOURCE` and `DEST` stand for paths.
    pub args: &'static [&'static str],
    /// A call whose answer belongs to what the operation changes, if the list of checkpoints doesn't show it.
    pub shows: &'static [&'static str],
    /// Whether it changes HEAD once at most, so that one that failed before has changed nothing.
    pub one_swap: bool,
}

/// A way to fail, and at which calls it is possible.
#[derive(Clone, Copy)]
pub struct Mode {
    /// What the report calls it.
    pub name: &'static str,
    kinds: &'static [Kind],
    fault: fn(Fault) -> Fault,
    /// Exit codes with which the command may end; none when it is killed.
    codes: &'static [i32],
}

/// What was tried.
#[derive(Debug, Clone, Copy, Default)]
pub struct Figures {
    /// Faults.
    pub faults: usize,
    /// Commands that ended with 0 all the same.
    pub borne: usize,
    /// Commands that said why they failed.
    pub refused: usize,
    /// Commands that were killed.
    pub killed: usize,
    /// Calls of the operation when nothing fails.
    pub calls: u64,
}

/// The ways to fail.
pub const MODES: &[Mode] = &[
    Mode { name: "EIO", kinds: ALL, fault: |fault| fault.errno(EIO), codes: &[0, 4, 6] },
    Mode { name: "ENOSPC once", kinds: NEED_ROOM, fault: |fault| fault.errno(ENOSPC), codes: &[0, 5] },
    Mode { name: "ENOSPC lasting", kinds: NEED_ROOM, fault: |fault| fault.errno(ENOSPC).lasting(), codes: &[0, 5] },
    Mode { name: "short write or read", kinds: &[Kind::Write, Kind::Read], fault: Fault::half, codes: &[0] },
    Mode {
        name: "half a write, then ENOSPC",
        kinds: &[Kind::Write],
        fault: |fault| fault.half_then(ENOSPC).lasting(),
        codes: &[0, 5],
    },
    Mode { name: "kill -9", kinds: CHANGES, fault: Fault::kill, codes: &[] },
    Mode { name: "kill -9 in a write", kinds: &[Kind::Write], fault: Fault::torn, codes: &[] },
];

/// What is tried. An operation that comes to the command is a line more here.
pub const OPERATIONS: &[Operation] = &[
    Operation {
        name: "put",
        prepare: three,
        source: Some(|| folder(10)),
        args: &["put", "SOURCE", "--run", "b", "--step", "1"],
        shows: &[],
        one_swap: true,
    },
    Operation {
        name: "put --replace, chunks shared",
        prepare: three,
        source: Some(|| tensors(&[2, 30, 1])),
        args: &["put", "SOURCE", "--run", "a", "--step", "2", "--replace", "--tag", "good"],
        shows: &[],
        one_swap: true,
    },
    Operation {
        name: "put without index",
        prepare: |world, store| {
            three(world, store);
            fs::remove_dir_all(store.root().join("index")).expect("the index can be removed");
        },
        source: Some(|| tensors(&[3, 20, 1])),
        args: &["put", "SOURCE", "--run", "b", "--step", "1"],
        shows: &[],
        one_swap: true,
    },
    Operation {
        name: "put, catalog folded",
        prepare: |world, store| {
            three(world, store);
            (0..62).for_each(|nr| drop(store.tag("a@3", &format!("tag-{nr}")).expect("a tag can be set")));
        },
        source: Some(|| tensors(&[1, 40])),
        args: &["put", "SOURCE", "--run", "b", "--step", "1", "--tag", "first"],
        shows: &[],
        one_swap: true,
    },
    Operation {
        name: "gc --keep-last 1",
        prepare: |world, store| {
            three(world, store);
            world.put_tree(store, "a", 4, &tensors(&[4, 5]));
            world.put_tree(store, "a", 5, &tensors(&[60]));
            world.put_tree(store, "b", 1, &tensors(&[50, 2]));
        },
        source: None,
        args: &["gc", "--keep-last", "1"],
        shows: &[],
        one_swap: false,
    },
    Operation { name: "rm", prepare: three, source: None, args: &["rm", "a@1", "a@3"], shows: &[], one_swap: true },
    Operation {
        name: "tag",
        prepare: |world, store| {
            three(world, store);
            store.tag("a@1", "good").expect("a tag can be set");
        },
        source: None,
        args: &["tag", "a@2", "good"],
        shows: &[],
        one_swap: true,
    },
    Operation { name: "get", prepare: three, source: None, args: &["get", "a@3", "DEST"], shows: &[], one_swap: true },
    Operation { name: "verify", prepare: three, source: None, args: &["verify"], shows: &[], one_swap: true },
    Operation { name: "init of a store", prepare: three, source: None, args: &["init"], shows: &[], one_swap: true },
];

fn folder(seed: u64) -> Tree {
    Tree::directory()
        .with("model.pt", Node::File(torch_zip(&[(1, 9000), (seed, 9000)]), 0o640))
        .with("notes", Node::Directory(0o755))
        .with("notes/log.txt", Node::File(noise(seed, 30), 0o600))
        .with("optimizer.bin", Node::File(noise(seed + 1, 100_000), 0o644))
        .with("last", Node::Link("model.pt".into()))
}

/// Three checkpoints of one run; the first two share a tensor.
fn three(world: &mut World, store: &Store) {
    world.put_tree(store, "a", 1, &tensors(&[1, 2]));
    world.put_tree(store, "a", 2, &tensors(&[1, 3]));
    world.put_tree(store, "a", 3, &folder(4));
}

/// An operation that is about to be tried again and again.
struct Bench<'a> {
    operation: &'a Operation,
    world: World,
    /// Where the source of a put lies, and what it is.
    source: Option<(PathBuf, Tree)>,
    before: Vec<String>,
    after: Vec<String>,
    /// How the command ends when nothing fails.
    sound_code: i32,
}

/// Tries one operation in one way, at those of its calls that `choose` picks by their number and how many there are.
///
/// # Panics
/// When something is lost, half done or left behind; the message says after which call.
pub fn try_calls(operation: &Operation, mode: &Mode, choose: impl Fn(u64, u64) -> bool) -> Figures {
    let bench = Bench::new(operation);
    let figures = Mutex::new(Figures::default());
    let copy = bench.world.fresh("copy");
    let (_, watch, _) = bench.run(&copy, &Fault::none().of(mode.kinds));
    let calls = watch.calls();
    // Threads take turns differently each time: a few more than were counted.
    let chosen: Vec<u64> = (1..=calls + 3).filter(|nr| choose(*nr, calls)).collect();
    let next = AtomicUsize::new(0);
    let failed = Mutex::new(Vec::new());
    let work = || {
        while let Some(nr) = chosen.get(next.fetch_add(1, Ordering::Relaxed)) {
            let copy = bench.world.fresh("copy");
            // One call that goes wrong must not hide the others.
            let tried = catch_unwind(AssertUnwindSafe(|| bench.try_one(&copy, mode, *nr)));
            fs::remove_dir_all(&copy).expect("a copy can be removed");
            match tried {
                Ok(tried) => figures.lock().unwrap_or_else(PoisonError::into_inner).add(&tried),
                Err(_) => failed.lock().unwrap_or_else(PoisonError::into_inner).push(*nr),
            }
        }
    };
    std::thread::scope(|scope| {
        scope.spawn(work);
        work();
    });
    let failed = failed.into_inner().unwrap_or_else(PoisonError::into_inner);
    assert!(failed.is_empty(), "{}, {}: calls {failed:?} went wrong, as told above", operation.name, mode.name);
    let figures = figures.into_inner().unwrap_or_else(PoisonError::into_inner);
    Figures { calls, ..figures }
}

impl Figures {
    /// Adds what was tried elsewhere.
    pub fn add(&mut self, other: &Self) {
        self.faults += other.faults;
        self.borne += other.borne;
        self.refused += other.refused;
        self.killed += other.killed;
        self.calls += other.calls;
    }
}

impl<'a> Bench<'a> {
    fn new(operation: &'a Operation) -> Self {
        let mut world = World::default();
        let store = Store::init(&world.root()).expect("a store can be made");
        (operation.prepare)(&mut world, &store);
        let source = operation.source.map(|tree| (world.fresh("source"), tree()));
        if let Some((path, tree)) = &source {
            tree.write(path);
        }
        let mut bench = Self { operation, world, source, before: Vec::new(), after: Vec::new(), sound_code: 0 };
        let copy = bench.world.fresh("copy");
        let (ran, ..) = bench.run(&copy, &Fault::none());
        bench.sound_code = ran.code.expect("nobody killed it");
        assert!([0, 7].contains(&bench.sound_code), "{ran:?}");
        bench.before = bench.state(&bench.world.root());
        bench.after = bench.state(&copy);
        fs::remove_dir_all(&copy).expect("a copy can be removed");
        bench
    }

    /// Runs the operation on a copy of the store. Answers also where a `get` was to put what it gives.
    fn run(&self, copy: &Path, fault: &Fault) -> (Ran, Watch, PathBuf) {
        image::copy(&self.world.root(), copy);
        // In a directory of its own, so that what is left beside it is seen.
        let dest = copy.with_extension("out").join("dest");
        fs::create_dir(dest.parent().expect("it is in a directory")).expect("a directory can be made");
        let mut command = on(copy);
        command.args(self.args(&dest));
        let (ran, watch) = fault.run(&mut command, self.world.dir());
        (ran, watch, dest)
    }

    fn args(&self, dest: &Path) -> Vec<OsString> {
        let replace = |arg: &&str| match (*arg, &self.source) {
            ("SOURCE", Some((path, _))) => path.clone().into(),
            ("DEST", _) => dest.to_owned().into(),
            (other, _) => other.into(),
        };
        self.operation.args.iter().map(replace).collect()
    }

    /// What a store holds, without what differs each time that the same is done.
    fn state(&self, root: &Path) -> Vec<String> {
        let entries = Store::open(root).and_then(|store| store.checkpoints()).expect("a store can be read");
        let line = |entry: &Entry| {
            let Entry { run, step, tags, pinned, logical_bytes, .. } = entry;
            format!("{run}@{step:?} {tags:?} {pinned} {logical_bytes}")
        };
        let mut state: Vec<String> = entries.iter().map(line).collect();
        if !self.operation.shows.is_empty() {
            state.push(run(on(root).args(self.operation.shows)).text().to_owned());
        }
        state
    }

    fn try_one(&self, copy: &Path, mode: &Mode, nr: u64) -> Figures {
        let (ran, watch, dest) = self.run(copy, &(mode.fault)(Fault::at(nr).of(mode.kinds)));
        let fired = watch.fired();
        let relative = copy.file_name().expect("it has a name").to_string_lossy().into_owned();
        let call = fired.clone().unwrap_or_default().replace(&relative, "STORE");
        let what = format!("{}, {} at call {nr}: {call}: {ran:?}", self.operation.name, mode.name);
        let killed = self.assert_outcome(&ran, mode, fired.is_some(), &what);

        let state = self.state(copy);
        let is_done = state == self.after;
        assert!(is_done || state == self.before, "{what}: neither the old state nor the new one: {state:#?}");
        if ran.code == Some(self.sound_code) {
            assert!(is_done, "{what}: said to be done, and is not");
        } else if !killed && self.operation.one_swap && self.before != self.after && is_done {
            // Only when HEAD has its new name and that could not be made durable.
            assert!(call.ends_with(" STORE"), "{what}: failed, and is done");
        }
        let store = Store::open(copy).unwrap_or_else(|error| panic!("{what}: open: {error}"));
        self.assert_exact(&store, &what);
        self.assert_given(&ran, killed, &call, &dest, &what);
        if !killed && !call.starts_with("remove") {
            // Packs that had been published before it failed stay; those lie elsewhere.
            let left: Vec<String> = names(copy, "tmp").into_iter().chain(names(copy, "sessions")).collect();
            assert!(left.is_empty(), "{what}: left behind: {left:?}");
        }
        assert_sound(&store, &what);

        self.assert_usable(&store, is_done, &dest, &what);
        sample::remove(dest.parent().expect("it is in a directory"));
        if fired.is_none() {
            return Figures::default();
        }
        let borne = ran.code == Some(self.sound_code);
        Figures {
            faults: 1,
            borne: usize::from(borne),
            refused: usize::from(!borne && !killed),
            killed: killed.into(),
            calls: 0,
        }
    }

    /// The command ended as it may; answers whether it was killed.
    fn assert_outcome(&self, ran: &Ran, mode: &Mode, fired: bool, what: &str) -> bool {
        assert!(!ran.stderr.contains("panicked") && !ran.stderr.contains("internal error"), "{what}");
        let Some(code) = ran.code else {
            assert!(mode.codes.is_empty() && fired, "{what}: ended by a signal");
            return true;
        };
        if code == self.sound_code {
            return false;
        }
        assert!(fired && mode.codes.contains(&code), "{what}: exit code");
        // A full disk stops nobody from reading.
        assert!(code != 5 || self.operation.args[0] != "verify", "{what}: it needs no room");
        // What verify finds is its answer.
        let says = ran.stderr.lines().any(|line| line.starts_with("Error: "));
        assert!(says || (code == 4 && self.operation.args[0] == "verify"), "{what}: it does not say why");
        false
    }

    /// Every checkpoint comes back as what was put.
    fn assert_exact(&self, store: &Store, what: &str) {
        for entry in store.checkpoints().unwrap_or_else(|error| panic!("{what}: {error}")) {
            let got = self.world.get(store, &entry.id.to_string(), &Quiet);
            let got = got.unwrap_or_else(|error| panic!("{what}: get {}@{:?}: {error}", entry.run, entry.step));
            let new = || self.source.as_ref().map(|(_, tree)| tree);
            let original = self.world.trees.get(&entry.id).or_else(new);
            assert_eq!(Some(&got), original, "{what}: {}@{:?} is another", entry.run, entry.step);
        }
    }

    /// What a get has given is whole, or it has given nothing.
    fn assert_given(&self, ran: &Ran, killed: bool, call: &str, dest: &Path, what: &str) {
        if self.operation.args[0] != "get" {
            return;
        }
        let given = fs::symlink_metadata(dest).is_ok();
        assert!(given || ran.code != Some(0), "{what}: nothing was given");
        if given {
            let is_the_one = |tree: &&Tree| **tree == Tree::read(dest);
            assert!(self.world.trees.values().any(|tree| is_the_one(&tree)), "{what}: another was given");
        }
        if !killed && !call.starts_with("remove") {
            let folder = dest.parent().expect("it is in a directory");
            let left = names(folder, "");
            assert!(left.iter().all(|name| name == "dest"), "{what}: left behind: {left:?}");
        }
    }

    /// The store goes on: the same again, another put, a gc that clears every leftover, and nothing is lost by any.
    fn assert_usable(&self, store: &Store, is_done: bool, dest: &Path, what: &str) {
        sample::remove(dest);
        let again = run(on(store.root()).args(self.args(dest)));
        let code = again.code.unwrap_or_else(|| panic!("{what}: again: {again:?}"));
        // Done already, a put says that it exists and rm that there is no such checkpoint.
        assert!(code == self.sound_code || (is_done && [3, 7].contains(&code)), "{what}: again: {again:?}");
        assert_eq!(self.state(store.root()), self.after, "{what}: again");
        // Some of it lies in packs that a gc may have been about to delete.
        let tree = tensors(&[1, 3, 5, 61]);
        let request = self.world.request("z", 1, &tree);
        store.put(&request, &Quiet).unwrap_or_else(|error| panic!("{what}: another put: {error}"));
        let report = gc(store).unwrap_or_else(|error| panic!("{what}: gc: {error}"));
        assert!(report.packs_unreadable.is_empty(), "{what}: {report:?}");
        assert_swept(store, what);
        let got = self.world.get(store, "z@1", &Quiet).unwrap_or_else(|error| panic!("{what}: get z@1: {error}"));
        assert_eq!(got, tree, "{what}: z@1 is another");
        store.remove(&["z@1".into()]).unwrap_or_else(|error| panic!("{what}: rm z@1: {error}"));
        self.assert_exact(store, what);
        sample::remove(&request.paths[0]);
    }
}
