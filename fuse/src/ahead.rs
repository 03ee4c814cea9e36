//! Who reads a file from front to back, in how many places at once, and who reads a little here and there; and what is worth
//! decoding for them. Pure: never reads a byte.

use std::collections::HashMap;
use std::ops::Range;

use crate::limits::{AHEAD_FIRST_BYTES, AREAS_MAX, SMALL_READ_BYTES, STREAMS_MAX};

/// The kernel asks for what it reads ahead by several requests at a time, which arrive in any order: this far from the end of
/// those that have come a read still belongs to them.
const SLACK_BYTES: u64 = 4 << 20;
/// And at most this many times as far as it is long; a small one no farther than it is long: such reads here and there are not
/// one from front to back.
const SLACK_READS: u64 = 16;
/// Small reads are counted by areas of this many bytes, about those of a chunk.
const AREA_BYTES: u64 = 1 << 20;
/// With so many small reads in one area the whole is worth giving to the kernel.
const AREA_READS: u8 = 2;

/// What a read makes worth doing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Next {
    /// Nothing.
    Nothing,
    /// A range is to be decoded: it is about to be read.
    Ahead(Range<u64>),
    /// What was decoded for this read is to be given to the kernel whole: others like it will be near.
    Whole,
}

/// How far to look ahead, in bytes.
#[derive(Debug, Clone, Copy)]
pub struct Reach {
    /// At most, of one place.
    pub each: u64,
    /// At most, of all places of a handle together.
    pub all: u64,
}

/// The places at which one handle is being read.
#[derive(Debug, Default)]
pub struct Streams {
    streams: Vec<Stream>,
    clock: u64,
    /// Small reads of late that belong to no stream, by areas.
    scattered: HashMap<u64, u8>,
}

/// A place from which on somebody reads.
#[derive(Debug)]
struct Stream {
    /// Where the last of its reads ended.
    end: u64,
    /// Up to where was decoded ahead.
    ahead: u64,
    /// How far it was last looked ahead.
    window: u64,
    /// Where the tensor ends in which it began.
    border: u64,
    /// The clock at its last read.
    last: u64,
}

impl Streams {
    /// Takes note of a read of `len` bytes at `offset`; answers what is worth doing now. Only one who has gone on
    /// from one tensor into the next is read ahead of beyond the end of a tensor: a loader that takes tensors in an order of its
    /// own reads each to its end and then one that lies elsewhere. `border_after` tells where the tensor ends that a byte lies
    /// in.
    pub fn read(&mut self, offset: u64, len: u64, reach: Reach, border_after: impl Fn(u64) -> u64) -> Next {
        self.clock += 1;
        let end = offset.saturating_add(len);
        let reads = if len <= SMALL_READ_BYTES { 1 } else { SLACK_READS };
        let slack = SLACK_BYTES.min(len.saturating_mul(reads));
        let goes_on = |stream: &Stream| stream.end.abs_diff(offset) <= slack;
        let at = (0..self.streams.len())
            .filter(|at| goes_on(&self.streams[*at]))
            .min_by_key(|at| self.streams[*at].end.abs_diff(offset));
        let Some(at) = at else {
            self.begin(Stream { end, ahead: end, window: 0, border: border_after(offset), last: self.clock });
            return if len <= SMALL_READ_BYTES && self.is_often_near(offset) { Next::Whole } else { Next::Nothing };
        };
        let active = self.streams.iter().filter(|stream| stream.window > 0).count().max(1) as u64;
        let stream = &mut self.streams[at];
        stream.last = self.clock;
        if end <= stream.end {
            // Overtaken by one that came after it.
            return Next::Nothing;
        }
        stream.end = end;
        stream.window = (stream.window * 2).max(AHEAD_FIRST_BYTES).min(reach.each).min(reach.all / active);
        let mut target = end.saturating_add(stream.window);
        if end <= stream.border {
            target = target.min(stream.border);
        }
        let from = stream.ahead.max(end);
        // Little by little is as much work as at once, and each task costs something.
        if target <= from || (target - from < stream.window / 4 && target != stream.border) {
            return Next::Nothing;
        }
        stream.ahead = target;
        Next::Ahead(from..target)
    }

    /// Counts a small read; whether it is not the first in its area.
    fn is_often_near(&mut self, offset: u64) -> bool {
        if self.scattered.len() >= AREAS_MAX {
            self.scattered.clear();
        }
        let area = offset / AREA_BYTES;
        let reads = self.scattered.entry(area).or_default();
        *reads += 1;
        if *reads < AREA_READS {
            return false;
        }
        self.scattered.remove(&area);
        true
    }

    fn begin(&mut self, stream: Stream) {
        if self.streams.len() >= STREAMS_MAX
            && let Some(oldest) = (0..self.streams.len()).min_by_key(|at| self.streams[*at].last)
        {
            self.streams.swap_remove(oldest);
        }
        self.streams.push(stream);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;
    const REACH: Reach = Reach { each: 32 << 20, all: 64 << 20 };

    fn nowhere(_: u64) -> u64 {
        u64::MAX
    }

    #[test]
    fn who_reads_on_is_read_ahead_of_more_and_more() {
        let mut streams = Streams::default();
        assert_eq!(streams.read(0, MIB, REACH, nowhere), Next::Nothing, "nobody knows yet");
        assert_eq!(streams.read(MIB, MIB, REACH, nowhere), Next::Ahead(2 * MIB..2 * MIB + AHEAD_FIRST_BYTES));
        let mut covered = 2 * MIB + AHEAD_FIRST_BYTES;
        for at in 2..200 {
            if let Next::Ahead(range) = streams.read(at * MIB, MIB, REACH, nowhere) {
                assert_eq!(range.start, covered, "without a gap and nothing twice");
                covered = range.end;
            }
            assert!(covered >= (at + 2) * MIB && covered <= (at + 1) * MIB + REACH.each);
        }
    }

    #[test]
    fn leaps_are_not_read_ahead_of() {
        let mut streams = Streams::default();
        for nr in 0..1000_u64 {
            assert_eq!(streams.read(nr * 7919 % 1000 * 100 * MIB, 4096, REACH, nowhere), Next::Nothing);
        }
        assert!(streams.streams.len() <= STREAMS_MAX);
    }

    #[test]
    fn small_reads_here_and_there_bring_what_is_around_them_when_they_come_again() {
        let mut streams = Streams::default();
        let (mut around, mut ahead) = (vec![0; 64], 0);
        let mut random = 1_u64;
        for _ in 0..2000 {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let page = (random >> 33) % (64 * 256);
            match streams.read(page * 4096, 4096, REACH, nowhere) {
                Next::Whole => around[page as usize / 256] += 1,
                Next::Ahead(_) => ahead += 1,
                Next::Nothing => {}
            }
        }
        assert!(around.iter().all(|times| *times > 0), "{around:?}");
        assert!(ahead < 50, "{ahead} of 2000 were taken for one who reads on");
        // Large ones have enough of their own.
        assert_eq!(streams.read(1000 * MIB, MIB, REACH, nowhere), Next::Nothing);
        assert_eq!(streams.read(1100 * MIB, MIB, REACH, nowhere), Next::Nothing);
        for nr in 0..10 * AREAS_MAX as u64 {
            streams.read(nr * 100 * MIB, 1, REACH, nowhere);
        }
        assert!(streams.scattered.len() <= AREAS_MAX);
    }

    #[test]
    fn requests_that_overtake_each_other_are_one_stream() {
        let mut streams = Streams::default();
        for at in [0, 2, 1, 4, 3, 5, 7, 6, 8, 9, 11, 10] {
            streams.read(at * MIB, MIB, REACH, nowhere);
        }
        assert_eq!(streams.streams.len(), 1);
        assert_eq!(streams.streams[0].end, 12 * MIB);
    }

    #[test]
    fn a_tensor_is_read_ahead_to_its_end_and_further_only_by_one_who_went_on() {
        let tensor = |at: u64| (at / (10 * MIB) + 1) * 10 * MIB;
        let mut streams = Streams::default();
        let mut furthest = 0;
        for at in 20..30 {
            let ahead = streams.read(at * MIB, MIB, REACH, tensor);
            if let Next::Ahead(range) = ahead {
                furthest = furthest.max(range.end);
            }
        }
        assert_eq!(furthest, 30 * MIB);
        let on = streams.read(30 * MIB, MIB, REACH, tensor);
        assert!(matches!(on, Next::Ahead(range) if range.start == 31 * MIB && range.end > 40 * MIB));
    }

    #[test]
    fn many_streams_share_what_there_is() {
        let mut streams = Streams::default();
        let mut ahead = [0; 8];
        for nr in 0..40 {
            for (stream, ahead) in (0..).zip(&mut ahead) {
                if let Next::Ahead(range) = streams.read(stream * 1000 * MIB + nr * MIB, MIB, REACH, nowhere) {
                    *ahead = range.end - (stream * 1000 * MIB + (nr + 1) * MIB);
                }
            }
        }
        assert!(ahead.iter().all(|bytes| *bytes > 0));
        assert!(ahead.iter().sum::<u64>() <= REACH.all, "{ahead:?}");
    }

    #[test]
    fn a_small_budget_is_kept_and_nothing_overflows() {
        let mut streams = Streams::default();
        let small = Reach { each: MIB, all: MIB };
        streams.read(u64::MAX - 2 * MIB, MIB, small, nowhere);
        assert_eq!(streams.read(u64::MAX - MIB, MIB, small, nowhere), Next::Nothing);
        let none = Reach { each: 0, all: 0 };
        streams.read(0, MIB, none, nowhere);
        assert_eq!(streams.read(MIB, MIB, none, nowhere), Next::Nothing);
    }
}
