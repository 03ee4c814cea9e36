//! Which checkpoints exist and which policies are for them: HEAD and the list it points at, read and replaced by compare-and-swap. Never reads a manifest or
//! a pack.

pub mod policies;
pub mod refs;
pub mod rules;
#[cfg(test)]
mod tests;

use std::collections::HashMap;

use crate::backend::{Backend, Key, read_whole};
use crate::error::{Error, Result};
use crate::format::catalog::{Catalog, Change, Entry, Policy};
use crate::format::head::Head;
use crate::id::{CatalogId, CheckpointId, SessionId};
use crate::limits::{COMMIT_ATTEMPTS_MAX, HEAD_BYTES_MAX, OBJECT_BYTES_MAX};

/// How often reading starts again because a catalog was replaced and deleted meanwhile.
const READ_ATTEMPTS_MAX: usize = 100;

/// What the store holds at one moment.
#[derive(Debug, Clone)]
pub struct State {
    /// HEAD.
    pub head: Head,
    /// The checkpoints, in the order in which they were stored.
    pub entries: Vec<Entry>,
    /// The policies as stored, in the order of their globs' bytes; [`policies::stored`] reads them.
    pub policies: Vec<Policy>,
    bytes: Vec<u8>,
    catalog_bytes: u64,
}

/// What a commit wants to change.
#[derive(Debug)]
pub struct Draft {
    /// HEAD as it will be written, but for the catalog's part; its `seq` is already the new one.
    pub head: Head,
    /// Changes of the catalog, in order.
    pub changes: Vec<Change>,
}

impl Draft {
    /// Moves the epoch on when the lists of packs are others than in `state`, which tells every put to look at them.
    pub fn move_epoch(&mut self, state: &State) {
        if self.head.condemned != state.head.condemned || self.head.deleting != state.head.deleting {
            self.head.epoch = state.head.epoch + 1;
        }
    }
}

impl State {
    /// Reads HEAD and its catalog.
    pub fn load(backend: &dyn Backend) -> Result<Self> {
        for _ in 0..READ_ATTEMPTS_MAX {
            let bytes = read_whole(backend, Key::Head, HEAD_BYTES_MAX)?
                .ok_or_else(|| Error::corrupt(Key::Head, "it is missing"))?;
            let head = Head::from_bytes(&bytes).map_err(|error| error.of(Key::Head))?;
            let mut catalog_bytes = 0;
            let mut catalog = match head.catalog {
                None => Catalog::default(),
                Some(id) => match read_whole(backend, Key::Catalog(id), OBJECT_BYTES_MAX)? {
                    Some(bytes) => {
                        catalog_bytes = bytes.len() as u64;
                        Catalog::from_bytes(id, &bytes).map_err(|error| error.of(Key::Catalog(id)))?
                    }
                    // Either HEAD moved on and gc took the old catalog, or it is lost.
                    None if read_whole(backend, Key::Head, HEAD_BYTES_MAX)?.as_deref() != Some(&bytes[..]) => continue,
                    None => return Err(Error::corrupt(Key::Catalog(id), "it is missing")),
                },
            };
            apply(&mut catalog, &head.changes);
            let Catalog { entries, policies } = catalog;
            return Ok(Self { head, entries, policies, bytes, catalog_bytes });
        }
        Err(Error::Busy("HEAD is being replaced all the time".into()))
    }

    /// Bytes that a commit may have to write besides its own changes: HEAD anew, and the catalog when it is folded.
    pub fn commit_bytes(&self) -> u64 {
        2 * self.bytes.len() as u64 + self.catalog_bytes
    }

    /// The checkpoint with this id.
    pub fn entry(&self, id: CheckpointId) -> Option<&Entry> {
        self.entries.iter().find(|entry| entry.id == id)
    }
}

/// Reads HEAD alone.
pub fn read_head(backend: &dyn Backend) -> Result<Head> {
    let bytes = read_whole(backend, Key::Head, HEAD_BYTES_MAX)?;
    let bytes = bytes.ok_or_else(|| Error::corrupt(Key::Head, "it is missing"))?;
    Head::from_bytes(&bytes).map_err(|error| error.of(Key::Head))
}

/// Changes HEAD: loads the state, lets `plan` fill a draft from it, swaps, and starts again when somebody else was first.
/// Answers what `plan` answered the time that it took. A draft that changes nothing is not written.
pub fn commit<T>(
    backend: &dyn Backend,
    session: SessionId,
    mut plan: impl FnMut(&State, &mut Draft) -> Result<T>,
) -> Result<T> {
    for _ in 0..COMMIT_ATTEMPTS_MAX {
        let state = State::load(backend)?;
        let mut draft = Draft { head: state.head.clone(), changes: Vec::new() };
        draft.head.seq += 1;
        draft.head.nonce = ulid::Ulid::generate().to_string();
        let answer = plan(&state, &mut draft)?;
        let Draft { mut head, changes } = draft;
        let lists = |head: &Head| (head.packs_seq, head.condemned.clone(), head.deleting.clone());
        if changes.is_empty() && lists(&head) == lists(&state.head) {
            return Ok(answer);
        }
        let mut written = None;
        if head.folds(changes.len()) {
            let mut catalog = Catalog { entries: state.entries, policies: state.policies };
            apply(&mut catalog, &changes);
            let id = CatalogId::generate();
            write_catalog(backend, id, session, &catalog)?;
            (head.catalog, head.changes, written) = (Some(id), Vec::new(), Some(id));
        } else {
            head.changes.extend(changes);
        }
        let bytes = head.to_bytes().map_err(|error| error.of(Key::Head))?;
        if backend.swap_head(&state.bytes, &bytes)? {
            return Ok(answer);
        }
        if let Some(id) = written {
            // It never became part of the store, and only this process knows its name.
            backend.delete(Key::Catalog(id))?;
        }
    }
    Err(Error::Busy(format!("HEAD changed each of the {COMMIT_ATTEMPTS_MAX} times that this was tried")))
}

/// Stores a catalog, durably.
pub fn write_catalog(backend: &dyn Backend, id: CatalogId, session: SessionId, catalog: &Catalog) -> Result<()> {
    let key = Key::Catalog(id);
    let bytes = catalog.to_bytes(id, session).map_err(|error| error.of(key))?;
    let mut object = backend.create(key, &session.to_string())?;
    object.append(&bytes)?;
    object.seal()?;
    object.publish()
}

/// Applies changes in order. A change of a checkpoint that is gone changes nothing: somebody dropped it in between.
pub fn apply(catalog: &mut Catalog, changes: &[Change]) {
    let Catalog { entries, policies } = catalog;
    // Positions by id, so that a long list with many changes is not walked for each.
    let mut places: HashMap<CheckpointId, usize> = if changes.is_empty() {
        HashMap::new()
    } else {
        entries.iter().enumerate().map(|(at, entry)| (entry.id, at)).collect()
    };
    let mut removed = false;
    let mut keep: Vec<bool> = vec![true; entries.len()];
    for change in changes {
        match change {
            Change::Add(entry) => {
                places.insert(entry.id, entries.len());
                entries.push((**entry).clone());
                keep.push(true);
            }
            Change::Remove(id) => {
                if let Some(at) = places.remove(id) {
                    (keep[at], removed) = (false, true);
                }
            }
            Change::Tag(id, tag) => {
                if let Some(at) = places.get(id).copied() {
                    let run = entries[at].run.clone();
                    entries.iter_mut().filter(|entry| entry.run == run).for_each(|entry| {
                        entry.tags.remove(tag);
                    });
                    entries[at].tags.insert(tag.clone());
                }
            }
            Change::Untag(id, tag) => {
                if let Some(at) = places.get(id) {
                    entries[*at].tags.remove(tag);
                }
            }
            Change::Pin(id, pinned) => {
                if let Some(at) = places.get(id) {
                    entries[*at].pinned = *pinned;
                }
            }
            Change::SetPolicy(policy) => match policies.binary_search_by(|other| other.runs.cmp(&policy.runs)) {
                Ok(at) => policies[at] = policy.clone(),
                Err(at) => policies.insert(at, policy.clone()),
            },
            Change::RemovePolicy(runs) => policies.retain(|policy| policy.runs != *runs),
        }
    }
    if removed {
        let mut keep = keep.into_iter();
        entries.retain(|_| keep.next().unwrap_or(true));
    }
}
