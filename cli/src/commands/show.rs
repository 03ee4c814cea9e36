//! `ckpt show`.

use std::collections::BTreeMap;

use ckpt_store::{Content, Entry, File, ListedTensor, Since, TensorList, TensorRef, name_of};
use serde::Serialize;

use super::{Context, or_instead};
use crate::args::Show;
use crate::failure::Failure;
use crate::output::{
    CheckpointJson, age, counted, metrics, print, print_json, printable, size, table, tags, time, title,
};

#[derive(Serialize)]
struct ShowJson {
    #[serde(flatten)]
    checkpoint: CheckpointJson,
    meta: BTreeMap<String, String>,
    /// The checkpoint that the tensors' changes count from.
    #[serde(skip_serializing_if = "Option::is_none")]
    previous: Option<String>,
    /// The checkpoints that the tensors were compared with.
    #[serde(skip_serializing_if = "Option::is_none")]
    compared: Option<Vec<String>>,
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
    /// As its file has it.
    name: String,
    dtype: Option<String>,
    shape: Option<Vec<u64>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    strides: Option<Vec<u64>>,
    bytes: u64,
    since_previous: Option<&'static str>,
    shared_with: Option<Vec<String>>,
}

pub fn show(context: &Context, args: &Show) -> Result<(), Failure> {
    let store = context.open()?;
    let bar = context.bar();
    let reference = store.settle(&args.reference, &bar)?;
    let entry = store.resolve(&reference)?;
    let manifest = or_instead(store.manifest(entry.id), &store, &reference, &bar)?;
    let list =
        if args.tensors { Some(or_instead(store.tensors(&reference, &bar), &store, &reference, &bar)?) } else { None };
    drop(bar);
    if context.json {
        let mut listed = list.as_ref().map(|list| (list, list.tensors.iter()));
        return print_json(&ShowJson {
            checkpoint: CheckpointJson::from(&entry),
            meta: manifest.meta,
            previous: list.as_ref().and_then(|list| list.previous.as_ref()).map(name_of),
            compared: list.as_ref().map(|list| list.others.iter().map(name_of).collect()),
            members: manifest.files.iter().map(|file| member_json(file, &mut listed)).collect(),
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
    fact("size", format!("{} in {}", size(entry.logical_bytes), counted(entry.files, "file")));
    fact("added", format!("{} of chunks, {} written", size(entry.added_bytes), size(entry.written_bytes)));
    fact("metrics", metrics(&entry));
    fact("tags", tags(&entry));
    let meta: Vec<String> = manifest.meta.iter().map(|(key, value)| format!("{key}={value}")).collect();
    fact("meta", meta.join(" "));
    text += "\n";
    text += &table(&["FILE", "SIZE", "FORMAT", ""], &["SIZE"], manifest.files.iter().map(file_row).collect());
    if let Some(list) = list {
        text += "\n";
        text += &tensors_text(&manifest.files, &list);
    }
    print(&text)
}

fn file_row(file: &File) -> Vec<String> {
    let path = String::from_utf8_lossy(&file.path).into_owned();
    match &file.content {
        Content::File { size: bytes, format, .. } => {
            let tensors = match file.tensors().len() as u64 {
                0 => String::new(),
                count => counted(count, "tensor"),
            };
            vec![path, size(*bytes), format.clone(), tensors]
        }
        Content::Directory => vec![path + "/", String::new(), "directory".into(), String::new()],
        Content::Link { target } => {
            vec![path, String::new(), "link".into(), format!("-> {}", String::from_utf8_lossy(target))]
        }
    }
}

/// A line for each tensor, and what the last columns say.
fn tensors_text(files: &[File], list: &TensorList) -> String {
    let unknown = if list.previous.is_some() { "?" } else { "" };
    let row = |(listed, tensor): (&ListedTensor, TensorRef<'_>)| {
        let shape = tensor.shape.map_or_else(String::new, |shape| format!("{shape:?}"));
        vec![
            listed.name.clone(),
            tensor.dtype.unwrap_or_default().to_owned(),
            shape,
            size(tensor.len),
            String::from_utf8_lossy(&files[listed.file as usize].path).into_owned(),
            listed.since.map_or(unknown, since_word).to_owned(),
            shared(listed, list),
        ]
    };
    let tensors = files.iter().flat_map(File::tensors);
    let rows = list.tensors.iter().zip(tensors).map(row).collect();
    let head = ["TENSOR", "DTYPE", "SHAPE", "SIZE", "FILE", "SINCE", "SAME IN"];
    let mut text = table(&head, &["SIZE"], rows);
    if let Some(previous) = &list.previous {
        text += &format!("\nSINCE: what became of it after {}\n", short(previous));
        if list.tensors.iter().any(|tensor| tensor.since.is_none() || tensor.shared_with.is_none()) {
            text += "?: small tensors, more of them than are read here; `ckpt diff --tensors` tells what changed\n";
        }
    }
    if list.others.len() < list.others_total {
        let (near, all) = (list.others.len(), list.others_total);
        text += &format!("SAME IN: of the {near} nearest of {all} other checkpoints of the run\n");
    }
    text
}

fn since_word(since: Since) -> &'static str {
    match since {
        Since::Same => "same",
        Since::Changed => "changed",
        Since::Reshaped => "reshaped",
        Since::New => "new",
    }
}

/// Which checkpoints have the same tensor: one, or how many from where to where.
fn shared(listed: &ListedTensor, list: &TensorList) -> String {
    let named = |at: &usize| short(&list.others[*at]);
    match listed.shared_with.as_deref() {
        None => "?".into(),
        Some([]) => String::new(),
        Some([one]) => named(one),
        Some(all @ [first, .., last]) => format!("{} from {} to {}", all.len(), named(first), named(last)),
    }
}

/// A checkpoint of a run that is known.
fn short(entry: &Entry) -> String {
    entry.step.map_or_else(|| entry.id.to_string(), |step| format!("@{step}"))
}

/// A member, and the next tensors of the list that are its own.
fn member_json<'a>(
    file: &File,
    listed: &mut Option<(&'a TensorList, impl Iterator<Item = &'a ListedTensor>)>,
) -> MemberJson {
    let (kind, format, target) = match &file.content {
        Content::File { format, .. } => ("file", Some(format.clone()), None),
        Content::Directory => ("directory", None, None),
        Content::Link { target } => ("link", None, Some(String::from_utf8_lossy(target).into_owned())),
    };
    let tensors = listed.as_mut().map(|(list, listed)| {
        let tensors = file.tensors().into_iter().zip(listed);
        let other = |at: &usize| name_of(&list.others[*at]);
        let json = tensors.map(|(tensor, listed)| TensorJson {
            name: tensor.name.to_owned(),
            dtype: tensor.dtype.map(str::to_owned),
            shape: tensor.shape.map(<[u64]>::to_vec),
            strides: tensor.strides.map(<[u64]>::to_vec),
            bytes: tensor.len,
            since_previous: listed.since.map(since_word),
            shared_with: listed.shared_with.as_ref().map(|shared| shared.iter().map(other).collect()),
        });
        json.collect()
    });
    MemberJson {
        path: String::from_utf8_lossy(&file.path).into_owned(),
        kind,
        bytes: file.size(),
        mode: format!("{:o}", file.mode),
        time: time(file.mtime_ms),
        format,
        target,
        tensors,
    }
}
