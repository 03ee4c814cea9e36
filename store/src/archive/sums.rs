//! Names the chunks of records and computes their CRC-32, reading each record once. Never reads a record for its content's
//! sake.

use std::collections::HashMap;
use std::io;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError};

use crc32fast::Hasher;

use crate::error::{Error, Result};
use crate::id::ChunkId;
use crate::limits::{CHUNK_BYTES_MAX, FAR_BYTES, SMALL_COPIES_BYTES, SMALL_TENSOR_BYTES, SUMS_MAX};
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
    /// Its bytes as they were summed up, of a small one: no chunk of its own tells whether they are others by now.
    pub copy: Option<Vec<u8>>,
}

/// A few chunks of a record on end, or all of a small one.
struct Task {
    record: usize,
    offset: u64,
    len: usize,
    is_named: bool,
    /// Whether its bytes are kept as they were summed up.
    is_kept: bool,
    /// The number of its first chunk among those of all tasks.
    first: usize,
}

/// One thread's memory.
#[derive(Default)]
struct Scratch {
    buf: Vec<u8>,
    /// Whether the last chunk's sum was not known: then that of the next one is not either.
    is_new: bool,
}

impl Scratch {
    /// What a chunk in memory is called, if that is wanted, and what it sums up to: both of the same bytes, though a training
    /// may write to them meanwhile. What is summed is copied first. A sum that is known by the name needs no copy.
    fn name_and_sum(&mut self, chunk: &[u8], is_named: bool, sums: &Sums) -> (Option<ChunkId>, u32) {
        if is_named && !self.is_new {
            let id = ChunkId::of(chunk);
            if let Some(sum) = sums.get(id) {
                return (Some(id), sum);
            }
        }
        self.buf.clear();
        self.buf.extend_from_slice(chunk);
        let id = is_named.then(|| ChunkId::of(&self.buf));
        let known = id.and_then(|id| sums.get(id));
        self.is_new = is_named && known.is_none();
        (id, known.unwrap_or_else(|| crc32fast::hash(&self.buf)))
    }
}

/// Names and sums up all records, by all threads.
pub fn sum_all(
    records: &[&dyn Source],
    sums: &Sums,
    progress: &dyn Progress,
    read_error: impl Fn(usize, io::Error) -> Error + Sync,
) -> Result<Vec<Summed>> {
    let mut tasks = Vec::new();
    let (mut chunks, mut kept) = (0, 0);
    for (record, source) in records.iter().enumerate() {
        let size = source.size();
        let step = if source.bytes(0, 0).is_some() { CHUNK_BYTES_MAX } else { FAR_BYTES };
        let is_named = size >= SMALL_TENSOR_BYTES;
        let is_kept = !is_named && kept + size <= SMALL_COPIES_BYTES;
        kept += if is_kept { size } else { 0 };
        for offset in (0..size).step_by(step) {
            let len = (size - offset).min(step as u64) as usize;
            tasks.push(Task { record, offset, len, is_named, is_kept, first: chunks });
            chunks += len.div_ceil(CHUNK_BYTES_MAX);
        }
    }
    progress.begin(Stage::Hash, records.iter().map(|source| source.size()).sum());
    // Beside the names and not in a pair with them, for what record 0023 tells of a compiler.
    let crcs: Vec<AtomicU32> = (0..chunks).map(|_| AtomicU32::new(0)).collect();
    let done = in_order(tasks.len(), progress, Scratch::default, |scratch, at| {
        let Task { record, offset, len, is_named, is_kept, first } = tasks[at];
        let source = records[record];
        let mut ids = Vec::new();
        if let Some(bytes) = source.bytes(offset, len) {
            for (chunk, crc) in bytes.chunks(CHUNK_BYTES_MAX).zip(&crcs[first..]) {
                let (id, sum) = scratch.name_and_sum(chunk, is_named, sums);
                crc.store(sum, Ordering::Relaxed);
                ids.extend(id);
            }
        } else {
            scratch.buf.resize(len, 0);
            source.read_exact_at(&mut scratch.buf, offset).map_err(|error| read_error(record, error))?;
            for (chunk, crc) in scratch.buf.chunks(CHUNK_BYTES_MAX).zip(&crcs[first..]) {
                let id = is_named.then(|| ChunkId::of(chunk));
                let sum = id.and_then(|id| sums.get(id)).unwrap_or_else(|| crc32fast::hash(chunk));
                crc.store(sum, Ordering::Relaxed);
                ids.extend(id);
            }
        }
        progress.advance(len as u64);
        // Of a small record the buffer holds all, wherever it came from.
        Ok((ids, is_kept.then(|| scratch.buf.clone())))
    })?;
    let mut summed: Vec<(Hasher, Vec<ChunkId>, Option<Vec<u8>>)> = records.iter().map(|_| Default::default()).collect();
    let crcs: Vec<u32> = crcs.into_iter().map(AtomicU32::into_inner).collect();
    for (task, (names, bytes)) in tasks.iter().zip(done) {
        let (all, ids, copy) = &mut summed[task.record];
        for (at, crc) in (0..task.len).step_by(CHUNK_BYTES_MAX).zip(&crcs[task.first..]) {
            all.combine(&Hasher::new_with_initial_len(*crc, (task.len - at).min(CHUNK_BYTES_MAX) as u64));
        }
        sums.keep(names.iter().copied().zip(crcs[task.first..].iter().copied()));
        ids.extend(names);
        *copy = bytes;
    }
    Ok(summed.into_iter().map(|(all, ids, copy)| Summed { crc: all.finalize(), ids, copy }).collect())
}
