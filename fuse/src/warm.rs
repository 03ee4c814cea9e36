//! Fills the kernel's page cache with the files of checkpoints before anybody reads them. Gives the kernel pages, which
//! no open file holds: nothing of it keeps a mount from being unmounted, and it never looks at the mount.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use ckpt_store::{Body, CheckpointId};
use fuser::{INodeNo, Notifier};

use crate::files::Files;
use crate::handle::join;
use crate::limits::REQUEST_BYTES;
use crate::metadata::Metadata;
use crate::told::causes;
use crate::{Log, Warm};

/// What it takes to warm, and how far it has come.
pub struct Warmer {
    metadata: Arc<Metadata>,
    files: Arc<Files>,
    log: Arc<dyn Log>,
    state: Mutex<Option<Warm>>,
    stopped: AtomicBool,
}

/// A file that is to be brought.
struct Wanted {
    checkpoint: CheckpointId,
    inode: u64,
    body: Arc<Body>,
}

impl Warmer {
    /// One that has nothing to do.
    pub fn new(metadata: Arc<Metadata>, files: Arc<Files>, log: Arc<dyn Log>) -> Self {
        Self { metadata, files, log, state: Mutex::default(), stopped: AtomicBool::new(false) }
    }

    /// How far it has come; none when nothing was asked for.
    pub fn state(&self) -> Option<Warm> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// How many files of the mount are open by way of the server.
    pub fn open_files(&self) -> u64 {
        self.files.usage().files
    }

    /// Ends it soon.
    pub fn stop(&self) {
        self.stopped.store(true, Ordering::Relaxed);
    }

    /// Brings all regular files of these checkpoints, which the kernel has looked up.
    pub fn run(&self, checkpoints: &[CheckpointId], kernel: &Notifier) {
        let mut wanted = Vec::new();
        self.change(|_| {});
        for id in checkpoints {
            match self.metadata.files_of(*id) {
                Ok(files) => {
                    wanted.extend(files.into_iter().map(|(inode, body)| Wanted { checkpoint: *id, inode, body }));
                }
                Err(error) => self.fail(&causes(&error)),
            }
        }
        let bytes_all = wanted.iter().map(|file| file.body.len()).sum();
        self.change(|warm| warm.bytes_all = bytes_all);
        for file in &wanted {
            match self.bring(file, kernel) {
                Ok(()) => self.change(|warm| warm.files += 1),
                Err(reason) => self.fail(&reason),
            }
            if self.stopped.load(Ordering::Relaxed) {
                return;
            }
        }
        self.change(|warm| warm.done = true);
    }

    /// Brings a file, by its bytes in order: so it is decoded ahead, tensor by tensor, as for any other reader.
    fn bring(&self, file: &Wanted, kernel: &Notifier) -> Result<(), String> {
        let handle =
            self.files.open(file.checkpoint, file.inode, Arc::clone(&file.body)).map_err(|error| causes(&error))?;
        let outcome = self.bring_open(file, handle, kernel);
        self.files.close(handle);
        outcome
    }

    fn bring_open(&self, file: &Wanted, handle: u64, kernel: &Notifier) -> Result<(), String> {
        let mut bytes = Vec::new();
        let mut offset = 0;
        while offset < file.body.len() && !self.stopped.load(Ordering::Relaxed) {
            // The kernel takes pages of files that it knows alone, and says nothing about others.
            if !self.metadata.is_known(file.inode) {
                return Err("the kernel has dropped a file that was to be brought".into());
            }
            let read = self.files.read(handle, offset, u64::from(REQUEST_BYTES));
            let slices = read.transpose().map_err(|error| causes(&error))?.unwrap_or_default();
            bytes.clear();
            join(&slices, &mut bytes);
            if bytes.is_empty() {
                break;
            }
            kernel.store(INodeNo(file.inode), offset, &bytes).map_err(|error| causes(&error))?;
            offset += bytes.len() as u64;
            self.change(|warm| warm.bytes += bytes.len() as u64);
        }
        Ok(())
    }

    fn fail(&self, reason: &str) {
        if self.stopped.load(Ordering::Relaxed) {
            return;
        }
        self.change(|warm| {
            if warm.failed.is_none() {
                self.log.line(&format!("not all that was to be brought into memory could be: {reason}"));
                warm.failed = Some(reason.to_owned());
            }
        });
    }

    fn change(&self, change: impl FnOnce(&mut Warm)) {
        change(self.state.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert_default());
    }
}
