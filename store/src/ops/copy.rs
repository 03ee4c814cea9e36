//! Copies chunks from pack to pack as they are stored, each decoded and checked first: for gc, which rewrites packs, and for
//! repair, which saves what is sound. Never encodes anew, never publishes, and never decides what is worth copying.

use super::reading::{Buffers, Unreadable, read_chunk};
use crate::backend::Backend;
use crate::error::Result;
use crate::id::{ChunkId, SessionId};
use crate::index::Place;
use crate::packs::{PackReader, PackWriter, SealedPack};
use crate::parallel::in_order;
use crate::progress::Progress;
use crate::store::Store;

/// Chunks that are in memory at once, a MiB each at most.
const BATCH_CHUNKS: usize = 32;

/// What came of copying.
pub struct Copied {
    /// New packs, durable and not published; dropping them removes them.
    pub packs: Vec<SealedPack>,
    /// Chunks that were not copied because their bytes are not what their name says.
    pub damaged: Vec<(ChunkId, Unreadable)>,
}

/// Copies the chunks that lie at these places of `from` into new packs of `session` in `to`, in the order given: so the bytes
/// of the new packs can be told beforehand, by [`crate::packs::Sizer`]. Advances `progress` by the stored bytes; the caller
/// begins the stage.
pub fn copy_chunks(
    from: &dyn Backend,
    to: &Store,
    session: SessionId,
    chunks: &[(ChunkId, Place)],
    progress: &dyn Progress,
) -> Result<Copied> {
    let reader = PackReader::new(from);
    let mut writer = PackWriter::new(to.backend(), to.id(), session);
    let mut damaged = Vec::new();
    for batch in chunks.chunks(BATCH_CHUNKS) {
        let read = in_order(batch.len(), progress, Buffers::new, |buffers, at| {
            let (id, place) = batch[at];
            let unreadable = |reason: String| Err(Unreadable { pack: Some(place.pack), reason });
            let Some(pack) = reader.open(place.pack)? else { return Ok(unreadable("the pack is missing".into())) };
            if let Err(reason) = read_chunk(&*pack, id, place, place.raw_len, buffers) {
                return Ok(unreadable(reason));
            }
            Ok(Ok(buffers.stored(place.stored_len as usize).to_vec()))
        })?;
        for ((id, place), stored) in batch.iter().zip(read) {
            match stored {
                Ok(stored) => {
                    writer.append(*id, place.codec, &stored, place.raw_len as usize)?;
                    progress.advance(u64::from(place.stored_len));
                }
                Err(unreadable) => damaged.push((*id, unreadable)),
            }
        }
    }
    Ok(Copied { packs: writer.finish()?, damaged })
}
