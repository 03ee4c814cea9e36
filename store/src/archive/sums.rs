//! Names the chunks of records and computes their CRC-32, reading each record once. Never reads a record for its content's
//! sake.

use std::collections::HashMap;
use std::io;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError};

use crc32fast::Hasher;

use crate::error::{Error, Result};
use crate::id::ChunkId;
use crate::limits::{CHUNK_BYTES_MAX, FAR_BYTES, SMALL_TENSOR_BYTES, SUMS_MAX};
use crate::parallel::in_order;
use crate::progress::{Progress, Stage};
use crate::split::Source;

/// The CRC-32 of chunks that were summed before. A training saves the same bytes again and again, and what a chunk is
/// called decides what it sums up to; naming is needed anyway.
#[derive(Default)]
pub struct Sums(Mutex<HashMap<ChunkId, u32>>);

impl Sums {
    fn get(&self, id: ChunkId) -> Option<u32> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(&id).copied()
    }

    fn keep(&self, sums: impl Iterator<Item = (ChunkId, u32)>) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= SUMS_MAX {
            // What a run still saves is soon here again.
            known.clear();
        }
        known.extend(sums);
    }
}

/// What was found out about a record.
pub struct Summed {
    /// Of all its bytes.
    pub crc: u32,
    /// Of its chunks; none for a record that is too small to have chunks of its own.
    pub ids: Vec<ChunkId>,
}

/// A few chunks of a record on end, or all of a small one.
struct Task {
    record: usize,
    offset: u64,
    len: usize,
    is_named: bool,
    /// The number of its first chunk among those of all tasks.
    first: usize,
}

/// Names and sums up all records, by all threads.
pub fn sum_all(
    records: &[&dyn Source],
    sums: &Sums,
    progress: &dyn Progress,
    read_error: impl Fn(usize, io::Error) -> Error + Sync,
) -> Result<Vec<Summed>> {
    let mut tasks = Vec::new();
    let mut chunks = 0;
    for (record, source) in records.iter().enumerate() {
        let size = source.size();
        let step = if source.bytes(0, 0).is_some() { CHUNK_BYTES_MAX } else { FAR_BYTES };
        for offset in (0..size).step_by(step) {
            let len = (size - offset).min(step as u64) as usize;
            tasks.push(Task { record, offset, len, is_named: size >= SMALL_TENSOR_BYTES, first: chunks });
            chunks += len.div_ceil(CHUNK_BYTES_MAX);
        }
    }
    progress.begin(Stage::Hash, records.iter().map(|source| source.size()).sum());
    // Beside the names and not in a pair with them: rustc 1.95 compiles a pair of these, handed out by `in_order`, so that the
    // sum comes out with its highest bit turned over. The tests of the archive and those of the Python package watch it.
    let crcs: Vec<AtomicU32> = (0..chunks).map(|_| AtomicU32::new(0)).collect();
    let ids = in_order(tasks.len(), progress, Vec::new, |buf, at| {
        let Task { record, offset, len, is_named, first } = tasks[at];
        let source = records[record];
        let bytes = match source.bytes(offset, len) {
            Some(bytes) => bytes,
            None => {
                buf.resize(FAR_BYTES, 0);
                source.read_exact_at(&mut buf[..len], offset).map_err(|error| read_error(record, error))?;
                &buf[..len]
            }
        };
        let mut ids = Vec::new();
        for (chunk, crc) in bytes.chunks(CHUNK_BYTES_MAX).zip(&crcs[first..]) {
            let id = is_named.then(|| ChunkId::of(chunk));
            let sum = id.and_then(|id| sums.get(id)).unwrap_or_else(|| crc32fast::hash(chunk));
            crc.store(sum, Ordering::Relaxed);
            ids.extend(id);
        }
        progress.advance(len as u64);
        Ok(ids)
    })?;
    let mut summed: Vec<(Hasher, Vec<ChunkId>)> = records.iter().map(|_| Default::default()).collect();
    let crcs: Vec<u32> = crcs.into_iter().map(AtomicU32::into_inner).collect();
    for (task, names) in tasks.iter().zip(ids) {
        let (all, ids) = &mut summed[task.record];
        for (at, crc) in (0..task.len).step_by(CHUNK_BYTES_MAX).zip(&crcs[task.first..]) {
            all.combine(&Hasher::new_with_initial_len(*crc, (task.len - at).min(CHUNK_BYTES_MAX) as u64));
        }
        sums.keep(names.iter().copied().zip(crcs[task.first..].iter().copied()));
        ids.extend(names);
    }
    Ok(summed.into_iter().map(|(all, ids)| Summed { crc: all.finalize(), ids }).collect())
}
