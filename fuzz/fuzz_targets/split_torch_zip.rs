//! The pickle of a torch zip, in a sound archive with two storages.
#![no_main]

use ckpt_fuzz::{split_and_lay_out, zip};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    split_and_lay_out(&zip(&[("m/data.pkl", data), ("m/data/0", &[1; 400]), ("m/data/1", &[2; 40_000])]));
});
