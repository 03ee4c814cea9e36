//! `ckpt df`: what the store holds, run by run, and how long the disk lasts. Never changes anything.

use std::collections::BTreeMap;

use ckpt_store::{RunStats, Stats};
use serde::Serialize;

use super::Context;
use crate::failure::Failure;
use crate::output::{print, print_json, size, table, time};

#[derive(Serialize)]
struct DfJson {
    store: String,
    logical_bytes: u64,
    stored_bytes: u64,
    reclaimable_bytes: u64,
    free_bytes: u64,
    checkpoints: u64,
    growth_bytes: Option<u64>,
    fit_more: Option<u64>,
    full_at: Option<String>,
    per_run: BTreeMap<String, RunJson>,
}

#[derive(Serialize)]
struct RunJson {
    checkpoints: u64,
    logical_bytes: u64,
    added_bytes: u64,
    written_bytes: u64,
    stored_bytes: u64,
    unique_bytes: u64,
    dedup_ratio: Option<f64>,
    growth_bytes: Option<u64>,
}

pub fn run(context: &Context) -> Result<(), Failure> {
    let store = context.open()?;
    let bar = context.bar();
    let stats = store.stats(&bar)?;
    drop(bar);
    let fit_more = stats.growth_bytes.filter(|growth| *growth > 0).map(|growth| stats.free_bytes / growth);
    if context.json {
        return print_json(&DfJson {
            store: store.root().display().to_string(),
            logical_bytes: stats.logical_bytes,
            stored_bytes: stats.stored_bytes,
            reclaimable_bytes: stats.reclaimable_bytes,
            free_bytes: stats.free_bytes,
            checkpoints: stats.checkpoints,
            growth_bytes: stats.growth_bytes,
            fit_more,
            full_at: stats.full_in_ms.and_then(full_at).map(time),
            per_run: stats.runs.into_iter().map(|(name, run)| (name, run_json(&run))).collect(),
        });
    }
    print(&text(&stats, fit_more))
}

fn run_json(run: &RunStats) -> RunJson {
    RunJson {
        checkpoints: run.checkpoints,
        logical_bytes: run.logical_bytes,
        added_bytes: run.added_bytes,
        written_bytes: run.written_bytes,
        stored_bytes: run.stored_bytes,
        unique_bytes: run.unique_bytes,
        dedup_ratio: ratio(run.logical_bytes, run.stored_bytes),
        growth_bytes: run.growth_bytes,
    }
}

fn ratio(logical: u64, stored: u64) -> Option<f64> {
    (stored > 0).then(|| logical as f64 / stored as f64)
}

/// The moment, if it is one that can be written down.
fn full_at(in_ms: u64) -> Option<i64> {
    // A thousand years are no forecast.
    let in_ms = i64::try_from(in_ms).ok().filter(|ms| *ms < 1000 * 365 * 86_400_000)?;
    Some(jiff::Timestamp::now().as_millisecond() + in_ms)
}

fn text(stats: &Stats, fit_more: Option<u64>) -> String {
    let row = |(name, run): (&String, &RunStats)| {
        vec![
            name.clone(),
            run.checkpoints.to_string(),
            size(run.logical_bytes),
            size(run.stored_bytes),
            size(run.unique_bytes),
            ratio(run.logical_bytes, run.stored_bytes).map_or_else(|| "-".into(), |ratio| format!("{ratio:.1}x")),
            run.growth_bytes.map_or_else(|| "-".into(), size),
        ]
    };
    let columns = ["CHECKPOINTS", "SIZE", "STORED", "ONLY HERE", "SMALLER", "GROWTH"];
    let mut text = String::new();
    if !stats.runs.is_empty() {
        let head: Vec<&str> = ["RUN"].into_iter().chain(columns).collect();
        text += &table(&head, &columns, stats.runs.iter().map(row).collect());
        text += "\n";
    }
    let smaller = match ratio(stats.logical_bytes, stats.stored_bytes) {
        Some(ratio) if ratio > 1.0 => format!(", {ratio:.1}x smaller"),
        _ => String::new(),
    };
    let noun = if stats.checkpoints == 1 { "checkpoint" } else { "checkpoints" };
    text += &format!(
        "{} {noun} of {} in {}{smaller}\n",
        stats.checkpoints,
        size(stats.logical_bytes),
        size(stats.stored_bytes)
    );
    let growth = match (stats.growth_bytes, fit_more) {
        (Some(growth), Some(more)) => {
            format!("; {} for each of the last checkpoints, so about {more} more fit", size(growth))
        }
        (Some(_), None) => "; the last checkpoints wrote nothing new".into(),
        (None, _) => String::new(),
    };
    text += &format!("{} free on this disk{growth}\n", size(stats.free_bytes));
    if let Some(in_ms) = stats.full_in_ms {
        text += &format!("at the pace of the last puts it is full in {}\n", span(in_ms));
    }
    if stats.reclaimable_bytes > 0 {
        text += &format!("`ckpt gc` would free {}\n", size(stats.reclaimable_bytes));
    }
    text
}

/// A time to come, in one unit.
fn span(ms: u64) -> String {
    match ms / 1000 {
        seconds @ 0..120 => format!("{seconds} seconds"),
        seconds @ 120..7200 => format!("{} minutes", seconds / 60),
        seconds @ 7200..172_800 => format!("{} hours", seconds / 3600),
        seconds if seconds < 10 * 365 * 86_400 => format!("{} days", seconds / 86_400),
        _ => "more than ten years".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_to_come_have_one_unit() {
        let of = |seconds: u64| span(seconds * 1000);
        assert_eq!([of(5), of(120), of(7300), of(200_000)], ["5 seconds", "2 minutes", "2 hours", "2 days"]);
        assert_eq!(span(u64::MAX), "more than ten years");
        assert_eq!(full_at(u64::MAX), None);
    }

    #[test]
    fn the_table_fits_a_hundred_columns() {
        let run = RunStats {
            checkpoints: 160,
            logical_bytes: 400_120_000_000,
            stored_bytes: 34_400_000_000,
            unique_bytes: 32_010_000_000,
            growth_bytes: Some(196_340_000),
            ..RunStats::default()
        };
        let stats = Stats {
            logical_bytes: 400_120_000_000,
            stored_bytes: 34_500_000_000,
            reclaimable_bytes: 1,
            free_bytes: 43_000_000_000,
            checkpoints: 160,
            growth_bytes: run.growth_bytes,
            full_in_ms: Some(200_000_000),
            runs: [("speech-enhancement/stage-one".to_owned(), run)].into(),
        };
        let text = text(&stats, Some(219));
        assert!(text.lines().all(|line| line.chars().count() <= 100), "{text}");
        for shown in [
            "400.12 GB",
            "34.40 GB",
            "32.01 GB",
            "11.6x",
            "196.34 MB",
            "219 more fit",
            "full in 2 days",
            "would free 1 B",
        ] {
            assert!(text.contains(shown), "{shown}: {text}");
        }
    }
}
