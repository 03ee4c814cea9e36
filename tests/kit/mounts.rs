//! File systems that only a test sees. They live in a mount namespace of one thread and go with it, so that nothing stays
//! mounted however a test ends.

use std::ffi::CString;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs::{CWD, FileType, Mode, makedev, mknodat};
use rustix::mount::{MountFlags, MountPropagationFlags, mount, mount_bind, mount_change, mount_remount};
use rustix::thread::{UnshareFlags, unshare_unsafe};

use crate::connection::{detach, mount_points};
use crate::lab::Lab;

/// Runs `work` where it may mount. Commands that it starts see what it mounted; other threads don't. Where mounting is not
/// permitted it says so and runs nothing.
pub fn with_mounts(work: impl FnOnce() + Send) {
    let inside = || {
        // SAFETY: only the mount namespace and the working directory stop being shared with the other threads; no memory and
        // no file descriptor does.
        let unshared = unsafe { unshare_unsafe(UnshareFlags::NEWNS) };
        let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
        match unshared.and_then(|()| mount_change("/", private)) {
            Ok(()) => {
                // What tests beside this one have mounted lives for as long as it is mounted anywhere.
                mount_points().iter().for_each(|at| detach(at));
                work();
            }
            Err(error) => eprintln!("skipped: mounting is refused here: {error}"),
        }
    };
    std::thread::scope(|scope| {
        if let Err(panic) = scope.spawn(inside).join() {
            std::panic::resume_unwind(panic);
        }
    });
}

/// Mounts an empty file system of `bytes` on a directory.
pub fn mount_small(on: &Path, bytes: u64) {
    mount_with(on, &format!("size={bytes}"));
}

/// A lab whose store, new and empty, has a small disk to itself. Does nothing where mounting is refused.
pub fn on_small_disk(bytes: u64, work: impl FnOnce(&Lab) + Send) {
    let lab = Lab::bare();
    std::fs::create_dir(lab.store()).expect("a directory can be made");
    with_mounts(|| {
        mount_small(&lab.store(), bytes);
        lab.ok(&[&"init"]);
        work(&lab);
    });
}

/// Mounts an empty file system with these options of tmpfs on a directory.
pub fn mount_with(on: &Path, options: &str) {
    let options = CString::new(options).expect("no NUL in options");
    mount("ckpt-test", on, "tmpfs", MountFlags::empty(), options.as_c_str()).expect("a tmpfs can be mounted");
}

/// Lets every user open `/dev/fuse`, as most systems do, wherever this one is mounted over it: by a device of the same number
/// on a file system in `on`.
pub fn open_fuse_to_all(on: &Path) {
    mount_with(on, "mode=755");
    let device = on.join("fuse");
    let (mode, number) = (Mode::from_raw_mode(0o666), makedev(10, 229));
    mknodat(CWD, &device, FileType::CharacterDevice, mode, number).expect("root can make a device");
    std::fs::set_permissions(&device, std::os::unix::fs::PermissionsExt::from_mode(0o666)).expect("a mode can be set");
    mount_bind(&device, "/dev/fuse").expect("a device can be mounted over another");
}

/// Makes the file system that is mounted on a directory read-only.
pub fn make_read_only(on: &Path) {
    mount_remount(on, MountFlags::RDONLY, c"").expect("it can be mounted read-only");
}

/// Bytes that are free on the file system of a directory.
pub fn free_bytes(on: &Path) -> u64 {
    let space = rustix::fs::statvfs(on).unwrap_or_else(|e| panic!("{:?}: {e}", on.as_os_str().as_bytes()));
    space.f_bavail * space.f_frsize
}
