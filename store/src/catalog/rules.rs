//! Which checkpoints of a run stay: a pure function from entries and rules to verdicts. Never drops anything itself.

use std::collections::HashMap;
use std::fmt;

use super::refs::{Mode, ranked};
use crate::error::{Error, Result};
use crate::format::catalog::Entry;
use crate::id::CheckpointId;

/// Rules of retention. They are independent: a checkpoint stays when any of them keeps it.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Rules {
    /// Keeps this many that were stored last.
    pub last: Option<u64>,
    /// Keeps the best by a metric.
    pub best: Option<Best>,
    /// Keeps those whose step is a multiple of this.
    pub every: Option<u64>,
    /// Keeps those not older than this, in milliseconds.
    pub within_ms: Option<i64>,
}

/// The best `count` by `metric`.
#[derive(Debug, Clone, PartialEq)]
pub struct Best {
    /// How many.
    pub count: u64,
    /// By which metric.
    pub metric: String,
    /// Which end of it is good.
    pub mode: Mode,
}

/// Why a checkpoint stays or goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reason {
    /// It is the one that was stored last; always kept.
    Newest,
    /// It is pinned; always kept.
    Pinned,
    /// It has a tag; always kept.
    Tagged(String),
    /// It is among the last.
    Last(u64),
    /// It is among the best by a metric; the rank counts from 1.
    Best {
        /// The metric.
        metric: String,
        /// 1 is the best.
        rank: usize,
    },
    /// Its step is a multiple of this.
    Every(u64),
    /// It is young enough.
    Within,
    /// No policy is for its run; nothing of such a run is dropped.
    NoPolicy,
    /// No rule keeps it.
    NoRule,
    /// No rule keeps it, and it lacks the metric that one asks for.
    NoMetric(String),
    /// No rule keeps it, and the metric that one asks for is no number: the training diverged.
    NotANumber(String),
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Newest => f.write_str("the newest"),
            Self::Pinned => f.write_str("pinned"),
            Self::Tagged(tag) => write!(f, "tagged {tag}"),
            Self::Last(count) => write!(f, "among the last {count}"),
            Self::Best { metric, rank } => write!(f, "number {rank} by {metric}"),
            Self::Every(steps) => write!(f, "a step divisible by {steps}"),
            Self::Within => f.write_str("young enough"),
            Self::NoPolicy => f.write_str("no policy for this run"),
            Self::NoRule => f.write_str("no rule keeps it"),
            Self::NoMetric(metric) => write!(f, "no rule keeps it, and it has no {metric}"),
            Self::NotANumber(metric) => write!(f, "no rule keeps it, and its {metric} is no number"),
        }
    }
}

/// What the rules say of one checkpoint.
#[derive(Debug, Clone, PartialEq)]
pub struct Verdict {
    /// The checkpoint.
    pub entry: Entry,
    /// Whether it stays.
    pub keep: bool,
    /// All that keeps it, or the one reason for which it goes.
    pub reasons: Vec<Reason>,
    /// The glob of the policy whose rules these are; none when they are the command's own, or there are none.
    pub policy: Option<String>,
}

impl Rules {
    /// Whether there is no rule at all; then nothing is dropped.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Refuses rules that can't be meant.
    pub fn check(&self) -> Result<()> {
        let zero = [
            ("keep-last", self.last),
            ("keep-best", self.best.as_ref().map(|best| best.count)),
            ("keep-every", self.every),
        ];
        match zero.iter().find(|(_, value)| *value == Some(0)) {
            Some((name, _)) => Err(Error::Invalid(format!("{name} 0 keeps nothing; leave the rule away instead"))),
            None => Ok(()),
        }
    }
}

/// Judges the checkpoints of one run, given in the order in which they were stored, by rules of which there is at least one.
/// Verdicts name `policy` as where the rules are from.
pub fn judge(entries: &[&Entry], rules: &Rules, policy: Option<&str>, now_ms: i64) -> Vec<Verdict> {
    let best: HashMap<CheckpointId, usize> = rules.best.as_ref().map_or_else(HashMap::new, |best| {
        let ranked = ranked(entries.iter().copied(), &best.metric, best.mode);
        ranked
            .into_iter()
            .take(best.count.try_into().unwrap_or(usize::MAX))
            .zip(1..)
            .map(|(entry, rank)| (entry.id, rank))
            .collect()
    });
    let count = entries.len();
    let verdict = |(at, entry): (usize, &&Entry)| {
        let mut reasons = Vec::new();
        if at + 1 == count {
            reasons.push(Reason::Newest);
        }
        if entry.pinned {
            reasons.push(Reason::Pinned);
        }
        reasons.extend(entry.tags.iter().cloned().map(Reason::Tagged));
        if let Some(last) = rules.last.filter(|last| ((count - at) as u64) <= *last) {
            reasons.push(Reason::Last(last));
        }
        if let (Some(best), Some(rank)) = (&rules.best, best.get(&entry.id)) {
            reasons.push(Reason::Best { metric: best.metric.clone(), rank: *rank });
        }
        if let (Some(every), Some(step)) = (rules.every, entry.step)
            && step.checked_rem(every) == Some(0)
        {
            reasons.push(Reason::Every(every));
        }
        if rules.within_ms.is_some_and(|within| now_ms.saturating_sub(entry.time_ms) <= within) {
            reasons.push(Reason::Within);
        }
        let keep = !reasons.is_empty();
        if reasons.is_empty() {
            let metric = rules.best.as_ref().map(|best| &best.metric);
            reasons.push(match metric.map(|metric| (metric, entry.metrics.get(metric))) {
                Some((metric, None)) => Reason::NoMetric(metric.clone()),
                Some((metric, Some(value))) if value.is_nan() => Reason::NotANumber(metric.clone()),
                _ => Reason::NoRule,
            });
        }
        Verdict { entry: (*entry).clone(), keep, reasons, policy: policy.map(str::to_owned) }
    };
    entries.iter().enumerate().map(verdict).collect()
}
