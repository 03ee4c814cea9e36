//! The bounds of a mount, each with its unit and its reason. Never a tunable at run time.

use std::ops::RangeInclusive;
use std::time::Duration;

/// Threads that answer the kernel: twice as many as there are processors, within these bounds. Some wait for what others decode.
pub const THREADS: RangeInclusive<usize> = 4..=32;

/// Bytes of one request of the kernel: as many as it will put into one.
pub const REQUEST_BYTES: u32 = 1 << 20;

/// Requests of the kernel that nobody waits for yet: what several readers let it read ahead.
pub const BACKGROUND_REQUESTS: u16 = 64;

/// The most bytes that are decoded ahead of one reader, for each thread that does it: enough to keep it busy, and little enough
/// to be still in the processor's cache when it is read.
pub const AHEAD_BYTES: u64 = 4 << 20;

/// Bytes that are decoded ahead of one who was first seen to read on.
pub const AHEAD_FIRST_BYTES: u64 = 2 << 20;

/// Bytes of one task of the threads that decode ahead, so that several share what one reader needs next.
pub const TASK_BYTES: u64 = 1 << 20;

/// Tasks that wait for these threads; what is more is read when it is asked for.
pub const TASKS_MAX: usize = 4096;

/// The most places at which one handle is followed.
pub const STREAMS_MAX: usize = 64;

/// How long a checkpoint stays open when its last file was closed: loaders open a file again and again. As long, gc keeps
/// what only it needs.
pub const LINGER: Duration = Duration::from_secs(2);

/// Damaged chunks that are told one by one.
pub const TOLD_MAX: usize = 10_000;
