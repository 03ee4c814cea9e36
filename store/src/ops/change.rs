//! Verbs that change the catalog alone: rm, tag, untag, pin, unpin. Never frees room: that is gc's.

use std::collections::BTreeSet;

use super::sound;
use crate::catalog::{State, commit, refs};
use crate::error::{Error, Result, Thing};
use crate::format::catalog::{Change, Entry};
use crate::progress::Quiet;
use crate::session::Session;
use crate::store::Store;

/// Drops checkpoints; all of them or, when one ref is wrong, none. A pinned one is refused. Answers what was dropped.
pub fn remove(store: &Store, references: &[String]) -> Result<Vec<Entry>> {
    let settled = references.iter().map(|reference| sound::settle(store, reference, &Quiet));
    let references = settled.collect::<Result<Vec<_>>>()?;
    change(store, "rm", |state| {
        let mut seen = BTreeSet::new();
        let mut dropped = Vec::new();
        for reference in &references {
            let entry = refs::resolve(state, reference)?;
            if entry.pinned {
                return Err(Error::Invalid(format!("{} is pinned", refs::name_of(entry))));
            }
            if seen.insert(entry.id) {
                dropped.push(entry.clone());
            }
        }
        let changes = dropped.iter().map(|entry| Change::Remove(entry.id)).collect();
        Ok((changes, dropped))
    })
}

/// Names a checkpoint; another one of the run that had the name loses it.
pub fn tag(store: &Store, reference: &str, tag: &str) -> Result<Entry> {
    refs::check_tag(tag)?;
    let reference = sound::settle(store, reference, &Quiet)?;
    change(store, "tag", |state| {
        let entry = refs::resolve(state, &reference)?;
        Ok((vec![Change::Tag(entry.id, tag.to_owned())], entry.clone()))
    })
}

/// Takes a name away. Without `tag`, `reference` is `RUN@TAG` and says both.
pub fn untag(store: &Store, reference: &str, tag: Option<&str>) -> Result<Entry> {
    let tag = match (tag, reference.split_once('@')) {
        (Some(tag), _) | (None, Some((_, tag))) => tag,
        (None, None) => return Err(Error::Invalid(format!("say which tag of {reference} to take away"))),
    };
    let reference = sound::settle(store, reference, &Quiet)?;
    change(store, "untag", |state| {
        let entry = refs::resolve(state, &reference)?;
        if !entry.tags.contains(tag) {
            let name = format!("{tag} of {}", refs::name_of(entry));
            return Err(Error::NotFound { thing: Thing::Tag, name, near: entry.tags.iter().cloned().collect() });
        }
        Ok((vec![Change::Untag(entry.id, tag.to_owned())], entry.clone()))
    })
}

/// Keeps a checkpoint from every policy, or no longer.
pub fn pin(store: &Store, reference: &str, pinned: bool) -> Result<Entry> {
    let reference = sound::settle(store, reference, &Quiet)?;
    change(store, "pin", |state| {
        let entry = refs::resolve(state, &reference)?;
        Ok((vec![Change::Pin(entry.id, pinned)], entry.clone()))
    })
}

fn change<T>(store: &Store, what: &str, plan: impl Fn(&State) -> Result<(Vec<Change>, T)>) -> Result<T> {
    let session = Session::register(store.root(), what)?;
    commit(store.backend(), session.id(), |state, draft| {
        let (changes, answer) = plan(state)?;
        draft.changes = changes;
        Ok(answer)
    })
}
