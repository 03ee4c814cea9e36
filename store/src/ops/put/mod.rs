//! Stores files or directories as one checkpoint. Writes in the order of the law: packs, manifest, HEAD. Never changes a
//! source, never removes anything that it has published, and drops no checkpoint that no policy drops.

mod chunks;
pub(in crate::ops) mod gather;
mod room;
pub(in crate::ops) mod source;
mod splitting;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::Instant;

use serde_bytes::ByteBuf;

use self::chunks::Chunks;
pub use self::gather::Given;
use self::gather::{Gathered, Member, MemberKind, gather};
use self::source::SourceFile;
use self::splitting::split_all;
use crate::backend::{Backend, Key};
use crate::catalog::{Draft, State, commit, refs};
use crate::error::{Error, Result, Thing};
use crate::format::catalog::{Change, Entry};
use crate::format::manifest::{Content, File, Manifest, Segment, Tensor, View};
use crate::format::pack::Line;
use crate::id::{CheckpointId, PackId};
use crate::limits::PUT_OVERHEAD_BYTES;
use crate::packs::SealedPack;
use crate::progress::{Notice, Progress};
use crate::session::Session;
use crate::space::{self, Budget};
use crate::split::{self, Kind, Layout, Placement, Source, Split};
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
    let started = Instant::now();
    check(request)?;
    let mut budget = Budget::new(store.root(), request.reserve);
    let error = match attempt(store, request, &mut budget, progress) {
        Ok(report) => return Ok(PutReport { seconds: started.elapsed().as_secs_f64(), ..report }),
        Err(error) => room::explain(store, request, &budget, error),
    };
    if !request.gc || !room::gc_would_help(&error) {
        return Err(error);
    }
    room::make(store, progress)?;
    let report = attempt(store, request, &mut budget, progress)
        .map_err(|error| room::explain(store, request, &budget, error))?;
    Ok(PutReport { seconds: started.elapsed().as_secs_f64(), ..report })
}

fn attempt(store: &Store, request: &PutRequest, budget: &mut Budget<'_>, progress: &dyn Progress) -> Result<PutReport> {
    let backend = store.backend();
    // The session comes before HEAD: whatever gc decides from now on, it sees this put or this put sees its epoch.
    let session = Session::register(store.root(), "put")?;
    let state = State::load(backend)?;
    refuse_existing(&state, request)?;
    let mut gathered = gather(&request.paths, store.root())?;
    gathered.add(&request.given, store.now_ms())?;
    request.root.as_deref().map_or(Ok(()), |root| gathered.name_root(root))?;
    let sources: Vec<&SourceFile> =
        gathered.members.iter().filter_map(Member::source).map(|source| &**source).collect();
    let splits = split_all(&gathered.members)?;
    let layout = lay_out(&sources, &splits)?;
    let mut chunks = Chunks::new(&sources, &layout, backend, store.id(), session.id());
    let besides = state.commit_bytes() + PUT_OVERHEAD_BYTES + room::described_bytes(&gathered, &splits);
    let mut packs = chunks.store(store.index(), &state.head, (budget, besides), progress)?;

    let id = CheckpointId::generate();
    let time_ms = store.now_ms();
    let manifest = describe(store, id, time_ms, request, &gathered, &sources, &splits, &layout, &chunks)?;
    let key = Key::Manifest(id);
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
    loop {
        let relied_on = chunks.packs();
        let outcome = commit(backend, session.id(), |now, draft| {
            refuse_existing(now, request)?;
            let lost = settle_packs(backend, &state, now, draft, &relied_on)?;
            if !lost.is_empty() {
                return Ok(Err(lost));
            }
            let entry = Entry {
                id,
                run: request.run.clone(),
                step: request.step,
                time_ms,
                metrics: request.metrics.clone(),
                tags: request.tags.clone(),
                pinned: false,
                files: sources.len() as u64,
                logical_bytes: manifest.logical_bytes(),
                added_bytes: chunks.stored.raw_bytes,
                written_bytes: chunks.stored.written_bytes,
            };
            if let Some(old) = same_step(now, request) {
                draft.changes.push(Change::Remove(old.id));
            }
            draft.changes.push(Change::Add(Box::new(entry.clone())));
            draft.changes.extend(request.tags.iter().map(|tag| Change::Tag(id, tag.clone())));
            if !published.is_empty() {
                draft.head.packs_seq = draft.head.seq;
            }
            Ok(Ok((entry, now.head.packs_seq, draft.head.packs_seq)))
        })?;
        match outcome {
            Ok((entry, before, after)) => {
                if !published.is_empty()
                    && let Err(error) = store.index().add(&published, before, after)
                {
                    // The checkpoint is safe; the next put catches up from the packs themselves.
                    progress.notice(Notice::IndexBehind { reason: error.to_string() });
                }
                space::keep(store.root(), state.commit_bytes());
                return Ok(PutReport {
                    entry,
                    chunks: manifest.chunk_count() as u64,
                    new_chunks: chunks.stored.chunks,
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
    if request.paths.is_empty() && request.given.is_empty() {
        return Err(Error::Invalid("nothing to store: no path was given".into()));
    }
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

/// Makes sure that the packs a checkpoint relies on stay, given what gc did since the put began: takes condemned ones off
/// the list in the draft, and answers those that can't be relied on any more.
fn settle_packs(
    backend: &dyn Backend,
    began: &State,
    now: &State,
    draft: &mut Draft,
    relied_on: &BTreeSet<PackId>,
) -> Result<BTreeSet<PackId>> {
    let mut lost = BTreeSet::new();
    if now.head.epoch == began.head.epoch {
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

fn lay_out(sources: &[&SourceFile], splits: &[Split]) -> Result<Layout> {
    let files: Vec<(&dyn Source, &Split)> = sources.iter().map(|source| *source as &dyn Source).zip(splits).collect();
    split::lay_out(&files).map_err(|error| {
        // The planner reads many files and can't say which one failed.
        match sources.iter().find_map(|source| source.check_unchanged().err()) {
            Some(changed) => changed,
            None => sources.first().map_or(Error::Internal(error.to_string()), |source| source.read_error(error)),
        }
    })
}

#[allow(clippy::too_many_arguments, reason = "each is a different part of one description")]
fn describe(
    store: &Store,
    id: CheckpointId,
    time_ms: i64,
    request: &PutRequest,
    gathered: &Gathered,
    sources: &[&SourceFile],
    splits: &[Split],
    layout: &Layout,
    chunks: &Chunks<'_>,
) -> Result<Manifest> {
    let mut inline = Vec::new();
    for range in &layout.inline {
        let source =
            sources.get(range.file as usize).ok_or_else(|| Error::Internal("an inline range is of no file".into()))?;
        let at = inline.len();
        inline.resize(at + range.len as usize, 0);
        source.read_exact_at(&mut inline[at..], range.offset).map_err(|error| source.read_error(error))?;
    }
    let mut described = splits.iter().zip(&layout.placements);
    let mut files = Vec::with_capacity(gathered.members.len());
    for member in &gathered.members {
        let content = match &member.kind {
            MemberKind::Directory => Content::Directory,
            MemberKind::Link(target) => Content::Link { target: ByteBuf::from(target.clone()) },
            MemberKind::File(source) => {
                let (split, placements) =
                    described.next().ok_or_else(|| Error::Internal("a file was not laid out".into()))?;
                let segments = split.segments.iter().zip(placements).map(|(segment, placement)| {
                    let tensor = match &segment.kind {
                        Kind::Tensor { name, dtype, shape } => {
                            Some(Tensor(name.clone(), dtype.as_ref().map(ToString::to_string), shape.clone()))
                        }
                        Kind::Storage { .. } | Kind::Literal | Kind::Opaque => None,
                    };
                    match *placement {
                        Placement::Chunks { chunk, at } => Segment(segment.len, Some(chunk), at, tensor),
                        Placement::Inline { at } => Segment(segment.len, None, at, tensor),
                    }
                });
                let views = split.views.iter().cloned().map(|view| {
                    let dtype = view.dtype.map(|dtype| dtype.to_string());
                    View(view.name, dtype, view.shape, view.strides, view.offset, view.len)
                });
                let format = split.format.to_string();
                Content::File { size: source.size(), format, segments: segments.collect(), views: views.collect() }
            }
        };
        files.push(File {
            path: ByteBuf::from(member.path.clone()),
            mode: member.mode,
            mtime_ms: member.mtime_ms,
            content,
        });
    }
    let manifest = Manifest {
        store: store.id(),
        id,
        run: request.run.clone(),
        step: request.step,
        time_ms,
        metrics: request.metrics.clone(),
        meta: request.meta.clone(),
        root: gathered.root.clone().map(ByteBuf::from),
        chunk_ids: ByteBuf::from(chunks.ids.iter().flat_map(|id| id.0).collect::<Vec<u8>>()),
        chunk_lens: layout.chunks.iter().map(|chunk| chunk.len).collect(),
        inline: ByteBuf::from(inline),
        files,
    };
    // What can't be read back must not be written: this check is the reader's.
    manifest.check().map_err(|error| error.of(Key::Manifest(id)))?;
    Ok(manifest)
}
