//! The process that reads a mount while the storm rages, in all ways of reading and by several threads. Ends with an
//! error at the first byte, name or failure that is not as it must be, and breaks the mount up when a call takes too
//! long.

use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use serde_json::json;

use super::WRITERS;
use super::checks::Bad;
use super::looks::Looks;
use super::runs::Size;
use super::truth::{NOTICES_MS, Told, now_ms};
use crate::mount::{break_up, minor_of};

/// Threads of a process that read.
const THREADS: usize = 3;
/// How long one call may take on a machine that is busy with everything else, in milliseconds.
const HANGS_MS: u64 = 30_000;

/// What a mount is in, as its keeper wrote it down before it did anything to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Life {
    /// Even while it is there, and another one each time.
    pub number: u64,
    /// Whether the disk under its server fails now and then.
    pub is_faulty: bool,
}

impl Life {
    /// Reads it.
    pub fn read(from: &Path) -> Self {
        let text = fs::read_to_string(from).unwrap_or_default();
        let (number, faulty) = text.split_once(' ').expect("a number and a word");
        Self { number: number.parse().expect("a number"), is_faulty: faulty == "faulty" }
    }

    /// Writes it down.
    pub fn write(self, to: &Path) {
        let text = format!("{} {}", self.number, if self.is_faulty { "faulty" } else { "sound" });
        fs::write(to.with_extension("new"), text).expect("a file can be written");
        fs::rename(to.with_extension("new"), to).expect("a file can be renamed");
    }

    /// Whether it is there.
    pub fn is_up(self) -> bool {
        self.number.is_multiple_of(2)
    }
}

/// Where a reader looks.
pub struct Place {
    /// The mount.
    pub at: PathBuf,
    /// What there is.
    pub truth: PathBuf,
    /// What the mount is in.
    pub life: PathBuf,
}

/// What each thread is at, for the watchdog.
#[derive(Default)]
struct Pulse {
    since_ms: AtomicU64,
    what: Mutex<String>,
}

/// Reads the mount at `at` until its input ends: then once more all that is there, when all of that is known. Says in
/// JSON what it did.
///
/// # Panics
/// When something is not as it must be; most of these end the process at once.
pub fn read_mount(at: &Path, truth: &Path, life: &Path, seed: u64) {
    let place = Place { at: at.to_owned(), truth: truth.to_owned(), life: life.to_owned() };
    let ends = AtomicBool::new(false);
    let pulses: Vec<Pulse> = (0..=THREADS).map(|_| Pulse::default()).collect();
    let counts = Mutex::new(BTreeMap::<&'static str, u64>::new());
    let lags = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        let (place, ends, pulses, counts) = (&place, &ends, &pulses, &counts);
        let readers: Vec<_> = (0..THREADS)
            .map(|nr| {
                scope.spawn(move || {
                    let rng = SmallRng::seed_from_u64(seed * 100 + nr as u64);
                    let done = look_on(place, ends, &pulses[nr], rng);
                    let mut counts = counts.lock().expect("nobody panics with it");
                    done.into_iter().for_each(|(name, count)| *counts.entry(name).or_default() += count);
                })
            })
            .collect();
        let looker = scope.spawn(|| *lags.lock().expect("nobody else has it") = await_news(place, ends));
        scope.spawn(move || {
            std::io::stdin().read_to_end(&mut Vec::new()).expect("the input can be read");
            ends.store(true, Ordering::SeqCst);
        });
        let all_done = AtomicBool::new(false);
        let all_done = &*Box::leak(Box::new(all_done));
        scope.spawn(move || watch(place, pulses, all_done));
        readers.into_iter().for_each(|reader| reader.join().unwrap_or_else(|_| std::process::exit(1)));
        looker.join().unwrap_or_else(|_| std::process::exit(1));
        let pulse = &pulses[THREADS];
        std::thread::sleep(Duration::from_millis(NOTICES_MS + 200));
        pulse.beat("all that is left");
        let mut looks = Looks::new(place, Size::Large, SmallRng::seed_from_u64(seed));
        let life = Life::read(&place.life);
        if let Err(bad) = looks.all() {
            excuse(&bad, life, place).unwrap_or_else(|| fail(&bad, place));
        }
        pulse.rest();
        let mut counts = counts.lock().expect("nobody panics with it");
        looks.counts.into_iter().for_each(|(name, count)| *counts.entry(name).or_default() += count);
        all_done.store(true, Ordering::SeqCst);
    });
    let (counts, lags) = (counts.into_inner().expect("all have ended"), lags.into_inner().expect("all have ended"));
    println!("{}", json!({ "counts": counts, "lags": lags }));
}

impl Pulse {
    fn beat(&self, what: &str) {
        what.clone_into(&mut self.what.lock().expect("nobody panics with it"));
        self.since_ms.store(now_ms(), Ordering::SeqCst);
    }

    fn rest(&self) {
        self.since_ms.store(0, Ordering::SeqCst);
    }
}

/// What one thread does: one look after the other.
fn look_on(place: &Place, ends: &AtomicBool, pulse: &Pulse, mut rng: SmallRng) -> BTreeMap<&'static str, u64> {
    let mut looks = Looks::new(place, Size::Large, SmallRng::seed_from_u64(rng.random()));
    let mut known = Life::read(&place.life);
    while !ends.load(Ordering::SeqCst) {
        std::thread::sleep(Duration::from_micros(rng.random_range(0..8000)));
        let life = Life::read(&place.life);
        if life != known {
            pulse.beat("what a dead server has left");
            if let Err(bad) = looks.bury() {
                fail(&bad, place);
            }
            pulse.rest();
            known = life;
        }
        if !life.is_up() {
            continue;
        }
        let (what, look) = looks.any();
        pulse.beat(what);
        let looked = look(&mut looks);
        pulse.rest();
        if let Err(bad) = looked {
            let name = excuse(&bad, life, place).unwrap_or_else(|| fail(&bad, place));
            *looks.counts.entry(name).or_default() += 1;
        }
    }
    looks.counts
}

/// Why something may have gone wrong; nothing excuses other bytes, nor anything on a mount that nobody has done
/// anything to.
fn excuse(bad: &Bad, before: Life, place: &Place) -> Option<&'static str> {
    let is_killed = Life::read(&place.life) != before;
    match bad {
        Bad::Bytes(_) => None,
        _ if is_killed => Some("cut off by a kill"),
        Bad::Failed(_, error) if before.is_faulty && error.raw_os_error() == Some(libc::EIO) => {
            Some("failed with the disk")
        }
        _ => None,
    }
}

/// Ends the process.
fn fail(bad: &Bad, place: &Place) -> ! {
    eprintln!("{}: {bad}", place.at.display());
    std::process::exit(1)
}

/// Ends everything when a thread is at something for too long.
fn watch(place: &Place, pulses: &[Pulse], all_done: &AtomicBool) {
    while !all_done.load(Ordering::SeqCst) {
        std::thread::sleep(Duration::from_millis(100));
        for pulse in pulses {
            let since = pulse.since_ms.load(Ordering::SeqCst);
            if since > 0 && since + HANGS_MS < now_ms() {
                let what = pulse.what.lock().expect("nobody panics with it").clone();
                eprintln!("{}: hangs for more than {HANGS_MS} ms at {what}", place.at.display());
                minor_of(&place.at).iter().for_each(|minor| break_up(&place.at, *minor, 0));
                std::process::exit(1);
            }
        }
    }
}

/// Looks how long it takes until what others did is seen, in milliseconds: of each step that comes or goes.
fn await_news(place: &Place, ends: &AtomicBool) -> Vec<u64> {
    let mut lags = Vec::new();
    // What was seen last of each step, and since when the truth of that is so.
    let mut seen: BTreeMap<(usize, u64), (u64, bool)> = BTreeMap::new();
    let (mut life, mut begins_ms) = (Life::read(&place.life), now_ms());
    while !ends.load(Ordering::SeqCst) {
        std::thread::sleep(Duration::from_millis(20));
        let now = Life::read(&place.life);
        if now != life || !now.is_up() {
            // A mount that has just been made knows all that was before.
            (life, begins_ms) = (now, now_ms());
        }
        for run in 0..WRITERS {
            for (step, line) in Told::read(&place.truth, run).lines {
                let Some(is) = line.is() else { continue };
                let known = seen.get(&(run, step)).copied();
                if known.is_some_and(|(since, _)| since == line.since_ms) {
                    continue;
                }
                let is_there = fs::symlink_metadata(place.at.join(format!("w{run}/step-{step}"))).is_ok();
                if is_there == is.is_some() {
                    let has_changed = known.is_some_and(|(_, was)| was != is_there) || (known.is_none() && is_there);
                    lags.extend((has_changed && line.since_ms > begins_ms).then(|| now_ms() - line.since_ms));
                    seen.insert((run, step), (line.since_ms, is_there));
                }
            }
        }
    }
    lags
}
