//! Where a store's objects are kept. Knows keys and bytes, never what an object means: no room above it touches a path
//! inside the store, and a name read from a store can't become a path, because keys are made of ids alone.

pub mod disk;
pub mod local;
pub mod mend;

use std::collections::HashSet;
use std::fmt;

use crate::error::Result;
use crate::id::{CatalogId, CheckpointId, PackId};

/// The name of an object of a store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Key {
    /// What the store is.
    Format,
    /// What the store holds now.
    Head,
    /// A list of checkpoints.
    Catalog(CatalogId),
    /// The description of a checkpoint.
    Manifest(CheckpointId),
    /// Chunks.
    Pack(PackId),
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Format => f.write_str("FORMAT"),
            Self::Head => f.write_str("HEAD"),
            Self::Catalog(id) => write!(f, "catalog/{id}"),
            Self::Manifest(id) => write!(f, "checkpoints/{id}"),
            // The last byte is random, so that packs spread evenly over 256 folders.
            Self::Pack(id) => write!(f, "packs/{:02x}/{id}", id.to_bytes()[15]),
        }
    }
}

/// The families of objects that can be listed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// `catalog/`
    Catalogs,
    /// `checkpoints/`
    Manifests,
    /// `packs/`
    Packs,
}

/// An object that is being written. Nobody sees it before it is published; dropping it unpublished removes it.
pub trait NewObject: Send {
    /// Adds bytes at its end.
    fn append(&mut self, bytes: &[u8]) -> Result<()>;
    /// Makes its bytes durable; nothing can be appended after that.
    fn seal(&mut self) -> Result<()>;
    /// Gives it its name, durably. Its bytes must be sealed.
    fn publish(self: Box<Self>) -> Result<()>;
}

/// An object that can be read. It stays readable while this lives, even when it is deleted meanwhile.
pub trait Object: Send + Sync {
    /// Bytes.
    fn size(&self) -> u64;
    /// Fills `buf` from `offset`.
    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> Result<()>;
}

/// Storage of objects. Objects but HEAD are immutable: published once, deleted once, their names never used again.
pub trait Backend: Send + Sync {
    /// Opens an object; none when there is no such object.
    fn open(&self, key: Key) -> Result<Option<Box<dyn Object>>>;
    /// Begins a new object. `owner` tells whose leftovers it would be if the process died.
    fn create(&self, key: Key, owner: &str) -> Result<Box<dyn NewObject>>;
    /// Replaces HEAD by `new` if it still holds the bytes `expected`, durably; answers whether it did. An error leaves
    /// HEAD either as it was or as `new`.
    fn swap_head(&self, expected: &[u8], new: &[u8]) -> Result<bool>;
    /// All objects of a family with their sizes in bytes, in no order. Names that are no keys are left out.
    fn list(&self, family: Family) -> Result<Vec<(Key, u64)>>;
    /// Deletes an object; one that is not there is no error.
    fn delete(&self, key: Key) -> Result<()>;
    /// Makes the name of an object durable that somebody else may have published only just now.
    fn make_durable(&self, key: Key) -> Result<()>;
    /// Removes what `create` left behind for owners that are not among those that `live` gives, if `remove` is set; answers
    /// the bytes of that. `live` is asked after the leftovers were listed: an owner that began before then and is not live any more
    /// never comes back for them, and one that began later has nothing on the list.
    fn sweep_unpublished(&self, live: &dyn Fn() -> Result<HashSet<String>>, remove: bool) -> Result<u64>;
}

/// Reads a whole object of at most `bytes_max` bytes; none when there is no such object.
pub fn read_whole(backend: &dyn Backend, key: Key, bytes_max: u64) -> Result<Option<Vec<u8>>> {
    let Some(object) = backend.open(key)? else { return Ok(None) };
    if object.size() > bytes_max {
        return Err(crate::Error::corrupt(key, format!("it has {} bytes, more than it can have", object.size())));
    }
    let mut bytes = vec![0; object.size() as usize];
    object.read_exact_at(&mut bytes, 0)?;
    Ok(Some(bytes))
}
