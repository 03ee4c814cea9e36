//! Mounts of the store in the storm, each with a process that reads it: a plain one, one that lays files down, one
//! whose server is killed again and again and whose disk fails now and then. Looks after servers from outside: what
//! they hold and what they say. Never touches a mount itself, so that it can't hang with it.

use std::fs;
use std::io::Read;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

use super::Storm;
use super::figures::Mounted;
use super::reader::Life;
use crate::lab::names;
use crate::mount::{Mount, Mounting};
use crate::run::{binary, on, run};
use crate::shim::{EIO, Fault, Kind as Call};

/// How a store is mounted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// With a small cache.
    Plain,
    /// Files that are read again are laid down, as long as there is room for few of them.
    LaysDown,
    /// Killed again and again; and the disk under it fails now and then.
    Killed,
}

/// One of each.
pub const KINDS: [Kind; 3] = [Kind::Plain, Kind::LaysDown, Kind::Killed];

/// The cache of each, in kB.
const CACHE_KB: u64 = 4000;
/// What a server may hold beside its cache, in kB: as `tests/suite/mount/memory.rs` has it.
const BESIDE_KB_MAX: u64 = 80_000;
/// Descriptors that a server may have open: its threads' of the device, and two for each checkpoint that is open or was
/// just now, of which readers have at most 18, with its packs.
const DESCRIPTORS_MAX: usize = 400;
/// How long a process may take to end that was told to: it waits for its news, and then reads all that is there.
const PATIENCE: Duration = Duration::from_secs(90);
/// How long a process may take to be gone that has ended.
const GONE: Duration = Duration::from_secs(1);
/// How long after a kill somebody may come upon a mapping that is dead.
const DEAD: Duration = Duration::from_secs(15);

struct Keeper<'a, 'b> {
    storm: &'a Storm<'b>,
    kind: Kind,
    at: PathBuf,
    life_file: PathBuf,
    life: Life,
    mount: Option<Mount>,
    /// Servers that were killed. Their last rites come when nothing is mounted over them.
    dead: Vec<Mount>,
    killed_at: Option<Instant>,
    readers: u64,
    figures: Mounted,
}

/// Mounts the store and has it read until nobody changes it any more; then all of it must be there, and nothing be left
/// of it.
pub fn keep(storm: &Storm<'_>, kind: Kind) -> Mounted {
    let name = format!("{kind:?}").to_lowercase();
    let life = Life { number: 1, is_faulty: false };
    let (at, life_file) = (storm.lab.path(&name), storm.lab.path(format!("{name}.life")));
    life.write(&life_file);
    let (mount, dead, killed_at) = (None, Vec::new(), None);
    let mut keeper =
        Keeper { storm, kind, at, life_file, life, mount, dead, killed_at, readers: 0, figures: Mounted::default() };
    keeper.mount(None);
    let mut rng = SmallRng::seed_from_u64(storm.plan.seed.wrapping_mul(1000) + 600 + kind as u64);
    let mut reader = keeper.reader();
    let mut kill_at = Instant::now() + Duration::from_millis(rng.random_range(500..3000));
    while !storm.calm.load(Ordering::SeqCst) && !storm.stop.load(Ordering::SeqCst) {
        std::thread::sleep(Duration::from_millis(20));
        keeper.nurse(&mut reader);
        keeper.examine(&mut reader);
        if kind == Kind::Killed && Instant::now() > kill_at {
            keeper.kill();
            std::thread::sleep(Duration::from_millis(rng.random_range(0..400)));
            keeper.mount(rng.random_bool(0.4).then(|| fault(&mut rng)));
            kill_at = Instant::now() + Duration::from_millis(rng.random_range(200..4000));
        }
    }
    if keeper.life.is_faulty {
        keeper.kill();
        keeper.mount(None);
    }
    keeper.end(reader)
}

/// A call on the store that fails: any that opens, reads, lists, looks at or locks something; or one on packs.
fn fault(rng: &mut SmallRng) -> Fault {
    let fault = if rng.random_bool(0.5) {
        // Not before it is mounted: that may be refused.
        Fault::at(rng.random_range(150..3000)).of(&[Call::Open, Call::Read, Call::List, Call::Stat, Call::Lock])
    } else {
        Fault::at(rng.random_range(1..60)).of(&[Call::Open, Call::Read]).on("packs/")
    };
    fault.errno(EIO)
}

impl Keeper<'_, '_> {
    fn mount(&mut self, fault: Option<Fault>) {
        let laid = self.storm.lab.path("laid");
        let mut args = vec!["--cache-size".to_owned(), format!("{CACHE_KB}kB")];
        if self.kind == Kind::LaysDown {
            args.extend(["--materialize".to_owned(), laid.display().to_string()]);
            args.extend(["--materialize-limit".to_owned(), "20MB".to_owned()]);
        }
        let limit = self.storm.plan.longest + 4 * PATIENCE;
        let mut mounting = Mounting::new(&self.storm.lab.store(), &self.at).args(args).limit(limit);
        let is_faulty = fault.is_some();
        if let Some(fault) = fault {
            mounting = mounting.faulty(fault, &self.storm.lab.store());
        }
        self.mount = Some(mounting.start());
        self.life = Life { number: self.life.number + 1, is_faulty };
        self.life.write(&self.life_file);
    }

    fn kill(&mut self) {
        let Some(mut mount) = self.mount.take() else { return };
        self.life.number += 1;
        self.life.write(&self.life_file);
        // Before it is mounted anew, which begins another log.
        self.judge(&mount.log());
        self.killed_at = Some(Instant::now());
        mount.kill();
        self.figures.kills += 1;
        self.figures.faults += u64::from(mount.has_failed());
        self.dead.push(mount);
    }

    /// What a server says is for people who have to know: of a storm nobody has, unless its disk failed.
    fn judge(&self, log: &str) {
        let is_news = |line: &&str| line.contains("panicked") || (!self.life.is_faulty && line.contains("damaged"));
        if let Some(line) = log.lines().find(is_news) {
            panic!("{}: the server said: {line}\n{log}", self.at.display());
        }
    }

    /// Looks what the server holds.
    fn examine(&mut self, reader: &mut Child) {
        if let Some(mount) = self.mount.as_mut().filter(|mount| mount.is_ending()) {
            let (ended, log) = (mount.wait(GONE), mount.log());
            // It is cut off by a reader that hangs, who then says so.
            std::thread::sleep(GONE);
            self.nurse(reader);
            panic!("{}: the server ended with {ended:?}: {log}", self.at.display());
        }
        let Some(mount) = &self.mount else { return };
        let (kb, descriptors) = (mount.status("RssAnon"), mount.descriptors());
        self.figures.held_kb = self.figures.held_kb.max(kb);
        self.figures.descriptors = self.figures.descriptors.max(descriptors);
        assert!(kb <= CACHE_KB + BESIDE_KB_MAX, "{}: the server holds {kb} kB", self.at.display());
        assert!(descriptors <= DESCRIPTORS_MAX, "{}: the server has {descriptors} descriptors", self.at.display());
    }

    fn reader(&mut self) -> Child {
        self.readers += 1;
        let seed = self.storm.plan.seed * 1000 + self.kind as u64 * 100 + self.readers;
        let mut command = Command::new(binary().with_file_name("ckpt-test-helper"));
        command
            .arg("read-mount")
            .arg(&self.at)
            .arg(self.storm.truth.folder())
            .arg(&self.life_file)
            .arg(seed.to_string());
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.spawn().expect("the helper starts")
    }

    /// Starts another reader where the first came upon a dead mapping, and insists that nothing else ended it.
    fn nurse(&mut self, reader: &mut Child) {
        let Some(ended) = reader.try_wait().expect("a child can be waited for") else { return };
        let is_dead = self.killed_at.is_some_and(|at| at.elapsed() <= DEAD) || self.life.is_faulty;
        if ended.signal() == Some(libc::SIGBUS) && is_dead {
            self.figures.signals += 1;
            *reader = self.reader();
            return;
        }
        let mut said = String::new();
        reader.stderr.take().expect("it is a pipe").read_to_string(&mut said).expect("it can be read");
        panic!("a reader of {} ended with {ended}: {said}{}", self.at.display(), self.log());
    }

    fn log(&self) -> String {
        self.mount.as_ref().map(Mount::log).unwrap_or_default()
    }

    /// Ends the reader, which looks at all that is left, and the mount; nothing must stay of either.
    fn end(mut self, mut reader: Child) -> Mounted {
        drop(reader.stdin.take());
        let started = Instant::now();
        loop {
            match reader.try_wait().expect("a child can be waited for") {
                None if started.elapsed() > PATIENCE => panic!("a reader of {} does not end", self.at.display()),
                None => {
                    self.examine(&mut reader);
                    std::thread::sleep(Duration::from_millis(20));
                }
                Some(ended) if ended.success() => break,
                Some(_) => {
                    self.nurse(&mut reader);
                    drop(reader.stdin.take());
                }
            }
        }
        let told = reader.wait_with_output().expect("a child can be waited for").stdout;
        self.figures.take(&serde_json::from_slice(&told).expect("a reader tells in JSON"));
        let mount = self.mount.take().expect("it is mounted");
        let idle = || {
            let status = run(on(&self.storm.lab.store()).args(["mount", "--status", "--json"]).arg(&self.at)).json();
            (status["open_files"] == 0 && status["open_checkpoints"] == 0).then_some(status)
        };
        let status = loop {
            assert!(started.elapsed() <= PATIENCE, "{}: something stays open", self.at.display());
            match idle() {
                Some(status) => break status,
                None => std::thread::sleep(Duration::from_millis(100)),
            }
        };
        self.figures.laid_down += status["materialized"]["files"].as_u64().unwrap_or_default();
        self.figures.descriptors_left = self.figures.descriptors_left.max(mount.descriptors());
        self.judge(&mount.log());
        mount.umount();
        self.dead.clear();
        if self.kind == Kind::LaysDown {
            assert_eq!(names_or_none(&self.storm.lab.path("laid")), ["ckpt-mounts.lock"]);
        }
        assert!(names(&self.at).is_empty());
        self.figures
    }
}

/// The names in a directory, which may not be there where nothing is laid down.
fn names_or_none(folder: &Path) -> Vec<String> {
    if fs::metadata(folder).is_ok() { names(folder).into_iter().collect() } else { vec!["ckpt-mounts.lock".into()] }
}
