//! Exit codes and hints for what can go wrong with a mount. Never prints.

use std::io::ErrorKind;

use ckpt_fuse::Error;

/// The exit code, as docs/cli.md lists them.
pub fn code(error: &Error) -> u8 {
    match error {
        Error::NoDirectory { .. } | Error::NotMounted { .. } => 3,
        Error::NotDirectory { .. } | Error::Overlap { .. } => 2,
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

/// What helps.
pub fn hint(error: &Error) -> Option<String> {
    let hint = match error {
        Error::NoDirectory { directory } => format!("`mkdir -p {}` makes it", directory.display()),
        Error::NotEmpty { .. } => {
            "another directory will do; with `--nonempty` what is in it is hidden until it is unmounted".into()
        }
        Error::NotDirectory { .. } | Error::Overlap { .. } => {
            "mount on an empty directory that lies apart from the store".into()
        }
        Error::Mounted { directory } => {
            let on = directory.display();
            format!("`ckpt mount --status {on}` says more, `ckpt umount {on}` takes it away")
        }
        Error::NotMounted { inside: Some(mount), .. } => format!("it lies in the mount on {}", mount.display()),
        Error::NotMounted { .. } => "`ckpt mount --status` lists the mounts".into(),
        Error::Busy { directory, .. } => {
            format!(
                "`ckpt umount --lazy {}` takes it away now and serves what is open until it is closed",
                directory.display()
            )
        }
        Error::Silent { directory } => {
            format!("its log may say why; `ckpt umount --lazy {}` takes it away", directory.display())
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
        _ => return None,
    };
    Some(hint)
}
