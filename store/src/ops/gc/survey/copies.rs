//! Chunks that several packs hold, after a crash or because damage was healed. Never lets a pack go for a newer copy that was
//! not found by its whole id, read and checked.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use super::{Survey, Use, read_lines};
use crate::backend::Key;
use crate::error::Result;
use crate::id::{ChunkId, PackId};
use crate::index::Place;
use crate::ops::gc::plan;
use crate::ops::reading::{Buffers, read_chunk};
use crate::parallel::in_order;
use crate::progress::Progress;
use crate::store::Store;

impl Survey {
    /// Where the chunks in use of these packs lie in newer ones, which are made durable: from now on they are all there is.
    pub fn newer_places(&self, store: &Store, packs: &BTreeSet<PackId>) -> Result<HashMap<ChunkId, Place>> {
        let mut wanted: BTreeMap<usize, HashSet<ChunkId>> = BTreeMap::new();
        for (at, pack) in self.packs.iter().enumerate().filter(|(_, pack)| pack.copies > 0 && packs.contains(&pack.id))
        {
            for line in read_lines(store, pack.id)?.unwrap_or_default() {
                if let Use::Elsewhere(home) = self.use_of(at, line.id) {
                    wanted.entry(home).or_default().insert(line.id);
                }
            }
        }
        let mut places = HashMap::new();
        for (home, ids) in wanted {
            let pack = self.packs[home].id;
            // One that was rewritten meanwhile is gone, and the index knows the chunk where it went.
            let Some(lines) = read_lines(store, pack)? else { continue };
            store.backend().make_durable(Key::Pack(pack))?;
            places.extend(lines.iter().filter(|l| ids.contains(&l.id)).map(|l| (l.id, Place::new(pack, l))));
        }
        Ok(places)
    }

    /// Reads the newer copy of every chunk for which a pack would otherwise have to stay: only one that is sound counts.
    pub(super) fn check_copies(&mut self, store: &Store, progress: &dyn Progress) -> Result<()> {
        let mut going = plan::dead(&self.packs);
        going.extend(plan::candidates(&self.packs));
        going.retain(|at| self.packs[*at].copies > 0);
        let rescued = in_order(going.len(), progress, Buffers::new, |buffers, nr| {
            let at = going[nr];
            let mut copies: BTreeMap<usize, HashMap<ChunkId, u32>> = BTreeMap::new();
            for line in read_lines(store, self.packs[at].id)?.unwrap_or_default() {
                if let Use::Elsewhere(home) = self.use_of(at, line.id) {
                    copies.entry(home).or_default().insert(line.id, line.stored_len);
                }
            }
            let mut rescued = Vec::new();
            for (home, mut ids) in copies {
                let pack = self.packs[home].id;
                if let Some(object) = store.backend().open(Key::Pack(pack))? {
                    for line in read_lines(store, pack)?.unwrap_or_default() {
                        let place = Place::new(pack, &line);
                        if ids.contains_key(&line.id)
                            && read_chunk(&*object, line.id, place, line.raw_len, buffers).is_ok()
                        {
                            ids.remove(&line.id);
                        }
                    }
                }
                rescued.extend(ids);
            }
            Ok(rescued)
        })?;
        for (at, rescued) in going.into_iter().zip(rescued) {
            let pack = &mut self.packs[at];
            pack.used += rescued.iter().map(|(_, bytes)| u64::from(*bytes)).sum::<u64>();
            pack.used_chunks += rescued.len() as u64;
            pack.copies_checked = true;
            pack.rescued = rescued.into_iter().map(|(id, _)| id).collect();
        }
        Ok(())
    }
}
