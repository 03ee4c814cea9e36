//! A `.npy` file, whole or with its magic and the length of its header mended.
#![no_main]

use ckpt_fuzz::{Bytes, split, split_and_lay_out};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    split_and_lay_out(data);
    let mut file = b"\x93NUMPY\x01\0".to_vec();
    let header = data.iter().position(|byte| *byte == 0).unwrap_or(data.len());
    file.extend_from_slice(&(header as u16).to_le_bytes());
    file.extend_from_slice(data);
    split_and_lay_out(&file);
    let _ = split::cut_short(&Bytes(&file), "a.npy").expect("memory can be read");
});
