//! A process that a test has to do with and that may not be its child. Goes by a descriptor of it: its number is soon
//! another's on a machine where thousands are started. Never signals any other.

use std::fmt;
use std::fs;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

/// How long something may take that is to happen at once.
pub const SOON: Duration = Duration::from_secs(20);

/// A process, alive or not.
#[derive(Debug, Clone)]
pub struct Process {
    id: u32,
    descriptor: Arc<OwnedFd>,
}

impl fmt::Display for Process {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.id.fmt(f)
    }
}

impl Process {
    /// The process that has this number now.
    ///
    /// # Panics
    /// When there is none.
    #[track_caller]
    pub fn of(id: u32) -> Self {
        let pid = Pid::from_raw(id.cast_signed()).expect("a number of a process");
        let descriptor = pidfd_open(pid, PidfdFlags::empty()).expect("the process is there");
        Self { id, descriptor: Arc::new(descriptor) }
    }

    /// Its number.
    pub fn id(&self) -> u32 {
        self.id
    }

    /// Whether it runs: one that has ended and that nobody has asked for yet doesn't.
    pub fn is_alive(&self) -> bool {
        let mut polled = [PollFd::new(&*self.descriptor, PollFlags::IN)];
        poll(&mut polled, Some(&Timespec::default())).expect("a descriptor can be polled") == 0
    }

    /// Sends it a signal; whether it was there to get it.
    pub fn send(&self, signal: i32) -> bool {
        let none = std::ptr::null::<libc::siginfo_t>();
        // SAFETY: the descriptor is that of a process, and nothing else is told.
        unsafe { libc::syscall(libc::SYS_pidfd_send_signal, self.descriptor.as_raw_fd(), signal, none, 0) == 0 }
    }

    /// Stops it. What a thread of it had taken on before would be waited for by whoever asked, whatever comes.
    pub fn stop(&self) {
        assert!(self.send(libc::SIGSTOP), "process {self} is there");
        let is_stopped = |task: &Path| {
            let stat = fs::read_to_string(task.join("stat")).unwrap_or_default();
            stat.rsplit(')').next().is_some_and(|rest| rest.trim().starts_with('T'))
        };
        wait_for("it is stopped", SOON, || {
            let tasks = fs::read_dir(format!("/proc/{self}/task")).expect("it lives");
            tasks.flatten().all(|task| is_stopped(&task.path()))
        });
    }
}

/// Waits until something is so, and answers how long that took.
///
/// # Panics
/// When it took more than `patience`.
#[track_caller]
pub fn wait_for(what: &str, patience: Duration, mut is_so: impl FnMut() -> bool) -> Duration {
    let started = Instant::now();
    while !is_so() {
        assert!(started.elapsed() <= patience, "{what}: not within {patience:?}");
        std::thread::sleep(Duration::from_millis(20));
    }
    started.elapsed()
}
