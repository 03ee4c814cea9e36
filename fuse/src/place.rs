//! Whether a directory can be the mount point, before anything is mounted; and what it means when the system refuses to mount.
//! Never changes anything.

use std::io::ErrorKind;
use std::path::Path;

use fuser::{Config, MountOption, SessionACL};

use crate::{Error, Result, mounts};

/// FUSE's device.
const DEVICE: &str = "/dev/fuse";

/// Checks that a store can be mounted on a directory, whose path has no links: that it is one, that it is empty unless
/// `nonempty`, and that the mount would hide nothing that it needs: the store, and `others` with what each is.
pub fn check(directory: &Path, store: &Path, others: &[(&str, &Path)], nonempty: bool) -> Result<()> {
    let about = std::fs::symlink_metadata(directory).map_err(|source| match source.kind() {
        ErrorKind::NotFound => Error::NoDirectory { directory: directory.to_owned() },
        _ => Error::Io { what: format!("can't look at {}", directory.display()), source },
    })?;
    if !about.is_dir() {
        return Err(Error::NotDirectory { path: directory.to_owned() });
    }
    apart(directory, store, others)?;
    if !nonempty {
        let mut entries = std::fs::read_dir(directory)
            .map_err(|source| Error::Io { what: format!("can't list {}", directory.display()), source })?;
        if entries.next().is_some() {
            return Err(Error::NotEmpty { directory: directory.to_owned() });
        }
    }
    Ok(())
}

/// Checks that a mount would hide nothing that it needs, and not lie in the store.
pub fn apart(directory: &Path, store: &Path, others: &[(&str, &Path)]) -> Result<()> {
    let overlap = |why: String| Err(Error::Overlap { directory: directory.to_owned(), why });
    let store = mounts::real(store);
    if directory.starts_with(&store) {
        return overlap(format!("it lies in the store {}", store.display()));
    }
    for (what, path) in std::iter::once((&"the store", &&*store)).chain(others.iter().map(|(what, path)| (what, path)))
    {
        if mounts::real(path).starts_with(directory) {
            return overlap(format!("it would hide {what} {}", path.display()));
        }
    }
    Ok(())
}

/// Checks that files can be laid down in a directory, whose path has no links: that it is one or can be made in one, and lies apart
/// from the store.
pub fn check_laid(directory: &Path, store: &Path) -> Result<()> {
    let unsuited = |why: String| Err(Error::Unsuited { directory: directory.to_owned(), why });
    let store = mounts::real(store);
    if directory.starts_with(&store) {
        return unsuited(format!("it lies in the store {}", store.display()));
    }
    if store.starts_with(directory) {
        return unsuited(format!("the store {} lies in it", store.display()));
    }
    let is_missing =
        |path: &Path| std::fs::symlink_metadata(path).is_err_and(|error| error.kind() == ErrorKind::NotFound);
    if let Some(above) = directory.parent().filter(|above| is_missing(above)) {
        return Err(Error::NoDirectory { directory: above.to_owned() });
    }
    if !is_missing(directory) && !directory.is_dir() {
        return unsuited("it is not a directory".into());
    }
    Ok(())
}

/// How a store is mounted, for FUSE.
pub fn config(store: &Path, allow_other: bool) -> Config {
    // `fusermount3` takes options as a list with commas; mounting directly, the name stands alone.
    let name = store.to_string_lossy();
    let name = if is_root() { name.into_owned() } else { name.replace('\\', "\\\\").replace(',', "\\,") };
    let mut config = Config::default();
    config.mount_options = vec![
        MountOption::FSName(name),
        // Not `Subtype`: fuser leaves that away when it mounts without `fusermount3`, and nobody would know whose it is.
        MountOption::CUSTOM("subtype=ckpt".into()),
        MountOption::RO,
        MountOption::NoSuid,
        MountOption::NoDev,
        MountOption::NoAtime,
        MountOption::DefaultPermissions,
    ];
    config.acl = if allow_other { SessionACL::All } else { SessionACL::Owner };
    config
}

/// Whether this process may open the device by itself, which it needs for a channel of its own for each thread.
pub fn may_open_device() -> bool {
    std::fs::OpenOptions::new().read(true).write(true).open(DEVICE).is_ok()
}

/// What it means that FUSE could not mount on a directory.
pub fn refusal(directory: &Path, error: std::io::Error) -> Error {
    if !Path::new(DEVICE).exists() {
        return Error::NoFuse;
    }
    if let Err(error) = std::fs::OpenOptions::new().read(true).write(true).open(DEVICE) {
        return match error.raw_os_error().map(rustix::io::Errno::from_raw_os_error) {
            // The device is there and what should drive it is not.
            Some(rustix::io::Errno::NODEV | rustix::io::Errno::NXIO) => Error::NoFuse,
            _ => Error::DeviceRefused(error),
        };
    }
    let said = error.to_string();
    match error.kind() {
        ErrorKind::PermissionDenied if said.contains("user_allow_other") => Error::OthersRefused,
        // What is missing is `fusermount3`, which is called when mounting directly is not permitted.
        ErrorKind::NotFound if is_root() => {
            Error::Refused { unmounting: false, reason: "this process lacks the right to mount (CAP_SYS_ADMIN)".into() }
        }
        ErrorKind::NotFound => Error::NoHelper,
        ErrorKind::Other if !said.trim().is_empty() => {
            Error::Refused { unmounting: false, reason: said.trim().replace('\n', "; ") }
        }
        _ => Error::Io { what: format!("can't mount on {}", directory.display()), source: error },
    }
}

/// Whether this process acts as root.
pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}
