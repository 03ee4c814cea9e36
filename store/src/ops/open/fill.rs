//! Fills buffers from chunks: each chunk decoded once however many buffers need it, many at a time. Never hands out a byte
//! whose chunk is not checked.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use super::OpenCheckpoint;
use super::read_cache::{Announcement, Answer};
use crate::error::Result;
use crate::index::Place;
use crate::limits::ANNOUNCED_CHUNKS_MAX;
use crate::ops::reading::{Buffers, ChunkReader, Unreadable};
use crate::parallel::in_order;
use crate::progress::Progress;

/// A piece of somebody's buffer, and the bytes that belong there.
pub struct Part<'d> {
    /// The chunk that has them, by its number.
    pub chunk: u32,
    /// Byte of the chunk where they begin.
    pub at: u32,
    /// Which file of the manifest they are of.
    pub file: u32,
    /// Byte of the file where they begin.
    pub file_at: u64,
    /// Where they belong.
    pub to: &'d mut [u8],
}

/// A chunk, and who wants something of it. Nobody: it is read ahead.
pub struct Job<'d> {
    chunk: u32,
    parts: Vec<Part<'d>>,
}

/// A job that this reader does.
struct Own<'a, 'd> {
    job: Job<'d>,
    announcement: Option<Announcement<'a>>,
}

impl<'d> Job<'d> {
    /// The jobs that fill `parts`, in the order of the table, which is about that of the packs.
    pub fn all(mut parts: Vec<Part<'d>>) -> Vec<Self> {
        parts.sort_by_key(|part| part.chunk);
        let mut jobs: Vec<Self> = Vec::new();
        for part in parts {
            match jobs.last_mut() {
                Some(job) if job.chunk == part.chunk => job.parts.push(part),
                _ => jobs.push(Self { chunk: part.chunk, parts: vec![part] }),
            }
        }
        jobs
    }

    /// Its chunk.
    pub fn chunk(&self) -> u32 {
        self.chunk
    }

    /// Copies the bytes of the chunk to where they belong.
    pub fn copy(&mut self, raw: &[u8]) {
        copy(&mut self.parts, raw);
    }

    /// Bytes that are wanted.
    fn bytes(&self) -> u64 {
        self.parts.iter().map(|part| part.to.len() as u64).sum()
    }

    /// Puts a part that wants all `len` bytes of the chunk before the others, if there is one.
    fn whole_first(&mut self, len: usize) -> bool {
        let whole = self.parts.iter().position(|part| part.to.len() == len);
        if let Some(at) = whole {
            self.parts.swap(0, at);
        }
        whole.is_some()
    }
}

fn copy(parts: &mut [Part<'_>], raw: &[u8]) {
    for part in parts {
        let at = part.at as usize;
        part.to.copy_from_slice(&raw[at..at + part.to.len()]);
    }
}

impl OpenCheckpoint {
    /// Does jobs, and decodes the chunks of `ahead` with them. Tells `progress` how far it is when `told` is set.
    ///
    /// # Errors
    /// [`crate::Error::Damaged`] for chunks of jobs that can't be given back; of those that are read ahead it is told when
    /// somebody asks for them.
    pub(super) fn fill(&self, jobs: Vec<Job<'_>>, ahead: &[u32], progress: &dyn Progress, told: bool) -> Result<()> {
        let filled = self.fill_by_turns(jobs, ahead, progress, told);
        self.known.rest();
        filled
    }

    fn fill_by_turns(&self, jobs: Vec<Job<'_>>, ahead: &[u32], progress: &dyn Progress, told: bool) -> Result<()> {
        let mut left = self.fill_some(jobs, ahead, progress, told)?;
        while !left.is_empty() {
            self.cache.wait(left.iter().map(|job| self.id(job.chunk)), progress)?;
            left = self.fill_some(left, &[], progress, told)?;
        }
        Ok(())
    }

    /// Does the jobs that nobody else is at, and answers the others.
    fn fill_some<'d>(
        &self,
        jobs: Vec<Job<'d>>,
        ahead: &[u32],
        progress: &dyn Progress,
        told: bool,
    ) -> Result<Vec<Job<'d>>> {
        let announces = jobs.len() + ahead.len() <= ANNOUNCED_CHUNKS_MAX;
        // A thread of the pool that waits could be the one on whose stack the work lies that it waits for.
        let may_wait = rayon::current_thread_index().is_none();
        let mut coming = Vec::new();
        let mut own: Vec<Mutex<Own<'_, 'd>>> = Vec::new();
        let mut chunks = Vec::new();
        for mut job in jobs {
            // A whole chunk goes to its buffer and to nobody else.
            let is_whole = job.whole_first(self.len(job.chunk));
            let announcement = match self.cache.ask(self.id(job.chunk), self.len(job.chunk), announces && !is_whole) {
                Answer::Here(raw) => {
                    job.copy(&raw);
                    if told {
                        progress.advance(job.bytes());
                    }
                    continue;
                }
                Answer::Coming if may_wait => {
                    coming.push(job);
                    continue;
                }
                Answer::Coming => None,
                Answer::Missing(announcement) => announcement,
            };
            chunks.push(job.chunk);
            own.push(Mutex::new(Own { job, announcement }));
        }
        for chunk in ahead {
            if let Some(announcement) = self.cache.announce(self.id(*chunk)) {
                chunks.push(*chunk);
                let job = Job { chunk: *chunk, parts: Vec::new() };
                own.push(Mutex::new(Own { job, announcement: Some(announcement) }));
            }
        }
        if own.is_empty() {
            return Ok(coming);
        }
        let reader = ChunkReader::with(self.store.backend(), self.store.id(), &self.known);
        let places = self.places_of(&chunks, &reader, progress)?;
        let damaged = in_order(
            own.len(),
            progress,
            || self.cache.lend(),
            |lent, at| {
                let mut own = own[at].lock().unwrap_or_else(PoisonError::into_inner);
                let done = self.decode(&mut own.job, places[at], &reader, lent.buffers());
                own.announcement = None;
                if own.job.parts.is_empty() {
                    return Ok(None);
                }
                if told {
                    progress.advance(own.job.bytes());
                }
                Ok(done?.err().map(|unreadable| (at, unreadable)))
            },
        )?;
        let damaged: HashMap<usize, Unreadable> = damaged.into_iter().flatten().collect();
        if damaged.is_empty() {
            return Ok(coming);
        }
        let mut named = Vec::new();
        for (at, own) in own.iter().enumerate() {
            let Some(unreadable) = damaged.get(&at) else { continue };
            let own = own.lock().unwrap_or_else(PoisonError::into_inner);
            let id = self.id(own.job.chunk);
            named.extend(own.job.parts.iter().map(|part| (part.file, part.file_at, id, unreadable)));
        }
        Err(self.damage(named.into_iter()))
    }

    /// Decodes a chunk to where it belongs: straight to a part that wants all of it, otherwise by way of the cache.
    fn decode(
        &self,
        job: &mut Job<'_>,
        place: Option<Place>,
        reader: &ChunkReader<'_>,
        buffers: &mut Buffers,
    ) -> Result<std::result::Result<(), Unreadable>> {
        let id = self.id(job.chunk);
        let len = self.len(job.chunk);
        match &mut job.parts[..] {
            [first, others @ ..] if first.to.len() == len => {
                if let Err(unreadable) = reader.read_into(id, place, first.to, buffers)? {
                    return Ok(Err(unreadable));
                }
                copy(others, first.to);
            }
            parts => {
                let mut raw = self.cache.buffer(id, len);
                if let Err(unreadable) = reader.read_into(id, place, &mut raw, buffers)? {
                    return Ok(Err(unreadable));
                }
                copy(parts, &raw);
                self.cache.bring(id, raw);
            }
        }
        self.count(len);
        Ok(Ok(()))
    }
}
