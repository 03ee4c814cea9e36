//! The life of a mount, from when it stands to when it is gone. Never looks at a path below it, which only this process
//! could answer.

use std::mem::ManuallyDrop;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use ckpt_store::CheckpointId;
use fuser::BackgroundSession;

use crate::limits::{GRACE, READ_AHEAD_KB};
use crate::mountinfo::{Device, Mount};
use crate::mounts;
use crate::unmount::unmount;
use crate::warm::Warmer;
use crate::{Error, Log, Result};

/// How often the end is looked for.
const TICK: Duration = Duration::from_millis(50);

/// Whether a mount is to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stop {
    /// It goes on.
    No,
    /// It is unmounted; what is open is served for a while.
    Soon,
    /// It is unmounted, whoever has something open.
    Now,
}

/// A store that is mounted; unmounted when dropped.
pub struct Mounted {
    /// Never dropped by `fuser`: that would unmount whatever lies on the directory by then, be it another mount.
    session: ManuallyDrop<BackgroundSession>,
    directory: PathBuf,
    device: Option<Device>,
    warmer: Arc<Warmer>,
    log: Arc<dyn Log>,
    is_gone: bool,
}

impl Mounted {
    /// Takes charge of what was mounted on a directory just now.
    pub(crate) fn new(session: BackgroundSession, directory: &Path, warmer: Arc<Warmer>, log: Arc<dyn Log>) -> Self {
        let mount = mounts::on(directory).ok().flatten().filter(Mount::is_ours);
        let device = mount.map(|mount| mount.device);
        device.inspect(|device| raise_read_ahead(*device));
        Self {
            session: ManuallyDrop::new(session),
            directory: directory.to_owned(),
            device,
            warmer,
            log,
            is_gone: false,
        }
    }

    /// How far the kernel reads ahead in its files, in KiB.
    pub fn read_ahead_kb(&self) -> Option<u64> {
        read_ahead_kb(self.device?)
    }

    /// Begins to bring the files of checkpoints into the page cache; somebody else has made the kernel look them up.
    /// Ends with the mount.
    pub fn warm(&self, checkpoints: Vec<CheckpointId>) -> Result<()> {
        let (warmer, kernel) = (Arc::clone(&self.warmer), self.session.notifier());
        let run = move || warmer.run(&checkpoints, &kernel);
        let started = std::thread::Builder::new().name("ckpt-warm".into()).spawn(run);
        started.map(drop).map_err(|source| Error::Io { what: "can't start a thread".into(), source })
    }

    /// Waits until somebody has unmounted it, or `stop` says so, which is asked many times a second: then unmounts it.
    /// What is still open is served for ten seconds more.
    pub fn wait(mut self, stop: &dyn Fn() -> Stop) -> Result<()> {
        while !self.is_over() && stop() == Stop::No {
            std::thread::sleep(TICK);
        }
        self.warmer.stop();
        if self.is_over() {
            self.leave_nothing();
            return Ok(());
        }
        let is_busy = match self.take_away(false) {
            Err(Error::Busy { .. }) => {
                self.take_away(true)?;
                true
            }
            other => {
                other?;
                // As another user it is always lazy.
                false
            }
        };
        if is_busy {
            self.log.line(&format!("unmounted; what is open is served for {} s more", GRACE.as_secs()));
        }
        let end = Instant::now() + GRACE;
        // Where nothing is open any more it takes only as long as the server needs to tidy up.
        while !self.is_over() && (Instant::now() < end || !self.is_used()) && stop() != Stop::Now {
            std::thread::sleep(TICK);
        }
        if !self.is_over() && self.is_used() {
            self.log.line("files were still open at the end: their readers get errors from now on");
        }
        Ok(())
    }

    fn is_over(&self) -> bool {
        self.session.guard.is_finished()
    }

    /// Whether somebody has something of it open: then the kernel still has its file system.
    fn is_used(&self) -> bool {
        let kernel_has_it = |device: Device| Path::new(&format!("/sys/class/bdi/{device}")).exists();
        self.device.is_some_and(kernel_has_it) || self.warmer.open_files() > 0
    }

    /// Unmounts it, if what lies there is still it.
    fn take_away(&mut self, lazy: bool) -> Result<()> {
        let there = mounts::on(&self.directory)?.map(|mount| mount.device);
        let refused = |why: &str| Error::Io {
            what: format!("can't unmount {}", self.directory.display()),
            source: std::io::Error::other(why),
        };
        let outcome = match (there, self.device) {
            (Some(there), Some(ours)) if there == ours => unmount(&self.directory, lazy),
            (Some(_), Some(_)) => Err(refused("something else is mounted over it")),
            // It was not to be seen when it was mounted: what lies there may be another's.
            (Some(_), None) => Err(refused("it is not known whether what is mounted there is this mount")),
            (None, _) => Ok(()),
        };
        self.is_gone |= outcome.is_ok();
        outcome
    }

    /// A connection that was cut leaves a mount behind that nobody answers.
    fn leave_nothing(&mut self) {
        if self.device.is_some() && mounts::on(&self.directory).ok().flatten().map(|mount| mount.device) == self.device
        {
            self.log.line("the kernel cut the connection; unmounting");
            let _ = self.take_away(true);
        }
        self.is_gone = true;
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        self.warmer.stop();
        if !self.is_gone {
            let _ = self.take_away(true);
        }
    }
}

fn read_ahead_file(device: Device) -> String {
    format!("/sys/class/bdi/{device}/read_ahead_kb")
}

/// How far the kernel reads ahead in the files of a file system, in KiB.
pub fn read_ahead_kb(device: Device) -> Option<u64> {
    std::fs::read_to_string(read_ahead_file(device)).ok()?.trim().parse().ok()
}

/// Lets it read farther, which only root may.
fn raise_read_ahead(device: Device) {
    if read_ahead_kb(device).is_some_and(|kb| kb < READ_AHEAD_KB) {
        let _ = std::fs::write(read_ahead_file(device), READ_AHEAD_KB.to_string());
    }
}
