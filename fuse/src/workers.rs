//! Threads that decode what will be asked for next, and give the kernel more than it asked for. Never makes anybody
//! wait: what they don't get to is decoded by who asks.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::thread::JoinHandle;

use ckpt_store::{Notice, Progress, Stage};
use fuser::Notifier;

use crate::handle::Handle;
use crate::limits::{TASK_BYTES, TASKS_MAX};

/// The threads; they end when it is dropped.
pub struct Workers {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

struct Shared {
    inside: Mutex<Inside>,
    came: Condvar,
    kernel: OnceLock<Notifier>,
}

#[derive(Default)]
struct Inside {
    tasks: VecDeque<Task>,
    ended: bool,
}

struct Task {
    /// Gone when it was closed: then nobody will ask.
    handle: Weak<Handle>,
    what: What,
}

enum What {
    /// These bytes are decoded.
    Decode { offset: u64, len: u64 },
    /// What is decoded together with this byte goes to the kernel.
    Give { offset: u64 },
}

impl Workers {
    /// Starts `count` threads.
    pub fn start(count: usize) -> std::io::Result<Self> {
        let shared = Arc::new(Shared { inside: Mutex::default(), came: Condvar::new(), kernel: OnceLock::new() });
        let mut workers = Self { shared, threads: Vec::with_capacity(count) };
        for nr in 0..count {
            let shared = Arc::clone(&workers.shared);
            let thread = std::thread::Builder::new().name(format!("ckpt-ahead-{nr}"));
            workers.threads.push(thread.spawn(move || shared.work())?);
        }
        Ok(workers)
    }

    /// Has a range of an open file decoded.
    pub fn decode(&self, handle: &Arc<Handle>, range: std::ops::Range<u64>) {
        let mut inside = self.shared.lock();
        let mut offset = range.start;
        while offset < range.end && inside.tasks.len() < TASKS_MAX {
            let len = TASK_BYTES.min(range.end - offset);
            inside.tasks.push_back(Task { handle: Arc::downgrade(handle), what: What::Decode { offset, len } });
            offset += len;
        }
        drop(inside);
        self.shared.came.notify_all();
    }

    /// Has what lies around a byte of an open file given to the kernel.
    pub fn give(&self, handle: &Arc<Handle>, offset: u64) {
        let mut inside = self.shared.lock();
        if inside.tasks.len() < TASKS_MAX {
            inside.tasks.push_back(Task { handle: Arc::downgrade(handle), what: What::Give { offset } });
        }
        drop(inside);
        self.shared.came.notify_one();
    }

    /// Tells them how to reach the kernel; what is to be given to it before that is not.
    pub fn meet(&self, kernel: Notifier) {
        let _ = self.shared.kernel.set(kernel);
    }
}

impl Shared {
    fn work(&self) {
        loop {
            let mut inside = self.lock();
            let task = loop {
                if inside.ended {
                    return;
                }
                match inside.tasks.pop_front() {
                    Some(task) => break task,
                    None => inside = self.came.wait(inside).unwrap_or_else(PoisonError::into_inner),
                }
            };
            drop(inside);
            if let Some(handle) = task.handle.upgrade() {
                // Who reads it will be told why it can't be had; one that panics is not the end of the thread.
                let _ = catch_unwind(AssertUnwindSafe(|| match task.what {
                    What::Decode { offset, len } => handle.bring(offset, len, self),
                    What::Give { offset } => self.kernel.get().map_or(Ok(()), |kernel| handle.give(offset, kernel)),
                }));
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inside> {
        self.inside.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Progress for Shared {
    fn begin(&self, _: Stage, _: u64) {}

    fn advance(&self, _: u64) {}

    fn notice(&self, _: Notice) {}

    fn interrupted(&self) -> bool {
        self.lock().ended
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        self.shared.lock().ended = true;
        self.shared.came.notify_all();
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}
