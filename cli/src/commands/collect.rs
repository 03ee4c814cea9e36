//! `ckpt rm` and `ckpt gc`: what goes. Never decides which: rules do.

use ckpt_store::{Best, GcRequest, Rules, Verdict, mode_of, name_of};
use serde::Serialize;

use super::Context;
use crate::args::{Gc, Keep, Mode, Rm};
use crate::failure::Failure;
use crate::output::{CheckpointJson, age, print, print_json, size, table, title};

#[derive(Serialize)]
struct GcJson {
    dry_run: bool,
    dropped: Vec<VerdictJson>,
    kept: Vec<VerdictJson>,
    freed_bytes: u64,
    packs_deleted: u64,
    packs_rewritten: u64,
    copied_bytes: u64,
    packs_unreadable: Vec<String>,
    packs_damaged: Vec<String>,
    still_read: Vec<String>,
}

#[derive(Serialize)]
struct VerdictJson {
    #[serde(flatten)]
    checkpoint: CheckpointJson,
    reasons: Vec<String>,
    policy: Option<String>,
}

pub fn rm(context: &Context, args: &Rm) -> Result<(), Failure> {
    let store = context.open()?;
    let bar = context.bar();
    let settled = args.references.iter().map(|reference| store.settle(reference, &bar));
    let references = settled.collect::<Result<Vec<_>, _>>()?;
    drop(bar);
    let dropped = store.remove(&references)?;
    if context.json {
        return print_json(&dropped.iter().map(CheckpointJson::from).collect::<Vec<_>>());
    }
    let lines: String = dropped.iter().map(|entry| format!("{}: dropped\n", name_of(entry))).collect();
    print(&(lines + "`ckpt gc` frees the room that nothing else uses\n"))
}

pub fn gc(context: &Context, args: Gc) -> Result<(), Failure> {
    let request = GcRequest { runs: args.run, rules: rules(args.keep)?, dry_run: args.dry_run };
    let store = context.open()?;
    let bar = context.bar();
    let report = store.gc(&request, &bar)?;
    drop(bar);
    let (kept, dropped): (Vec<&Verdict>, Vec<&Verdict>) = report.verdicts.iter().partition(|verdict| verdict.keep);
    if context.json {
        return print_json(&GcJson {
            dry_run: request.dry_run,
            dropped: dropped.into_iter().map(verdict_json).collect(),
            kept: kept.into_iter().map(verdict_json).collect(),
            freed_bytes: report.freed_bytes,
            packs_deleted: report.packs_deleted,
            packs_rewritten: report.packs_rewritten,
            copied_bytes: report.copied_bytes,
            packs_unreadable: report.packs_unreadable.iter().map(ToString::to_string).collect(),
            packs_damaged: report.packs_damaged.iter().map(ToString::to_string).collect(),
            still_read: report.still_read.iter().map(ToString::to_string).collect(),
        });
    }
    // A plan shows everything; what was done is said of those that are gone.
    let shown = if request.dry_run { report.verdicts.iter().collect() } else { dropped.clone() };
    let mut text = verdict_table(&shown);
    let (drops, frees) = if request.dry_run { ("would drop", "would free") } else { ("dropped", "freed") };
    let noun = if report.verdicts.len() == 1 { "checkpoint" } else { "checkpoints" };
    text += &format!(
        "{drops} {} of {} {noun}, {frees} {}\n",
        dropped.len(),
        report.verdicts.len(),
        size(report.freed_bytes)
    );
    if report.packs_rewritten > 0 {
        let (verb, noun) = (if request.dry_run { "would rewrite" } else { "rewrote" }, "mostly unused or small packs");
        text += &format!("{verb} {} {noun}, copying {}\n", report.packs_rewritten, size(report.copied_bytes));
    }
    match report.still_read.len() as u64 {
        0 => {}
        1 => eprintln!(
            "Note: a checkpoint that was dropped is still read, by a mount or a get: what only it needs stays until a later gc"
        ),
        more => eprintln!(
            "Note: {more} checkpoints that were dropped are still read, by mounts or gets: what only they need stays until a later gc"
        ),
    }
    for pack in &report.packs_damaged {
        eprintln!(
            "Note: pack {pack} holds a damaged chunk that is needed and was left alone; `ckpt verify` says what needs it"
        );
    }
    for pack in &report.packs_unreadable {
        eprintln!("Note: pack {pack} can't be read and was left alone; `ckpt verify` says what needs it");
    }
    print(&text)
}

fn verdict_table(verdicts: &[&Verdict]) -> String {
    if verdicts.is_empty() {
        return String::new();
    }
    let by_policy = verdicts.iter().any(|verdict| verdict.policy.is_some());
    let row = |verdict: &&Verdict| {
        let what = if verdict.keep { "keep" } else { "drop" };
        let mut row = vec![what.into(), title(&verdict.entry), age(verdict.entry.time_ms)];
        row.extend(by_policy.then(|| verdict.policy.clone().unwrap_or_default()));
        row.push(reasons(verdict).join(", "));
        row
    };
    let head: &[&str] =
        if by_policy { &["", "CHECKPOINT", "STORED", "POLICY", "WHY"] } else { &["", "CHECKPOINT", "STORED", "WHY"] };
    table(head, &[], verdicts.iter().map(row).collect())
}

/// The rules that options give.
pub fn rules(keep: Keep) -> Result<Rules, Failure> {
    Ok(Rules {
        last: keep.keep_last,
        best: best(keep.keep_best, keep.metric, keep.mode)?,
        every: keep.keep_every,
        within_ms: keep.keep_within,
    })
}

fn best(count: Option<u64>, metric: Option<String>, mode: Option<Mode>) -> Result<Option<Best>, Failure> {
    let (Some(count), Some(metric)) = (count, metric) else { return Ok(None) };
    let mode = match mode {
        Some(Mode::Min) => Some(ckpt_store::Mode::Min),
        Some(Mode::Max) => Some(ckpt_store::Mode::Max),
        None => mode_of(&metric),
    };
    let mode = mode.ok_or_else(|| {
        Failure::usage(
            format!("whether small or large {metric} is good can't be told from its name"),
            "add --mode min or --mode max",
        )
    })?;
    Ok(Some(Best { count, metric, mode }))
}

fn reasons(verdict: &Verdict) -> Vec<String> {
    verdict.reasons.iter().map(ToString::to_string).collect()
}

fn verdict_json(verdict: &Verdict) -> VerdictJson {
    VerdictJson {
        checkpoint: CheckpointJson::from(&verdict.entry),
        reasons: reasons(verdict),
        policy: verdict.policy.clone(),
    }
}
