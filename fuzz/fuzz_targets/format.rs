//! FORMAT, with its hash mended.
#![no_main]

use ckpt_fuzz::format::head::Format;
use ckpt_fuzz::hashed_json;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let _ = Format::from_bytes(data);
    if let Ok(format) = Format::from_bytes(&hashed_json("format", data)) {
        let bytes = format.to_bytes().expect("what was read can be written");
        assert_eq!(Format::from_bytes(&bytes).expect("what was written can be read"), format);
    }
});
