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
use crate::catalog::refs;
use crate::error::{Error, Result, Thing};
use crate::format::catalog::Entry;
use crate::format::manifest::{Content, Extent, Manifest};
use crate::id::ChunkId;
use crate::ops::opened::Opened;
use crate::ops::reading::{Buffers, ChunkReader, Unreadable};
use crate::ops::stream::{Reader, Span};
use crate::parallel::in_order;
use crate::progress::{Progress, Stage};
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

/// Gives a checkpoint back as files. A destination that is a directory gets them by their own names, otherwise it becomes
/// the file, if there is one, or the directory.
pub fn get(store: &Store, request: &GetRequest, destination: &Path, progress: &dyn Progress) -> Result<GetReport> {
    let started = Instant::now();
    let (opened, pinned) = Opened::by_ref(store, "get", &request.reference, progress)?;
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
    let places = reader.places(&ids, store.index(), &pinned.state.head, progress)?;
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
        let damaged = damaged.iter().flat_map(|(at, unreadable)| {
            let id = ids[*at];
            groups[*at].iter().map(move |extent| (extent.file, extent.file_at, id, unreadable))
        });
        return Err(opened.damage(store, damaged));
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
    let (opened, pinned) = Opened::by_ref(store, "get", &request.reference, progress)?;
    let mut chosen = choose(&opened, request)?;
    chosen.retain(|file| is_file(&opened.manifest, *file));
    let [file] = chosen[..] else {
        return Err(Error::Invalid(format!(
            "{} has {} files to write, and a stream takes one: choose it by its path",
            refs::name_of(&opened.entry),
            chosen.len()
        )));
    };
    let size = opened.manifest.files[file as usize].size();
    let broken_pipe = |error| Error::io("write", Path::new("the stream"), error);
    progress.begin(Stage::Read, size);
    let span = Span { file, offset: 0, len: size };
    Reader::new(store, &pinned.state).stream(&opened, &[span], progress, &mut |_, bytes| {
        to.write_all(bytes).map_err(broken_pipe)?;
        progress.advance(bytes.len() as u64);
        Ok(())
    })?;
    to.flush().map_err(broken_pipe)?;
    Ok(GetReport { entry: opened.entry, path: None, files: 1, bytes: size, seconds: started.elapsed().as_secs_f64() })
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
    let globs = path_globs(&request.files)?;
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

/// Globs over paths as one.
pub fn path_globs(patterns: &[String]) -> Result<GlobSet> {
    // `--file config.json` finds it in any directory, as a bare name does in .gitignore.
    let anywhere = patterns.iter().filter(|pattern| !pattern.contains('/')).map(|pattern| format!("**/{pattern}"));
    name_globs(patterns.iter().cloned().chain(anywhere))
}

/// Globs over names as one.
pub fn name_globs(patterns: impl IntoIterator<Item = String>) -> Result<GlobSet> {
    let mut set = GlobSetBuilder::new();
    for pattern in patterns {
        let built = GlobBuilder::new(&pattern).build();
        set.add(built.map_err(|error| Error::Invalid(format!("{pattern:?} is no glob: {}", error.kind())))?);
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
