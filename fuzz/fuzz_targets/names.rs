//! Names of files that other tools gave, and the state that Transformers writes beside a checkpoint.
#![no_main]

use ckpt_fuzz::names;
use ckpt_fuzz::names::trainer_state;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let _ = trainer_state(data);
    let Ok(name) = std::str::from_utf8(data) else { return };
    let _ = names::from_name(name);
    let _ = names::step_of(&[name.into(), "checkpoint-500".into()]);
    let _ = (names::has_checkpoint_ending(name), names::is_temporary(name), names::is_checkpoint_folder(name));
    let _ = (names::is_part(name), names::is_numbered(name));
    assert!(name.starts_with(names::stem(name)));
});
