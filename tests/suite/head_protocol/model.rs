//! The protocol of HEAD as a machine of small steps: two puts, a gc, a get, drops of checkpoints, crashes, a power loss. Each
//! step is one thing that others can see; what a process does with no lock held and nobody sees is no step of its own.
//! Follows `store/src/ops/{put,get,gc}`, `session.rs` and `catalog/mod.rs`; docs/architecture.md tells the same in words.

mod gc;
mod get;
mod put;

/// Packs that there can be at once. A place is used again only when nothing names it, which renames packs and nothing else.
pub const PACKS: usize = 8;
/// Checkpoints: two that are stored at the beginning, and what each of the two puts stores.
pub const CHECKPOINTS: usize = 4;
/// Chunks of each checkpoint, as bits. At the beginning pack 0 holds chunks 0 and 1, pack 1 holds chunk 2.
pub const NEEDS: [u8; CHECKPOINTS] = [0b110, 0b001, 0b011, 0b010];
/// The checkpoint that the get wants.
const WANTED: usize = 0;
/// No pack.
const NONE: u8 = u8::MAX;

/// Who acts. The numbers of the puts are also those of their sessions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Actor {
    /// A put.
    Put(u8),
    /// The gc; only one at a time, by its lock.
    Gc,
    /// A get.
    Get,
}

const ACTORS: [Actor; 4] = [Actor::Put(0), Actor::Put(1), Actor::Gc, Actor::Get];

/// One step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// An actor goes on; the number is its choice where it has one.
    Step(Actor, u8),
    /// An actor is killed.
    Crash(Actor),
    /// Somebody drops a checkpoint: a retention rule, `rm`, `put --replace`.
    Drop(u8),
    /// The machine loses power: every process dies, names that were not made durable are gone.
    PowerLoss,
}

/// What is checked, and what is broken on purpose.
#[derive(Debug, Clone, Copy, Default)]
pub struct Rules {
    /// Puts that take part, from the first.
    pub puts: u8,
    /// Whether the get takes part.
    pub get: bool,
    /// Times that a gc may begin.
    pub gcs: u8,
    /// How often a checkpoint is dropped.
    pub drops: u8,
    /// Checkpoints that may be dropped, as bits.
    pub droppable: u8,
    /// How often a process is killed.
    pub crashes: u8,
    /// Whether the power may fail once; then a pack's name is visible before it is durable.
    pub power: bool,
    /// What is broken.
    pub broken: Option<Broken>,
}

/// Ways to break the protocol, each of which must be found out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Broken {
    /// gc lists packs as being deleted at once, without condemning them first.
    OneStepDelete,
    /// put commits without looking what gc did since it began.
    NoEpochCheck,
    /// put reuses packs that are condemned, and does not take them off the list.
    CondemnedStay,
    /// gc reads the sessions before it lists the objects.
    SessionsBeforeObjects,
    /// gc reads HEAD before the sessions, and never looks at it again.
    HeadBeforeSessions,
    /// gc does not mark again what was added while it marked.
    NoSecondMark,
    /// gc does not spare what live sessions have written.
    LiveSessionsIgnored,
    /// gc does not look at pins.
    PinsIgnored,
    /// get does not read HEAD again after it pinned.
    NoSecondRead,
    /// get looks a chunk's place up again only once.
    OneSearch,
    /// HEAD is written whatever stands there.
    NoCompare,
    /// gc unlinks before HEAD lists the pack as being deleted.
    UnlinkUnlisted,
    /// A repack takes the old pack away when the new one is not published yet.
    RepackUnpublished,
    /// Two packs that hold the same chunk each count on the other.
    CopiesCountOnEachOther,
    /// put and gc rely on packs whose names may not be durable yet.
    NamesNotDurable,
}

/// A pack's file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Pack {
    /// Chunks in it, as bits.
    pub chunks: u8,
    /// Whether its name is there.
    pub there: bool,
    /// Whether its name survives a loss of power.
    durable: bool,
    /// The session that its header names, as a bit.
    session: u8,
}

/// HEAD. Its `seq` only serves to compare: a put remembers whether HEAD is still the one that it read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Head {
    /// Checkpoints, as bits.
    pub checkpoints: u8,
    /// Packs, as bits.
    pub condemned: u8,
    /// Packs, as bits.
    pub deleting: u8,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum PutAt {
    Idle,
    Registered,
    /// It looks up its first or second chunk.
    Looking(u8),
    /// What it lacks is encoded; its new pack gets its name.
    Publishing,
    /// The new pack's name becomes durable; the manifest gets its name.
    Describing,
    /// It reads HEAD and looks at the packs it relies on.
    Checking,
    Swapping,
    /// HEAD names its checkpoint, its session is not over yet.
    Committed,
    Over,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Put {
    at: PutAt,
    /// Packs that were condemned or being deleted when it began.
    avoids: u8,
    /// Whether the epoch is another than when it began.
    epoch_moved: bool,
    /// Whether HEAD is still the one that it read last.
    fresh: bool,
    /// The packs of its chunks, of which there are one or two.
    places: [u8; 2],
    /// HEAD as it was read last; kept only where the protocol is broken so that it matters.
    read: Option<Head>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum GetAt {
    Idle,
    Registered,
    Resolved,
    Pinned,
    /// It looks up the place of a chunk.
    Placing(u8),
    /// It opens the pack of a chunk.
    Opening(u8),
    /// The pack was gone; it lists all packs.
    Listing(u8),
    /// It opens those that it listed.
    Searching(u8),
    Over,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Get {
    at: GetAt,
    /// The pack that it opens next, or packs as bits while it searches.
    packs: u8,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum GcAt {
    Idle,
    /// It unlinks what a killed one left in the list of those being deleted.
    Finishing,
    Listing,
    Sessions,
    Marking,
    Repacking,
    Condemning,
    SessionsAgain,
    Dooming,
    Unlinking,
    Clearing,
    Sweeping,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Gc {
    at: GcAt,
    begins_left: u8,
    /// Packs that were listed, as bits, and the one that a repack wrote.
    listed: u8,
    /// Manifests that were listed.
    manifests: u8,
    /// Sessions that lived when it looked.
    live: u8,
    /// Whether the get's pin was seen.
    pin: bool,
    /// Checkpoints whose chunks are marked.
    marked: u8,
    /// Packs that nothing needs, as bits.
    garbage: u8,
    /// Packs that it is about to unlink, where they are not those that HEAD lists.
    unlisted: u8,
}

/// What went wrong in a step, for those rules that no look at a state can judge.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Wrong {
    /// A pack was unlinked that HEAD did not list as being deleted.
    UnlinkedUnlisted,
    /// HEAD was replaced by one that was made from an older HEAD: its `seq` would not grow.
    SeqFell,
    /// A get that had pinned its checkpoint and found it in HEAD could not read it.
    GetFailed,
    /// A gc found a checkpoint in HEAD whose manifest is missing.
    GcFailed,
}

/// Things that must be seen to happen somewhere, or the model checks less than it seems to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Seen {
    /// A put took a condemned pack off the list.
    Rescued,
    /// A put stored chunks again because a pack was lost.
    StoredAgain,
    /// A get's place was stale and it found another.
    Searched,
    /// A pack was unlinked whose chunks a repack had copied.
    Repacked,
    /// A put lost the race for HEAD.
    LostRace,
    /// A gc carried on with what a killed one was deleting.
    CarriedOn,
}

/// Everything.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct State {
    /// HEAD.
    pub head: Head,
    /// Packs.
    pub packs: [Pack; PACKS],
    /// Manifests that are there, as bits.
    pub manifests: u8,
    puts: [Put; 2],
    get: Get,
    gc: Gc,
    drops_left: u8,
    crashes_left: u8,
    power_left: bool,
    /// What the last step broke.
    pub wrong: Option<Wrong>,
    /// What the last step showed.
    pub seen: Option<Seen>,
}

impl State {
    /// Two checkpoints, nobody at work.
    pub fn new(rules: &Rules) -> Self {
        let mut packs = [Pack::default(); PACKS];
        packs[0] = Pack { chunks: 0b011, there: true, durable: true, session: 0 };
        packs[1] = Pack { chunks: 0b100, there: true, durable: true, session: 0 };
        let put = |nr| Put {
            at: if nr < rules.puts { PutAt::Idle } else { PutAt::Over },
            avoids: 0,
            epoch_moved: false,
            fresh: false,
            places: [NONE; 2],
            read: None,
        };
        Self {
            head: Head { checkpoints: 0b11, condemned: 0, deleting: 0 },
            packs,
            manifests: 0b11,
            puts: [put(0), put(1)],
            get: Get { at: if rules.get { GetAt::Idle } else { GetAt::Over }, packs: 0 },
            gc: Gc {
                at: GcAt::Idle,
                begins_left: rules.gcs,
                listed: 0,
                manifests: 0,
                live: 0,
                pin: false,
                marked: 0,
                garbage: 0,
                unlisted: 0,
            },
            drops_left: rules.drops,
            crashes_left: rules.crashes,
            power_left: rules.power,
            wrong: None,
            seen: None,
        }
    }

    /// Packs whose names are there, as bits.
    pub fn there(&self) -> u8 {
        bits(|pack| self.packs[pack].there)
    }

    /// Whether all chunks of the checkpoints in HEAD, and their manifests, are there without the packs `without`.
    pub fn is_whole(&self, without: u8) -> bool {
        let held = self.chunks_in(self.there() & !without);
        chunks_of(self.head.checkpoints) & !held == 0 && self.head.checkpoints & !self.manifests == 0
    }

    /// Whether no put or get will do anything any more and no gc is at work.
    pub fn is_quiet(&self) -> bool {
        self.puts.iter().all(|put| put.at == PutAt::Over) && self.get.at == GetAt::Over && self.gc.at == GcAt::Idle
    }

    /// What is left after two gcs that nobody disturbs, as a text; none when nothing is.
    pub fn left_after_two_gcs(&self, rules: &Rules) -> Option<String> {
        let quiet = Rules { broken: None, ..*rules };
        for choice in [0, 1] {
            let mut state = *self;
            for _ in 0..2 {
                state.gc.begins_left = 1;
                while state.gc.at != GcAt::Idle || state.gc.begins_left > 0 {
                    let choices = state.choices(Actor::Gc, rules);
                    state = state.step(Actor::Gc, choices.min(choice + 1).saturating_sub(1), &quiet);
                }
            }
            let needed = chunks_of(state.head.checkpoints);
            let useless = bits(|pack| state.packs[pack].there && state.packs[pack].chunks & needed == 0);
            if useless != 0 || state.manifests != state.head.checkpoints || !state.is_whole(0) {
                return Some(format!("{state:?}"));
            }
            if (state.head.condemned, state.head.deleting) != (0, 0) {
                return Some(format!("lists in HEAD: {state:?}"));
            }
        }
        None
    }

    /// The steps that can come next.
    pub fn actions(&self, rules: &Rules, actions: &mut Vec<Action>) {
        // Where something went wrong the trace ends.
        if self.wrong.is_some() {
            return;
        }
        for actor in ACTORS {
            let choices = self.choices(actor, rules);
            actions.extend((0..choices).map(|choice| Action::Step(actor, choice)));
            if self.crashes_left > 0 && choices > 0 && self.has_begun(actor) {
                actions.push(Action::Crash(actor));
            }
        }
        if self.drops_left > 0 {
            let droppable = members(self.head.checkpoints & rules.droppable);
            actions.extend(droppable.map(|nr| Action::Drop(nr as u8)));
        }
        if self.power_left && self.packs.iter().any(|pack| pack.there && !pack.durable) {
            actions.push(Action::PowerLoss);
        }
    }

    /// What comes after a step.
    pub fn after(&self, action: Action, rules: &Rules) -> Self {
        self.raw_after(action, rules).tidy()
    }

    /// Wipes out what makes no difference any more, so that states that go on alike are one.
    fn tidy(mut self) -> Self {
        let named = self.named();
        let live = (0..2).filter(|nr| self.puts[*nr].at != PutAt::Over).fold(self.gc.live, |all, nr| all | session(nr));
        for (place, pack) in self.packs.iter_mut().enumerate() {
            pack.session &= live;
            if named & 1 << place == 0 {
                *pack = Pack::default();
            } else if !pack.there {
                pack.durable = false;
            }
        }
        self
    }

    fn raw_after(&self, action: Action, rules: &Rules) -> Self {
        match action {
            Action::Step(actor, choice) => Self { seen: None, ..*self }.step(actor, choice, rules),
            Action::Crash(actor) => {
                let mut next = Self { seen: None, crashes_left: self.crashes_left - 1, ..*self };
                next.kill(actor);
                next
            }
            Action::Drop(nr) => {
                let mut next = Self { seen: None, drops_left: self.drops_left - 1, ..*self };
                let head = Head { checkpoints: next.head.checkpoints & !(1 << nr), ..next.head };
                next.swap(head, false);
                next
            }
            Action::PowerLoss => {
                let mut next = Self { seen: None, power_left: false, ..*self };
                ACTORS.iter().for_each(|actor| next.kill(*actor));
                next.packs.iter_mut().for_each(|pack| pack.there &= pack.durable);
                next
            }
        }
    }

    fn has_begun(&self, actor: Actor) -> bool {
        match actor {
            Actor::Put(nr) => self.puts[nr as usize].at != PutAt::Idle,
            Actor::Gc => self.gc.at != GcAt::Idle,
            Actor::Get => self.get.at != GetAt::Idle,
        }
    }

    fn kill(&mut self, actor: Actor) {
        match actor {
            Actor::Put(nr) => self.puts[nr as usize] = over(),
            Actor::Get => self.get = Get { at: GetAt::Over, packs: 0 },
            Actor::Gc => self.end_gc(),
        }
    }

    /// How many ways an actor can go on; none when it can't.
    fn choices(&self, actor: Actor, rules: &Rules) -> u8 {
        match actor {
            Actor::Put(nr) => match self.puts[nr as usize].at {
                PutAt::Over => 0,
                // One of the packs that can be relied on, or none: the index need not know it.
                PutAt::Looking(at) => 1 + self.hits(nr as usize, at, rules).count_ones() as u8,
                _ => 1,
            },
            Actor::Get => match self.get.at {
                GetAt::Over => 0,
                GetAt::Placing(at) => (self.holding(at).count_ones() as u8).max(1),
                _ => 1,
            },
            Actor::Gc => match self.gc.at {
                GcAt::Idle => u8::from(self.gc.begins_left > 0),
                // None, or one of those that are partly dead.
                GcAt::Repacking => 1 + self.partly_dead().count_ones() as u8,
                _ => 1,
            },
        }
    }

    fn step(mut self, actor: Actor, choice: u8, rules: &Rules) -> Self {
        match actor {
            Actor::Put(nr) => self.step_put(nr as usize, choice, rules),
            Actor::Get => self.step_get(choice, rules),
            Actor::Gc => self.step_gc(choice, rules),
        }
        self
    }

    /// Replaces HEAD. Everybody who read it before has an old one.
    fn swap(&mut self, head: Head, epoch_moves: bool) {
        self.head = head;
        for put in &mut self.puts {
            put.fresh = false;
            put.epoch_moved |= epoch_moves && !matches!(put.at, PutAt::Idle | PutAt::Over);
        }
    }

    fn chunks_in(&self, packs: u8) -> u8 {
        members(packs).fold(0, |chunks, pack| chunks | self.packs[pack].chunks)
    }
}

impl Put {
    /// Packs in which its chunks are, as bits.
    fn relied_on(&self) -> u8 {
        self.places.iter().filter(|place| **place != NONE).fold(0, |packs, place| packs | 1 << place)
    }
}

fn over() -> Put {
    Put { at: PutAt::Over, avoids: 0, epoch_moved: false, fresh: false, places: [NONE; 2], read: None }
}

fn session(nr: usize) -> u8 {
    1 << nr
}

fn checkpoint(nr: usize) -> usize {
    CHECKPOINTS - 2 + nr
}

/// Chunk `at` of put `nr`, as a bit.
fn chunk(nr: usize, at: u8) -> u8 {
    1 << members(NEEDS[checkpoint(nr)]).nth(usize::from(at)).expect("it has two chunks")
}

fn chunks_of(checkpoints: u8) -> u8 {
    members(checkpoints).fold(0, |chunks, nr| chunks | NEEDS[nr])
}

fn members(bits: u8) -> impl Iterator<Item = usize> {
    (0..8).filter(move |nr| bits & 1 << nr != 0)
}

fn bits(is_in: impl Fn(usize) -> bool) -> u8 {
    (0..PACKS).filter(|nr| is_in(*nr)).fold(0, |bits, nr| bits | 1 << nr)
}
