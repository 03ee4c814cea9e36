//! What a put does when the disk is too full: says what it needs and what would help, and makes room when asked to. Never drops
//! a checkpoint that no policy drops, and none at all when that would not be enough.

use super::gather::Gathered;
use super::refs;
use crate::error::{Error, Result, Shortage};
use crate::ops::gc::{GcReport, GcRequest, gc};
use crate::progress::{Notice, Progress, Quiet};
use crate::space::Budget;
use crate::split::Split;
use crate::store::Store;

/// Bytes that a manifest has for each member, segment and view besides its path and its chunks; more than it takes once packed.
const DESCRIPTION_BYTES: usize = 64;

/// The most bytes of a manifest besides its chunks.
pub fn described_bytes(gathered: &Gathered, splits: &[Split]) -> u64 {
    let members: usize = gathered.members.iter().map(|member| member.path.len() + DESCRIPTION_BYTES).sum();
    let described = |split: &Split| (split.segments.len() + split.views.len()) * DESCRIPTION_BYTES;
    let tensors: usize = splits.iter().map(described).sum();
    (members + tensors) as u64
}

/// Tries something that takes room, for which `reserve` bytes are to stay free; with `gc` a second time after a gc, when that
/// makes enough of it. `what` is what is stored.
pub fn find<T>(
    store: &Store,
    what: &str,
    (reserve, gc): (Option<u64>, bool),
    progress: &dyn Progress,
    attempt: impl Fn(&mut Budget<'_>) -> Result<T>,
) -> Result<T> {
    let mut budget = Budget::new(store.root(), reserve);
    let error = match attempt(&mut budget) {
        Ok(done) => return Ok(done),
        Err(error) => explain(store, what, &budget, error),
    };
    if !gc || !gc_would_help(&error) {
        return Err(error);
    }
    make(store, progress)?;
    attempt(&mut budget).map_err(|error| explain(store, what, &budget, error))
}

/// Adds to an error that tells of too little room what is needed and what would help. Others stay as they are.
fn explain(store: &Store, what: &str, budget: &Budget<'_>, error: Error) -> Error {
    let told = |needs_bytes: Option<u64>, is_quota: bool| {
        let plan = gc(store, &GcRequest { dry_run: true, ..GcRequest::default() }, &Quiet).ok();
        Box::new(Shortage {
            what: what.to_owned(),
            needs_bytes,
            free_bytes: budget.free(),
            is_quota,
            reserve_bytes: budget.reserve,
            gc_frees: plan.as_ref().map(|plan| plan.freed_bytes),
            gc_drops: plan.as_ref().map_or(0, |plan| dropped(plan).len() as u64),
            has_policies: plan.is_some_and(|plan| plan.verdicts.iter().any(|verdict| verdict.policy.is_some())),
        })
    };
    match error {
        Error::WontFit(shortage) => Error::WontFit(told(shortage.needs_bytes, false)),
        Error::NoSpace { path, source, .. } => {
            let is_quota = source.kind() == std::io::ErrorKind::QuotaExceeded;
            Error::NoSpace { path, source, shortage: Some(told(budget.needs, is_quota)) }
        }
        other => other,
    }
}

/// Whether a gc frees as much as this error says is missing.
fn gc_would_help(error: &Error) -> bool {
    let (Error::WontFit(shortage) | Error::NoSpace { shortage: Some(shortage), .. }) = error else { return false };
    let (needs, frees) = (shortage.needs_bytes.unwrap_or(0), shortage.gc_frees.unwrap_or(0));
    // Of a quota that is used up nothing else is left, and what is to stay free of the disk does.
    let (needs, free) = match shortage.is_quota {
        true => (needs, 0),
        false => (needs.saturating_add(shortage.reserve_bytes), shortage.free_bytes),
    };
    frees > 0 && free.saturating_add(frees) >= needs
}

/// Makes room as the policies say.
fn make(store: &Store, progress: &dyn Progress) -> Result<()> {
    let report = gc(store, &GcRequest::default(), progress)?;
    let freed_bytes = report.freed_bytes;
    progress.notice(Notice::MadeRoom { dropped: dropped(&report), freed_bytes });
    Ok(())
}

fn dropped(report: &GcReport) -> Vec<String> {
    report.verdicts.iter().filter(|verdict| !verdict.keep).map(|verdict| refs::name_of(&verdict.entry)).collect()
}
