//! Chunk id to place, in RocksDB behind five verbs: look up, add, forget, set aside, catch up. Derived from the packs'
//! trailers: deleting `index/` changes no result. Never held open: RocksDB allows one process at a time, so every use is a
//! short critical section under a lock, open, one batch, close.

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};

use rocksdb::{DB, DBCompactionStyle, IteratorMode, LogLevel, Options, WaitForCompactOptions, WriteBatch};

use crate::backend::local::lock_shared;
use crate::backend::{Backend, Family, Key};
use crate::codec::Codec;
use crate::error::{Error, Result};
use crate::format::head::Head;
use crate::format::pack::Line;
use crate::id::{ChunkId, PackId, StoreId};
use crate::packs;
use crate::progress::{Notice, Progress, Stage};
use crate::session::lock_index;

const CHUNK: u8 = b'c';
const PACK: u8 = b'p';
const SEQ: &[u8] = b"s";
const PLACE_BYTES: usize = 37;

/// Where a chunk lies and how it is stored there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// The pack.
    pub pack: PackId,
    /// Where its payload begins.
    pub offset: u64,
    /// Bytes of the payload.
    pub stored_len: u32,
    /// Bytes of the chunk.
    pub raw_len: u32,
    /// CRC32C of the payload.
    pub crc: u32,
    /// How it is encoded.
    pub codec: Codec,
}

/// The answer to a look-up.
#[derive(Debug, Default)]
pub struct Found {
    /// One for each id asked for.
    pub places: Vec<Option<Place>>,
    /// HEAD's `packs_seq` up to which the index knows all packs.
    pub packs_seq: u64,
}

/// The index of a store.
pub struct Index {
    root: PathBuf,
    store: StoreId,
}

/// Why the database could not be used.
enum Trouble {
    /// Its files are missing or damaged: it has to be made anew.
    Broken(String),
    /// Something that making it anew would not mend.
    Other(Error),
}

impl Place {
    /// The place of `line` of `pack`.
    pub fn new(pack: PackId, line: &Line) -> Self {
        let Line { offset, stored_len, raw_len, codec, crc, .. } = *line;
        Self { pack, offset, stored_len, raw_len, crc, codec }
    }

    fn to_bytes(self) -> [u8; PLACE_BYTES] {
        let mut bytes = [0; PLACE_BYTES];
        bytes[..16].copy_from_slice(&self.pack.to_bytes());
        bytes[16..24].copy_from_slice(&self.offset.to_le_bytes());
        bytes[24..28].copy_from_slice(&self.stored_len.to_le_bytes());
        bytes[28..32].copy_from_slice(&self.raw_len.to_le_bytes());
        bytes[32..36].copy_from_slice(&self.crc.to_le_bytes());
        bytes[36] = self.codec as u8;
        bytes
    }

    fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let mut fields = crate::format::Fields(bytes);
        Some(Self {
            pack: PackId::from_bytes(fields.array().ok()?),
            offset: fields.u64().ok()?,
            stored_len: fields.u32().ok()?,
            raw_len: fields.u32().ok()?,
            crc: fields.u32().ok()?,
            codec: Codec::try_from(fields.u8().ok()?).ok()?,
        })
    }
}

impl Index {
    /// The index of the store in `root`.
    pub fn new(root: &Path, store: StoreId) -> Self {
        Self { root: root.to_owned(), store }
    }

    /// Looks up many chunks in one opening. An index that is missing or damaged is made anew from the packs first.
    pub fn look_up(
        &self,
        ids: &[ChunkId],
        backend: &dyn Backend,
        head: &Head,
        progress: &dyn Progress,
    ) -> Result<Found> {
        let first = {
            let _lock = lock_shared(&self.root.join("locks/index"))?;
            self.read(ids)
        };
        match first {
            Ok(found) => return Ok(found),
            Err(Trouble::Other(error)) => return Err(error),
            Err(Trouble::Broken(reason)) => self.rebuild(&reason, backend, head, progress)?,
        }
        let _lock = lock_shared(&self.root.join("locks/index"))?;
        self.read(ids).map_err(Trouble::into_error)
    }

    /// Adds the records of packs that became part of the store by the swap that moved HEAD's `packs_seq` from `before` to
    /// `after`.
    pub fn add(&self, new: &[(PackId, Vec<Line>)], before: u64, after: u64) -> Result<()> {
        self.change(|db| {
            let mut batch = WriteBatch::default();
            new.iter().for_each(|(pack, lines)| put_pack(&mut batch, *pack, lines));
            // With a gap before it, somebody else's packs are still to come: the next put catches up.
            if read_seq(db)? == before {
                batch.put(SEQ, after.to_le_bytes());
            }
            Ok(batch)
        })
    }

    /// Removes every entry that points into one of `packs`, whose records are given.
    pub fn forget(&self, gone: &[(PackId, Vec<Line>)]) -> Result<()> {
        if gone.is_empty() {
            return Ok(());
        }
        self.change(|db| {
            let mut batch = WriteBatch::default();
            for (pack, lines) in gone {
                batch.delete(pack_key(*pack));
                remove_places(db, &mut batch, lines.iter().map(|line| (line.id, *pack)))?;
            }
            Ok(batch)
        })
    }

    /// Removes the entries of damaged chunks, so that storing the same bytes again heals them.
    pub fn set_aside(&self, damaged: &[(ChunkId, PackId)]) -> Result<()> {
        self.change(|db| {
            let mut batch = WriteBatch::default();
            remove_places(db, &mut batch, damaged.iter().copied())?;
            Ok(batch)
        })
    }

    /// Adds all packs that the index does not know yet, other than those that are being deleted. `head` must have been
    /// read before the call.
    pub fn catch_up(&self, backend: &dyn Backend, head: &Head, progress: &dyn Progress) -> Result<()> {
        match self.absorb(backend, head, progress) {
            Err(Trouble::Broken(reason)) => self.rebuild(&reason, backend, head, progress),
            Err(Trouble::Other(error)) => Err(error),
            Ok(()) => Ok(()),
        }
    }

    fn rebuild(&self, reason: &str, backend: &dyn Backend, head: &Head, progress: &dyn Progress) -> Result<()> {
        {
            let _lock = lock_index(&self.root)?;
            // Somebody else may have mended it while this process waited for the lock.
            if matches!(self.read(&[]), Err(Trouble::Broken(_))) {
                self.clear()?;
                progress.notice(Notice::IndexRebuilt { reason: reason.to_owned() });
            }
        }
        self.absorb(backend, head, progress).map_err(Trouble::into_error)
    }

    fn absorb(&self, backend: &dyn Backend, head: &Head, progress: &dyn Progress) -> std::result::Result<(), Trouble> {
        let listed = backend.list(Family::Packs).map_err(Trouble::Other)?;
        let _lock = lock_index(&self.root).map_err(Trouble::Other)?;
        let db = self.open()?;
        let known = known_packs(&db)?;
        let mut missing: Vec<PackId> = listed
            .into_iter()
            .filter_map(|(key, _)| if let Key::Pack(pack) = key { Some(pack) } else { None })
            .filter(|pack| !known.contains(pack) && !head.deleting.contains(pack))
            .collect();
        // Newest last: where two packs hold a chunk, the later one may be there to heal the earlier.
        missing.sort_unstable();
        progress.begin(Stage::Index, missing.len() as u64);
        for pack in missing {
            if let Some(object) = backend.open(Key::Pack(pack)).map_err(Trouble::Other)? {
                match packs::read_trailer(pack, self.store, &*object) {
                    Ok((_, lines)) => {
                        let mut batch = WriteBatch::default();
                        put_pack(&mut batch, pack, &lines);
                        db.write(batch)?;
                    }
                    // A pack without a sound trailer offers nothing; verify reports it.
                    Err(Error::Corrupt { .. }) => {}
                    Err(error) => return Err(Trouble::Other(error)),
                }
            }
            progress.advance(1);
        }
        if read_seq(&db)? < head.packs_seq {
            db.put(SEQ, head.packs_seq.to_le_bytes())?;
        }
        close(db)
    }

    fn change(&self, plan: impl Fn(&DB) -> std::result::Result<WriteBatch, Trouble>) -> Result<()> {
        let _lock = lock_index(&self.root)?;
        let run = || {
            let db = self.open()?;
            db.write(plan(&db)?)?;
            close(db)
        };
        match run() {
            // What is damaged is not worth a change, and no reason to fail: from an empty index all comes back at the next
            // look-up.
            Err(Trouble::Broken(_)) => self.clear(),
            other => other.map_err(Trouble::into_error),
        }
    }

    /// Makes the index a new one that knows nothing. The caller holds its lock.
    fn clear(&self) -> Result<()> {
        let path = self.path();
        let removed = match fs::symlink_metadata(&path) {
            Ok(there) if there.is_dir() => fs::remove_dir_all(&path),
            Ok(_) => fs::remove_file(&path),
            Err(_) => Ok(()),
        };
        removed.map_err(|error| Error::io("remove", &path, error))?;
        fs::create_dir(&path).map_err(|error| Error::io("create", &path, error))
    }

    fn read(&self, ids: &[ChunkId]) -> std::result::Result<Found, Trouble> {
        if !self.path().join("CURRENT").exists() {
            // A new store has no database yet; one whose packs are not in it is seen by its seq of 0.
            return match fs::read_dir(self.path()).map(|mut entries| entries.next().is_none()) {
                Ok(true) => Ok(Found { places: vec![None; ids.len()], packs_seq: 0 }),
                Ok(false) => Err(Trouble::Broken("its CURRENT file is missing".into())),
                Err(error) => Err(Trouble::Broken(error.to_string())),
            };
        }
        let default = rocksdb::DEFAULT_COLUMN_FAMILY_NAME;
        let db = DB::open_cf_for_read_only(&options(), self.path(), [default], false)?;
        // RocksDB reads a block once for all keys in it when they come sorted.
        let mut order: Vec<u32> = (0..ids.len() as u32).collect();
        order.sort_unstable_by_key(|at| ids[*at as usize]);
        let keys: Vec<[u8; 33]> = order.iter().map(|at| chunk_key(ids[*at as usize])).collect();
        let family = db.cf_handle(default).ok_or_else(|| Trouble::Broken("it has no default column family".into()))?;
        let mut places = vec![None; ids.len()];
        for (at, value) in order.into_iter().zip(db.batched_multi_get_cf(&family, &keys, true)) {
            if let Some(value) = value? {
                let place = Place::from_bytes(&value).ok_or_else(|| Trouble::Broken("an entry is malformed".into()))?;
                places[at as usize] = Some(place);
            }
        }
        Ok(Found { places, packs_seq: read_seq(&db)? })
    }

    fn open(&self) -> std::result::Result<DB, Trouble> {
        let path = self.path();
        if !path.join("CURRENT").exists() && fs::read_dir(&path).is_ok_and(|mut entries| entries.next().is_some()) {
            return Err(Trouble::Broken("its CURRENT file is missing".into()));
        }
        Ok(DB::open(&options(), path)?)
    }

    fn path(&self) -> PathBuf {
        self.root.join("index")
    }
}

impl Trouble {
    fn into_error(self) -> Error {
        match self {
            Self::Broken(reason) => Error::corrupt("index", reason),
            Self::Other(error) => error,
        }
    }
}

impl From<rocksdb::Error> for Trouble {
    fn from(error: rocksdb::Error) -> Self {
        let text = error.to_string();
        // A missing table file comes as an I/O error, which a full disk does as well.
        let mends_by_rebuild = match error.kind() {
            rocksdb::ErrorKind::IOError => text.contains("No such file"),
            _ => true,
        };
        if mends_by_rebuild {
            Self::Broken(text)
        } else {
            let kind = if text.contains("No space left") || text.contains("quota") {
                std::io::ErrorKind::StorageFull
            } else {
                std::io::ErrorKind::Other
            };
            Self::Other(Error::io("use", Path::new("index"), std::io::Error::new(kind, text)))
        }
    }
}

fn options() -> Options {
    let mut options = Options::default();
    options.create_if_missing(true);
    options.set_log_level(LogLevel::Error);
    options.set_keep_log_file_num(1);
    options.set_max_open_files(256);
    // Opening a handful of tables needs no pool of threads.
    options.set_max_file_opening_threads(1);
    options.set_stats_dump_period_sec(0);
    options.set_skip_stats_update_on_db_open(true);
    // RocksDB allocates a log in its full size before it writes the first byte, 74 MB by default, and gives it back when it
    // closes: 35 ms of each put in a store in memory, and room that a nearly full disk has not. With one column family
    // this bounds nothing else.
    options.set_max_total_wal_size(1 << 20);
    options.set_manifest_preallocation_size(64 << 10);
    // Each put adds one small table. Merging tables of like size keeps the cost per key logarithmic, where levels would
    // rewrite the whole index again and again: hashes fall everywhere.
    options.set_compaction_style(DBCompactionStyle::Universal);
    options.set_level_zero_file_num_compaction_trigger(8);
    let mut table = rocksdb::BlockBasedOptions::default();
    // Most look-ups of a new checkpoint find nothing.
    table.set_bloom_filter(10.0, false);
    options.set_block_based_table_factory(&table);
    options
}

fn close(db: DB) -> std::result::Result<(), Trouble> {
    // Closing would cancel a compaction that is due; here is the only time for it.
    db.wait_for_compact(&WaitForCompactOptions::default())?;
    Ok(())
}

fn chunk_key(id: ChunkId) -> [u8; 33] {
    let mut key = [CHUNK; 33];
    key[1..].copy_from_slice(&id.0);
    key
}

fn pack_key(id: PackId) -> [u8; 17] {
    let mut key = [PACK; 17];
    key[1..].copy_from_slice(&id.to_bytes());
    key
}

fn put_pack(batch: &mut WriteBatch, pack: PackId, lines: &[Line]) {
    for line in lines {
        batch.put(chunk_key(line.id), Place::new(pack, line).to_bytes());
    }
    batch.put(pack_key(pack), []);
}

/// Deletes the entries of chunks as far as they point into the given pack.
fn remove_places(
    db: &DB,
    batch: &mut WriteBatch,
    chunks: impl Iterator<Item = (ChunkId, PackId)>,
) -> std::result::Result<(), Trouble> {
    for (id, pack) in chunks {
        let key = chunk_key(id);
        let points_there =
            db.get_pinned(key)?.and_then(|value| Place::from_bytes(&value)).is_some_and(|place| place.pack == pack);
        if points_there {
            batch.delete(key);
        }
    }
    Ok(())
}

fn known_packs(db: &DB) -> std::result::Result<HashSet<PackId>, Trouble> {
    let mut known = HashSet::new();
    for entry in db.iterator(IteratorMode::From(&[PACK], rocksdb::Direction::Forward)) {
        let (key, _) = entry?;
        match <[u8; 17]>::try_from(&*key) {
            Ok(key) if key[0] == PACK => {
                let mut id = [0; 16];
                id.copy_from_slice(&key[1..]);
                known.insert(PackId::from_bytes(id));
            }
            _ => break,
        }
    }
    Ok(known)
}

fn read_seq(db: &DB) -> std::result::Result<u64, Trouble> {
    match db.get_pinned(SEQ)? {
        None => Ok(0),
        Some(value) => <[u8; 8]>::try_from(&*value)
            .map(u64::from_le_bytes)
            .map_err(|_| Trouble::Broken("its seq is malformed".into())),
    }
}
