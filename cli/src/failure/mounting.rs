//! Exit codes and hints for what can go wrong with a mount. Never prints.

use std::io::ErrorKind;
use std::path::Path;

use ckpt_fuse::Error;

use crate::output::pasted;

/// The exit code, as docs/cli.md lists them.
pub fn code(error: &Error) -> u8 {
    match error {
        Error::NoDirectory { .. } | Error::NotMounted { .. } => 3,
        Error::NotDirectory { .. } | Error::Overlap { .. } | Error::Unsuited { .. } => 2,
        Error::NotEmpty { .. } | Error::Mounted { .. } => 7,
        Error::Io { source, .. } if source.kind() == ErrorKind::NotFound => 3,
        _ => 6,
    }
}

/// Lines that say more.
pub fn more(error: &Error) -> Vec<String> {
    match error {
        Error::Busy { holders, .. } => holders.iter().map(|holder| format!("  {holder}")).collect(),
        _ => Vec::new(),
    }
}

/// Whether this user may take away what is mounted there.
fn may_unmount(directory: &Path) -> bool {
    let me = rustix::process::geteuid();
    let owner = ckpt_fuse::mount_on(directory).ok().flatten().and_then(|mount| mount.user);
    me.is_root() || owner.is_none_or(|owner| owner == me.as_raw())
}

/// What helps.
pub fn hint(error: &Error) -> Option<String> {
    let hint = match error {
        Error::NoDirectory { directory } => format!("`mkdir -p {}` makes it", pasted(directory)),
        Error::NotEmpty { .. } => {
            "another directory will do; with `--nonempty` what is in it is hidden until it is unmounted".into()
        }
        Error::NotDirectory { .. } | Error::Overlap { .. } => {
            "mount on an empty directory that lies apart from the store".into()
        }
        Error::Unsuited { .. } => {
            "`--materialize` takes a directory apart from the store, or the name of a new one in a directory that is there"
                .into()
        }
        Error::Mounted { directory } | Error::Silent { directory } if !may_unmount(directory) => {
            let on = pasted(directory);
            format!("it is another user's; `ckpt mount --status {on}` says whose, another directory will do")
        }
        Error::Mounted { directory } => {
            let on = pasted(directory);
            format!("`ckpt mount --status {on}` says more, `ckpt umount {on}` takes it away")
        }
        Error::NotMounted { inside: Some(mount), .. } => format!("it lies in the mount on {}", pasted(mount)),
        Error::NotMounted { .. } => "`ckpt mount --status` lists the mounts".into(),
        Error::Busy { directory, .. } => {
            format!(
                "`ckpt umount --lazy {}` takes it away now and serves what is open until it is closed",
                pasted(directory)
            )
        }
        Error::Silent { directory } => {
            let on = pasted(directory);
            format!("`ckpt mount --status {on}` names its process and its log; `ckpt umount --lazy {on}` takes it away")
        }
        Error::NoFuse => {
            "`modprobe fuse` as root brings it; a container needs `--device /dev/fuse --cap-add SYS_ADMIN`".into()
        }
        Error::DeviceRefused(_) => "`chmod 666 /dev/fuse` as root lets every user mount, as most systems do".into(),
        Error::NoHelper => "`apt install fuse3` brings it".into(),
        Error::OthersRefused => {
            "root can allow it by a line `user_allow_other` in /etc/fuse.conf; without `--allow-other` it works as well"
                .into()
        }
        Error::Refused { unmounting: false, reason } if reason.contains("mountpoint") => {
            "users who are not root mount on directories that are theirs".into()
        }
        Error::Refused { unmounting: false, .. } => {
            "a container needs `--device /dev/fuse --cap-add SYS_ADMIN`, and some `--security-opt apparmor=unconfined`"
                .into()
        }
        Error::Refused { unmounting: true, .. } => "only root and whoever mounted it may unmount it".into(),
        Error::Io { source, .. } if source.kind() == ErrorKind::NotConnected => {
            "something is mounted there that nobody serves any more: `umount -l` takes it away".into()
        }
        Error::Io { source, .. } if source.kind() == ErrorKind::PermissionDenied => {
            "check who owns the files and what they allow".into()
        }
        _ => return None,
    };
    Some(hint)
}
