//! Who reads a file from front to back, and how much is worth decoding before it is asked for. Pure: never reads a chunk.

use crate::limits::{CACHE_BYTES, CHUNK_BYTES_MAX, READ_AHEAD_BYTES, READ_AHEAD_FIRST_BYTES};

/// Readers that are remembered.
const RUNS_MAX: usize = 32;
/// A reader may leave out this many bytes (the padding between records, a tensor it has no use for) and still be one that goes on.
const SKIPPED_MAX: u64 = CHUNK_BYTES_MAX as u64;

/// The reads of late, each as the end of a run of reads that follow each other.
#[derive(Default)]
pub struct Runs {
    runs: Vec<Run>,
    /// Bytes that were read so far, by all.
    clock: u64,
}

struct Run {
    file: u32,
    /// Byte of the file behind the last read.
    end: u64,
    /// Bytes that were last read ahead.
    window: u64,
    /// Reads of the run.
    reads: u64,
    /// The clock when it was read last.
    last: u64,
}

impl Runs {
    /// Takes note of a read; answers how many bytes behind its end are worth decoding at once, when it has to decode at all.
    pub fn read(&mut self, file: u32, offset: u64, len: u64, misses: bool) -> u64 {
        self.clock = self.clock.saturating_add(len);
        // What would have been pushed out of the cache since belongs to a run that ended.
        let clock = self.clock;
        self.runs.retain(|run| clock - run.last <= CACHE_BYTES as u64);
        let goes_on = |run: &Run| run.file == file && offset >= run.end && offset - run.end <= SKIPPED_MAX;
        let at = (0..self.runs.len()).filter(|at| goes_on(&self.runs[*at])).max_by_key(|at| self.runs[*at].end);
        let end = offset.saturating_add(len);
        let Some(at) = at else {
            if self.runs.len() >= RUNS_MAX
                && let Some(oldest) = (0..self.runs.len()).min_by_key(|at| self.runs[*at].last)
            {
                self.runs.swap_remove(oldest);
            }
            self.runs.push(Run { file, end, window: 0, reads: 1, last: clock });
            return 0;
        };
        // Together they must not push out what each of them has just decoded.
        let readers = self.runs.iter().filter(|run| run.reads > 1).count().max(1) as u64;
        let run = &mut self.runs[at];
        (run.end, run.last, run.reads) = (end, clock, run.reads + 1);
        if !misses {
            return 0;
        }
        run.window = (run.window * 2).clamp(READ_AHEAD_FIRST_BYTES, READ_AHEAD_BYTES);
        run.window.min(CACHE_BYTES as u64 / 2 / readers)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn a_run_reads_ahead_more_and_more_and_others_do_not() {
        let mut runs = Runs::default();
        assert_eq!(runs.read(0, 0, 100, true), 0, "nobody knows yet");
        let windows: Vec<u64> = (1..7).map(|nr| runs.read(0, nr * 100, 100, true)).collect();
        assert_eq!(windows[0], READ_AHEAD_FIRST_BYTES);
        assert_eq!(windows[1], 2 * READ_AHEAD_FIRST_BYTES);
        assert_eq!(windows[5], READ_AHEAD_BYTES);
        assert_eq!(runs.read(0, 900 * MIB, 100, true), 0, "a leap");
        assert_eq!(runs.read(0, 3 * MIB, 100, true), 0, "another one");
        assert_eq!(runs.read(1, 700, 100, true), 0, "another file");
        assert_eq!(runs.read(0, 0, 100, true), 0, "from the start again");
        assert_eq!(runs.read(0, 700 + SKIPPED_MAX, 100, true), READ_AHEAD_BYTES, "a little left out");
    }

    #[test]
    fn a_read_that_misses_nothing_reads_nothing_ahead() {
        let mut runs = Runs::default();
        runs.read(0, 0, 100, true);
        assert_eq!(runs.read(0, 100, 100, false), 0);
        assert_eq!(runs.read(0, 200, 100, true), READ_AHEAD_FIRST_BYTES, "the run goes on all the same");
    }

    #[test]
    fn many_readers_share_the_room() {
        let mut runs = Runs::default();
        let mut windows = vec![0; 16];
        for nr in 0..8 {
            for (reader, window) in windows.iter_mut().enumerate() {
                *window = runs.read(0, reader as u64 * 100 * MIB + nr * 1000, 1000, true);
            }
        }
        assert!(windows.iter().all(|window| *window > 0));
        assert!(windows.iter().sum::<u64>() <= CACHE_BYTES as u64 / 2, "{windows:?}");
    }

    #[test]
    fn those_that_ended_take_no_room_and_no_memory() {
        let mut runs = Runs::default();
        for file in 0..16 {
            for nr in 0..8 {
                runs.read(file, nr * 1000, 1000, true);
            }
        }
        // One of them goes on until the others' chunks are out of the cache.
        let mut last = 0;
        for nr in 0..CACHE_BYTES as u64 / MIB + 2 {
            last = runs.read(3, 8000 + nr * MIB, MIB, true);
        }
        assert_eq!(last, READ_AHEAD_BYTES);
        for leap in 0..10 * RUNS_MAX as u64 {
            runs.read(0, leap * 10 * MIB, 1, true);
        }
        assert!(runs.runs.len() <= RUNS_MAX);
    }
}
