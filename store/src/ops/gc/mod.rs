//! Drops checkpoints by rules and frees what nothing uses: plans, then applies the plan. Marks before it takes anything
//! away, takes nothing after a mark that was incomplete, and unlinks no pack that HEAD does not list as being deleted.

pub mod delete;
mod marks;
mod plan;
mod rewrite;
pub mod survey;

use std::collections::BTreeSet;

use self::plan::Plan;
use self::survey::{Standing, Survey, live_owners};
use crate::backend::Key;
use crate::catalog::policies::{Choice, RunGlob, judge_all};
use crate::catalog::rules::{Rules, Verdict};
use crate::catalog::{State, commit};
use crate::error::Result;
use crate::format::catalog::Change;
use crate::id::{CheckpointId, PackId};
use crate::limits::{DELETE_PACKS_MAX, REPACK_ROOM_SPARE_BYTES};
use crate::progress::{Progress, Stage};
use crate::session::{self, Session};
use crate::space::{Room, Spare};
use crate::store::Store;

/// What to collect.
#[derive(Debug, Clone, Default)]
pub struct GcRequest {
    /// Only these runs, as a glob; none means all.
    pub runs: Option<String>,
    /// Rules by which checkpoints are dropped; without any, the store's policies say.
    pub rules: Rules,
    /// Whether to tell only what would be done.
    pub dry_run: bool,
}

/// What a gc did, or would do.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct GcReport {
    /// What the rules say of each checkpoint of the chosen runs.
    pub verdicts: Vec<Verdict>,
    /// Bytes that the store is smaller by: packs and other objects that were deleted, less what was copied.
    pub freed_bytes: u64,
    /// Packs that were deleted because nothing in them was needed.
    pub packs_deleted: u64,
    /// Packs that were deleted after what was needed of them had been copied into new ones.
    pub packs_rewritten: u64,
    /// Bytes of the new packs.
    pub copied_bytes: u64,
    /// Packs whose list of chunks can't be read; they are left alone.
    pub packs_unreadable: Vec<PackId>,
    /// Packs that are mostly dead and were left alone, because a chunk that is needed there is damaged. Only known once
    /// they are read: a dry run does not.
    pub packs_damaged: Vec<PackId>,
    /// Checkpoints that were dropped and that somebody reads, by a get or a mount: what only they need stays until
    /// then.
    pub still_read: Vec<CheckpointId>,
}

/// Collects.
pub fn gc(store: &Store, request: &GcRequest, progress: &dyn Progress) -> Result<GcReport> {
    request.rules.check()?;
    let runs = request.runs.as_deref().map(RunGlob::new).transpose()?;
    let choice = Choice { runs: runs.as_ref(), rules: &request.rules };
    let judge = |state: &State| judge_all(&state.entries, &state.policies, choice, store.now_ms());
    if request.dry_run {
        let verdicts = judge(&State::load(store.backend())?)?;
        let survey = Survey::take(store, &dropped(&verdicts), progress)?;
        return foretell(store, verdicts, &survey);
    }
    let mut spare = Spare::take(store.root());
    let _only_one = spare.with(|| session::lock_gc(store.root()))?;
    let session = spare.with(|| Session::register(store.root(), "gc"))?;
    let verdicts = spare.with(|| {
        commit(store.backend(), session.id(), |state, draft| {
            let verdicts = judge(state)?;
            draft.changes = dropped(&verdicts).into_iter().map(Change::Remove).collect();
            Ok(verdicts)
        })
    })?;
    let report = spare.with(|| collect(store, &session, progress))?;
    Ok(GcReport { verdicts, ..report })
}

/// Bytes that a gc without rules would free now.
pub fn reclaimable(store: &Store, survey: &Survey) -> Result<u64> {
    Ok(foretell(store, Vec::new(), survey)?.freed_bytes)
}

fn make_plan(store: &Store, survey: &Survey) -> Result<Plan> {
    plan::plan(&survey.packs, Room::at(store.root())?.free, &|at| survey.needed(store, at))
}

/// What [`collect`] would report now.
fn foretell(store: &Store, verdicts: Vec<Verdict>, survey: &Survey) -> Result<GcReport> {
    let plan = make_plan(store, survey)?;
    let going: u64 = of_standing(survey, Standing::Going).map(|pack| pack.bytes).sum();
    let objects: u64 = survey.objects.iter().map(|(_, bytes)| bytes).sum();
    Ok(GcReport {
        verdicts,
        freed_bytes: plan.freed_bytes + going + objects + survey.leftover_bytes,
        packs_deleted: plan.dead.len() as u64,
        packs_rewritten: plan.groups.iter().map(|group| group.packs.len() as u64).sum(),
        copied_bytes: plan.copied_bytes,
        packs_unreadable: of_standing(survey, Standing::Unreadable).map(|pack| pack.id).collect(),
        packs_damaged: Vec::new(),
        still_read: survey.still_read.clone(),
    })
}

/// Frees what nothing uses.
fn collect(store: &Store, session: &Session, progress: &dyn Progress) -> Result<GcReport> {
    let backend = store.backend();
    // What a killed gc was about to unlink is in no checkpoint: carry on where it stopped.
    let mut deleted_bytes = delete::finish_deleting(backend, session.id())?;
    let mut survey = Survey::take(store, &BTreeSet::new(), progress)?;
    let plan = make_plan(store, &survey)?;
    let unreadable = of_standing(&survey, Standing::Unreadable).map(|pack| pack.id).collect();
    let still_read = survey.still_read.clone();
    let mut report = GcReport { packs_unreadable: unreadable, still_read, ..GcReport::default() };
    // An empty batch as well: it takes those off HEAD's list that a killed gc condemned.
    let mut batches = plan.dead.chunks(DELETE_PACKS_MAX).collect::<Vec<_>>();
    batches.resize(batches.len().max(1), &[]);
    for batch in batches {
        let packs = batch.iter().map(|at| survey.packs[*at].id).collect();
        let deleted = delete::delete(store, session.id(), &mut survey, packs, progress)?;
        report.packs_deleted += deleted.packs;
        deleted_bytes += deleted.bytes;
    }
    progress.begin(Stage::Copy, plan.copied_bytes);
    for group in &plan.groups {
        if Room::at(store.root())?.free < group.new_bytes + REPACK_ROOM_SPARE_BYTES {
            // Somebody else took the room; the next gc tries again.
            break;
        }
        // Nor is there room where a quota says so.
        let Some(rewritten) = rewrite::rewrite(store, session.id(), &mut survey, group, progress)? else { break };
        report.packs_rewritten += rewritten.deleted.packs;
        report.copied_bytes += rewritten.copied_bytes;
        report.packs_damaged.extend(rewritten.damaged);
        deleted_bytes += rewritten.deleted.bytes;
    }
    for (key, bytes) in &survey.objects {
        if !matches!(key, Key::Manifest(id) if survey.uses(*id)) {
            backend.delete(*key)?;
            deleted_bytes += bytes;
        }
    }
    deleted_bytes += backend.sweep_unpublished(&|| live_owners(store, true), true)?;
    report.freed_bytes = deleted_bytes.saturating_sub(report.copied_bytes);
    Ok(report)
}

fn of_standing(survey: &Survey, standing: Standing) -> impl Iterator<Item = &survey::Pack> {
    survey.packs.iter().filter(move |pack| pack.standing == standing)
}

fn dropped(verdicts: &[Verdict]) -> BTreeSet<CheckpointId> {
    verdicts.iter().filter(|verdict| !verdict.keep).map(|verdict| verdict.entry.id).collect()
}
