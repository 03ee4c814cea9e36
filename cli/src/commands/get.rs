//! `ckpt get`.

use std::io;
use std::path::Path;

use ckpt_store::GetRequest;
use serde::Serialize;

use super::Context;
use crate::args::Get;
use crate::failure::Failure;
use crate::output::{CheckpointJson, print, print_json, size, title};

#[derive(Serialize)]
struct GetJson {
    checkpoint: CheckpointJson,
    path: Option<String>,
    files: u64,
    bytes: u64,
    seconds: f64,
}

pub fn run(context: &Context, args: &Get) -> Result<(), Failure> {
    let store = context.open()?;
    let request = GetRequest { reference: args.reference.clone(), files: args.files.clone(), force: args.force };
    let bar = context.bar();
    if args.dest == Path::new("-") {
        if context.json {
            return Err(Failure::usage(
                "stdout can't take the file and JSON at once",
                "give a destination, or leave --json away",
            ));
        }
        store.get_stream(&request, &mut io::stdout().lock(), &bar)?;
        return Ok(());
    }
    let report = store.get(&request, &args.dest, &bar)?;
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
