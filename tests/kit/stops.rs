//! The real command stands still at a chosen call, as on a node that swaps, while gcs go over the store and take what it
//! wants to rely on. Then it goes on, and must end as if nothing had been, or fail and leave nothing.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use ckpt_store::{Store, VerifyRequest};
use tempfile::TempDir;

use crate::image;
use crate::lab::{leftovers, noise, safetensors};
use crate::run::{Ran, on, run};
use crate::sample::scratch;
use crate::shim::{Fault, Kind, Stopped};

/// How long somebody who may wait for a lock of the stopped command is watched before that is taken for granted.
const SOON: Duration = Duration::from_millis(600);

/// What was tried.
#[derive(Debug, Clone, Copy, Default)]
pub struct Figures {
    /// Commands that were stopped.
    pub stops: usize,
    /// Of them, those that did what they should once they went on.
    pub done: usize,
    /// Those that failed.
    pub failed: usize,
    /// Those for which somebody had to wait.
    pub waited: usize,
}

/// A store in which a put finds some of its chunks in a pack that nothing uses any more, some in one that is mostly dead, some
/// in one that is used, and some nowhere.
struct Scene {
    dir: TempDir,
    /// What is to be put, and what it is.
    source: PathBuf,
    bytes: Vec<u8>,
    /// What has to be there whatever happens.
    kept: BTreeMap<String, Vec<u8>>,
}

/// Calls that are worth a stop: those that change something, those that lock, and those that look.
const CALLS: &[Kind] =
    &[Kind::Open, Kind::Create, Kind::Read, Kind::Write, Kind::Sync, Kind::Rename, Kind::Remove, Kind::Lock];

impl Scene {
    fn new() -> Self {
        let dir = scratch();
        let store = dir.path().join("base");
        let source = dir.path().join("source.safetensors");
        let tensor = |seed: u64| (format!("t{seed}"), noise(seed, 60_000 + 10_000 * seed as usize));
        let model = |seeds: &[u64]| {
            let tensors: Vec<(String, Vec<u8>)> = seeds.iter().map(|seed| tensor(*seed)).collect();
            let views: Vec<(&str, &str, &[u8])> =
                tensors.iter().map(|(name, bytes)| (name.as_str(), "U8", bytes.as_slice())).collect();
            safetensors(&views)
        };
        run(on(&store).arg("init")).expect(0);
        let mut kept = BTreeMap::new();
        // Of `mostly` only tensor 1 stays in use, of `gone` nothing, of `kept` all.
        for (reference, seeds) in [("mostly@1", &[1, 2, 3, 4][..]), ("gone@1", &[5, 6]), ("kept@1", &[1, 7])] {
            let bytes = model(seeds);
            fs::write(&source, &bytes).expect("a file can be written");
            let (name, step) = reference.split_once('@').expect("a run and a step");
            run(on(&store).arg("put").arg(&source).args(["--run", name, "--step", step])).expect(0);
            if reference == "kept@1" {
                kept.insert(reference.to_owned(), bytes);
            }
        }
        let bytes = model(&[1, 2, 5, 7, 8]);
        fs::write(&source, &bytes).expect("a file can be written");
        Self { dir, source, bytes, kept }
    }

    /// A copy of the store.
    fn copy(&self, nr: u64) -> PathBuf {
        let copy = self.dir.path().join(format!("copy{nr}"));
        image::copy(&self.dir.path().join("base"), &copy);
        copy
    }

    fn put(&self, store: &Path) -> Command {
        let mut command = piped(store);
        command.arg("put").arg(&self.source).args(["--run", "new", "--step", "1"]);
        command
    }

    /// All that must be there is, bit-exact, and after two more gcs nothing else.
    fn assert_kept(&self, store: &Path, also: Option<(&str, &[u8])>, what: &str) {
        let kept = self.kept.iter().map(|(reference, bytes)| (reference.as_str(), bytes.as_slice()));
        for _ in 0..2 {
            run(on(store).arg("gc")).expect(0);
        }
        for (reference, bytes) in kept.chain(also) {
            let got = run(on(store).args(["get", reference, "-"]));
            assert!(got.code == Some(0) && got.stdout == bytes, "{what}: {reference}: {}", got.stderr);
        }
        assert_eq!(leftovers(store), [""; 0], "{what}");
        let report = Store::open(store).and_then(|store| store.verify(&VerifyRequest::default(), &ckpt_store::Quiet));
        let report = report.unwrap_or_else(|error| panic!("{what}: {error}"));
        assert!(report.is_sound(), "{what}: {report:?}");
    }
}

fn piped(store: &Path) -> Command {
    let mut command = on(store);
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// Starts a command. It may have to wait for the one that stands still: then it ends later.
fn start(command: &mut Command) -> (Child, bool) {
    let mut child = command.spawn().expect("the command starts");
    let started = Instant::now();
    loop {
        if child.try_wait().expect("a child can be waited for").is_some() {
            return (child, true);
        }
        if started.elapsed() > SOON {
            return (child, false);
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn ended(child: Child) -> Ran {
    child.wait_with_output().expect("a child can be waited for").into()
}

/// Lets two gcs go over a store while a command stands still there, then lets that go on. The second gc is left away when
/// the first has to wait: it would be refused.
fn gcs_meanwhile(store: &Path, stopped: Stopped, figures: &mut Figures, what: &str) -> Ran {
    let mut gcs = Vec::new();
    for _ in 0..2 {
        let (gc, is_through) = start(piped(store).arg("gc"));
        gcs.push(gc);
        if !is_through {
            figures.waited += 1;
            break;
        }
    }
    let ran = stopped.go_on();
    for gc in gcs {
        let gc = ended(gc);
        assert_eq!(gc.code, Some(0), "{what}: gc: {}", gc.stderr);
    }
    figures.stops += 1;
    ran
}

/// A put stands still at the calls that `choose` picks by number, `index` those inside the index or those elsewhere, while its
/// chunks are taken away.
///
/// # Panics
/// When anything is lost.
pub fn stop_puts(index: bool, choose: impl Fn(u64) -> bool) -> Figures {
    let scene = Scene::new();
    let mut figures = Figures::default();
    for nr in (1..).filter(|nr| choose(*nr)) {
        let store = scene.copy(nr);
        run(on(&store).args(["rm", "mostly@1", "gone@1"])).expect(0);
        let stopped = match place(nr, index).stop().start(&mut scene.put(&store), scene.dir.path()) {
            Ok(stopped) => stopped,
            // It has no more calls than that.
            Err(ran) => {
                ran.expect(0);
                break;
            }
        };
        let what = format!("put stopped at {}", stopped.at());
        let ran = gcs_meanwhile(&store, stopped, &mut figures, &what);
        let is_there = Store::open(&store).expect("the store opens").resolve("new@1").is_ok();
        if ran.code == Some(0) {
            assert!(is_there, "{what}: said to be done, and is not");
            figures.done += 1;
        } else {
            assert!(ran.code.is_some() && ran.stderr.starts_with("Error: ") && !is_there, "{what}: {ran:?}");
            figures.failed += 1;
        }
        scene.assert_kept(&store, is_there.then_some(("new@1", &scene.bytes)), &what);
        fs::remove_dir_all(&store).expect("a copy can be removed");
    }
    figures
}

/// A get stands still at the calls that `choose` picks by number, while its checkpoint is dropped and collected.
///
/// # Panics
/// When it gives anything else, or less.
pub fn stop_gets(index: bool, choose: impl Fn(u64) -> bool) -> Figures {
    let scene = Scene::new();
    let mut figures = Figures::default();
    run(&mut scene.put(&scene.dir.path().join("base"))).expect(0);
    for nr in (1..).filter(|nr| choose(*nr)) {
        let store = scene.copy(nr);
        let dest = scene.dir.path().join(format!("dest{nr}"));
        let mut command = piped(&store);
        command.arg("get").arg("new@1").arg(&dest);
        let stopped = match place(nr, index).stop().start(&mut command, scene.dir.path()) {
            Ok(stopped) => stopped,
            Err(ran) => {
                ran.expect(0);
                break;
            }
        };
        let what = format!("get stopped at {}", stopped.at());
        run(on(&store).args(["rm", "new@1", "mostly@1", "gone@1"])).expect(0);
        let ran = gcs_meanwhile(&store, stopped, &mut figures, &what);
        match ran.code {
            Some(0) => {
                assert!(fs::read(&dest).is_ok_and(|got| got == scene.bytes), "{what}: another was given");
                figures.done += 1;
            }
            Some(3) => {
                assert!(!dest.exists(), "{what}: something was given");
                figures.failed += 1;
            }
            _ => panic!("{what}: {ran:?}"),
        }
        scene.assert_kept(&store, None, &what);
        fs::remove_dir_all(&store).expect("a copy can be removed");
    }
    figures
}

/// A gc stands still whenever it has taken the lock of HEAD or has given it back: another gc says who runs, and a put of what
/// is being collected ends well, at once or as soon as it gets the lock.
///
/// # Panics
/// When anything is lost.
pub fn stop_gcs() -> Figures {
    let scene = Scene::new();
    let mut figures = Figures::default();
    for nr in 1.. {
        let store = scene.copy(nr);
        run(on(&store).args(["rm", "mostly@1", "gone@1"])).expect(0);
        let fault = Fault::at(nr).of(&[Kind::Lock]).on("locks/head").stop().after();
        let mut command = piped(&store);
        command.arg("gc");
        let Ok(stopped) = fault.start(&mut command, scene.dir.path()) else { break };
        let what = format!("gc stopped at lock {nr} of HEAD");
        let refused = run(on(&store).arg("gc"));
        assert_eq!(refused.code, Some(6), "{what}: {refused:?}");
        assert!(refused.stderr.contains(&format!("(process {})", stopped.id())), "{what}: {refused:?}");
        let (put, is_through) = start(&mut scene.put(&store));
        // Every second call gives the lock back.
        assert!(is_through || !nr.is_multiple_of(2), "{what}: a put waits for nothing");
        figures.waited += usize::from(!is_through);
        let ran = stopped.go_on();
        assert_eq!(ran.code, Some(0), "{what}: {ran:?}");
        let put = ended(put);
        assert_eq!(put.code, Some(0), "{what}: {put:?}");
        figures.stops += 1;
        figures.done += 1;
        scene.assert_kept(&store, Some(("new@1", &scene.bytes)), &what);
        fs::remove_dir_all(&store).expect("a copy can be removed");
    }
    figures
}

/// A gc stands still at the calls that `choose` picks by number. Meanwhile a get pins a checkpoint and stands still too, and
/// the checkpoint is dropped. The gc goes on to its end, and then the get gives all of it.
///
/// # Panics
/// When it doesn't.
pub fn stop_gcs_beside_gets(choose: impl Fn(u64) -> bool) -> Figures {
    let scene = Scene::new();
    let mut figures = Figures::default();
    run(&mut scene.put(&scene.dir.path().join("base"))).expect(0);
    for nr in (1..).filter(|nr| choose(*nr)) {
        let store = scene.copy(nr);
        run(on(&store).args(["rm", "mostly@1", "gone@1"])).expect(0);
        let Ok(gc) = place(nr, false).stop().start(piped(&store).arg("gc"), scene.dir.path()) else { break };
        let what = format!("gc stopped at {}", gc.at());
        let dest = scene.dir.path().join(format!("dest{nr}"));
        // It has pinned what it gives, and has seen that it is there.
        let fault = Fault::at(1).of(&[Kind::Read]).on("/checkpoints/").stop();
        let get = fault.start(piped(&store).arg("get").arg("new@1").arg(&dest), scene.dir.path());
        let get = get.unwrap_or_else(|ran| panic!("{what}: get: {ran:?}"));
        let (rm, is_through) = start(piped(&store).args(["rm", "new@1"]));
        figures.waited += usize::from(!is_through);
        let ran = gc.go_on();
        assert_eq!(ran.code, Some(0), "{what}: {ran:?}");
        assert_eq!(ended(rm).code, Some(0), "{what}: rm");
        let got = get.go_on();
        assert_eq!(got.code, Some(0), "{what}: {got:?}");
        assert!(fs::read(&dest).is_ok_and(|got| got == scene.bytes), "{what}: another was given");
        figures.stops += 1;
        figures.done += 1;
        scene.assert_kept(&store, None, &what);
        fs::remove_dir_all(&store).expect("a copy can be removed");
    }
    figures
}

fn place(nr: u64, index: bool) -> Fault {
    let fault = Fault::at(nr).of(CALLS);
    if index { fault.on("/index/") } else { fault.without("/index/") }
}
