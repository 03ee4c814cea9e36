//! The bounds of a mount, each with its unit and its reason. Never a tunable at run time.

use std::ops::RangeInclusive;
use std::time::Duration;

/// Threads that answer the kernel: twice as many as there are processors, within these bounds. Some wait for what
/// others decode.
pub const THREADS: RangeInclusive<usize> = 4..=32;

/// Bytes of one request of the kernel: as many as it will put into one.
pub const REQUEST_BYTES: u32 = 1 << 20;

/// How far the kernel reads ahead in a file, in KiB, where this process may say so: one request. FUSE alone can't ask
/// for more than 128.
pub const READ_AHEAD_KB: u64 = 1024;

/// How long what is open is served after the mount was told to end.
pub const GRACE: Duration = Duration::from_secs(10);

/// Requests of the kernel that nobody waits for yet: what several readers let it read ahead.
pub const BACKGROUND_REQUESTS: u16 = 64;

/// The most bytes that are decoded ahead of one reader, for each thread that does it: enough to keep it busy, and
/// little enough to be still in the processor's cache when it is read.
pub const AHEAD_BYTES: u64 = 4 << 20;

/// Bytes that are decoded ahead of one who was first seen to read on.
pub const AHEAD_FIRST_BYTES: u64 = 2 << 20;

/// Bytes of one task of the threads that decode ahead, so that several share what one reader needs next.
pub const TASK_BYTES: u64 = 1 << 20;

/// Tasks that wait for these threads; what is more is read when it is asked for.
pub const TASKS_MAX: usize = 4096;

/// Bytes of a page of the kernel, as far as giving it some goes.
pub const PAGE_BYTES: u64 = 4096;

/// The most bytes of a read that is taken for one here and there.
pub const SMALL_READ_BYTES: u64 = 64 << 10;

/// Areas of a file in which such reads of a handle are counted.
pub const AREAS_MAX: usize = 4096;

/// The most places at which one handle is followed.
pub const STREAMS_MAX: usize = 64;

/// How long a checkpoint stays open when its last file was closed: loaders open a file again and again. As long, gc
/// keeps what only it needs.
pub const LINGER: Duration = Duration::from_secs(2);

/// How long a checkpoint with a damaged chunk stays open as it is: each time it is opened anew, what was stored again
/// meanwhile is found.
pub const DAMAGE_LOOKED_FOR_AGAIN: Duration = Duration::from_secs(1);

/// Damaged chunks that are told one by one.
pub const TOLD_MAX: usize = 10_000;

/// How long a cause is not told again that keeps something from being read.
pub const TOLD_AGAIN: Duration = Duration::from_secs(600);

/// Causes that are told in that time.
pub const TOLD_LINES_MAX: usize = 1000;

/// How often somebody looks whether the store has changed. A look at HEAD takes some 5 µs.
pub const LOOK: Duration = Duration::from_millis(100);

/// How often somebody looks again where the store can't be read or the kernel can't be told.
pub const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// How often the kernel is told something that it does not take.
pub const TELLS_MAX: u32 = 60;

/// How long the kernel may believe what it was told: it is told what changes.
pub const FIXED: Duration = Duration::from_secs(365 * 24 * 60 * 60);

/// How long answers that are just on their way may keep news from the kernel.
pub const ANSWERS: Duration = Duration::from_secs(1);

/// Directories of runs that are kept as they were, for those who have read a part of them. One of 10,000 checkpoints
/// takes 2 MB.
pub const OLD_DIRECTORIES_MAX: usize = 32;

/// About how many bytes parsed manifests take, with what follows from them. One of a checkpoint of 100 GB takes some
/// MB; a larger one is kept alone.
pub const MANIFESTS_BYTES: usize = 64 << 20;

/// Files that wait for being laid down whole; what is more is taken the next time.
pub const LAID_WAITING_MAX: usize = 1024;

/// How long no file is laid down when one could not be: a full disk stays so for a while.
pub const LAID_PAUSE: Duration = Duration::from_secs(60);

/// Bytes that are written at once of a file that is laid down: a multiple of `TASK_BYTES` and of the largest page.
pub const LAID_PIECE_BYTES: u64 = 4 << 20;
