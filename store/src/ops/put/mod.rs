//! Stores files or directories as one checkpoint. Writes in the order of the law: packs, manifest, HEAD. Never changes a
//! source, never removes anything that it has published, and drops no checkpoint that no policy drops.

mod chunks;
pub(in crate::ops) mod gather;
mod join;
mod material;
pub mod parts;
mod room;
pub(in crate::ops) mod source;
mod splitting;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::Instant;

use self::chunks::Chunks;
pub use self::gather::Given;
use self::gather::gather;
use self::material::Material;
use crate::backend::{Backend, Key};
use crate::catalog::{Draft, State, commit, read_head, refs};
use crate::error::{Error, Result, Thing};
use crate::format::catalog::{Change, Entry};
use crate::format::manifest::{Content, Manifest};
use crate::format::pack::Line;
use crate::format::part::Part;
use crate::id::{CheckpointId, PackId};
use crate::limits::PUT_OVERHEAD_BYTES;
use crate::packs::SealedPack;
use crate::progress::{Notice, Progress};
use crate::session::Session;
use crate::space::{self, Budget};
use crate::store::Store;

/// What to store, and as what.
#[derive(Debug, Clone, Default)]
pub struct PutRequest {
    /// Files and directories.
    pub paths: Vec<PathBuf>,
    /// Files that are not on the disk, besides those of `paths`.
    pub given: Vec<Given>,
    /// The name of the one directory that the checkpoint is. Without it, that is the name of the one path that is a directory;
    /// a checkpoint of other paths or given files alone is no directory, and one file of them is a single file.
    pub root: Option<String>,
    /// The run.
    pub run: String,
    /// The training step.
    pub step: Option<u64>,
    /// Numbers such as `val_loss`.
    pub metrics: BTreeMap<String, f64>,
    /// Free-form texts.
    pub meta: BTreeMap<String, String>,
    /// Names for the checkpoint.
    pub tags: BTreeSet<String>,
    /// Whether a checkpoint of the same run and step gives way.
    pub replace: bool,
    /// Bytes of the disk that are to stay free; none means the smaller of 1 GB and 1 % of it.
    pub reserve: Option<u64>,
    /// Whether to make room by a gc, as the store's policies say, when there is too little.
    pub gc: bool,
}

/// What a put did.
#[derive(Debug, Clone, PartialEq)]
pub struct PutReport {
    /// The new checkpoint.
    pub entry: Entry,
    /// Chunks that it names.
    pub chunks: u64,
    /// Chunks that the store did not have.
    pub new_chunks: u64,
    /// Wall time.
    pub seconds: f64,
}

/// Stores a checkpoint; when the disk is too full for it, and the request says so, after a gc.
pub fn put(store: &Store, request: &PutRequest, progress: &dyn Progress) -> Result<PutReport> {
    if request.paths.is_empty() && request.given.is_empty() {
        return Err(Error::Invalid("nothing to store: no path was given".into()));
    }
    put_with(store, request, &[], progress)
}

/// Stores a checkpoint of what the request has and of parts that others prepared.
fn put_with(store: &Store, request: &PutRequest, parts: &[Part], progress: &dyn Progress) -> Result<PutReport> {
    let started = Instant::now();
    check(request)?;
    let what = request.step.map_or_else(|| request.run.clone(), |step| format!("{}@{step}", request.run));
    let attempt = |budget: &mut Budget<'_>| attempt(store, request, parts, budget, progress);
    let report = room::find(store, &what, (request.reserve, request.gc), progress, attempt)?;
    Ok(PutReport { seconds: started.elapsed().as_secs_f64(), ..report })
}

fn attempt(
    store: &Store,
    request: &PutRequest,
    parts: &[Part],
    budget: &mut Budget<'_>,
    progress: &dyn Progress,
) -> Result<PutReport> {
    let backend = store.backend();
    // The session comes before HEAD: whatever gc decides from now on, it sees this put or this put sees its epoch.
    let session = Session::register(store.root(), "put")?;
    let state = State::load(backend)?;
    refuse_existing(&state, request)?;
    let mut gathered = gather(&request.paths, store.root())?;
    gathered.add(&request.given, store.now_ms())?;
    request.root.as_deref().map_or(Ok(()), |root| gathered.name_root(root))?;
    let material = Material::of(gathered, parts)?;
    let sources = material.sources();
    let mut chunks = Chunks::new(&sources, &material.layout, backend, store.id(), session.id());
    let besides = state.commit_bytes() + PUT_OVERHEAD_BYTES + material.described_bytes() + join::described_bytes(parts);
    let mut packs = chunks.store(store.index(), &state.head, (budget, besides), progress)?;

    let id = CheckpointId::generate();
    let time_ms = store.now_ms();
    let mut manifest = material.describe(&chunks.ids, id, store.id())?;
    manifest = Manifest {
        run: request.run.clone(),
        step: request.step,
        time_ms,
        metrics: request.metrics.clone(),
        meta: request.meta.clone(),
        ..manifest
    };
    join::join(&mut manifest, parts, &material, request.root.is_some())?;
    let key = Key::Manifest(id);
    // What can't be read back must not be written: this check is the reader's.
    manifest.check().map_err(|error| error.of(key))?;
    let mut object = backend.create(key, &session.id().to_string())?;
    object.append(&manifest.to_bytes(session.id()).map_err(|error| error.of(key))?)?;
    object.seal()?;
    sources.iter().try_for_each(|source| source.check_unchanged())?;
    if progress.interrupted() {
        return Err(Error::Interrupted);
    }

    // From here on things get names. What fails now leaves packs that nothing names; the next gc takes them away.
    let mut published = publish(std::mem::take(&mut packs))?;
    object.publish()?;
    let stored_by_others = parts.iter().any(|part| !part.written.is_empty());
    loop {
        let relied_on = chunks.packs();
        let outcome = commit(backend, session.id(), |now, draft| {
            refuse_existing(now, request)?;
            join::settle(backend, parts, now, draft)?;
            let lost = settle_packs(backend, state.head.epoch, now, draft, &relied_on)?;
            if !lost.is_empty() {
                return Ok(Err(lost));
            }
            let added_bytes = parts.iter().map(|part| part.added_bytes).sum::<u64>() + chunks.stored.raw_bytes;
            let written_bytes = parts.iter().map(|part| part.written_bytes).sum::<u64>() + chunks.stored.written_bytes;
            let entry = Entry {
                id,
                run: request.run.clone(),
                step: request.step,
                time_ms,
                metrics: request.metrics.clone(),
                tags: request.tags.clone(),
                pinned: false,
                files: manifest.files.iter().filter(|file| matches!(file.content, Content::File { .. })).count() as u64,
                logical_bytes: manifest.logical_bytes(),
                added_bytes,
                written_bytes,
            };
            if let Some(old) = same_step(now, request) {
                draft.changes.push(Change::Remove(old.id));
            }
            draft.changes.push(Change::Add(Box::new(entry.clone())));
            draft.changes.extend(request.tags.iter().map(|tag| Change::Tag(id, tag.clone())));
            if !published.is_empty() || stored_by_others {
                draft.head.packs_seq = draft.head.seq;
            }
            Ok(Ok((entry, now.head.packs_seq, draft.head.packs_seq)))
        })?;
        match outcome {
            Ok((entry, before, after)) => {
                // Of packs that others stored only the packs themselves tell what is in them.
                let indexed = if stored_by_others {
                    read_head(backend).and_then(|head| store.index().catch_up(backend, &head, progress))
                } else {
                    store.index().add(&published, before, after)
                };
                if let Err(error) = indexed {
                    // The checkpoint is safe; the next put catches up from the packs themselves.
                    progress.notice(Notice::IndexBehind { reason: error.to_string() });
                }
                space::keep(store.root(), state.commit_bytes());
                return Ok(PutReport {
                    entry,
                    chunks: manifest.chunk_count() as u64,
                    new_chunks: parts.iter().map(|part| part.new_chunks).sum::<u64>() + chunks.stored.chunks,
                    seconds: 0.0,
                });
            }
            Err(lost) => published.extend(publish(chunks.store_again(&lost, progress)?)?),
        }
    }
}

fn publish(packs: Vec<SealedPack>) -> Result<Vec<(PackId, Vec<Line>)>> {
    packs.into_iter().map(SealedPack::publish).collect()
}

fn check(request: &PutRequest) -> Result<()> {
    refs::check_run(&request.run)?;
    request.tags.iter().try_for_each(|tag| refs::check_tag(tag))?;
    request.metrics.keys().try_for_each(|name| refs::check_name("metric", name))?;
    request.meta.keys().try_for_each(|name| refs::check_name("metadata entry", name))
}

fn same_step<'a>(state: &'a State, request: &PutRequest) -> Option<&'a Entry> {
    let step = request.step?;
    state.entries.iter().find(|entry| entry.run == request.run && entry.step == Some(step))
}

fn refuse_existing(state: &State, request: &PutRequest) -> Result<()> {
    match same_step(state, request) {
        Some(entry) if request.replace && entry.pinned => {
            Err(Error::Invalid(format!("{} is pinned", refs::name_of(entry))))
        }
        Some(entry) if !request.replace => Err(Error::Exists { thing: Thing::Checkpoint, name: refs::name_of(entry) }),
        _ => Ok(()),
    }
}

/// Makes sure that the packs a checkpoint relies on stay, given what gc did since the epoch `began`: takes condemned ones off
/// the list in the draft, and answers those that can't be relied on any more.
fn settle_packs(
    backend: &dyn Backend,
    began: u64,
    now: &State,
    draft: &mut Draft,
    relied_on: &BTreeSet<PackId>,
) -> Result<BTreeSet<PackId>> {
    let mut lost = BTreeSet::new();
    if now.head.epoch == began {
        return Ok(lost);
    }
    for pack in relied_on {
        if now.head.deleting.contains(pack) || backend.open(Key::Pack(*pack))?.is_none() {
            lost.insert(*pack);
        } else {
            draft.head.condemned.remove(pack);
        }
    }
    Ok(lost)
}
