//! Policies and rules against a model that judges in another way: one checkpoint at a time, by counting.
#![allow(clippy::unwrap_used, reason = "a test that can't go on has failed")]

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::policies::{Choice, Policy, RunGlob, in_use, judge_all, stored};
use super::refs::Mode;
use super::rules::{Best, Reason, Rules, Verdict};
use crate::error::Error;
use crate::format::catalog::{Entry, Policy as Stored};
use crate::id::CheckpointId;

const NOW: i64 = 1_000_000;
const RUNS: [&str; 4] = ["a", "a/b", "a/bc", "x[1]"];
const GLOBS: [&str; 8] = ["*", "a", "a/*", "a/b*", "a/{b,bc}", "a/b[c]", "x[1]", "?/b"];

fn entry(run: &str, step: Option<u64>, time_ms: i64, loss: Option<f64>) -> Entry {
    Entry {
        id: CheckpointId::generate(),
        run: run.into(),
        step,
        time_ms,
        metrics: loss.map(|loss| ("loss".to_owned(), loss)).into_iter().collect(),
        tags: BTreeSet::new(),
        pinned: false,
        files: 1,
        logical_bytes: 1,
        added_bytes: 1,
        written_bytes: 1,
    }
}

fn last(count: u64) -> Rules {
    Rules { last: Some(count), ..Rules::default() }
}

fn policy(runs: &str, rules: Rules) -> Stored {
    Policy { runs: runs.into(), rules }.to_stored()
}

fn all(rules: &Rules) -> Choice<'_> {
    Choice { runs: None, rules }
}

/// Which policy is for a run: as docs/cli.md lists it, glob by glob, for the globs and runs above.
fn is_for(globs: &[&'static str], run: &str) -> Option<&'static str> {
    // For each run the globs that match it, closest first; equally close ones in the order of their bytes.
    let order: &[&str] = match run {
        "a" => &["a", "*"],
        "a/b" => &["a/b*", "?/b", "a/*", "a/{b,bc}", "*"],
        "a/bc" => &["a/b*", "a/b[c]", "a/*", "a/{b,bc}", "*"],
        "x[1]" => &["x[1]", "*"],
        other => panic!("{other}"),
    };
    order.iter().find_map(|glob| globs.iter().find(|other| *other == glob).copied())
}

/// Whether a checkpoint stays, by counting what is better or newer.
fn stays(entries: &[Entry], at: usize, rules: &Rules) -> bool {
    let this = &entries[at];
    let of_run = || entries.iter().enumerate().filter(|(_, other)| other.run == this.run);
    let newer = of_run().filter(|(other, _)| *other > at).count() as u64;
    let loss = |entry: &Entry| entry.metrics.get("loss").copied().filter(|loss| !loss.is_nan());
    let best = rules.best.as_ref().is_some_and(|best| {
        let sign = if best.mode == Mode::Min { 1.0 } else { -1.0 };
        loss(this).is_some_and(|mine| {
            let better = of_run().filter(|(nr, other)| {
                loss(other).is_some_and(|theirs| theirs * sign < mine * sign || (theirs == mine && *nr > at))
            });
            (better.count() as u64) < best.count
        })
    });
    newer == 0
        || this.pinned
        || !this.tags.is_empty()
        || newer < rules.last.unwrap_or(0)
        || best
        || rules.every.is_some_and(|every| this.step.is_some_and(|step| step % every == 0))
        || rules.within_ms.is_some_and(|within| NOW - this.time_ms <= within)
}

fn rules() -> impl Strategy<Value = Rules> {
    let best = (1..3_u64, any::<bool>()).prop_map(|(count, min)| Best {
        count,
        metric: "loss".into(),
        mode: if min { Mode::Min } else { Mode::Max },
    });
    let of = |range: std::ops::Range<u64>| prop::option::weighted(0.4, range);
    (of(1..4), prop::option::weighted(0.4, best), of(1..4), prop::option::weighted(0.3, 1..50_i64))
        .prop_map(|(last, best, every, within_ms)| Rules { last, best, every, within_ms })
}

fn entries() -> impl Strategy<Value = Vec<Entry>> {
    // Few values, so that there are ties; -0 and 0 are told apart by nobody here.
    let loss = prop::option::weighted(0.8, prop::sample::select(vec![1.0, 2.0, 3.0, f64::NAN, f64::INFINITY, -5.0]));
    let one = (0..RUNS.len(), prop::option::weighted(0.9, 0..9_u64), 0..60_i64, loss, 0..12_u8);
    let make = |(run, step, age, loss, mark): (usize, Option<u64>, i64, Option<f64>, u8)| {
        let mut entry = entry(RUNS[run], step, NOW - age, loss);
        entry.pinned = mark == 0;
        entry.tags.extend((mark == 1).then(|| "t".to_owned()));
        entry
    };
    prop::collection::vec(one.prop_map(make), 0..20)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn policies_judge_as_the_model_does(
        entries in entries(),
        given in prop::collection::btree_map(prop::sample::select(GLOBS.to_vec()), rules(), 0..5),
        own in rules(),
        chosen in prop::option::of(prop::sample::select(GLOBS.to_vec())),
    ) {
        let given: Vec<(&str, Rules)> = given.into_iter().filter(|(_, rules)| !rules.is_empty()).collect();
        let globs: Vec<&'static str> =
            given.iter().map(|(glob, _)| *GLOBS.iter().find(|other| *other == glob).unwrap()).collect();
        let policies: Vec<Stored> = given.iter().map(|(glob, rules)| policy(glob, rules.clone())).collect();
        let runs = chosen.map(|glob| RunGlob::new(glob).unwrap());
        let verdicts = judge_all(&entries, &policies, Choice { runs: runs.as_ref(), rules: &own }, NOW).unwrap();
        let is_chosen = |run: &str| chosen.is_none_or(|glob| is_for(&[glob], run).is_some());
        let judged: BTreeSet<CheckpointId> = verdicts.iter().map(|verdict| verdict.entry.id).collect();
        let wanted: BTreeSet<CheckpointId> =
            entries.iter().filter(|entry| is_chosen(&entry.run)).map(|entry| entry.id).collect();
        prop_assert_eq!(judged.len(), verdicts.len());
        prop_assert_eq!(judged, wanted);
        for Verdict { entry, keep, reasons, policy } in verdicts {
            let at = entries.iter().position(|other| other.id == entry.id).unwrap();
            let from = is_for(&globs, &entry.run).filter(|_| own.is_empty());
            let rules = match from {
                Some(glob) => &given.iter().find(|(other, _)| *other == glob).unwrap().1,
                None => &own,
            };
            prop_assert_eq!(policy.as_deref(), from);
            prop_assert_eq!(keep, rules.is_empty() || stays(&entries, at, rules), "{:?} by {:?}", entry, rules);
            prop_assert!(!reasons.is_empty());
            let drops = [Reason::NoRule, Reason::NoMetric("loss".into()), Reason::NotANumber("loss".into())];
            prop_assert_eq!(keep, !reasons.iter().any(|reason| drops.contains(reason)));
        }
    }

    #[test]
    fn policies_come_back_as_they_were_set(glob in prop::sample::select(GLOBS.to_vec()), rules in rules()) {
        let before = Policy { runs: glob.into(), rules };
        let read = stored(&[before.to_stored()]);
        if before.rules.is_empty() {
            let refused = matches!(read, Err(Error::Corrupt { .. }));
            prop_assert!(refused);
        } else {
            prop_assert_eq!(read.unwrap(), [before]);
        }
    }
}

#[test]
fn what_is_never_the_best_says_why() {
    let entries = [
        entry("a", Some(1), 0, None),
        entry("a", Some(2), 0, Some(f64::NAN)),
        entry("a", Some(3), 0, Some(2.0)),
        entry("a", Some(4), 0, Some(1.0)),
        entry("a", Some(5), 0, None),
    ];
    let best = Best { count: 1, metric: "loss".into(), mode: Mode::Min };
    let rules = Rules { best: Some(best), ..Rules::default() };
    let verdicts = judge_all(&entries, &[], all(&rules), NOW).unwrap();
    let said: Vec<(bool, Reason)> = verdicts.into_iter().map(|mut v| (v.keep, v.reasons.remove(0))).collect();
    assert_eq!(
        said,
        [
            (false, Reason::NoMetric("loss".into())),
            (false, Reason::NotANumber("loss".into())),
            (false, Reason::NoRule),
            (true, Reason::Best { metric: "loss".into(), rank: 1 }),
            (true, Reason::Newest),
        ]
    );
}

#[test]
fn of_equally_close_globs_the_first_is_taken() {
    let entries = [entry("ab", None, 0, None)];
    let policies = [policy("?b", last(2)), policy("a?", last(1))];
    let used = in_use(&entries, &policies).unwrap();
    assert_eq!(used.iter().map(|used| used.runs.len()).collect::<Vec<_>>(), [1, 0]);
    // An escaped character stands for itself and counts.
    let policies = [policy(r"\a?", last(2)), policy("?", last(1))];
    assert_eq!(in_use(&entries, &policies).unwrap()[0].runs, ["ab"]);
}

#[test]
fn a_policy_that_can_not_be_meant_stops_everything() {
    let entries = [entry("a", Some(0), 0, None), entry("a", Some(1), 0, None)];
    let bad = |change: fn(&mut Stored)| {
        let mut policy = policy("a", last(1));
        change(&mut policy);
        judge_all(&entries, &[policy], all(&Rules::default()), NOW)
    };
    assert!(bad(|_| {}).is_ok());
    for change in [
        (|policy| policy.runs = "[".into()) as fn(&mut Stored),
        |policy| policy.runs = "a".repeat(256),
        |policy| policy.runs = "a\u{1b}[2J".into(),
        |policy| policy.keep_last = None,
        |policy| policy.keep_last = Some(0),
        |policy| policy.keep_every = Some(0),
        |policy| policy.keep_within_ms = Some(0),
    ] {
        assert!(matches!(bad(change), Err(Error::Corrupt { .. })));
    }
    // An age beyond all times is no mistake.
    assert!(bad(|policy| policy.keep_within_ms = Some(u64::MAX)).unwrap().iter().all(|verdict| verdict.keep));
}
