//! A safetensors file, from its header: the length before it is added.
#![no_main]

use ckpt_fuzz::split_and_lay_out;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    split_and_lay_out(data);
    // A zero byte parts the header from what follows it, as much again as the header is long when there is none.
    let cut = data.iter().position(|byte| *byte == 0).unwrap_or(data.len());
    let (header, tensors) = data.split_at(cut);
    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.extend_from_slice(header);
    file.extend_from_slice(tensors.get(1..).filter(|tensors| !tensors.is_empty()).unwrap_or(header));
    split_and_lay_out(&file);
});
