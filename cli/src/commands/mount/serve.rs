//! The process that serves a mount: mounts, has somebody look at it, says that it is ready, waits for its end.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use ckpt_fuse::{Log as _, Look, Materialize, Mounted, Options, Runs, Status, Stop};

use super::super::Context;
use super::log::{self, Log};
use super::ready::{Ready, Told};
use super::{look, place};
use crate::args::Mount;
use crate::failure::Failure;
use crate::output::{print, printable};
use crate::progress::{outlive_signals, signals};

/// Stays until the mount is gone.
pub fn in_foreground(context: &Context, args: &Mount, dir: &Path) -> Result<ExitCode, Failure> {
    outlive_signals();
    let (mounted, ready, log) = mount(context, args, dir)?;
    ready.answer(context.json)?;
    tell_systemd();
    mounted.wait(&stop)?;
    log_end(&log);
    Ok(ExitCode::SUCCESS)
}

/// Is the process that `start` has started: tells it how mounting went, then nobody any more.
pub fn in_background(context: &Context, args: &Mount, dir: &Path) -> ExitCode {
    close_inherited();
    outlive_signals();
    // It outlives the terminal that it was started from, and its directory.
    let _ = rustix::process::setsid();
    let outcome = std::env::set_current_dir("/")
        .map_err(|error| ckpt_store::Error::io("enter", Path::new("/"), error).into())
        .and_then(|()| mount(context, args, dir));
    let (told, mounted) = match outcome {
        Ok((mounted, ready, log)) => (Told::Ready(ready), Some((mounted, log))),
        Err(failure) => {
            let (text, code) = failure.told();
            (Told::Failed { text, code }, None)
        }
    };
    let told = serde_json::to_string(&told).unwrap_or_default();
    let is_told = print(&told).is_ok();
    // Whoever reads to the end of what the command prints is not to wait for the end of the mount.
    if let Ok(null) = File::options().write(true).open("/dev/null") {
        let _ = rustix::stdio::dup2_stdout(null);
    }
    match mounted {
        // Nobody would know of a mount that nobody was told of: dropping it unmounts.
        Some((mounted, log)) if is_told => match mounted.wait(&stop) {
            Ok(()) => {
                log_end(&log);
                ExitCode::SUCCESS
            }
            Err(error) => Failure::from(error).report(),
        },
        _ => ExitCode::FAILURE,
    }
}

/// Lets go of what whoever called the command had open without close-on-exec: a lock that was taken by `flock` or the
/// end of a pipe would be held as long as the mount lives. All that this program opens itself is closed on exec, so
/// none of that is hit.
fn close_inherited() {
    /// `O_CLOEXEC`, as `/proc` writes it.
    const CLOSED_ON_EXEC: u32 = 0o2_000_000;
    let is_inherited = |fd: &i32| {
        let about = std::fs::read_to_string(format!("/proc/self/fdinfo/{fd}")).unwrap_or_default();
        let flags = about.lines().find_map(|line| line.strip_prefix("flags:"));
        flags
            .and_then(|flags| u32::from_str_radix(flags.trim(), 8).ok())
            .is_some_and(|flags| flags & CLOSED_ON_EXEC == 0)
    };
    let entries = std::fs::read_dir("/proc/self/fd").into_iter().flatten().flatten();
    let numbers: Vec<i32> = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect();
    for fd in numbers.into_iter().filter(|fd| *fd > 2).filter(is_inherited) {
        let _ = nix::unistd::close(fd);
    }
}

/// The first signal asks for the end, the second for one at once.
fn stop() -> Stop {
    match signals() {
        0 => Stop::No,
        1 => Stop::Soon,
        _ => Stop::Now,
    }
}

/// Lets this process have as many files open as it may: each checkpoint of which somebody has a file open takes up to
/// ten, and the usual thousand is enough for a hundred.
fn raise_open_files() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    // What is refused leaves it as it was.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
}

/// Writes into a log file how it began, for who wonders since when it is there and what became of the one before.
fn log_start(log: &Log, ready: &Ready) {
    if log.is_file() {
        ready.notes.iter().for_each(|note| log.line(note));
        log.line(&format!("mounted {} by process {}, ckpt {}", ready.store, ready.pid, env!("CARGO_PKG_VERSION")));
    }
}

fn log_end(log: &Log) {
    if log.is_file() {
        log.line(if signals() == 0 { "unmounted" } else { "ended by a signal" });
    }
}

fn mount(context: &Context, args: &Mount, dir: &Path) -> Result<(Mounted, Ready, Arc<Log>), Failure> {
    raise_open_files();
    let directory = place(dir)?;
    let store = Arc::new(ckpt_store::Store::open(&ckpt_fuse::real(&context.locate()?))?);
    let mut warm = Vec::new();
    let runs = args.run.as_deref().map(Runs::new).transpose()?;
    for reference in &args.warm {
        if reference.is_empty() {
            return Err(Failure::usage("`--warm` names no checkpoint", "`--warm RUN@latest`, for instance"));
        }
        let settled = store.settle(reference, &context.bar())?;
        let entry = store.resolve(&settled)?;
        if runs.as_ref().is_some_and(|runs| !runs.show(&entry.run)) {
            let glob = args.run.as_deref().unwrap_or_default();
            let message = format!("`--warm {reference}` is of the run {}, which `--run {glob}` leaves out", entry.run);
            return Err(Failure::usage(message, "bring one of a run that is shown, or show that run as well"));
        }
        warm.push(entry.id);
    }
    let log_file = args.log.as_deref().map(ckpt_fuse::real);
    let materialize = args.materialize.as_deref().map(ckpt_fuse::real);
    let others = [("the log", log_file.as_deref()), ("what is laid down whole in", materialize.as_deref())];
    let others: Vec<(&str, &Path)> = others.iter().filter_map(|(what, path)| Some((*what, (*path)?))).collect();
    // Of two that mount on one place at the same time the second is to see what the first has mounted, and not to take
    // that away for the dead one that both have seen. The place itself can't be opened while a dead one lies on it.
    let turn = File::open(directory.parent().unwrap_or(&directory)).and_then(|turn| turn.lock().map(|()| turn));
    let mut notes = Vec::new();
    clear_stale(&directory, &mut notes)?;
    ckpt_fuse::check(&directory, store.root(), &others, args.nonempty)?;
    if let Some(laid) = &materialize {
        ckpt_fuse::check_laid(laid, store.root())?;
    }
    if ckpt_fuse::mount_on(&directory)?.is_some_and(|mount| mount.is_ours()) {
        return Err(ckpt_fuse::Error::Mounted { directory }.into());
    }
    let options = Options {
        runs: args.run.clone(),
        allow_other: args.allow_other,
        cache_bytes: usize::try_from(args.cache_size).unwrap_or(usize::MAX),
        materialize: materialize.map(|directory| Materialize { directory, bytes_max: args.materialize_limit }),
        log_file: log_file.clone(),
    };
    let log = Log::new(&directory, log_file.clone(), args.server)
        .map_err(|error| log::failure(&log_file.unwrap_or_default(), error))?;
    let log = Arc::new(log);
    let mounted =
        ckpt_fuse::mount(Arc::clone(&store), &directory, &options, Arc::clone(&log) as Arc<dyn ckpt_fuse::Log>)?;
    drop(turn);
    let ids: Vec<String> = warm.iter().map(ToString::to_string).collect();
    // An error drops the mount, and so unmounts it.
    let status = answers(&directory, &[], look::PATIENCE)?;
    notes.extend(
        status.and_then(|status| status.materialize_why_not).map(|why| format!("files are not laid down: {why}")),
    );
    if let (Some(glob), Some(runs)) = (&args.run, &runs)
        && !store.checkpoints()?.iter().any(|entry| runs.show(&entry.run))
    {
        notes.push(format!("no run matches `--run {glob}` so far; one that comes and does will be shown"));
    }
    if !warm.is_empty() {
        answers(&directory, &ids, look::WALK)?;
        mounted.warm(warm)?;
    }
    let ready = Ready {
        store: store.root().display().to_string(),
        directory: directory.display().to_string(),
        pid: std::process::id(),
        read_ahead_kb: mounted.read_ahead_kb(),
        log: options.log_file.map(|path| path.display().to_string()),
        notes,
    };
    log_start(&log, &ready);
    Ok((mounted, ready, log))
}

/// Has somebody look at the mount, and at all files of these checkpoints; what it says of itself.
fn answers(directory: &Path, ids: &[String], patience: Duration) -> Result<Option<Box<Status>>, Failure> {
    match look::within(directory, ids, patience)? {
        Look::Alive(status) => Ok(status),
        Look::Failed(reason) => {
            let what = format!("{} is mounted but can't be read", directory.display());
            Err(ckpt_fuse::Error::Io { what, source: std::io::Error::other(reason) }.into())
        }
        _ => Err(ckpt_fuse::Error::Silent { directory: directory.to_owned() }.into()),
    }
}

/// Takes away what a killed server left on a directory.
fn clear_stale(directory: &Path, notes: &mut Vec<String>) -> Result<(), Failure> {
    while ckpt_fuse::mount_on(directory)?.is_some_and(|mount| mount.is_ours()) {
        match look::within(directory, &[], look::PATIENCE)? {
            Look::Stale => ckpt_fuse::unmount(directory, true)?,
            Look::Silent if ckpt_fuse::cut_dying(directory)? => continue,
            Look::Silent => return Err(ckpt_fuse::Error::Silent { directory: directory.to_owned() }.into()),
            _ => return Err(ckpt_fuse::Error::Mounted { directory: directory.to_owned() }.into()),
        }
        let directory = printable(&directory.to_string_lossy());
        notes.push(format!("the process that served {directory} was killed; the mount that it left was taken away"));
    }
    Ok(())
}

/// Tells systemd that the mount works, where it asks for that.
fn tell_systemd() {
    use std::os::linux::net::SocketAddrExt;
    use std::os::unix::ffi::OsStrExt;
    use std::os::unix::net::{SocketAddr, UnixDatagram};

    let Some(name) = std::env::var_os("NOTIFY_SOCKET") else { return };
    let address = match name.as_bytes() {
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name),
        _ => SocketAddr::from_pathname(PathBuf::from(name)),
    };
    if let (Ok(address), Ok(socket)) = (address, UnixDatagram::unbound()) {
        let _ = socket.send_to_addr(b"READY=1", &address);
    }
}
