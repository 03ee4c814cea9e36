//! Work on many items by all threads of the pool, handed out in order so that what is written comes out nearly in order.
//! Never starts threads of its own.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use crate::error::{Error, Result};
use crate::progress::Progress;

/// Calls `work` for each index below `count`, each thread with a state of its own from `init`, and gives the answers in
/// order. Stops at the first error or when `progress` says so.
pub fn in_order<S, T: Send>(
    count: usize,
    progress: &dyn Progress,
    init: impl Fn() -> S + Sync,
    work: impl Fn(&mut S, usize) -> Result<T> + Sync,
) -> Result<Vec<T>> {
    let next = AtomicUsize::new(0);
    let stopped = AtomicBool::new(false);
    let outcome: Mutex<Result<Vec<(usize, T)>>> = Mutex::new(Ok(Vec::with_capacity(count)));
    let run = || {
        let mut state = None;
        let mut done = Vec::new();
        let mut failure = None;
        while !stopped.load(Ordering::Relaxed) {
            let index = next.fetch_add(1, Ordering::Relaxed);
            if index >= count {
                break;
            }
            let answer = if progress.interrupted() {
                Err(Error::Interrupted)
            } else {
                work(state.get_or_insert_with(&init), index)
            };
            match answer {
                Ok(answer) => done.push((index, answer)),
                Err(error) => {
                    stopped.store(true, Ordering::Relaxed);
                    failure = Some(error);
                }
            }
        }
        let mut outcome = outcome.lock().unwrap_or_else(PoisonError::into_inner);
        match (failure, &mut *outcome) {
            (Some(error), all @ Ok(_)) => *all = Err(error),
            (None, Ok(all)) => all.append(&mut done),
            (_, Err(_)) => {}
        }
    };
    let threads = rayon::current_num_threads().min(count);
    if count > 1 {
        rayon::scope(|scope| {
            for _ in 1..threads {
                scope.spawn(|_| run());
            }
            run();
        });
    } else {
        // Nothing to share: waking a thread of the pool would take longer than small work does.
        run();
    }
    let mut all = outcome.into_inner().unwrap_or_else(PoisonError::into_inner)?;
    all.sort_unstable_by_key(|(index, _)| *index);
    Ok(all.into_iter().map(|(_, answer)| answer).collect())
}
