//! Chunk id to place, in RocksDB behind a few verbs: look up, add, forget, set aside, catch up. Derived from the packs'
//! trailers: deleting `index/` changes no result. Never held open: RocksDB allows one process at a time, so every use is a
//! short critical section under a lock, open, one batch, close.

mod table;

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

use rocksdb::{DB, IteratorMode, WriteBatch};

pub use self::table::Place;
use self::table::{
    SEQ, Trouble, chunk_key, close, known_packs, options, pack_key, put_pack, read_seq, remove_places, verified_key,
    verified_packs,
};
use crate::backend::local::lock_shared;
use crate::backend::{Backend, Family, Key};
use crate::error::{Error, Result};
use crate::format::head::Head;
use crate::format::pack::Line;
use crate::id::{ChunkId, PackId, StoreId};
use crate::packs;
use crate::progress::{Notice, Progress, Stage};
use crate::session::lock_index;

/// The most bytes of the file `CURRENT`, which holds one name.
const CURRENT_BYTES_MAX: u64 = 4096;

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
            Err(Trouble::Broken(reason)) => self.rebuild(&reason, ids, backend, head, progress)?,
        }
        let _lock = lock_shared(&self.root.join("locks/index"))?;
        self.read(ids).map_err(Trouble::into_error)
    }

    /// Adds the records of packs that became part of the store by the swap that moved HEAD's `packs_seq` from `before` to
    /// `after`.
    pub fn add(&self, new: &[(PackId, Vec<Line>)], before: u64, after: u64) -> Result<()> {
        if new.is_empty() {
            return Ok(());
        }
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

    /// Removes every entry that points into one of the packs that are going, whose records are given; a chunk that has
    /// another place from now on gets that.
    pub fn forget(&self, gone: &[(PackId, Vec<Line>)], moved: &HashMap<ChunkId, Place>) -> Result<()> {
        if gone.is_empty() {
            return Ok(());
        }
        self.change(|db| {
            let mut batch = WriteBatch::default();
            for (pack, lines) in gone {
                batch.delete(pack_key(*pack));
                batch.delete(verified_key(*pack));
                remove_places(db, &mut batch, lines.iter().map(|line| (line.id, *pack)), moved)?;
            }
            Ok(batch)
        })
    }

    /// Removes the entries of damaged chunks, so that storing the same bytes again heals them.
    pub fn set_aside(&self, damaged: &[(ChunkId, PackId)]) -> Result<()> {
        if damaged.is_empty() {
            return Ok(());
        }
        self.change(|db| {
            let mut batch = WriteBatch::default();
            remove_places(db, &mut batch, damaged.iter().copied(), &HashMap::new())?;
            damaged.iter().for_each(|(_, pack)| batch.delete(verified_key(*pack)));
            Ok(batch)
        })
    }

    /// When packs were last found sound to their last byte, in milliseconds since 1970. An index that can't be read has
    /// forgotten it.
    pub fn verified(&self) -> HashMap<PackId, i64> {
        let read = || {
            let _lock = lock_shared(&self.root.join("locks/index")).map_err(Trouble::Other)?;
            if !self.path().join("CURRENT").exists() {
                return Ok(HashMap::new());
            }
            verified_packs(&DB::open_for_read_only(&options(), self.path(), false)?)
        };
        let read: std::result::Result<_, Trouble> = read();
        read.unwrap_or_default()
    }

    /// Remembers when packs were found sound, and forgets it of those that are not.
    pub fn set_verified(&self, sound: &[(PackId, i64)], unsound: &[PackId]) -> Result<()> {
        if sound.is_empty() && unsound.is_empty() {
            return Ok(());
        }
        self.change(|_| {
            let mut batch = WriteBatch::default();
            sound.iter().for_each(|(pack, time_ms)| batch.put(verified_key(*pack), time_ms.to_le_bytes()));
            unsound.iter().for_each(|pack| batch.delete(verified_key(*pack)));
            Ok(batch)
        })
    }

    /// HEAD's `packs_seq` up to which it knows all packs, as far as it can be read.
    pub fn packs_seq(&self) -> u64 {
        let Ok(_lock) = lock_shared(&self.root.join("locks/index")) else { return 0 };
        self.read(&[]).map_or(0, |found| found.packs_seq)
    }

    /// Reads every entry. An index that is damaged is made anew.
    pub fn check(&self, backend: &dyn Backend, head: &Head, progress: &dyn Progress) -> Result<()> {
        let read = {
            let _lock = lock_shared(&self.root.join("locks/index"))?;
            self.read(&[]).map(drop).and_then(|()| self.read_all())
        };
        match read {
            Ok(()) => Ok(()),
            Err(Trouble::Other(error)) => Err(error),
            Err(Trouble::Broken(reason)) => self.rebuild(&reason, &[], backend, head, progress),
        }
    }

    /// Makes the index anew from the packs' trailers, whatever it holds. `head` must have been read before the call.
    pub fn remake(&self, backend: &dyn Backend, head: &Head, progress: &dyn Progress) -> Result<()> {
        {
            let _lock = lock_index(&self.root)?;
            self.clear()?;
        }
        self.absorb(backend, head, progress).map_err(Trouble::into_error)
    }

    /// Adds all packs that the index does not know yet, other than those that are being deleted. `head` must have been
    /// read before the call.
    pub fn catch_up(&self, backend: &dyn Backend, head: &Head, progress: &dyn Progress) -> Result<()> {
        match self.absorb(backend, head, progress) {
            Err(Trouble::Broken(reason)) => self.rebuild(&reason, &[], backend, head, progress),
            Err(Trouble::Other(error)) => Err(error),
            Ok(()) => Ok(()),
        }
    }

    /// Makes the index anew that failed while it was asked for `ids`.
    fn rebuild(
        &self,
        reason: &str,
        ids: &[ChunkId],
        backend: &dyn Backend,
        head: &Head,
        progress: &dyn Progress,
    ) -> Result<()> {
        {
            let _lock = lock_index(&self.root)?;
            // Somebody else may have mended it while this process waited for the lock. A damaged block shows only to those
            // who read it, so all are read.
            let read = self.read(ids).map(drop).and_then(|()| self.read_all());
            if matches!(read, Err(Trouble::Broken(_))) {
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
        // A put whose pack this is may have died, or be about to, before its name is durable. One call serves for each folder.
        let folder = |pack: &PackId| Key::Pack(*pack).to_string().rsplit_once('/').map(|(folder, _)| folder.to_owned());
        let one_of_each: HashMap<_, PackId> = missing.iter().map(|pack| (folder(pack), *pack)).collect();
        for pack in one_of_each.into_values() {
            backend.make_durable(Key::Pack(pack)).map_err(Trouble::Other)?;
        }
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
            // An empty one is brought up to date from the packs by whoever needs it next.
            Err(Trouble::Broken(_)) => self.clear(),
            other => other.map_err(Trouble::into_error),
        }
    }

    /// Puts an empty directory in the index's place. The caller holds the lock.
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

    /// Reads every entry.
    fn read_all(&self) -> std::result::Result<(), Trouble> {
        if !self.path().join("CURRENT").exists() {
            return Ok(());
        }
        let db = DB::open_for_read_only(&options(), self.path(), false)?;
        for entry in db.iterator(IteratorMode::Start) {
            entry?;
        }
        Ok(())
    }

    fn read(&self, ids: &[ChunkId]) -> std::result::Result<Found, Trouble> {
        self.check_files()?;
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
        self.check_files()?;
        if !path.join("CURRENT").exists() && fs::read_dir(&path).is_ok_and(|mut entries| entries.next().is_some()) {
            return Err(Trouble::Broken("its CURRENT file is missing".into()));
        }
        Ok(DB::open(&options(), path)?)
    }

    /// RocksDB follows links, out of the store as well, waits for FIFOs and reads its smallest files whole: a database that
    /// holds what it can't have made is made anew.
    fn check_files(&self) -> std::result::Result<(), Trouble> {
        let Ok(entries) = fs::read_dir(self.path()) else {
            // What is wrong with the directory itself is told by whoever goes on to open it.
            return Ok(());
        };
        for entry in entries.flatten() {
            let Ok(metadata) = entry.metadata() else { continue };
            let too_long = entry.file_name() == "CURRENT" && metadata.len() > CURRENT_BYTES_MAX;
            if too_long || !(metadata.is_file() || metadata.is_dir()) {
                return Err(Trouble::Broken(format!("its {} is not RocksDB's", entry.file_name().display())));
            }
        }
        Ok(())
    }

    fn path(&self) -> PathBuf {
        self.root.join("index")
    }
}
