//! Gives back the bytes of chunks: place, payload, decoding, BLAKE3. Every byte that leaves a store passes here. Never
//! answers bytes that are not what their name says.

use std::collections::HashMap;

use crate::backend::{Backend, Family, Key, Object};
use crate::codec::Decoder;
use crate::error::{Error, Result};
use crate::format::head::Head;
use crate::id::{ChunkId, PackId, StoreId};
use crate::index::{Index, Place};
use crate::limits::CHUNK_BYTES_MAX;
use crate::packs::{PackReader, read_trailer};
use crate::progress::Progress;

/// Why a chunk can't be given back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unreadable {
    /// The pack that should hold it, if any is known.
    pub pack: Option<PackId>,
    /// What is wrong.
    pub reason: String,
}

/// Reads chunks of one store.
pub struct ChunkReader<'a> {
    backend: &'a dyn Backend,
    store: StoreId,
    packs: PackReader<'a>,
}

/// One thread's buffers.
pub struct Buffers {
    stored: Vec<u8>,
    raw: Vec<u8>,
    decoder: Decoder,
}

impl Buffers {
    /// The first bytes as they were read last, before decoding.
    pub fn stored(&self, len: usize) -> &[u8] {
        &self.stored[..len]
    }

    /// Buffers for the largest chunk.
    pub fn new() -> Self {
        Self { stored: vec![0; CHUNK_BYTES_MAX], raw: vec![0; CHUNK_BYTES_MAX], decoder: Decoder::new() }
    }
}

impl<'a> ChunkReader<'a> {
    /// A reader of the chunks of `store`.
    pub fn new(backend: &'a dyn Backend, store: StoreId) -> Self {
        Self { backend, store, packs: PackReader::new(backend) }
    }

    /// Finds the places of chunks: by the index; for those it lacks by bringing it up to date, and then by the trailers.
    pub fn places(
        &self,
        ids: &[ChunkId],
        index: &Index,
        head: &Head,
        progress: &dyn Progress,
    ) -> Result<Vec<Option<Place>>> {
        let look_up = || match index.look_up(ids, self.backend, head, progress) {
            Ok(found) => Ok(found.places),
            // An index that is missing where nobody can write: the packs themselves know.
            Err(Error::Unavailable { .. } | Error::NoSpace { .. }) => Ok(vec![None; ids.len()]),
            Err(error) => Err(error),
        };
        let mut places = look_up()?;
        // A store that can't be written to is read all the same.
        if places.iter().any(Option::is_none) && index.catch_up(self.backend, head, progress).is_ok() {
            places = look_up()?;
        }
        let missing: Vec<usize> = (0..ids.len()).filter(|at| places[*at].is_none()).collect();
        if !missing.is_empty() {
            let wanted: Vec<ChunkId> = missing.iter().map(|at| ids[*at]).collect();
            let found = self.search(&wanted, None)?;
            for at in missing {
                places[at] = found.get(&ids[at]).copied();
            }
        }
        Ok(places)
    }

    /// Reads and checks one chunk. When its place fails, every other pack that lists it is tried.
    pub fn read<'b>(
        &self,
        id: ChunkId,
        place: Option<Place>,
        raw_len: u32,
        buffers: &'b mut Buffers,
    ) -> Result<std::result::Result<&'b [u8], Unreadable>> {
        let first = match place {
            None => Unreadable { pack: None, reason: "no pack holds it".into() },
            Some(place) => match self.read_at(id, place, raw_len, buffers)? {
                Ok(()) => return Ok(Ok(&buffers.raw[..raw_len as usize])),
                Err(unreadable) => unreadable,
            },
        };
        if let Some(other) = self.search(&[id], place.map(|place| place.pack))?.get(&id)
            && self.read_at(id, *other, raw_len, buffers)?.is_ok()
        {
            return Ok(Ok(&buffers.raw[..raw_len as usize]));
        }
        Ok(Err(first))
    }

    fn read_at(
        &self,
        id: ChunkId,
        place: Place,
        raw_len: u32,
        buffers: &mut Buffers,
    ) -> Result<std::result::Result<(), Unreadable>> {
        let unreadable = |reason: &str| Unreadable { pack: Some(place.pack), reason: reason.into() };
        let Some(pack) = self.packs.open(place.pack)? else { return Ok(Err(unreadable("the pack is missing"))) };
        Ok(read_chunk(&*pack, id, place, raw_len, buffers).map_err(|reason| unreadable(&reason)))
    }

    /// Looks for chunks in the trailers of all packs but `except`: slow, and only for when the index is of no help.
    fn search(&self, ids: &[ChunkId], except: Option<PackId>) -> Result<HashMap<ChunkId, Place>> {
        let wanted: std::collections::HashSet<ChunkId> = ids.iter().copied().collect();
        let mut found = HashMap::new();
        let mut listed = self.backend.list(Family::Packs)?;
        listed.sort_unstable_by_key(|(key, _)| *key);
        for (key, _) in listed {
            let Key::Pack(pack) = key else { continue };
            let Some(object) = self.packs.open(pack)?.filter(|_| Some(pack) != except) else { continue };
            // A pack whose trailer can't be read offers nothing here; verify reports it.
            let Ok((_, lines)) = read_trailer(pack, self.store, &*object) else { continue };
            found.extend(
                lines.iter().filter(|line| wanted.contains(&line.id)).map(|line| (line.id, Place::new(pack, line))),
            );
        }
        Ok(found)
    }
}

/// Reads, decodes and checks the chunk at `place` of an open pack into the buffers' raw part.
pub fn read_chunk(
    pack: &dyn Object,
    id: ChunkId,
    place: Place,
    raw_len: u32,
    buffers: &mut Buffers,
) -> std::result::Result<(), String> {
    let Buffers { stored, raw, decoder } = buffers;
    let (stored_len, raw_len) = (place.stored_len as usize, raw_len as usize);
    if place.raw_len as usize != raw_len || stored_len > CHUNK_BYTES_MAX || raw_len > CHUNK_BYTES_MAX {
        return Err("its record states other lengths".into());
    }
    let (stored, raw) = (&mut stored[..stored_len], &mut raw[..raw_len]);
    pack.read_exact_at(stored, place.offset).map_err(|error| match &error {
        Error::Unavailable { source, .. } if source.kind() == std::io::ErrorKind::UnexpectedEof => {
            "the pack was cut short".into()
        }
        Error::Unavailable { source, .. } => format!("the pack can't be read: {source}"),
        _ => error.to_string(),
    })?;
    decoder.decode(place.codec, stored, raw).map_err(|error| error.to_string())?;
    if ChunkId::of(raw) == id { Ok(()) } else { Err("its bytes are not those that were stored".into()) }
}
