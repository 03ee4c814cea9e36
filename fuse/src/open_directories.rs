//! Directories that are open, by the numbers that the kernel knows them by. Never looks into one.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use crate::directory::Directory;

/// All that are open.
#[derive(Default)]
pub struct OpenDirectories {
    directories: RwLock<HashMap<u64, Arc<Directory>>>,
    last: AtomicU64,
}

impl OpenDirectories {
    /// Gives a directory a number.
    pub fn open(&self, directory: Arc<Directory>) -> u64 {
        let number = self.last.fetch_add(1, Ordering::Relaxed) + 1;
        self.directories.write().unwrap_or_else(PoisonError::into_inner).insert(number, directory);
        number
    }

    /// The directory of a number.
    pub fn get(&self, number: u64) -> Option<Arc<Directory>> {
        self.directories.read().unwrap_or_else(PoisonError::into_inner).get(&number).cloned()
    }

    /// Lets go of one.
    pub fn close(&self, number: u64) {
        self.directories.write().unwrap_or_else(PoisonError::into_inner).remove(&number);
    }
}
