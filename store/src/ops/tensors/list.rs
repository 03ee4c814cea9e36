//! The tensors of one checkpoint beside those of its run: what changed since the one before, and which others have the same.
//! Reads chunks only of small tensors that share one, and of those only what the chunks' ids don't answer.

use std::collections::{HashMap, HashSet};

use rayon::prelude::*;

use super::{Identity, Named, identities, named};
use crate::catalog::State;
use crate::error::Result;
use crate::format::catalog::Entry;
use crate::format::manifest::Manifest;
use crate::format::tensors::{FileMap, Piece};
use crate::limits::{SHARED_LOOKS_MAX, SINCE_READ_BYTES_MAX};
use crate::ops::opened::{Opened, Pinned};
use crate::ops::stream::{Reader, Span};
use crate::progress::Progress;
use crate::store::Store;

/// What became of a tensor since the checkpoint before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Since {
    /// It has the same elements.
    Same,
    /// It has others.
    Changed,
    /// It has another type or shape.
    Reshaped,
    /// The one before has no tensor of this name.
    New,
}

/// A tensor of a checkpoint.
#[derive(Debug, Clone, PartialEq)]
pub struct ListedTensor {
    /// Its name, distinct in the checkpoint.
    pub name: String,
    /// Which file of the manifest it is in; in each they stand as [`crate::File::tensors`] has them.
    pub file: u32,
    /// What became of it; none when there is no checkpoint before, when that can't be read, and when only reading more than
    /// [`SINCE_READ_BYTES_MAX`] could tell: then at least a small tensor beside it in its chunk changed.
    pub since: Option<Since>,
    /// Which of [`TensorList::others`] have a tensor of the same elements.
    pub shared_with: Vec<usize>,
}

/// The tensors of a checkpoint, and those it was compared with.
#[derive(Debug, Clone, PartialEq)]
pub struct TensorList {
    /// In the order of the manifest.
    pub tensors: Vec<ListedTensor>,
    /// The checkpoint of the run that was stored before.
    pub previous: Option<Entry>,
    /// The checkpoints of the run that were looked at: the nearest ones, in the order stored.
    pub others: Vec<Entry>,
    /// Checkpoints of the run besides this one.
    pub others_total: usize,
}

/// Lists the tensors of a checkpoint.
pub fn list(store: &Store, reference: &str, progress: &dyn Progress) -> Result<TensorList> {
    let (opened, pinned) = Opened::by_ref(store, "show", reference, progress)?;
    let (ids, others_total) = nearest(&pinned.state, &opened.entry);
    let beside = Pinned::new(store, "show", |_| Ok(ids.iter().map(|entry| entry.id).collect()))?;
    // One that was dropped meanwhile, or is damaged, has nothing to say here.
    let open = |entry: &Entry| Opened::of(store, beside.state.entry(entry.id)?.clone()).ok();
    let others: Vec<Opened> = ids.par_iter().filter_map(open).collect();
    let mine = named(&opened.manifest);
    let my_identities = identities(&opened.manifest);
    let sets: Vec<HashSet<Identity>> = others.par_iter().map(|other| set_of(&other.manifest)).collect();
    let previous = others.iter().rfind(|other| is_before(&pinned.state, &other.entry, &opened.entry));
    let since = match previous {
        Some(previous) => {
            let mut reader = Reader::new(store, &beside.state);
            compare(&mut reader, &opened, &mine, &my_identities, previous, progress)?
        }
        None => vec![None; mine.len()],
    };
    let tensors = mine.iter().zip(&my_identities).zip(since).map(|((named, identity), since)| ListedTensor {
        name: named.name.clone(),
        file: named.file,
        since,
        shared_with: (0..sets.len()).filter(|at| sets[*at].contains(identity)).collect(),
    });
    Ok(TensorList {
        tensors: tensors.collect(),
        previous: previous.map(|previous| previous.entry.clone()),
        others: others.iter().map(|other| other.entry.clone()).collect(),
        others_total,
    })
}

/// The checkpoints of the run that were stored next before and after, and how many it has besides this one.
fn nearest(state: &State, entry: &Entry) -> (Vec<Entry>, usize) {
    let run: Vec<&Entry> = state.entries.iter().filter(|other| other.run == entry.run).collect();
    let Some(at) = run.iter().position(|other| other.id == entry.id) else { return (Vec::new(), 0) };
    let room = SHARED_LOOKS_MAX;
    // Half of them on either side, unless one side has fewer.
    let after = (run.len() - at - 1).min(room.saturating_sub(at.min(room / 2)));
    let before = at.min(room - after);
    let near = run[at - before..=at + after].iter().filter(|other| other.id != entry.id);
    (near.map(|other| (*other).clone()).collect(), run.len() - 1)
}

fn is_before(state: &State, a: &Entry, b: &Entry) -> bool {
    let place = |entry: &Entry| state.entries.iter().position(|other| other.id == entry.id);
    place(a).zip(place(b)).is_some_and(|(a, b)| a < b)
}

fn maps(manifest: &Manifest) -> Vec<FileMap<'_>> {
    (0..manifest.files.len() as u32).map(|file| manifest.map(file)).collect()
}

fn set_of(manifest: &Manifest) -> HashSet<Identity> {
    identities(manifest).into_iter().collect()
}

/// What became of each tensor of `opened` since `previous`.
fn compare(
    reader: &mut Reader<'_>,
    opened: &Opened,
    mine: &[Named<'_>],
    my_identities: &[Identity],
    previous: &Opened,
    progress: &dyn Progress,
) -> Result<Vec<Option<Since>>> {
    let theirs = named(&previous.manifest);
    let their_identities = identities(&previous.manifest);
    let by_name: HashMap<&str, usize> = theirs.iter().enumerate().map(|(at, named)| (&*named.name, at)).collect();
    let (my_maps, their_maps) = (maps(&opened.manifest), maps(&previous.manifest));
    let pieces = |maps: &[FileMap<'_>], span: Span| maps[span.file as usize].pieces(span.offset, span.len);
    let mut since = Vec::with_capacity(mine.len());
    let mut unknown = Vec::new();
    for (at, (named, identity)) in mine.iter().zip(my_identities).enumerate() {
        let Some(their) = by_name.get(&*named.name).copied() else {
            since.push(Some(Since::New));
            continue;
        };
        let (a, b) = (named.tensor, theirs[their].tensor);
        since.push(if their_identities[their] == *identity {
            Some(Since::Same)
        } else if (a.dtype, a.shape) != (b.dtype, b.shape) {
            Some(Since::Reshaped)
        } else if a.strides == b.strides
            && !differ(
                (&opened.manifest, &pieces(&my_maps, named.span())),
                (&previous.manifest, &pieces(&their_maps, theirs[their].span())),
            )
        {
            unknown.push((at, their));
            None
        } else {
            Some(Since::Changed)
        });
    }
    let to_read: u64 = unknown.iter().map(|(at, _)| mine[*at].tensor.len).sum();
    if unknown.is_empty() || to_read > SINCE_READ_BYTES_MAX {
        return Ok(since);
    }
    let my_hashes = hashes(reader, opened, unknown.iter().map(|(at, _)| mine[*at].span()).collect(), progress);
    let their_hashes = hashes(reader, previous, unknown.iter().map(|(_, at)| theirs[*at].span()).collect(), progress);
    match (my_hashes, their_hashes) {
        (Ok(mine), Ok(theirs)) => {
            for ((at, _), (a, b)) in unknown.into_iter().zip(mine.into_iter().zip(theirs)) {
                since[at] = Some(if a == b { Since::Same } else { Since::Changed });
            }
        }
        // Damage is what verify is for; here it only leaves a question open.
        (Err(crate::Error::Damaged(_)), _) | (_, Err(crate::Error::Damaged(_))) => {}
        (Err(error), _) | (_, Err(error)) => return Err(error),
    }
    Ok(since)
}

/// Whether the chunks alone show that two tensors differ: in one place each has a whole chunk, of one length, and another.
fn differ(mine: (&Manifest, &[Piece]), theirs: (&Manifest, &[Piece])) -> bool {
    let whole = |manifest: &Manifest, piece: &Piece| match *piece {
        Piece::Chunk { chunk, at: 0, len } if manifest.chunk_lens[chunk as usize] == len => {
            Some((manifest.chunk_id(chunk as usize), len))
        }
        _ => None,
    };
    for (my_piece, their_piece) in mine.1.iter().zip(theirs.1) {
        match (whole(mine.0, my_piece), whole(theirs.0, their_piece)) {
            (Some((a, a_len)), Some((b, b_len))) if a_len == b_len => {
                if a != b {
                    return true;
                }
            }
            // From here on the pieces may not stand side by side.
            _ => return false,
        }
    }
    false
}

fn hashes(
    reader: &mut Reader<'_>,
    opened: &Opened,
    spans: Vec<Span>,
    progress: &dyn Progress,
) -> Result<Vec<blake3::Hash>> {
    let mut hashers = vec![blake3::Hasher::new(); spans.len()];
    reader.stream(opened, &spans, progress, &mut |span, bytes| {
        hashers[span].update(bytes);
        Ok(())
    })?;
    Ok(hashers.iter().map(blake3::Hasher::finalize).collect())
}
