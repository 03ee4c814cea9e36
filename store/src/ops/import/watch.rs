//! Stores each checkpoint that appears in a directory once it is complete. Never stores one that somebody still writes to, and
//! never needs to remember anything: after a restart it sees by names, sizes and times what is stored already.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::complete::incomplete;
use super::events::Events;
use super::find::{Candidate, Found, Link, Search, Stamp};
use super::known::Known;
use super::take::{Target, find_stored, take};
use super::{ImportDone, ImportRequest, canonical, finish_removal};
use crate::catalog::{State, refs};
use crate::error::{Error, Result};
use crate::format::catalog::Entry;
use crate::ops::change;
use crate::progress::{Notice, Progress, Stage};
use crate::store::Store;

/// How long at most until the watch looks by itself.
const LOOK_EVERY: Duration = Duration::from_secs(10);

/// How long at most until it sees that it is to stop.
const NAP: Duration = Duration::from_millis(200);

/// How long it waits when the store is full or busy: first, and at most.
const BACKOFF: (Duration, Duration) = (Duration::from_secs(2), Duration::from_secs(300));

/// What to watch.
#[derive(Debug, Clone, Default)]
pub struct WatchRequest {
    /// The directory, the run, and whether sources are removed.
    pub import: ImportRequest,
    /// How long a checkpoint has to have been quiet.
    pub settle: Duration,
    /// Whether to store what is complete now and leave.
    pub once: bool,
}

/// What a watch tells.
#[derive(Debug)]
pub enum WatchEvent<'a> {
    /// A checkpoint of this path in the directory was stored or found to be stored; whether its source was removed.
    Done(&'a Path, &'a ImportDone, bool),
    /// It was not stored, and will not be tried again until it changes.
    Failed(&'a Path, &'a Error),
    /// It is passed over, for now or for good.
    Passed(&'a Path, &'a str),
    /// The store can't take it now; the watch tries again after this time.
    Waiting(&'a Error, Duration),
}

/// What a watch did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct WatchReport {
    /// Checkpoints stored.
    pub stored: u64,
    /// Checkpoints that could not be.
    pub failed: u64,
}

/// Watches until `progress` says to stop; what is being stored then is finished first.
///
/// # Errors
/// When the directory can't be read. With `once` also when the store is full or busy.
pub fn watch(
    store: &Store,
    request: &WatchRequest,
    tell: &mut dyn FnMut(WatchEvent<'_>),
    progress: &dyn Progress,
) -> Result<WatchReport> {
    refs::check_run(&request.import.run)?;
    let dir = canonical(&request.import.dir)?;
    let target = Target::new(&request.import, dir, false);
    let search = Search::new(&target.dir, request.import.pattern.as_deref(), store.root())?;
    let mut watch = Watch {
        store,
        target: &target,
        request,
        // Before the first look, so that nothing falls between.
        events: Events::of(&target.dir),
        known: Known::default(),
        things: HashMap::new(),
        told: HashMap::new(),
        last: false,
        report: WatchReport::default(),
        progress,
    };
    let mut backoff = BACKOFF.0;
    let settled = Instant::now() + request.settle;
    loop {
        watch.last = request.once && Instant::now() > settled;
        let looked = search.find().and_then(|found| watch.look(found, tell));
        let pause = match looked {
            Ok(pending) => {
                backoff = BACKOFF.0;
                if watch.last || (request.once && !pending) {
                    return Ok(watch.report);
                }
                if pending {
                    request.settle.clamp(Duration::from_millis(50), Duration::from_secs(1))
                } else {
                    LOOK_EVERY
                }
            }
            Err(Error::Interrupted) => return Ok(watch.report),
            Err(error @ (Error::NoSpace { .. } | Error::WontFit(_) | Error::Busy(_) | Error::Unavailable { .. }))
                if !request.once =>
            {
                tell(WatchEvent::Waiting(&error, backoff));
                let pause = backoff;
                backoff = (backoff * 2).min(BACKOFF.1);
                if watch.rest(pause, false) {
                    return Ok(watch.report);
                }
                continue;
            }
            Err(error) => return Err(error),
        };
        if watch.rest(pause, true) {
            return Ok(watch.report);
        }
    }
}

struct Watch<'a> {
    store: &'a Store,
    target: &'a Target,
    request: &'a WatchRequest,
    events: Events,
    known: Known,
    things: HashMap<PathBuf, Followed>,
    /// What was said last about each thing, so that it is said once.
    told: HashMap<PathBuf, String>,
    /// Whether this is the last look of a watch that runs once: what is not complete now is left.
    last: bool,
    report: WatchReport,
    progress: &'a dyn Progress,
}

/// A candidate since it was last seen to change.
struct Followed {
    stamp: Stamp,
    since: Instant,
    /// Stored, or tried in vain: nothing more to do until it changes.
    settled: bool,
}

impl Watch<'_> {
    /// Waits; an event ends it early if `wake`. Answers whether to stop for good.
    fn rest(&mut self, time: Duration, wake: bool) -> bool {
        let until = Instant::now() + time;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            if self.progress.interrupted() || left.is_zero() {
                return self.progress.interrupted();
            }
            if self.events.wait(left.min(NAP)) && wake {
                // Writers write often: look a moment later, at all that happened until then.
                self.events.wait(Duration::ZERO);
                std::thread::sleep(Duration::from_millis(20));
                return self.progress.interrupted();
            }
        }
    }

    /// Handles everything that is complete. Answers whether something is not yet.
    fn look(&mut self, found: Found, tell: &mut dyn FnMut(WatchEvent<'_>)) -> Result<bool> {
        let Found { mut candidates, links, leftovers, skipped, unreadable } = found;
        for (name, reason) in skipped.iter().chain(&unreadable) {
            self.say(name, reason, tell);
        }
        if self.target.delete {
            for (name, id) in leftovers {
                if !self.told.contains_key(&name) {
                    match finish_removal(self.store, &self.target.dir, &name, id, &Going(self.progress)) {
                        Ok(done) => tell(WatchEvent::Done(&name, &done, true)),
                        Err(error) => self.fail(&name, error, tell)?,
                    }
                }
            }
        }
        self.things.retain(|name, _| candidates.iter().any(|candidate| candidate.name == *name));
        // What was written first is stored first.
        candidates.sort_by_key(|candidate| (candidate.stamp.newest(), candidate.name.clone()));
        let mut pending = false;
        for mut candidate in candidates {
            if self.progress.interrupted() {
                return Err(Error::Interrupted);
            }
            // Here each has a right to its step when it comes: who comes second is stored without.
            candidate.step = candidate.claimed;
            pending |= !self.one(&candidate, tell)?;
        }
        for link in links {
            self.link(&link, tell)?;
        }
        Ok(pending)
    }

    /// Handles one candidate. Answers whether there is nothing more to do for it now.
    fn one(&mut self, candidate: &Candidate, tell: &mut dyn FnMut(WatchEvent<'_>)) -> Result<bool> {
        let name = &candidate.name;
        let now = Instant::now();
        let followed = self.things.entry(name.clone()).or_insert_with(|| Followed {
            stamp: candidate.stamp.clone(),
            since: now,
            settled: false,
        });
        if followed.stamp != candidate.stamp {
            *followed = Followed { stamp: candidate.stamp.clone(), since: now, settled: false };
            self.told.remove(name);
        }
        if followed.settled {
            return Ok(true);
        }
        if self.events.is_open(name) || now.duration_since(followed.since) < self.request.settle {
            if self.last {
                self.say(name, "it is still being written", tell);
            }
            return Ok(false);
        }
        let state = State::load(self.store.backend())?;
        if !self.target.delete && find_stored(self.store, &state, self.target, candidate, &mut self.known).is_some() {
            return Ok(self.settle(name));
        }
        match incomplete(&self.target.dir, candidate) {
            Ok(None) => {}
            Ok(Some(reason)) => {
                self.say(name, &reason, tell);
                return Ok(false);
            }
            // It went away or changed: the next look tells.
            Err(_) => return Ok(false),
        }
        // Whatever changed since it was found makes it wait again.
        if !Stamp::of(&self.target.dir.join(name)).is_ok_and(|stamp| stamp == candidate.stamp) {
            return Ok(false);
        }
        match take(self.store, self.target, candidate, &mut self.known, &Going(self.progress)) {
            Ok((done, removed)) => {
                self.report.stored += u64::from(matches!(done, ImportDone::Stored(_)));
                tell(WatchEvent::Done(name, &done, removed));
                Ok(self.settle(name))
            }
            Err(error @ (Error::NoSpace { .. } | Error::WontFit(_) | Error::Busy(_))) => Err(error),
            Err(_) if !self.target.dir.join(name).exists() => {
                tell(WatchEvent::Passed(name, "it was removed before it was stored"));
                self.things.remove(name);
                Ok(true)
            }
            Err(Error::Changed { .. }) => {
                self.things.remove(name);
                Ok(false)
            }
            Err(error) => {
                self.fail(name, error, tell)?;
                Ok(self.settle(name))
            }
        }
    }

    fn settle(&mut self, name: &Path) -> bool {
        if let Some(followed) = self.things.get_mut(name) {
            followed.settled = true;
        }
        true
    }

    /// A link becomes a tag as soon as its target is stored.
    fn link(&mut self, link: &Link, tell: &mut dyn FnMut(WatchEvent<'_>)) -> Result<()> {
        let state = State::load(self.store.backend())?;
        let source = self.target.source(&link.target);
        let id = self.known.of_source(self.store, &state, &self.target.run, &source)?;
        let entry: Option<&Entry> = id.and_then(|id| state.entry(id)).filter(|entry| !entry.tags.contains(&link.tag));
        if let Some(entry) = entry {
            let mut tagged = change::tag(self.store, &entry.id.to_string(), &link.tag)?;
            tagged.tags.insert(link.tag.clone());
            tell(WatchEvent::Done(&link.name, &ImportDone::Tagged(tagged), false));
        }
        Ok(())
    }

    fn say(&mut self, name: &Path, reason: &str, tell: &mut dyn FnMut(WatchEvent<'_>)) {
        if self.told.get(name).is_none_or(|told| told != reason) {
            self.told.insert(name.to_owned(), reason.to_owned());
            tell(WatchEvent::Passed(name, reason));
        }
    }

    /// Reports what can't be stored, unless it is the store that can't take anything.
    fn fail(&mut self, name: &Path, error: Error, tell: &mut dyn FnMut(WatchEvent<'_>)) -> Result<()> {
        let of_store =
            matches!(&error, Error::Unavailable { path, .. } if Path::new(path).starts_with(self.store.root()));
        if of_store || matches!(error, Error::Interrupted) {
            return Err(error);
        }
        self.report.failed += 1;
        self.told.insert(name.to_owned(), error.to_string());
        tell(WatchEvent::Failed(name, &error));
        Ok(())
    }
}

/// Progress that lets what has begun come to its end.
struct Going<'a>(&'a dyn Progress);

impl Progress for Going<'_> {
    fn begin(&self, stage: Stage, bytes: u64) {
        self.0.begin(stage, bytes);
    }
    fn advance(&self, bytes: u64) {
        self.0.advance(bytes);
    }
    fn notice(&self, notice: Notice) {
        self.0.notice(notice);
    }
    fn interrupted(&self) -> bool {
        false
    }
}
