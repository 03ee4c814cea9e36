//! Six writers, a gc loop with random rules and a reader on one store, all of them the real command, all killed at
//! random times. What must be there is told by what the commands said and, where one was killed, by HEAD: done or not,
//! nothing else. If wanted, with mounts of the store beside it, which are read all the time.

mod checks;
mod figures;
mod looks;
mod mounts;
mod others;
mod reader;
mod runs;
mod truth;

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::process::Child;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

use self::figures::stage;
pub use self::figures::{Figures, Mounted};
pub use self::reader::read_mount;
use self::runs::{CONTENTS, Kept, Rules, Run, Size, model};
use self::truth::Truth;
use crate::lab::Lab;
use crate::run::Ran;
use crate::shim::{Fault, Watch};

/// Writers, each with a run of its own.
pub const WRITERS: usize = 6;

/// How much of it.
#[derive(Debug, Clone, Copy)]
pub struct Plan {
    /// The same seed makes the same choices; what comes of them depends on the machine's timing.
    pub seed: u64,
    /// It ends after so many kills ...
    pub kills: usize,
    /// ... and so many committed checkpoints, ...
    pub commits: usize,
    /// ... or when the time is up.
    pub longest: Duration,
    /// But not before this.
    pub shortest: Duration,
    /// Whether the disk is full half of the time.
    pub full: bool,
    /// Whether the store is mounted meanwhile; then everybody takes their time, so that what they store can be looked
    /// at.
    pub mounts: bool,
}

impl Default for Plan {
    fn default() -> Self {
        let (seed, kills, commits) = (1, 0, 0);
        Self {
            seed,
            kills,
            commits,
            longest: Duration::from_secs(60),
            shortest: Duration::ZERO,
            full: false,
            mounts: false,
        }
    }
}

struct Storm<'a> {
    lab: &'a Lab,
    plan: Plan,
    started: Instant,
    stop: AtomicBool,
    /// Nobody changes the store any more.
    calm: AtomicBool,
    /// What there is, for those who read a mount.
    truth: Truth,
    kills: AtomicUsize,
    runs: Vec<Mutex<Run>>,
    /// Runs that a gc waits for: their writers let it go first.
    wanted: Vec<AtomicBool>,
    /// How long a command takes that is not killed.
    typical: Mutex<BTreeMap<&'static str, Duration>>,
    figures: Mutex<Figures>,
    /// Why it ended early.
    failures: Mutex<Vec<String>>,
}

/// Lets it rage on the store of `lab`, and checks all that must hold meanwhile and at the end.
///
/// # Panics
/// When a checkpoint is lost, comes back as another, or a command fails that should not.
pub fn rage(lab: &Lab, plan: Plan) -> Figures {
    let started = Instant::now();
    let storm = Storm {
        lab,
        plan,
        started,
        stop: AtomicBool::new(false),
        calm: AtomicBool::new(false),
        truth: Truth::new(lab.path("truth"), WRITERS),
        kills: AtomicUsize::new(0),
        runs: (0..WRITERS).map(|_| Mutex::default()).collect(),
        wanted: (0..WRITERS).map(|_| AtomicBool::new(false)).collect(),
        typical: Mutex::default(),
        figures: Mutex::default(),
        failures: Mutex::default(),
    };
    std::thread::scope(|scope| {
        let storm = &storm;
        let mut started: Vec<std::thread::ScopedJoinHandle<'_, ()>> = Vec::new();
        for writer in 0..WRITERS {
            started.push(scope.spawn(move || storm.repeat(writer as u64, |rng, nr| storm.write(writer, nr, rng))));
        }
        started.push(scope.spawn(|| storm.repeat(100, |rng, _| storm.collect(rng))));
        started.push(scope.spawn(|| storm.repeat(200, |rng, _| storm.retain(rng))));
        started.push(scope.spawn(|| storm.repeat(300, |rng, nr| storm.read(nr, rng))));
        started.push(scope.spawn(|| storm.repeat(400, |rng, _| storm.verify(rng))));
        if plan.full {
            started.push(scope.spawn(|| storm.repeat(500, |rng, _| storm.fill(rng))));
        }
        let looking: Vec<std::thread::ScopedJoinHandle<'_, Mounted>> = if plan.mounts {
            mounts::KINDS.iter().map(|kind| scope.spawn(move || storm.guard(|| mounts::keep(storm, *kind)))).collect()
        } else {
            Vec::new()
        };
        let ended: Vec<_> = started.into_iter().map(std::thread::ScopedJoinHandle::join).collect();
        storm.calm.store(true, Ordering::SeqCst);
        let looked: Vec<_> = looking.into_iter().map(std::thread::ScopedJoinHandle::join).collect();
        // Once more and last, below the backtraces of all and what their servers said.
        lock(&storm.failures).iter().for_each(|why| eprintln!("The storm ended early: {why}"));
        ended.into_iter().for_each(|ended| ended.unwrap_or_else(|panic| resume_unwind(panic)));
        for mounted in looked {
            lock(&storm.figures).mounted.add(&mounted.unwrap_or_else(|panic| resume_unwind(panic)));
        }
    });
    storm.settle();
    let mut figures = lock(&storm.figures).clone();
    figures.left = storm.runs.iter().map(|run| lock(run).len()).sum();
    figures.seconds = started.elapsed().as_secs_f64();
    figures
}

impl Storm<'_> {
    /// Does one thing again and again until the end; when it fails everything ends.
    fn repeat(&self, salt: u64, mut once: impl FnMut(&mut SmallRng, u64)) {
        let mut rng = SmallRng::seed_from_u64(self.plan.seed.wrapping_mul(1000) + salt);
        for nr in 1.. {
            if self.is_enough() || self.started.elapsed() > self.plan.longest || self.stop.load(Ordering::SeqCst) {
                break;
            }
            self.guard(|| once(&mut rng, nr));
        }
    }

    /// Does something; when it fails everything ends.
    fn guard<T>(&self, once: impl FnOnce() -> T) -> T {
        catch_unwind(AssertUnwindSafe(once)).unwrap_or_else(|panic| {
            self.stop.store(true, Ordering::SeqCst);
            let why = panic.downcast_ref::<String>().cloned();
            lock(&self.failures).extend(why.or_else(|| panic.downcast_ref::<&str>().map(|why| (*why).to_owned())));
            resume_unwind(panic)
        })
    }

    /// Waits for a random time of this order, a longer one where somebody looks at what is there.
    fn pause(&self, rng: &mut SmallRng, ms: u64) {
        let ms = if self.plan.mounts { 300 + ms * 20 } else { ms };
        std::thread::sleep(Duration::from_millis(rng.random_range(0..ms)));
    }

    /// What a writer puts.
    fn model(&self, writer: usize, content: u64) -> Vec<u8> {
        model(writer as u64, content, if self.plan.mounts { Size::Large } else { Size::Small })
    }

    fn is_enough(&self) -> bool {
        if self.plan.shortest > self.started.elapsed() {
            return false;
        }
        let figures = lock(&self.figures);
        // A disk that refused nobody was not full yet.
        let was_full = !self.plan.full || figures.refused.contains_key("put");
        was_full && figures.committed >= self.plan.commits && self.kills.load(Ordering::SeqCst) >= self.plan.kills
    }

    /// Runs a command; with the chance `risk` it is killed after a random part of the time that it usually takes.
    fn command(
        &self,
        name: &'static str,
        risk: f64,
        rng: &mut SmallRng,
        codes: &[i32],
        args: &[&dyn AsRef<OsStr>],
    ) -> Ran {
        let (started, child, watch) = self.start(args);
        let typical = lock(&self.typical).get(name).copied().filter(|_| rng.random_bool(risk));
        self.finish(name, started, child, &watch, typical.map(|time| time.mul_f64(rng.random_range(0.0..1.1))), codes)
    }

    fn start(&self, args: &[&dyn AsRef<OsStr>]) -> (Instant, Child, Watch) {
        let mut command = self.lab.command(args);
        // Nothing fails: the layer only tells at what a killed command was.
        let watch = Fault::none().of(&[]).under(&mut command, self.lab.dir());
        (Instant::now(), command.spawn().expect("the command starts"), watch)
    }

    fn finish(
        &self,
        name: &'static str,
        started: Instant,
        mut child: Child,
        watch: &Watch,
        kill_after: Option<Duration>,
        codes: &[i32],
    ) -> Ran {
        if let Some(after) = kill_after {
            std::thread::sleep(after);
            child.kill().expect("it has not been waited for");
        }
        let ran = Ran::from(child.wait_with_output().expect("a child can be waited for"));
        let mut figures = lock(&self.figures);
        match ran.code {
            None => {
                assert!(kill_after.is_some(), "{name}: ended by a signal that nobody sent: {ran:?}");
                self.kills.fetch_add(1, Ordering::SeqCst);
                *figures.kills.entry((name, stage(&watch.last()))).or_default() += 1;
            }
            Some(5) if self.plan.full => {
                // Nothing but notes may stand before it: of an index that is made anew, for one.
                let first = ran.stderr.lines().find(|line| !line.starts_with("Note: "));
                assert!(first.is_some_and(|line| line.starts_with("Error: ")), "{name}: {ran:?}");
                *figures.refused.entry(name).or_default() += 1;
            }
            Some(code) => {
                assert!(code == 0 || codes.contains(&code), "{name}: {ran:?}");
                *figures.done.entry(name).or_default() += 1;
                if kill_after.is_none() {
                    let mut typical = lock(&self.typical);
                    let usual = typical.entry(name).or_insert_with(|| started.elapsed());
                    *usual = usual.mul_f64(0.8) + started.elapsed().mul_f64(0.2);
                }
            }
        }
        ran
    }

    /// What a writer does: mostly puts, and now and then drops or names one of its checkpoints.
    fn write(&self, writer: usize, nr: u64, rng: &mut SmallRng) {
        while self.wanted[writer].load(Ordering::SeqCst) {
            std::thread::sleep(Duration::from_millis(1));
        }
        let mut run = lock(&self.runs[writer]);
        let before = run.clone();
        let mut after = run.clone();
        let name = format!("w{writer}");
        let some = before.keys().nth(rng.random_range(0..before.len().max(1))).copied();
        let ran = match (rng.random_range(0..10), some) {
            (0, Some(step)) => {
                after.remove(&step);
                self.truth.begin(writer, &before, &after);
                self.command("rm", 0.3, rng, &[], &[&"rm", &format!("{name}@{step}")])
            }
            (1, Some(step)) => {
                after.iter_mut().for_each(|(at, kept)| kept.tagged = *at == step);
                self.command("tag", 0.3, rng, &[], &[&"tag", &format!("{name}@{step}"), &"kept"])
            }
            _ => {
                let content = rng.random_range(0..CONTENTS);
                let bytes = self.model(writer, content);
                let loss = rng.random_range(0.0..1.0);
                let kept = Kept { hash: *blake3::hash(&bytes).as_bytes(), content, loss, tagged: false, stored: nr };
                let step = some.filter(|_| rng.random_bool(0.2)).unwrap_or(nr);
                after.insert(step, kept);
                let source = self.lab.write(format!("{name}.safetensors"), &bytes);
                let (step, metric) = (step.to_string(), format!("loss={loss}"));
                let mut args: Vec<&dyn AsRef<OsStr>> =
                    vec![&"put", &source, &"--run", &name, &"--step", &step, &"--metric", &metric];
                args.extend((after.len() == before.len()).then_some(&"--replace" as &dyn AsRef<OsStr>));
                self.truth.begin(writer, &before, &after);
                self.command("put", 0.7, rng, &[], &args)
            }
        };
        *run = self.decide(writer, &before, &after, &ran, ran.code == Some(5));
        if run.iter().any(|(step, kept)| before.get(step).is_none_or(|before| before.stored != kept.stored)) {
            lock(&self.figures).committed += 1;
        }
        drop(run);
        if self.plan.mounts {
            self.pause(rng, 0);
        }
    }

    /// Finds out whether a command did what it should, and insists that it did that or nothing.
    fn decide(&self, writer: usize, before: &Run, after: &Run, ran: &Ran, refused: bool) -> Run {
        let now = self.listed(writer);
        let is = |run: &Run| now == seen(run);
        let (done, undone) = (is(after), is(before));
        assert!(done || undone, "w{writer}: neither {before:?} nor {after:?}, but {now:?}, after {ran:?}");
        if ran.code == Some(0) {
            assert!(done, "w{writer}: said to be done and is not: {ran:?}");
        } else if refused {
            assert!(undone, "w{writer}: refused and yet done: {ran:?}");
        }
        if ran.code.is_none() && done && before != after {
            lock(&self.figures).late += 1;
        }
        let run = if done { after } else { before };
        self.truth.settle(writer, run);
        run.clone()
    }

    /// What the store says of a run: its steps, which have a tag, and the metric of each, by which each put is known.
    fn listed(&self, writer: usize) -> BTreeMap<u64, (bool, f64)> {
        let entries = self.lab.open().checkpoints().expect("HEAD can be read at any time");
        let mine = entries.into_iter().filter(|entry| entry.run == format!("w{writer}"));
        mine.map(|entry| (entry.step.expect("all have a step"), (!entry.tags.is_empty(), entry.metrics["loss"])))
            .collect()
    }

    /// The gc loop: frees what nothing uses, beside everything else.
    fn collect(&self, rng: &mut SmallRng) {
        // The other loop may be the one that runs already.
        self.command("gc", 0.5, rng, &[6], &[&"gc"]);
        self.pause(rng, 40);
    }

    /// A gc with rules for some of the runs, which only then must not be changed by their writers.
    fn retain(&self, rng: &mut SmallRng) {
        let from = rng.random_range(0..WRITERS);
        let to = rng.random_range(from..WRITERS.min(from + 3));
        self.wanted[from..=to].iter().for_each(|wanted| wanted.store(true, Ordering::SeqCst));
        // In their order, so that nobody waits for somebody who waits.
        let mut runs: Vec<MutexGuard<'_, Run>> = self.runs[from..=to].iter().map(lock).collect();
        let rules = Rules::random(rng);
        let args = rules.args(&format!("w[{from}-{to}]"));
        let args: Vec<&dyn AsRef<OsStr>> = args.iter().map(|arg| arg as &dyn AsRef<OsStr>).collect();
        (from..=to).zip(&runs).for_each(|(writer, run)| self.truth.begin(writer, run, &rules.keep(run)));
        let ran = self.command("gc with rules", 0.5, rng, &[6], &args);
        for (writer, run) in (from..=to).zip(&mut runs) {
            let before = run.clone();
            // A full disk may stop it after it has dropped them; another gc at work, only before.
            **run = self.decide(writer, &before, &rules.keep(&before), &ran, ran.code == Some(6));
        }
        drop(runs);
        self.wanted[from..=to].iter().for_each(|wanted| wanted.store(false, Ordering::SeqCst));
        self.pause(rng, 40);
    }
}

/// What the store should say of a run.
fn seen(run: &Run) -> BTreeMap<u64, (bool, f64)> {
    run.iter().map(|(step, kept)| (*step, (kept.tagged, kept.loss))).collect()
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
