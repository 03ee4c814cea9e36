//! `ckpt get`.

use std::io;
use std::path::Path;

use ckpt_store::{ExportRequest, GetRequest, Store};
use serde::Serialize;

use super::{Context, or_instead};
use crate::args::Get;
use crate::failure::Failure;
use crate::output::{CheckpointJson, counted, print, print_json, size, title};
use crate::progress::Bar;

#[derive(Serialize)]
struct GetJson {
    checkpoint: CheckpointJson,
    path: Option<String>,
    files: u64,
    bytes: u64,
    seconds: f64,
}

#[derive(Serialize)]
struct ExportJson {
    checkpoint: CheckpointJson,
    path: Option<String>,
    tensors: u64,
    tied: u64,
    bytes: u64,
    seconds: f64,
}

pub fn run(context: &Context, args: &Get) -> Result<(), Failure> {
    let store = context.open()?;
    let bar = context.bar();
    let reference = store.settle(&args.reference, &bar)?;
    let to_stdout = args.dest == Path::new("-");
    if to_stdout && context.json {
        return Err(Failure::usage(
            "stdout can't take the file and JSON at once",
            "give a destination, or leave --json away",
        ));
    }
    if args.as_format.is_some() || !args.tensors.is_empty() {
        return export(context, args, &store, reference, bar);
    }
    let request = GetRequest { reference, files: args.files.clone(), force: args.force };
    if to_stdout {
        or_instead(store.get_stream(&request, &mut io::stdout().lock(), &bar), &store, &request.reference, &bar)?;
        return Ok(());
    }
    let report = or_instead(store.get(&request, &args.dest, &bar), &store, &request.reference, &bar)?;
    drop(bar);
    let path = report.path.as_ref().map(|path| path.display().to_string());
    if context.json {
        let checkpoint = CheckpointJson::from(&report.entry);
        return print_json(&GetJson {
            checkpoint,
            path,
            files: report.files,
            bytes: report.bytes,
            seconds: report.seconds,
        });
    }
    let files = if report.files == 1 { String::new() } else { format!("{} files, ", report.files) };
    let path = path.unwrap_or_default();
    print(&format!("{}: {files}{} in {:.2} s to {path}\n", title(&report.entry), size(report.bytes), report.seconds))
}

/// Tensors as one safetensors file, which is what --tensor gives also without --as.
fn export(context: &Context, args: &Get, store: &Store, reference: String, bar: Bar) -> Result<(), Failure> {
    let (files, tensors) = (args.files.clone(), args.tensors.clone());
    let request = ExportRequest { reference, files, tensors, force: args.force };
    if args.dest == Path::new("-") {
        let written = store.export_stream(&request, &mut io::stdout().lock(), &bar);
        return or_instead(written, store, &request.reference, &bar).map(drop);
    }
    let report = or_instead(store.export(&request, &args.dest, &bar), store, &request.reference, &bar)?;
    drop(bar);
    let path = report.path.as_ref().map(|path| path.display().to_string());
    if context.json {
        let checkpoint = CheckpointJson::from(&report.entry);
        return print_json(&ExportJson {
            checkpoint,
            path,
            tensors: report.tensors,
            tied: report.tied,
            bytes: report.bytes,
            seconds: report.seconds,
        });
    }
    let tied = if report.tied == 0 { String::new() } else { format!(" ({} more by other names)", report.tied) };
    print(&format!(
        "{}: {}{tied}, {} in {:.2} s to {}\n",
        title(&report.entry),
        counted(report.tensors, "tensor"),
        size(report.bytes),
        report.seconds,
        path.unwrap_or_default()
    ))
}
