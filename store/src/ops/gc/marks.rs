//! Which chunks are in use, and by which runs, in eight bytes for each. Never says that a chunk in use is not: two chunks
//! that share 52 bits of their ids keep each other, which costs room at worst.
//!
//! A mark is a `u64` in one of 256 shards: the shard is the first byte of the id, the upper 44 bits are the next 44 of the
//! id, the lower 20 the number of the run. docs/decisions/0010-marks-in-shards.md says why.

use std::ops::Range;
use std::sync::{Mutex, PoisonError};

use crate::id::ChunkId;

const SHARDS: usize = 256;
const RUN_BITS: u32 = 20;
/// Who has a checkpoint that no run lists any more, because a session reads it.
pub const NO_RUN: u32 = (1 << RUN_BITS) - 1;
/// The last number of a run; runs beyond a million share it, and so their figures.
const LAST_RUN: u32 = NO_RUN - 1;
/// Marks that a shard has room for at first.
const SHARD_MIN: usize = 64;

/// Marks that are being gathered, by several threads at once.
pub struct Gathering {
    shards: Vec<Mutex<Vec<u64>>>,
}

/// Marks that can be looked up: sorted, each once.
pub struct Marks {
    shards: Vec<Vec<u64>>,
    /// How many marks there are in the shards before each.
    before: Vec<usize>,
}

impl Gathering {
    /// No marks.
    pub fn new() -> Self {
        Self { shards: (0..SHARDS).map(|_| Mutex::default()).collect() }
    }

    /// Marks chunks as used by a run.
    pub fn add(&self, chunks: impl Iterator<Item = ChunkId>, run: u32) {
        // Sorted by shard first, so that each shard's lock is taken once.
        let mut keys: Vec<u64> = chunks.map(key).collect();
        keys.sort_unstable();
        for keys in keys.chunk_by(|a, b| shard_of(*a) == shard_of(*b)) {
            let mut shard = self.shards[shard_of(keys[0])].lock().unwrap_or_else(PoisonError::into_inner);
            for key in keys {
                push(&mut shard, prefix(*key) | u64::from(run.min(NO_RUN)));
            }
        }
    }

    /// Makes the marks ready to be looked up.
    pub fn seal(self) -> Marks {
        let mut before = Vec::with_capacity(SHARDS + 1);
        before.push(0);
        let shards: Vec<Vec<u64>> = self
            .shards
            .into_iter()
            .map(|shard| {
                let mut shard = shard.into_inner().unwrap_or_else(PoisonError::into_inner);
                tidy(&mut shard);
                shard.shrink_to_fit();
                before.push(before[before.len() - 1] + shard.len());
                shard
            })
            .collect();
        Marks { shards, before }
    }
}

impl Marks {
    /// No marks.
    pub fn none() -> Self {
        Gathering::new().seal()
    }

    /// Takes more marks on.
    pub fn reopen(self) -> Gathering {
        Gathering { shards: self.shards.into_iter().map(Mutex::new).collect() }
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.before[SHARDS]
    }

    /// The marks of a chunk by their numbers, one for each run that uses it; none when nothing does.
    pub fn find(&self, id: ChunkId) -> Option<Range<usize>> {
        let key = key(id);
        let (shard, wanted) = (shard_of(key), prefix(key));
        let marks = &self.shards[shard];
        let first = marks.partition_point(|mark| *mark < wanted);
        let runs = marks[first..].iter().take_while(|mark| prefix_of(**mark) == wanted).count();
        let first = self.before[shard] + first;
        (runs > 0).then(|| first..first + runs)
    }

    /// Whether anything uses a chunk.
    pub fn contains(&self, id: ChunkId) -> bool {
        self.find(id).is_some()
    }

    /// The runs that use a chunk whose marks were found.
    pub fn runs(&self, id: ChunkId, found: Range<usize>) -> impl Iterator<Item = u32> + '_ {
        let shard = shard_of(key(id));
        let found = found.start - self.before[shard]..found.end - self.before[shard];
        self.shards[shard][found].iter().map(|mark| (*mark & u64::from(NO_RUN)) as u32).filter(|run| *run != NO_RUN)
    }
}

/// The number of the run at place `at` of a list.
pub fn run_number(at: usize) -> u32 {
    u32::try_from(at).unwrap_or(LAST_RUN).min(LAST_RUN)
}

/// The first eight bytes of an id, so that sorting by them sorts by shard.
fn key(id: ChunkId) -> u64 {
    let mut first = [0; 8];
    first.copy_from_slice(&id.0[..8]);
    u64::from_be_bytes(first)
}

fn shard_of(key: u64) -> usize {
    (key >> 56) as usize
}

/// The upper bits of the mark of a key.
fn prefix(key: u64) -> u64 {
    prefix_of(key << 8)
}

fn prefix_of(mark: u64) -> u64 {
    mark >> RUN_BITS << RUN_BITS
}

/// Adds a mark. A shard that is full is sorted and rid of doubles before it gets more room, half as much again: checkpoints
/// repeat each other's chunks, and a vector that doubles would take twice what it holds.
fn push(shard: &mut Vec<u64>, mark: u64) {
    if shard.len() == shard.capacity() {
        tidy(shard);
        let room = SHARD_MIN.max(shard.len() / 2);
        if shard.capacity() - shard.len() < room {
            shard.reserve_exact(room);
        }
    }
    shard.push(mark);
}

fn tidy(shard: &mut Vec<u64>) {
    shard.sort_unstable();
    shard.dedup();
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that can't go on has failed")]
mod tests {
    use super::*;

    fn id(nr: u64) -> ChunkId {
        ChunkId::of(&nr.to_le_bytes())
    }

    #[test]
    fn marks_are_found_with_their_runs_and_take_little_room() {
        let gathering = Gathering::new();
        for round in 0..10 {
            gathering.add((0..50_000).map(id), 7);
            gathering.add((round * 1000..round * 1000 + 1000).map(id), 3);
            gathering.add((0..10).map(id), NO_RUN);
        }
        let room: usize = gathering.shards.iter().map(|shard| shard.lock().unwrap().capacity()).sum();
        assert!(room < 120_000, "60,000 marks that came ten times have room for {room}");
        let marks = gathering.seal();
        assert_eq!(marks.count(), 60_010);
        let runs = |marks: &Marks, nr: u64| marks.runs(id(nr), marks.find(id(nr)).unwrap()).collect::<Vec<_>>();
        assert_eq!(runs(&marks, 5), [3, 7]);
        assert_eq!(runs(&marks, 20_000), [7]);
        assert!(!marks.contains(id(50_000)));
        let mut numbers: Vec<usize> = (0..50_000).flat_map(|nr| marks.find(id(nr)).unwrap()).collect();
        numbers.sort_unstable();
        assert_eq!(numbers, (0..60_010).collect::<Vec<_>>(), "each mark has a number of its own");
        let more = marks.reopen();
        more.add([id(50_000)].into_iter(), run_number(usize::MAX));
        assert_eq!(runs(&more.seal(), 50_000), [LAST_RUN]);
    }

    /// What decides is 52 bits: an id that shares them is kept, one that differs in any of them is told apart.
    #[test]
    fn a_shared_beginning_keeps_and_no_other_does() {
        let gathering = Gathering::new();
        gathering.add([id(1)].into_iter(), 0);
        let marks = gathering.seal();
        for bit in 0..256 {
            let mut other = id(1);
            other.0[bit / 8] ^= 0x80 >> (bit % 8);
            assert_eq!(marks.contains(other), bit >= 52, "bit {bit}");
        }
    }
}
