//! `ckpt put`.

use ckpt_store::{PutReport, PutRequest, step_of};
use serde::Serialize;

use super::Context;
use crate::args::Put;
use crate::failure::Failure;
use crate::output::{CheckpointJson, print, print_json, size, title};

#[derive(Serialize)]
struct PutJson {
    #[serde(flatten)]
    checkpoint: CheckpointJson,
    new_bytes: u64,
    chunks: u64,
    new_chunks: u64,
    seconds: f64,
}

pub fn run(context: &Context, args: Put) -> Result<(), Failure> {
    let store = context.open()?;
    let request = PutRequest {
        step: args.step.or_else(|| step_of(&args.paths)),
        paths: args.paths,
        run: args.run,
        metrics: args.metrics.into_iter().collect(),
        meta: args.meta.into_iter().collect(),
        tags: args.tags.into_iter().collect(),
        replace: args.replace,
        reserve: args.room.reserve,
        gc: args.room.gc,
        ..PutRequest::default()
    };
    let bar = context.bar();
    let report = store.put(&request, &bar)?;
    drop(bar);
    if context.json {
        return print_json(&PutJson {
            checkpoint: CheckpointJson::from(&report.entry),
            new_bytes: report.entry.added_bytes,
            chunks: report.chunks,
            new_chunks: report.new_chunks,
            seconds: report.seconds,
        });
    }
    print(&line(&report))
}

/// What a put did, in one line.
pub fn line(report: &PutReport) -> String {
    let entry = &report.entry;
    format!(
        "{}: {} in {:.2} s, {} already stored, {} new, {} written\n",
        title(entry),
        size(entry.logical_bytes),
        report.seconds,
        size(entry.logical_bytes.saturating_sub(entry.added_bytes)),
        size(entry.added_bytes),
        size(entry.written_bytes),
    )
}
