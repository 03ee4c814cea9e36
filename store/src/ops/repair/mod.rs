//! Mends what can be mended: FORMAT, HEAD and the catalog, packs that are damaged, chunks that another store still has, the
//! index. Plans, then applies. Never deletes a pack before every sound record in it is in another durable one, and never
//! touches what is sound.

mod assess;
mod from;
mod identity;
mod recover;
mod remove;
mod salvage;
mod scan;

use std::collections::{BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use self::assess::{Assessed, assess};
use super::gc::delete::finish_deleting;
use super::reading::Unreadable;
use super::verify::{Judgment, judge};
use crate::backend::disk::Disk;
use crate::backend::local::LocalBackend;
use crate::catalog::State;
use crate::error::{Damage, Result};
use crate::format::catalog::Entry;
use crate::id::{ChunkId, PackId};
use crate::progress::{Notice, Progress};
use crate::session::{self, Session};
use crate::store::Store;

/// How to repair.
#[derive(Debug, Clone, Default)]
pub struct RepairRequest {
    /// Another store, to take chunks from that are lost here.
    pub from: Option<PathBuf>,
    /// Whether to tell only what would be done.
    pub dry_run: bool,
}

/// What a repair did, or would do, and what is left.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct RepairReport {
    /// Packs that were read.
    pub packs: u64,
    /// Their bytes.
    pub bytes: u64,
    /// FORMAT, HEAD or a catalog that was made anew, and what was wrong with it.
    pub remade: Vec<(String, String)>,
    /// Files in the store's directory that hold what was there before.
    pub kept_aside: Vec<String>,
    /// Checkpoints that were found again without a catalog, under the names that they have now.
    pub recovered: Vec<Entry>,
    /// Manifests that no catalog names and of which chunks are missing; they are left alone.
    pub unresolved: Vec<(String, String)>,
    /// Packs that gave way to new ones.
    pub mended: Vec<MendedPack>,
    /// Damaged packs that were left where they are, and why.
    pub left: Vec<(PackId, String)>,
    /// Chunks that were taken from the other store.
    pub healed_chunks: u64,
    /// Damage that remains; of very much damage only a part.
    pub damaged: Vec<Damage>,
    /// Places that are damaged beyond those listed.
    pub damaged_more: u64,
    /// Manifests that can't be read, of checkpoints that the catalog names: the checkpoint and what is wrong.
    pub manifests: Vec<(Entry, String)>,
}

/// A damaged pack that was replaced.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MendedPack {
    /// Its name.
    pub pack: PackId,
    /// What was wrong with it.
    pub reason: String,
    /// Sound chunks in it, which are in other packs now.
    pub saved: u64,
    /// Chunks in it that are not sound.
    pub lost: u64,
}

impl RepairReport {
    /// Whether no damage remains.
    pub fn is_sound(&self) -> bool {
        self.damaged.is_empty() && self.manifests.is_empty() && self.left.is_empty()
    }

    /// Whether nothing was there to be mended.
    pub fn is_idle(&self) -> bool {
        self.remade.is_empty() && self.mended.is_empty() && self.healed_chunks == 0
    }
}

/// Repairs the store in `root`.
pub fn repair(
    root: &Path,
    disk: Arc<dyn Disk>,
    request: &RepairRequest,
    progress: &dyn Progress,
) -> Result<RepairReport> {
    let backend = LocalBackend::new(root.to_owned(), Arc::clone(&disk));
    // Before anything is made: it has to be a store.
    identity::find(root, &backend)?;
    identity::make_directories(root, &backend)?;
    let _only_one = if request.dry_run { None } else { Some(session::lock_gc(root)?) };
    let identity = identity::find(root, &backend)?;
    let store = Store::of(root, disk, identity.store);
    let mut report = RepairReport::default();
    if request.dry_run {
        let assessed = assess(&store, &identity.deleting(), progress)?;
        let entries = match recover::plan(&store, &identity, &assessed, &mut report, progress)? {
            Some(recovery) => recovery.catalog.entries,
            None => State::load(store.backend())?.entries,
        };
        salvage::plan(&assessed, &mut report);
        let judgment = missed(&store, &entries, &assessed, &BTreeSet::new(), progress)?;
        let healed = match &request.from {
            Some(from) => from::plan(&store, from, &judgment, progress)?,
            None => BTreeSet::new(),
        };
        return finish(&store, &entries, &assessed, &healed, report, progress);
    }
    let session = Session::register(root, "repair")?;
    if identity.is_whole() {
        // What a killed gc or repair was about to unlink is in no checkpoint.
        finish_deleting(store.backend(), session.id())?;
    }
    let assessed = assess(&store, &identity.deleting(), progress)?;
    if !identity.is_whole() || !assessed.broken.is_empty() {
        // What a new HEAD names, and what a pack is deleted for, must be there after a power cut.
        backend.make_names_durable()?;
    }
    if let Some(recovery) = recover::plan(&store, &identity, &assessed, &mut report, progress)? {
        recover::apply(&store, &backend, session.id(), recovery, &mut report)?;
    }
    identity::mend_format(&backend, &identity, &mut report)?;
    let entries = State::load(store.backend())?.entries;
    salvage::apply(&store, session.id(), &assessed, &mut report, progress)?;
    let mut healed = BTreeSet::new();
    if let Some(from) = &request.from {
        let judgment = missed(&store, &entries, &assessed, &healed, progress)?;
        healed = from::apply(&store, session.id(), from, &judgment, progress)?;
    }
    remake_index(&store, &assessed, progress)?;
    finish(&store, &entries, &assessed, &healed, report, progress)
}

/// What checkpoints need that is neither in a sound pack, nor could be saved, nor was taken from elsewhere.
fn missed(
    store: &Store,
    entries: &[Entry],
    assessed: &Assessed,
    healed: &BTreeSet<ChunkId>,
    progress: &dyn Progress,
) -> Result<Judgment> {
    let bad: HashMap<ChunkId, &Unreadable> =
        assessed.broken.iter().flat_map(|pack| pack.bad.iter().map(|(id, unreadable)| (*id, unreadable))).collect();
    let fault = |id: ChunkId, raw_len: u32| {
        if assessed.has(id, raw_len) || healed.contains(&id) {
            return None;
        }
        let unknown = || Unreadable { pack: None, reason: "no pack holds it".into() };
        Some(bad.get(&id).map_or_else(unknown, |unreadable| (*unreadable).clone()))
    };
    judge(store, entries, &fault, progress)
}

fn finish(
    store: &Store,
    entries: &[Entry],
    assessed: &Assessed,
    healed: &BTreeSet<ChunkId>,
    mut report: RepairReport,
    progress: &dyn Progress,
) -> Result<RepairReport> {
    let judgment = missed(store, entries, assessed, healed, progress)?;
    (report.packs, report.bytes) = (assessed.packs, assessed.bytes);
    report.healed_chunks = healed.len() as u64;
    (report.damaged, report.damaged_more, report.manifests) = (judgment.damaged, judgment.more, judgment.manifests);
    Ok(report)
}

/// Makes the index anew and tells it which packs were just found sound. A disk on which it can't be written has all that
/// the index would know.
fn remake_index(store: &Store, assessed: &Assessed, progress: &dyn Progress) -> Result<()> {
    let head = State::load(store.backend())?.head;
    let made = store.index().remake(store.backend(), &head, progress);
    match made.and_then(|()| store.index().set_verified(&assessed.sound_packs, &[])) {
        Ok(()) => Ok(()),
        Err(crate::Error::Interrupted) => Err(crate::Error::Interrupted),
        Err(error) => {
            progress.notice(Notice::IndexBehind { reason: error.to_string() });
            Ok(())
        }
    }
}
