//! Looks at a mount from a process of its own, with a time-out: one that hangs in a mount can't even be killed.

use std::io::Read;
use std::path::Path;
use std::process::{ExitCode, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use ckpt_fuse::Look;

use super::this_command;
use crate::failure::Failure;
use crate::output::print;
use crate::progress::signals;

/// How long a mount may take to answer.
pub const PATIENCE: Duration = Duration::from_secs(5);

/// How long the names of all files of checkpoints may take to be listed: some 50 µs each, and there may be millions.
pub const WALK: Duration = Duration::from_secs(600);

/// How often this process looks whether it is to stop.
const TICK: Duration = Duration::from_millis(50);

/// Is that process: looks, and makes the kernel know the files of these checkpoints.
pub fn answer(directory: &Path, ids: &[String]) -> Result<ExitCode, Failure> {
    let mut look = ckpt_fuse::look(directory);
    for id in ids {
        let checkpoint = directory.join("by-id").join(id);
        let walked = std::fs::canonicalize(&checkpoint).and_then(|path| ckpt_fuse::walk(&path));
        if let (Err(error), Look::Alive(_)) = (walked, &look) {
            look = Look::Failed(format!("can't list the checkpoint {id}: {error}"));
        }
    }
    print(&serde_json::to_string(&look).map_err(|error| ckpt_store::Error::Internal(error.to_string()))?)?;
    Ok(ExitCode::SUCCESS)
}

/// Has somebody look, and waits for a while.
pub fn within(directory: &Path, ids: &[String], patience: Duration) -> Result<Look, Failure> {
    let mut command = this_command();
    command.args(["mount", "--look"]).args(ids.iter().flat_map(|id| ["--warm", id])).arg("--").arg(directory);
    command.current_dir("/").stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    let failed = |source| ckpt_fuse::Error::Io { what: "can't start a process to look at the mount".into(), source };
    let mut child = command.spawn().map_err(failed)?;
    let (tell, told) = mpsc::channel();
    if let Some(mut stdout) = child.stdout.take() {
        std::thread::spawn(move || {
            let mut text = Vec::new();
            let _ = stdout.read_to_end(&mut text);
            let _ = tell.send(text);
        });
    }
    let end = Instant::now() + patience;
    let before = signals();
    loop {
        match told.recv_timeout(TICK) {
            Ok(text) => {
                let _ = child.wait();
                let ended = || Look::Failed("who looked at it ended early".into());
                return Ok(serde_json::from_slice(&text).unwrap_or_else(|_| ended()));
            }
            Err(mpsc::RecvTimeoutError::Timeout) if Instant::now() < end && signals() == before => {}
            Err(_) => break,
        }
    }
    // Not waited for: it may hang in the kernel until the mount is gone.
    let _ = child.kill();
    if signals() > before { Err(ckpt_store::Error::Interrupted.into()) } else { Ok(Look::Silent) }
}
