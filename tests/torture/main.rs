//! `make torture`
use ckpt_tests::faults::{MODES, OPERATIONS, try_calls};
fn main() {
    let wanted = std::env::args().nth(1).unwrap_or_default();
    for operation in OPERATIONS.iter().filter(|o| o.name.starts_with(&wanted)) {
        for mode in MODES {
            let done = std::panic::catch_unwind(|| try_calls(operation, mode, |_, _| true));
            println!("{}, {}: {done:?}", operation.name, mode.name);
        }
    }
}
