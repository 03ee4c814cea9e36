//! Runs the store's work: on threads that belong to this process, with the GIL released, and listening for Ctrl-C. Never
//! leaves work behind that goes on after its call has returned.

#![allow(unsafe_code, reason = "a pointer that outlives a fork")]

use std::fmt::Display;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr;
use std::sync::atomic::{AtomicBool, AtomicPtr, Ordering};
use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use ckpt_store::{Error, Notice, Progress, Quiet, Stage};
use pyo3::prelude::*;
use rayon::ThreadPool;

use crate::failure::raise;

/// How often Python is asked whether somebody wants to stop.
const SIGNALS_EVERY: Duration = Duration::from_millis(50);

/// Runs `work` on this process's threads. Ctrl-C stops it, which leaves the store as it was, and comes out as what Python
/// makes of it, a `KeyboardInterrupt` usually.
pub fn run<T: Send>(py: Python<'_>, work: impl FnOnce(&dyn Progress) -> Result<T, Error> + Send) -> PyResult<T> {
    let watch = Watch::default();
    let pool = pool().map_err(|error| raise(py, &error))?;
    let outcome = py.detach(|| {
        let (done, waiting) = sync_channel(1);
        let mut signal = None;
        let outcome = thread::scope(|scope| {
            let watch = &watch;
            let spawned = thread::Builder::new().name("ckpt-work".into()).spawn_scoped(scope, move || {
                // Nobody waits any more only if this call is over, which the scope rules out.
                let _ = done.send(on(pool, || work(watch)));
            });
            spawned.map_err(no_threads)?;
            loop {
                match waiting.recv_timeout(SIGNALS_EVERY) {
                    Ok(outcome) => return outcome,
                    Err(RecvTimeoutError::Disconnected) => {
                        return Err(Error::Internal("the store's work vanished".into()));
                    }
                    Err(RecvTimeoutError::Timeout) if signal.is_none() => {
                        // Says nothing on other threads than the main one, which alone gets signals, and none while the
                        // interpreter ends.
                        if let Some(Err(raised)) = Python::try_attach(|py| py.check_signals()) {
                            watch.stop.store(true, Ordering::Relaxed);
                            signal = Some(raised);
                        }
                    }
                    Err(RecvTimeoutError::Timeout) => {}
                }
            }
        });
        match signal {
            // Also when the work was done before it heard of it: Python asked and must not lose the signal.
            Some(raised) => Err(Ok(raised)),
            None => outcome.map_err(Err),
        }
    });
    let logged = watch.log(py);
    // What became of the work counts for more than that nobody could be told of it.
    let outcome = outcome.map_err(|failure: Result<PyErr, Error>| failure.unwrap_or_else(|error| raise(py, &error)))?;
    logged.map(|()| outcome)
}

/// [`run`] for what is over in a moment: without a thread that listens for Ctrl-C.
pub fn run_briefly<T: Send>(
    py: Python<'_>,
    work: impl FnOnce(&dyn Progress) -> Result<T, Error> + Send,
) -> PyResult<T> {
    let pool = pool().map_err(|error| raise(py, &error))?;
    py.detach(|| on(pool, || work(&Quiet))).map_err(|error| raise(py, &error))
}

/// Works on the threads of a pool. A panic becomes an error: a mistake in the library must not end a training that catches
/// errors of a save.
fn on<T: Send>(pool: &ThreadPool, work: impl FnOnce() -> Result<T, Error> + Send) -> Result<T, Error> {
    let outcome = catch_unwind(AssertUnwindSafe(|| pool.install(work)));
    outcome.unwrap_or_else(|_| Err(Error::Internal("the store's work panicked".into())))
}

fn no_threads(error: impl Display) -> Error {
    Error::Internal(format!("can't start threads: {error}"))
}

/// Threads, and the process that they belong to.
struct Pool {
    process: u32,
    threads: ThreadPool,
}

/// The threads of this process. A fork leaves them behind, and whoever waited for them would wait forever: a child makes its
/// own. No lock guards this, for a fork may leave that behind as well, held.
fn pool() -> Result<&'static ThreadPool, Error> {
    static POOL: AtomicPtr<Pool> = AtomicPtr::new(ptr::null_mut());
    let process = std::process::id();
    let mut known = POOL.load(Ordering::Acquire);
    loop {
        // SAFETY: what the pointer has ever held is null or a leaked box, which lives as long as the process.
        if let Some(pool) = unsafe { known.as_ref() }
            && pool.process == process
        {
            return Ok(&pool.threads);
        }
        let threads = rayon::ThreadPoolBuilder::new().thread_name(|nr| format!("ckpt-{nr}")).build();
        let threads = threads.map_err(no_threads)?;
        let new = Box::into_raw(Box::new(Pool { process, threads }));
        match POOL.compare_exchange(known, new, Ordering::AcqRel, Ordering::Acquire) {
            // What was there belongs to the parent, whose threads are not here: to end it would wait for them.
            Ok(_) => {}
            // SAFETY: `new` was made above and nobody else has seen it.
            Err(_) => drop(unsafe { Box::from_raw(new) }),
        }
        known = POOL.load(Ordering::Acquire);
    }
}

/// Listens to the work, and tells it to stop.
#[derive(Default)]
struct Watch {
    stop: AtomicBool,
    notices: Mutex<Vec<String>>,
}

impl Watch {
    /// Hands what happened to Python's logging.
    fn log(&self, py: Python<'_>) -> PyResult<()> {
        let notices = std::mem::take(&mut *self.notices.lock().unwrap_or_else(PoisonError::into_inner));
        if notices.is_empty() {
            return Ok(());
        }
        let logger = py.import("logging")?.call_method1("getLogger", ("ckpt_store",))?;
        notices.iter().try_for_each(|notice| logger.call_method1("warning", ("%s", notice)).map(drop))
    }
}

impl Progress for Watch {
    fn begin(&self, _: Stage, _: u64) {}

    fn advance(&self, _: u64) {}

    fn notice(&self, notice: Notice) {
        self.notices.lock().unwrap_or_else(PoisonError::into_inner).push(notice.to_string());
    }

    fn interrupted(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }
}
