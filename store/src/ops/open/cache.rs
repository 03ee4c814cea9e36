//! Decoded chunks that are kept for who reads on, within a bound of bytes. Pure: never reads a chunk, and never knows what the
//! bytes are.

use std::collections::{BTreeMap, HashMap};
use std::hash::Hash;
use std::sync::Arc;

use crate::limits::CHUNK_BYTES_MAX;

/// Spent keys that are kept all the same: a chunk with the end of one tensor and the beginning of the next, or one that
/// several tensors have, is soon asked for again.
const SPENT_KEPT: usize = 2;

/// Bytes by key. What was given away whole goes first, and then what was not asked for the longest.
pub struct Cache<K> {
    bytes_max: usize,
    /// Of all that is held, with what the buffers have behind their ends.
    bytes: usize,
    slots: HashMap<K, Slot>,
    /// The keys by when they were last asked for, without those that are spent.
    order: BTreeMap<u64, K>,
    /// The keys of which as many bytes were given away as they have, by when that was: who reads from front to back won't
    /// come back for them.
    spent: BTreeMap<u64, K>,
    clock: u64,
}

struct Slot {
    bytes: Arc<Vec<u8>>,
    used: u64,
    /// Bytes of it that were given away since it came.
    given: usize,
}

impl<K: Copy + Eq + Hash> Cache<K> {
    /// A cache that never holds more than `bytes_max` bytes.
    pub fn new(bytes_max: usize) -> Self {
        Self { bytes_max, bytes: 0, slots: HashMap::new(), order: BTreeMap::new(), spent: BTreeMap::new(), clock: 0 }
    }

    /// The bytes of a key, which are kept the longer for it.
    pub fn get(&mut self, key: K) -> Option<Arc<Vec<u8>>> {
        let slot = self.slots.get_mut(&key)?;
        self.clock += 1;
        self.order.remove(&slot.used);
        if self.spent.remove(&slot.used).is_some() {
            // Somebody begins with it anew.
            slot.given = 0;
        }
        self.order.insert(self.clock, key);
        slot.used = self.clock;
        Some(Arc::clone(&slot.bytes))
    }

    /// Takes note that `bytes` bytes of a key were given away. Once that is all of them its buffer is the next to be used
    /// again, long before the cache is full: memory that was just written to is in the processor's cache.
    pub fn given(&mut self, key: K, bytes: usize) {
        let Some(slot) = self.slots.get_mut(&key) else { return };
        slot.given = slot.given.saturating_add(bytes);
        if slot.given >= slot.bytes.len() && self.order.remove(&slot.used).is_some() {
            self.spent.insert(slot.used, key);
        }
    }

    /// Whether it has a key, without asking for it.
    pub fn holds(&self, key: K) -> bool {
        self.slots.contains_key(&key)
    }

    /// A buffer of `len` bytes to be filled and inserted, with anything in it. Makes room for it: in a full cache it is the
    /// buffer of what goes, because a new one takes the system as long to give as a chunk takes to read.
    pub fn buffer(&mut self, len: usize) -> Vec<u8> {
        // Chunks of tensors are all of one length or little shorter; others are not worth the waste.
        let capacity = if len > CHUNK_BYTES_MAX / 2 { CHUNK_BYTES_MAX.max(len) } else { len };
        let spare =
            if self.spent.len() > SPENT_KEPT { self.oldest().and_then(|oldest| self.remove(oldest)) } else { None };
        let freed = self.make_room(capacity).or(spare).filter(|buffer| buffer.capacity() == capacity);
        let mut buffer = freed.unwrap_or_else(|| Vec::with_capacity(capacity));
        buffer.resize(len, 0);
        buffer
    }

    /// Keeps the bytes of a key; what is too much for the cache as a whole is not kept.
    pub fn insert(&mut self, key: K, bytes: Vec<u8>) -> Arc<Vec<u8>> {
        let bytes = Arc::new(bytes);
        self.remove(key);
        self.make_room(bytes.capacity());
        if self.bytes + bytes.capacity() <= self.bytes_max {
            self.clock += 1;
            self.order.insert(self.clock, key);
            self.slots.insert(key, Slot { bytes: Arc::clone(&bytes), used: self.clock, given: 0 });
            self.bytes += bytes.capacity();
        }
        bytes
    }

    /// Lets go of the oldest until `size` more bytes fit; answers the last buffer that came free by that.
    fn make_room(&mut self, size: usize) -> Option<Vec<u8>> {
        let mut freed = None;
        while size <= self.bytes_max && self.bytes + size > self.bytes_max {
            let oldest = self.oldest()?;
            freed = self.remove(oldest).or(freed);
        }
        freed
    }

    /// What is the next to go.
    fn oldest(&self) -> Option<K> {
        self.spent.first_key_value().or_else(|| self.order.first_key_value()).map(|(_, key)| *key)
    }

    /// Bytes that it holds.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Lets go of a key; answers its buffer unless somebody is still reading it.
    fn remove(&mut self, key: K) -> Option<Vec<u8>> {
        let slot = self.slots.remove(&key)?;
        self.order.remove(&slot.used);
        self.spent.remove(&slot.used);
        self.bytes -= slot.bytes.capacity();
        Arc::try_unwrap(slot.bytes).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filled(cache: &mut Cache<u32>, len: usize, value: u8) -> Vec<u8> {
        let mut buffer = cache.buffer(len);
        assert_eq!(buffer.len(), len);
        buffer.fill(value);
        buffer
    }

    #[test]
    fn what_was_not_asked_for_the_longest_goes_first() {
        let mut cache = Cache::new(300);
        for key in 0..3 {
            cache.insert(key, vec![key as u8; 100]);
        }
        assert_eq!(cache.get(0).as_deref(), Some(&vec![0; 100]));
        cache.insert(3, vec![3; 100]);
        let held: Vec<u32> = (0..4).filter(|key| cache.holds(*key)).collect();
        assert_eq!(held, [0, 2, 3]);
        // To look whether it is there is not to ask for it.
        assert!(cache.holds(2));
        cache.insert(4, vec![4; 100]);
        assert!(!cache.holds(2) && cache.holds(0));
        assert_eq!(cache.get(2), None);
    }

    #[test]
    fn a_key_that_comes_again_is_replaced() {
        let mut cache = Cache::new(300);
        cache.insert(1, vec![1; 100]);
        cache.insert(1, vec![2; 50]);
        assert_eq!((cache.bytes(), cache.get(1).as_deref()), (50, Some(&vec![2; 50])));
    }

    #[test]
    fn it_holds_at_most_what_it_may_and_all_that_it_holds_is_right() {
        let max = 5 * CHUNK_BYTES_MAX;
        let mut cache = Cache::new(max);
        let mut most = 0;
        let mut random = 1_u64;
        for _ in 0..2000 {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let key = (random >> 33) as u32 % 40;
            // One length for each key: from nothing to a whole chunk.
            let len = (key as usize * 37 % 40) * CHUNK_BYTES_MAX / 39;
            match cache.get(key) {
                Some(bytes) => {
                    assert!(bytes.len() == len && bytes.iter().all(|byte| *byte == key as u8));
                    cache.given(key, (random >> 20) as usize % (len + 1));
                }
                None => {
                    let buffer = filled(&mut cache, len, key as u8);
                    cache.insert(key, buffer);
                    assert!(cache.holds(key));
                }
            }
            let sum: usize = cache.slots.values().map(|slot| slot.bytes.capacity()).sum();
            assert_eq!((cache.bytes(), cache.order.len() + cache.spent.len()), (sum, cache.slots.len()));
            assert!(sum <= max);
            most = most.max(sum);
        }
        assert!(most > max - CHUNK_BYTES_MAX, "it never filled up: {most}");
    }

    #[test]
    fn a_full_cache_gives_its_buffers_again_but_none_that_is_read() {
        let mut cache = Cache::new(2 * CHUNK_BYTES_MAX);
        let buffers: Vec<*const u8> = (0..2)
            .map(|key| {
                let buffer = filled(&mut cache, CHUNK_BYTES_MAX, key);
                cache.insert(key.into(), buffer).as_ptr()
            })
            .collect();
        let buffer = cache.buffer(CHUNK_BYTES_MAX - 5);
        assert_eq!(buffer.as_ptr(), buffers[0], "the oldest one's buffer");
        drop(buffer);
        let buffer = filled(&mut cache, CHUNK_BYTES_MAX, 7);
        cache.insert(7, buffer);
        let reading = cache.get(1).unwrap_or_default();
        drop(cache.get(7));
        let other = filled(&mut cache, CHUNK_BYTES_MAX, 9);
        assert_ne!(other.as_ptr(), reading.as_ptr());
        assert!(!cache.holds(1) && reading.iter().all(|byte| *byte == 1));
    }

    #[test]
    fn what_was_given_away_whole_goes_first_and_its_buffer_is_used_again() {
        let mut cache = Cache::new(20 * CHUNK_BYTES_MAX);
        let mut at = HashMap::new();
        for key in 0..10 {
            let buffer = filled(&mut cache, CHUNK_BYTES_MAX, key as u8);
            at.insert(key, cache.insert(key, buffer).as_ptr());
        }
        for key in [5, 3, 7] {
            cache.given(key, CHUNK_BYTES_MAX / 2);
            cache.given(key, CHUNK_BYTES_MAX / 2);
        }
        cache.given(1, CHUNK_BYTES_MAX - 1);
        // Asked for once more: it is not spent, and not by the first bytes of it.
        cache.get(3);
        cache.given(3, CHUNK_BYTES_MAX - 1);
        cache.given(8, CHUNK_BYTES_MAX);
        let buffer = filled(&mut cache, CHUNK_BYTES_MAX, 10);
        assert_eq!(buffer.as_ptr(), at[&5]);
        cache.insert(10, buffer);
        let held: Vec<u32> = (0..11).filter(|key| cache.holds(*key)).collect();
        assert_eq!(held, [0, 1, 2, 3, 4, 6, 7, 8, 9, 10]);
        // Some are kept in case they are asked for after all.
        let other = filled(&mut cache, CHUNK_BYTES_MAX, 11);
        assert!(!at.values().any(|at| *at == other.as_ptr()));
        // When there is no room they go before anything that is not spent.
        for key in 11..23 {
            cache.insert(key, vec![0; CHUNK_BYTES_MAX]);
        }
        assert!(!cache.holds(7) && !cache.holds(8) && cache.holds(3));
    }

    #[test]
    fn what_is_larger_than_the_cache_is_not_kept() {
        let mut cache = Cache::new(100);
        cache.insert(1, vec![1; 60]);
        let buffer = filled(&mut cache, 101, 2);
        assert_eq!(cache.insert(2, buffer).len(), 101);
        assert!(!cache.holds(2) && cache.holds(1));
    }
}
