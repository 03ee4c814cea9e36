//! Which directories that change the kernel may go on remembering. Never guesses: what could be old is read again.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use crate::directory::Directory;
use crate::tree;

/// What the kernel may have of directories that change.
#[derive(Default)]
pub struct Remembered {
    directories: Mutex<HashMap<u64, Seen>>,
}

/// What it may have of one.
#[derive(Default)]
struct Seen {
    /// What it has begun to remember, with nobody left who could add something older.
    current: Option<Weak<tree::Directory>>,
    /// As those who have it open see it.
    open: Vec<Weak<Directory>>,
}

impl Remembered {
    /// Whether what the kernel remembers of a directory that was just opened is what that shows. It remembers what those who
    /// have it open read: as long as one of them sees something older, that can still get in.
    pub fn is_current(&self, directory: &Arc<Directory>) -> bool {
        let Some(now) = directory.of_tree() else { return true };
        let is_now = |seen: &Weak<tree::Directory>| std::ptr::eq(seen.as_ptr(), Arc::as_ptr(now));
        let mut directories = self.directories.lock().unwrap_or_else(PoisonError::into_inner);
        let seen = directories.entry(directory.inode).or_default();
        seen.open.retain(|open| open.strong_count() > 0);
        let open = seen.open.iter().filter_map(Weak::upgrade);
        let others = open.filter(|open| open.of_tree().is_none_or(|shown| !Arc::ptr_eq(shown, now))).count();
        seen.open.push(Arc::downgrade(directory));
        let is_current = others == 0 && seen.current.as_ref().is_some_and(is_now);
        if !is_current {
            seen.current = (others == 0).then(|| Arc::downgrade(now));
        }
        is_current
    }

    /// Forgets a directory that the kernel has forgotten.
    pub fn forget(&self, inode: u64) {
        self.directories.lock().unwrap_or_else(PoisonError::into_inner).remove(&inode);
    }

    /// Whether it knows of none.
    #[cfg(test)]
    pub fn is_empty(&self) -> bool {
        self.directories.lock().unwrap_or_else(PoisonError::into_inner).is_empty()
    }
}
