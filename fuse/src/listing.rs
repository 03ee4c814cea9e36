//! The tree as the catalog had it when somebody looked last. Never reads the catalog when nothing changed in the store,
//! and goes on with what it knows while that can't be read.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use ckpt_store::{Entry, Store, best_of};

use crate::Result;
use crate::limits::OLD_DIRECTORIES_MAX;
use crate::node::Node;
use crate::runs::Runs;
use crate::tree::{Directory, Tree};

/// What is known of the catalog.
pub struct Listing {
    store: Arc<Store>,
    runs: Option<Runs>,
    tree: RwLock<Arc<Tree>>,
    /// Directories as they were a while ago, for those who are reading them.
    old: Mutex<VecDeque<Arc<Directory>>>,
    /// What HEAD was when somebody looked last.
    mark: Mutex<u64>,
}

impl Listing {
    /// Reads the catalog.
    ///
    /// # Errors
    /// When it can't be read, or `runs` is no glob.
    pub fn new(store: Arc<Store>, runs: Option<&str>) -> Result<Self> {
        let runs = runs.map(Runs::new).transpose()?;
        let mark = Mutex::new(store.changes()?);
        let tree = RwLock::new(Arc::new(load(&store, runs.as_ref(), None)?));
        Ok(Self { store, runs, tree, old: Mutex::default(), mark })
    }

    /// The tree as it is known.
    pub fn tree(&self) -> Arc<Tree> {
        Arc::clone(&self.tree.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Looks whether anything changed; if so, the tree that was known so far and the one that is known now.
    ///
    /// # Errors
    /// When HEAD or the catalog can't be read. The next look tries again.
    pub fn look(&self) -> ckpt_store::Result<Option<(Arc<Tree>, Arc<Tree>)>> {
        let mut known = self.mark.lock().unwrap_or_else(PoisonError::into_inner);
        // Before the catalog is read: what comes in between is seen the next time.
        let mark = self.store.changes()?;
        if mark == *known {
            return Ok(None);
        }
        let before = self.tree();
        let tree = Arc::new(load(&self.store, self.runs.as_ref(), Some(&before))?);
        *known = mark;
        let mut old = self.old.lock().unwrap_or_else(PoisonError::into_inner);
        old.extend(tree.changed_since(&before).filter_map(|(then, _)| then.cloned()));
        let surplus = old.len().saturating_sub(OLD_DIRECTORIES_MAX);
        old.drain(..surplus);
        *self.tree.write().unwrap_or_else(PoisonError::into_inner) = Arc::clone(&tree);
        Ok(Some((before, tree)))
    }

    /// A directory as it was in this version, if that is known.
    pub fn old(&self, node: &Node, version: u32) -> Option<Arc<Directory>> {
        let old = self.old.lock().unwrap_or_else(PoisonError::into_inner);
        old.iter().find(|directory| directory.version == version && directory.node == *node).cloned()
    }
}

fn load(store: &Store, runs: Option<&Runs>, before: Option<&Tree>) -> ckpt_store::Result<Tree> {
    let mut entries = store.checkpoints()?;
    if let Some(runs) = runs {
        entries.retain(|entry| runs.show(&entry.run));
    }
    let best = |entries: &[&Entry]| best_of(entries).map(|entry| entry.id);
    // The first six bytes of an id are the time when it was made.
    let made_ms = store.id().to_bytes()[..6].iter().fold(0, |time, byte| time << 8 | i64::from(*byte));
    Ok(Tree::new(entries, best, made_ms, before))
}
