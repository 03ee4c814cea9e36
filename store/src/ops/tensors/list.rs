//! The tensors of one checkpoint beside those of its run: what changed since the one before, and which others have the
//! same. Reads chunks only of small tensors that share one, and of those only what the chunks' ids don't answer.

use std::collections::{HashMap, HashSet};

use rayon::prelude::*;

use super::{Identity, Named, identities, named};
use crate::catalog::State;
use crate::error::Result;
use crate::format::catalog::Entry;
use crate::format::manifest::Manifest;
use crate::format::tensors::{FileMap, Piece, TensorRef};
use crate::id::ChunkId;
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
    /// What became of it; none when there is no checkpoint before, when that can't be read, and when only reading more
    /// than [`SINCE_READ_BYTES_MAX`] could tell: then at least a small tensor beside it in its chunk changed.
    pub since: Option<Since>,
    /// Which of [`TensorList::others`] have a tensor of the same elements; none when only reading more than
    /// [`SINCE_READ_BYTES_MAX`] could tell.
    pub shared_with: Option<Vec<usize>>,
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
    let beside = Pinned::of(store, "show", ids.iter().map(|entry| entry.id))?;
    // One that was dropped meanwhile, or is damaged, has nothing to say here.
    let open = |entry: &Entry| Opened::of(store, beside.state.entry(entry.id)?.clone()).ok();
    let others: Vec<Opened> = ids.par_iter().filter_map(open).collect();
    let previous = others.iter().rposition(|other| is_before(&pinned.state, &other.entry, &opened.entry));
    let mine = Side::of(&opened);
    let sets: Vec<HashSet<Identity>> =
        others.par_iter().map(|other| identities(&other.manifest).into_iter().collect()).collect();
    let small = mine.small();
    let mut reader = Reader::new(store, &beside.state);
    let readable = readable(small.values().sum(), others.len(), previous);
    let my_elements =
        if readable.is_empty() { Elements::new() } else { elements(&mut reader, &mine, &small, progress)? };
    let mut their_elements = HashMap::new();
    for at in &readable {
        their_elements.insert(*at, elements(&mut reader, &Side::of(&others[*at]), &small, progress)?);
    }
    let has_same = |at: usize, name: &str| {
        let theirs = their_elements.get(&at).and_then(|theirs| theirs.get(name));
        theirs.is_some() && theirs == my_elements.get(name)
    };
    let since = match previous {
        Some(previous) => mine.since(&Side::of(&others[previous]), |name| {
            their_elements.contains_key(&previous).then(|| has_same(previous, name))
        }),
        None => vec![None; mine.named.len()],
    };
    let shared_with = |named: &Named<'_>, identity: &Identity| {
        let is_known = !small.contains_key(&*named.name) || readable.len() == others.len();
        let same = |at: &usize| sets[*at].contains(identity) || has_same(*at, &named.name);
        is_known.then(|| (0..sets.len()).filter(same).collect())
    };
    let tensors = mine.named.iter().zip(&mine.identities).zip(since).map(|((named, identity), since)| ListedTensor {
        name: named.name.clone(),
        file: named.file,
        since,
        shared_with: shared_with(named, identity),
    });
    Ok(TensorList {
        tensors: tensors.collect(),
        previous: previous.map(|previous| others[previous].entry.clone()),
        others: others.iter().map(|other| other.entry.clone()).collect(),
        others_total,
    })
}

/// Hashes of small tensors' elements, by their names.
type Elements = HashMap<String, blake3::Hash>;

/// Which of the other checkpoints the small tensors are read of, so many bytes of each: all, or the one before, or
/// none.
fn readable(bytes: u64, others: usize, previous: Option<usize>) -> Vec<usize> {
    let fit = |checkpoints: usize| bytes.saturating_mul(checkpoints as u64) <= SINCE_READ_BYTES_MAX;
    match previous {
        _ if fit(others + 1) => (0..others).collect(),
        Some(previous) if fit(2) => vec![previous],
        _ => Vec::new(),
    }
}

/// Reads those tensors of a checkpoint that have these names and lengths. Of one that is damaged it answers none: that
/// is for verify to tell, and here only leaves a question open.
fn elements(
    reader: &mut Reader<'_>,
    side: &Side<'_>,
    small: &HashMap<&str, u64>,
    progress: &dyn Progress,
) -> Result<Elements> {
    let is_wanted = |named: &&Named<'_>| small.get(&*named.name) == Some(&named.tensor.len);
    let wanted: Vec<&Named<'_>> = side.named.iter().filter(is_wanted).collect();
    let spans: Vec<Span> = wanted.iter().map(|named| named.span()).collect();
    let mut hashers = vec![blake3::Hasher::new(); spans.len()];
    let read = reader.stream(side.opened, &spans, progress, &mut |span, bytes| {
        hashers[span].update(bytes);
        Ok(())
    });
    match read {
        Ok(()) => {}
        Err(crate::Error::Damaged(_)) => return Ok(Elements::new()),
        Err(error) => return Err(error),
    }
    let hash = |(named, mut hasher): (&Named<'_>, blake3::Hasher)| {
        let TensorRef { dtype, shape, strides, .. } = named.tensor;
        hasher.update(format!("{dtype:?} {shape:?} {strides:?}").as_bytes());
        (named.name.clone(), hasher.finalize())
    };
    Ok(wanted.into_iter().zip(hashers).map(hash).collect())
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

/// A checkpoint whose tensors are compared.
struct Side<'a> {
    opened: &'a Opened,
    named: Vec<Named<'a>>,
    identities: Vec<Identity>,
    /// Where the ranges of each file lie.
    maps: Vec<FileMap<'a>>,
}

impl<'a> Side<'a> {
    fn of(opened: &'a Opened) -> Self {
        let manifest = &opened.manifest;
        let maps = (0..manifest.files.len() as u32).map(|file| manifest.map(file)).collect();
        Self { opened, named: named(manifest), identities: identities(manifest), maps }
    }

    fn pieces(&self, named: &Named<'_>) -> Vec<Piece> {
        self.maps[named.file as usize].pieces(named.tensor.offset, named.tensor.len)
    }

    /// The tensors that have not chunks of their own, and their bytes: of those the ids of chunks say too little.
    fn small(&self) -> HashMap<&str, u64> {
        let is_small =
            |named: &&Named<'_>| self.pieces(named).iter().any(|piece| whole(&self.opened.manifest, piece).is_none());
        self.named.iter().filter(is_small).map(|named| (&*named.name, named.tensor.len)).collect()
    }

    /// What became of each tensor after `before`; `has_same` answers for those of which the chunks alone don't tell.
    fn since(&self, before: &Side<'_>, has_same: impl Fn(&str) -> Option<bool>) -> Vec<Option<Since>> {
        let by_name: HashMap<&str, usize> =
            before.named.iter().enumerate().map(|(at, named)| (&*named.name, at)).collect();
        let since = |(named, identity): (&Named<'_>, &Identity)| {
            let Some(at) = by_name.get(&*named.name).copied() else { return Some(Since::New) };
            let (a, b) = (named.tensor, before.named[at].tensor);
            if before.identities[at] == *identity {
                return Some(Since::Same);
            }
            if (a.dtype, a.shape) != (b.dtype, b.shape) {
                return Some(Since::Reshaped);
            }
            let mine = (&self.opened.manifest, &self.pieces(named)[..]);
            let theirs = (&before.opened.manifest, &before.pieces(&before.named[at])[..]);
            if a.strides != b.strides || differ(mine, theirs) {
                return Some(Since::Changed);
            }
            has_same(&named.name).map(|same| if same { Since::Same } else { Since::Changed })
        };
        self.named.iter().zip(&self.identities).map(since).collect()
    }
}

/// The chunk that a piece is all of, and its length.
fn whole(manifest: &Manifest, piece: &Piece) -> Option<(ChunkId, u32)> {
    match *piece {
        Piece::Chunk { chunk, at: 0, len } if manifest.chunk_lens[chunk as usize] == len => {
            Some((manifest.chunk_id(chunk as usize), len))
        }
        _ => None,
    }
}

/// Whether the chunks alone show that two tensors differ: in one place each has a whole chunk, of one length, and
/// another.
fn differ(mine: (&Manifest, &[Piece]), theirs: (&Manifest, &[Piece])) -> bool {
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
