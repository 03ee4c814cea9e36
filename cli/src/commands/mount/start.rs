//! Starts the server in the background and waits until it says that the mount works, or why not.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, ExitCode, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use super::super::Context;
use super::ready::Told;
use super::{log, place, this_command};
use crate::args::Mount;
use crate::failure::Failure;
use crate::progress::signals;

/// How often this process looks whether it is to stop.
const TICK: Duration = Duration::from_millis(50);

pub fn run(context: &Context, args: &Mount, dir: &Path) -> Result<ExitCode, Failure> {
    let directory = place(dir)?;
    let store = ckpt_fuse::real(&context.locate()?);
    // What is no store has nothing that a mount could hide.
    drop(ckpt_store::Store::open(&store)?);
    // Before the log, which may lie there as well but is not what people should hear of.
    ckpt_fuse::apart(&directory, &store, &[])?;
    let (log, stderr) = open_log(args.log.as_deref(), &directory)?;
    let mut command = this_command();
    command.arg("--store").arg(store).args(["mount", "--server"]);
    if let Some(runs) = &args.run {
        command.arg(format!("--run={runs}"));
    }
    command.args(args.allow_other.then_some("--allow-other")).args(args.nonempty.then_some("--nonempty"));
    command.arg("--cache-size").arg(args.cache_size.to_string());
    command.args(args.warm.iter().map(|reference| format!("--warm={reference}")));
    if let Some(directory) = &args.materialize {
        command.arg("--materialize").arg(ckpt_fuse::real(directory));
        command.arg("--materialize-limit").arg(args.materialize_limit.to_string());
    }
    if let Some(log) = &log {
        command.arg("--log").arg(log);
    }
    command.arg("--").arg(&directory);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(stderr);
    let failed = |source| ckpt_fuse::Error::Io { what: "can't start the process that serves the mount".into(), source };
    let child = command.spawn().map_err(failed)?;
    match told(child)? {
        (Some(Told::Ready(ready)), _) => {
            ready.answer(context.json)?;
            Ok(ExitCode::SUCCESS)
        }
        (Some(Told::Failed { text, code }), _) => Err(Failure::Told { text, code }),
        (None, status) => {
            let ended = status.map_or_else(|| "ended".to_owned(), |status| format!("ended ({status})"));
            let hint = log.map(|log| format!("Hint: its log is {}\n", log.display())).unwrap_or_default();
            let text = format!("Error: the process that serves the mount {ended} before it was ready\n{hint}");
            Err(Failure::Told { text, code: 1 })
        }
    }
}

/// What the server says, or how it ended without a word. A signal to this process goes on to it: it runs apart.
fn told(mut child: Child) -> Result<(Option<Told>, Option<std::process::ExitStatus>), Failure> {
    let (tell, heard) = mpsc::channel();
    if let Some(mut stdout) = child.stdout.take() {
        std::thread::spawn(move || {
            let mut text = Vec::new();
            let _ = stdout.read_to_end(&mut text);
            let _ = tell.send(text);
        });
    }
    let mut passed_on = 0;
    let text = loop {
        match heard.recv_timeout(TICK) {
            Ok(text) => break text,
            Err(mpsc::RecvTimeoutError::Disconnected) => break Vec::new(),
            Err(mpsc::RecvTimeoutError::Timeout) => {}
        }
        if signals() > passed_on {
            passed_on = signals();
            if let Some(pid) = i32::try_from(child.id()).ok().and_then(rustix::process::Pid::from_raw) {
                let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
            }
        }
    };
    let told = serde_json::from_slice(&text).ok();
    let status = if matches!(told, Some(Told::Ready(_))) { None } else { child.wait().ok() };
    if passed_on > 0 {
        return Err(ckpt_store::Error::Interrupted.into());
    }
    Ok((told, status))
}

/// The log, and stderr of the server. Where nobody said which and the usual one can't be written, there is none.
fn open_log(given: Option<&Path>, directory: &Path) -> Result<(Option<PathBuf>, Stdio), Failure> {
    let Some(path) = given.map(Path::to_owned).or_else(log::default_path).map(|path| ckpt_fuse::real(&path)) else {
        eprintln!("Note: there is no log: HOME is not set; `--log FILE` says where to");
        return Ok((None, Stdio::null()));
    };
    if path.starts_with(directory) {
        let why = format!("it would hide the log {}", path.display());
        return Err(ckpt_fuse::Error::Overlap { directory: directory.to_owned(), why }.into());
    }
    // The usual place is made; one that somebody named is to be there.
    let made = match path.parent().filter(|_| given.is_none()) {
        Some(above) => std::fs::create_dir_all(above),
        None => Ok(()),
    };
    match made.and_then(|()| log::open(&path)) {
        Ok(file) => Ok((Some(path), file.into())),
        Err(error) if given.is_none() => {
            eprintln!(
                "Note: there is no log: {} can't be written ({error}); `--log FILE` says where to",
                path.display()
            );
            Ok((None, Stdio::null()))
        }
        Err(error) => Err(log::failure(&path, error)),
    }
}
