//! A put, step by step, as `store/src/ops/put` does it.

use super::{
    Broken, GetAt, NEEDS, NONE, PACKS, Pack, PutAt, Rules, Seen, State, Wrong, bits, checkpoint, chunk, members, over,
    session,
};

impl State {
    /// Packs that a look-up of chunk `at` of put `nr` may answer. The index takes in every pack that it sees in the folder,
    /// also those that no checkpoint names yet; a hit counts if its pack is there and was on no list of gc's.
    pub(super) fn hits(&self, nr: usize, at: u8, rules: &Rules) -> u8 {
        let avoids = if rules.broken == Some(Broken::CondemnedStay) { 0 } else { self.puts[nr].avoids };
        bits(|pack| self.packs[pack].there && self.packs[pack].chunks & chunk(nr, at) != 0) & !avoids
    }

    pub(super) fn step_put(&mut self, nr: usize, choice: u8, rules: &Rules) {
        let put = self.puts[nr];
        let next = match put.at {
            PutAt::Idle => PutAt::Registered,
            PutAt::Registered => {
                self.puts[nr].avoids = self.head.condemned | self.head.deleting;
                self.puts[nr].epoch_moved = false;
                PutAt::Looking(0)
            }
            PutAt::Looking(at) => {
                if choice > 0 {
                    let hit = members(self.hits(nr, at, rules)).nth(usize::from(choice) - 1).expect("it is a choice");
                    self.puts[nr].places[usize::from(at)] = hit as u8;
                    // The index made the names durable of what it took in.
                    self.packs[hit].durable |= rules.broken != Some(Broken::NamesNotDurable);
                }
                if u32::from(at) + 1 < NEEDS[checkpoint(nr)].count_ones() {
                    PutAt::Looking(at + 1)
                } else {
                    self.puts[nr].avoids = 0;
                    if self.lacking(nr) == 0 { PutAt::Describing } else { PutAt::Publishing }
                }
            }
            PutAt::Publishing => {
                let chunks = self.lacking(nr);
                let new = self.store(Pack { chunks, there: true, durable: !rules.power, session: session(nr) });
                for at in 0..NEEDS[checkpoint(nr)].count_ones() as usize {
                    if put.places[at] == NONE {
                        self.puts[nr].places[at] = new;
                    }
                }
                PutAt::Describing
            }
            PutAt::Describing => {
                for pack in members(put.relied_on()) {
                    self.packs[pack].durable |= self.packs[pack].session == session(nr);
                }
                self.manifests |= 1 << checkpoint(nr);
                PutAt::Checking
            }
            PutAt::Checking => {
                let lost = put.relied_on() & (!self.there() | self.head.deleting);
                if lost != 0 && put.epoch_moved && rules.broken != Some(Broken::NoEpochCheck) {
                    let is_lost = |place: u8| place != NONE && lost & 1 << place != 0;
                    self.puts[nr].places = put.places.map(|place| if is_lost(place) { NONE } else { place });
                    self.seen = Some(Seen::StoredAgain);
                    PutAt::Publishing
                } else {
                    self.puts[nr].fresh = true;
                    self.puts[nr].read = (rules.broken == Some(Broken::NoCompare)).then_some(self.head);
                    PutAt::Swapping
                }
            }
            PutAt::Swapping => {
                let mut head = self.head;
                if !put.fresh {
                    if let Some(read) = put.read {
                        (head, self.wrong) = (read, Some(Wrong::SeqFell));
                    } else {
                        self.seen = Some(Seen::LostRace);
                        self.puts[nr].at = PutAt::Checking;
                        return;
                    }
                }
                let relied_on = put.relied_on();
                if put.epoch_moved && !matches!(rules.broken, Some(Broken::NoEpochCheck | Broken::CondemnedStay)) {
                    if head.condemned & relied_on != 0 {
                        self.seen = Some(Seen::Rescued);
                    }
                    head.condemned &= !relied_on;
                }
                head.checkpoints |= 1 << checkpoint(nr);
                self.swap(head, false);
                // All that is left to do is to end the session.
                self.puts[nr] = over();
                PutAt::Committed
            }
            PutAt::Committed | PutAt::Over => PutAt::Over,
        };
        self.puts[nr].at = next;
        if next == PutAt::Over {
            self.puts[nr] = over();
        }
    }

    /// Chunks of a put that have no place, as bits.
    fn lacking(&self, nr: usize) -> u8 {
        let count = NEEDS[checkpoint(nr)].count_ones() as u8;
        let lacking = (0..count).filter(|at| self.puts[nr].places[usize::from(*at)] == NONE);
        lacking.fold(0, |chunks, at| chunks | chunk(nr, at))
    }

    /// Packs that are there or that somebody names, as bits.
    pub(super) fn named(&self) -> u8 {
        let mut named = self.there() | self.head.condemned | self.head.deleting | self.gc.listed | self.gc.garbage;
        for put in &self.puts {
            named |= put.avoids | put.relied_on() | put.read.map_or(0, |read| read.condemned | read.deleting);
        }
        named
            | match self.get.at {
                GetAt::Opening(_) => 1 << self.get.packs,
                GetAt::Searching(_) => self.get.packs,
                _ => 0,
            }
    }

    /// A place for a new pack: one that nothing names any more.
    pub(super) fn store(&mut self, pack: Pack) -> u8 {
        let named = self.named();
        let free = (0..PACKS).find(|place| named & 1 << place == 0).expect("PACKS is large enough");
        self.packs[free] = pack;
        free as u8
    }
}
