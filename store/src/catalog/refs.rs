//! How a person names a checkpoint: `RUN@STEP`, `RUN@latest`, `RUN@best`, `RUN@TAG`, `RUN`, or an id. Never reads
//! anything but the catalog's entries.

use std::collections::BTreeSet;

use super::State;
use crate::error::{Error, Result, Thing};
use crate::format::catalog::Entry;
use crate::id::CheckpointId;
use crate::limits::NAME_BYTES_MAX;

/// The shortest beginning of an id that names a checkpoint. The first ten characters of an id are its time.
const ID_PREFIX_MIN: usize = 10;
/// Characters of an id.
const ID_CHARS: usize = 26;

/// Which end of a metric is good.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Smaller is better.
    Min,
    /// Larger is better.
    Max,
}

/// Names that a tag can't have, because a ref means something else by them.
const RESERVED: [&str; 3] = ["latest", "best", LATEST_GOOD];

impl std::str::FromStr for Mode {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text {
            "min" => Ok(Self::Min),
            "max" => Ok(Self::Max),
            _ => Err(Error::Invalid(format!("a metric's mode is min or max, not {text:?}"))),
        }
    }
}

const LATEST_GOOD: &str = "latest-good";

/// The run of which `text` names the newest checkpoint that is sound: `RUN@latest-good`.
pub fn run_of_latest_good(text: &str) -> Option<&str> {
    text.split_once('@').filter(|(run, what)| !run.is_empty() && *what == LATEST_GOOD).map(|(run, _)| run)
}

/// Finds the checkpoint that `text` names.
pub fn resolve<'a>(state: &'a State, text: &str) -> Result<&'a Entry> {
    let Some((run, what)) = text.split_once('@') else {
        if let Some(entry) = newest(state, text) {
            return Ok(entry);
        }
        return by_id(state, text);
    };
    if run.is_empty() {
        return Err(Error::Invalid(format!("{text:?} names no run: a ref is RUN@STEP, RUN@TAG, RUN or an id")));
    }
    if newest(state, run).is_none() {
        return Err(no_run(state, run));
    }
    let mut of_run = state.entries.iter().filter(|entry| entry.run == run);
    let found = match what {
        // What it names can't be told without reading chunks: `ops::sound` puts an id in its place.
        LATEST_GOOD => {
            return Err(Error::Invalid(format!("{text} names a checkpoint only after the run's chunks were read")));
        }
        "latest" => newest(state, run),
        "best" => best(state, run, None)?,
        _ => match (what.strip_prefix("best:"), what.parse::<u64>()) {
            (Some(metric), _) => best(state, run, Some(metric))?,
            (None, Ok(step)) => of_run.find(|entry| entry.step == Some(step)),
            (None, Err(_)) => of_run.find(|entry| entry.tags.contains(what)),
        },
    };
    found.ok_or_else(|| Error::NotFound {
        thing: Thing::Checkpoint,
        name: text.into(),
        near: near_refs(state, run, what),
    })
}

/// The checkpoint of a run that was stored last.
pub fn newest<'a>(state: &'a State, run: &str) -> Option<&'a Entry> {
    state.entries.iter().rev().find(|entry| entry.run == run)
}

/// How messages and people name an entry.
pub fn name_of(entry: &Entry) -> String {
    name_by(&entry.run, entry.step, entry.id)
}

/// [`name_of`] for one whose entry is not at hand.
pub fn name_by(run: &str, step: Option<u64>, id: CheckpointId) -> String {
    match step {
        Some(step) => format!("{run}@{step}"),
        None => id.to_string(),
    }
}

/// The error for a run that has no checkpoint, with names that are close.
pub fn no_run(state: &State, run: &str) -> Error {
    let runs: BTreeSet<&str> = state.entries.iter().map(|entry| &*entry.run).collect();
    let mut near: Vec<(usize, &str)> = runs.into_iter().map(|name| (distance(run, name), name)).collect();
    near.retain(|(distance, name)| *distance <= 2.max(run.len() / 3) || name.starts_with(run));
    near.sort_unstable();
    Error::NotFound {
        thing: Thing::Run,
        name: run.into(),
        near: near.into_iter().take(3).map(|(_, name)| name.to_owned()).collect(),
    }
}

/// Checks the name of a run that is about to be used.
pub fn check_run(run: &str) -> Result<()> {
    check_name("run", run)?;
    if run.contains('@') || run.split('/').any(|part| part.is_empty() || part == "." || part == "..") {
        return Err(Error::Invalid(format!("{run:?} can't name a run: no '@', and parts between '/' must be names")));
    }
    if run.len() == ID_CHARS && run.parse::<crate::CheckpointId>().is_ok() {
        return Err(Error::Invalid(format!("{run:?} can't name a run: it reads as the id of a checkpoint")));
    }
    Ok(())
}

/// Checks a tag that is about to be given.
pub fn check_tag(tag: &str) -> Result<()> {
    check_name("tag", tag)?;
    if RESERVED.contains(&tag) || tag.starts_with("best:") || tag.contains(['@', '/']) || tag.parse::<u64>().is_ok() {
        return Err(Error::Invalid(format!("{tag:?} can't be a tag: a ref would mean something else by it")));
    }
    Ok(())
}

/// Checks a name that people will have to type.
pub fn check_name(what: &str, name: &str) -> Result<()> {
    if name.is_empty() || name.len() > NAME_BYTES_MAX || name.chars().any(char::is_control) || name.trim() != name {
        return Err(Error::Invalid(format!(
            "{name:?} can't name a {what}: 1 to {NAME_BYTES_MAX} bytes, no control characters, no space at its ends"
        )));
    }
    Ok(())
}

/// The best checkpoints of `entries` by a metric, best first; those without a number are left out, ties go to the
/// newer.
pub fn ranked<'a>(entries: impl Iterator<Item = &'a Entry>, metric: &str, mode: Mode) -> Vec<&'a Entry> {
    let value = |entry: &Entry| entry.metrics.get(metric).copied().filter(|value| !value.is_nan());
    let mut ranked: Vec<(f64, usize, &Entry)> =
        entries.enumerate().filter_map(|(at, entry)| value(entry).map(|value| (value, at, entry))).collect();
    ranked.sort_by(|a, b| {
        let by_value = a.0.total_cmp(&b.0);
        let by_value = if mode == Mode::Max { by_value.reverse() } else { by_value };
        by_value.then(b.1.cmp(&a.1))
    });
    ranked.into_iter().map(|(_, _, entry)| entry).collect()
}

/// Which end of a metric is good, as far as its name tells.
pub fn mode_of(metric: &str) -> Option<Mode> {
    const MIN: [&str; 10] = ["loss", "err", "ppl", "perplexity", "mae", "mse", "wer", "cer", "nll", "fid"];
    const MAX: [&str; 11] =
        ["acc", "f1", "auc", "bleu", "rouge", "score", "iou", "psnr", "ssim", "precision", "recall"];
    let name = metric.to_lowercase();
    let has = |words: &[&str]| words.iter().any(|word| name.contains(word));
    match (has(&MIN), has(&MAX)) {
        (true, false) => Some(Mode::Min),
        (false, true) => Some(Mode::Max),
        _ => None,
    }
}

/// The checkpoint that `RUN@best` names, of `entries`, which are all of that run in the order in which they were
/// stored; none when that ref can't be resolved.
pub fn best_of<'a>(entries: &[&'a Entry]) -> Option<&'a Entry> {
    let run = &entries.first()?.run;
    best_among(|| entries.iter().copied(), run, None).ok().flatten()
}

/// The best checkpoint by `METRIC`, `METRIC:min` or `METRIC:max`, or by the only metric that the run has.
fn best<'a>(state: &'a State, run: &str, spec: Option<&str>) -> Result<Option<&'a Entry>> {
    best_among(|| state.entries.iter().filter(|entry| entry.run == run), run, spec)
}

/// As [`best`], of the checkpoints of one run.
fn best_among<'a, I: Iterator<Item = &'a Entry>>(
    of_run: impl Fn() -> I,
    run: &str,
    spec: Option<&str>,
) -> Result<Option<&'a Entry>> {
    let (metric, mode) = match spec.map(|spec| spec.rsplit_once(':').unwrap_or((spec, ""))) {
        Some((metric, "")) => (metric.to_owned(), mode_of(metric)),
        Some((metric, mode)) => (metric.to_owned(), Some(mode.parse()?)),
        None => {
            let metrics: BTreeSet<&String> = of_run().flat_map(|entry| entry.metrics.keys()).collect();
            let mut metrics = metrics.into_iter();
            match (metrics.next(), metrics.next()) {
                (None, _) => return Err(Error::Invalid(format!("no checkpoint of {run} has a metric"))),
                (Some(metric), None) => (metric.clone(), mode_of(metric)),
                (Some(first), Some(_)) => {
                    return Err(Error::Invalid(format!(
                        "the checkpoints of {run} have several metrics: say {run}@best:{first} or another one's name"
                    )));
                }
            }
        }
    };
    let Some(mode) = mode else {
        return Err(Error::Invalid(format!(
            "whether small or large {metric} is good can't be told from its name: say {run}@best:{metric}:min or :max"
        )));
    };
    Ok(ranked(of_run(), &metric, mode).first().copied())
}

fn by_id<'a>(state: &'a State, text: &str) -> Result<&'a Entry> {
    let prefix = text.to_lowercase();
    let mut matches =
        state.entries.iter().filter(|entry| prefix.len() >= ID_PREFIX_MIN && entry.id.to_string().starts_with(&prefix));
    match (matches.next(), matches.next()) {
        (Some(entry), None) => Ok(entry),
        (Some(_), Some(_)) => Err(Error::Invalid(format!("several checkpoints have ids that begin with {text}"))),
        (None, _) if text.len() == ID_CHARS && text.parse::<crate::CheckpointId>().is_ok() => {
            Err(Error::NotFound { thing: Thing::Checkpoint, name: text.into(), near: Vec::new() })
        }
        (None, _) => Err(no_run(state, text)),
    }
}

/// What the caller may have meant by `what` of an existing run: the nearest steps, or tags that are close.
fn near_refs(state: &State, run: &str, what: &str) -> Vec<String> {
    let of_run = || state.entries.iter().filter(|entry| entry.run == run);
    if let Ok(step) = what.parse::<u64>() {
        let mut steps: Vec<u64> = of_run().filter_map(|entry| entry.step).collect();
        steps.sort_unstable_by_key(|other| (other.abs_diff(step), *other));
        return steps.into_iter().take(3).map(|step| format!("{run}@{step}")).collect();
    }
    let mut tags: BTreeSet<&str> = of_run().flat_map(|entry| &entry.tags).map(String::as_str).collect();
    tags.extend(["best", "latest"]);
    tags.into_iter().filter(|tag| distance(what, tag) <= 2).take(3).map(|tag| format!("{run}@{tag}")).collect()
}

/// The number of single-character edits between two names.
pub fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, to) in b.iter().enumerate() {
            let cost = diagonal + usize::from(from != *to);
            diagonal = row[j + 1];
            row[j + 1] = cost.min(row[j] + 1).min(row[j + 1] + 1);
        }
    }
    row[b.len()]
}
