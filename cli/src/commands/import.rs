//! `ckpt import`.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::ExitCode;

use ckpt_store::{
    Entry, ImportAction, ImportDone, ImportEvent, ImportItem, ImportPlan, ImportReport, ImportRequest, ImportResult,
};
use serde::Serialize;

use super::Context;
use super::put::line;
use crate::args::{Import, Sources};
use crate::failure::Failure;
use crate::output::{CheckpointJson, print, print_json, printable, size, table, title};

/// Exit code when something was left undone.
const FAILED: u8 = 1;

#[derive(Serialize)]
struct PlanJson {
    items: Vec<ItemJson>,
    bytes: u64,
}

#[derive(Serialize)]
struct ItemJson {
    path: String,
    action: &'static str,
    step: Option<u64>,
    metrics: BTreeMap<String, Option<f64>>,
    tag: Option<String>,
    bytes: u64,
    note: Option<String>,
}

#[derive(Serialize)]
struct ReportJson {
    results: Vec<ResultJson>,
    stored: u64,
    already_stored: u64,
    removed: u64,
    failed: u64,
    left: u64,
    stopped: Option<String>,
}

/// What became of one source. Also a line of `watch`.
#[derive(Serialize)]
pub struct ResultJson {
    path: String,
    done: &'static str,
    checkpoint: Option<CheckpointJson>,
    removed: bool,
    message: Option<String>,
}

impl ResultJson {
    /// Something was done.
    pub fn done(path: &Path, done: &ImportDone, removed: bool) -> Self {
        let (done, entry): (_, Option<&Entry>) = match done {
            ImportDone::Stored(report) => ("stored", Some(&report.entry)),
            ImportDone::AlreadyStored(entry) => ("already stored", Some(entry)),
            ImportDone::Tagged(entry) => ("tagged", Some(entry)),
            ImportDone::Finished(entry) => ("removed", Some(entry)),
            ImportDone::Skipped => ("skipped", None),
        };
        let path = path.to_string_lossy().into_owned();
        Self { path, done, checkpoint: entry.map(CheckpointJson::from), removed, message: None }
    }

    /// Something was not.
    pub fn not(path: &Path, done: &'static str, message: String) -> Self {
        Self {
            path: path.to_string_lossy().into_owned(),
            done,
            checkpoint: None,
            removed: false,
            message: Some(message),
        }
    }
}

/// What import and watch ask of the library alike.
pub fn request(sources: Sources) -> ImportRequest {
    let Sources { dir, run, pattern, delete_source, room } = sources;
    ImportRequest { dir, run, pattern, delete_source, reserve: room.reserve, gc: room.gc }
}

pub fn run(context: &Context, args: Import) -> Result<ExitCode, Failure> {
    let store = context.open()?;
    let request = request(args.sources);
    let plan = store.plan_import(&request)?;
    if args.dry_run {
        show_plan(context, &plan, request.delete_source)?;
        return Ok(ExitCode::SUCCESS);
    }
    let bar = context.bar();
    let (all, mut before) = (plan.bytes(), 0);
    let mut printed = Ok(());
    let mut tell = |event: ImportEvent<'_>| match event {
        ImportEvent::Begin(nr, of, item) => {
            bar.part(format!("{nr}/{of}, {} of {}: ", size(before), size(all)));
            before += item.bytes;
        }
        ImportEvent::End(result) if !context.json => {
            if let (Ok(()), Some(text)) = (&printed, text_of(result)) {
                printed = bar.aside(|| print(&text));
            }
            if let Err(error) = &result.outcome {
                bar.say(&format!("Error: {}: {error}", printable(&result.item.name.to_string_lossy())));
            }
        }
        ImportEvent::End(_) => {}
    };
    let report = store.import(plan, &mut tell, &bar);
    drop(bar);
    // Whoever read stdout may be gone; the work was done all the same.
    printed?;
    conclude(context, report)
}

fn conclude(context: &Context, report: ImportReport) -> Result<ExitCode, Failure> {
    let ImportReport { results, left, stopped } = report;
    let count = |is: fn(&ImportDone) -> bool| {
        results.iter().filter(|result| result.outcome.as_ref().is_ok_and(is)).count() as u64
    };
    let stored = count(|done| matches!(done, ImportDone::Stored(_)));
    let already_stored = count(|done| matches!(done, ImportDone::AlreadyStored(_)));
    let removed = results.iter().filter(|result| result.removed).count() as u64;
    let failed = results.iter().filter(|result| result.outcome.is_err()).count() as u64;
    let left = left.iter().filter(|item| item.action != ImportAction::Skip).count() as u64;
    if context.json {
        print_json(&ReportJson {
            results: results.iter().map(json_of).collect(),
            stored,
            already_stored,
            removed,
            failed,
            left,
            stopped: stopped.as_ref().map(ToString::to_string),
        })?;
    } else {
        let mut text = format!("{stored} stored");
        for (number, what) in
            [(already_stored, "already stored"), (removed, "removed"), (failed, "failed"), (left, "not tried")]
        {
            if number > 0 {
                text += &format!(", {number} {what}");
            }
        }
        print(&(text + "\n"))?;
    }
    match stopped {
        Some(error) => {
            let code = Failure::from(error).report();
            eprintln!(
                "Note: what was stored is safe, and the others are still where they were. The same command goes on from here."
            );
            Ok(code)
        }
        None if failed > 0 => {
            eprintln!("Hint: what failed is still where it was. The same command tries again.");
            Ok(ExitCode::from(FAILED))
        }
        None => Ok(ExitCode::SUCCESS),
    }
}

fn json_of(result: &ImportResult) -> ResultJson {
    let name = &result.item.name;
    match &result.outcome {
        Ok(ImportDone::Skipped) => ResultJson::not(name, "skipped", result.item.note.clone().unwrap_or_default()),
        Ok(done) => ResultJson { message: result.item.note.clone(), ..ResultJson::done(name, done, result.removed) },
        Err(error) => ResultJson::not(name, "failed", error.to_string()),
    }
}

/// One line for what was done; none for what failed, which stderr tells.
fn text_of(result: &ImportResult) -> Option<String> {
    let text = done_text(&result.item.name, result.outcome.as_ref().ok()?, result.removed);
    Some(match (&result.item.note, text) {
        (None, text) => text,
        (Some(note), text) => format!("{} ({})\n", text.trim_end(), printable(note)),
    })
}

/// One line for what was done with a source.
pub fn done_text(name: &Path, done: &ImportDone, removed: bool) -> String {
    let name = printable(&name.to_string_lossy());
    let removed = if removed { ", source removed" } else { "" };
    match done {
        ImportDone::Stored(report) => format!("{name} -> {}{removed}\n", line(report).trim_end()),
        ImportDone::AlreadyStored(entry) => format!("{name} -> {}: already stored{removed}\n", title(entry)),
        ImportDone::Tagged(entry) => format!("{name} -> {}: tagged{removed}\n", title(entry)),
        ImportDone::Finished(entry) => format!("{name} -> {}: the removal was finished\n", title(entry)),
        ImportDone::Skipped => format!("{name}: skipped\n"),
    }
}

fn show_plan(context: &Context, plan: &ImportPlan, delete: bool) -> Result<(), Failure> {
    if context.json {
        return print_json(&PlanJson { items: plan.items.iter().map(item_json).collect(), bytes: plan.bytes() });
    }
    let rows = plan.items.iter().map(|item| {
        let metrics: Vec<String> = item.metrics.iter().map(|(name, value)| format!("{name}={value}")).collect();
        vec![
            action_name(&item.action).to_owned(),
            item.name.to_string_lossy().into_owned(),
            item.step.map(|step| step.to_string()).unwrap_or_default(),
            if item.bytes > 0 { size(item.bytes) } else { String::new() },
            metrics.join(" "),
            item.tag.clone().unwrap_or_default(),
            item.note.clone().unwrap_or_default(),
        ]
    });
    let head = ["", "PATH", "STEP", "SIZE", "METRICS", "TAG", "NOTE"];
    let mut text = if plan.items.is_empty() { String::new() } else { table(&head, &["STEP", "SIZE"], rows.collect()) };
    let count =
        |actions: &[&str]| plan.items.iter().filter(|item| actions.contains(&action_name(&item.action))).count();
    let works = count(&["store", "compare"]);
    let then = if delete { ", and remove each once it is read back and the same" } else { "" };
    text += &format!("would take over {works} checkpoints of {}{then}\n", size(plan.bytes()));
    print(&text)
}

fn action_name(action: &ImportAction) -> &'static str {
    match action {
        ImportAction::Store => "store",
        ImportAction::Compare => "compare",
        ImportAction::Refuse => "refuse",
        ImportAction::Tag(_) => "tag",
        ImportAction::Finish(_) => "remove",
        ImportAction::Skip => "skip",
        ImportAction::Unreadable => "unreadable",
    }
}

fn item_json(item: &ImportItem) -> ItemJson {
    let number = |value: &f64| Some(*value).filter(|value| value.is_finite());
    ItemJson {
        path: item.name.to_string_lossy().into_owned(),
        action: action_name(&item.action),
        step: item.step,
        metrics: item.metrics.iter().map(|(name, value)| (name.clone(), number(value))).collect(),
        tag: item.tag.clone(),
        bytes: item.bytes,
        note: item.note.clone(),
    }
}
