//! Every chunk comes back from what it is encoded as, and that is never longer than the chunk.
#![no_main]

use std::cell::RefCell;

use ckpt_fuzz::codec::{Decoder, Encoder, Hint};
use ckpt_fuzz::limits::CHUNK_BYTES_MAX;
use ckpt_fuzz::split::Dtype;
use libfuzzer_sys::fuzz_target;

const HINTS: [Hint; 10] = [
    Hint::Unknown,
    Hint::Text,
    Hint::Dtype(Dtype::F64),
    Hint::Dtype(Dtype::F32),
    Hint::Dtype(Dtype::F16),
    Hint::Dtype(Dtype::BF16),
    Hint::Dtype(Dtype::I64),
    Hint::Dtype(Dtype::I32),
    Hint::Dtype(Dtype::I16),
    Hint::Dtype(Dtype::U8),
];

thread_local! {
    static CODECS: RefCell<(Encoder, Decoder)> = RefCell::new((Encoder::new(), Decoder::new()));
}

fuzz_target!(|data: &[u8]| {
    let Some(([hint, times], piece)) = data.split_first_chunk::<2>() else { return };
    // Repeats make chunks long enough for the ways that a short one never takes.
    let raw = piece.repeat(1 + usize::from(*times) % 64);
    let raw = &raw[..raw.len().min(CHUNK_BYTES_MAX)];
    CODECS.with_borrow_mut(|(encoder, decoder)| {
        let (codec, stored) = encoder.encode(raw, HINTS[usize::from(*hint) % HINTS.len()]);
        assert!(stored.len() <= raw.len());
        let mut back = vec![0xAA; raw.len()];
        decoder.decode(codec, stored, &mut back).expect("what was encoded can be decoded");
        assert!(back == raw, "it came back with other bytes");
    });
});
