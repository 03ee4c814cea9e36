//! Finds the newest checkpoint of a run whose chunks all read back sound. Never takes one for sound of which it has not
//! read every byte.

use std::borrow::Cow;

use super::verify::{check_checkpoint, damage_of_checkpoint};
use crate::catalog::{State, refs};
use crate::error::{Damage, Error, Result};
use crate::format::catalog::Entry;
use crate::ops::verify::Recent;
use crate::progress::{Notice, Progress, Quiet};
use crate::session::{Session, pin_if_possible};
use crate::store::Store;

/// A ref without `@latest-good`: that becomes the id of the newest checkpoint of the run that is sound. Others stay as
/// they are. Those that are damaged are told by a notice.
///
/// # Errors
/// [`Error::Damaged`] or [`Error::Corrupt`] of the newest when none of the run is sound.
pub fn settle<'a>(store: &Store, reference: &'a str, progress: &dyn Progress) -> Result<Cow<'a, str>> {
    let Some(run) = refs::run_of_latest_good(reference) else { return Ok(reference.into()) };
    let mut session = Session::of_reader(store.root(), "latest-good")?;
    let state = State::load(store.backend())?;
    let mut first = None;
    for entry in state.entries.iter().rev().filter(|entry| entry.run == run) {
        session = pin_if_possible(session, [entry.id])?;
        match check(store, entry, progress)? {
            None => return Ok(entry.id.to_string().into()),
            // Dropped and collected since HEAD was read.
            Some(_) if State::load(store.backend())?.entry(entry.id).is_none() => {}
            Some(fault) => {
                let reason = fault.to_string();
                progress.notice(Notice::Damaged { checkpoint: refs::name_of(entry), reason });
                first.get_or_insert(fault);
            }
        }
    }
    Err(first.unwrap_or_else(|| refs::no_run(&state, run)))
}

/// The newest sound checkpoint of the run of `damaged`, other than that one. Reads at most `reads_max` checkpoints
/// whole; those that a look at the packs already shows to be damaged don't count.
pub fn alternative(store: &Store, damaged: &Entry, reads_max: usize, progress: &dyn Progress) -> Result<Option<Entry>> {
    let state = State::load(store.backend())?;
    let others = state.entries.iter().rev().filter(|entry| entry.run == damaged.run && entry.id != damaged.id);
    let mut reads = 0;
    for entry in others {
        if reads == reads_max {
            break;
        }
        if find_fault(store, entry, true, &Quiet)?.is_some() {
            continue;
        }
        reads += 1;
        if find_fault(store, entry, false, progress)?.is_none() {
            return Ok(Some(entry.clone()));
        }
    }
    Ok(None)
}

/// What is wrong with a checkpoint; the cheap look first.
fn check(store: &Store, entry: &Entry, progress: &dyn Progress) -> Result<Option<Error>> {
    match find_fault(store, entry, true, &Quiet)? {
        None => find_fault(store, entry, false, progress),
        fault => Ok(fault),
    }
}

fn find_fault(store: &Store, entry: &Entry, quick: bool, progress: &dyn Progress) -> Result<Option<Error>> {
    match check_checkpoint(store, entry, quick, &Recent::none(), progress) {
        Ok(checked) if checked.bad.is_empty() => Ok(None),
        Ok(checked) => {
            let damage: Vec<Damage> = damage_of_checkpoint(entry, &checked);
            Ok(Some(Error::Damaged(damage)))
        }
        Err(error @ (Error::Corrupt { .. } | Error::Unsupported(_))) => Ok(Some(error)),
        Err(error) => Err(error),
    }
}
