//! Which packs go, and which are rewritten in which order. Pure but for the lists of chunks that it asks for. Never plans a
//! copy for which there is no room.

use std::cmp::Reverse;

use super::survey::{Pack, Standing};
use crate::error::Result;
use crate::format::pack::Line;
use crate::limits::{
    PACK_BYTES_TARGET, REPACK_BYTES_MAX, REPACK_DEAD_IN_16, REPACK_ROOM_SPARE_BYTES, SMALL_PACK_BYTES, SMALL_PACKS_MAX,
};
use crate::packs::Sizer;

/// What is to be done. Packs stand by their places in the survey's list.
#[derive(Debug, Default, PartialEq)]
pub struct Plan {
    /// Packs in which nothing is needed.
    pub dead: Vec<usize>,
    /// Packs to rewrite, in this order.
    pub groups: Vec<Group>,
    /// Bytes that the store will be smaller by.
    pub freed_bytes: u64,
    /// Bytes of the new packs.
    pub copied_bytes: u64,
}

/// Packs that are rewritten together.
#[derive(Debug, Default, PartialEq)]
pub struct Group {
    /// Which.
    pub packs: Vec<usize>,
    /// Bytes that they have.
    pub old_bytes: u64,
    /// Bytes of what takes their place.
    pub new_bytes: u64,
}

/// The packs in which nothing is needed.
pub fn dead(packs: &[Pack]) -> Vec<usize> {
    (0..packs.len()).filter(|at| packs[*at].standing == Standing::Free && packs[*at].used_chunks == 0).collect()
}

/// The packs that are worth rewriting, those first that give most for their copy: mostly dead ones, and then small ones
/// where there are many, the oldest first.
pub fn candidates(packs: &[Pack]) -> Vec<usize> {
    let free = (0..packs.len()).filter(|at| packs[*at].standing == Standing::Free && packs[*at].used_chunks > 0);
    let mostly_dead =
        |pack: &Pack| (pack.payload - pack.used.min(pack.payload)) * 16 > pack.payload * REPACK_DEAD_IN_16;
    let (mut worst, rest): (Vec<usize>, Vec<usize>) = free.partition(|at| mostly_dead(&packs[*at]));
    worst.sort_by_key(|at| {
        let pack = &packs[*at];
        // In millionths: an order that is the same everywhere.
        (u128::from(pack.used) * 1_000_000 / u128::from(pack.payload.max(1)), Reverse(pack.payload))
    });
    let small: Vec<usize> = rest.into_iter().filter(|at| packs[*at].bytes < SMALL_PACK_BYTES).collect();
    if small.len() > SMALL_PACKS_MAX {
        worst.extend(small);
    }
    worst
}

/// Plans. `room` is what is free on the disk now; `needed` answers the chunks of a pack that are needed there.
pub fn plan(packs: &[Pack], room: u64, needed: &dyn Fn(usize) -> Result<Vec<Line>>) -> Result<Plan> {
    // A pack goes only after every newer copy on which that relies was read.
    let is_checked = |at: &usize| packs[*at].copies == 0 || packs[*at].copies_checked;
    let mut plan = Plan { dead: dead(packs), ..Plan::default() };
    plan.dead.retain(is_checked);
    plan.freed_bytes = plan.dead.iter().map(|at| packs[*at].bytes).sum();
    let going: u64 = packs.iter().filter(|pack| pack.standing == Standing::Going).map(|pack| pack.bytes).sum();
    let mut room = room.saturating_add(plan.freed_bytes).saturating_add(going).saturating_sub(REPACK_ROOM_SPARE_BYTES);
    let mut order = candidates(packs);
    order.retain(is_checked);
    if order.iter().map(|at| packs[*at].bytes).sum::<u64>() > room {
        // Each small copy makes room for a larger one.
        order.sort_by_key(|at| packs[*at].used);
    }
    let (mut group, mut size) = (Group::default(), Sizer::default());
    for at in order {
        if plan.copied_bytes + size.bytes() + packs[at].used > REPACK_BYTES_MAX {
            continue;
        }
        let lines = needed(at)?;
        let mut with = lines.iter().fold(size, Sizer::with);
        if !group.packs.is_empty() && (with.bytes() > PACK_BYTES_TARGET || with.bytes() > room) {
            room = plan.close(std::mem::take(&mut group), room);
            size = Sizer::default();
            with = lines.iter().fold(size, Sizer::with);
        }
        if with.bytes() > room {
            continue;
        }
        size = with;
        group.packs.push(at);
        group.old_bytes += packs[at].bytes;
        group.new_bytes = size.bytes();
    }
    plan.close(group, room);
    Ok(plan)
}

impl Plan {
    /// Takes a group on if it frees anything; answers the room after it.
    fn close(&mut self, group: Group, room: u64) -> u64 {
        let Some(freed) = group.old_bytes.checked_sub(group.new_bytes).filter(|freed| *freed > 0) else { return room };
        self.freed_bytes += freed;
        self.copied_bytes += group.new_bytes;
        self.groups.push(group);
        room.saturating_add(freed)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that can't go on has failed")]
mod tests {
    use super::*;
    use crate::codec::Codec;
    use crate::id::{ChunkId, PackId};

    const CHUNK: u32 = 1 << 20;

    /// A full pack of chunks of a MiB, of which so many are in use.
    fn pack(used: u64) -> Pack {
        let payload = 128 * u64::from(CHUNK);
        let pack = Pack::new(PackId::generate(), payload + 128 * 4096, Standing::Free);
        Pack { payload, used: used * u64::from(CHUNK), used_chunks: used, ..pack }
    }

    fn planned(packs: &[Pack], room: u64) -> Plan {
        let line = |nr: u64| {
            let (stored_len, raw_len) = (CHUNK, CHUNK);
            Line { id: ChunkId::of(&nr.to_le_bytes()), offset: 0, stored_len, raw_len, codec: Codec::Raw, crc: 0 }
        };
        plan(packs, room, &|at| Ok((0..packs[at].used_chunks).map(line).collect())).unwrap()
    }

    fn rewritten(plan: &Plan) -> Vec<Vec<usize>> {
        plan.groups.iter().map(|group| group.packs.clone()).collect()
    }

    #[test]
    fn the_worst_go_first_and_fill_new_packs() {
        let packs = [pack(64), pack(40), pack(60), pack(0), pack(128), pack(1)];
        let plan = planned(&packs, u64::MAX);
        assert_eq!(plan.dead, [3]);
        assert_eq!(rewritten(&plan), [vec![5, 1, 2]], "half in use is left alone");
        let copied = 101 * (u64::from(CHUNK) + 4096);
        assert!(plan.copied_bytes.abs_diff(copied) < 20_000, "{} for {copied}", plan.copied_bytes);
        assert_eq!(plan.freed_bytes, 4 * packs[0].bytes - plan.copied_bytes);
        assert_eq!(rewritten(&planned(&vec![pack(60); 5], u64::MAX)), [vec![0, 1], vec![2, 3], vec![4]]);
    }

    #[test]
    fn no_copy_needs_more_room_than_there_is() {
        let packs = [pack(40), pack(10), pack(60)];
        assert_eq!(rewritten(&planned(&packs, 0)), [[0; 0]; 0], "a full disk, and nothing dead");
        let little = REPACK_ROOM_SPARE_BYTES + 12 * u64::from(CHUNK);
        // The small one makes room for the others, one after the other.
        assert_eq!(rewritten(&planned(&packs, little)), [vec![1], vec![0, 2]]);
        let dead = [pack(40), pack(10), pack(60), pack(0)];
        assert_eq!(rewritten(&planned(&dead, 0)).concat().len(), 3, "what is dead goes first and makes room");
    }

    #[test]
    fn one_gc_copies_only_so_much() {
        let packs: Vec<Pack> = (0..200).map(|_| pack(60)).collect();
        let plan = planned(&packs, u64::MAX);
        assert!(plan.copied_bytes <= REPACK_BYTES_MAX && plan.copied_bytes > REPACK_BYTES_MAX * 9 / 10);
    }

    #[test]
    fn what_must_stay_stays() {
        let mut packs = vec![pack(0), pack(1), pack(0), pack(1), pack(0)];
        (packs[0].standing, packs[1].standing) = (Standing::Live, Standing::Unreadable);
        (packs[2].copies, packs[3].copies) = (1, 1);
        assert_eq!(planned(&packs, u64::MAX).dead, [4], "copies that nobody read don't count");
        packs.iter_mut().for_each(|pack| pack.copies_checked = true);
        let plan = planned(&packs, u64::MAX);
        assert_eq!((plan.dead.clone(), rewritten(&plan)), (vec![2, 4], vec![vec![3]]));
    }
}
