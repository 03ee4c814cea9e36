//! `ckpt mount`: starts a server in the background and tells how that went, or is that server, or looks at mounts for others.
//! Never looks at a mount in the process that serves it, nor in one that must not hang.

pub mod hung;
mod log;
pub mod look;
mod ready;
mod serve;
mod start;
mod status;

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use ckpt_fuse::Error;

use self::status::find;
use super::Context;
use crate::args::Mount;
use crate::failure::Failure;

pub fn run(context: &Context, args: Mount) -> Result<ExitCode, Failure> {
    match (&args.dir, args.status) {
        (dir, true) => status::run(context, dir.as_deref()),
        (Some(dir), false) if args.look => look::answer(dir, &args.warm),
        (Some(dir), false) if args.server => Ok(serve::in_background(context, &args, dir)),
        (Some(dir), false) if args.foreground => serve::in_foreground(context, &args, dir),
        (Some(dir), false) => start::run(context, &args, dir),
        // clap asks for it.
        (None, false) => Err(Failure::usage("DIR is missing", "say where to mount")),
    }
}

/// The mount point without links; what is mounted there already is not looked at.
pub fn place(dir: &Path) -> Result<PathBuf, Failure> {
    ckpt_fuse::place(dir).map_err(|source| {
        let directory = dir.to_owned();
        match source.kind() {
            std::io::ErrorKind::NotFound => ckpt_fuse::Error::NoDirectory { directory },
            std::io::ErrorKind::NotADirectory => ckpt_fuse::Error::NotDirectory { path: directory },
            _ => ckpt_fuse::Error::Io { what: format!("can't look at {}", dir.display()), source },
        }
        .into()
    })
}

/// The mount of ours on a directory, however its path is written.
pub fn mounted(dir: &Path) -> Result<ckpt_fuse::Mount, Failure> {
    match place(dir) {
        Ok(directory) => find(&directory),
        // Where nothing is nothing is mounted: to make a directory would not help.
        Err(Failure::Mount(Error::NoDirectory { directory: missing } | Error::NotDirectory { path: missing })) => {
            Err(Error::NotMounted { directory: missing, inside: None }.into())
        }
        Err(failure) => Err(failure),
    }
}

/// This very program, to be started once more.
fn this_command() -> Command {
    // Replaced by a newer one it is still there under this name, which only looks odd in a list of processes.
    let path = std::env::current_exe().ok().filter(|path| path.exists());
    Command::new(path.unwrap_or_else(|| "/proc/self/exe".into()))
}
