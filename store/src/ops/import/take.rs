//! Takes one checkpoint over: stores it unless it is stored already, reads it back, and only then removes it if that was asked
//! for. Never stores one twice, and never puts one in the place of another.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::compare::{Extend, Seen, Verdict, compare, looks_same};
use super::find::Candidate;
use super::known::{Known, SOURCE};
use super::{ImportAction, ImportDone, ImportRequest, remove};
use crate::catalog::{State, refs};
use crate::error::{Error, Result};
use crate::format::catalog::Entry;
use crate::id::CheckpointId;
use crate::ops::put::gather::gather;
use crate::ops::put::{PutRequest, put};
use crate::progress::Progress;
use crate::session::Session;
use crate::store::Store;

/// From where, to where, and how.
#[derive(Debug, Clone)]
pub struct Target {
    /// The directory, by its full name.
    pub dir: PathBuf,
    /// The run.
    pub run: String,
    /// Whether sources are removed.
    pub delete: bool,
    /// Whether what was stored is read back; it always is before a source is removed.
    pub verify: bool,
    reserve: Option<u64>,
    gc: bool,
}

impl Target {
    /// What `request` asks for, in the directory whose full name is `dir`.
    pub fn new(request: &ImportRequest, dir: PathBuf, verify: bool) -> Self {
        let ImportRequest { reserve, gc, delete_source: delete, .. } = *request;
        Self { dir, run: request.run.clone(), delete, verify, reserve, gc }
    }

    /// How a source is called in a checkpoint's metadata.
    pub fn source(&self, name: &Path) -> String {
        self.dir.join(name).to_string_lossy().into_owned()
    }
}

/// Checkpoints that may hold a candidate already: the one of its step, then those without step that came from its name.
fn matches<'a>(
    store: &Store,
    state: &'a State,
    target: &Target,
    candidate: &Candidate,
    known: &mut Known,
) -> Vec<&'a Entry> {
    let of_step = |entry: &&Entry| entry.run == target.run && entry.step.is_some() && entry.step == candidate.claimed;
    let mut all: Vec<&Entry> = state.entries.iter().filter(of_step).collect();
    if candidate.step.is_none() || !all.is_empty() {
        all.extend(known.without_step(store, state, &target.run, &target.source(&candidate.name)));
    }
    all
}

/// What will come of a candidate, as far as that can be said without reading it.
pub fn foresee(
    store: &Store,
    state: &State,
    target: &Target,
    candidate: &Candidate,
    known: &mut Known,
) -> Result<ImportAction> {
    let mut taken = false;
    for entry in matches(store, state, target, candidate, known) {
        if looks_stored(store, target, candidate, entry.id, false) {
            return Ok(ImportAction::Compare);
        }
        taken |= entry.step.is_some()
            && entry.step == candidate.step
            && !is_sibling(store, state, target, candidate, entry, known);
    }
    Ok(if taken { ImportAction::Refuse } else { ImportAction::Store })
}

/// The checkpoint that holds a candidate to all appearance: names, sizes and times of the last change.
pub fn find_stored(
    store: &Store,
    state: &State,
    target: &Target,
    candidate: &Candidate,
    known: &mut Known,
) -> Option<CheckpointId> {
    let all = matches(store, state, target, candidate, known);
    all.into_iter().map(|entry| entry.id).find(|id| looks_stored(store, target, candidate, *id, true))
}

fn looks_stored(store: &Store, target: &Target, candidate: &Candidate, id: CheckpointId, times: bool) -> bool {
    let gathered = gather(&[target.dir.join(&candidate.name)], store.root());
    let (Ok(manifest), Ok(gathered)) = (store.manifest(id), gathered) else { return false };
    looks_same(&manifest, &gathered, Extend::Whole, times).is_ok()
}

/// Whether the checkpoint of a candidate's step came from another file of the same directory: then both have a right to it.
fn is_sibling(
    store: &Store,
    state: &State,
    target: &Target,
    candidate: &Candidate,
    entry: &Entry,
    known: &mut Known,
) -> bool {
    known
        .source_of(store, state, entry)
        .is_some_and(|source| Path::new(&source).starts_with(&target.dir) && source != target.source(&candidate.name))
}

/// Takes a candidate over. Answers what was done and whether the source was removed.
pub fn take(
    store: &Store,
    target: &Target,
    candidate: &Candidate,
    known: &mut Known,
    progress: &dyn Progress,
) -> Result<(ImportDone, bool)> {
    let path = target.dir.join(&candidate.name);
    let session = Session::register(store.root(), "import")?;
    let state = State::load(store.backend())?;
    let mut step = candidate.step;
    for entry in matches(store, &state, target, candidate, known) {
        match compare(store, &session, entry, &path, Extend::Whole, progress)? {
            Verdict::Same(seen) => {
                let removed = remove_source(store, target, entry.id, &path, &seen)?;
                return Ok((ImportDone::AlreadyStored(entry.clone()), removed));
            }
            Verdict::Other(reason) if entry.step.is_some() && entry.step == candidate.step => {
                if !is_sibling(store, &state, target, candidate, entry, known) {
                    let name = refs::name_of(entry);
                    return Err(Error::Invalid(format!("{name} is stored and is something else: {reason}")));
                }
                step = None;
            }
            Verdict::Other(_) => {}
        }
    }
    let report = put(store, &request(target, candidate, step), progress)?;
    if !target.verify && !target.delete {
        return Ok((ImportDone::Stored(report), false));
    }
    match compare(store, &session, &report.entry, &path, Extend::Whole, progress)? {
        Verdict::Same(seen) => {
            let removed = remove_source(store, target, report.entry.id, &path, &seen)?;
            Ok((ImportDone::Stored(report), removed))
        }
        Verdict::Other(reason) => Err(Error::Invalid(format!(
            "{} is another by now than what was stored of it as {}: {reason}; it is kept",
            path.display(),
            refs::name_of(&report.entry)
        ))),
    }
}

fn remove_source(store: &Store, target: &Target, id: CheckpointId, path: &Path, seen: &Seen) -> Result<bool> {
    if target.delete {
        remove::remove(store, id, &target.dir, path, seen)?;
    }
    Ok(target.delete)
}

fn request(target: &Target, candidate: &Candidate, step: Option<u64>) -> PutRequest {
    let mut meta: BTreeMap<String, String> = candidate.meta.clone();
    meta.insert(SOURCE.into(), target.source(&candidate.name));
    if let (None, Some(claimed)) = (step, candidate.claimed) {
        meta.insert("step".into(), claimed.to_string());
    }
    PutRequest {
        paths: vec![target.dir.join(&candidate.name)],
        run: target.run.clone(),
        step,
        metrics: candidate.metrics.clone(),
        meta,
        tags: candidate.tag.iter().cloned().collect(),
        reserve: target.reserve,
        gc: target.gc,
        ..PutRequest::default()
    }
}
