//! A gc, step by step, as `store/src/ops/gc.rs` does it, repacking included.

use super::{
    Broken, Gc, GcAt, GetAt, Head, Pack, PutAt, Rules, Seen, State, WANTED, Wrong, bits, checkpoint, chunks_of,
    members, session,
};

impl State {
    fn is_pinned(&self) -> bool {
        self.get.at > GetAt::Resolved && self.get.at != GetAt::Over
    }

    /// Sessions of puts that live, as bits.
    fn live(&self) -> u8 {
        let lives = |nr: &usize| !matches!(self.puts[*nr].at, PutAt::Idle | PutAt::Over);
        (0..2).filter(lives).fold(0, |live, nr| live | session(nr))
    }

    fn marked_chunks(&self) -> u8 {
        chunks_of(self.gc.marked)
    }

    /// Whether the gc may take a pack: it was listed and is of no live session.
    fn may_go(&self, pack: usize) -> bool {
        self.gc.listed & 1 << pack != 0 && self.packs[pack].session & self.gc.live == 0
    }

    /// Packs that hold marked chunks and others, and may be rewritten.
    pub(super) fn partly_dead(&self) -> u8 {
        let marked = self.marked_chunks();
        let partly = |pack: usize| {
            let chunks = self.packs[pack].chunks;
            chunks & marked != 0 && chunks & !marked != 0
        };
        bits(|pack| self.may_go(pack) && self.gc.garbage & 1 << pack == 0 && partly(pack))
    }

    /// Decides anew which of `candidates` nothing needs: each marked chunk of such a pack is in one that stays.
    fn find_garbage(&mut self, candidates: u8, rules: &Rules) {
        let marked = self.marked_chunks();
        let mut stay = self.gc.listed & !candidates;
        if rules.broken == Some(Broken::CopiesCountOnEachOther) {
            stay = self.gc.listed;
        }
        self.gc.garbage = 0;
        for pack in members(candidates) {
            let others = self.chunks_in(stay & !(1 << pack));
            if self.packs[pack].chunks & marked & !others == 0 {
                self.gc.garbage |= 1 << pack;
            } else {
                stay |= 1 << pack;
            }
        }
    }

    /// Marks what HEAD holds now, and what was pinned when the sessions were read.
    fn mark(&mut self, rules: &Rules, first: bool) {
        if self.head.checkpoints & !self.manifests != 0 {
            self.wrong = Some(Wrong::GcFailed);
        }
        let once = matches!(rules.broken, Some(Broken::NoSecondMark | Broken::HeadBeforeSessions));
        if first || !once {
            self.gc.marked |= self.head.checkpoints;
        }
        // A pinned checkpoint that was dropped may have lost its manifest before it was pinned.
        if self.gc.pin && self.manifests & 1 << WANTED != 0 && rules.broken != Some(Broken::PinsIgnored) {
            self.gc.marked |= 1 << WANTED;
        }
    }

    fn look_at_sessions(&mut self, rules: &Rules) {
        self.gc.live = if rules.broken == Some(Broken::LiveSessionsIgnored) { 0 } else { self.live() };
        self.gc.pin = self.is_pinned();
    }

    fn list(&mut self, rules: &Rules) {
        self.gc.listed = self.there();
        self.gc.manifests = self.manifests;
        if rules.broken != Some(Broken::NamesNotDurable) {
            self.packs.iter_mut().for_each(|pack| pack.durable |= pack.there);
        }
    }

    pub(super) fn step_gc(&mut self, choice: u8, rules: &Rules) {
        self.gc.at = match self.gc.at {
            GcAt::Idle => {
                self.gc.begins_left -= 1;
                if self.head.deleting == 0 { GcAt::Listing } else { GcAt::Finishing }
            }
            GcAt::Finishing => {
                if !self.unlink_next() {
                    self.seen = Some(Seen::CarriedOn);
                    self.swap(Head { deleting: 0, ..self.head }, false);
                    GcAt::Listing
                } else {
                    GcAt::Finishing
                }
            }
            GcAt::Listing if rules.broken == Some(Broken::SessionsBeforeObjects) => {
                self.look_at_sessions(rules);
                GcAt::Sessions
            }
            GcAt::Listing => {
                self.list(rules);
                if rules.broken == Some(Broken::HeadBeforeSessions) {
                    self.mark(rules, true);
                }
                GcAt::Sessions
            }
            GcAt::Sessions => {
                match rules.broken {
                    Some(Broken::SessionsBeforeObjects) => self.list(rules),
                    _ => self.look_at_sessions(rules),
                }
                GcAt::Marking
            }
            GcAt::Marking => {
                if rules.broken != Some(Broken::HeadBeforeSessions) {
                    self.mark(rules, true);
                }
                self.find_garbage(bits(|pack| self.may_go(pack)), rules);
                GcAt::Repacking
            }
            GcAt::Repacking => {
                if choice > 0 {
                    let old = members(self.partly_dead()).nth(usize::from(choice) - 1).expect("it is a choice");
                    let chunks = self.packs[old].chunks & self.marked_chunks();
                    let there = rules.broken != Some(Broken::RepackUnpublished);
                    // The gc's own session lives until it ends, and only a gc takes packs away.
                    let new = self.store(Pack { chunks, there, durable: true, session: 0 });
                    self.gc.listed |= 1 << new;
                    self.gc.garbage |= 1 << old;
                }
                GcAt::Condemning
            }
            GcAt::Condemning => {
                self.mark(rules, false);
                self.find_garbage(self.gc.garbage, rules);
                if rules.broken == Some(Broken::OneStepDelete) {
                    self.doom();
                    GcAt::Unlinking
                } else {
                    self.swap_lists(Head { condemned: self.gc.garbage, ..self.head });
                    GcAt::SessionsAgain
                }
            }
            GcAt::SessionsAgain => {
                self.gc.pin |= self.is_pinned();
                GcAt::Dooming
            }
            GcAt::Dooming => {
                self.mark(rules, false);
                self.find_garbage(self.gc.garbage, rules);
                self.gc.garbage &= self.head.condemned;
                if rules.broken == Some(Broken::UnlinkUnlisted) {
                    self.gc.unlisted = self.gc.garbage;
                    self.gc.garbage = 0;
                }
                self.doom();
                self.gc.garbage = 0;
                GcAt::Unlinking
            }
            GcAt::Unlinking => {
                if self.unlink_next() {
                    GcAt::Unlinking
                } else {
                    GcAt::Clearing
                }
            }
            GcAt::Clearing => {
                if self.head.deleting != 0 {
                    self.swap(Head { deleting: 0, ..self.head }, false);
                }
                GcAt::Sweeping
            }
            GcAt::Sweeping => {
                let of_live = (0..2).filter(|nr| self.gc.live & session(*nr) != 0);
                let spared = of_live.fold(self.gc.marked, |spared, nr| spared | 1 << checkpoint(nr));
                self.manifests &= !(self.gc.manifests & !spared);
                self.end_gc();
                return;
            }
        };
    }

    /// Moves garbage to the list of those being deleted.
    fn doom(&mut self) {
        self.swap_lists(Head { condemned: 0, deleting: self.head.deleting | self.gc.garbage, ..self.head });
    }

    /// Replaces HEAD's lists, and raises the epoch; not when they stay as they are.
    fn swap_lists(&mut self, head: Head) {
        if head != self.head {
            self.swap(head, true);
        }
    }

    /// Unlinks one pack of those that are to go; answers whether there was one.
    fn unlink_next(&mut self) -> bool {
        let Some(pack) = members((self.head.deleting | self.gc.unlisted) & self.there()).next() else { return false };
        if self.head.deleting & 1 << pack == 0 {
            self.wrong = Some(Wrong::UnlinkedUnlisted);
        }
        if self.packs[pack].chunks & self.marked_chunks() != 0 {
            self.seen = Some(Seen::Repacked);
        }
        self.packs[pack].there = false;
        true
    }

    pub(super) fn end_gc(&mut self) {
        let Gc { begins_left, .. } = self.gc;
        self.gc = Gc {
            at: GcAt::Idle,
            begins_left,
            listed: 0,
            manifests: 0,
            live: 0,
            pin: false,
            marked: 0,
            garbage: 0,
            unlisted: 0,
        };
    }
}
