//! Takes checkpoints over that lie in a directory: once ([`import`]) or as they appear ([`watch`]). Plans, then applies. Never
//! removes a source before the store has given back the same bytes, and never loses one to a second with the same name.

mod compare;
mod complete;
mod events;
mod find;
mod known;
mod remove;
mod take;
pub mod watch;

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::path::{Path, PathBuf};

use self::compare::{Extend, Verdict, compare};
use self::find::{Candidate, Found, Link, Search};
use self::known::Known;
use self::take::{Target, take};
use crate::catalog::{State, refs};
use crate::error::{Error, Result};
use crate::format::catalog::Entry;
use crate::id::CheckpointId;
use crate::ops::change;
use crate::ops::put::PutReport;
use crate::progress::Progress;
use crate::session::Session;
use crate::store::Store;

/// What to take over.
#[derive(Debug, Clone, Default)]
pub struct ImportRequest {
    /// The directory.
    pub dir: PathBuf,
    /// The run that the checkpoints belong to.
    pub run: String,
    /// Paths in the directory to take, as a glob; none means what looks like a checkpoint.
    pub pattern: Option<String>,
    /// Whether a source is removed once what is stored was read back and is the same.
    pub delete_source: bool,
    /// Bytes of the disk to leave free; none means the store's own share, as with put.
    pub reserve: Option<u64>,
    /// Whether to make room by a gc, as the store's policies say, when there is too little.
    pub gc: bool,
}

/// What an import will do, in this order.
#[derive(Debug)]
pub struct ImportPlan {
    /// One for each thing in the directory that looks like a checkpoint.
    pub items: Vec<ImportItem>,
    target: Target,
    candidates: HashMap<PathBuf, Candidate>,
}

/// One thing in the directory.
#[derive(Debug, Clone, PartialEq)]
pub struct ImportItem {
    /// Its path in the directory.
    pub name: PathBuf,
    /// What is to be done.
    pub action: ImportAction,
    /// The step that it is stored under.
    pub step: Option<u64>,
    /// Metrics from its name and its `trainer_state.json`.
    pub metrics: BTreeMap<String, f64>,
    /// The tag that it gets.
    pub tag: Option<String>,
    /// Bytes.
    pub bytes: u64,
    /// What a person should know.
    pub note: Option<String>,
}

/// What is to be done with one thing in the directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ImportAction {
    /// Store it.
    Store,
    /// It seems to be stored already: compare it with that.
    Compare,
    /// Something else is stored as this step: it will be refused.
    Refuse,
    /// A link: give the checkpoint of its target this tag.
    Tag(PathBuf),
    /// Finish the removal that was interrupted, once the rest was compared with this checkpoint.
    Finish(CheckpointId),
    /// Nothing; the note says why.
    Skip,
    /// It can't be looked at, as the note says: it will fail.
    Unreadable,
}

/// What was done with one thing.
#[derive(Debug, Clone, PartialEq)]
pub enum ImportDone {
    /// It was stored.
    Stored(PutReport),
    /// It was stored before.
    AlreadyStored(Entry),
    /// A checkpoint got a tag.
    Tagged(Entry),
    /// The removal of what this checkpoint holds was finished.
    Finished(Entry),
    /// Nothing.
    Skipped,
}

/// What became of one thing.
#[derive(Debug)]
pub struct ImportResult {
    /// The thing.
    pub item: ImportItem,
    /// What was done, or why it was not.
    pub outcome: Result<ImportDone>,
    /// Whether the source was removed.
    pub removed: bool,
}

/// What an import did.
#[derive(Debug, Default)]
pub struct ImportReport {
    /// What became of each thing that was tried.
    pub results: Vec<ImportResult>,
    /// What was not tried because the import stopped.
    pub left: Vec<ImportItem>,
    /// Why it stopped, if it did.
    pub stopped: Option<Error>,
}

/// What an import tells while it works.
#[derive(Debug)]
pub enum ImportEvent<'a> {
    /// An item begins: its number from 1, and how many there are.
    Begin(usize, usize, &'a ImportItem),
    /// An item is done.
    End(&'a ImportResult),
}

impl ImportPlan {
    /// Bytes of what will be stored or compared.
    pub fn bytes(&self) -> u64 {
        let works = |item: &&ImportItem| matches!(item.action, ImportAction::Store | ImportAction::Compare);
        self.items.iter().filter(works).map(|item| item.bytes).sum()
    }
}

/// Looks into the directory and says what an import would do.
pub fn plan(store: &Store, request: &ImportRequest) -> Result<ImportPlan> {
    refs::check_run(&request.run)?;
    let dir = canonical(&request.dir)?;
    let Found { candidates, links, leftovers, skipped, unreadable } =
        Search::new(&dir, request.pattern.as_deref(), store.root())?.find()?;
    let target = Target::new(request, dir, true);
    let state = State::load(store.backend())?;
    let mut known = Known::default();
    let mut items = Vec::new();
    for (name, id) in leftovers {
        let action = if target.delete { ImportAction::Finish(id) } else { ImportAction::Skip };
        let note = "left by a removal that was interrupted; --delete-source finishes it";
        items.push(ImportItem { note: Some(note.into()), ..bare(name, action) });
    }
    for candidate in &candidates {
        let action = take::foresee(store, &state, &target, candidate, &mut known)?;
        items.push(ImportItem {
            name: candidate.name.clone(),
            action,
            step: candidate.step,
            metrics: candidate.metrics.clone(),
            tag: candidate.tag.clone(),
            bytes: candidate.stamp.bytes(),
            note: candidate.note.clone(),
        });
    }
    for Link { name, target: to, tag } in links {
        let taken = candidates.iter().any(|candidate| candidate.name == to);
        let there = taken || known.of_source(store, &state, &target.run, &target.source(&to))?.is_some();
        let item = bare(name, if there { ImportAction::Tag(to) } else { ImportAction::Skip });
        let note = (!there).then(|| "it is a link to nothing that is here or stored".to_owned());
        items.push(ImportItem { tag: there.then_some(tag), note, ..item });
    }
    for (passed, action) in [(skipped, ImportAction::Skip), (unreadable, ImportAction::Unreadable)] {
        let item = |(name, note)| ImportItem { note: Some(note), ..bare(name, action.clone()) };
        items.extend(passed.into_iter().map(item));
    }
    let candidates = candidates.into_iter().map(|candidate| (candidate.name.clone(), candidate)).collect();
    Ok(ImportPlan { items, target, candidates })
}

fn bare(name: PathBuf, action: ImportAction) -> ImportItem {
    ImportItem { name, action, step: None, metrics: BTreeMap::new(), tag: None, bytes: 0, note: None }
}

/// The directory by a name that does not depend on where the process is.
fn canonical(dir: &Path) -> Result<PathBuf> {
    dir.canonicalize().map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => {
            Error::NotFound { thing: crate::error::Thing::Source, name: dir.display().to_string(), near: Vec::new() }
        }
        _ => Error::io("read", dir, error),
    })
}

/// Does what the plan says, one thing after the other. One that fails is reported and the rest goes on, unless there is no
/// room left, the store itself fails, or `progress` says to stop.
pub fn import(
    store: &Store,
    plan: ImportPlan,
    tell: &mut dyn FnMut(ImportEvent<'_>),
    progress: &dyn Progress,
) -> ImportReport {
    let ImportPlan { items, target, candidates } = plan;
    let mut work = Work { store, target: &target, known: Known::default(), stored: HashMap::new(), progress };
    let mut report = ImportReport::default();
    let count = items.len();
    for (at, item) in items.into_iter().enumerate() {
        if report.stopped.is_none() {
            // What makes the store as a whole unusable is no matter of one checkpoint.
            report.stopped = match State::load(store.backend()) {
                _ if progress.interrupted() => Some(Error::Interrupted),
                Ok(_) => None,
                Err(error) => Some(error),
            };
        }
        if report.stopped.is_some() {
            report.left.push(item);
            continue;
        }
        tell(ImportEvent::Begin(at + 1, count, &item));
        let (outcome, removed) = match work.one(&item, candidates.get(&item.name)) {
            Err(error @ (Error::NoSpace { .. } | Error::WontFit(_) | Error::Interrupted)) => {
                report.stopped = Some(error);
                report.left.push(item);
                continue;
            }
            Ok((done, removed)) => (Ok(done), removed),
            Err(error) => (Err(error), false),
        };
        let result = ImportResult { item, outcome, removed };
        tell(ImportEvent::End(&result));
        report.results.push(result);
    }
    report
}

/// An import under way.
struct Work<'a> {
    store: &'a Store,
    target: &'a Target,
    known: Known,
    /// What holds each source that this import went through.
    stored: HashMap<PathBuf, CheckpointId>,
    progress: &'a dyn Progress,
}

impl Work<'_> {
    fn one(&mut self, item: &ImportItem, candidate: Option<&Candidate>) -> Result<(ImportDone, bool)> {
        match &item.action {
            ImportAction::Skip => Ok((ImportDone::Skipped, false)),
            // As it was when the plan was made: a person who reads the plan and the outcome sees one thing.
            ImportAction::Unreadable => Err(Error::Invalid(item.note.clone().unwrap_or_default())),
            ImportAction::Finish(id) => self.finish(&item.name, *id).map(|done| (done, true)),
            ImportAction::Tag(to) => self.tag(item, to),
            ImportAction::Store | ImportAction::Compare | ImportAction::Refuse => {
                let candidate = candidate.ok_or_else(|| Error::Internal("a planned item is no candidate".into()))?;
                let (done, removed) = take(self.store, self.target, candidate, &mut self.known, self.progress)?;
                if let ImportDone::Stored(PutReport { entry, .. }) | ImportDone::AlreadyStored(entry) = &done {
                    self.stored.insert(candidate.name.clone(), entry.id);
                }
                Ok((done, removed))
            }
        }
    }

    fn finish(&self, name: &Path, id: CheckpointId) -> Result<ImportDone> {
        finish_removal(self.store, &self.target.dir, name, id, self.progress)
    }

    fn tag(&mut self, item: &ImportItem, to: &Path) -> Result<(ImportDone, bool)> {
        let state = State::load(self.store.backend())?;
        let id = match self.stored.get(to) {
            Some(id) => Some(*id),
            None => self.known.of_source(self.store, &state, &self.target.run, &self.target.source(to))?,
        };
        let entry = id.and_then(|id| state.entry(id)).cloned();
        let mut entry =
            entry.ok_or_else(|| Error::Invalid(format!("{}, which it leads to, is not stored", to.display())))?;
        let tag = item.tag.as_deref().unwrap_or_default();
        if !entry.tags.contains(tag) {
            change::tag(self.store, &entry.id.to_string(), tag)?;
            entry.tags.insert(tag.to_owned());
        }
        // A link that leads nowhere any more is all that is left of a source.
        let link = self.target.dir.join(&item.name);
        let gone = fs::symlink_metadata(self.target.dir.join(to))
            .is_err_and(|error| error.kind() == std::io::ErrorKind::NotFound);
        let removed = self.target.delete && gone && fs::symlink_metadata(&link).is_ok_and(|now| now.is_symlink());
        if removed {
            self.store.disk().remove(&link).map_err(|error| Error::io("remove", &link, error))?;
        }
        Ok((ImportDone::Tagged(entry), removed))
    }
}

/// Removes what an interrupted removal left, if all of it is in checkpoint `id`.
fn finish_removal(
    store: &Store,
    dir: &Path,
    name: &Path,
    id: CheckpointId,
    progress: &dyn Progress,
) -> Result<ImportDone> {
    let path = dir.join(name);
    let state = State::load(store.backend())?;
    let entry = state.entry(id).cloned().ok_or_else(|| {
        Error::Invalid(format!("checkpoint {id}, which held it, was dropped: {} is kept", path.display()))
    })?;
    let session = Session::register(store.root(), "import")?;
    match compare(store, &session, &entry, &path, Extend::Rest, progress)? {
        Verdict::Same(seen) => remove::finish(store, dir, &path, &seen).map(|()| ImportDone::Finished(entry)),
        Verdict::Other(reason) => {
            Err(Error::Invalid(format!("{} is not what checkpoint {id} holds: {reason}; it is kept", path.display())))
        }
    }
}
