//! A part of a checkpoint, from its payload as it is once unpacked, and as the bytes that a process sends. One that is accepted can
//! be followed as a manifest can.
#![no_main]

use ckpt_fuzz::format::part::Part;
use ckpt_fuzz::sealed;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let _ = Part::from_bytes(data);
    let Ok(part) = Part::from_bytes(&sealed(b"CKPTPART", data)) else { return };
    assert!(part.packs.is_superset(&part.written));
    part.manifest.check().expect("it was checked when it was read");
    let again = part.to_bytes().expect("what was read can be written");
    let again = Part::from_bytes(&again).expect("what was written can be read");
    assert_eq!((again.packs, again.written, again.manifest.files), (part.packs, part.written, part.manifest.files));
});
