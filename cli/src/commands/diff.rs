//! `ckpt diff`.

use std::collections::{BTreeMap, BTreeSet};

use ckpt_store::{
    DiffReport, DiffRequest, Difference, Entry, Error, FileChange, Member, TensorChange, TensorChanges, TensorFacts,
    name_of,
};
use serde::Serialize;

use super::log::kind;
use super::{Context, or_instead};
use crate::args::Diff;
use crate::failure::Failure;
use crate::figures::{figure, finite};
use crate::output::{CheckpointJson, print, print_json, printable, size, table, title};

#[derive(Serialize)]
struct DiffJson<'a> {
    before: CheckpointJson,
    after: CheckpointJson,
    metrics: BTreeMap<&'a str, ChangeJson<Option<f64>>>,
    files: Vec<FileJson>,
    files_unchanged: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    tensors: Option<TensorsJson<'a>>,
    read_bytes: u64,
    seconds: f64,
}

#[derive(Serialize)]
struct ChangeJson<T> {
    before: T,
    after: T,
}

#[derive(Serialize)]
struct FileJson {
    path: String,
    /// Its path in the earlier checkpoint, when that is another.
    was: Option<String>,
    /// `added`, `removed` or `changed`.
    change: &'static str,
    content: bool,
    before: Option<MemberJson>,
    after: Option<MemberJson>,
}

#[derive(Serialize)]
struct MemberJson {
    kind: &'static str,
    bytes: u64,
    mode: Option<String>,
    target: Option<String>,
}

#[derive(Serialize)]
struct TensorsJson<'a> {
    added: Vec<TensorJson<'a>>,
    removed: Vec<TensorJson<'a>>,
    reshaped: Vec<ReshapedJson<'a>>,
    changed: Vec<ChangedJson<'a>>,
    unchanged: u64,
}

#[derive(Serialize)]
struct TensorJson<'a> {
    name: &'a str,
    #[serde(flatten)]
    facts: FactsJson<'a>,
}

#[derive(Serialize)]
struct FactsJson<'a> {
    dtype: Option<&'a str>,
    shape: Option<&'a [u64]>,
    bytes: u64,
}

#[derive(Serialize)]
struct ReshapedJson<'a> {
    name: &'a str,
    before: FactsJson<'a>,
    after: FactsJson<'a>,
}

#[derive(Serialize)]
struct ChangedJson<'a> {
    #[serde(flatten)]
    tensor: TensorJson<'a>,
    elements: Option<u64>,
    changed_elements: Option<u64>,
    max_abs: Option<f64>,
    mean_abs: Option<f64>,
    relative: Option<f64>,
    cosine: Option<f64>,
    nonfinite_before: Option<u64>,
    nonfinite_after: Option<u64>,
}

pub fn run(context: &Context, args: &Diff) -> Result<(), Failure> {
    let store = context.open()?;
    let bar = context.bar();
    let [before, after] = [store.settle(&args.before, &bar)?, store.settle(&args.after, &bar)?];
    let request = DiffRequest { before, after, tensors: args.tensors };
    let outcome = store.diff(&request, &bar);
    // The damaged one of the two is the one for which another is looked for.
    let is_after = outcome.as_ref().err().is_some_and(|error| {
        store.resolve(&request.after).is_ok_and(|after| match error {
            Error::Damaged(places) => places.iter().any(|place| place.checkpoint == name_of(&after)),
            error => error.to_string().contains(&after.id.to_string()),
        })
    });
    let damaged = if is_after { &request.after } else { &request.before };
    let report = or_instead(outcome, &store, damaged, &bar)?;
    drop(bar);
    if context.json {
        return print_json(&json(&report));
    }
    print(&text(&report))
}

/// Metrics of which the two have other values: bits count, so that NaN is itself.
fn metrics<'a>(before: &'a Entry, after: &'a Entry) -> BTreeMap<&'a str, (Option<f64>, Option<f64>)> {
    let names: BTreeSet<&String> = before.metrics.keys().chain(after.metrics.keys()).collect();
    let both = names.into_iter().map(|name| {
        let of = |entry: &Entry| entry.metrics.get(name).copied();
        (&**name, (of(before), of(after)))
    });
    both.filter(|(_, (before, after))| before.map(f64::to_bits) != after.map(f64::to_bits)).collect()
}

fn text(report: &DiffReport) -> String {
    let mut text = format!("{} -> {}\n", printable(&title(&report.before)), printable(&title(&report.after)));
    for (name, (before, after)) in metrics(&report.before, &report.after) {
        let value = |value: Option<f64>| value.map_or_else(|| "none".into(), |value| value.to_string());
        text += &format!("  {} {} -> {}\n", printable(name), value(before), value(after));
    }
    if !report.files.is_empty() {
        let rows = report.files.iter().map(|file| vec![path_of(file), what(file), sizes(file)]).collect();
        text += &format!("\n{}", table(&["FILE", "CHANGE", "SIZE"], &["SIZE"], rows));
    }
    if let Some(tensors) = &report.tensors {
        text += &tensors_text(tensors);
    }
    text.push('\n');
    let count = |wanted: &str| report.files.iter().filter(|file| change(file) == wanted).count() as u64;
    let files = [count("added"), count("removed"), count("changed"), report.files_unchanged];
    let names = ["added", "removed", "changed", "unchanged"];
    text += &format!("files: {}\n", counts(&names, &files));
    if let Some(tensors) = &report.tensors {
        let TensorChanges { added, removed, reshaped, changed, unchanged } = tensors;
        let numbers = [added.len(), removed.len(), reshaped.len(), changed.len()].map(|count| count as u64);
        let names = ["added", "removed", "reshaped", "changed", "unchanged"];
        text += &format!("tensors: {}", counts(&names, &[&numbers[..], &[*unchanged]].concat()));
        text += &format!("; {} read in {:.2} s\n", size(report.read_bytes), report.seconds);
    }
    text
}

/// `2 added, 31 unchanged`: those that are not 0.
fn counts(names: &[&str], numbers: &[u64]) -> String {
    let some = names.iter().zip(numbers).filter(|(_, number)| **number > 0);
    let some: Vec<String> = some.map(|(name, number)| format!("{number} {name}")).collect();
    if some.is_empty() { "none".into() } else { some.join(", ") }
}

fn tensors_text(tensors: &TensorChanges) -> String {
    let mut text = String::new();
    let one = |name: &String, change: &str, facts: &TensorFacts| vec![name.clone(), change.into(), kind(facts)];
    let mut rows: Vec<Vec<String>> = Vec::new();
    rows.extend(tensors.added.iter().map(|(name, facts)| one(name, "added", facts)));
    rows.extend(tensors.removed.iter().map(|(name, facts)| one(name, "removed", facts)));
    rows.extend(tensors.reshaped.iter().map(|(name, before, after)| {
        vec![name.clone(), "reshaped".into(), format!("{} -> {}", kind(before), kind(after))]
    }));
    if !rows.is_empty() {
        text += &format!("\n{}", table(&["TENSOR", "CHANGE", ""], &[], rows));
    }
    if tensors.changed.is_empty() {
        return text;
    }
    let nonfinite = |difference: &Difference| difference.nonfinite_before + difference.nonfinite_after > 0;
    let with_nonfinite = tensors.changed.iter().filter_map(|change| change.difference.as_ref()).any(nonfinite);
    let mut head = vec!["TENSOR", "", "RELATIVE", "MAX", "MEAN", "COSINE", "ELEMENTS"];
    head.extend(with_nonfinite.then_some("NOT FINITE"));
    let row = |change: &TensorChange| {
        let mut cells = vec![change.name.clone(), kind(&change.facts)];
        match &change.difference {
            None => cells.extend(["bytes differ".into(), String::new(), String::new(), String::new(), String::new()]),
            Some(difference) => {
                let d = difference;
                cells.extend([d.relative, d.max_abs, d.mean_abs, d.cosine].map(figure));
                cells.push(format!("{} of {}", d.changed, d.elements));
                cells.extend(
                    (with_nonfinite && nonfinite(d))
                        .then(|| format!("{} -> {}", d.nonfinite_before, d.nonfinite_after)),
                );
            }
        }
        cells.resize(head.len(), String::new());
        cells
    };
    let right = ["RELATIVE", "MAX", "MEAN", "COSINE", "ELEMENTS", "NOT FINITE"];
    text += &format!("\n{}", table(&head, &right, tensors.changed.iter().map(row).collect()));
    text
}

fn change(file: &FileChange) -> &'static str {
    match (&file.before, &file.after) {
        (None, _) => "added",
        (_, None) => "removed",
        _ => "changed",
    }
}

fn path_of(file: &FileChange) -> String {
    let path = String::from_utf8_lossy(&file.path);
    match &file.was {
        None => path.into_owned(),
        Some(was) => format!("{} -> {path}", String::from_utf8_lossy(was)),
    }
}

/// What happened to a member: its bytes, its mode, where it points, what it is.
fn what(file: &FileChange) -> String {
    let link = |target: &[u8]| format!("link to {}", String::from_utf8_lossy(target));
    let (Some(before), Some(after)) = (&file.before, &file.after) else {
        return match (&file.before, &file.after) {
            (Some(Member::Link { target }), _) | (_, Some(Member::Link { target })) => {
                format!("{}: {}", change(file), link(target))
            }
            _ => change(file).into(),
        };
    };
    let kind = |member: &Member| match member {
        Member::File { .. } => "file".into(),
        Member::Directory { .. } => "directory".into(),
        Member::Link { target } => link(target),
    };
    let mode = |member: &Member| match member {
        Member::File { mode, .. } | Member::Directory { mode } => Some(*mode),
        Member::Link { .. } => None,
    };
    if kind(before) != kind(after) {
        return format!("{} -> {}", kind(before), kind(after));
    }
    let mut parts = Vec::new();
    parts.extend(file.content.then(|| "changed".to_owned()));
    if let (Some(before), Some(after)) = (mode(before), mode(after))
        && before != after
    {
        parts.push(format!("mode {before:o} -> {after:o}"));
    }
    parts.join(", ")
}

fn sizes(file: &FileChange) -> String {
    let bytes = |member: &Option<Member>| match member {
        Some(Member::File { bytes, .. }) => Some(*bytes),
        _ => None,
    };
    match (bytes(&file.before), bytes(&file.after)) {
        (Some(before), Some(after)) if before != after => format!("{} -> {}", size(before), size(after)),
        (before, after) => after.or(before).map(size).unwrap_or_default(),
    }
}

fn json(report: &DiffReport) -> DiffJson<'_> {
    let number = |value: Option<f64>| value.and_then(finite);
    let metrics = metrics(&report.before, &report.after).into_iter();
    DiffJson {
        before: CheckpointJson::from(&report.before),
        after: CheckpointJson::from(&report.after),
        metrics: metrics
            .map(|(name, (before, after))| (name, ChangeJson { before: number(before), after: number(after) }))
            .collect(),
        files: report.files.iter().map(file_json).collect(),
        files_unchanged: report.files_unchanged,
        tensors: report.tensors.as_ref().map(tensors_json),
        read_bytes: report.read_bytes,
        seconds: report.seconds,
    }
}

fn file_json(file: &FileChange) -> FileJson {
    let text = |bytes: &Vec<u8>| String::from_utf8_lossy(bytes).into_owned();
    let member = |member: &Member| {
        let (kind, bytes, mode, target) = match member {
            Member::File { bytes, mode } => ("file", *bytes, Some(*mode), None),
            Member::Directory { mode } => ("directory", 0, Some(*mode), None),
            Member::Link { target } => ("link", 0, None, Some(text(target))),
        };
        MemberJson { kind, bytes, mode: mode.map(|mode| format!("{mode:o}")), target }
    };
    FileJson {
        path: text(&file.path),
        was: file.was.as_ref().map(text),
        change: change(file),
        content: file.content,
        before: file.before.as_ref().map(member),
        after: file.after.as_ref().map(member),
    }
}

fn tensors_json(tensors: &TensorChanges) -> TensorsJson<'_> {
    fn facts(facts: &TensorFacts) -> FactsJson<'_> {
        FactsJson { dtype: facts.dtype.as_deref(), shape: facts.shape.as_deref(), bytes: facts.bytes }
    }
    fn list(tensors: &[(String, TensorFacts)]) -> Vec<TensorJson<'_>> {
        tensors.iter().map(|(name, of)| TensorJson { name, facts: facts(of) }).collect()
    }
    let changed = tensors.changed.iter().map(|change| {
        let d = change.difference;
        let number = |of: fn(&Difference) -> f64| d.as_ref().map(of).and_then(finite);
        ChangedJson {
            tensor: TensorJson { name: &change.name, facts: facts(&change.facts) },
            elements: d.map(|d| d.elements),
            changed_elements: d.map(|d| d.changed),
            max_abs: number(|d| d.max_abs),
            mean_abs: number(|d| d.mean_abs),
            relative: number(|d| d.relative),
            cosine: number(|d| d.cosine),
            nonfinite_before: d.map(|d| d.nonfinite_before),
            nonfinite_after: d.map(|d| d.nonfinite_after),
        }
    });
    let reshaped = tensors.reshaped.iter().map(|(name, before, after)| ReshapedJson {
        name,
        before: facts(before),
        after: facts(after),
    });
    TensorsJson {
        added: list(&tensors.added),
        removed: list(&tensors.removed),
        reshaped: reshaped.collect(),
        changed: changed.collect(),
        unchanged: tensors.unchanged,
    }
}
