//! Follows one tensor over the checkpoints of a run. Never reads a chunk of another tensor, unless the two share it, and none
//! at all where the tensor is the one of the checkpoint before.

use std::time::Instant;

use super::elements::{Value, value};
use super::find::{self, Maps};
use super::stats::{Gather, TensorStats};
use super::{Identity, Named};
use crate::catalog::refs;
use crate::error::{Error, Result, Thing};
use crate::format::catalog::Entry;
use crate::format::tensors::{TensorRef, elements_reach};
use crate::id::CheckpointId;
use crate::ops::opened::{Opened, Pinned};
use crate::ops::stream::Reader;
use crate::progress::{Progress, Stage};
use crate::store::Store;

/// Checkpoints whose manifests are held at once, so that the places of their chunks are looked up in one go.
const GROUP: usize = 16;
/// Chunks that those manifests name, from which on no further one is opened: some 40 MB.
const GROUP_CHUNKS: usize = 1_000_000;

/// Which tensor to follow.
#[derive(Debug, Clone, Default)]
pub struct LogRequest {
    /// Over the checkpoints of this run.
    pub run: String,
    /// Its name, or a glob that matches one name.
    pub tensor: String,
    /// The position of one element, to follow that alone; negative ones count from the end.
    pub index: Option<Vec<i64>>,
}

/// What became of a tensor.
#[derive(Debug)]
pub struct LogReport {
    /// Its name.
    pub tensor: String,
    /// For each checkpoint of the run, in the order in which they were stored.
    pub rows: Vec<LogRow>,
    /// Raw bytes of chunks that were read.
    pub read_bytes: u64,
    /// Wall time.
    pub seconds: f64,
    /// What is damaged, when something is: the rows of the other checkpoints are there all the same.
    pub damage: Option<Error>,
}

/// A tensor as one checkpoint has it.
#[derive(Debug, Clone)]
pub struct LogRow {
    /// The checkpoint.
    pub entry: Entry,
    /// What the tensor is there; none when the checkpoint lacks it, or can't be opened.
    pub tensor: Option<TensorFacts>,
    /// Whether it, or the element that is followed, differs from what the last row before this one has; none for the first.
    pub changed: Option<bool>,
    /// What its elements are like.
    pub figures: LogFigures,
}

/// What a manifest says of a tensor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorFacts {
    /// The type of its elements.
    pub dtype: Option<String>,
    /// Its dimensions.
    pub shape: Option<Vec<u64>>,
    /// Bytes of its elements.
    pub bytes: u64,
}

/// What a row says of a tensor's elements.
#[derive(Debug, Clone, PartialEq)]
pub enum LogFigures {
    /// The checkpoint has no such tensor.
    Absent,
    /// All of its elements.
    Stats(TensorStats),
    /// The element that is followed.
    Value(Value),
    /// There are no figures, for this reason.
    None(String),
    /// Chunks of it, or the checkpoint's manifest, are damaged.
    Damaged(String),
}

impl TensorFacts {
    /// The facts of a tensor.
    pub fn of(named: &Named<'_>) -> Self {
        let TensorRef { dtype, shape, len, .. } = named.tensor;
        let elements = shape.and_then(|shape| elements_reach(shape, None));
        let bytes = find::dtype(named).zip(elements).and_then(|(dtype, elements)| dtype.bytes_of(elements));
        Self { dtype: dtype.map(str::to_owned), shape: shape.map(<[u64]>::to_vec), bytes: bytes.unwrap_or(len) }
    }
}

/// What was read last, to tell what changed and to use again.
struct Last {
    identity: Identity,
    digest: blake3::Hash,
    facts: TensorFacts,
    figures: LogFigures,
}

/// The walk over the checkpoints.
struct Follow<'a> {
    store: &'a Store,
    pinned: &'a Pinned,
    name: &'a str,
    index: Option<&'a [i64]>,
    progress: &'a dyn Progress,
    rows: Vec<LogRow>,
    last: Option<Last>,
    read_bytes: u64,
    damage: Option<Error>,
}

/// Follows a tensor.
///
/// # Errors
/// [`Error::NotFound`] when no checkpoint of the run has it, [`Error::Invalid`] when the name is a glob for several or the
/// index lies in none. Damage is part of the report.
pub fn log(store: &Store, request: &LogRequest, progress: &dyn Progress) -> Result<LogReport> {
    let started = Instant::now();
    let mut chosen: Vec<CheckpointId> = Vec::new();
    let pinned = Pinned::new(store, "log", |state| {
        if refs::newest(state, &request.run).is_none() {
            return Err(refs::no_run(state, &request.run));
        }
        chosen = state.entries.iter().filter(|entry| entry.run == request.run).map(|entry| entry.id).collect();
        Ok(chosen.clone())
    })?;
    chosen.sort_unstable();
    let kept = |entry: &&Entry| entry.run == request.run && chosen.binary_search(&entry.id).is_ok();
    let entries: Vec<Entry> = pinned.state.entries.iter().filter(kept).cloned().collect();
    let follow = |name: &str| {
        let index = request.index.as_deref();
        let (rows, last, damage) = (Vec::with_capacity(entries.len()), None, None);
        let mut follow = Follow { store, pinned: &pinned, name, index, progress, rows, last, read_bytes: 0, damage };
        progress.begin(Stage::Follow, entries.len() as u64);
        follow.all(&entries)?;
        Ok::<_, Error>((follow.rows, follow.read_bytes, follow.damage))
    };
    let has_it = |rows: &[LogRow]| rows.iter().any(|row| row.tensor.is_some());
    let mut name = request.tensor.clone();
    let (mut rows, mut read_bytes, mut damage) = follow(&name)?;
    if !has_it(&rows) {
        name = resolve(store, &entries, request, damage)?;
        (rows, read_bytes, damage) = follow(&name)?;
    }
    let nowhere = rows.iter().filter(|row| row.tensor.is_some()).map(|row| &row.figures);
    let reasons: Option<Vec<&String>> = nowhere
        .map(|figures| if let LogFigures::None(reason) = figures { Some(reason) } else { None })
        .collect::<Option<Vec<_>>>();
    if let (Some([.., reason]), Some(_)) = (reasons.as_deref(), &request.index) {
        return Err(Error::Invalid(format!("{name} has no such element: {reason}")));
    }
    Ok(LogReport { tensor: name, rows, read_bytes, seconds: started.elapsed().as_secs_f64(), damage })
}

/// The name that a glob matches, in the newest checkpoint in which it matches any.
fn resolve(store: &Store, entries: &[Entry], request: &LogRequest, damage: Option<Error>) -> Result<String> {
    let mut near = None;
    for entry in entries.iter().rev() {
        let manifest = match store.manifest(entry.id) {
            Ok(manifest) => manifest,
            Err(Error::Corrupt { .. }) => continue,
            Err(error) => return Err(error),
        };
        if let Some(name) = find::by_glob(&manifest, &request.tensor)? {
            return Ok(name);
        }
        near.get_or_insert_with(|| find::near(&manifest, &request.tensor));
    }
    // A checkpoint that can't be opened may have had it.
    Err(damage.unwrap_or_else(|| Error::NotFound {
        thing: Thing::Tensor,
        name: format!("{} in {}", request.tensor, request.run),
        near: near.unwrap_or_default(),
    }))
}

impl Follow<'_> {
    fn all(&mut self, entries: &[Entry]) -> Result<()> {
        let mut entries = entries.iter();
        while !entries.as_slice().is_empty() {
            let (mut group, mut chunks) = (Vec::new(), 0);
            while group.len() < GROUP && chunks < GROUP_CHUNKS {
                let Some(entry) = entries.next() else { break };
                let opened = match Opened::of(self.store, entry.clone()) {
                    Err(error) if !matches!(error, Error::Corrupt { .. }) => return Err(error),
                    opened => opened,
                };
                chunks += opened.as_ref().map_or(0, |opened| opened.manifest.chunk_count());
                group.push((entry, opened));
            }
            self.group(group)?;
        }
        Ok(())
    }

    fn group(&mut self, group: Vec<(&Entry, Result<Opened>)>) -> Result<()> {
        // A reader for each group: what it remembers of places does not grow with the run.
        let mut reader = Reader::new(self.store, &self.pinned.state);
        let mut found = Vec::with_capacity(group.len());
        let mut wanted = Vec::new();
        let mut before = self.last.as_ref().map(|last| last.identity);
        for (_, opened) in &group {
            let part = opened.as_ref().ok().and_then(|opened| self.part(opened));
            if let (Ok(opened), Some((_, Ok(part)))) = (opened, &part) {
                let identity = identity(opened, part);
                if before.replace(identity) != Some(identity) {
                    let mut maps = Maps::new(opened);
                    let pieces = maps.pieces(part);
                    wanted.extend(maps.ids(&pieces));
                }
            }
            found.push(part);
        }
        reader.look_up(wanted, self.progress)?;
        let mut rows = Vec::with_capacity(group.len());
        for ((entry, opened), part) in group.iter().zip(found) {
            if self.progress.interrupted() {
                return Err(Error::Interrupted);
            }
            let (facts, changed, figures) = match (opened, part) {
                (Ok(opened), Some((facts, Ok(part)))) => {
                    let (changed, figures) = self.figures(&mut reader, opened, &facts, &part)?;
                    (Some(facts), changed, figures)
                }
                (_, Some((facts, Err(reason)))) => (Some(facts), None, LogFigures::None(reason)),
                (Ok(_), None) => (None, None, LogFigures::Absent),
                (Err(error), _) => (None, None, LogFigures::Damaged(error.to_string())),
            };
            rows.push(LogRow { entry: (*entry).clone(), tensor: facts, changed, figures });
            self.progress.advance(1);
        }
        self.rows.extend(rows);
        self.read_bytes += reader.read_bytes();
        group.into_iter().filter_map(|(_, opened)| opened.err()).for_each(|error| self.note(error));
        Ok(())
    }

    /// The tensor in a checkpoint, and what of it is followed: the whole, or one element as a tensor of its own.
    fn part<'o>(&self, opened: &'o Opened) -> Option<(TensorFacts, std::result::Result<Named<'o>, String>)> {
        let named = find::by_name(&opened.manifest, self.name)?;
        let facts = TensorFacts::of(&named);
        let part = match self.index {
            None => Ok(named),
            Some(index) => find::element(&named, index).map(|span| {
                let tensor = TensorRef { offset: span.offset, len: span.len, strides: None, ..named.tensor };
                Named { tensor, ..named }
            }),
        };
        Some((facts, part))
    }

    /// What a tensor is like, read only if it may be another than the last.
    fn figures(
        &mut self,
        reader: &mut Reader<'_>,
        opened: &Opened,
        facts: &TensorFacts,
        part: &Named<'_>,
    ) -> Result<(Option<bool>, LogFigures)> {
        let identity = identity(opened, part);
        if let Some(last) = self.last.as_ref().filter(|last| last.identity == identity) {
            return Ok((Some(false), last.figures.clone()));
        }
        let dtype = find::dtype(part);
        let mut gather = if self.index.is_none() { dtype.and_then(Gather::new) } else { None };
        let mut hasher = blake3::Hasher::new();
        let mut element = Vec::new();
        let read = find::stream(reader, opened, part, self.progress, &mut |bytes| {
            hasher.update(bytes);
            if let Some(gather) = &mut gather {
                gather.feed(bytes);
            } else if self.index.is_some() {
                element.extend(bytes);
            }
            Ok(())
        });
        match read {
            Ok(()) => {}
            Err(error @ (Error::Damaged(_) | Error::Corrupt { .. })) => {
                let figures = LogFigures::Damaged(error.to_string());
                self.note(error);
                return Ok((None, figures));
            }
            // Another checkpoint may have it in a form that suits.
            Err(Error::UnsuitedTensor { reason, .. }) => return Ok((None, LogFigures::None(format!("it {reason}")))),
            Err(error) => return Err(error),
        }
        let digest = hasher.finalize();
        let figures = match (gather, dtype) {
            (Some(gather), _) => LogFigures::Stats(gather.finish()),
            (None, Some(dtype)) if self.index.is_some() => value(dtype, &element)
                .map_or_else(|| LogFigures::None("its bytes are no element".into()), LogFigures::Value),
            (None, _) => {
                let dtype = facts.dtype.as_deref().unwrap_or("that nothing names");
                LogFigures::None(format!("elements of type {dtype} have no statistics"))
            }
        };
        let last = self.last.take();
        let changed = last.map(|last| last.digest != digest || last.facts != *facts);
        self.last = Some(Last { identity, digest, facts: facts.clone(), figures: figures.clone() });
        Ok((changed, figures))
    }

    fn note(&mut self, error: Error) {
        match (&mut self.damage, error) {
            (Some(Error::Damaged(places)), Error::Damaged(more)) => places.extend(more),
            (damage @ None, error) => *damage = Some(error),
            _ => {}
        }
    }
}

/// The identity of one tensor.
fn identity(opened: &Opened, part: &Named<'_>) -> Identity {
    super::identity(&opened.manifest, &opened.manifest.map(part.file), &part.tensor)
}
