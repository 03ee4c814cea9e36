//! The protocol of HEAD, checked in every order of steps and crashes that a small store allows. Each way to break it on
//! purpose must be found out, or the model would prove nothing.

mod model;

use std::fmt::Write as _;
use std::time::Instant;

use stateright::{Checker, HasDiscoveries, Model, Property};

use self::model::{Action, Broken, Rules, Seen, State, Wrong};

const WHOLE: &str = "every checkpoint in HEAD has its manifest and all its chunks";
const NOT_DELETING: &str = "no checkpoint in HEAD needs a pack that is being deleted";
const LISTED: &str = "nothing is unlinked that HEAD does not list as being deleted";
const SEQ: &str = "HEAD's seq only grows";
const READS: &str = "a get that pinned its checkpoint and found it reads all of it";
const MARKS: &str = "a gc can read the manifest of every checkpoint in HEAD";
const CLEAN: &str = "two gcs that nobody disturbs leave nothing unreachable";

impl Model for Rules {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        vec![State::new(self)]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        state.actions(self, actions);
    }

    fn next_state(&self, state: &State, action: Action) -> Option<State> {
        Some(state.after(action, self))
    }

    fn properties(&self) -> Vec<Property<Self>> {
        let mut properties = vec![
            Property::always(WHOLE, |_, state: &State| state.is_whole(0)),
            Property::always(NOT_DELETING, |_, state: &State| state.is_whole(state.head.deleting)),
            Property::always(LISTED, |_, state: &State| state.wrong != Some(Wrong::UnlinkedUnlisted)),
            Property::always(SEQ, |_, state: &State| state.wrong != Some(Wrong::SeqFell)),
            Property::always(READS, |_, state: &State| state.wrong != Some(Wrong::GetFailed)),
            Property::always(MARKS, |_, state: &State| state.wrong != Some(Wrong::GcFailed)),
            Property::always(CLEAN, |rules: &Rules, state: &State| {
                !state.is_quiet() || !state.is_whole(0) || state.left_after_two_gcs(rules).is_none()
            }),
        ];
        let mut seen = |name, what| properties.push(Property::sometimes(name, what));
        if self.broken.is_none() && self.puts > 0 {
            seen("a put takes a condemned pack off the list", |_, state: &State| state.seen == Some(Seen::Rescued));
            seen("a put stores again what was lost", |_, state: &State| state.seen == Some(Seen::StoredAgain));
            seen("a put loses the race for HEAD", |_, state: &State| state.seen == Some(Seen::LostRace));
        }
        if self.broken.is_none() && self.get {
            seen("a get seeks a chunk that a repack moved", |_, state: &State| state.seen == Some(Seen::Searched));
        }
        if self.broken.is_none() {
            seen("a repacked pack is unlinked", |_, state: &State| state.seen == Some(Seen::Repacked));
        }
        if self.broken.is_none() && self.gcs > 1 && (self.crashes > 0 || self.power) {
            seen("a gc carries on with what a killed one was deleting", |_, state: &State| {
                state.seen == Some(Seen::CarriedOn)
            });
        }
        properties
    }
}

/// Looks at every state. Says how many there are, for docs/reliability.md.
fn check(what: &str, rules: Rules) {
    let started = Instant::now();
    let checker = rules.checker().threads(2).spawn_bfs().join();
    println!(
        "{what}: {} states, {} steps, at most {} steps deep, {:.1} s",
        checker.unique_state_count(),
        checker.state_count(),
        checker.max_depth(),
        started.elapsed().as_secs_f64(),
    );
    if let Some((name, trace)) = failure(&rules, &checker) {
        panic!("{what}: not so: {name}\n{trace}");
    }
    checker.assert_properties();
}

/// The first broken property, and the steps that lead there.
fn failure(rules: &Rules, checker: &impl Checker<Rules>) -> Option<(&'static str, String)> {
    let always = rules.properties().into_iter().filter(|property| property.expectation.discovery_is_failure());
    let found = always.filter_map(|property| Some((property.name, checker.discovery(property.name)?)));
    let (name, path) = found.min_by_key(|(_, path)| path.clone().into_actions().len())?;
    let mut trace = String::new();
    for (state, action) in path.into_vec() {
        let action = action.map_or_else(|| "the end".to_owned(), |action| format!("{action:?}"));
        writeln!(trace, "{state:?}\n  -> {action}").expect("a text can be written");
    }
    Some((name, trace))
}

const TWO_PUTS: Rules =
    Rules { puts: 2, get: false, gcs: 1, drops: 1, droppable: 1, crashes: 1, power: false, broken: None };
const KILLED: Rules = Rules { puts: 1, gcs: 2, drops: 2, droppable: ALL, crashes: 2, ..TWO_PUTS };
const GET: Rules = Rules { puts: 1, get: true, gcs: 2, droppable: ALL, ..TWO_PUTS };
const POWER: Rules = Rules { crashes: 0, power: true, ..TWO_PUTS };
/// Every checkpoint.
const ALL: u8 = 0b1111;

#[test]
fn two_puts_and_a_gc() {
    check("two puts, gc, one of them killed", TWO_PUTS);
}

#[test]
fn a_put_and_gcs_that_are_killed() {
    check("put, two gcs, two drops, two kills", KILLED);
}

#[test]
fn a_get_under_gcs_that_repack() {
    check("put, get, two gcs, a kill", GET);
}

#[test]
fn a_loss_of_power() {
    check("two puts, gc, loss of power", POWER);
}

/// Some minutes and gigabytes: run it by `cargo test ... --test suite -- --ignored head_protocol` when the protocol changes.
#[test]
#[ignore = "minutes and gigabytes; docs/reliability.md has its figures"]
fn all_at_once() {
    check("two puts, two gcs, a kill", Rules { gcs: 2, ..TWO_PUTS });
    check("two puts, get, gc", Rules { get: true, crashes: 0, ..TWO_PUTS });
}

/// Each broken protocol, the smallest cast that shows it, and what it breaks.
const BROKEN: [(Broken, Rules, &[&str]); 15] = [
    (Broken::OneStepDelete, GET, &[READS]),
    (Broken::NoEpochCheck, TWO_PUTS, &[NOT_DELETING]),
    (Broken::CondemnedStay, TWO_PUTS, &[NOT_DELETING]),
    (Broken::SessionsBeforeObjects, TWO_PUTS, &[WHOLE]),
    (Broken::HeadBeforeSessions, TWO_PUTS, &[NOT_DELETING]),
    (Broken::NoSecondMark, TWO_PUTS, &[NOT_DELETING]),
    (Broken::LiveSessionsIgnored, TWO_PUTS, &[WHOLE]),
    (Broken::PinsIgnored, GET, &[READS]),
    (Broken::NoSecondRead, GET, &[READS]),
    (Broken::OneSearch, GET, &[READS]),
    (Broken::NoCompare, TWO_PUTS, &[SEQ]),
    (Broken::UnlinkUnlisted, TWO_PUTS, &[LISTED]),
    (Broken::RepackUnpublished, TWO_PUTS, &[WHOLE, NOT_DELETING]),
    (Broken::CopiesCountOnEachOther, TWO_PUTS, &[NOT_DELETING]),
    (Broken::NamesNotDurable, POWER, &[WHOLE, NOT_DELETING]),
];

#[test]
fn each_way_to_break_the_protocol_is_found_out() {
    for (broken, rules, expected) in BROKEN {
        let rules = Rules { broken: Some(broken), ..rules };
        let checker = rules.checker().threads(2).finish_when(HasDiscoveries::AnyFailures).spawn_bfs().join();
        let (name, trace) = failure(&rules, &checker).unwrap_or_else(|| panic!("{broken:?} is not found out"));
        println!("{broken:?}: after {} steps, not so: {name}", trace.lines().count() / 2 - 1);
        assert!(expected.contains(&name), "{broken:?} breaks something else: {name}\n{trace}");
    }
}
