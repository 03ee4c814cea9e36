//! The chunks that were found sound, as a compact set: 20 bytes for each, so that ten million take 200 MB and no gigabytes.
//! Never holds a whole id: two chunks that share 16 bytes of BLAKE3 are not found by looking.

use std::sync::{Mutex, PoisonError};

use rayon::prelude::*;

use crate::id::ChunkId;

const ID_BYTES: usize = 16;
const KEY_BYTES: usize = ID_BYTES + 4;
const SHARDS: usize = 256;

type Key = [u8; KEY_BYTES];

/// A set of chunks with their raw lengths. Added to by many threads; asked once it is settled.
pub struct ChunkSet {
    /// By the first byte of the id.
    shards: Vec<Mutex<Vec<Key>>>,
}

impl ChunkSet {
    /// An empty set.
    pub fn new() -> Self {
        Self { shards: (0..SHARDS).map(|_| Mutex::default()).collect() }
    }

    /// Adds a chunk of `raw_len` bytes.
    pub fn add(&self, id: ChunkId, raw_len: u32) {
        let mut shard = self.shards[id.0[0] as usize].lock().unwrap_or_else(PoisonError::into_inner);
        shard.push(key(id, raw_len));
    }

    /// Sorts what was added, so that it can be asked for.
    pub fn settle(&mut self) {
        self.shards.par_iter_mut().for_each(|shard| {
            let shard = shard.get_mut().unwrap_or_else(PoisonError::into_inner);
            shard.sort_unstable();
            shard.dedup();
            shard.shrink_to_fit();
        });
    }

    /// Whether it holds the chunk, with this length. It has to be settled.
    pub fn has(&self, id: ChunkId, raw_len: u32) -> bool {
        self.shard(id).binary_search(&key(id, raw_len)).is_ok()
    }

    /// The length of a chunk that it holds. It has to be settled.
    pub fn len_of(&self, id: ChunkId) -> Option<u32> {
        let shard = self.shard(id);
        let at = shard.partition_point(|key| key[..ID_BYTES] < id.0[..ID_BYTES]);
        let key = shard.get(at).filter(|key| key[..ID_BYTES] == id.0[..ID_BYTES])?;
        let mut len = [0; 4];
        len.copy_from_slice(&key[ID_BYTES..]);
        Some(u32::from_le_bytes(len))
    }

    /// The number of chunks. It has to be settled.
    pub fn count(&self) -> u64 {
        self.shards.iter().map(|shard| shard.lock().unwrap_or_else(PoisonError::into_inner).len() as u64).sum()
    }

    fn shard(&self, id: ChunkId) -> std::sync::MutexGuard<'_, Vec<Key>> {
        self.shards[id.0[0] as usize].lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn key(id: ChunkId, raw_len: u32) -> Key {
    let mut key = [0; KEY_BYTES];
    key[..ID_BYTES].copy_from_slice(&id.0[..ID_BYTES]);
    key[ID_BYTES..].copy_from_slice(&raw_len.to_le_bytes());
    key
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_has_what_was_added_and_nothing_else() {
        let id = |nr: u32| ChunkId::of(&nr.to_le_bytes());
        let mut set = ChunkSet::new();
        (0..20_000).for_each(|nr| set.add(id(nr), nr));
        set.settle();
        // Some come twice, and some later.
        (10_000..30_000).for_each(|nr| set.add(id(nr), nr));
        set.settle();
        assert_eq!(set.count(), 30_000);
        assert!((0..30_000).all(|nr| set.has(id(nr), nr) && set.len_of(id(nr)) == Some(nr)));
        assert!((0..30_000).all(|nr| !set.has(id(nr), nr + 1)), "with another length it is another");
        assert!((30_000..60_000).all(|nr| !set.has(id(nr), nr) && set.len_of(id(nr)).is_none()));
    }

    /// The bound that verify promises for stores of ten million chunks.
    #[test]
    fn a_chunk_takes_no_more_than_its_twenty_bytes() {
        let mut set = ChunkSet::new();
        (0..300_000_u32).for_each(|nr| set.add(ChunkId::of(&nr.to_le_bytes()), 1));
        set.settle();
        let mut bytes = 0;
        for shard in &mut set.shards {
            bytes += shard.get_mut().unwrap_or_else(PoisonError::into_inner).capacity() * KEY_BYTES;
        }
        assert!(bytes <= 300_000 * 21, "{bytes} bytes");
    }
}
