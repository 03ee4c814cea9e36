//! Stored chunks of every codec that nobody encoded: an error, or bytes of the length that was asked for.
#![no_main]

use std::cell::RefCell;

use ckpt_fuzz::codec::{Codec, Decoder};
use ckpt_fuzz::limits::CHUNK_BYTES_MAX;
use libfuzzer_sys::fuzz_target;

thread_local! {
    static DECODER: RefCell<(Decoder, Vec<u8>)> = RefCell::new((Decoder::new(), vec![0; CHUNK_BYTES_MAX]));
}

fuzz_target!(|data: &[u8]| {
    let Some(([codec, len @ ..], stored)) = data.split_first_chunk::<4>() else { return };
    let Ok(codec) = Codec::try_from(codec % 4) else { return };
    let raw_len = u32::from_le_bytes([len[0], len[1], len[2], 0]) as usize % (CHUNK_BYTES_MAX + 1);
    DECODER.with_borrow_mut(|(decoder, raw)| {
        let _ = decoder.decode(codec, stored, &mut raw[..raw_len]);
    });
});
