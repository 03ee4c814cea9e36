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
