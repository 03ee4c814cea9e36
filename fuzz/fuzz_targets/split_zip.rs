//! A zip, torch's or another, whole or with its first magic mended.
#![no_main]

use ckpt_fuzz::split_and_lay_out;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    split_and_lay_out(data);
    let mut file = b"PK\x03\x04".to_vec();
    file.extend_from_slice(data);
    split_and_lay_out(&file);
});
