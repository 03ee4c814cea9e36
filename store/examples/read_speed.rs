//! Measures reads of an open checkpoint: `read_speed STORE REF SOURCE SCRATCH` reads the one file of a checkpoint in each way
//! that there is and prints one line of JSON, speeds in GB a second, each the best of five passes. SOURCE is the file that was
//! stored: each way must bring its bytes, and reading it from the page cache is the measure. SCRATCH is a directory in memory
//! that a get writes to.

use std::error::Error;
use std::fs::{self, File};
use std::io::Read;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use ckpt_store::{GetRequest, OpenCheckpoint, OpenTensor, Quiet, Span, Store};

const PASSES: usize = 5;

type Outcome<T> = Result<T, Box<dyn Error>>;

fn main() -> Outcome<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [store, reference, source, scratch] = &args[..] else {
        return Err("usage: read_speed STORE REF SOURCE SCRATCH".into());
    };
    let store = Arc::new(Store::open(Path::new(store))?);
    let bytes = fs::read(source)?;
    let mut buffer = vec![1_u8; bytes.len()];
    let mut line = serde_json::Map::new();
    // Each way measured in turn, and all of them again: what else the machine does hits all alike.
    for pass in 0..PASSES {
        let mut measure = |name: &str, touched: bool, work: &mut dyn FnMut(&mut [u8]) -> Outcome<()>| -> Outcome<()> {
            let mut fresh = if touched { Vec::new() } else { vec![0_u8; bytes.len()] };
            let to = if touched { &mut buffer } else { &mut fresh };
            if touched && pass == 0 {
                to.fill(0);
            }
            let started = Instant::now();
            work(to)?;
            let speed = bytes.len() as f64 / 1e9 / started.elapsed().as_secs_f64();
            if !name.starts_with("get") && pass == 0 && *to != bytes {
                return Err(format!("{name} brought other bytes").into());
            }
            let best = line.get(name).and_then(serde_json::Value::as_f64).unwrap_or(0.0);
            line.insert(name.to_owned(), ((speed.max(best) * 1000.0).round() / 1000.0).into());
            Ok(())
        };
        measure("get", true, &mut |_| {
            let to = Path::new(scratch).join("read_speed.got");
            let request = GetRequest { reference: reference.clone(), force: true, ..GetRequest::default() };
            store.get(&request, &to, &Quiet)?;
            Ok(fs::remove_file(to)?)
        })?;
        for touched in [true, false] {
            let named = |name: &str| if touched { name.to_owned() } else { format!("{name} untouched") };
            measure(&named("page cache"), touched, &mut |to| Ok(File::open(source)?.read_exact(to)?))?;
            measure(&named("read_many"), touched, &mut |to| {
                let open = store.open_checkpoint(reference, &Quiet)?;
                read_tensors(&open, to)
            })?;
            for piece in [64 << 10, 1 << 20, 5_000_000, 64 << 20] {
                measure(&named(&format!("read_at {} KiB", piece >> 10)), touched, &mut |to| {
                    let open = store.open_checkpoint(reference, &Quiet)?;
                    let mut at = 0;
                    for piece in to.chunks_mut(piece) {
                        at += open.read_at(0, at, piece, &Quiet)? as u64;
                    }
                    Ok(())
                })?;
            }
            measure(&named("read_at tensors"), touched, &mut |to| {
                let open = store.open_checkpoint(reference, &Quiet)?;
                let tensors = open.tensors();
                let mut rest = to;
                let mut at = 0;
                // As torch.load reads: what lies between the tensors, and then one of them whole.
                for end in tensors.iter().flat_map(|tensor| [tensor.offset, tensor.offset + tensor.len]) {
                    let (piece, others) = rest.split_at_mut(end.saturating_sub(at) as usize);
                    at += open.read_at(0, at, piece, &Quiet)? as u64;
                    rest = others;
                }
                open.read_at(0, at, rest, &Quiet)?;
                Ok(())
            })?;
        }
    }
    line.insert("bytes".to_owned(), bytes.len().into());
    println!("{}", serde_json::Value::Object(line));
    Ok(())
}

/// Reads each tensor to its own place of a buffer for the whole file, and what lies between them, all at once.
fn read_tensors(open: &OpenCheckpoint, to: &mut [u8]) -> Outcome<()> {
    let (mut spans, mut buffers) = (Vec::new(), Vec::new());
    let mut rest = to;
    let mut at = 0;
    let ends: Vec<u64> =
        open.tensors().iter().map(OpenTensor::span).flat_map(|span| [span.offset, span.offset + span.len]).collect();
    for end in ends.into_iter().chain([open.files()[0].size()]) {
        let (buffer, others) = rest.split_at_mut(end.saturating_sub(at) as usize);
        spans.push(Span { file: 0, offset: at, len: buffer.len() as u64 });
        at += buffer.len() as u64;
        buffers.push(buffer);
        rest = others;
    }
    Ok(open.read_many(&spans, &mut buffers, &Quiet)?)
}
