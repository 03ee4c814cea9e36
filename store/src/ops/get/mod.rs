//! Gives the files of a checkpoint back. Never writes outside its destination, and never leaves there a file that looks
//! whole but is not: everything is written under a temporary name beside it, made durable and renamed.

mod restore;

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::Instant;

use globset::{GlobBuilder, GlobSet, GlobSetBuilder};

use self::restore::{Restore, Shape};
use crate::catalog::{State, refs};
use crate::error::{Damage, Error, Result, Thing};
use crate::format::catalog::Entry;
use crate::format::manifest::{Content, Extent, Manifest};
use crate::id::{ChunkId, PackId};
use crate::ops::reading::{Buffers, ChunkReader, Unreadable};
use crate::ops::sound;
use crate::parallel::in_order;
use crate::progress::{Progress, Stage};
use crate::session::{Session, pin_if_possible};
use crate::store::Store;

/// What to give back, and where to.
#[derive(Debug, Clone, Default)]
pub struct GetRequest {
    /// Which checkpoint.
    pub reference: String,
    /// Files to give back, as globs over their paths; none means all.
    pub files: Vec<String>,
    /// Whether an existing destination is replaced.
    pub force: bool,
}

/// What a get did.
#[derive(Debug, Clone, PartialEq)]
pub struct GetReport {
    /// The checkpoint.
    pub entry: Entry,
    /// What was written; none when it went to a stream.
    pub path: Option<PathBuf>,
    /// Regular files.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Wall time.
    pub seconds: f64,
}

/// An opened checkpoint: its manifest, and the session that keeps its chunks.
struct Opened {
    entry: Entry,
    manifest: Manifest,
    state: State,
    /// Keeps the checkpoint while it is read; none on a store that can't be written to.
    _session: Option<Session>,
}

/// Chunks handled between two writes to a stream.
const STREAM_BATCH: usize = 16;

/// Gives a checkpoint back as files. A destination that is a directory gets them by their own names, otherwise it becomes
/// the file, if there is one, or the directory.
pub fn get(store: &Store, request: &GetRequest, destination: &Path, progress: &dyn Progress) -> Result<GetReport> {
    let started = Instant::now();
    let opened = open(store, request, progress)?;
    let chosen = choose(&opened, request)?;
    let (target, shape) = aim(&opened.manifest, request, &chosen, destination)?;
    let restore = Restore::begin(&opened.manifest, &chosen, shape, &target, request.force)?;
    let extents: Vec<Extent> = {
        let mut extents: Vec<Extent> = chosen.iter().flat_map(|file| opened.manifest.extents(*file)).collect();
        extents.sort_unstable_by_key(|extent| (extent.chunk, extent.file_at));
        extents
    };
    // One group for each chunk, so that a chunk is decoded once however many files hold it.
    let groups: Vec<&[Extent]> = extents.chunk_by(|a, b| a.chunk == b.chunk).collect();
    let reader = ChunkReader::new(store.backend(), store.id());
    let ids: Vec<ChunkId> = groups.iter().map(|group| opened.manifest.chunk_id(group[0].chunk as usize)).collect();
    let places = reader.places(&ids, store.index(), &opened.state.head, progress)?;
    progress.begin(Stage::Read, extents.iter().map(|extent| u64::from(extent.len)).sum());
    let damaged = in_order(groups.len(), progress, Buffers::new, |buffers, at| {
        let raw_len = opened.manifest.chunk_lens[groups[at][0].chunk as usize];
        match reader.read(ids[at], places[at], raw_len, buffers)? {
            Err(unreadable) => Ok(Some((at, unreadable))),
            Ok(raw) => {
                for extent in groups[at] {
                    let piece = &raw[extent.chunk_at as usize..(extent.chunk_at + extent.len) as usize];
                    restore.write(extent.file, extent.file_at, piece)?;
                    progress.advance(u64::from(extent.len));
                }
                Ok(None)
            }
        }
    })?;
    let damaged: Vec<(usize, Unreadable)> = damaged.into_iter().flatten().collect();
    if !damaged.is_empty() {
        return Err(report_damage(store, &opened, &damaged, &groups, &ids));
    }
    restore.finish()?;
    let report = GetReport {
        path: Some(target),
        files: chosen.iter().filter(|file| is_file(&opened.manifest, **file)).count() as u64,
        bytes: chosen.iter().map(|file| opened.manifest.files[*file as usize].size()).sum(),
        seconds: started.elapsed().as_secs_f64(),
        entry: opened.entry,
    };
    Ok(report)
}

/// Writes the one file that the request chooses to a stream, in order; no byte before its chunk is checked.
pub fn get_stream(
    store: &Store,
    request: &GetRequest,
    to: &mut dyn Write,
    progress: &dyn Progress,
) -> Result<GetReport> {
    let started = Instant::now();
    let opened = open(store, request, progress)?;
    let mut chosen = choose(&opened, request)?;
    chosen.retain(|file| is_file(&opened.manifest, *file));
    let [file] = chosen[..] else {
        return Err(Error::Invalid(format!(
            "{} has {} files to write, and a stream takes one: choose it by its path",
            refs::name_of(&opened.entry),
            chosen.len()
        )));
    };
    let extents = opened.manifest.extents(file);
    let reader = ChunkReader::new(store.backend(), store.id());
    let ids: Vec<ChunkId> = extents.iter().map(|extent| opened.manifest.chunk_id(extent.chunk as usize)).collect();
    let places = reader.places(&ids, store.index(), &opened.state.head, progress)?;
    let size = opened.manifest.files[file as usize].size();
    progress.begin(Stage::Read, size);
    let inline = opened.manifest.inline_pieces(file);
    let mut pieces: Vec<(u64, Vec<u8>)> =
        inline.map(|(at, range)| (at, opened.manifest.inline[range].to_vec())).collect();
    let mut at = 0;
    let broken_pipe = |error| Error::io("write", Path::new("the stream"), error);
    for start in (0..extents.len().max(1)).step_by(STREAM_BATCH) {
        let batch = &extents[start.min(extents.len())..extents.len().min(start + STREAM_BATCH)];
        let decoded = in_order(batch.len(), progress, Buffers::new, |buffers, nr| {
            let extent = batch[nr];
            let raw_len = opened.manifest.chunk_lens[extent.chunk as usize];
            Ok(match reader.read(ids[start + nr], places[start + nr], raw_len, buffers)? {
                Ok(raw) => Ok(raw[extent.chunk_at as usize..(extent.chunk_at + extent.len) as usize].to_vec()),
                Err(unreadable) => Err(unreadable),
            })
        })?;
        for (nr, piece) in decoded.into_iter().enumerate() {
            let piece = piece.map_err(|unreadable| {
                let group = std::slice::from_ref(&batch[nr]);
                report_damage(store, &opened, &[(0, unreadable)], &[group], &[ids[start + nr]])
            })?;
            pieces.push((batch[nr].file_at, piece));
        }
        pieces.sort_unstable_by_key(|(at, _)| *at);
        let ready = pieces.iter().scan(at, |end, (at, piece)| {
            let follows = *at == *end;
            *end += piece.len() as u64;
            Some(follows)
        });
        let ready = ready.take_while(|follows| *follows).count();
        for (_, piece) in pieces.drain(..ready) {
            to.write_all(&piece).map_err(broken_pipe)?;
            at += piece.len() as u64;
            progress.advance(piece.len() as u64);
        }
    }
    to.flush().map_err(broken_pipe)?;
    Ok(GetReport { entry: opened.entry, path: None, files: 1, bytes: size, seconds: started.elapsed().as_secs_f64() })
}

fn open(store: &Store, request: &GetRequest, progress: &dyn Progress) -> Result<Opened> {
    // The session and its pin come before HEAD is read for good, so that gc either sees the pin or this get sees that the
    // checkpoint is gone.
    let session = match Session::register(store.root(), "get") {
        Ok(session) => Some(session),
        // Where nobody can write, nobody can delete.
        Err(Error::Unavailable { .. } | Error::NoSpace { .. }) => None,
        Err(error) => return Err(error),
    };
    let reference = sound::settle(store, &request.reference, progress)?;
    let entry = refs::resolve(&State::load(store.backend())?, &reference)?.clone();
    let session = pin_if_possible(session, [entry.id])?;
    let state = State::load(store.backend())?;
    if state.entry(entry.id).is_none() {
        return Err(Error::NotFound { thing: Thing::Checkpoint, name: request.reference.clone(), near: Vec::new() });
    }
    let manifest = store.manifest(entry.id)?;
    Ok(Opened { entry, manifest, state, _session: session })
}

fn is_file(manifest: &Manifest, file: u32) -> bool {
    matches!(manifest.files[file as usize].content, Content::File { .. })
}

/// The members that the request wants; without globs all, otherwise the files that match and the directories they are in.
fn choose(opened: &Opened, request: &GetRequest) -> Result<Vec<u32>> {
    let files = &opened.manifest.files;
    if request.files.is_empty() {
        return Ok((0..files.len() as u32).collect());
    }
    let globs = globs(&request.files)?;
    let mut parents = BTreeSet::new();
    let mut matched = BTreeSet::new();
    for (at, file) in files.iter().enumerate() {
        let path = Path::new(OsStr::from_bytes(&file.path));
        if !matches!(file.content, Content::Directory) && globs.is_match(path) {
            matched.insert(at as u32);
            parents.extend(path.ancestors().skip(1).map(|parent| parent.as_os_str().as_bytes().to_vec()));
        }
    }
    if matched.is_empty() {
        let near = files.iter().filter(|file| file.size() > 0).take(3);
        return Err(Error::NotFound {
            thing: Thing::File,
            name: format!("{} in {}", request.files.join(", "), refs::name_of(&opened.entry)),
            near: near.map(|file| String::from_utf8_lossy(&file.path).into_owned()).collect(),
        });
    }
    if matched.len() > 1 {
        matched.extend((0..files.len() as u32).filter(|at| parents.contains(&files[*at as usize].path[..])));
    }
    Ok(matched.into_iter().collect())
}

fn globs(patterns: &[String]) -> Result<GlobSet> {
    let mut set = GlobSetBuilder::new();
    for pattern in patterns {
        let glob = |pattern: &str| {
            let built = GlobBuilder::new(pattern).build();
            built.map_err(|error| Error::Invalid(format!("{pattern:?} is no glob: {}", error.kind())))
        };
        set.add(glob(pattern)?);
        // `--file config.json` finds it in any directory, as a bare name does in .gitignore.
        if !pattern.contains('/') {
            set.add(glob(&format!("**/{pattern}"))?);
        }
    }
    set.build().map_err(|error| Error::Invalid(error.to_string()))
}

/// Whether the target becomes a file and not a directory: one file was stored, or one was asked for.
fn is_single(manifest: &Manifest, request: &GetRequest, chosen: &[u32]) -> bool {
    let only_file = matches!(chosen, [only] if !matches!(manifest.files[*only as usize].content, Content::Directory));
    only_file && (manifest.root.is_none() || !request.files.is_empty())
}

/// Where things go, as with `cp -r`, and what they become there.
fn aim(manifest: &Manifest, request: &GetRequest, chosen: &[u32], destination: &Path) -> Result<(PathBuf, Shape)> {
    let into = destination.is_dir();
    if is_single(manifest, request, chosen) {
        let name = Path::new(OsStr::from_bytes(&manifest.files[chosen[0] as usize].path)).file_name();
        if !into && destination.as_os_str().as_bytes().ends_with(b"/") {
            let name = destination.display().to_string();
            return Err(Error::NotFound { thing: Thing::Destination, name, near: Vec::new() });
        }
        return Ok((
            name.filter(|_| into).map_or_else(|| destination.to_owned(), |name| destination.join(name)),
            Shape::File,
        ));
    }
    Ok(match &manifest.root {
        Some(root) if into => (destination.join(OsStr::from_bytes(root)), Shape::Tree),
        None if into => (destination.to_owned(), Shape::Members),
        _ => (destination.to_owned(), Shape::Tree),
    })
}

/// Names what the damaged chunks belong to, and sets them aside so that storing the same bytes again heals them.
fn report_damage(
    store: &Store,
    opened: &Opened,
    damaged: &[(usize, Unreadable)],
    groups: &[&[Extent]],
    ids: &[ChunkId],
) -> Error {
    let aside: Vec<(ChunkId, PackId)> =
        damaged.iter().filter_map(|(at, unreadable)| unreadable.pack.map(|pack| (ids[*at], pack))).collect();
    // Best effort: it only decides whether the next put of these bytes already heals them.
    let _ = store.index().set_aside(&aside);
    let mut places = Vec::new();
    for (at, unreadable) in damaged {
        for extent in groups[*at] {
            let file = &opened.manifest.files[extent.file as usize];
            places.push(Damage {
                checkpoint: refs::name_of(&opened.entry),
                file: String::from_utf8_lossy(&file.path).into_owned(),
                tensor: file.tensor_at(extent.file_at),
                chunk: ids[*at],
                pack: unreadable.pack,
                reason: unreadable.reason.clone(),
            });
        }
    }
    Error::Damaged(places)
}
