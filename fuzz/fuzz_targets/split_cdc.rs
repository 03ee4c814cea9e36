//! Files of unknown structure, long enough to be cut by content, and several of them laid out together.
#![no_main]

use std::sync::Arc;

use ckpt_fuzz::split::{Source, lay_out, split};
use ckpt_fuzz::{Owned, split_and_lay_out};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Some((times, piece)) = data.split_first() else { return };
    let mut file = Vec::new();
    for turn in 0..=u32::from(*times) * 8 {
        if file.len() > 3 << 20 {
            break;
        }
        file.extend_from_slice(&turn.to_le_bytes());
        file.extend_from_slice(piece);
    }
    split_and_lay_out(&file);
    let sources = [&file[..], piece].map(|bytes| Arc::new(Owned(bytes.to_vec())) as Arc<dyn Source>);
    let splits = sources.each_ref().map(|source| split(source).expect("memory can be read"));
    let layout = lay_out(&[(&*sources[0], &splits[0]), (&*sources[1], &splits[1])]).expect("memory can be read");
    let inline: u64 = layout.inline.iter().map(|range| u64::from(range.len)).sum();
    let chunks: u64 = layout.chunks.iter().map(|chunk| u64::from(chunk.len)).sum();
    assert_eq!(inline + chunks, (file.len() + piece.len()) as u64);
});
