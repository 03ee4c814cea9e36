//! Six writers, a gc loop with random rules and a reader on one store, all of them the real command, all killed at random
//! times. What must be there is told by what the commands said and, where one was killed, by HEAD: done or not, nothing else.

mod figures;
mod runs;

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::process::Child;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

pub use self::figures::Figures;
use self::figures::stage;
use self::runs::{CONTENTS, Kept, Rules, Run, model};
use crate::lab::{Lab, leftovers, names};
use crate::mounts::free_bytes;
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
    /// Whether the disk is full half of the time.
    pub full: bool,
}

struct Storm<'a> {
    lab: &'a Lab,
    plan: Plan,
    ends_at: Instant,
    stop: AtomicBool,
    kills: AtomicUsize,
    runs: Vec<Mutex<Run>>,
    /// Runs that a gc waits for: their writers let it go first.
    wanted: Vec<AtomicBool>,
    /// How long a command takes that is not killed.
    typical: Mutex<BTreeMap<&'static str, Duration>>,
    figures: Mutex<Figures>,
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
        ends_at: started + plan.longest,
        stop: AtomicBool::new(false),
        kills: AtomicUsize::new(0),
        runs: (0..WRITERS).map(|_| Mutex::default()).collect(),
        wanted: (0..WRITERS).map(|_| AtomicBool::new(false)).collect(),
        typical: Mutex::default(),
        figures: Mutex::default(),
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
        for thread in started {
            thread.join().unwrap_or_else(|panic| resume_unwind(panic));
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
            if self.is_enough() || Instant::now() > self.ends_at || self.stop.load(Ordering::SeqCst) {
                break;
            }
            if let Err(panic) = catch_unwind(AssertUnwindSafe(|| once(&mut rng, nr))) {
                self.stop.store(true, Ordering::SeqCst);
                resume_unwind(panic);
            }
        }
    }

    fn is_enough(&self) -> bool {
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
                assert!(ran.stderr.starts_with("Error: "), "{name}: {ran:?}");
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
                self.command("rm", 0.3, rng, &[], &[&"rm", &format!("{name}@{step}")])
            }
            (1, Some(step)) => {
                after.iter_mut().for_each(|(at, kept)| kept.tagged = *at == step);
                self.command("tag", 0.3, rng, &[], &[&"tag", &format!("{name}@{step}"), &"kept"])
            }
            _ => {
                let bytes = model(writer as u64, rng.random_range(0..CONTENTS));
                let loss = rng.random_range(0.0..1.0);
                let kept = Kept { hash: *blake3::hash(&bytes).as_bytes(), loss, tagged: false };
                after.insert(nr, kept);
                let source = self.lab.write(format!("{name}.safetensors"), &bytes);
                let (step, metric) = (nr.to_string(), format!("loss={loss}"));
                let args: [&dyn AsRef<OsStr>; 8] =
                    [&"put", &source, &"--run", &name, &"--step", &step, &"--metric", &metric];
                self.command("put", 0.7, rng, &[], &args)
            }
        };
        *run = self.decide(writer, &before, &after, &ran, ran.code == Some(5));
        if run.len() > before.len() {
            lock(&self.figures).committed += 1;
        }
    }

    /// Finds out whether a command did what it should, and insists that it did that or nothing.
    fn decide(&self, writer: usize, before: &Run, after: &Run, ran: &Ran, refused: bool) -> Run {
        let now = self.listed(writer);
        let is = |run: &Run| now == run.iter().map(|(step, kept)| (*step, kept.tagged)).collect();
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
        if done { after.clone() } else { before.clone() }
    }

    /// What the store says of a run: its steps, and which have a tag.
    fn listed(&self, writer: usize) -> BTreeMap<u64, bool> {
        let entries = self.lab.open().checkpoints().expect("HEAD can be read at any time");
        let mine = entries.into_iter().filter(|entry| entry.run == format!("w{writer}"));
        mine.map(|entry| (entry.step.expect("all have a step"), !entry.tags.is_empty())).collect()
    }

    /// The gc loop: frees what nothing uses, beside everything else.
    fn collect(&self, rng: &mut SmallRng) {
        // The other loop may be the one that runs already.
        self.command("gc", 0.5, rng, &[6], &[&"gc"]);
        std::thread::sleep(Duration::from_millis(rng.random_range(0..40)));
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
        let ran = self.command("gc with rules", 0.5, rng, &[6], &args);
        for (writer, run) in (from..=to).zip(&mut runs) {
            let before = run.clone();
            // A full disk may stop it after it has dropped them; another gc at work, only before.
            **run = self.decide(writer, &before, &rules.keep(&before), &ran, ran.code == Some(6));
        }
        drop(runs);
        self.wanted[from..=to].iter().for_each(|wanted| wanted.store(false, Ordering::SeqCst));
        std::thread::sleep(Duration::from_millis(rng.random_range(0..40)));
    }

    /// Verifies the store, whatever goes on in it.
    fn verify(&self, rng: &mut SmallRng) {
        self.command("verify", 0.3, rng, &[], &[&"verify"]);
        std::thread::sleep(Duration::from_millis(rng.random_range(50..200)));
    }

    /// Gets one checkpoint and compares it.
    fn read(&self, nr: u64, rng: &mut SmallRng) {
        let writer = rng.random_range(0..WRITERS);
        let listed = self.listed(writer);
        let Some(step) = listed.keys().nth(rng.random_range(0..listed.len().max(1))).copied() else { return };
        let dest = self.lab.path(format!("out/{nr}"));
        fs::create_dir_all(dest.parent().expect("it is in a directory")).expect("directories can be made");
        let ran = self.command("get", 0.4, rng, &[3], &[&"get", &format!("w{writer}@{step}"), &dest]);
        let there = dest.exists();
        assert_eq!(there, ran.code == Some(0) || (ran.code.is_none() && there), "{ran:?}");
        if there {
            self.compare(writer, step, &fs::read(&dest).expect("a file can be read"));
        }
        if ran.code == Some(3) {
            let left = self.listed(writer);
            assert!(!left.contains_key(&step), "w{writer}@{step} is there and was not found");
        }
        fs::remove_dir_all(dest.parent().expect("it is in a directory")).expect("a directory can be removed");
    }

    /// Bytes that came back are those of this checkpoint: all contents are known by writer and number.
    fn compare(&self, writer: usize, step: u64, bytes: &[u8]) {
        // Dropped meanwhile, only that it is one of the writer's can be said.
        let kept = lock(&self.runs[writer]).get(&step).map(|kept| kept.hash);
        let hash = *blake3::hash(bytes).as_bytes();
        match kept {
            Some(kept) => assert!(kept == hash, "w{writer}@{step} came back as another"),
            None => {
                let is_one = (0..CONTENTS).any(|content| model(writer as u64, content) == bytes);
                assert!(is_one, "w{writer}@{step} came back as nothing that was ever put");
            }
        }
        lock(&self.figures).compared += 1;
    }

    /// Fills the disk for a while, and then gives the room back.
    fn fill(&self, rng: &mut SmallRng) {
        let ballast = self.lab.store().join("ballast");
        let leave = rng.random_range(0..6) * 64 * 1024;
        let free = usize::try_from(free_bytes(&self.lab.store())).expect("a small disk");
        // Others write at the same time: full is full.
        drop(fs::write(&ballast, vec![1; free.saturating_sub(leave)]));
        std::thread::sleep(Duration::from_millis(rng.random_range(50..400)));
        drop(fs::remove_file(&ballast));
        std::thread::sleep(Duration::from_millis(rng.random_range(50..400)));
    }

    /// Nobody is left: everything is there, and two gcs leave nothing else.
    fn settle(&self) {
        drop(fs::remove_file(self.lab.store().join("ballast")));
        self.lab.ok(&[&"verify"]);
        for (writer, run) in self.runs.iter().enumerate() {
            let run = lock(run).clone();
            let kept: BTreeMap<u64, bool> = run.iter().map(|(step, kept)| (*step, kept.tagged)).collect();
            assert_eq!(self.listed(writer), kept, "w{writer}");
            for (step, kept) in run {
                let got = self.lab.ok(&[&"get", &format!("w{writer}@{step}"), &"-"]);
                assert!(*blake3::hash(&got.stdout).as_bytes() == kept.hash, "w{writer}@{step} came back as another");
                lock(&self.figures).compared += 1;
            }
        }
        self.lab.ok(&[&"gc"]);
        self.lab.ok(&[&"gc"]);
        assert_eq!(leftovers(&self.lab.store()), [""; 0]);
        for folder in ["tmp", "sessions"] {
            assert!(names(&self.lab.store().join(folder)).is_empty(), "{folder} holds something");
        }
        self.lab.ok(&[&"verify"]);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
