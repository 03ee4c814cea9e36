//! `ckpt ls`.

use std::collections::BTreeMap;

use ckpt_store::Entry;
use serde::Serialize;

use super::Context;
use crate::args::Ls;
use crate::failure::Failure;
use crate::output::{CheckpointJson, age, metrics, print, print_json, size, table, tags};

#[derive(Serialize)]
struct RunJson {
    run: String,
    checkpoints: u64,
    logical_bytes: u64,
    added_bytes: u64,
    latest: CheckpointJson,
}

pub fn ls(context: &Context, args: &Ls) -> Result<(), Failure> {
    let store = context.open()?;
    if let Some(run) = &args.run {
        let entries = store.checkpoints_of(run)?;
        if context.json {
            return print_json(&entries.iter().map(CheckpointJson::from).collect::<Vec<_>>());
        }
        let head = ["STEP", "STORED", "SIZE", "ADDED", "METRICS", "TAGS"];
        let row = |entry: &Entry| {
            let step = entry.step.map_or_else(|| entry.id.to_string(), |step| step.to_string());
            vec![
                step,
                age(entry.time_ms),
                size(entry.logical_bytes),
                size(entry.added_bytes),
                metrics(entry),
                tags(entry),
            ]
        };
        return print(&table(&head, &["STEP", "SIZE", "ADDED"], entries.iter().map(row).collect()));
    }
    let mut runs: BTreeMap<String, Vec<Entry>> = BTreeMap::new();
    for entry in store.checkpoints()? {
        runs.entry(entry.run.clone()).or_default().push(entry);
    }
    if context.json {
        return print_json(&runs.into_iter().filter_map(|(run, entries)| run_json(run, &entries)).collect::<Vec<_>>());
    }
    if runs.is_empty() {
        return print("no checkpoints yet; `ckpt put PATH --run RUN` stores one\n");
    }
    let head = ["RUN", "CHECKPOINTS", "LATEST", "STORED", "SIZE", "ADDED"];
    let row = |(run, entries): (&String, &Vec<Entry>)| {
        let latest = entries.last();
        vec![
            run.clone(),
            entries.len().to_string(),
            latest
                .map(|entry| entry.step.map_or_else(|| entry.id.to_string(), |step| step.to_string()))
                .unwrap_or_default(),
            latest.map(|entry| age(entry.time_ms)).unwrap_or_default(),
            size(entries.iter().map(|entry| entry.logical_bytes).sum()),
            size(entries.iter().map(|entry| entry.added_bytes).sum()),
        ]
    };
    print(&table(&head, &["CHECKPOINTS", "LATEST", "SIZE", "ADDED"], runs.iter().map(row).collect()))
}

fn run_json(run: String, entries: &[Entry]) -> Option<RunJson> {
    Some(RunJson {
        latest: CheckpointJson::from(entries.last()?),
        checkpoints: entries.len() as u64,
        logical_bytes: entries.iter().map(|entry| entry.logical_bytes).sum(),
        added_bytes: entries.iter().map(|entry| entry.added_bytes).sum(),
        run,
    })
}
