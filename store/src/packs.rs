//! Packs as objects: appending chunks, sealing, publishing, reading ranges and trailers. Never encodes a chunk and never
//! decides whether a chunk is needed.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};

use crate::backend::{Backend, Key, NewObject, Object};
use crate::codec::Codec;
use crate::error::{Error, Result};
use crate::format::pack::{self, FOOTER_BYTES, HEADER_BYTES, Header, Line};
use crate::id::{ChunkId, PackId, SessionId, StoreId};
use crate::limits::{PACK_BYTES_MAX, PACK_BYTES_TARGET, PACK_RECORDS_MAX};

/// Packs that may be waiting for the disk at once; a writer that is faster than the disk waits here.
const SEALING_MAX: usize = 2;
/// Packs kept open by a reader.
const OPEN_MAX: usize = 128;

/// A pack that is complete and durable but not published.
pub struct SealedPack {
    /// Its name.
    pub id: PackId,
    /// Its records.
    pub lines: Vec<Line>,
    /// Its bytes.
    pub bytes: u64,
    object: Box<dyn NewObject>,
}

impl SealedPack {
    /// Publishes it; answers its name and records.
    pub fn publish(self) -> Result<(PackId, Vec<Line>)> {
        self.object.publish()?;
        Ok((self.id, self.lines))
    }
}

struct OpenPack {
    id: PackId,
    object: Box<dyn NewObject>,
    end: u64,
    lines: Vec<Line>,
}

/// Tells how many bytes a [`PackWriter`] will have written, from the lengths of what it gets.
#[derive(Debug, Clone, Copy, Default)]
pub struct Sizer {
    sealed: u64,
    end: u64,
    records: usize,
}

impl Sizer {
    /// After one more chunk.
    pub fn with(mut self, line: &Line) -> Self {
        let end = if self.records == 0 { HEADER_BYTES as u64 } else { self.end };
        self.end = pack::record_place(end, line.codec, line.stored_len as usize).1 + u64::from(line.stored_len);
        self.records += 1;
        if is_full(self.end, self.records) { Self { sealed: self.bytes(), ..Self::default() } } else { self }
    }

    /// Bytes of all packs, once they are sealed.
    pub fn bytes(self) -> u64 {
        let open = if self.records == 0 { 0 } else { pack::pack_bytes(self.end, self.records) };
        self.sealed + open
    }
}

/// Whether a pack takes no more.
fn is_full(end: u64, records: usize) -> bool {
    end >= PACK_BYTES_TARGET || records >= PACK_RECORDS_MAX
}

/// Writes chunks into packs of one session, sealing each in the background once it is full.
pub struct PackWriter<'a> {
    backend: &'a dyn Backend,
    store: StoreId,
    session: SessionId,
    open: Option<OpenPack>,
    sealing: Vec<JoinHandle<Result<SealedPack>>>,
    sealed: Vec<SealedPack>,
}

impl<'a> PackWriter<'a> {
    /// A writer for `session`.
    pub fn new(backend: &'a dyn Backend, store: StoreId, session: SessionId) -> Self {
        Self { backend, store, session, open: None, sealing: Vec::new(), sealed: Vec::new() }
    }

    /// Adds a chunk; answers the pack it went to.
    pub fn append(&mut self, id: ChunkId, codec: Codec, stored: &[u8], raw_len: usize) -> Result<PackId> {
        let mut open = match self.open.take() {
            Some(open) => open,
            None => self.begin()?,
        };
        let (header_at, offset) = pack::record_place(open.end, codec, stored.len());
        let line = Line {
            id,
            offset,
            stored_len: stored.len() as u32,
            raw_len: raw_len as u32,
            codec,
            crc: crc32c::crc32c(stored),
        };
        let mut front = vec![0; (offset - open.end) as usize];
        let at = (header_at - open.end) as usize;
        front[at..at + pack::RECORD_BYTES].copy_from_slice(&pack::record_to_bytes(&line));
        open.object.append(&front)?;
        open.object.append(stored)?;
        open.end = offset + stored.len() as u64;
        open.lines.push(line);
        let pack = open.id;
        if is_full(open.end, open.lines.len()) {
            self.seal(open)?;
        } else {
            self.open = Some(open);
        }
        Ok(pack)
    }

    /// Seals what is open and waits until all packs are durable.
    pub fn finish(mut self) -> Result<Vec<SealedPack>> {
        if let Some(open) = self.open.take() {
            self.seal(open)?;
        }
        while !self.sealing.is_empty() {
            self.wait_for_oldest()?;
        }
        Ok(std::mem::take(&mut self.sealed))
    }

    fn begin(&self) -> Result<OpenPack> {
        let id = PackId::generate();
        let mut object = self.backend.create(Key::Pack(id), &self.session.to_string())?;
        object.append(&Header { store: self.store, pack: id, session: self.session }.to_bytes())?;
        Ok(OpenPack { id, object, end: HEADER_BYTES as u64, lines: Vec::new() })
    }

    fn seal(&mut self, open: OpenPack) -> Result<()> {
        while self.sealing.len() >= SEALING_MAX {
            self.wait_for_oldest()?;
        }
        let work = move || {
            let OpenPack { id, mut object, end, lines } = open;
            let trailer = pack::trailer_to_bytes(end, &lines);
            object.append(&trailer)?;
            object.seal()?;
            Ok(SealedPack { id, lines, bytes: end + trailer.len() as u64, object })
        };
        let handle = thread::Builder::new().name("ckpt-seal".into()).spawn(work);
        self.sealing.push(handle.map_err(|error| Error::Internal(format!("can't start a thread: {error}")))?);
        Ok(())
    }

    fn wait_for_oldest(&mut self) -> Result<()> {
        let pack = self.sealing.remove(0).join().map_err(|_| Error::Internal("sealing a pack panicked".into()))??;
        self.sealed.push(pack);
        Ok(())
    }
}

impl Drop for PackWriter<'_> {
    fn drop(&mut self) {
        // A failed put waits for its writes, so that nothing appears in the store after it has reported.
        for handle in self.sealing.drain(..) {
            let _ = handle.join();
        }
    }
}

/// Packs that stay open from one reader to the next.
pub type OpenPacks = Arc<Mutex<HashMap<PackId, Arc<dyn Object>>>>;

/// Reads packs, keeping some of them open.
pub struct PackReader<'a> {
    backend: &'a dyn Backend,
    open: OpenPacks,
}

impl<'a> PackReader<'a> {
    /// A reader of `backend`.
    pub fn new(backend: &'a dyn Backend) -> Self {
        Self::with(backend, OpenPacks::default())
    }

    /// A reader of `backend` that goes on with the packs that another one of the same backend has open.
    pub fn with(backend: &'a dyn Backend, open: OpenPacks) -> Self {
        Self { backend, open }
    }

    /// Opens a pack; none when it is gone.
    pub fn open(&self, id: PackId) -> Result<Option<Arc<dyn Object>>> {
        if let Some(object) = self.lock().get(&id) {
            return Ok(Some(Arc::clone(object)));
        }
        let Some(object) = self.backend.open(Key::Pack(id))? else { return Ok(None) };
        let object: Arc<dyn Object> = Arc::from(object);
        let mut open = self.lock();
        if open.len() >= OPEN_MAX {
            // Any one will do: packs are read in runs, and opening one again costs microseconds.
            if let Some(victim) = open.keys().next().copied() {
                open.remove(&victim);
            }
        }
        open.insert(id, Arc::clone(&object));
        Ok(Some(object))
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<PackId, Arc<dyn Object>>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Reads and checks the header of a pack.
pub fn read_header(id: PackId, store: StoreId, object: &dyn Object) -> Result<Header> {
    let key = Key::Pack(id);
    if object.size() < (HEADER_BYTES + FOOTER_BYTES) as u64 || object.size() > PACK_BYTES_MAX {
        return Err(Error::corrupt(key, format!("it has {} bytes, which no pack has", object.size())));
    }
    let mut bytes = [0; HEADER_BYTES];
    object.read_exact_at(&mut bytes, 0)?;
    let header = Header::from_bytes(&bytes).map_err(|error| error.of(key))?;
    if header.pack != id || header.store != store {
        return Err(Error::corrupt(key, "it is a pack of another name or another store"));
    }
    Ok(header)
}

/// Reads and checks header and trailer of a pack.
pub fn read_trailer(id: PackId, store: StoreId, object: &dyn Object) -> Result<(Header, Vec<Line>)> {
    let header = read_header(id, store, object)?;
    let key = Key::Pack(id);
    let mut footer = [0; FOOTER_BYTES];
    object.read_exact_at(&mut footer, object.size() - FOOTER_BYTES as u64)?;
    let (start, len) = pack::footer_from_bytes(&footer, object.size()).map_err(|error| error.of(key))?;
    let mut trailer = vec![0; len];
    object.read_exact_at(&mut trailer, start)?;
    let lines = pack::trailer_from_bytes(&trailer, &footer, start).map_err(|error| error.of(key))?;
    Ok((header, lines))
}
