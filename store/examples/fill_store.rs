//! Fills a store for benchmarks, by real puts: with many distinct chunks, or with many checkpoints.
//!
//! usage: `fill_store STORE --chunks N` or `fill_store STORE --checkpoints N`

#![allow(clippy::unwrap_used, reason = "a benchmark's tool: it stops at the first surprise")]

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::Path;

use ckpt_store::limits::SMALL_TENSOR_BYTES;
use ckpt_store::{PutRequest, Quiet, Store};

/// Chunks of one source file: its header stays below what a splitter parses.
const CHUNKS_PER_FILE: u64 = 100_000;

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [store, what, count] = &args[..] else { panic!("usage: fill_store STORE --chunks N | --checkpoints N") };
    let path = Path::new(store);
    let store = if path.join("FORMAT").exists() { Store::open(path) } else { Store::init(path) }.unwrap();
    let count: u64 = count.parse().unwrap();
    let source = path.with_extension("source.tmp");
    match &**what {
        "--chunks" => {
            for first in (0..count).step_by(CHUNKS_PER_FILE as usize) {
                write_sparse(&source, first, CHUNKS_PER_FILE.min(count - first));
                put(&store, &source, "fill", first);
            }
        }
        "--checkpoints" => {
            for step in 0..count {
                fs::write(&source, step.to_le_bytes()).unwrap();
                put(&store, &source, "fill", step);
            }
        }
        _ => panic!("--chunks or --checkpoints"),
    }
    fs::remove_file(&source).unwrap();
}

fn put(store: &Store, source: &Path, run: &str, step: u64) {
    let request = PutRequest {
        paths: vec![source.to_owned()],
        run: run.to_owned(),
        step: Some(step),
        metrics: [("val_loss".to_owned(), 1.0 / (step + 1) as f64)].into(),
        ..PutRequest::default()
    };
    store.put(&request, &Quiet).unwrap();
}

/// Writes a safetensors file of tensors that each make one chunk: holes, but for a number that tells them apart.
fn write_sparse(path: &Path, first: u64, count: u64) {
    let len = SMALL_TENSOR_BYTES;
    let tensors = (0..count).map(|at| {
        let (begin, end) = (at * len, (at + 1) * len);
        format!(r#""t{at}":{{"dtype":"U8","shape":[{len}],"data_offsets":[{begin},{end}]}}"#)
    });
    let header = format!("{{{}}}", tensors.collect::<Vec<_>>().join(","));
    let mut file = File::create(path).unwrap();
    file.write_all(&(header.len() as u64).to_le_bytes()).unwrap();
    file.write_all(header.as_bytes()).unwrap();
    let data = 8 + header.len() as u64;
    file.set_len(data + count * len).unwrap();
    for at in 0..count {
        file.write_all_at(&(first + at + 1).to_le_bytes(), data + at * len).unwrap();
    }
}
