//! The wrapping of manifests, catalogs and parts, with its hash mended.
#![no_main]

use ckpt_fuzz::format::envelope::{Kind, id_of, open, session_of};
use ckpt_fuzz::rehashed;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let _ = (session_of(data), id_of(data));
    let _ = open::<serde::de::IgnoredAny>(Kind::Manifest, ckpt_fuzz::ID, data);
    for kind in [Kind::Manifest, Kind::Catalog, Kind::Part] {
        let _ = open::<serde::de::IgnoredAny>(kind, ckpt_fuzz::ID, &rehashed(data.to_vec()));
    }
});
