//! A legacy torch file: as it is, and behind the pickles that begin one.
#![no_main]

use ckpt_fuzz::split::cut_short;
use ckpt_fuzz::{Bytes, LEGACY_HEAD, split_and_lay_out};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let file = [LEGACY_HEAD, data].concat();
    for file in [data, &file] {
        split_and_lay_out(file);
        let _ = cut_short(&Bytes(file), "a.pt").expect("memory can be read");
    }
});
