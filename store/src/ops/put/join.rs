//! Makes one description of what this process stored and of the parts that others prepared. Never reads or stores a chunk.

use std::collections::{BTreeMap, BTreeSet};

use serde_bytes::ByteBuf;

use super::material::Material;
use super::settle_packs;
use super::splitting::Names;
use crate::backend::{Backend, Key};
use crate::catalog::{Draft, State};
use crate::error::{Error, Result};
use crate::format::manifest::{Content, File, Manifest, Segment, Tensor, View};
use crate::format::part::Part;
use crate::id::PackId;
use crate::split::{self, Format, Kind, Placement, Split};

/// Bytes that parts have in a manifest for each chunk and each member, segment or view; more than these take once packed.
const CHUNK_BYTES: u64 = 32 + 5;
const DESCRIPTION_BYTES: u64 = 64;

/// The most bytes that parts add to a manifest.
pub fn described_bytes(parts: &[Part]) -> u64 {
    let described = |file: &File| {
        let ranges = match &file.content {
            Content::File { segments, views, .. } => segments.len() + views.len(),
            _ => 0,
        };
        file.path.len() as u64 + DESCRIPTION_BYTES * (1 + ranges as u64)
    };
    let of = |part: &Part| {
        part.manifest.chunk_count() as u64 * CHUNK_BYTES + part.manifest.files.iter().map(described).sum::<u64>()
    };
    parts.iter().map(of).sum()
}

/// Adds parts to the description of the material that was laid out with them. `has_name` says that the root's name is decided.
pub fn join(manifest: &mut Manifest, parts: &[Part], material: &Material, has_name: bool) -> Result<()> {
    if parts.is_empty() {
        return Ok(());
    }
    if !has_name {
        manifest.root = common_root(manifest, parts, material.is_empty())?;
    }
    let own_lens = manifest.chunk_lens.clone();
    let mut files: BTreeMap<ByteBuf, File> =
        std::mem::take(&mut manifest.files).into_iter().map(|file| (file.path.clone(), file)).collect();
    for (nr, part) in parts.iter().enumerate() {
        let shift = u32::try_from(manifest.chunk_lens.len() + part.manifest.chunk_count())
            .map_err(|_| Error::Invalid("its parts have more chunks than a checkpoint can".into()))?
            - part.manifest.chunk_count() as u32;
        manifest.chunk_ids.extend_from_slice(&part.manifest.chunk_ids);
        manifest.chunk_lens.extend_from_slice(&part.manifest.chunk_lens);
        let literals = material.literal_place(nr);
        for file in &part.manifest.files {
            let mut file = file.clone();
            if let Content::File { segments, .. } = &mut file.content {
                for segment in segments.iter_mut() {
                    (segment.1, segment.2) = match segment.1 {
                        Some(chunk) => (Some(chunk + shift), segment.2),
                        None => moved(literals, segment.2, &own_lens)?,
                    };
                }
            }
            name(&mut file, &material.names);
            let is_directory = matches!(file.content, Content::Directory);
            match files.get(&file.path).map(|other| matches!(other.content, Content::Directory)) {
                None => drop(files.insert(file.path.clone(), file)),
                Some(true) if is_directory => {}
                Some(_) => {
                    let path = String::from_utf8_lossy(&file.path);
                    return Err(Error::Invalid(format!("two parts of the checkpoint have a member {path:?}")));
                }
            }
        }
    }
    manifest.files = files.into_values().collect();
    Ok(())
}

/// The name of the directory that all are in.
fn common_root(own: &Manifest, parts: &[Part], own_is_empty: bool) -> Result<Option<ByteBuf>> {
    let own = Some(&own.root).filter(|_| !own_is_empty);
    let roots: BTreeSet<&Option<ByteBuf>> =
        own.into_iter().chain(parts.iter().map(|part| &part.manifest.root)).collect();
    match roots.len() {
        0 | 1 => Ok(roots.into_iter().next().cloned().flatten()),
        _ => Err(Error::Invalid("the parts are of several directories; say what theirs is called".into())),
    }
}

/// Where the byte `at` of a part's inline literals is now, given where they begin.
fn moved(begin: Option<Placement>, at: u32, lens: &[u32]) -> Result<(Option<u32>, u32)> {
    match begin {
        Some(Placement::Inline { at: first }) => Ok((None, first + at)),
        Some(Placement::Chunks { mut chunk, at: first }) => {
            let mut at = first + at;
            while let Some(len) = lens.get(chunk as usize) {
                if at < *len {
                    return Ok((Some(chunk), at));
                }
                at -= len;
                chunk += 1;
            }
            Err(Error::Internal("a part's literals are in no chunk".into()))
        }
        None => Err(Error::Internal("a part's literals were not laid out".into())),
    }
}

/// Gives the tensors of a file the names that metadata of this process has for them.
fn name(file: &mut File, names: &Names) {
    let Content::File { format, segments, views, .. } = &mut file.content else { return };
    if *format != Format::TorchZip.to_string() {
        return;
    }
    for (folder, names) in names {
        let Some(Ok(path)) = file.path.strip_prefix(&folder[..]).map(str::from_utf8) else { continue };
        let mut split = Split {
            format: Format::TorchZip,
            segments: segments.iter().map(segment_of).collect(),
            views: views.iter().map(view_of).collect(),
        };
        names.apply(path, &mut split);
        for (segment, split) in segments.iter_mut().zip(split.segments) {
            if let (Some(tensor), Kind::Tensor { name, .. }) = (&mut segment.3, split.kind) {
                tensor.0 = name;
            }
        }
        for (view, split) in views.iter_mut().zip(split.views) {
            view.0 = split.name;
        }
    }
}

/// A segment as its splitter made it, as far as names depend on that.
fn segment_of(Segment(len, _, _, tensor): &Segment) -> split::Segment {
    let kind = match tensor {
        Some(Tensor(name, _, shape)) => Kind::Tensor { name: name.clone(), dtype: None, shape: shape.clone() },
        None => Kind::Literal,
    };
    split::Segment { len: *len, kind }
}

/// A view, likewise.
fn view_of(View(name, _, shape, _, offset, len): &View) -> split::View {
    let (name, shape) = (name.clone(), shape.clone());
    split::View { name, dtype: None, shape, strides: None, offset: *offset, len: *len }
}

/// Makes sure that what parts rely on stays, as [`settle_packs`] does; but their chunks can't be stored again here.
pub fn settle(backend: &dyn Backend, parts: &[Part], now: &State, draft: &mut Draft) -> Result<()> {
    let mut lost: BTreeSet<PackId> = BTreeSet::new();
    for part in parts {
        lost.extend(settle_packs(backend, part.epoch, now, draft, &part.packs)?);
        // Few, and looked at whatever the epoch says: a store that was put back from a copy has the same epoch without them.
        for pack in &part.written {
            if backend.open(Key::Pack(*pack))?.is_none() {
                lost.insert(*pack);
            }
        }
    }
    if lost.is_empty() {
        return Ok(());
    }
    Err(Error::Busy(format!(
        "{} packs of parts of the checkpoint were collected before it was committed, for who prepared them had ended; save it again",
        lost.len()
    )))
}
