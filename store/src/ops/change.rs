//! Verbs that change the catalog alone: rm, tag, untag, pin, unpin, policies. Never frees room: that is gc's.

use std::collections::BTreeSet;

use super::sound;
use crate::catalog::policies::{self, Policy, PolicyUse};
use crate::catalog::{State, commit, refs};
use crate::error::{Error, Result, Thing};
use crate::format::catalog::{Change, Entry};
use crate::limits::POLICIES_MAX;
use crate::progress::Quiet;
use crate::session::Session;
use crate::space::Spare;
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

/// Gives the runs of a glob a policy; answers the one that the same glob had.
pub fn set_policy(store: &Store, policy: &Policy) -> Result<Option<Policy>> {
    policy.check()?;
    let new = policy.to_stored();
    change(store, "policy", |state| {
        let old = state.policies.iter().find(|old| old.runs == new.runs);
        if old.is_none() && state.policies.len() >= POLICIES_MAX {
            return Err(Error::Invalid(format!(
                "a store has at most {POLICIES_MAX} policies; a glob can match many runs"
            )));
        }
        let changes = if old == Some(&new) { Vec::new() } else { vec![Change::SetPolicy(new.clone())] };
        // One that can't be understood is mended by this.
        Ok((changes, old.and_then(|old| policies::stored(std::slice::from_ref(old)).ok()?.pop())))
    })
}

/// Takes a glob's policy away, whether it can be understood or not.
pub fn remove_policy(store: &Store, runs: &str) -> Result<()> {
    change(store, "policy", |state| {
        if state.policies.iter().any(|policy| policy.runs == runs) {
            return Ok((vec![Change::RemovePolicy(runs.to_owned())], ()));
        }
        let near = state.policies.iter().map(|policy| policy.runs.clone());
        let near = near.filter(|other| refs::distance(runs, other) <= 2.max(runs.len() / 3)).take(3).collect();
        Err(Error::NotFound { thing: Thing::Policy, name: runs.into(), near })
    })
}

/// The policies, and the runs that each is for now.
pub fn list_policies(store: &Store) -> Result<Vec<PolicyUse>> {
    let state = State::load(store.backend())?;
    policies::in_use(&state.entries, &state.policies)
}

fn change<T>(store: &Store, what: &str, plan: impl Fn(&State) -> Result<(Vec<Change>, T)>) -> Result<T> {
    let mut spare = Spare::take(store.root());
    let session = spare.with(|| Session::register(store.root(), what))?;
    spare.with(|| {
        commit(store.backend(), session.id(), |state, draft| {
            let (changes, answer) = plan(state)?;
            draft.changes = changes;
            Ok(answer)
        })
    })
}
