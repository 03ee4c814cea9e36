//! The tree as the catalog had it a moment ago. Never reads the catalog when nothing changed in the store, and goes on with
//! what it knows while that can't be read.

use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Instant;

use ckpt_store::{Entry, Store, best_of};
use globset::{Glob, GlobMatcher};

use crate::limits::TREE_AGE;
use crate::tree::Tree;
use crate::{Error, Result};

/// What is known of the catalog.
pub struct Listing {
    store: Arc<Store>,
    runs: Option<Runs>,
    tree: RwLock<Arc<Tree>>,
    looked: Mutex<Looked>,
}

/// Which runs are shown.
struct Runs {
    text: String,
    matcher: GlobMatcher,
}

/// When somebody looked last, and what HEAD was then.
struct Looked {
    at: Instant,
    mark: u64,
}

impl Listing {
    /// Reads the catalog.
    ///
    /// # Errors
    /// When it can't be read, or `runs` is no glob.
    pub fn new(store: Arc<Store>, runs: Option<&str>) -> Result<Self> {
        let glob = |text: &str| {
            let glob = Glob::new(text)
                .map_err(|error| ckpt_store::Error::Invalid(format!("{text:?} is no glob: {}", error.kind())));
            Ok::<_, Error>(Runs { text: text.to_owned(), matcher: glob?.compile_matcher() })
        };
        let runs = runs.map(glob).transpose()?;
        let mark = store.changes()?;
        let tree = Arc::new(load(&store, runs.as_ref(), None)?);
        let looked = Mutex::new(Looked { at: Instant::now(), mark });
        Ok(Self { store, runs, tree: RwLock::new(tree), looked })
    }

    /// The tree, as the store had it at most a moment ago if that can be read.
    pub fn tree(&self) -> Arc<Tree> {
        // Whoever looks does it for all who ask meanwhile: they get what there was.
        if let Ok(mut looked) = self.looked.try_lock()
            && looked.at.elapsed() >= TREE_AGE
        {
            // Before the catalog is read: what comes in between is seen the next time.
            let mark = self.store.changes();
            if let Ok(mark) = mark
                && mark != looked.mark
            {
                let before = self.last();
                if let Ok(tree) = load(&self.store, self.runs.as_ref(), Some(&before)) {
                    *self.tree.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(tree);
                    looked.mark = mark;
                }
            }
            looked.at = Instant::now();
        }
        self.last()
    }

    fn last(&self) -> Arc<Tree> {
        Arc::clone(&self.tree.read().unwrap_or_else(PoisonError::into_inner))
    }
}

fn load(store: &Store, runs: Option<&Runs>, before: Option<&Tree>) -> ckpt_store::Result<Tree> {
    let mut entries = store.checkpoints()?;
    if let Some(runs) = runs {
        // As everywhere, a run whose name is the glob's very text is meant whatever its characters mean.
        entries.retain(|entry| runs.text == entry.run || runs.matcher.is_match(&entry.run));
    }
    let best = |entries: &[&Entry]| best_of(entries).map(|entry| entry.id);
    // The first six bytes of an id are the time when it was made.
    let made_ms = store.id().to_bytes()[..6].iter().fold(0, |time, byte| time << 8 | i64::from(*byte));
    Ok(Tree::new(entries, best, made_ms, before))
}
