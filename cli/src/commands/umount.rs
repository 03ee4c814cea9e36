//! `ckpt umount`: takes a mount away and waits until the process that served it has ended.

use std::path::Path;
use std::time::{Duration, Instant};

use ckpt_fuse::{Error, Look, Process};

use super::Context;
use super::mount::{hung, look, mounted};
use crate::args::Umount;
use crate::failure::Failure;
use crate::output::{pasted, print, print_json, printable};

/// How long the server may take to end once nobody uses the mount.
const PATIENCE: Duration = Duration::from_secs(15);

/// How long it is waited for when it may have files to serve.
const SHORT: Duration = Duration::from_millis(300);

/// How long a mount that nobody seems to use may be in use: the kernel closes what a process had open after it has
/// ended.
const SETTLING: Duration = Duration::from_secs(2);

/// From when on people are told what is waited for.
const QUIET: Duration = Duration::from_secs(3);

pub fn run(context: &Context, args: &Umount) -> Result<(), Failure> {
    let mount = mounted(&args.dir)?;
    let directory = mount.point;
    let on = printable(&directory.to_string_lossy());
    let looking = Instant::now();
    let mut seen = look::within(&directory, &[], look::PATIENCE)?;
    let is_cut = seen == Look::Silent && ckpt_fuse::cut_dying(&directory)?;
    if is_cut {
        seen = Look::Stale;
    }
    let told = if let Look::Alive(Some(status)) = &seen { Some(status.pid) } else { None };
    // One that is stale has no server; whoever has files of it open can't read them any more.
    let is_stale = seen == Look::Stale;
    let pid = told.or_else(|| ckpt_fuse::server_of(&directory)).filter(|_| !is_stale);
    let process = pid.and_then(Process::of);
    // How the process is that did not answer.
    let hangs = pid.filter(|_| seen == Look::Silent).map(hung::state);
    if seen == Look::Silent {
        let which = pid.zip(hangs).map(|(pid, state)| format!(": process {pid} {state}")).unwrap_or_default();
        eprintln!("Note: the mount on {on} did not answer for {} s{which}", looking.elapsed().as_secs());
    }
    match take_away(&directory, args.lazy || is_stale) {
        // Who uses it is most likely only somebody who waits for an answer, as the process that looked.
        Err(Failure::Mount(Error::Busy { holders, .. })) if holders.is_empty() && seen == Look::Silent => {
            let kill = pid.map(|pid| format!("; `kill -9 {pid}` ends its process")).unwrap_or_default();
            let hint = format!("`ckpt umount --lazy {}` takes it away now{kill}", pasted(&directory));
            let text = format!("Error: the mount on {on} does not answer\nHint: {hint}\n");
            return Err(Failure::Told { text, code: 6 });
        }
        // Cutting it off may have done that.
        Err(Failure::Mount(Error::NotMounted { .. })) if is_cut => {}
        outcome => outcome?,
    }
    let mut elsewhere = Vec::new();
    let ended = process.is_none_or(|process| {
        // Another's tree of mounts that has it as well may be about to go.
        if process.ended_within(if args.lazy { SHORT } else { QUIET }) {
            return true;
        }
        elsewhere = ckpt_fuse::places(mount.device);
        if args.lazy || (hangs.is_none() && !elsewhere.is_empty()) {
            return false;
        }
        eprintln!("Note: waiting for process {} to end", pid.unwrap_or_default());
        process.ended_within(PATIENCE - QUIET)
    });
    elsewhere.iter().for_each(|place| eprintln!("Note: it is mounted on {place} as well"));
    // Not where files may be open on purpose, and are served.
    let is_served = args.lazy || !elsewhere.is_empty();
    if let Some(pid) = pid.filter(|_| !ended && (!is_served || hangs.is_some())) {
        eprintln!("Hint: `kill -9 {pid}` ends the process; nothing in the store is lost by that");
    }
    if context.json {
        return print_json(&serde_json::json!({
            "directory": directory.display().to_string(),
            "store": mount.source.to_string_lossy(),
            "pid": pid,
            "stale": is_stale,
            "ended": ended,
            "elsewhere": elsewhere,
        }));
    }
    print(&match (is_stale, ended, pid) {
        (true, ..) => format!("unmounted {on}, whose process was gone\n"),
        (false, false, Some(pid)) => {
            let how = match hangs {
                Some(state) if args.lazy => format!("{state}, so what is still open can't be read"),
                Some(state) => format!("{state} and has not ended yet"),
                None if args.lazy => "serves what is still open".into(),
                None if !elsewhere.is_empty() => "ends when it is unmounted there too".into(),
                None => "has not ended yet".into(),
            };
            format!("unmounted {on}; process {pid} {how}\n")
        }
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
