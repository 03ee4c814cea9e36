//! Checkpoints that are open for reading: no gc takes away what they need. Never reads a chunk.

use std::collections::HashSet;

use crate::catalog::{State, refs};
use crate::error::{Damage, Error, Result, Thing};
use crate::format::catalog::Entry;
use crate::format::manifest::Manifest;
use crate::id::{CheckpointId, ChunkId, PackId};
use crate::ops::reading::Unreadable;
use crate::ops::sound;
use crate::progress::Progress;
use crate::session::{Session, pin_if_possible};
use crate::store::Store;

/// Keeps checkpoints while they are read.
pub struct Pinned {
    /// What the store holds, as read after they were pinned.
    pub state: State,
    /// None on a store that can't be written to.
    session: Option<Session>,
}

/// One checkpoint that is kept.
pub struct Opened {
    /// What the catalog says of it.
    pub entry: Entry,
    /// Its description.
    pub manifest: Manifest,
}

impl Pinned {
    /// Pins those checkpoints that `choose` chooses of what the store holds, for a session that does `what`. Those that
    /// were dropped meanwhile are not in the state any more.
    pub fn new(store: &Store, what: &str, choose: impl FnOnce(&State) -> Result<Vec<CheckpointId>>) -> Result<Self> {
        Self::of(store, what, choose(&State::load(store.backend())?)?)
    }

    /// Pins checkpoints, as [`Self::new`] does.
    pub fn of(store: &Store, what: &str, chosen: impl IntoIterator<Item = CheckpointId>) -> Result<Self> {
        // The session and its pins come before HEAD is read for good, so that gc either sees the pin or this reader
        // sees that the checkpoint is gone.
        let session = pin_if_possible(Session::of_reader(store.root(), what)?, chosen)?;
        Ok(Self { state: State::load(store.backend())?, session })
    }

    /// Whether gc can see it.
    pub fn is_written(&self) -> bool {
        self.session.is_some()
    }
}

impl Opened {
    /// The checkpoint that a ref names, and what keeps it for a session that does `what`.
    pub fn by_ref(store: &Store, what: &str, reference: &str, progress: &dyn Progress) -> Result<(Self, Pinned)> {
        let settled = sound::settle(store, reference, progress)?;
        let id = refs::resolve(&State::load(store.backend())?, &settled)?.id;
        Self::kept(store, what, id, reference)
    }

    /// The checkpoint of an id, and what keeps it for a session that does `what`. Reads the catalog once and not twice.
    pub fn by_id(store: &Store, what: &str, id: CheckpointId) -> Result<(Self, Pinned)> {
        Self::kept(store, what, id, &id.to_string())
    }

    fn kept(store: &Store, what: &str, id: CheckpointId, name: &str) -> Result<(Self, Pinned)> {
        let pinned = Pinned::of(store, what, [id])?;
        let gone = || Error::NotFound { thing: Thing::Checkpoint, name: name.to_owned(), near: Vec::new() };
        let entry = pinned.state.entry(id).ok_or_else(gone)?.clone();
        Ok((Self::of(store, entry)?, pinned))
    }

    /// A checkpoint that is kept by a session already.
    pub fn of(store: &Store, entry: Entry) -> Result<Self> {
        Ok(Self { manifest: store.manifest(entry.id)?, entry })
    }

    /// Names what damaged chunks belong to, each with a byte of a file that lies in it, and sets them aside so that
    /// storing the same bytes again heals them.
    pub fn damage<'a>(
        &self,
        store: &Store,
        damaged: impl Iterator<Item = (u32, u64, ChunkId, &'a Unreadable)>,
    ) -> Error {
        self.damage_but(store, &mut HashSet::new(), damaged)
    }

    /// As [`Self::damage`], without setting aside those of `aside` again, which costs a write that is made durable;
    /// adds the others there.
    pub fn damage_but<'a>(
        &self,
        store: &Store,
        aside: &mut HashSet<(ChunkId, PackId)>,
        damaged: impl Iterator<Item = (u32, u64, ChunkId, &'a Unreadable)>,
    ) -> Error {
        let mut new = Vec::new();
        let mut places = Vec::new();
        for (file, file_at, chunk, unreadable) in damaged {
            new.extend(unreadable.pack.map(|pack| (chunk, pack)).filter(|place| aside.insert(*place)));
            let file = &self.manifest.files[file as usize];
            places.push(Damage {
                checkpoint: refs::name_of(&self.entry),
                file: String::from_utf8_lossy(&file.path).into_owned(),
                tensor: file.tensor_at(file_at),
                chunk,
                pack: unreadable.pack,
                reason: unreadable.reason.clone(),
            });
        }
        // Best effort: it only decides whether the next put of these bytes already heals them.
        if !new.is_empty() {
            let _ = store.index().set_aside(&new);
        }
        Error::Damaged(places)
    }
}
