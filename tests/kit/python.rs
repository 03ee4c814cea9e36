//! The Python whose frameworks write real files.

use std::process::Command;

/// That Python, set up so that the same script writes the same files. `make test` names it in CKPT_TEST_PYTHON.
///
/// # Panics
/// When the variable is not set.
pub fn python() -> Command {
    let Some(python) = std::env::var_os("CKPT_TEST_PYTHON") else {
        panic!(
            "CKPT_TEST_PYTHON is not set: a Python with what tests/setup/requirements.txt lists. `make test` sets it."
        )
    };
    let mut command = Command::new(python);
    command.args(["-B", "-W", "ignore"]);
    // Threads that wait by spinning slow a busy machine down many times over, and nothing here needs a second one.
    command.env("OMP_NUM_THREADS", "1").env("PYTHONHASHSEED", "0");
    command
}

/// Runs it to its end.
///
/// # Panics
/// When it fails.
pub fn run_python(command: &mut Command) -> String {
    let ran = command.output().unwrap_or_else(|error| panic!("{command:?} can't be started: {error}"));
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(ran.status.success(), "{command:?} failed\n{}{}", text(&ran.stdout), text(&ran.stderr));
    text(&ran.stdout)
}
