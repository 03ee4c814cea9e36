//! Where what is written comes to lie: temporary names beside a target, and the step that gives the real one. Never leaves a
//! moment in which neither the old nor the new thing has the name.

use std::ffi::{OsStr, OsString};
use std::fs::{self, Permissions};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result, Thing};

/// Gives what is at `from` the name `to`, in one step; only with `force` in place of what has that name.
pub fn put_in_place(from: &Path, to: &Path, force: bool) -> io::Result<()> {
    use rustix::fs::{CWD, RenameFlags, renameat_with};
    let rename = |flags| renameat_with(CWD, from, CWD, to, flags).map_err(io::Error::from);
    if !force {
        return match rename(RenameFlags::NOREPLACE) {
            // Some file systems know no such rename; there the check of before has to do.
            Err(error) if error.raw_os_error() == Some(22) => fs::rename(from, to),
            other => other,
        };
    }
    match fs::symlink_metadata(to) {
        Ok(old) if old.is_dir() => {
            // Swapped in one step, so that at every moment one of the two whole trees has the name.
            rename(RenameFlags::EXCHANGE)?;
            remove_tree(from)
        }
        Ok(_) if from.is_dir() => {
            fs::remove_file(to)?;
            fs::rename(from, to)
        }
        _ => fs::rename(from, to),
    }
}

/// Removes a directory and all in it, also what is in directories that don't let their owner write.
pub fn remove_tree(path: &Path) -> io::Result<()> {
    fn open_up(directory: &Path) -> io::Result<()> {
        fs::set_permissions(directory, Permissions::from_mode(0o700))?;
        for entry in fs::read_dir(directory)? {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                open_up(&entry.path())?;
            }
        }
        Ok(())
    }
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            open_up(path)?;
            fs::remove_dir_all(path)
        }
        other => other,
    }
}

/// The error for a destination that is there already.
pub fn exists(target: &Path) -> Error {
    Error::Exists { thing: Thing::Destination, name: target.display().to_string() }
}

/// The directory that a target is to be in.
pub fn parent_of(target: &Path) -> &Path {
    target.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// A name on the same file system as the target that nothing has yet.
pub fn temporary_beside(target: &Path) -> Result<PathBuf> {
    let parent = parent_of(target);
    match fs::metadata(parent) {
        Ok(there) if there.is_dir() => {}
        Err(error) if !matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            return Err(Error::io("read", parent, error));
        }
        _ => {
            let name = parent.display().to_string();
            return Err(Error::NotFound { thing: Thing::Destination, name, near: Vec::new() });
        }
    }
    let name = target.file_name().ok_or_else(|| Error::Invalid(format!("{} can't be written to", target.display())))?;
    let mut hidden = OsString::from(".");
    // The name's beginning only: with what is added it must still fit a directory entry.
    hidden.push(OsStr::from_bytes(&name.as_bytes()[..name.len().min(200)]));
    hidden.push(format!(".{}.partial", ulid::Ulid::generate().to_string().to_lowercase()));
    Ok(parent.join(hidden))
}
