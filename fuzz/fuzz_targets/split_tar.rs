//! A tar, whole or with the sums of its headers mended, so that what lies in one is reached.
#![no_main]

use ckpt_fuzz::{Bytes, split, split_and_lay_out};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    split_and_lay_out(data);
    let mut file = data.to_vec();
    for block in file.chunks_exact_mut(512).filter(|block| &block[257..262] == b"ustar") {
        block[148..156].fill(b' ');
        let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
        block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    }
    split_and_lay_out(&file);
    let _ = split::cut_short(&Bytes(&file), "a.tar").expect("memory can be read");
});
