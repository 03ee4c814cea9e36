//! `ckpt policy`: which checkpoints of which runs are kept. Drops nothing: that is gc's.

use ckpt_store::{Best, Mode, Policy, PolicyUse};
use serde::Serialize;

use super::{Context, collect};
use crate::args;
use crate::failure::Failure;
use crate::output::{print, print_json, printable, table};

#[derive(Serialize)]
struct PolicyJson {
    policy: String,
    keep_last: Option<u64>,
    keep_best: Option<BestJson>,
    keep_every: Option<u64>,
    keep_within_seconds: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    runs: Option<Vec<String>>,
}

#[derive(Serialize)]
struct BestJson {
    count: u64,
    metric: String,
    mode: &'static str,
}

pub fn run(context: &Context, args: args::Policy) -> Result<(), Failure> {
    match args {
        args::Policy::Set(args) => set(context, args),
        args::Policy::Ls => ls(context),
        args::Policy::Rm(args) => rm(context, &args),
    }
}

fn set(context: &Context, args: args::PolicySet) -> Result<(), Failure> {
    let policy = Policy { runs: args.runs, rules: collect::rules(args.keep)? };
    let old = context.open()?.set_policy(&policy)?;
    if context.json {
        return print_json(&json(&policy, None));
    }
    let before = old.filter(|old| *old != policy).map_or_else(String::new, |old| format!(" (before: {})", words(&old)));
    print(&format!(
        "{}: keeps {}{before}\n`ckpt gc --dry-run` shows what may go\n",
        printable(&policy.runs),
        words(&policy)
    ))
}

fn ls(context: &Context) -> Result<(), Failure> {
    let policies = context.open()?.policies()?;
    if context.json {
        let list = policies.iter().map(|used| json(&used.policy, Some(used.runs.clone())));
        return print_json(&list.collect::<Vec<_>>());
    }
    if policies.is_empty() {
        return print("no policies: every checkpoint is kept\n");
    }
    let row = |used: &PolicyUse| {
        let runs = match &used.runs[..] {
            [] => "no run".to_owned(),
            [a] => a.clone(),
            [a, b] => format!("{a}, {b}"),
            [a, b, more @ ..] => format!("{a}, {b} and {} more", more.len()),
        };
        vec![used.policy.runs.clone(), words(&used.policy), runs]
    };
    print(&table(&["POLICY", "KEEPS", "FOR"], &[], policies.iter().map(row).collect()))
}

fn rm(context: &Context, args: &args::PolicyRm) -> Result<(), Failure> {
    context.open()?.remove_policy(&args.runs)?;
    if context.json {
        return print_json(&serde_json::json!({ "policy": args.runs }));
    }
    print(&format!("{}: no policy of its own any more\n", printable(&args.runs)))
}

/// The rules of a policy as a person says them.
fn words(policy: &Policy) -> String {
    let rules = &policy.rules;
    let last = rules.last.map(|count| format!("the last {count}"));
    let best = rules.best.as_ref().map(|best| format!("the best {} by {} ({})", best.count, best.metric, mode(best)));
    let every = rules.every.map(|steps| format!("every {steps} steps"));
    let within = rules.within_ms.map(|ms| format!("those of the last {}", span(ms)));
    [last, best, every, within].into_iter().flatten().collect::<Vec<_>>().join(", ")
}

fn mode(best: &Best) -> &'static str {
    if best.mode == Mode::Min { "min" } else { "max" }
}

/// A time in the largest unit that it is a whole number of.
fn span(ms: i64) -> String {
    const UNITS: [(i64, &str); 4] = [(86_400_000, "d"), (3_600_000, "h"), (60_000, "m"), (1000, "s")];
    match UNITS.into_iter().find(|(unit, _)| ms % unit == 0) {
        Some((unit, name)) => format!("{}{name}", ms / unit),
        None => format!("{} s", ms as f64 / 1000.0),
    }
}

fn json(policy: &Policy, runs: Option<Vec<String>>) -> PolicyJson {
    let rules = &policy.rules;
    let best = |best: &Best| BestJson { count: best.count, metric: best.metric.clone(), mode: mode(best) };
    PolicyJson {
        policy: policy.runs.clone(),
        keep_last: rules.last,
        keep_best: rules.best.as_ref().map(best),
        keep_every: rules.every,
        keep_within_seconds: rules.within_ms.map(|ms| ms as f64 / 1000.0),
        runs,
    }
}
