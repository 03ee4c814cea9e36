//! Compares what is stored with a source, byte by byte: every chunk is read back and checked on the way, so that one pass both
//! verifies the stored copy and says whether the source is still the same. Never changes either.
//!
//! Bytes and not chunk ids are compared: a later version may cut the same file elsewhere, and what decides about removing a
//! file is that the store gives back those very bytes.

use std::collections::HashMap;
use std::fs;
use std::path::Path;

use crate::catalog::{State, refs};
use crate::error::{Damage, Error, Result};
use crate::format::catalog::Entry;
use crate::format::manifest::{Content, Extent, Manifest};
use crate::id::{ChunkId, PackId};
use crate::limits::CHUNK_BYTES_MAX;
use crate::ops::put::gather::{Gathered, MemberKind, gather};
use crate::ops::put::source::{Identity, SourceFile};
use crate::ops::reading::{Buffers, ChunkReader, Unreadable};
use crate::parallel::in_order;
use crate::progress::{Progress, Stage};
use crate::session::Session;
use crate::split::Source;
use crate::store::Store;

/// How much of a checkpoint has to be there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Extend {
    /// All of it.
    Whole,
    /// What is left of a tree that is being removed.
    Rest,
}

/// What a comparison found.
pub enum Verdict {
    /// The store gives back exactly what is there.
    Same(Seen),
    /// Something is different: what.
    Other(String),
}

/// A source as it was while it was compared, so that what is removed is that and nothing else.
pub struct Seen {
    /// Members by their paths in the tree; one file has the empty path.
    pub members: HashMap<Vec<u8>, Thing>,
}

/// A member of a compared source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Thing {
    /// A regular file.
    File(Identity),
    /// A directory.
    Directory,
    /// A link and its target.
    Link(Vec<u8>),
}

/// Says whether what lies at `path` could be the checkpoint of this manifest, by names, kinds, sizes and, if `times`, times of
/// the last change. Reads no content.
pub fn looks_same(
    manifest: &Manifest,
    gathered: &Gathered,
    extend: Extend,
    times: bool,
) -> std::result::Result<(), String> {
    pair(manifest, gathered, extend, times).map(drop)
}

/// Compares what lies at `path`, which is no link, with a checkpoint that `session` keeps from gc.
///
/// # Errors
/// [`Error::Damaged`] when the stored copy can't be read; those of reading the source.
pub fn compare(
    store: &Store,
    session: &Session,
    entry: &Entry,
    path: &Path,
    extend: Extend,
    progress: &dyn Progress,
) -> Result<Verdict> {
    session.pin(entry.id)?;
    let state = State::load(store.backend())?;
    if state.entry(entry.id).is_none() {
        return Ok(Verdict::Other("its checkpoint was dropped meanwhile".into()));
    }
    if fs::symlink_metadata(path).map_err(|error| Error::io("read", path, error))?.is_symlink() {
        return Ok(Verdict::Other("it is a link".into()));
    }
    let manifest = store.manifest(entry.id)?;
    let gathered = gather(&[path.to_owned()], store.root())?;
    let pairs = match pair(&manifest, &gathered, extend, false) {
        Ok(pairs) => pairs,
        Err(difference) => return Ok(Verdict::Other(difference)),
    };
    match compare_bytes(store, entry, &state, &manifest, &pairs, progress) {
        Ok(()) => {}
        Err(Error::Changed { what, .. }) => return Ok(Verdict::Other(what)),
        Err(error) => return Err(error),
    }
    let is_tree = gathered.root.is_some();
    let mut members = HashMap::new();
    for member in &gathered.members {
        let thing = match &member.kind {
            MemberKind::File(source) => match source.check_unchanged() {
                Ok(()) => {
                    let identity = source.identity();
                    Thing::File(identity.ok_or_else(|| Error::Internal("a file of a path is not on the disk".into()))?)
                }
                Err(Error::Changed { what, .. }) => return Ok(Verdict::Other(what)),
                Err(error) => return Err(error),
            },
            MemberKind::Directory => Thing::Directory,
            MemberKind::Link(target) => Thing::Link(target.clone()),
        };
        members.insert(if is_tree { member.path.clone() } else { Vec::new() }, thing);
    }
    if is_tree {
        members.insert(Vec::new(), Thing::Directory);
    }
    Ok(Verdict::Same(Seen { members }))
}

/// Regular files of the source with their places in the manifest.
type Pairs<'a> = HashMap<u32, &'a SourceFile>;

/// Pairs the members of a source with those of a manifest, or says what differs.
fn pair<'a>(
    manifest: &Manifest,
    gathered: &'a Gathered,
    extend: Extend,
    times: bool,
) -> std::result::Result<Pairs<'a>, String> {
    if manifest.root.is_some() != gathered.root.is_some() {
        return Err("one is a file and one a directory".into());
    }
    let is_tree = manifest.root.is_some();
    if extend == Extend::Whole || !is_tree {
        let (stored, here) = (manifest.files.len(), gathered.members.len());
        if stored != here {
            return Err(format!("it has {here} members, and {stored} are stored"));
        }
    }
    let by_path: HashMap<&[u8], u32> = manifest.files.iter().zip(0..).map(|(file, at)| (&file.path[..], at)).collect();
    let mut pairs = Pairs::new();
    for member in &gathered.members {
        let name = String::from_utf8_lossy(&member.path);
        // A single file may have been renamed; it is its bytes that count.
        let at = if is_tree { by_path.get(&member.path[..]).copied() } else { Some(0) };
        let at = at.ok_or_else(|| format!("{name:?} is not stored"))?;
        let stored = &manifest.files[at as usize];
        let same = match (&member.kind, &stored.content) {
            (MemberKind::Directory, Content::Directory) => true,
            (MemberKind::Link(here), Content::Link { target }) => here == &target[..],
            (MemberKind::File(source), Content::File { size, .. }) => {
                if source.size() != *size {
                    return Err(format!("{name:?} has {} bytes, and {size} are stored", source.size()));
                }
                pairs.insert(at, source);
                !times || member.mtime_ms == stored.mtime_ms
            }
            _ => false,
        };
        if !same {
            return Err(format!("{name:?} is not what is stored"));
        }
    }
    Ok(pairs)
}

fn compare_bytes(
    store: &Store,
    entry: &Entry,
    state: &State,
    manifest: &Manifest,
    pairs: &Pairs<'_>,
    progress: &dyn Progress,
) -> Result<()> {
    let check = |buf: &mut [u8], file: u32, at: u64, stored: &[u8]| {
        let source = pairs.get(&file).ok_or_else(|| Error::Internal("an extent is of no file".into()))?;
        let buf = buf.get_mut(..stored.len()).ok_or_else(|| Error::Internal("an extent is too long".into()))?;
        source.read_exact_at(buf, at).map_err(|error| source.read_error(error))?;
        if buf == stored { Ok(()) } else { Err(source.changed("its bytes are not those that are stored")) }
    };
    let mut extents: Vec<Extent> = pairs.keys().flat_map(|file| manifest.extents(*file)).collect();
    extents.sort_unstable_by_key(|extent| (extent.chunk, extent.file, extent.file_at));
    let groups: Vec<&[Extent]> = extents.chunk_by(|a, b| a.chunk == b.chunk).collect();
    let ids: Vec<ChunkId> = groups.iter().map(|group| manifest.chunk_id(group[0].chunk as usize)).collect();
    let reader = ChunkReader::new(store.backend(), store.id());
    let places = reader.places(&ids, store.index(), &state.head, progress)?;
    progress.begin(Stage::Verify, extents.iter().map(|extent| u64::from(extent.len)).sum());
    let unreadable = in_order(
        groups.len(),
        progress,
        || (Buffers::new(), vec![0; CHUNK_BYTES_MAX]),
        |(buffers, buf), at| {
            let raw_len = manifest.chunk_lens[groups[at][0].chunk as usize];
            let raw = match reader.read(ids[at], places[at], raw_len, buffers)? {
                Ok(raw) => raw,
                Err(unreadable) => return Ok(Some((at, unreadable))),
            };
            for extent in groups[at] {
                let piece = &raw[extent.chunk_at as usize..(extent.chunk_at + extent.len) as usize];
                check(buf, extent.file, extent.file_at, piece)?;
                progress.advance(u64::from(extent.len));
            }
            Ok(None)
        },
    )?;
    let unreadable: Vec<(usize, Unreadable)> = unreadable.into_iter().flatten().collect();
    if !unreadable.is_empty() {
        return Err(damage(store, entry, manifest, &unreadable, &groups, &ids));
    }
    let mut buf = vec![0; manifest.inline.len()];
    for file in pairs.keys() {
        for (at, range) in manifest.inline_pieces(*file) {
            check(&mut buf, *file, at, &manifest.inline[range])?;
        }
    }
    Ok(())
}

/// Names what the damaged chunks belong to, and sets them aside so that storing the same bytes again heals them.
fn damage(
    store: &Store,
    entry: &Entry,
    manifest: &Manifest,
    unreadable: &[(usize, Unreadable)],
    groups: &[&[Extent]],
    ids: &[ChunkId],
) -> Error {
    let aside: Vec<(ChunkId, PackId)> =
        unreadable.iter().filter_map(|(at, unreadable)| unreadable.pack.map(|pack| (ids[*at], pack))).collect();
    // Best effort: it only decides whether the next put of these bytes already heals them.
    let _ = store.index().set_aside(&aside);
    let of_group = |(at, unreadable): &(usize, Unreadable)| {
        let extent = groups[*at][0];
        let file = &manifest.files[extent.file as usize];
        Damage {
            checkpoint: refs::name_of(entry),
            file: String::from_utf8_lossy(&file.path).into_owned(),
            tensor: file.tensor_at(extent.file_at),
            chunk: ids[*at],
            pack: unreadable.pack,
            reason: unreadable.reason.clone(),
        }
    };
    Error::Damaged(unreadable.iter().map(of_group).collect())
}
