//! RocksDB as the index uses it: options, keys, values, and which errors a new database mends. Never takes a lock and never
//! decides when to open.

use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};

use rocksdb::{DB, DBCompactionStyle, IteratorMode, LogLevel, Options, WaitForCompactOptions, WriteBatch};

use crate::codec::Codec;
use crate::error::Error;
use crate::format::pack::Line;
use crate::id::{ChunkId, PackId};
use crate::limits::PACK_BYTES_MAX;

const CHUNK: u8 = b'c';
const PACK: u8 = b'p';
const VERIFIED: u8 = b'v';
/// The key of HEAD's `packs_seq` up to which all packs are known.
pub(super) const SEQ: &[u8] = b"s";
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

/// A pack and what is kept under it.
type PackEntry = (PackId, Box<[u8]>);

/// Why the database could not be used.
pub(super) enum Trouble {
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

    pub(super) fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let mut fields = crate::format::Fields(bytes);
        let place = Self {
            pack: PackId::from_bytes(fields.array().ok()?),
            offset: fields.u64().ok()?,
            stored_len: fields.u32().ok()?,
            raw_len: fields.u32().ok()?,
            crc: fields.u32().ok()?,
            codec: Codec::try_from(fields.u8().ok()?).ok()?,
        };
        // No pack is that long, so whoever adds to an offset need not fear that it overflows.
        Some(place).filter(|place| place.offset <= PACK_BYTES_MAX)
    }
}

impl Trouble {
    pub(super) fn into_error(self) -> Error {
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

/// The most that a forked process adds to the index without RocksDB's threads: more chunks than a store has.
const FORKED_BUFFER_BYTES: usize = 16 << 30;

/// The process that opened an index first; 0 while none has.
static FIRST: AtomicU32 = AtomicU32::new(0);

/// Whether this process is a fork of one that has used RocksDB, whose background threads it does not have, though RocksDB
/// believes so: a worker of a DataLoader.
fn is_forked() -> bool {
    let own = std::process::id();
    FIRST.compare_exchange(0, own, Ordering::Relaxed, Ordering::Relaxed).is_err_and(|first| first != own)
}

pub(super) fn options() -> Options {
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
    if is_forked() {
        // What it wants of its threads would be waited for without end: here nobody merges tables, and all that is added at
        // once stays in memory. The next process that opens the index merges.
        options.set_disable_auto_compactions(true);
        options.set_write_buffer_size(FORKED_BUFFER_BYTES);
    }
    let mut table = rocksdb::BlockBasedOptions::default();
    // Most look-ups of a new checkpoint find nothing.
    table.set_bloom_filter(10.0, false);
    options.set_block_based_table_factory(&table);
    options
}

pub(super) fn close(db: DB) -> std::result::Result<(), Trouble> {
    // Closing would cancel a compaction that is due; here is the only time for it.
    db.wait_for_compact(&WaitForCompactOptions::default())?;
    Ok(())
}

pub(super) fn chunk_key(id: ChunkId) -> [u8; 33] {
    let mut key = [CHUNK; 33];
    key[1..].copy_from_slice(&id.0);
    key
}

pub(super) fn pack_key(id: PackId) -> [u8; 17] {
    let mut key = [PACK; 17];
    key[1..].copy_from_slice(&id.to_bytes());
    key
}

/// The key of the time at which a pack was last found sound.
pub(super) fn verified_key(id: PackId) -> [u8; 17] {
    let mut key = pack_key(id);
    key[0] = VERIFIED;
    key
}

pub(super) fn put_pack(batch: &mut WriteBatch, pack: PackId, lines: &[Line]) {
    for line in lines {
        batch.put(chunk_key(line.id), Place::new(pack, line).to_bytes());
    }
    batch.put(pack_key(pack), []);
}

/// Deletes the entries of chunks as far as they point into the given pack, or lets them point where the chunk went.
pub(super) fn remove_places(
    db: &DB,
    batch: &mut WriteBatch,
    chunks: impl Iterator<Item = (ChunkId, PackId)>,
    moved: &HashMap<ChunkId, Place>,
) -> std::result::Result<(), Trouble> {
    for (id, pack) in chunks {
        let key = chunk_key(id);
        let points_there =
            db.get_pinned(key)?.and_then(|value| Place::from_bytes(&value)).is_some_and(|place| place.pack == pack);
        match moved.get(&id) {
            Some(place) if points_there => batch.put(key, place.to_bytes()),
            None if points_there => batch.delete(key),
            _ => {}
        }
    }
    Ok(())
}

pub(super) fn known_packs(db: &DB) -> std::result::Result<HashSet<PackId>, Trouble> {
    Ok(by_pack(db, PACK)?.into_iter().map(|(pack, _)| pack).collect())
}

/// When packs were last found sound, in milliseconds since 1970. An entry that is malformed says nothing.
pub(super) fn verified_packs(db: &DB) -> std::result::Result<HashMap<PackId, i64>, Trouble> {
    let time = |value: Box<[u8]>| <[u8; 8]>::try_from(&*value).ok().map(i64::from_le_bytes);
    Ok(by_pack(db, VERIFIED)?.into_iter().filter_map(|(pack, value)| Some((pack, time(value)?))).collect())
}

/// All entries whose keys are this byte and the id of a pack.
fn by_pack(db: &DB, kind: u8) -> std::result::Result<Vec<PackEntry>, Trouble> {
    let mut found = Vec::new();
    for entry in db.iterator(IteratorMode::From(&[kind], rocksdb::Direction::Forward)) {
        let (key, value) = entry?;
        match <[u8; 17]>::try_from(&*key) {
            Ok(key) if key[0] == kind => {
                let mut id = [0; 16];
                id.copy_from_slice(&key[1..]);
                found.push((PackId::from_bytes(id), value));
            }
            _ => break,
        }
    }
    Ok(found)
}

pub(super) fn read_seq(db: &DB) -> std::result::Result<u64, Trouble> {
    match db.get_pinned(SEQ)? {
        None => Ok(0),
        Some(value) => <[u8; 8]>::try_from(&*value)
            .map(u64::from_le_bytes)
            .map_err(|_| Trouble::Broken("its seq is malformed".into())),
    }
}
