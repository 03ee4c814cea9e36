//! Which checkpoints exist: HEAD and the list it points at, read and replaced by compare-and-swap. Never reads a manifest or
//! a pack.

pub mod refs;
pub mod rules;

use std::collections::HashMap;

use crate::backend::{Backend, Key, read_whole};
use crate::error::{Error, Result};
use crate::format::catalog::{Catalog, Change, Entry};
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
    bytes: Vec<u8>,
}

/// What a commit wants to change.
#[derive(Debug)]
pub struct Draft {
    /// HEAD as it will be written, but for the catalog's part; its `seq` is already the new one.
    pub head: Head,
    /// Changes of the catalog, in order.
    pub changes: Vec<Change>,
}

impl State {
    /// Reads HEAD and its catalog.
    pub fn load(backend: &dyn Backend) -> Result<Self> {
        for _ in 0..READ_ATTEMPTS_MAX {
            let bytes = read_whole(backend, Key::Head, HEAD_BYTES_MAX)?
                .ok_or_else(|| Error::corrupt(Key::Head, "it is missing"))?;
            let head = Head::from_bytes(&bytes).map_err(|error| error.of(Key::Head))?;
            let mut entries = match head.catalog {
                None => Vec::new(),
                Some(id) => match read_whole(backend, Key::Catalog(id), OBJECT_BYTES_MAX)? {
                    Some(bytes) => Catalog::from_bytes(id, &bytes).map_err(|error| error.of(Key::Catalog(id)))?.entries,
                    // Either HEAD moved on and gc took the old catalog, or it is lost.
                    None if read_whole(backend, Key::Head, HEAD_BYTES_MAX)?.as_deref() != Some(&bytes[..]) => continue,
                    None => return Err(Error::corrupt(Key::Catalog(id), "it is missing")),
                },
            };
            apply(&mut entries, &head.changes);
            return Ok(Self { head, entries, bytes });
        }
        Err(Error::Busy("HEAD is being replaced all the time".into()))
    }

    /// The checkpoint with this id.
    pub fn entry(&self, id: CheckpointId) -> Option<&Entry> {
        self.entries.iter().find(|entry| entry.id == id)
    }
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
            let mut entries = state.entries;
            apply(&mut entries, &changes);
            let id = CatalogId::generate();
            write_catalog(backend, id, session, entries)?;
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

fn write_catalog(backend: &dyn Backend, id: CatalogId, session: SessionId, entries: Vec<Entry>) -> Result<()> {
    let key = Key::Catalog(id);
    let bytes = Catalog { entries }.to_bytes(id, session).map_err(|error| error.of(key))?;
    let mut object = backend.create(key, &session.to_string())?;
    object.append(&bytes)?;
    object.seal()?;
    object.publish()
}

/// Applies changes in order. A change of a checkpoint that is gone changes nothing: somebody dropped it in between.
fn apply(entries: &mut Vec<Entry>, changes: &[Change]) {
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
        }
    }
    if removed {
        let mut keep = keep.into_iter();
        entries.retain(|_| keep.next().unwrap_or(true));
    }
}
