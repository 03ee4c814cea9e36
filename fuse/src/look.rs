//! Looks at a mount as its users do: asks the file system for its size, its root directory and its status. It may never
//! return, because who serves the mount may not answer: only a process that may hang calls this, and never the server.

use std::path::Path;

use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use crate::status::{ATTRIBUTE, Status};

/// The longest status, as the kernel has it for extended attributes.
const STATUS_BYTES_MAX: usize = 64 << 10;

/// What a mount looks like.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Look {
    /// It answers.
    Alive(Option<Box<Status>>),
    /// Nobody serves it any more.
    Stale,
    /// It is another user's, who lets nobody else in.
    Refused,
    /// It does not answer. Only who waited for a look can say so.
    Silent,
    /// It answers with an error.
    Failed(String),
}

/// Looks at what is mounted on a directory.
pub fn look(directory: &Path) -> Look {
    let tried = || -> std::io::Result<()> {
        rustix::fs::statfs(directory)?;
        std::fs::read_dir(directory)?.next().transpose()?;
        Ok(())
    };
    if let Err(error) = tried() {
        return match error.raw_os_error().map(Errno::from_raw_os_error) {
            Some(Errno::NOTCONN | Errno::CONNABORTED) => Look::Stale,
            Some(Errno::ACCESS | Errno::PERM) => Look::Refused,
            _ => Look::Failed(error.to_string()),
        };
    }
    let mut text = vec![0; STATUS_BYTES_MAX];
    let status = rustix::fs::getxattr(directory, ATTRIBUTE, &mut text[..]).ok();
    Look::Alive(status.and_then(|bytes| serde_json::from_slice(&text[..bytes]).ok()).map(Box::new))
}

/// Makes the kernel know every file of a directory of the mount, so that pages can be given to it. Answers how many there are.
pub fn walk(directory: &Path) -> std::io::Result<u64> {
    let mut files = 0;
    for entry in std::fs::read_dir(directory)? {
        let entry = entry?;
        let about = entry.metadata()?;
        if about.is_dir() {
            files += walk(&entry.path())?;
        } else {
            files += u64::from(about.is_file());
        }
    }
    Ok(files)
}
