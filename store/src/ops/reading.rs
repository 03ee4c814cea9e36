//! Gives back the bytes of chunks: place, payload, decoding, BLAKE3. Every byte that leaves a store passes here. Never
//! answers bytes that are not what their name says.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};

use crate::backend::{Backend, Family, Key, Object};
use crate::codec::{Codec, Decoder};
use crate::error::{Error, Result};
use crate::format::head::Head;
use crate::id::{ChunkId, PackId, StoreId};
use crate::index::{Index, Place};
use crate::limits::{CHUNK_BYTES_MAX, IDLE_PACKS_MAX};
use crate::packs::{OpenPacks, PackReader, read_trailer};
use crate::progress::Progress;

/// Why a chunk can't be given back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unreadable {
    /// The pack that should hold it, if any is known.
    pub pack: Option<PackId>,
    /// What is wrong.
    pub reason: String,
}

/// How often a chunk is followed that gc carries from pack to pack while it is being read.
const MOVES_MAX: usize = 100;

/// Reads chunks of one store.
pub struct ChunkReader<'a> {
    backend: &'a dyn Backend,
    store: StoreId,
    packs: PackReader<'a>,
    others: Arc<Mutex<Others>>,
}

/// What readers of one store come to know, for one that lives longer than a borrow of it.
#[derive(Clone, Default)]
pub struct Known {
    open: OpenPacks,
    others: Arc<Mutex<Others>>,
}

impl Known {
    /// Closes packs until only a few are open.
    pub fn rest(&self) {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let mut kept = 0;
        open.retain(|_, _| {
            kept += 1;
            kept <= IDLE_PACKS_MAX
        });
    }
}

/// Places that were found in the packs themselves: one search for all chunks that a reader was asked for, so that a gc which
/// rewrites packs under it costs it one look at the trailers and not one for each chunk.
#[derive(Default)]
struct Others {
    wanted: HashSet<ChunkId>,
    /// Packs that were known to be gone before the search; none before the first.
    gone: Option<HashSet<PackId>>,
    /// All places of each chunk, those in the newest packs first.
    found: HashMap<ChunkId, Vec<Place>>,
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
        Self::with(backend, store, &Known::default())
    }

    /// A reader that goes on with what others of the same store came to know.
    pub fn with(backend: &'a dyn Backend, store: StoreId, known: &Known) -> Self {
        let packs = PackReader::with(backend, Arc::clone(&known.open));
        Self { backend, store, packs, others: Arc::clone(&known.others) }
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
        self.lock().wanted.extend(ids);
        for (at, id) in ids.iter().enumerate().filter(|(at, _)| places[*at].is_none()).collect::<Vec<_>>() {
            places[at] = self.others(*id, &[])?.first().copied();
        }
        Ok(places)
    }

    /// Reads and checks one chunk. When its place fails, every other pack that lists it is tried, those included to which gc
    /// carries it meanwhile.
    pub fn read<'b>(
        &self,
        id: ChunkId,
        place: Option<Place>,
        raw_len: u32,
        buffers: &'b mut Buffers,
    ) -> Result<std::result::Result<&'b [u8], Unreadable>> {
        let read = self.follow(id, place, |pack, place| read_chunk(pack, id, place, raw_len, buffers))?;
        Ok(read.map(|()| &buffers.raw[..raw_len as usize]))
    }

    /// Reads one chunk as [`Self::read`] does, into `raw`, which has its length. When it fails, `raw` holds anything.
    pub fn read_into(
        &self,
        id: ChunkId,
        place: Option<Place>,
        raw: &mut [u8],
        buffers: &mut Buffers,
    ) -> Result<std::result::Result<(), Unreadable>> {
        self.follow(id, place, |pack, place| {
            check_lengths(place, raw.len())?;
            // What is stored as it is needs no second buffer.
            if place.codec == Codec::Raw && place.stored_len as usize == raw.len() {
                fetch(pack, place, raw)?;
            } else {
                let stored = &mut buffers.stored[..place.stored_len as usize];
                fetch(pack, place, stored)?;
                buffers.decoder.decode(place.codec, stored, raw).map_err(|error| error.to_string())?;
            }
            check_id(id, raw)
        })
    }

    /// Tries to read a chunk at its place and then in every other pack that lists it.
    fn follow(
        &self,
        id: ChunkId,
        place: Option<Place>,
        mut read: impl FnMut(&dyn Object, Place) -> std::result::Result<(), String>,
    ) -> Result<std::result::Result<(), Unreadable>> {
        let (mut tried, mut gone) = (Vec::new(), Vec::new());
        let mut first = None;
        let mut places: Vec<Place> = place.into_iter().collect();
        for _ in 0..MOVES_MAX {
            for place in places {
                tried.push(place.pack);
                let failure = match self.packs.open(place.pack)? {
                    Some(pack) => match read(&*pack, place) {
                        Ok(()) => return Ok(Ok(())),
                        Err(reason) => reason,
                    },
                    None => {
                        gone.push(place.pack);
                        "the pack is missing".into()
                    }
                };
                first.get_or_insert(Unreadable { pack: Some(place.pack), reason: failure });
            }
            places = self.others(id, &gone)?;
            places.retain(|place| !tried.contains(&place.pack));
            if places.is_empty() {
                break;
            }
        }
        Ok(Err(first.unwrap_or(Unreadable { pack: None, reason: "no pack holds it".into() })))
    }

    /// All places of a chunk, as the packs themselves list them: found by a search that began after it was known that the
    /// packs `gone` are.
    fn others(&self, id: ChunkId, gone: &[PackId]) -> Result<Vec<Place>> {
        // Held while searching: whoever else comes to need it waits for the same answer.
        let mut others = self.lock();
        let is_new = others.wanted.insert(id);
        if is_new || others.gone.as_ref().is_none_or(|known| gone.iter().any(|pack| !known.contains(pack))) {
            others.found = self.search(&others.wanted)?;
            others.gone.get_or_insert_default().extend(gone);
        }
        Ok(others.found.get(&id).cloned().unwrap_or_default())
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Others> {
        self.others.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Looks for chunks in the trailers of all packs: slow, and only for when the index is of no help.
    fn search(&self, wanted: &HashSet<ChunkId>) -> Result<HashMap<ChunkId, Vec<Place>>> {
        let mut found: HashMap<ChunkId, Vec<Place>> = HashMap::new();
        let mut seen = HashSet::new();
        loop {
            let listed = self.backend.list(Family::Packs)?.into_iter();
            let mut new: Vec<PackId> = listed
                .filter_map(|(key, _)| if let Key::Pack(pack) = key { Some(pack) } else { None })
                .filter(|pack| !seen.contains(pack))
                .collect();
            new.sort_unstable();
            for pack in &new {
                let Some(object) = self.backend.open(Key::Pack(*pack))? else { continue };
                // A pack whose trailer can't be read offers nothing here; verify reports it.
                let Ok((_, lines)) = read_trailer(*pack, self.store, &*object) else { continue };
                for line in lines.iter().filter(|line| wanted.contains(&line.id)) {
                    found.entry(line.id).or_default().push(Place::new(*pack, line));
                }
            }
            // Packs are listed one after the other: what gc carries on meanwhile is gone here and was not yet there. Then
            // its new pack is on the next list.
            if found.len() == wanted.len() || new.is_empty() {
                found.values_mut().for_each(|places| places.sort_by_key(|place| std::cmp::Reverse(place.pack)));
                return Ok(found);
            }
            seen.extend(new);
        }
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
    check_lengths(place, raw_len as usize)?;
    let (stored, raw) = (&mut stored[..place.stored_len as usize], &mut raw[..raw_len as usize]);
    fetch(pack, place, stored)?;
    decoder.decode(place.codec, stored, raw).map_err(|error| error.to_string())?;
    check_id(id, raw)
}

fn check_lengths(place: Place, raw_len: usize) -> std::result::Result<(), String> {
    let too_long = place.stored_len as usize > CHUNK_BYTES_MAX || raw_len > CHUNK_BYTES_MAX;
    if too_long || place.raw_len as usize != raw_len { Err("its record states other lengths".into()) } else { Ok(()) }
}

fn fetch(pack: &dyn Object, place: Place, stored: &mut [u8]) -> std::result::Result<(), String> {
    pack.read_exact_at(stored, place.offset).map_err(|error| match &error {
        Error::Unavailable { source, .. } if source.kind() == std::io::ErrorKind::UnexpectedEof => {
            "the pack was cut short".into()
        }
        Error::Unavailable { source, .. } => format!("the pack can't be read: {source}"),
        _ => error.to_string(),
    })
}

fn check_id(id: ChunkId, raw: &[u8]) -> std::result::Result<(), String> {
    if ChunkId::of(raw) == id { Ok(()) } else { Err("its bytes are not those that were stored".into()) }
}
