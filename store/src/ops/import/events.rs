//! What the kernel tells of a directory: that something happened in it, and which files are being written. Never the truth by
//! itself: events get lost, and a network file system sends none of what other machines do, so the watch also looks by itself.

use std::collections::HashSet;
use std::ffi::OsString;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::inotify::{self, CreateFlags, ReadFlags, WatchFlags};
use rustix::io::Errno;

/// Events of one directory.
pub struct Events {
    /// None where the kernel gives no such thing: then the looking has to do.
    inotify: Option<OwnedFd>,
    /// Files that were written to and not closed since.
    open: HashSet<PathBuf>,
}

impl Events {
    /// Listens.
    pub fn of(dir: &Path) -> Self {
        let flags = WatchFlags::MODIFY
            | WatchFlags::CLOSE_WRITE
            | WatchFlags::MOVED_TO
            | WatchFlags::MOVED_FROM
            | WatchFlags::CREATE
            | WatchFlags::DELETE
            | WatchFlags::ONLYDIR;
        let listen = || {
            let inotify = inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC)?;
            inotify::add_watch(&inotify, dir, flags)?;
            Ok::<OwnedFd, Errno>(inotify)
        };
        Self { inotify: listen().ok(), open: HashSet::new() }
    }

    /// Whether somebody wrote to the file and has not closed it.
    pub fn is_open(&self, name: &Path) -> bool {
        self.open.contains(name)
    }

    /// Waits until something happens, at most this long. Answers whether something did.
    pub fn wait(&mut self, at_most: Duration) -> bool {
        let Some(inotify) = &self.inotify else {
            std::thread::sleep(at_most);
            return false;
        };
        let timeout = Timespec { tv_sec: at_most.as_secs() as i64, tv_nsec: i64::from(at_most.subsec_nanos()) };
        match poll(&mut [PollFd::new(inotify, PollFlags::IN)], Some(&timeout)) {
            Ok(0) => false,
            // A signal is something that happened as well.
            Ok(_) | Err(Errno::INTR) => self.drain(),
            Err(_) => {
                std::thread::sleep(at_most);
                false
            }
        }
    }

    fn drain(&mut self) -> bool {
        let Some(inotify) = &self.inotify else { return false };
        let mut buf = [MaybeUninit::uninit(); 16 << 10];
        let mut reader = inotify::Reader::new(inotify, &mut buf);
        let mut any = false;
        // Until there are no more, or the kernel has nothing sensible to say.
        while let Ok(event) = reader.next() {
            any = true;
            let what = event.events();
            if what.contains(ReadFlags::QUEUE_OVERFLOW) {
                self.open.clear();
            }
            let Some(name) = event.file_name() else { continue };
            let name = PathBuf::from(OsString::from_vec(name.to_bytes().to_vec()));
            if what.intersects(ReadFlags::CLOSE_WRITE | ReadFlags::MOVED_TO | ReadFlags::MOVED_FROM | ReadFlags::DELETE)
            {
                self.open.remove(&name);
            } else if what.contains(ReadFlags::MODIFY) {
                self.open.insert(name);
            }
        }
        any
    }
}
