//! A GGUF file, whole or with its magic mended.
#![no_main]

use ckpt_fuzz::{Bytes, split, split_and_lay_out};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    split_and_lay_out(data);
    let mut file = b"GGUF\x03\0\0\0".to_vec();
    file.extend_from_slice(data);
    split_and_lay_out(&file);
    let _ = split::cut_short(&Bytes(&file), "a.gguf").expect("memory can be read");
});
