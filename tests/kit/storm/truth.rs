//! What each run holds, written down where other processes can read it: what is there, what may be there while a
//! command is at it, and since when. Never guesses: while that is not known, everything goes.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use super::runs::Run;

/// How long a mount may take to notice what happened to the store, in milliseconds: longer than what is promised,
/// because all of this runs on a machine that has more to do than it can.
pub const NOTICES_MS: u64 = 3000;
/// How many steps that were dropped are remembered of a run, those that were last.
const GONE_MAX: usize = 60;

/// Milliseconds by a clock that all processes have.
pub fn now_ms() -> u64 {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `now` is there for the call.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut now) };
    now.tv_sec.cast_unsigned() * 1000 + now.tv_nsec.cast_unsigned() / 1_000_000
}

/// What is known of one step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// When that was last known to be so, or to have become so.
    pub since_ms: u64,
    /// The contents that it may have; none for a step that is not there. Two while a command is at it.
    pub may_be: Vec<Option<u64>>,
}

impl Line {
    /// What it is, when nobody is at it.
    pub fn is(&self) -> Option<Option<u64>> {
        if let [is] = self.may_be[..] { Some(is) } else { None }
    }
}

/// Written by those who change the store.
pub struct Truth {
    folder: PathBuf,
    runs: Vec<Mutex<BTreeMap<u64, Line>>>,
}

impl Truth {
    /// Nothing is there yet; written into `folder`.
    pub fn new(folder: PathBuf, runs: usize) -> Self {
        fs::create_dir_all(&folder).expect("a directory can be made");
        Self { folder, runs: (0..runs).map(|_| Mutex::default()).collect() }
    }

    /// Where it is.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// A command begins that makes `after` of `before`, or doesn't.
    pub fn begin(&self, run: usize, before: &Run, after: &Run) {
        let mut lines = self.runs[run].lock().unwrap_or_else(PoisonError::into_inner);
        for step in before.keys().chain(after.keys()) {
            let [was, will] = [before, after].map(|run| run.get(step).map(|kept| kept.stored));
            if was != will {
                let may_be = [before, after].map(|run| run.get(step).map(|kept| kept.content));
                let line = lines.entry(*step).or_insert(Line { since_ms: 0, may_be: Vec::new() });
                line.may_be = may_be.to_vec();
            }
        }
        self.write(run, &mut lines);
    }

    /// It has ended, and this is what is there.
    pub fn settle(&self, run: usize, now: &Run) {
        let mut lines = self.runs[run].lock().unwrap_or_else(PoisonError::into_inner);
        for (step, line) in lines.iter_mut().filter(|(_, line)| line.may_be.len() > 1) {
            *line = Line { since_ms: now_ms(), may_be: vec![now.get(step).map(|kept| kept.content)] };
        }
        self.write(run, &mut lines);
    }

    fn write(&self, run: usize, lines: &mut BTreeMap<u64, Line>) {
        let gone = lines.iter().filter(|(_, line)| line.may_be == [None]);
        let mut gone: Vec<(u64, u64)> = gone.map(|(step, line)| (line.since_ms, *step)).collect();
        gone.sort_unstable();
        // Without its line a step is one that never was. A mount may show one for a while that was dropped just now,
        // however low its number is: one that was best for long goes late.
        let old_ms = now_ms().saturating_sub(2 * NOTICES_MS);
        for (_, step) in gone.iter().take(gone.len().saturating_sub(GONE_MAX)).filter(|(since, _)| *since < old_ms) {
            lines.remove(step);
        }
        let mut text = String::new();
        for (step, Line { since_ms, may_be }) in &*lines {
            let may_be: Vec<String> = may_be.iter().map(|is| is.map_or("-".into(), |is| is.to_string())).collect();
            let _ = writeln!(text, "{step} {since_ms} {}", may_be.join(" "));
        }
        let path = self.folder.join(format!("w{run}"));
        // Whoever reads it has all of it.
        fs::write(path.with_extension("new"), text).expect("a file can be written");
        fs::rename(path.with_extension("new"), path).expect("a file can be renamed");
    }
}

/// What is known of a run at one time.
pub struct Told {
    /// When it was read.
    pub at_ms: u64,
    /// By step; what is not in it was never there, or not for long.
    pub lines: BTreeMap<u64, Line>,
}

impl Told {
    /// Reads it.
    pub fn read(folder: &Path, run: usize) -> Self {
        let at_ms = now_ms();
        let text = fs::read_to_string(folder.join(format!("w{run}"))).unwrap_or_default();
        let line = |line: &str| {
            let mut words = line.split(' ');
            let mut number = || words.next().and_then(|word| word.parse().ok()).expect("a number");
            let (step, since_ms) = (number(), number());
            (step, Line { since_ms, may_be: words.map(|word| word.parse().ok()).collect() })
        };
        Self { at_ms, lines: text.lines().map(line).collect() }
    }

    fn line(&self, step: u64) -> Line {
        self.lines.get(&step).cloned().unwrap_or(Line { since_ms: 0, may_be: vec![None] })
    }

    /// What a mount may have shown of a step between this and `later`; none for anything.
    pub fn allowed(&self, later: &Self, step: u64) -> Option<Vec<Option<u64>>> {
        let (before, after) = (self.line(step), later.line(step));
        let is_known = before.since_ms == after.since_ms && before.since_ms + NOTICES_MS <= self.at_ms;
        is_known.then(|| [before.may_be, after.may_be].concat())
    }

    /// Steps that are there.
    pub fn there(&self) -> Vec<u64> {
        self.lines.iter().filter(|(_, line)| line.may_be != [None]).map(|(step, _)| *step).collect()
    }
}
