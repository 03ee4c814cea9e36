//! Takes a mount away, and finds who holds it and who serves it, by `/proc`. Never looks at a path below a mount.

use std::collections::HashSet;
use std::io::ErrorKind;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::mount::UnmountFlags;
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use crate::mountinfo::{Device, Mount, parse};
use crate::{Error, Result, mounts};

/// The most holders that are named.
const HOLDERS_MAX: usize = 10;

/// Unmounts what is topmost on a place. With `lazy` it leaves the tree at once and lives on for those who have files
/// open.
///
/// # Errors
/// `Busy` when somebody uses it, `NotMounted`, `NoHelper` and `Refused`.
pub fn unmount(directory: &Path, lazy: bool) -> Result<()> {
    let flags = if lazy { UnmountFlags::NOFOLLOW | UnmountFlags::DETACH } else { UnmountFlags::NOFOLLOW };
    match rustix::mount::unmount(directory, flags) {
        Ok(()) => Ok(()),
        Err(Errno::PERM) => by_helper(directory, lazy),
        Err(Errno::BUSY) => Err(busy(directory)),
        Err(Errno::INVAL) => Err(Error::NotMounted { directory: directory.to_owned(), inside: None }),
        Err(error) => Err(Error::Io { what: format!("can't unmount {}", directory.display()), source: error.into() }),
    }
}

/// Only root may unmount; `fusermount3`, which runs as root, does it for others with what is theirs.
fn by_helper(directory: &Path, lazy: bool) -> Result<()> {
    let run = |helper: &str| {
        let mut command = Command::new(helper);
        command.arg("-u").args(lazy.then_some("-z")).arg("--").arg(directory);
        command.env("LC_ALL", "C").stdin(Stdio::null()).output()
    };
    let is_missing = |ran: &std::io::Error| ran.kind() == ErrorKind::NotFound;
    // Its older name, by which it can have mounted as well.
    let ran = run("fusermount3").or_else(|error| if is_missing(&error) { run("fusermount") } else { Err(error) });
    let ran = ran.map_err(|source| match source.kind() {
        ErrorKind::NotFound => Error::NoHelper,
        _ => Error::Io { what: "can't run fusermount3".into(), source },
    })?;
    let said = String::from_utf8_lossy(&ran.stderr).trim().to_owned();
    match ran.status.success() {
        true => Ok(()),
        false if said.contains("busy") => Err(busy(directory)),
        false => Err(Error::Refused { unmounting: true, reason: said }),
    }
}

fn busy(directory: &Path) -> Error {
    let holders = mounted_within(directory).into_iter().chain(holders(directory)).collect();
    Error::Busy { directory: directory.to_owned(), holders }
}

/// What else is mounted below a directory.
fn mounted_within(directory: &Path) -> Vec<String> {
    let within = mounts::all().unwrap_or_default();
    let within = within.iter().filter_map(|mount| Some((mount, mount.point.strip_prefix(directory).ok()?)));
    let within = within.filter(|(_, path)| !path.as_os_str().is_empty()).take(HOLDERS_MAX);
    within.map(|(mount, path)| format!("{} is mounted on {}", mount.kind, mounts::shown(path.as_os_str()))).collect()
}

/// Where a file system is mounted, as far as this user may know: here, and in the trees of processes that have their
/// own, such as those of containers.
pub fn places(device: Device) -> Vec<String> {
    let tree = |pid: &str| std::fs::read_link(format!("/proc/{pid}/ns/mnt")).ok();
    let mut seen: HashSet<PathBuf> = tree("self").into_iter().collect();
    let here = mounts::all().unwrap_or_default().into_iter().filter(|mount| mount.device == device);
    let mut found: Vec<String> = here.map(|mount| mounts::shown(mount.point.as_os_str())).collect();
    for pid in processes() {
        if tree(&pid.to_string()).is_some_and(|tree| seen.insert(tree)) {
            let text = std::fs::read(format!("/proc/{pid}/mountinfo")).unwrap_or_default();
            let there = parse(&text).into_iter().filter(|mount| mount.device == device);
            let whose =
                |point: &Path| format!("{} for {} (process {pid})", mounts::shown(point.as_os_str()), name(pid));
            found.extend(there.map(|mount| whose(&mount.point)));
        }
    }
    found.truncate(HOLDERS_MAX);
    found
}

/// Who has something below a directory open, mapped, or works in it, as far as this user may know.
pub fn holders(directory: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for pid in processes().filter(|pid| *pid != std::process::id()) {
        if let Some(path) = held(pid, directory) {
            let path = path.strip_prefix(directory).map_or(path.clone(), Path::to_owned);
            let path = if path.as_os_str().is_empty() { ".".into() } else { mounts::shown(path.as_os_str()) };
            found.push(format!("{} (process {pid}) has {path}", name(pid)));
        }
        if found.len() == HOLDERS_MAX {
            break;
        }
    }
    found
}

fn processes() -> impl Iterator<Item = u32> {
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

fn name(pid: u32) -> String {
    let name = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    mounts::shown(name.trim().as_ref())
}

/// What of a directory a process holds. Reading the links of `/proc` does not follow them.
fn held(pid: u32, directory: &Path) -> Option<PathBuf> {
    let link = |path: String| std::fs::read_link(path).ok().filter(|target| target.starts_with(directory));
    let open = std::fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
    let open = open.filter_map(|fd| std::fs::read_link(fd.path()).ok());
    let of_files = open.into_iter().find(|target| target.starts_with(directory));
    let of_files = of_files.or_else(|| link(format!("/proc/{pid}/cwd"))).or_else(|| link(format!("/proc/{pid}/root")));
    of_files.or_else(|| {
        let maps = std::fs::read(format!("/proc/{pid}/maps")).unwrap_or_default();
        let mut lines = maps.split(|byte| *byte == b'\n').filter_map(|line| {
            let at = line.iter().position(|byte| *byte == b'/')?;
            Some(Path::new(std::ffi::OsStr::from_bytes(&line[at..])))
        });
        lines.find(|path| path.starts_with(directory)).map(Path::to_owned)
    })
}

/// The process that serves a mount which doesn't say so itself: one that has FUSE's device open and was told to mount
/// there.
pub fn server_of(directory: &Path) -> Option<u32> {
    processes().find(|pid| serves(Path::new(&format!("/proc/{pid}")), directory))
}

/// Whether a process or a thread, by its directory in `/proc`, has FUSE's device open and was told to mount there.
fn serves(of: &Path, directory: &Path) -> bool {
    let fds = std::fs::read_dir(of.join("fd")).into_iter().flatten().flatten();
    let serves = fds.filter_map(|fd| std::fs::read_link(fd.path()).ok()).any(|path| path == Path::new("/dev/fuse"));
    let is_told = || {
        let cwd = std::fs::read_link(of.join("cwd")).unwrap_or_default();
        let line = std::fs::read(of.join("cmdline")).unwrap_or_default();
        let mut words = line.split(|byte| *byte == 0).filter(|word| !word.is_empty());
        words.any(|word| cwd.join(std::ffi::OsStr::from_bytes(word)) == directory)
    };
    serves && is_told()
}

/// Cuts the connection of a mount whose process was killed and can't die; whether it did. Such a one was just telling
/// the kernel of a name that changed, for which it needs the lock of a directory, while somebody who looks a name up
/// holds that and waits for an answer, which nobody gives any more. Afterwards the mount is stale, or gone.
///
/// # Errors
/// When it can't be found out what is mounted.
pub fn cut_dying(directory: &Path) -> Result<bool> {
    let Some(mount) = mounts::on(directory)?.filter(Mount::is_ours) else { return Ok(false) };
    if !processes().any(|pid| is_dying(pid) && threads(pid).any(|thread| serves(&thread, directory))) {
        return Ok(false);
    }
    let minor = mount.device.minor;
    let is_cut = std::fs::write(format!("/sys/fs/fuse/connections/{minor}/abort"), "1").is_ok();
    if !is_cut {
        // Not every machine has these. As root this does the same, and takes the mount away if nobody uses it.
        let _ = rustix::mount::unmount(directory, UnmountFlags::NOFOLLOW | UnmountFlags::FORCE);
    }
    Ok(true)
}

/// Whether the first thread of a process has ended, and others go on.
fn is_dying(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // Its name, which may hold anything, stands in parentheses before.
    stat.rsplit(')').next().is_some_and(|rest| rest.trim_start().starts_with('Z'))
}

fn threads(pid: u32) -> impl Iterator<Item = PathBuf> {
    std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten().map(|entry| entry.path())
}

/// A process that is waited for. Its number can't come to mean another one meanwhile.
pub struct Process(OwnedFd);

impl Process {
    /// The process of this number; none when there is no such process any more.
    pub fn of(pid: u32) -> Option<Self> {
        let pid = Pid::from_raw(i32::try_from(pid).ok()?)?;
        pidfd_open(pid, PidfdFlags::empty()).ok().map(Self)
    }

    /// Waits until it has ended; false when it has not after this time.
    pub fn ended_within(&self, time: Duration) -> bool {
        let mut fds = [PollFd::new(&self.0, PollFlags::IN)];
        let time = Timespec::try_from(time).unwrap_or_default();
        // An interrupted wait is a short one.
        poll(&mut fds, Some(&time)).is_ok_and(|ready| ready > 0)
    }
}
