//! Every call of an operation fails in turn, under the real command: what is left must be the store before it or after it,
//! bit-exact, and usable. Which operations there are, and which
//! ways to fail, stands in operations.rs.

mod operations;

use std::ffi::OsString;
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use ckpt_store::{Entry, Quiet, Store};

pub use self::operations::{MODES, Mode, OPERATIONS, Operation};
use crate::image;
use crate::run::{Ran, on, run};
use crate::sample::{self, Tree};
use crate::shim::{Fault, Watch};
use crate::world::{World, assert_sound, assert_swept, gc, names, tensors};

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

/// An operation that is about to be tried again and again.
struct Bench<'a> {
    operation: &'a Operation,
    world: World,
    /// What a put stores, or what lies where an import looks.
    source: Option<Tree>,
    /// What the new checkpoint is.
    stored: Option<Tree>,
    before: Vec<String>,
    after: Vec<String>,
    /// What the command gives when nothing fails.
    given: Option<Tree>,
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
    let (_, watch, _) = bench.run(&copy, &Fault::none().of(mode.kinds).on(mode.on));
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
        let source = operation.source.map(|tree| tree());
        let stored = operation.stores.map(|tree| tree()).or_else(|| source.clone());
        let mut bench = Self {
            operation,
            world,
            source,
            stored,
            before: Vec::new(),
            after: Vec::new(),
            given: None,
            sound_code: 0,
        };
        let copy = bench.world.fresh("copy");
        let (ran, _, dest) = bench.run(&copy, &Fault::none());
        bench.given = dest.exists().then(|| Tree::read(&dest));
        assert_eq!(bench.given.is_some(), operation.args.contains(&"DEST"), "{ran:?}");
        bench.sound_code = ran.code.expect("nobody killed it");
        assert!([0, 7].contains(&bench.sound_code), "{ran:?}");
        let path = source_of(&copy);
        let is_gone = bench.source.is_some() && Tree::read(&path) != bench.source.clone().unwrap_or_default();
        assert_eq!(is_gone, operation.args.contains(&"--delete-source"), "{ran:?}");
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
        if let Some(tree) = &self.source {
            tree.write(&source_of(copy));
        }
        let mut command = on(copy);
        command.args(self.args(copy, &dest));
        let (ran, watch) = fault.run(&mut command, self.world.dir());
        (ran, watch, dest)
    }

    fn args(&self, copy: &Path, dest: &Path) -> Vec<OsString> {
        let replace = |arg: &&str| match *arg {
            "SOURCE" => source_of(copy).into(),
            "DEST" => dest.to_owned().into(),
            other => other.into(),
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
        let (ran, watch, dest) = self.run(copy, &(mode.fault)(Fault::at(nr).of(mode.kinds).on(mode.on)));
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
        self.assert_source(copy, is_done, &what);
        self.assert_given(&ran, killed, &call, &dest, &what);
        if !killed && !call.starts_with("remove") {
            // Packs that had been published before it failed stay; those lie elsewhere.
            let left: Vec<String> = names(copy, "tmp").into_iter().chain(names(copy, "sessions")).collect();
            assert!(left.is_empty(), "{what}: left behind: {left:?}");
        }
        assert_sound(&store, &what);

        self.assert_usable(&store, is_done, &dest, &what);
        sample::remove(dest.parent().expect("it is in a directory"));
        sample::remove(&source_of(copy));
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
        // An import goes on with the others when one fails, and says so with 1.
        let may = mode.codes.contains(&code) || (code == 1 && self.operation.args[0] == "import");
        assert!(fired && may, "{what}: exit code");
        // A full disk stops nobody from reading.
        assert!(code != 5 || self.operation.args[0] != "verify", "{what}: it needs no room");
        let says = ran.stderr.lines().any(|line| line.starts_with("Error: "));
        // What these two find is their answer.
        let answers = code == 4 && ["verify", "repair"].contains(&self.operation.args[0]);
        assert!(says || answers, "{what}: it does not say why");
        false
    }

    /// Every checkpoint comes back as what was put.
    fn assert_exact(&self, store: &Store, what: &str) {
        for entry in store.checkpoints().unwrap_or_else(|error| panic!("{what}: {error}")) {
            let got = self.world.get(store, &entry.id.to_string(), &Quiet);
            let got = got.unwrap_or_else(|error| panic!("{what}: get {}@{:?}: {error}", entry.run, entry.step));
            let original = self.world.trees.get(&entry.id).or(self.stored.as_ref());
            assert_eq!(Some(&got), original, "{what}: {}@{:?} is another", entry.run, entry.step);
        }
    }

    /// What was to be stored is where it was, or in the store.
    fn assert_source(&self, copy: &Path, is_done: bool, what: &str) {
        let Some(source) = &self.source else { return };
        let now = Tree::read(&source_of(copy));
        if !self.operation.args.contains(&"--delete-source") {
            assert_eq!(&now, source, "{what}: the source has changed");
        } else if !is_done {
            // A source on its way out has a name that nobody reads, and its bytes.
            let bytes = |tree: &Tree| tree.0.values().cloned().collect::<Vec<_>>();
            assert_eq!(bytes(&now), bytes(source), "{what}: it is neither in the store nor where it was");
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
            assert_eq!(Some(Tree::read(dest)), self.given, "{what}: another was given");
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
        let again = run(on(store.root()).args(self.args(store.root(), dest)));
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

/// Where the source of an operation on this copy lies.
fn source_of(copy: &Path) -> PathBuf {
    copy.with_extension("src")
}
