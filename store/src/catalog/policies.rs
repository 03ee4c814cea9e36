//! Which policy is for which run, and what follows for each checkpoint: pure functions from a state to verdicts. Never drops
//! anything itself, and never guesses where a policy can't be understood: that could drop what it keeps.

use std::collections::BTreeMap;

use globset::{Glob, GlobMatcher};

use super::refs::{Mode, check_name};
use super::rules::{Best, Reason, Rules, Verdict, judge};
use crate::error::{Error, Result};
use crate::format::catalog::{Entry, Good, KeepBest, Policy as Stored};
use crate::limits::NAME_BYTES_MAX;

/// What is kept of the runs that a glob matches.
#[derive(Debug, Clone, PartialEq)]
pub struct Policy {
    /// The glob.
    pub runs: String,
    /// The rules; at least one.
    pub rules: Rules,
}

/// A policy and the runs that it is for now.
#[derive(Debug, Clone, PartialEq)]
pub struct PolicyUse {
    /// The policy.
    pub policy: Policy,
    /// Runs that have no more specific one, sorted.
    pub runs: Vec<String>,
}

/// What a command says about retention.
#[derive(Debug, Clone, Copy)]
pub struct Choice<'a> {
    /// Only runs that this matches; none means all.
    pub runs: Option<&'a RunGlob>,
    /// Rules in place of the policies; empty means that the policies apply.
    pub rules: &'a Rules,
}

/// A glob over names of runs. `*` stands for any characters, `/` included.
#[derive(Debug, Clone)]
pub struct RunGlob {
    text: String,
    matcher: GlobMatcher,
}

impl RunGlob {
    /// Reads a glob.
    pub fn new(text: &str) -> Result<Self> {
        let glob = Glob::new(text).map_err(|error| Error::Invalid(format!("{text:?} is no glob: {}", error.kind())))?;
        Ok(Self { text: text.to_owned(), matcher: glob.compile_matcher() })
    }

    /// Whether it is for this run. A run whose name is the glob's very text is matched whatever its characters mean.
    pub fn matches(&self, run: &str) -> bool {
        self.text == run || self.matcher.is_match(run)
    }

    /// How closely it says which run it is for: one that is the run's name before all others, then by the characters that
    /// stand for themselves, those in brackets and braces not counted.
    fn closeness(&self, run: &str) -> (bool, usize) {
        let mut literal = 0;
        let mut inside = 0_usize;
        let mut chars = self.text.chars();
        while let Some(c) = chars.next() {
            match c {
                '[' | '{' => inside += 1,
                ']' | '}' => inside = inside.saturating_sub(1),
                '*' | '?' => {}
                '\\' => literal += usize::from(chars.next().is_some() && inside == 0),
                _ => literal += usize::from(inside == 0),
            }
        }
        (self.text == run, literal)
    }
}

impl Policy {
    /// Refuses what can't be meant: no rule, or one of 0.
    pub fn check(&self) -> Result<()> {
        check_name("policy", &self.runs)?;
        RunGlob::new(&self.runs)?;
        self.rules.check()?;
        if let Some(best) = &self.rules.best {
            check_name("metric", &best.metric)?;
        }
        if self.rules.within_ms.is_some_and(|within| within <= 0) {
            return Err(Error::Invalid("keep-within 0 keeps nothing; leave the rule away instead".into()));
        }
        if self.rules.is_empty() {
            return Err(Error::Invalid(format!("the policy for {} has no rule", self.runs)));
        }
        Ok(())
    }

    /// As it is stored.
    pub fn to_stored(&self) -> Stored {
        let good = |mode| if mode == Mode::Min { Good::Min } else { Good::Max };
        let keep_best = self.rules.best.as_ref().map(|best| KeepBest {
            count: best.count,
            metric: best.metric.clone(),
            mode: good(best.mode),
        });
        Stored {
            runs: self.runs.clone(),
            keep_last: self.rules.last,
            keep_best,
            keep_every: self.rules.every,
            keep_within_ms: self.rules.within_ms.and_then(|within| u64::try_from(within).ok()),
        }
    }

    fn from_stored(stored: &Stored) -> Self {
        let mode = |good| if good == Good::Min { Mode::Min } else { Mode::Max };
        let best = stored.keep_best.as_ref().map(|best| Best {
            count: best.count,
            metric: best.metric.clone(),
            mode: mode(best.mode),
        });
        let within_ms = stored.keep_within_ms.map(|within| i64::try_from(within).unwrap_or(i64::MAX));
        let rules = Rules { last: stored.keep_last, best, every: stored.keep_every, within_ms };
        Self { runs: stored.runs.clone(), rules }
    }
}

/// The policies of a store, in the order of their globs' bytes.
///
/// # Errors
/// [`Error::Corrupt`] when one can't be meant: without it more could be dropped than somebody asked for.
pub fn stored(policies: &[Stored]) -> Result<Vec<Policy>> {
    let read = |stored: &Stored| {
        let policy = Policy::from_stored(stored);
        policy.check().map_err(|error| {
            let runs: String = stored.runs.chars().take(NAME_BYTES_MAX).collect();
            Error::corrupt(format!("the policy for {runs:?}"), error)
        })?;
        Ok(policy)
    };
    policies.iter().map(read).collect()
}

/// The policies of a store, and the runs among `entries` that each is for.
pub fn in_use(entries: &[Entry], policies: &[Stored]) -> Result<Vec<PolicyUse>> {
    let policies = stored(policies)?;
    let globs = globs_of(&policies)?;
    let mut uses: Vec<PolicyUse> = policies.into_iter().map(|policy| PolicyUse { policy, runs: Vec::new() }).collect();
    for run in by_run(entries).into_keys() {
        if let Some(at) = closest(&globs, run) {
            uses[at].runs.push(run.to_owned());
        }
    }
    Ok(uses)
}

/// Judges every checkpoint of the runs that the command chose, run by run, each in the order in which they were stored.
///
/// # Errors
/// [`Error::Corrupt`] when a policy of the store can't be understood and the command has no rules of its own.
pub fn judge_all(entries: &[Entry], policies: &[Stored], choice: Choice<'_>, now_ms: i64) -> Result<Vec<Verdict>> {
    let policies = if choice.rules.is_empty() { stored(policies)? } else { Vec::new() };
    let globs = globs_of(&policies)?;
    let mut verdicts = Vec::new();
    for (run, of_run) in by_run(entries) {
        if choice.runs.is_some_and(|runs| !runs.matches(run)) {
            continue;
        }
        match closest(&globs, run).map(|at| &policies[at]) {
            Some(policy) => verdicts.extend(judge(&of_run, &policy.rules, Some(&policy.runs), now_ms)),
            None if !choice.rules.is_empty() => verdicts.extend(judge(&of_run, choice.rules, None, now_ms)),
            None => verdicts.extend(of_run.into_iter().map(|entry| Verdict {
                entry: entry.clone(),
                keep: true,
                reasons: vec![Reason::NoPolicy],
                policy: None,
            })),
        }
    }
    Ok(verdicts)
}

fn globs_of(policies: &[Policy]) -> Result<Vec<RunGlob>> {
    policies.iter().map(|policy| RunGlob::new(&policy.runs)).collect()
}

/// Which of the globs is for a run: the closest, and of those that are equally close the first.
fn closest(globs: &[RunGlob], run: &str) -> Option<usize> {
    let matching = globs.iter().enumerate().filter(|(_, glob)| glob.matches(run));
    // The last of equal maxima would win, hence the other way round.
    matching.rev().max_by_key(|(_, glob)| glob.closeness(run)).map(|(at, _)| at)
}

fn by_run(entries: &[Entry]) -> BTreeMap<&str, Vec<&Entry>> {
    let mut by_run: BTreeMap<&str, Vec<&Entry>> = BTreeMap::new();
    for entry in entries {
        by_run.entry(&entry.run).or_default().push(entry);
    }
    by_run
}
