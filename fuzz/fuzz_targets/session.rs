//! The lines of a session's file.
#![no_main]

use ckpt_fuzz::session::pins_in;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    if let Ok(text) = std::str::from_utf8(data) {
        let _ = pins_in(text);
    }
});
