//! `ckpt umount`: takes a mount away and waits until the process that served it has ended.

use std::path::Path;
use std::time::{Duration, Instant};

use ckpt_fuse::{Look, Process};

use super::Context;
use super::mount::{find, look, place};
use crate::args::Umount;
use crate::failure::Failure;
use crate::output::{print, print_json, printable};

/// How long the server may take to end once nobody uses the mount.
const PATIENCE: Duration = Duration::from_secs(15);

/// How long it is waited for when it may have files to serve.
const SHORT: Duration = Duration::from_millis(300);

/// How long a mount that nobody seems to use may be in use: the kernel closes what a process had open after it has ended.
const SETTLING: Duration = Duration::from_secs(2);

pub fn run(context: &Context, args: &Umount) -> Result<(), Failure> {
    let directory = place(&args.dir)?;
    let mount = find(&directory)?;
    let seen = look::within(&directory, &[], look::PATIENCE)?;
    let told = if let Look::Alive(Some(status)) = &seen { Some(status.pid) } else { None };
    // One that is stale has no server; whoever has files of it open can't read them any more.
    let is_stale = seen == Look::Stale;
    let pid = told.or_else(|| ckpt_fuse::server_of(&directory)).filter(|_| !is_stale);
    let process = pid.and_then(Process::of);
    take_away(&directory, args.lazy || is_stale)?;
    let ended = process.is_none_or(|process| process.ended_within(if args.lazy { SHORT } else { PATIENCE }));
    if context.json {
        return print_json(&serde_json::json!({
            "directory": directory.display().to_string(),
            "store": mount.source.to_string_lossy(),
            "pid": pid,
            "stale": is_stale,
            "ended": ended,
        }));
    }
    let on = printable(&directory.to_string_lossy());
    print(&match (is_stale, ended, pid) {
        (true, ..) => format!("unmounted {on}, whose process was gone\n"),
        (false, false, Some(pid)) if args.lazy => format!("unmounted {on}; process {pid} serves what is still open\n"),
        (false, false, Some(pid)) => format!("unmounted {on}; process {pid} has not ended yet\n"),
        _ => format!("unmounted {on}\n"),
    })
}

/// Unmounts. When it is in use and nobody is found who uses it, it tries again for a while.
fn take_away(directory: &Path, lazy: bool) -> Result<(), Failure> {
    let end = Instant::now() + SETTLING;
    loop {
        match ckpt_fuse::unmount(directory, lazy) {
            Err(ckpt_fuse::Error::Busy { holders, .. }) if holders.is_empty() && Instant::now() < end => {
                std::thread::sleep(Duration::from_millis(20));
            }
            outcome => return Ok(outcome?),
        }
    }
}
