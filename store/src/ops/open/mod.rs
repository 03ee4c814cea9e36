//! A checkpoint that stays open: any bytes of its files, in any order, by many threads at once. Never hands out a byte
//! whose chunk is not checked, and never holds more than a bounded cache, however it is read.

mod ahead;
mod body;
mod cache;
mod fill;
mod places;
mod read_cache;
mod rows;
mod slices;
mod stored;
mod views;

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Instant;

use self::ahead::Runs;
pub use self::body::Body;
use self::fill::{Job, Part};
use self::places::Places;
pub use self::read_cache::ReadCache;
pub use self::slices::Slice;
use crate::catalog::read_head;
use crate::error::{Error, Result};
use crate::format::catalog::Entry;
use crate::format::manifest::{Content, File, Manifest};
use crate::format::tensors::{FileMap, Piece};
use crate::id::{ChunkId, PackId};
use crate::index::Place;
use crate::limits::{ANNOUNCED_CHUNKS_MAX, LARGE_READ_BYTES};
use crate::ops::opened::{Opened, Pinned};
use crate::ops::reading::{ChunkReader, Known, Unreadable};
use crate::ops::stream::Span;
use crate::ops::tensors::named;
use crate::progress::{Progress, Stage};
use crate::store::Store;

/// A checkpoint that is open for reading. As long as this lives no gc takes away what it needs, whoever drops the
/// checkpoint, if [`OpenCheckpoint::is_pinned`].
///
/// Many threads may read at once. A process that was forked since must open the checkpoint anew: threads that were
/// reading are not in it, and what they were about to bring never comes.
pub struct OpenCheckpoint {
    store: Arc<Store>,
    opened: Opened,
    pinned: Pinned,
    /// Bytes of all chunks before each one of the table.
    sums: Vec<u64>,
    /// The first chunk of the table that has the same id: equal tensors share it.
    same: OnceLock<Vec<u32>>,
    /// Where the segments of each file begin that was read so far.
    starts: Mutex<HashMap<u32, Arc<[u64]>>>,
    places: Places,
    known: Known,
    cache: Arc<ReadCache>,
    runs: Mutex<Runs>,
    decoded_bytes: AtomicU64,
    /// Damaged chunks that were set aside.
    aside: Mutex<HashSet<(ChunkId, PackId)>>,
    /// Chunks that a slice was wanted of and that could not be given back, and when.
    unreadable: Mutex<HashMap<ChunkId, (Instant, Unreadable)>>,
    /// Locked by the one who gathers several blocks at a time.
    gathering: Mutex<()>,
}

/// A tensor of a checkpoint, which need not be open.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpenTensor {
    /// What commands call it: its name; with its file's path before it, as `path:name`, when tensors of several files
    /// have that name, and `#2` and so on behind it when several of one file have it.
    pub name: String,
    /// Its name in its file.
    pub bare_name: String,
    /// Which file it is in, by its place in [`OpenCheckpoint::files`].
    pub file: u32,
    /// The type of its elements, as far as the container told it.
    pub dtype: Option<String>,
    /// Its dimensions, as far as the container told them.
    pub shape: Option<Vec<u64>>,
    /// How many elements lie between neighbors in each dimension; none when it is row-major with nothing between.
    pub strides: Option<Vec<u64>>,
    /// Byte of the file where its first element begins.
    pub offset: u64,
    /// Bytes of the file from there to the end of its last element.
    pub len: u64,
}

impl OpenTensor {
    /// All tensors of a checkpoint, file by file, in each by where they begin. The order is always the same.
    pub fn all(manifest: &Manifest) -> Vec<Self> {
        let tensors = named(manifest).into_iter().map(|named| Self {
            name: named.name,
            bare_name: named.tensor.name.to_owned(),
            file: named.file,
            dtype: named.tensor.dtype.map(str::to_owned),
            shape: named.tensor.shape.map(<[u64]>::to_vec),
            strides: named.tensor.strides.map(<[u64]>::to_vec),
            offset: named.tensor.offset,
            len: named.tensor.len,
        });
        tensors.collect()
    }

    /// The range of its file that holds its elements.
    pub fn span(&self) -> Span {
        Span { file: self.file, offset: self.offset, len: self.len }
    }
}

/// An open checkpoint, with its decoded chunks in `cache`.
pub fn open(store: &Arc<Store>, (opened, pinned): (Opened, Pinned), cache: Arc<ReadCache>) -> OpenCheckpoint {
    OpenCheckpoint {
        store: Arc::clone(store),
        sums: opened.manifest.sums(),
        same: OnceLock::new(),
        starts: Mutex::default(),
        places: Places::default(),
        known: Known::default(),
        cache,
        runs: Mutex::default(),
        decoded_bytes: AtomicU64::new(0),
        aside: Mutex::default(),
        unreadable: Mutex::default(),
        gathering: Mutex::default(),
        opened,
        pinned,
    }
}

impl OpenCheckpoint {
    /// Whether gc leaves alone what it needs. It does not where no session could be written down: on a store that this
    /// process may not write to, or on a full disk.
    pub fn is_pinned(&self) -> bool {
        self.pinned.is_written()
    }

    /// What the catalog says of it.
    pub fn entry(&self) -> &Entry {
        &self.opened.entry
    }

    /// Its files, directories and links; a directory before what is in it. Reads name a file by its place here.
    pub fn files(&self) -> &[File] {
        &self.opened.manifest.files
    }

    /// Its tensors, as [`OpenTensor::all`] has them.
    pub fn tensors(&self) -> Vec<OpenTensor> {
        OpenTensor::all(&self.opened.manifest)
    }

    /// Raw bytes of the chunks that were decoded so far, by all who read.
    pub fn read_bytes(&self) -> u64 {
        self.decoded_bytes.load(Ordering::Relaxed)
    }

    /// Reads the bytes of a file from `offset` on, as many as fit into `buf`; fewer only at the end of the file. Who
    /// reads on in small pieces is read ahead of; large reads go straight into `buf`. Of `progress` only the notices
    /// and whether to stop are used.
    ///
    /// # Errors
    /// [`Error::Invalid`] when there is no such file; [`Error::Damaged`] for a chunk that can't be given back, which is
    /// set aside so that storing the same bytes again heals it. Then `buf` holds anything.
    pub fn read_at(&self, file: u32, offset: u64, buf: &mut [u8], progress: &dyn Progress) -> Result<usize> {
        let left = self.size_of(file)?.saturating_sub(offset);
        let len = usize::try_from(left).unwrap_or(usize::MAX).min(buf.len());
        let mut parts = Vec::new();
        self.part(Span { file, offset, len: len as u64 }, &mut buf[..len], &mut parts);
        let mut jobs = Job::all(parts);
        let here = self.cache.all(jobs.iter().map(|job| (self.id(job.chunk()), self.len(job.chunk()))));
        let window = {
            let mut runs = self.runs.lock().unwrap_or_else(PoisonError::into_inner);
            runs.read(file, offset, len as u64, here.is_none())
        };
        if let Some(here) = here {
            jobs.iter_mut().zip(here).for_each(|(job, raw)| job.copy(&raw));
            return Ok(len);
        }
        let ahead = match window {
            1.. if (len as u64) < LARGE_READ_BYTES => {
                self.chunks_in(file, offset + len as u64, window, ANNOUNCED_CHUNKS_MAX.saturating_sub(jobs.len()))
            }
            _ => Vec::new(),
        };
        self.fill(jobs, &ahead, progress, false)?;
        Ok(len)
    }

    /// Reads many ranges, each into its own buffer of the same length. Each chunk is decoded once, however many ranges
    /// need it, and by all threads of the pool.
    ///
    /// # Errors
    /// [`Error::Invalid`] when a range is not in its file or its buffer has another length; [`Error::Damaged`] as in
    /// [`Self::read_at`], with all that is damaged of the ranges. Then the buffers hold anything.
    pub fn read_many(&self, spans: &[Span], buffers: &mut [&mut [u8]], progress: &dyn Progress) -> Result<()> {
        if spans.len() != buffers.len() {
            return Err(Error::Invalid(format!("{} ranges don't go into {} buffers", spans.len(), buffers.len())));
        }
        let mut parts = Vec::new();
        let (mut total, mut inline) = (0, 0);
        for (span, buffer) in spans.iter().zip(buffers) {
            let size = self.size_of(span.file)?;
            if span.offset.checked_add(span.len).is_none_or(|end| end > size) {
                let what = format!("{} bytes from byte {} on", span.len, span.offset);
                return Err(Error::Invalid(format!("a file of {size} bytes has no {what}")));
            }
            if span.len != buffer.len() as u64 {
                return Err(Error::Invalid(format!("{} bytes don't go into a buffer of {}", span.len, buffer.len())));
            }
            total += span.len;
            inline += self.part(*span, buffer, &mut parts);
        }
        progress.begin(Stage::Read, total);
        progress.advance(inline);
        self.fill(Job::all(parts), &[], progress, true)
    }

    /// Cuts a buffer into the parts that chunks fill; fills what stands in the manifest itself, and answers how much
    /// that was.
    fn part<'d>(&self, span: Span, buffer: &'d mut [u8], parts: &mut Vec<Part<'d>>) -> u64 {
        let mut rest = buffer;
        let mut file_at = span.offset;
        let mut inline = 0;
        for piece in self.map(span.file).pieces(span.offset, span.len) {
            let (Piece::Chunk { len, .. } | Piece::Inline { len, .. }) = piece;
            let Some((to, others)) = rest.split_at_mut_checked(len as usize) else { break };
            rest = others;
            match piece {
                Piece::Chunk { chunk, at, .. } => {
                    parts.push(Part { chunk: self.same(chunk), at, file: span.file, file_at, to });
                }
                Piece::Inline { at, len } => {
                    to.copy_from_slice(&self.opened.manifest.inline[at as usize..(at + len) as usize]);
                    inline += u64::from(len);
                }
            }
            file_at += u64::from(len);
        }
        inline
    }

    /// The first chunks of a range of a file, in its order, each once and no more than `count`.
    fn chunks_in(&self, file: u32, offset: u64, len: u64, count: usize) -> Vec<u32> {
        let mut chunks: Vec<u32> = Vec::new();
        for piece in self.map(file).pieces(offset, len) {
            // A manifest may cut the range into millions of chunks.
            if chunks.len() >= count {
                break;
            }
            if let Piece::Chunk { chunk, .. } = piece {
                let chunk = self.same(chunk);
                if !chunks.contains(&chunk) {
                    chunks.push(chunk);
                }
            }
        }
        chunks
    }

    fn map(&self, file: u32) -> FileMap<'_> {
        let manifest = &self.opened.manifest;
        let known = self.starts.lock().unwrap_or_else(PoisonError::into_inner).get(&file).cloned();
        match known {
            Some(starts) => manifest.map_with(file, starts, &self.sums),
            None => {
                let starts = manifest.map(file).starts();
                self.starts.lock().unwrap_or_else(PoisonError::into_inner).insert(file, Arc::clone(&starts));
                manifest.map_with(file, starts, &self.sums)
            }
        }
    }

    fn id(&self, chunk: u32) -> ChunkId {
        self.opened.manifest.chunk_id(chunk as usize)
    }

    fn len(&self, chunk: u32) -> usize {
        self.opened.manifest.chunk_lens[chunk as usize] as usize
    }

    fn count(&self, bytes: usize) {
        self.decoded_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
        self.cache.count(bytes);
    }

    /// The error for damaged chunks, each with a byte of a file that lies in it. Each is set aside once.
    fn damage<'a>(&self, damaged: impl Iterator<Item = (u32, u64, ChunkId, &'a Unreadable)>) -> Error {
        let mut aside = self.aside.lock().unwrap_or_else(PoisonError::into_inner);
        self.opened.damage_but(&self.store, &mut aside, damaged)
    }

    /// Where chunks are.
    fn places_of(
        &self,
        chunks: &[u32],
        reader: &ChunkReader<'_>,
        progress: &dyn Progress,
    ) -> Result<Vec<Option<Place>>> {
        // Without HEAD the chunks may be there all the same.
        let head = || read_head(self.store.backend()).unwrap_or_else(|_| self.pinned.state.head.clone());
        self.places.of(chunks, &self.opened.manifest, reader, (self.store.index(), head), progress)
    }

    fn same(&self, chunk: u32) -> u32 {
        let same = self.same.get_or_init(|| {
            let manifest = &self.opened.manifest;
            let mut first: HashMap<(ChunkId, usize), u32> = HashMap::with_capacity(manifest.chunk_count());
            // Only one of two lengths can be true, and each is asked for as it stands there.
            (0..).zip(manifest.chunks()).map(|(nr, id)| *first.entry((id, self.len(nr))).or_insert(nr)).collect()
        });
        same[chunk as usize]
    }

    fn size_of(&self, file: u32) -> Result<u64> {
        match self.files().get(file as usize).map(|file| &file.content) {
            Some(Content::File { size, .. }) => Ok(*size),
            Some(_) => Err(Error::Invalid("directories and links have no bytes to read".into())),
            None => Err(Error::Invalid(format!(
                "the checkpoint has {} files, not one of number {file}",
                self.files().len()
            ))),
        }
    }
}
