//! Checkpoints that are open because files of them are. Never opens one twice for two who want it at a time, and never
//! has anybody wait for the opening of another one, which a slow disk may take long for.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use ckpt_store::{CheckpointId, OpenCheckpoint, ReadCache, Result, Store};

use crate::limits::{DAMAGE_LOOKED_FOR_AGAIN, LINGER};

/// All of them, by their ids.
pub struct Held {
    store: Arc<Store>,
    cache: Arc<ReadCache>,
    places: Mutex<HashMap<CheckpointId, Arc<Place>>>,
}

/// Where one is, or will be once somebody has opened it.
struct Place {
    /// Locked while it is being opened.
    opened: Mutex<Opened>,
    /// When it was last asked for, or the last of its files closed.
    used: Mutex<Instant>,
}

struct Opened {
    checkpoint: Option<Arc<OpenCheckpoint>>,
    /// When somebody last began to open it, in vain as well.
    since: Option<Instant>,
}

impl Held {
    /// None yet. What is decoded of them goes to `cache`.
    pub fn new(store: Arc<Store>, cache: Arc<ReadCache>) -> Self {
        Self { store, cache, places: Mutex::default() }
    }

    /// A checkpoint, opened if it is not.
    pub fn get(&self, id: CheckpointId) -> Result<Arc<OpenCheckpoint>> {
        let place = self.place(id);
        let mut opened = lock(&place.opened);
        if let Some(checkpoint) = &opened.checkpoint {
            return Ok(Arc::clone(checkpoint));
        }
        self.open(id, &mut opened)
    }

    /// A checkpoint that is open as `met`, opened anew: an open one looks for a chunk once, and somebody may have
    /// stored again what was damaged. None when it has just been opened, or can't be any more.
    pub fn again(&self, met: &Arc<OpenCheckpoint>) -> Option<Arc<OpenCheckpoint>> {
        let id = met.entry().id;
        let place = self.place(id);
        let mut opened = lock(&place.opened);
        if let Some(other) = opened.checkpoint.as_ref().filter(|other| !Arc::ptr_eq(other, met)) {
            return Some(Arc::clone(other));
        }
        let is_due = opened.since.is_none_or(|since| since.elapsed() >= DAMAGE_LOOKED_FOR_AGAIN);
        if is_due { self.open(id, &mut opened).ok() } else { None }
    }

    /// Takes note that a file of a checkpoint was closed.
    pub fn closed(&self, id: CheckpointId) {
        if let Some(place) = lock(&self.places).get(&id) {
            *lock(&place.used) = Instant::now();
        }
    }

    /// Lets go of those of which no file has been open for a while.
    pub fn rest(&self) {
        // Closing one removes a file: not under the lock.
        let mut idle: Vec<Arc<Place>> = Vec::new();
        lock(&self.places).retain(|_, place| {
            let is_idle = place.is_idle();
            if is_idle {
                idle.push(Arc::clone(place));
            }
            !is_idle
        });
        drop(idle);
    }

    /// How many are open.
    pub fn len(&self) -> usize {
        // One that is locked is being opened, and may not be there.
        let is_open = |place: &Arc<Place>| place.opened.try_lock().is_ok_and(|opened| opened.checkpoint.is_some());
        lock(&self.places).values().filter(|place| is_open(place)).count()
    }

    fn place(&self, id: CheckpointId) -> Arc<Place> {
        let now = Instant::now();
        let place = || {
            let opened = Mutex::new(Opened { checkpoint: None, since: None });
            Arc::new(Place { opened, used: Mutex::new(now) })
        };
        let mut places = lock(&self.places);
        let place = places.entry(id).or_insert_with(place);
        *lock(&place.used) = now;
        Arc::clone(place)
    }

    fn open(&self, id: CheckpointId, opened: &mut Opened) -> Result<Arc<OpenCheckpoint>> {
        opened.since = Some(Instant::now());
        let checkpoint = self.store.open_checkpoint_in(id, Arc::clone(&self.cache))?;
        Ok(Arc::clone(opened.checkpoint.insert(Arc::new(checkpoint))))
    }
}

impl Place {
    /// Whether nobody has it, asked for by one who keeps others from asking for it.
    fn is_idle(self: &Arc<Self>) -> bool {
        if Arc::strong_count(self) > 1 {
            // Somebody is about to open it.
            return false;
        }
        let opened = lock(&self.opened);
        let is_in_use = |checkpoint: &Arc<OpenCheckpoint>| Arc::strong_count(checkpoint) > 1;
        !opened.checkpoint.as_ref().is_some_and(is_in_use) && lock(&self.used).elapsed() >= LINGER
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
