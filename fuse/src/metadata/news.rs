//! What the kernel has to be told of a store that changed, and people of one that can't be read. Never answers the
//! kernel.

use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use super::Metadata;
use crate::answers::Change;
use crate::limits::{ANSWERS, TELLS_MAX};
use crate::tree::{self, Tree};

/// What the kernel may not know yet.
#[derive(Default)]
pub struct News {
    /// How the tree was before each change that it may not know.
    before: Vec<Before>,
    /// Why the store could not be read at the last look.
    away: Option<String>,
}

/// A tree that is no more.
struct Before {
    tree: Arc<Tree>,
    /// Whether the kernel is to be told what changed since, whoever still answers by it.
    is_due: bool,
    /// How often it did not take that.
    refused: u32,
}

impl Metadata {
    /// Looks whether the store has changed, and gives everything that the kernel may have wrong since. That is given
    /// when the last answer is out that was made of what was known before; once more when one takes long, and when
    /// `tell` fails. Answers whether all is well.
    pub fn look(&self, mut tell: impl FnMut(Change<'_>) -> std::io::Result<()>) -> bool {
        let mut news = self.news.lock().unwrap_or_else(PoisonError::into_inner);
        let looked = self.listing.look();
        self.tell_whether_away(&mut news, looked.as_ref().err());
        let is_answering = |tree: &Arc<Tree>| Arc::strong_count(tree) > 1;
        let mut is_well = looked.is_ok();
        if let Ok(Some((before, _))) = looked {
            let end = Instant::now() + ANSWERS;
            while is_answering(&before) && Instant::now() < end {
                std::thread::sleep(Duration::from_millis(1));
            }
            news.before.push(Before { tree: before, is_due: true, refused: 0 });
        }
        let overtaken = std::mem::take(&mut *self.overtaken.lock().unwrap_or_else(PoisonError::into_inner));
        news.before.extend(overtaken.into_iter().map(|tree| Before { tree, is_due: true, refused: 0 }));
        let now = self.listing.tree();
        news.before.retain_mut(|before| {
            // Answers may come after the news: then all that has changed since, of which some was told before they were
            // out.
            let comes_again = is_answering(&before.tree);
            if comes_again && !before.is_due {
                return true;
            }
            match self.changes(&before.tree, &now, &mut tell) {
                Ok(()) => before.is_due = false,
                Err(error) => {
                    self.log.once(&format!("the kernel can't be told what changed and may go on showing it: {error}"));
                    (before.is_due, before.refused, is_well) = (true, before.refused + 1, false);
                }
            }
            comes_again || (before.is_due && before.refused < TELLS_MAX)
        });
        is_well
    }

    /// Learns what changed in the store, for one who came upon something that is gone: whoever asks again by its name
    /// is told what is there now. Leaves it to [`Self::look`] to tell the kernel, which may be waiting for this very
    /// answer.
    pub fn catch_up(&self) {
        if let Ok(Some((before, _))) = self.listing.look() {
            self.overtaken.lock().unwrap_or_else(PoisonError::into_inner).push(before);
        }
    }

    /// Tells people when what is shown begins to be old, and when it is no longer.
    fn tell_whether_away(&self, news: &mut News, error: Option<&ckpt_store::Error>) {
        let away = error.map(|error| self.why(error));
        match (&news.away, &away) {
            (known, Some(why)) if known.as_ref() != Some(why) => {
                self.log.line(&format!("what is shown stays as it was until the store can be read: {why}"));
            }
            (Some(_), None) => self.log.line("the store can be read again"),
            _ => {}
        }
        news.away = away;
    }

    /// Gives all that is not as it was, the rest also when some of it fails.
    fn changes(
        &self,
        before: &Tree,
        now: &Tree,
        mut tell: impl FnMut(Change<'_>) -> std::io::Result<()>,
    ) -> std::io::Result<()> {
        let mut told = Ok(());
        for (then, now) in now.changed_since(before) {
            let Some(either) = now.or(then) else { continue };
            let Some(inode) = self.inodes.known(&either.node) else { continue };
            let nothing = tree::Directory::gone(either.node.clone());
            let [then, now] = [then, now].map(|directory| directory.map_or(&nothing, |directory| &**directory));
            for name in then.changed_names(now) {
                told = tell(Change::Name { parent: inode, name }).and(told);
            }
            told = tell(Change::Directory(inode)).and(told);
        }
        told
    }
}
