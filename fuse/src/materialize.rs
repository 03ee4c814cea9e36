//! Lays files down whole that are read again and again, and hands them to the kernel, which then reads them by itself.
//! Never makes a reader wait, and never lets one fail: where it can't, files are read as before.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Instant;

use ckpt_store::{Body, CheckpointId};
use fuser::BackingId;

use crate::files::Files;
use crate::handle::join;
use crate::laid::{Laid, Way};
use crate::limits::{LAID_PAUSE, LAID_PIECE_BYTES, LAID_WAITING_MAX, TASK_BYTES};
use crate::own_directory::OwnDirectory;
use crate::told::causes;
use crate::{Error, Log, Materialize, Materialized, Result};

/// The files that are laid down.
pub struct Materializer {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

struct Shared {
    directory: PathBuf,
    own: OwnDirectory,
    bytes_max: u64,
    files: Arc<Files>,
    log: Arc<dyn Log>,
    inside: Mutex<Inside>,
    came: Condvar,
}

struct Inside {
    laid: Laid<BackingId>,
    waiting: VecDeque<Task>,
    /// Why nothing is laid down or handed to the kernel, when that is so.
    why_not: Option<String>,
    /// Why the last file that was to be laid down could not be written.
    trouble: Option<String>,
    /// The last file that will never be laid down, and why.
    too_large: Option<String>,
    /// Until when nothing is tried: there was no room.
    paused: Option<Instant>,
    has_ended: bool,
}

/// A file that is to be laid down.
struct Task {
    ino: u64,
    checkpoint: CheckpointId,
    body: Arc<Body>,
    name: String,
}

/// A file that is being opened.
pub struct Opening<'a> {
    /// Its inode.
    pub ino: u64,
    /// The checkpoint that has it.
    pub checkpoint: CheckpointId,
    /// Its bytes.
    pub body: &'a Arc<Body>,
    /// How people know it.
    pub name: &'a dyn Fn() -> String,
}

impl Materializer {
    /// Begins to lay files down in a directory of its own in `options.directory`; what dead mounts left there is
    /// removed.
    pub fn start(options: &Materialize, files: Arc<Files>, log: Arc<dyn Log>) -> Result<Self> {
        let failed = |source| Error::Io { what: format!("can't use {}", options.directory.display()), source };
        let own = OwnDirectory::new(&options.directory).map_err(failed)?;
        let inside = Inside {
            laid: Laid::new(options.bytes_max),
            waiting: VecDeque::new(),
            why_not: None,
            trouble: None,
            too_large: None,
            paused: None,
            has_ended: false,
        };
        let shared = Arc::new(Shared {
            directory: options.directory.clone(),
            own,
            bytes_max: options.bytes_max,
            files,
            log,
            inside: Mutex::new(inside),
            came: Condvar::new(),
        });
        let working = Arc::clone(&shared);
        let thread = std::thread::Builder::new().name("ckpt-lay-down".into()).spawn(move || working.work());
        Ok(Self { thread: Some(thread.map_err(failed)?), shared })
    }

    /// Lays nothing down from now on, and says why.
    pub fn give_up(&self, why: &str) {
        self.shared.give_up(&mut self.shared.lock(), why);
    }

    /// How many file systems may lie on each other where the files are laid down: 1 on a plain one, 2 on an overlay as
    /// containers have it. No more than it takes: the mount itself counts as one more than that.
    pub fn depth(&self) -> u32 {
        const OVERLAY: u64 = 0x794c_7630;
        let is_overlay = rustix::fs::statfs(self.shared.own.path()).is_ok_and(|about| about.f_type as u64 == OVERLAY);
        if is_overlay { 2 } else { 1 }
    }

    /// Opens a file: as one that the kernel reads by itself, for which it is told by `register`; none when it is to be
    /// read by way of the server. Each way it must be closed.
    pub fn open(
        &self,
        opening: &Opening<'_>,
        register: impl FnOnce(&File) -> io::Result<BackingId>,
    ) -> Option<Arc<BackingId>> {
        let mut inside = self.shared.lock();
        match inside.laid.open(opening.ino, opening.body.len()) {
            Way::Through(backing) => Some(backing),
            Way::Free => match self.hand_over(&mut inside, opening, register) {
                Some(backing) => Some(inside.laid.through(opening.ino, backing)),
                None => {
                    inside.laid.cached(opening.ino);
                    None
                }
            },
            Way::TooLarge => {
                let why = format!("{} is larger than all that may be laid down", (opening.name)());
                self.shared.log.line(&why);
                inside.too_large = Some(why);
                None
            }
            Way::Cached { lay_down: false } => None,
            Way::Cached { lay_down: true } => {
                if inside.why_not.is_none() && inside.waiting.len() < LAID_WAITING_MAX {
                    let (ino, checkpoint, body) = (opening.ino, opening.checkpoint, Arc::clone(opening.body));
                    inside.waiting.push_back(Task { ino, checkpoint, body, name: (opening.name)() });
                    self.shared.came.notify_one();
                } else {
                    inside.laid.failed(opening.ino, false);
                }
                None
            }
        }
    }

    /// Takes note of a read by way of the server.
    pub fn read(&self, ino: u64, bytes: u64) {
        self.shared.lock().laid.read(ino, bytes);
    }

    /// Closes a file that was opened in the one way or the other.
    pub fn close(&self, ino: u64, is_through: bool) {
        let closed = self.shared.lock().laid.close(ino, is_through);
        // The kernel is told outside of the lock.
        drop(closed);
    }

    /// What is laid down, and why nothing is.
    pub fn usage(&self) -> (Materialized, Option<String>) {
        let inside = self.shared.lock();
        let (files, bytes) = inside.laid.usage();
        let directory = self.shared.directory.clone();
        let why_not = [&inside.why_not, &inside.trouble, &inside.too_large].into_iter().find_map(Clone::clone);
        (Materialized { directory, files, bytes, bytes_max: self.shared.bytes_max }, why_not)
    }

    fn hand_over(
        &self,
        inside: &mut Inside,
        opening: &Opening<'_>,
        register: impl FnOnce(&File) -> io::Result<BackingId>,
    ) -> Option<BackingId> {
        if inside.why_not.is_some() {
            return None;
        }
        let Ok(file) = self.shared.own.open(opening.ino, opening.body.len()) else {
            // Somebody has tidied up there.
            inside.laid.gone(opening.ino);
            return None;
        };
        match register(&file) {
            Ok(backing) => Some(backing),
            Err(error) => {
                let why = match rustix::io::Errno::from_io_error(&error) {
                    Some(rustix::io::Errno::PERM) => "this process may not hand files to the kernel".to_owned(),
                    Some(rustix::io::Errno::LOOP) => {
                        format!("{} lies on a file system that lies on others", self.shared.directory.display())
                    }
                    _ => format!("the kernel does not take files from {}: {error}", self.shared.directory.display()),
                };
                self.shared.give_up(inside, &why);
                None
            }
        }
    }
}

impl Drop for Materializer {
    fn drop(&mut self) {
        self.shared.lock().has_ended = true;
        self.shared.came.notify_all();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Inside> {
        self.inside.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn give_up(&self, inside: &mut Inside, why: &str) {
        if inside.why_not.is_none() {
            inside.why_not = Some(why.to_owned());
            inside.waiting.clear();
            self.log.line(&format!("files are not laid down: {why}"));
        }
    }

    fn work(&self) {
        loop {
            let mut inside = self.lock();
            let task = loop {
                if inside.has_ended {
                    return;
                }
                match inside.waiting.pop_front() {
                    Some(task) => break task,
                    None => inside = self.came.wait(inside).unwrap_or_else(PoisonError::into_inner),
                }
            };
            let is_paused = inside.paused.is_some_and(|until| Instant::now() < until);
            let Some(going) = (!is_paused).then(|| inside.laid.make_room(task.ino)).flatten() else {
                inside.laid.failed(task.ino, false);
                continue;
            };
            drop(inside);
            going.iter().for_each(|ino| self.own.remove(*ino));
            // One that panics, which the log then has, is not the end of the thread.
            let outcome = catch_unwind(AssertUnwindSafe(|| self.lay_down(&task)))
                .unwrap_or_else(|_| Err(Failed::Read("laying it down panicked".into())));
            let mut inside = self.lock();
            match outcome {
                Ok(()) => {
                    inside.laid.here(task.ino);
                    inside.trouble = None;
                }
                Err(why) => {
                    inside.laid.failed(task.ino, true);
                    if let Failed::Write(error) = &why {
                        inside.trouble = Some(format!("{} can't be written to: {error}", self.directory.display()));
                        if lasts(error) {
                            inside.paused = Instant::now().checked_add(LAID_PAUSE);
                        }
                    }
                    drop(inside);
                    self.own.remove(task.ino);
                    match why {
                        Failed::Ended => {}
                        Failed::Read(error) => self.log.line(&format!("{} is not laid down: {error}", task.name)),
                        Failed::Write(error) => self.log.line(&format!("{} is not laid down: {error}", task.name)),
                    }
                }
            }
        }
    }

    /// Writes a file; every byte is one that the store has checked.
    fn lay_down(&self, task: &Task) -> std::result::Result<(), Failed> {
        let handle = self.files.open(task.checkpoint, task.ino, Arc::clone(&task.body)).map_err(Failed::read)?;
        let written = self.write(task, handle);
        self.files.close(handle);
        written
    }

    fn write(&self, task: &Task, handle: u64) -> std::result::Result<(), Failed> {
        let mut file = self.own.create(task.ino).map_err(Failed::Write)?;
        // In large pieces at multiples of their length: the kernel then keeps the file in large pages, and maps it in
        // large pages.
        let mut piece = Vec::with_capacity(LAID_PIECE_BYTES as usize);
        let mut at = 0;
        while at < task.body.len() {
            if self.lock().has_ended {
                return Err(Failed::Ended);
            }
            while at < task.body.len() && (piece.len() as u64) < LAID_PIECE_BYTES {
                let slices = self.files.read(handle, at, TASK_BYTES).ok_or(Failed::Ended)?;
                let before = piece.len();
                join(&slices.map_err(Failed::read)?, &mut piece);
                if piece.len() == before {
                    return Err(Failed::Read("it ends early".into()));
                }
                at += (piece.len() - before) as u64;
            }
            file.write_all(&piece).map_err(Failed::Write)?;
            piece.clear();
        }
        // What the disk refuses later would be gone without a word.
        file.sync_all().map_err(Failed::Write)
    }
}

/// Why a file is not laid down.
enum Failed {
    /// The mount ends.
    Ended,
    /// It can't be read, which is about this one file.
    Read(String),
    /// It can't be written.
    Write(io::Error),
}

impl Failed {
    fn read(error: ckpt_store::Error) -> Self {
        Self::Read(causes(&error))
    }
}

/// Whether it will stay so for a while: a disk that is full or broken.
fn lasts(error: &io::Error) -> bool {
    use rustix::io::Errno;
    matches!(Errno::from_io_error(error), Some(Errno::NOSPC | Errno::DQUOT | Errno::IO))
}
