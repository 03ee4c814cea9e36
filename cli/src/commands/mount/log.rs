//! The log of a mount: each line with its time and the mount point. Bounded: a file that has grown too long becomes
//! `….1`, in place of the one before. Never fails: what can't be written is lost.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use crate::failure::Failure;
use crate::output::{pasted, printable};

/// Bytes from which on a log starts anew.
const BYTES_MAX: u64 = 4 << 20;

/// The longest line.
const LINE_CHARS_MAX: usize = 4096;

/// Where a mount writes what happens.
pub struct Log {
    mount: String,
    path: Option<PathBuf>,
    file: Mutex<Option<File>>,
    /// Whether stderr goes to the same file.
    has_stderr: bool,
}

/// Opens a file to be appended to.
pub fn open(path: &Path) -> std::io::Result<File> {
    // Names of runs and files stand in it.
    OpenOptions::new().create(true).append(true).mode(0o600).open(path)
}

/// What it means that a log can't be opened.
pub fn failure(path: &Path, error: std::io::Error) -> Failure {
    if path.is_dir() {
        let message = format!("can't write the log {}: it is a directory", printable(&path.to_string_lossy()));
        return Failure::usage(message, format!("`--log {}` is a file in it", pasted(&path.join("mount.log"))));
    }
    match path.parent() {
        // Not made: a disk that is not mounted yet would be hidden by it, or a typing error become a directory.
        Some(above) if error.kind() == std::io::ErrorKind::NotFound && !above.exists() => {
            ckpt_fuse::Error::NoDirectory { directory: above.to_owned() }.into()
        }
        _ => ckpt_store::Error::io("write", path, error).into(),
    }
}

/// Where the log of a mount in the background goes when nobody says.
pub fn default_path() -> Option<PathBuf> {
    let absolute = |name| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let state = absolute("XDG_STATE_HOME").or_else(|| absolute("HOME").map(|home| home.join(".local/state")));
    state.map(|state| state.join("ckpt/mount.log"))
}

impl Log {
    /// To a file, or to stderr; `has_stderr` when stderr goes to that file already.
    pub fn new(mount: &Path, path: Option<PathBuf>, has_stderr: bool) -> std::io::Result<Self> {
        let file = Mutex::new(path.as_deref().map(open).transpose()?);
        Ok(Self { mount: printable(&mount.to_string_lossy()), path, file, has_stderr })
    }

    /// Whether it goes to a file of its own, which people read afterwards.
    pub fn is_file(&self) -> bool {
        self.path.is_some()
    }

    /// Starts the file anew when it is too long, or was removed. Several mounts may write to one: another one may have
    /// done so before.
    fn renew(&self, file: &mut File, path: &Path) {
        if file.metadata().is_ok_and(|about| about.len() < BYTES_MAX && about.nlink() > 0) {
            return;
        }
        // While one renames, the others wait; then they find that the name means another file.
        let locked = file.lock().is_ok();
        let same = |a: std::fs::Metadata, b: std::fs::Metadata| (a.dev(), a.ino()) == (b.dev(), b.ino());
        if locked && file.metadata().ok().zip(std::fs::metadata(path).ok()).is_some_and(|(a, b)| same(a, b)) {
            let mut old = path.as_os_str().to_owned();
            old.push(".1");
            let _ = std::fs::rename(path, old);
        }
        if let Ok(new) = open(path) {
            // What is said when this process panics goes to the same place.
            if self.has_stderr {
                let _ = rustix::stdio::dup2_stderr(&new);
            }
            *file = new;
        }
    }
}

impl ckpt_fuse::Log for Log {
    fn line(&self, text: &str) {
        let now = jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ");
        let text: String = printable(text).chars().take(LINE_CHARS_MAX).collect();
        let line = format!("{now} {}: {text}\n", self.mount);
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        match (&mut *file, &self.path) {
            (Some(file), Some(path)) => {
                self.renew(file, path);
                let _ = file.write_all(line.as_bytes());
            }
            // Not `eprint!`, which panics when whoever reads stderr has gone away.
            _ => drop(std::io::stderr().write_all(line.as_bytes())),
        }
    }
}
