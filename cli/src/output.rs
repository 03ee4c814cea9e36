//! How things look on stdout: sizes, ages, tables, and the JSON that scripts rely on. The JSON structs are here and are never
//! those that are stored.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::Path;

use ckpt_store::{Entry, name_of};
use comfy_table::{CellAlignment, Table, presets};
use humansize::{DECIMAL, FormatSizeOptions, format_size};
use serde::Serialize;

use crate::failure::Failure;

/// Prints text to stdout; a reader that went away ends the command quietly.
pub fn print(text: &str) -> Result<(), Failure> {
    let mut stdout = io::stdout().lock();
    let written = stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush());
    written.map_err(|error| ckpt_store::Error::io("write to", Path::new("stdout"), error).into())
}

/// Prints one JSON value and a newline.
pub fn print_json(value: &impl Serialize) -> Result<(), Failure> {
    let mut text =
        serde_json::to_string_pretty(value).map_err(|error| ckpt_store::Error::Internal(error.to_string()))?;
    text.push('\n');
    print(&text)
}

/// Prints one JSON value on a line of its own.
pub fn print_json_line(value: &impl Serialize) -> Result<(), Failure> {
    let text = serde_json::to_string(value).map_err(|error| ckpt_store::Error::Internal(error.to_string()))?;
    print(&(text + "\n"))
}

/// A size in decimal units, as disks are sold.
pub fn size(bytes: u64) -> String {
    let places = if bytes < 1000 { 0 } else { 2 };
    format_size(bytes, FormatSizeOptions::from(DECIMAL).decimal_places(places))
}

/// A number of things: `1 tensor`, `2 tensors`.
pub fn counted(count: u64, thing: &str) -> String {
    format!("{count} {thing}{}", if count == 1 { "" } else { "s" })
}

/// How long ago something was, in one unit.
pub fn age(time_ms: i64) -> String {
    let seconds = (jiff::Timestamp::now().as_millisecond() - time_ms).max(0) / 1000;
    match seconds {
        0..60 => format!("{seconds}s ago"),
        60..3600 => format!("{}m ago", seconds / 60),
        3600..86_400 => format!("{}h ago", seconds / 3600),
        _ => format!("{}d ago", seconds / 86_400),
    }
}

/// A time as RFC 3339 has it.
pub fn time(time_ms: i64) -> String {
    jiff::Timestamp::from_millisecond(time_ms).map_or_else(|_| time_ms.to_string(), |time| time.to_string())
}

/// A table without lines; columns named in `right` are aligned to the right.
pub fn table(head: &[&str], right: &[&str], rows: Vec<Vec<String>>) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header(head.to_vec());
    for row in rows {
        table.add_row(row.into_iter().map(|cell| printable(&cell)));
    }
    for (at, name) in head.iter().enumerate() {
        if let Some(column) = table.column_mut(at) {
            column.set_padding((0, 2));
            if right.contains(name) {
                column.set_cell_alignment(CellAlignment::Right);
            }
        }
    }
    let mut text: String = table.lines().map(|line| line.trim_end().to_owned() + "\n").collect();
    if text.is_empty() {
        text.push('\n');
    }
    text
}

/// A text in which nothing can move the cursor or break the line: names come from files.
pub fn printable(text: &str) -> String {
    text.chars().flat_map(|c| if c.is_control() { c.escape_default().collect::<Vec<_>>() } else { vec![c] }).collect()
}

/// A path as a shell takes it when it is pasted.
pub fn pasted(path: &Path) -> String {
    use std::os::unix::ffi::OsStrExt;
    let bytes = path.as_os_str().as_bytes();
    let is_plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"/._-+=:,@%".contains(byte);
    match std::str::from_utf8(bytes) {
        Ok(text) if !text.is_empty() && bytes.iter().all(is_plain) => text.to_owned(),
        Ok(text) if !text.chars().any(char::is_control) => format!("'{}'", text.replace('\'', r"'\''")),
        // As bash, zsh and most others read it.
        _ => {
            let escaped = |byte: &u8| match byte {
                b' '..=b'~' if !b"'\\".contains(byte) => char::from(*byte).to_string(),
                byte => format!("\\x{byte:02x}"),
            };
            format!("$'{}'", bytes.iter().map(escaped).collect::<String>())
        }
    }
}

/// A checkpoint's name with its run, also when it has no step.
pub fn title(entry: &Entry) -> String {
    match entry.step {
        Some(_) => name_of(entry),
        None => format!("{} ({})", entry.run, entry.id),
    }
}

/// Metrics as `k=v`, separated by spaces.
pub fn metrics(entry: &Entry) -> String {
    let shown: Vec<String> = entry.metrics.iter().map(|(name, value)| format!("{name}={value}")).collect();
    shown.join(" ")
}

/// Tags, with a pin first.
pub fn tags(entry: &Entry) -> String {
    let pin = entry.pinned.then(|| "(pinned)".to_owned());
    pin.into_iter().chain(entry.tags.iter().cloned()).collect::<Vec<_>>().join(" ")
}

/// A checkpoint as scripts see it. Documented in docs/cli.md; fields are added, never changed.
#[derive(Debug, Serialize)]
pub struct CheckpointJson {
    id: String,
    #[serde(rename = "ref")]
    reference: String,
    run: String,
    step: Option<u64>,
    time: String,
    /// A number, or null for one that JSON has no number for.
    metrics: BTreeMap<String, Option<f64>>,
    tags: Vec<String>,
    pinned: bool,
    files: u64,
    logical_bytes: u64,
    added_bytes: u64,
    written_bytes: u64,
}

impl From<&Entry> for CheckpointJson {
    fn from(entry: &Entry) -> Self {
        Self {
            id: entry.id.to_string(),
            reference: name_of(entry),
            run: entry.run.clone(),
            step: entry.step,
            time: time(entry.time_ms),
            metrics: entry
                .metrics
                .iter()
                .map(|(name, value)| (name.clone(), Some(*value).filter(|v| v.is_finite())))
                .collect(),
            tags: entry.tags.iter().cloned().collect(),
            pinned: entry.pinned,
            files: entry.files,
            logical_bytes: entry.logical_bytes,
            added_bytes: entry.added_bytes,
            written_bytes: entry.written_bytes,
        }
    }
}
