//! What differs between two checkpoints: members, and tensors by how much. Never reads a tensor that ids show to be the same,
//! and never holds a large one.

use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::Instant;

use super::difference::{Compare, Difference};
use super::files::{self, FileChange};
use super::find::{self, Maps};
use super::log::TensorFacts;
use super::{Identity, Named, identities, named};
use crate::error::{Error, Result};
use crate::format::catalog::Entry;
use crate::format::tensors::Piece;
use crate::ops::opened::Opened;
use crate::ops::stream::{Reader, Span};
use crate::progress::{Progress, Stage};
use crate::store::Store;

/// Tensors up to this many bytes are read many at a time: those that share a chunk need it decoded once.
const SMALL_BYTES: u64 = 1 << 20;
/// Bytes of small tensors that are held at a time, of each checkpoint.
const BATCH_BYTES: u64 = 16 << 20;
/// Pieces of a large tensor that wait for the other checkpoint's, a chunk each at most.
const QUEUE: usize = 4;
/// Bytes of large tensors that are compared at least at a time; a multiple of every element's.
const BLOCK_BYTES: usize = 64 << 10;

/// Which checkpoints to compare.
#[derive(Debug, Clone, Default)]
pub struct DiffRequest {
    /// A ref of the earlier one, as it were.
    pub before: String,
    /// A ref of the later one.
    pub after: String,
    /// Whether tensors are compared as well.
    pub tensors: bool,
}

/// What differs.
#[derive(Debug, Clone)]
pub struct DiffReport {
    /// The earlier one.
    pub before: Entry,
    /// The later one.
    pub after: Entry,
    /// Members that differ, by path.
    pub files: Vec<FileChange>,
    /// Members that do not.
    pub files_unchanged: u64,
    /// Tensors, when they were compared.
    pub tensors: Option<TensorChanges>,
    /// Raw bytes of chunks that were read, of both.
    pub read_bytes: u64,
    /// Wall time.
    pub seconds: f64,
}

/// Which tensors differ.
#[derive(Debug, Clone, Default)]
pub struct TensorChanges {
    /// Those that the later one alone has, by name.
    pub added: Vec<(String, TensorFacts)>,
    /// Those that the earlier one alone has, by name.
    pub removed: Vec<(String, TensorFacts)>,
    /// Those of another type or shape, by name: before and after.
    pub reshaped: Vec<(String, TensorFacts, TensorFacts)>,
    /// Those with other elements, the largest relative change first, those without figures last.
    pub changed: Vec<TensorChange>,
    /// How many are the same.
    pub unchanged: u64,
}

/// A tensor whose elements differ.
#[derive(Debug, Clone)]
pub struct TensorChange {
    /// Its name.
    pub name: String,
    /// What it is.
    pub facts: TensorFacts,
    /// By how much; none when its elements are of a type without numbers.
    pub difference: Option<Difference>,
}

/// One of the checkpoints that are compared.
pub struct Side<'a> {
    /// The checkpoint.
    pub opened: &'a Opened,
    reader: Reader<'a>,
}

/// Both.
pub struct Sides<'a> {
    /// The earlier one.
    pub before: Side<'a>,
    /// The later one.
    pub after: Side<'a>,
    progress: &'a dyn Progress,
}

/// A tensor of both checkpoints whose elements may differ.
struct Pair<'a> {
    before: Named<'a>,
    after: Named<'a>,
    identities: (Identity, Identity),
    /// Where each begins.
    places: [Option<(u32, u32)>; 2],
}

/// What reading a pair told: none when it is the same, an inner none when there are no figures.
type Told = Option<Option<Difference>>;

/// Compares two checkpoints.
pub fn diff(store: &Store, request: &DiffRequest, progress: &dyn Progress) -> Result<DiffReport> {
    let started = Instant::now();
    let (before, kept_before) = Opened::by_ref(store, "diff", &request.before, progress)?;
    let (after, kept_after) = Opened::by_ref(store, "diff", &request.after, progress)?;
    let mut sides = Sides {
        before: Side { opened: &before, reader: Reader::new(store, &kept_before.state) },
        after: Side { opened: &after, reader: Reader::new(store, &kept_after.state) },
        progress,
    };
    let (files, files_unchanged) = files::compare(&mut sides)?;
    let tensors = if request.tensors { Some(tensors(&mut sides)?) } else { None };
    let read_bytes = sides.before.reader.read_bytes() + sides.after.reader.read_bytes();
    Ok(DiffReport {
        files,
        files_unchanged,
        tensors,
        read_bytes,
        seconds: started.elapsed().as_secs_f64(),
        before: before.entry,
        after: after.entry,
    })
}

fn tensors(sides: &mut Sides<'_>) -> Result<TensorChanges> {
    let (old, new) = (&sides.before.opened.manifest, &sides.after.opened.manifest);
    let (old_named, new_named) = (named(old), named(new));
    let old_identities = identities(old);
    let new_identities = identities(new);
    let mut olds: HashMap<&str, usize> = old_named.iter().enumerate().map(|(at, named)| (&*named.name, at)).collect();
    let mut changes = TensorChanges::default();
    let mut pairs = Vec::new();
    for (after, new_identity) in new_named.iter().zip(new_identities) {
        let Some(at) = olds.remove(&*after.name) else {
            changes.added.push((after.name.clone(), TensorFacts::of(after)));
            continue;
        };
        let before = &old_named[at];
        let (was, is) = (TensorFacts::of(before), TensorFacts::of(after));
        if (&was.dtype, &was.shape) != (&is.dtype, &is.shape) {
            changes.reshaped.push((after.name.clone(), was, is));
        } else if old_identities[at] == new_identity {
            changes.unchanged += 1;
        } else {
            let identities = (old_identities[at], new_identity);
            let (before, after) = (before.clone(), after.clone());
            pairs.push(Pair { before, after, identities, places: [None; 2] });
        }
    }
    changes.removed.extend(olds.into_values().map(|at| (old_named[at].name.clone(), TensorFacts::of(&old_named[at]))));
    let told = sides.compare(&mut pairs)?;
    for (pair, told) in pairs.iter().zip(told) {
        match told {
            None => changes.unchanged += 1,
            Some(difference) => {
                let (name, facts) = (pair.after.name.clone(), TensorFacts::of(&pair.after));
                changes.changed.push(TensorChange { name, facts, difference });
            }
        }
    }
    changes.added.sort_by(|a, b| a.0.cmp(&b.0));
    changes.removed.sort_by(|a, b| a.0.cmp(&b.0));
    changes.reshaped.sort_by(|a, b| a.0.cmp(&b.0));
    // No finite element is left: that comes before anything large.
    let size = |change: &TensorChange| match change.difference {
        None => -1.0,
        Some(difference) if difference.relative.is_nan() => f64::INFINITY,
        Some(difference) => difference.relative,
    };
    changes.changed.sort_by(|a, b| size(b).total_cmp(&size(a)).then_with(|| a.name.cmp(&b.name)));
    Ok(changes)
}

impl Side<'_> {
    /// Sends the bytes of a tensor's elements, row by row or as they lie, until nobody takes them any more.
    fn pour(
        &mut self,
        named: &Named<'_>,
        in_rows: bool,
        progress: &dyn Progress,
        to: &SyncSender<Vec<u8>>,
    ) -> Result<()> {
        let send = |bytes: &[u8]| to.send(bytes.to_vec()).map_err(|_| Error::Interrupted);
        if in_rows {
            return find::stream(&mut self.reader, self.opened, named, progress, &mut { send });
        }
        self.reader.stream(self.opened, &[named.span()], progress, &mut |_, bytes| send(bytes))
    }

    /// The bytes of each span.
    fn read(&mut self, spans: &[Span], progress: &dyn Progress) -> Result<Vec<Vec<u8>>> {
        let mut read = vec![Vec::new(); spans.len()];
        self.reader.stream(self.opened, spans, progress, &mut |span, bytes| {
            read[span].extend(bytes);
            Ok(())
        })?;
        Ok(read)
    }
}

impl Sides<'_> {
    /// The bytes of spans of both checkpoints.
    pub fn read_both(&mut self, before: &[Span], after: &[Span]) -> Result<[Vec<Vec<u8>>; 2]> {
        Ok([self.before.read(before, self.progress)?, self.after.read(after, self.progress)?])
    }

    /// What differs in each pair.
    fn compare(&mut self, pairs: &mut [Pair<'_>]) -> Result<Vec<Told>> {
        let (mut before, mut after) = (Maps::new(self.before.opened), Maps::new(self.after.opened));
        let (mut old_ids, mut new_ids) = (Vec::new(), Vec::new());
        for pair in &mut *pairs {
            let (old, new) = (before.pieces(&pair.before), after.pieces(&pair.after));
            pair.places = [place(&old), place(&new)];
            old_ids.extend(before.ids(&old));
            new_ids.extend(after.ids(&new));
        }
        self.before.reader.look_up(old_ids, self.progress)?;
        self.after.reader.look_up(new_ids, self.progress)?;
        // Tied weights are one tensor under several names.
        let mut seen = HashSet::new();
        let distinct: Vec<&Pair<'_>> = pairs.iter().filter(|pair| seen.insert(pair.identities)).collect();
        self.progress.begin(Stage::Compare, distinct.iter().map(|pair| pair.after.tensor.len).sum());
        let (mut small, large): (Vec<&Pair<'_>>, Vec<&Pair<'_>>) =
            distinct.into_iter().partition(|pair| pair.is_small());
        let mut told: HashMap<(Identity, Identity), Told> = HashMap::new();
        small.sort_by_key(|pair| pair.places[0]);
        let mut rest = &small[..];
        while !rest.is_empty() {
            let mut bytes = 0;
            let fit = rest.iter().take_while(|pair| {
                bytes += pair.after.tensor.len;
                bytes <= BATCH_BYTES
            });
            let (batch, others) = rest.split_at(fit.count().max(1));
            rest = others;
            self.compare_small(batch, &mut told)?;
        }
        for pair in large {
            let mut compare = Compare::new(find::dtype(&pair.after));
            match self.compare_large(pair, true, &mut compare) {
                // An expansion that is too large to be put in rows: whether what it expands differs can still be told.
                Err(Error::UnsuitedTensor { .. }) => {
                    compare = Compare::new(None);
                    self.compare_large(pair, false, &mut compare)?;
                }
                outcome => outcome?,
            }
            told.insert(pair.identities, compare.finish());
        }
        Ok(pairs.iter().map(|pair| told.get(&pair.identities).copied().flatten()).collect())
    }

    /// Tensors that lie in the order of the chunks of the earlier checkpoint.
    fn compare_small(&mut self, batch: &[&Pair<'_>], told: &mut HashMap<(Identity, Identity), Told>) -> Result<()> {
        let mut in_after: Vec<usize> = (0..batch.len()).collect();
        in_after.sort_by_key(|at| batch[*at].places[1]);
        let before: Vec<Span> = batch.iter().map(|pair| pair.before.span()).collect();
        let after: Vec<Span> = in_after.iter().map(|at| batch[*at].after.span()).collect();
        let [before, after] = self.read_both(&before, &after)?;
        for (at, after) in in_after.into_iter().zip(after) {
            let mut compare = Compare::new(find::dtype(&batch[at].after));
            compare.add(&before[at], &after);
            told.insert(batch[at].identities, compare.finish());
            self.progress.advance(after.len() as u64);
        }
        Ok(())
    }

    /// Reads both at once, each on a thread of its own that waits when it is ahead.
    fn compare_large(&mut self, pair: &Pair<'_>, in_rows: bool, compare: &mut Compare) -> Result<()> {
        let Self { before, after, progress } = self;
        let progress = *progress;
        let outcomes = std::thread::scope(|scope| {
            let (to_left, left) = sync_channel(QUEUE);
            let (to_right, right) = sync_channel(QUEUE);
            let start = |error| Error::io("start", Path::new("a thread"), error);
            let pour_before = move || before.pour(&pair.before, in_rows, progress, &to_left);
            let pour_after = move || after.pour(&pair.after, in_rows, progress, &to_right);
            let threads = [
                std::thread::Builder::new().spawn_scoped(scope, pour_before).map_err(start)?,
                std::thread::Builder::new().spawn_scoped(scope, pour_after).map_err(start)?,
            ];
            zip(left, right, progress, compare);
            let failed = |_| Err(Error::Internal("a thread that reads a tensor has failed".into()));
            Ok::<_, Error>(threads.map(|thread| thread.join().unwrap_or_else(failed)))
        })?;
        for outcome in outcomes {
            match outcome {
                // It stopped because the other one had: that one says why.
                Err(Error::Interrupted) if !progress.interrupted() => {}
                outcome => outcome?,
            }
        }
        Ok(())
    }
}

impl Pair<'_> {
    fn is_small(&self) -> bool {
        let (before, after) = (&self.before, &self.after);
        let is_plain = before.is_row_major() && after.is_row_major() && before.tensor.len == after.tensor.len;
        is_plain && after.tensor.len <= SMALL_BYTES
    }
}

/// Where a tensor begins: a chunk and a byte of it; none when its first byte stands inline.
fn place(pieces: &[Piece]) -> Option<(u32, u32)> {
    match pieces.first()? {
        Piece::Chunk { chunk, at, .. } => Some((*chunk, *at)),
        Piece::Inline { .. } => None,
    }
}

/// What came of one of two tensors and was not compared yet.
struct Feed {
    from: Receiver<Vec<u8>>,
    bytes: Vec<u8>,
    has_ended: bool,
}

impl Feed {
    fn new(from: Receiver<Vec<u8>>) -> Self {
        Self { from, bytes: Vec::new(), has_ended: false }
    }

    fn fill(&mut self) {
        while self.bytes.len() < BLOCK_BYTES && !self.has_ended {
            match self.from.recv() {
                Ok(more) => self.bytes.extend(more),
                Err(_) => self.has_ended = true,
            }
        }
    }
}

/// Compares what two threads send, until one of them ends.
fn zip(left: Receiver<Vec<u8>>, right: Receiver<Vec<u8>>, progress: &dyn Progress, compare: &mut Compare) {
    let (mut left, mut right) = (Feed::new(left), Feed::new(right));
    loop {
        left.fill();
        right.fill();
        let len = left.bytes.len().min(right.bytes.len());
        // Elements are compared whole; only at the end may there be a part of one.
        let len = if len < BLOCK_BYTES { len } else { len - len % BLOCK_BYTES };
        if len == 0 {
            break;
        }
        compare.add(&left.bytes[..len], &right.bytes[..len]);
        left.bytes.drain(..len);
        right.bytes.drain(..len);
        progress.advance(len as u64);
    }
    if !left.bytes.is_empty() || !right.bytes.is_empty() {
        compare.differs_in_length();
    }
}
