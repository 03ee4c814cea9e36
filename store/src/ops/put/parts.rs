//! Prepares a part of a checkpoint that several processes store together, and commits the parts as one. What is prepared is no
//! part of the store before that: HEAD never names it, and gc takes it once its process has ended.

use std::collections::BTreeSet;
use std::path::PathBuf;

use super::chunks::Chunks;
use super::gather::{Given, gather};
use super::material::Material;
use super::{PutReport, PutRequest, publish, put_with, room};
use crate::backend::Key;
use crate::catalog::{read_head, refs};
use crate::error::{Error, Result};
use crate::format::part::Part;
use crate::id::{CheckpointId, PackId};
use crate::limits::PUT_OVERHEAD_BYTES;
use crate::progress::Progress;
use crate::session::Session;
use crate::space::Budget;
use crate::store::Store;

/// What of a checkpoint one process has.
#[derive(Debug, Clone, Default)]
pub struct PartRequest {
    /// Files and directories, as in [`PutRequest`].
    pub paths: Vec<PathBuf>,
    /// Files that are not on the disk, as in [`PutRequest`].
    pub given: Vec<Given>,
    /// Bytes of the disk that are to stay free; none means the smaller of 1 GB and 1 % of it.
    pub reserve: Option<u64>,
    /// Whether to make room by a gc, as the store's policies say, when there is too little.
    pub gc: bool,
}

/// A part whose chunks are all stored. While it lives, gc keeps them; so it has to live until the checkpoint is committed.
pub struct Prepared {
    bytes: Vec<u8>,
    part: Part,
    _session: Session,
}

impl Prepared {
    /// What [`Store::commit_parts`] needs of it, to be sent to the process that commits.
    pub fn to_bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Bytes of its files.
    pub fn logical_bytes(&self) -> u64 {
        self.part.manifest.logical_bytes()
    }

    /// Raw bytes of the chunks that the store did not have.
    pub fn added_bytes(&self) -> u64 {
        self.part.added_bytes
    }

    /// Bytes written to packs.
    pub fn written_bytes(&self) -> u64 {
        self.part.written_bytes
    }
}

/// Stores the chunks of a part.
pub fn prepare(store: &Store, request: &PartRequest, progress: &dyn Progress) -> Result<Prepared> {
    let what = "a part of a checkpoint";
    room::find(store, what, (request.reserve, request.gc), progress, |budget| attempt(store, request, budget, progress))
}

fn attempt(store: &Store, request: &PartRequest, budget: &mut Budget<'_>, progress: &dyn Progress) -> Result<Prepared> {
    let backend = store.backend();
    let session = Session::register(store.root(), "prepare")?;
    let head = read_head(backend)?;
    let mut gathered = gather(&request.paths, store.root())?;
    gathered.add(&request.given, store.now_ms())?;
    let material = Material::of(gathered, &[])?;
    let sources = material.sources();
    let mut chunks = Chunks::new(&sources, &material.layout, backend, store.id(), session.id());
    let besides = PUT_OVERHEAD_BYTES;
    let packs = chunks.store(store.index(), &head, (budget, besides), progress)?;
    let manifest = material.describe(&chunks.ids, CheckpointId::generate(), store.id())?;
    manifest.check().map_err(|error| error.of("a part"))?;
    sources.iter().try_for_each(|source| source.check_unchanged())?;
    if progress.interrupted() {
        return Err(Error::Interrupted);
    }
    let mut published = publish(packs)?;
    // A pack of others that gc has on its lists when it is pinned may go before it sees the pin: what lies there is stored
    // again. One that comes onto the lists later is seen to be pinned before it goes.
    let epoch = loop {
        let relied_on = chunks.packs();
        session.pin_packs(relied_on.iter().copied().collect())?;
        let now = read_head(backend)?;
        let mut lost = BTreeSet::new();
        for pack in relied_on {
            let is_listed = now.condemned.contains_key(&pack) || now.deleting.contains(&pack);
            if is_listed || (now.epoch != head.epoch && backend.open(Key::Pack(pack))?.is_none()) {
                lost.insert(pack);
            }
        }
        if lost.is_empty() {
            break now.epoch;
        }
        published.extend(publish(chunks.store_again(&lost, progress)?)?);
    };
    let part = Part {
        session: session.id(),
        epoch,
        packs: chunks.packs(),
        written: published.into_iter().map(|(pack, _)| pack).collect::<BTreeSet<PackId>>(),
        new_chunks: chunks.stored.chunks,
        added_bytes: chunks.stored.raw_bytes,
        written_bytes: chunks.stored.written_bytes,
        manifest,
    };
    let bytes = part.to_bytes().map_err(|error| error.of("a part"))?;
    Ok(Prepared { bytes, part, _session: session })
}

/// Stores a checkpoint of parts, and of what the request has itself.
pub fn commit_parts(
    store: &Store,
    request: &PutRequest,
    parts: &[Vec<u8>],
    progress: &dyn Progress,
) -> Result<PutReport> {
    if parts.is_empty() && request.paths.is_empty() && request.given.is_empty() {
        return Err(Error::Invalid("nothing to store: neither a part nor a path was given".into()));
    }
    refs::check_run(&request.run)?;
    let read = |(nr, bytes): (usize, &Vec<u8>)| {
        let part = Part::from_bytes(bytes).map_err(|error| match error {
            crate::format::FormatError::Damaged(reason) => Error::Invalid(format!("part {nr} is damaged: {reason}")),
            other @ crate::format::FormatError::Unsupported(_) => other.of(format!("part {nr}")),
        })?;
        if part.manifest.store != store.id() {
            return Err(Error::Invalid(format!("part {nr} is in another store")));
        }
        Ok(part)
    };
    let parts = parts.iter().enumerate().map(read).collect::<Result<Vec<Part>>>()?;
    put_with(store, request, &parts, progress)
}
