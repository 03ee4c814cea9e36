//! Measures the codecs on one thread: `codec_speed FILE DTYPE` cuts FILE into chunks of 1 MiB and prints one line of JSON,
//! speeds in GB of raw bytes a second, each the median of five passes over memory that was touched before. `decode_gb_s` is
//! into one buffer of a chunk that is used again and again, as `get` does; `decode_apart_gb_s` is into as many bytes as the
//! file has, which measures main memory as well: compare it with the copy, `copy_gb_s`.

use ckpt_store::codec::{Codec, Decoder, Encoder, Hint};
use ckpt_store::split::Dtype;
use std::time::Instant;

const CHUNK_BYTES: usize = 1 << 20;
const PASSES: usize = 5;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args: Vec<String> = std::env::args().collect();
    let [_, file, dtype] = args.as_slice() else { return Err("usage: codec_speed FILE DTYPE".into()) };
    let hint = match dtype.to_ascii_lowercase().as_str() {
        "f64" => Hint::Dtype(Dtype::F64),
        "f32" => Hint::Dtype(Dtype::F32),
        "bf16" => Hint::Dtype(Dtype::BF16),
        "f16" => Hint::Dtype(Dtype::F16),
        "f8" => Hint::Dtype(Dtype::F8E4M3),
        "i64" => Hint::Dtype(Dtype::I64),
        "i32" => Hint::Dtype(Dtype::I32),
        "u8" => Hint::Dtype(Dtype::U8),
        "text" => Hint::Text,
        "unknown" => Hint::Unknown,
        other => return Err(format!("unknown dtype {other}").into()),
    };
    let raw = std::fs::read(file)?;
    let chunks = raw.len().div_ceil(CHUNK_BYTES);
    let mut encoder = Encoder::new();
    let mut decoder = Decoder::new();
    // Every slot is as long as its chunk: a stored chunk is never longer.
    let mut stored = vec![1u8; raw.len()];
    let mut back = vec![1u8; raw.len()];
    let mut sizes = vec![(Codec::Raw, 0); chunks];
    let (mut encode_secs, mut decode_secs) = (Vec::new(), Vec::new());
    let mut counts = [0usize; 3];
    for pass in 0..PASSES {
        let mut secs = 0.0;
        for ((chunk, slot), size) in raw.chunks(CHUNK_BYTES).zip(stored.chunks_mut(CHUNK_BYTES)).zip(&mut sizes) {
            let start = Instant::now();
            let (codec, bytes) = encoder.encode(chunk, hint);
            secs += start.elapsed().as_secs_f64();
            // Copying the result is the packer's work, not the codec's.
            slot[..bytes.len()].copy_from_slice(bytes);
            *size = (codec, bytes.len());
            counts[codec as usize] += usize::from(pass == 0);
        }
        encode_secs.push(secs);
    }
    let mut chunk = vec![1u8; CHUNK_BYTES];
    let (mut apart_secs, mut copy_secs) = (Vec::new(), Vec::new());
    for _ in 0..PASSES {
        let start = Instant::now();
        for ((slot, raw), (codec, len)) in stored.chunks(CHUNK_BYTES).zip(raw.chunks(CHUNK_BYTES)).zip(&sizes) {
            decoder.decode(*codec, &slot[..*len], &mut chunk[..raw.len()])?;
        }
        decode_secs.push(start.elapsed().as_secs_f64());
        let start = Instant::now();
        back.copy_from_slice(&raw);
        copy_secs.push(start.elapsed().as_secs_f64());
        back.fill(0);
        let start = Instant::now();
        for ((slot, out), (codec, len)) in stored.chunks(CHUNK_BYTES).zip(back.chunks_mut(CHUNK_BYTES)).zip(&sizes) {
            decoder.decode(*codec, &slot[..*len], out)?;
        }
        apart_secs.push(start.elapsed().as_secs_f64());
    }
    if back != raw {
        return Err("decoded bytes differ".into());
    }
    let stored_bytes: usize = sizes.iter().map(|&(_, len)| len).sum();
    let line = serde_json::json!({
        "file": file, "dtype": dtype, "bytes": raw.len(),
        "ratio": round(stored_bytes as f64 / raw.len().max(1) as f64, 4),
        "encode_gb_s": round(raw.len() as f64 / median(encode_secs) / 1e9, 2),
        "decode_gb_s": round(raw.len() as f64 / median(decode_secs) / 1e9, 2),
        "decode_apart_gb_s": round(raw.len() as f64 / median(apart_secs) / 1e9, 2),
        "copy_gb_s": round(raw.len() as f64 / median(copy_secs) / 1e9, 2),
        "chunks": { "raw": counts[0], "zstd": counts[1], "planes": counts[2] },
    });
    println!("{line}");
    Ok(())
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn round(value: f64, digits: i32) -> f64 {
    let unit = 10f64.powi(digits);
    (value * unit).round() / unit
}
