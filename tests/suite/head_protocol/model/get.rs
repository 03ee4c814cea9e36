//! A get, step by step, as `store/src/ops/get` and `reading.rs` do it.

use super::{Broken, GetAt, NEEDS, Rules, Seen, State, WANTED, Wrong, bits, members};

impl State {
    pub(super) fn holding(&self, at: u8) -> u8 {
        let chunk = members(NEEDS[WANTED]).nth(usize::from(at)).expect("it has two chunks");
        bits(|pack| self.packs[pack].there && self.packs[pack].chunks & 1 << chunk != 0)
    }

    pub(super) fn step_get(&mut self, choice: u8, rules: &Rules) {
        let is_in_head = self.head.checkpoints & 1 << WANTED != 0;
        let after = |at: u8| if at == 0 { GetAt::Placing(1) } else { GetAt::Over };
        self.get.at = match self.get.at {
            GetAt::Idle => GetAt::Registered,
            GetAt::Registered if !is_in_head => GetAt::Over,
            GetAt::Registered => GetAt::Resolved,
            GetAt::Resolved => GetAt::Pinned,
            GetAt::Pinned if rules.broken != Some(Broken::NoSecondRead) && !is_in_head => GetAt::Over,
            GetAt::Pinned => GetAt::Placing(0),
            GetAt::Placing(at) => match members(self.holding(at)).nth(usize::from(choice)) {
                Some(pack) if at > 0 || self.manifests & 1 << WANTED != 0 => {
                    self.get.packs = pack as u8;
                    GetAt::Opening(at)
                }
                _ => {
                    self.wrong = Some(Wrong::GetFailed);
                    GetAt::Over
                }
            },
            GetAt::Opening(at) if self.packs[usize::from(self.get.packs)].there => after(at),
            GetAt::Opening(at) => GetAt::Listing(at),
            GetAt::Listing(at) => {
                self.get.packs = self.holding(at);
                GetAt::Searching(at)
            }
            GetAt::Searching(at) if self.get.packs & self.there() != 0 => {
                self.seen = Some(Seen::Searched);
                after(at)
            }
            // All that were listed are gone: they were when others had taken their place.
            GetAt::Searching(at) if self.get.packs != 0 && rules.broken != Some(Broken::OneSearch) => {
                GetAt::Listing(at)
            }
            GetAt::Searching(_) => {
                self.wrong = Some(Wrong::GetFailed);
                GetAt::Over
            }
            GetAt::Over => GetAt::Over,
        };
        if !matches!(self.get.at, GetAt::Opening(_) | GetAt::Searching(_)) {
            self.get.packs = 0;
        }
    }
}
