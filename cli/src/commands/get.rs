//! `ckpt get`.

use std::io;
use std::path::Path;

use ckpt_store::GetRequest;
use serde::Serialize;

use super::{Context, or_instead};
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
    let bar = context.bar();
    let reference = store.settle(&args.reference, &bar)?;
    let request = GetRequest { reference, files: args.files.clone(), force: args.force };
    if args.dest == Path::new("-") {
        if context.json {
            return Err(Failure::usage(
                "stdout can't take the file and JSON at once",
                "give a destination, or leave --json away",
            ));
        }
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
