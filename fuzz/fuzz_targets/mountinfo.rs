//! The kernel's list of mounts: users choose the names in it.
#![no_main]

use std::path::Path;

use ckpt_fuzz::mountinfo::{parse, reached};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let mounts = parse(data);
    for path in ["/", "/a/b"] {
        // Each walk is over the whole list.
        let reached = reached(&mounts[..mounts.len().min(64)], Path::new(path));
        assert!(reached.is_none_or(|mount| Path::new(path).starts_with(&mount.point)));
    }
});
