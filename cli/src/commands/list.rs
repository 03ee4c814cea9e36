//! `ckpt ls` and `ckpt show`.

use std::collections::BTreeMap;

use ckpt_store::{Content, Entry, File, TensorRef};
use serde::Serialize;

use super::{Context, or_instead};
use crate::args::{Ls, Show};
use crate::failure::Failure;
use crate::output::{CheckpointJson, age, metrics, print, print_json, printable, size, table, tags, time, title};

#[derive(Serialize)]
struct RunJson {
    run: String,
    checkpoints: u64,
    logical_bytes: u64,
    added_bytes: u64,
    latest: CheckpointJson,
}

#[derive(Serialize)]
struct ShowJson {
    #[serde(flatten)]
    checkpoint: CheckpointJson,
    meta: BTreeMap<String, String>,
    members: Vec<MemberJson>,
}

#[derive(Serialize)]
struct MemberJson {
    path: String,
    kind: &'static str,
    bytes: u64,
    mode: String,
    time: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    format: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    target: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tensors: Option<Vec<TensorJson>>,
}

#[derive(Serialize)]
struct TensorJson {
    name: String,
    dtype: Option<String>,
    shape: Option<Vec<u64>>,
    bytes: u64,
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

pub fn show(context: &Context, args: &Show) -> Result<(), Failure> {
    let store = context.open()?;
    let bar = context.bar();
    let reference = store.settle(&args.reference, &bar)?;
    let entry = store.resolve(&reference)?;
    let manifest = or_instead(store.manifest(entry.id), &store, &reference, &bar)?;
    drop(bar);
    if context.json {
        return print_json(&ShowJson {
            checkpoint: CheckpointJson::from(&entry),
            meta: manifest.meta,
            members: manifest.files.iter().map(|file| member_json(file, args.tensors)).collect(),
        });
    }
    let mut text = format!("{}\n", printable(&title(&entry)));
    let mut fact = |name: &str, value: String| {
        if !value.is_empty() {
            text += &format!("  {name:<9}{}\n", printable(&value));
        }
    };
    fact("id", entry.id.to_string());
    fact("stored", format!("{} ({})", time(entry.time_ms), age(entry.time_ms)));
    fact(
        "size",
        format!("{} in {} {}", size(entry.logical_bytes), entry.files, if entry.files == 1 { "file" } else { "files" }),
    );
    fact("added", format!("{} of chunks, {} written", size(entry.added_bytes), size(entry.written_bytes)));
    fact("metrics", metrics(&entry));
    fact("tags", tags(&entry));
    let meta: Vec<String> = manifest.meta.iter().map(|(key, value)| format!("{key}={value}")).collect();
    fact("meta", meta.join(" "));
    let row = |file: &File| {
        let path = String::from_utf8_lossy(&file.path).into_owned();
        match &file.content {
            Content::File { size: bytes, format, .. } => {
                let tensors = file.tensors().len();
                let tensors = if tensors == 0 { String::new() } else { format!("{tensors} tensors") };
                vec![path, size(*bytes), format.clone(), tensors]
            }
            Content::Directory => vec![path + "/", String::new(), "directory".into(), String::new()],
            Content::Link { target } => {
                vec![path, String::new(), "link".into(), format!("-> {}", String::from_utf8_lossy(target))]
            }
        }
    };
    text += "\n";
    text += &table(&["FILE", "SIZE", "FORMAT", ""], &["SIZE"], manifest.files.iter().map(row).collect());
    if args.tensors {
        let rows: Vec<Vec<String>> = manifest
            .files
            .iter()
            .flat_map(|file| {
                let path = String::from_utf8_lossy(&file.path).into_owned();
                file.tensors().into_iter().map(move |TensorRef { name, dtype, shape, len, .. }| {
                    let shape = shape.map_or_else(String::new, |shape| format!("{shape:?}"));
                    vec![name.to_owned(), dtype.unwrap_or_default().to_owned(), shape, size(len), path.clone()]
                })
            })
            .collect();
        text += "\n";
        text += &table(&["TENSOR", "DTYPE", "SHAPE", "SIZE", "FILE"], &["SIZE"], rows);
    }
    print(&text)
}

fn member_json(file: &File, with_tensors: bool) -> MemberJson {
    let (kind, format, target) = match &file.content {
        Content::File { format, .. } => ("file", Some(format.clone()), None),
        Content::Directory => ("directory", None, None),
        Content::Link { target } => ("link", None, Some(String::from_utf8_lossy(target).into_owned())),
    };
    let list = || {
        file.tensors()
            .into_iter()
            .map(|TensorRef { name, dtype, shape, len, .. }| TensorJson {
                name: name.to_owned(),
                dtype: dtype.map(str::to_owned),
                shape: shape.map(<[u64]>::to_vec),
                bytes: len,
            })
            .collect()
    };
    MemberJson {
        path: String::from_utf8_lossy(&file.path).into_owned(),
        kind,
        bytes: file.size(),
        mode: format!("{:o}", file.mode),
        time: time(file.mtime_ms),
        format,
        target,
        tensors: with_tensors.then(list),
    }
}
