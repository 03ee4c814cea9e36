//! Stops an operation at a chosen moment, until the test lets it go on.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use ckpt_store::{Notice, Progress, Stage, Store};

use crate::disk::{Call, HookDisk};

const PATIENCE: Duration = Duration::from_secs(60);

/// A place at which a thread waits, the first time that one comes by.
pub struct Gate {
    arrive: SyncSender<()>,
    release: Mutex<Receiver<()>>,
    used: AtomicBool,
}

/// The test's side of a gate.
pub struct Keeper {
    arrived: Receiver<()>,
    release: SyncSender<()>,
}

/// A gate and its keeper.
pub fn gate() -> (Arc<Gate>, Keeper) {
    let (arrive, arrived) = sync_channel(1);
    let (release, released) = sync_channel(1);
    (
        Arc::new(Gate { arrive, release: Mutex::new(released), used: AtomicBool::new(false) }),
        Keeper { arrived, release },
    )
}

impl Gate {
    /// Waits for the keeper, the first time.
    pub fn pass(&self) {
        if !self.used.swap(true, Ordering::SeqCst) {
            self.arrive.send(()).expect("the test is there");
            let release = self.release.lock().unwrap_or_else(PoisonError::into_inner);
            release.recv_timeout(PATIENCE).expect("the test opens the gate");
        }
    }
}

impl Keeper {
    /// Waits until somebody is at the gate.
    pub fn wait(&self) {
        self.arrived.recv_timeout(PATIENCE).expect("the operation comes to the gate");
    }

    /// Lets it go on.
    pub fn open(&self) {
        self.release.send(()).expect("somebody is at the gate");
    }
}

/// Progress that stops where a stage begins.
pub struct StopAt(pub Stage, pub Arc<Gate>);

impl Progress for StopAt {
    fn begin(&self, stage: Stage, _: u64) {
        if stage == self.0 {
            self.1.pass();
        }
    }
    fn advance(&self, _: u64) {}
    fn notice(&self, _: Notice) {}
    fn interrupted(&self) -> bool {
        false
    }
}

/// The store in `root`, stopping before the first call that `is_here` picks.
pub fn stopping(root: &Path, gate: Arc<Gate>, is_here: impl Fn(Call<'_>) -> bool + Send + Sync + 'static) -> Store {
    let disk = HookDisk::new(move |call| {
        if is_here(call) {
            gate.pass();
        }
        Ok(())
    });
    Store::open_on(root, disk).expect("a sound store opens")
}

/// The store in `root`, stopping before it gives an object in `directory` its name.
pub fn stopping_at(root: &Path, directory: &'static str, gate: Arc<Gate>) -> Store {
    let in_directory = move |path: &Path| path.parent().is_some_and(|parent| parent.ends_with(directory));
    stopping(root, gate, move |call| matches!(call, Call::Rename(_, to) if in_directory(to)))
}

/// Waits until something is so.
///
/// # Panics
/// When it has not come to that in a minute.
pub fn wait_until(is_so: impl Fn() -> bool) {
    for _ in 0..6000 {
        if is_so() {
            return;
        }
        thread::sleep(Duration::from_millis(10));
    }
    panic!("it never came to that");
}
