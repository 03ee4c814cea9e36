//! The metadata of a distributed checkpoint, beside a sound file with two archives: whatever it says, only names change.
#![no_main]

use ckpt_fuzz::split::{DistributedNames, Segment};
use ckpt_fuzz::{Bytes, distcp, split_and_lay_out};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Some(names) = DistributedNames::read(&Bytes(data)).expect("memory can be read") else { return };
    let before = split_and_lay_out(&distcp());
    let mut split = before.clone();
    for path in ["f", "__0_0.distcp"] {
        names.apply(path, &mut split);
    }
    let lens = |segments: &[Segment]| segments.iter().map(|segment| segment.len).collect::<Vec<_>>();
    assert_eq!(lens(&split.segments), lens(&before.segments));
    let places = |split: &ckpt_fuzz::split::Split| {
        split.views.iter().map(|view| (view.offset, view.len, view.shape.clone())).collect::<Vec<_>>()
    };
    assert_eq!(places(&split), places(&before));
});
