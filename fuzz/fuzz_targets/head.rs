//! HEAD, with its hash mended, and the state that it and its catalog make.
#![no_main]

use ckpt_fuzz::catalog::State;
use ckpt_fuzz::catalog::refs::{name_of, resolve};
use ckpt_fuzz::format::head::Head;
use ckpt_fuzz::{HeadOnly, hashed_json, sealed};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let _ = Head::from_bytes(data);
    let cut = data.iter().position(|byte| *byte == 0).unwrap_or(data.len());
    let (body, catalog) = data.split_at(cut);
    let head = hashed_json("head", body);
    if let Ok(parsed) = Head::from_bytes(&head) {
        let bytes = parsed.to_bytes().expect("what was read can be written");
        let again = Head::from_bytes(&bytes).expect("what was written can be read");
        assert_eq!(again.deleting, parsed.deleting);
        assert_eq!(again.changes.len(), parsed.changes.len());
    }
    let catalog = sealed(b"CKPTCATA", catalog.get(1..).unwrap_or_default());
    if let Ok(state) = State::load(&HeadOnly { head, catalog }) {
        for entry in &state.entries {
            let _ = (name_of(entry), resolve(&state, &name_of(entry)), state.entry(entry.id));
        }
    }
});
