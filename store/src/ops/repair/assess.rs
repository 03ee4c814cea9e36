//! Reads every pack and sorts them: sound ones, and those that have to be replaced, with what can be saved of each. Never
//! changes anything.

use std::collections::{BTreeSet, HashMap, HashSet};

use super::scan::scan;
use crate::backend::{Backend, Key};
use crate::error::Result;
use crate::format::pack::Line;
use crate::id::{ChunkId, PackId, SessionId};
use crate::ops::reading::{Buffers, Unreadable};
use crate::ops::verify::{Checked, ChunkSet, check_pack};
use crate::parallel::in_order;
use crate::progress::{Progress, Stage};
use crate::session;
use crate::store::Store;

/// A pack that is not sound.
pub struct Broken {
    /// Its name.
    pub id: PackId,
    /// What is wrong with it.
    pub reason: String,
    /// Its records that are sound.
    pub good: Vec<Line>,
    /// Its records that are not.
    pub bad: Vec<(ChunkId, Unreadable)>,
    /// Why it has to stay where it is, if it has.
    pub stays: Option<String>,
}

/// What is known of all packs.
pub struct Assessed {
    /// Packs that were read.
    pub packs: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Sound packs, and when that was seen.
    pub sound_packs: Vec<(PackId, i64)>,
    /// The others.
    pub broken: Vec<Broken>,
    sound: ChunkSet,
    /// Chunks that only broken packs hold, with their lengths.
    saved: HashMap<ChunkId, u32>,
}

impl Assessed {
    /// Whether a sound pack holds the chunk.
    pub fn is_sound(&self, id: ChunkId, raw_len: u32) -> bool {
        self.sound.has(id, raw_len)
    }

    /// Whether a sound pack holds the chunk, or a broken one from which it can be saved.
    pub fn has(&self, id: ChunkId, raw_len: u32) -> bool {
        self.sound.has(id, raw_len) || self.saved.get(&id) == Some(&raw_len)
    }
}

/// Reads every pack but those that are being deleted.
pub fn assess(store: &Store, deleting: &BTreeSet<PackId>, progress: &dyn Progress) -> Result<Assessed> {
    let backend: &dyn Backend = store.backend();
    let mut listed = backend.list(crate::backend::Family::Packs)?;
    listed.retain(|(key, _)| !matches!(key, Key::Pack(id) if deleting.contains(id)));
    listed.sort_unstable();
    // After the listing: whoever wrote one of these packs and is alive is among them.
    let live: HashSet<SessionId> = session::live(store.root(), false)?.into_iter().map(|live| live.id).collect();
    progress.begin(Stage::Verify, listed.iter().map(|(_, bytes)| bytes).sum());
    let mut sound = ChunkSet::new();
    let looked_at = in_order(listed.len(), progress, Buffers::new, |buffers, at| {
        let Key::Pack(id) = listed[at].0 else { return Ok(None) };
        let Some(object) = backend.open(listed[at].0)? else { return Ok(None) };
        let time_ms = store.now_ms();
        let mut checked = check_pack(store.id(), id, &*object, false, buffers, progress)?;
        if checked.is_unlisted && !checked.is_unknown {
            let scanned = scan(id, &*object, buffers, progress)?;
            (checked.good, checked.bad) = (scanned.good, scanned.bad);
            checked.is_refused |= scanned.is_refused;
            checked.is_unknown |= scanned.is_unknown;
        }
        let is_live = checked.session.is_some_and(|session| live.contains(&session));
        if checked.is_sound() || is_live {
            checked.good.iter().for_each(|line| sound.add(line.id, line.raw_len));
        }
        if checked.is_sound() { Ok(Some(Ok((id, time_ms)))) } else { Ok(Some(Err(broken(id, checked, is_live)))) }
    })?;
    sound.settle();
    let mut assessed = Assessed {
        packs: looked_at.iter().flatten().count() as u64,
        bytes: listed.iter().map(|(_, bytes)| bytes).sum(),
        sound_packs: Vec::new(),
        broken: Vec::new(),
        sound,
        saved: HashMap::new(),
    };
    for pack in looked_at.into_iter().flatten() {
        match pack {
            Ok(sound) => assessed.sound_packs.push(sound),
            Err(broken) => assessed.broken.push(broken),
        }
    }
    for line in assessed.broken.iter().flat_map(|pack| &pack.good) {
        if !assessed.sound.has(line.id, line.raw_len) {
            assessed.saved.insert(line.id, line.raw_len);
        }
    }
    Ok(assessed)
}

fn broken(id: PackId, checked: Checked, is_live: bool) -> Broken {
    let stays = if checked.is_unknown {
        Some("another version of this program wrote it")
    } else if checked.is_refused {
        Some("the disk does not give all of its bytes: they may come back, and nothing is lost by keeping it")
    } else if is_live {
        Some("a put that is still running wrote it")
    } else {
        None
    };
    let reason = checked.problem.or_else(|| {
        let (chunk, unreadable) = checked.bad.first()?;
        Some(format!("chunk {:.16}…: {}", chunk.to_string(), unreadable.reason))
    });
    Broken {
        id,
        reason: reason.unwrap_or_default(),
        good: if is_live { Vec::new() } else { checked.good },
        bad: checked.bad,
        stays: stays.map(str::to_owned),
    }
}
