//! `ckpt log`.

use std::io::IsTerminal;

use ckpt_store::{LogFigures, LogReport, LogRequest, LogRow, TensorFacts, name_of};
use serde::Serialize;

use super::Context;
use crate::args::Log;
use crate::failure::Failure;
use crate::figures::{bars, figure, finite, value_json};
use crate::output::{print, print_json, printable, size, table, time};

#[derive(Serialize)]
struct LogJson<'a> {
    run: &'a str,
    tensor: &'a str,
    index: Option<&'a [i64]>,
    checkpoints: Vec<RowJson>,
    read_bytes: u64,
    seconds: f64,
}

#[derive(Serialize)]
struct RowJson {
    #[serde(rename = "ref")]
    reference: String,
    id: String,
    step: Option<u64>,
    time: String,
    /// `present`, `absent`, `damaged`, or `unknown` where there are no figures.
    state: &'static str,
    reason: Option<String>,
    dtype: Option<String>,
    shape: Option<Vec<u64>>,
    bytes: Option<u64>,
    changed: Option<bool>,
    #[serde(flatten)]
    figures: Option<FiguresJson>,
}

#[derive(Serialize)]
#[serde(untagged)]
enum FiguresJson {
    Stats {
        count: u64,
        nan: u64,
        infinite: u64,
        min: Option<f64>,
        max: Option<f64>,
        mean: Option<f64>,
        std: Option<f64>,
        norm: Option<f64>,
    },
    Value {
        value: serde_json::Value,
    },
}

pub fn run(context: &Context, args: &Log) -> Result<(), Failure> {
    if args.csv && context.json {
        return Err(Failure::usage("--csv and --json can't both be what is printed", "leave one of them away"));
    }
    let store = context.open()?;
    let bar = context.bar();
    let index = (!args.index.is_empty()).then(|| args.index.clone());
    let request = LogRequest { run: args.run.clone(), tensor: args.tensor.clone(), index };
    let report = store.log(&request, &bar)?;
    drop(bar);
    if context.json {
        print_json(&LogJson {
            run: &request.run,
            tensor: &report.tensor,
            index: request.index.as_deref(),
            checkpoints: report.rows.iter().map(RowJson::from).collect(),
            read_bytes: report.read_bytes,
            seconds: report.seconds,
        })?;
    } else if args.csv {
        print(&csv(&report, request.index.is_some())?)?;
    } else {
        print(&text(&request, &report))?;
    }
    // What is sound was shown first: that is what somebody looks for on a bad day.
    match report.damage {
        None => Ok(()),
        Some(error) => Err(error.into()),
    }
}

fn text(request: &LogRequest, report: &LogReport) -> String {
    let rows = &report.rows;
    let present: Vec<&TensorFacts> = rows.iter().filter_map(|row| row.tensor.as_ref()).collect();
    let is_one = present.windows(2).all(|pair| (&pair[0].dtype, &pair[0].shape) == (&pair[1].dtype, &pair[1].shape));
    let mut text = printable(&report.tensor);
    if let (true, Some(facts)) = (is_one, present.last()) {
        text += &format!("  {}, {}", kind(facts), size(facts.bytes));
    }
    text += &format!("\n{} of {} checkpoints of {} have it\n\n", present.len(), rows.len(), printable(&request.run));
    let stats = |row: &LogRow| if let LogFigures::Stats(stats) = row.figures { Some(stats) } else { None };
    let is_note = |row: &LogRow| !matches!(row.figures, LogFigures::Stats(_) | LogFigures::Value(_));
    // Columns that would be empty are left out.
    let has = |wanted: &dyn Fn(&LogRow) -> bool| rows.iter().any(wanted);
    let of_whole = request.index.is_none() && has(&|row| stats(row).is_some());
    let columns: Vec<(&str, bool)> = vec![
        ("STEP", true),
        ("CHANGED", true),
        ("DTYPE", !is_one),
        ("SHAPE", !is_one),
        ("VALUE", request.index.is_some()),
        ("MIN", of_whole),
        ("MAX", of_whole),
        ("MEAN", of_whole),
        ("STD", of_whole),
        ("NORM", of_whole),
        ("NAN", has(&|row| stats(row).is_some_and(|stats| stats.nan > 0))),
        ("INF", has(&|row| stats(row).is_some_and(|stats| stats.infinite > 0))),
        ("", has(&is_note)),
    ];
    let shown: Vec<&str> = columns.iter().filter(|(_, is_shown)| *is_shown).map(|(name, _)| *name).collect();
    let cells = |row: &LogRow| {
        let facts = row.tensor.as_ref();
        let stats = stats(row);
        let cell = |name: &&str| match *name {
            "STEP" => step(row),
            "CHANGED" => row.changed.map_or("", |changed| if changed { "yes" } else { "no" }).into(),
            "DTYPE" => facts.and_then(|facts| facts.dtype.clone()).unwrap_or_default(),
            "SHAPE" => {
                facts.and_then(|facts| facts.shape.as_ref()).map_or_else(String::new, |shape| format!("{shape:?}"))
            }
            "VALUE" => {
                if let LogFigures::Value(value) = row.figures {
                    value.to_string()
                } else {
                    String::new()
                }
            }
            "MIN" => stats.map_or_else(String::new, |stats| figure(stats.min)),
            "MAX" => stats.map_or_else(String::new, |stats| figure(stats.max)),
            "MEAN" => stats.map_or_else(String::new, |stats| figure(stats.mean)),
            "STD" => stats.map_or_else(String::new, |stats| figure(stats.std)),
            "NORM" => stats.map_or_else(String::new, |stats| figure(stats.norm)),
            "NAN" => stats.map_or_else(String::new, |stats| stats.nan.to_string()),
            "INF" => stats.map_or_else(String::new, |stats| stats.infinite.to_string()),
            _ => note(row).unwrap_or_default(),
        };
        shown.iter().map(cell).collect()
    };
    let right = ["STEP", "VALUE", "MIN", "MAX", "MEAN", "STD", "NORM", "NAN", "INF"];
    text += &table(&shown, &right, rows.iter().map(cells).collect());
    if std::io::stdout().is_terminal() {
        text += &lines_of_bars(rows);
    }
    text
}

/// A line of bars for each figure that is worth following.
fn lines_of_bars(rows: &[LogRow]) -> String {
    let values = |of: &dyn Fn(&LogFigures) -> f64| rows.iter().map(|row| of(&row.figures)).collect::<Vec<_>>();
    let stat = |of: fn(&ckpt_store::TensorStats) -> f64| {
        values(&|figures| if let LogFigures::Stats(stats) = figures { of(stats) } else { f64::NAN })
    };
    let value = values(&|figures| if let LogFigures::Value(value) = figures { value.to_f64() } else { f64::NAN });
    let followed = [("mean", stat(|s| s.mean)), ("std", stat(|s| s.std)), ("norm", stat(|s| s.norm)), ("value", value)];
    let lines = followed.iter().filter_map(|(name, numbers)| {
        let (line, low, high) = bars(numbers)?;
        Some(format!("{name:<5}  {line}  {} to {}\n", figure(low), figure(high)))
    });
    let lines: String = lines.collect();
    if lines.is_empty() { lines } else { format!("\n{lines}") }
}

/// For programs that read tables. Empty where there is nothing; infinities as `inf`.
fn csv(report: &LogReport, of_element: bool) -> Result<String, Failure> {
    let mut writer = csv::Writer::from_writer(Vec::new());
    let figures: &[&str] =
        if of_element { &["value"] } else { &["count", "nan", "infinite", "min", "max", "mean", "std", "norm"] };
    let head = [&["step", "id", "time", "dtype", "shape", "changed"], figures, &["note"]].concat();
    let failed = |error: csv::Error| Failure::from(ckpt_store::Error::Internal(error.to_string()));
    writer.write_record(&head).map_err(failed)?;
    for row in &report.rows {
        let facts = row.tensor.as_ref();
        let shape = facts.and_then(|facts| facts.shape.as_ref());
        let shape = shape.map(|shape| shape.iter().map(u64::to_string).collect::<Vec<_>>().join("x"));
        let mut fields = vec![
            row.entry.step.map(|step| step.to_string()).unwrap_or_default(),
            row.entry.id.to_string(),
            time(row.entry.time_ms),
            facts.and_then(|facts| facts.dtype.clone()).unwrap_or_default(),
            shape.unwrap_or_default(),
            row.changed.map(|changed| changed.to_string()).unwrap_or_default(),
        ];
        let number = |number: f64| if number.is_nan() { String::new() } else { number.to_string() };
        fields.extend(match &row.figures {
            LogFigures::Stats(s) => {
                let counts = [s.count, s.nan, s.infinite].map(|count| count.to_string());
                counts.into_iter().chain([s.min, s.max, s.mean, s.std, s.norm].map(number)).collect()
            }
            LogFigures::Value(value) => vec![value.to_string()],
            _ => vec![String::new(); figures.len()],
        });
        fields.push(note(row).unwrap_or_default());
        writer.write_record(&fields).map_err(failed)?;
    }
    let bytes = writer.into_inner().map_err(|error| ckpt_store::Error::Internal(error.to_string()))?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn step(row: &LogRow) -> String {
    row.entry.step.map_or_else(|| row.entry.id.to_string(), |step| step.to_string())
}

/// Why a row has no figures.
fn note(row: &LogRow) -> Option<String> {
    match &row.figures {
        LogFigures::Stats(_) | LogFigures::Value(_) => None,
        LogFigures::Absent => Some("absent".into()),
        LogFigures::None(reason) => Some(reason.clone()),
        LogFigures::Damaged(reason) => Some(format!("damaged: {reason}")),
    }
}

/// Type and shape as people write them.
pub fn kind(facts: &TensorFacts) -> String {
    let shape = facts.shape.as_ref().map_or_else(|| "of unknown shape".into(), |shape| format!("{shape:?}"));
    printable(&format!("{} {shape}", facts.dtype.as_deref().unwrap_or("?")))
}

impl From<&LogRow> for RowJson {
    fn from(row: &LogRow) -> Self {
        let (state, reason, figures) = match &row.figures {
            LogFigures::Stats(s) => {
                let (count, nan, infinite) = (s.count, s.nan, s.infinite);
                let [min, max, mean, std, norm] = [s.min, s.max, s.mean, s.std, s.norm].map(finite);
                ("present", None, Some(FiguresJson::Stats { count, nan, infinite, min, max, mean, std, norm }))
            }
            LogFigures::Value(value) => ("present", None, Some(FiguresJson::Value { value: value_json(*value) })),
            LogFigures::Absent => ("absent", None, None),
            LogFigures::None(reason) => ("unknown", Some(reason.clone()), None),
            LogFigures::Damaged(reason) => ("damaged", Some(reason.clone()), None),
        };
        Self {
            reference: name_of(&row.entry),
            id: row.entry.id.to_string(),
            step: row.entry.step,
            time: time(row.entry.time_ms),
            state,
            reason,
            dtype: row.tensor.as_ref().and_then(|facts| facts.dtype.clone()),
            shape: row.tensor.as_ref().and_then(|facts| facts.shape.clone()),
            bytes: row.tensor.as_ref().map(|facts| facts.bytes),
            changed: row.changed,
            figures,
        }
    }
}
