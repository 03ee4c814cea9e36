//! Whatever would change something is refused, as by a disk that is mounted read-only, and also after somebody mounted it
//! anew for writing.

use std::ffi::CString;
use std::fs::{self, File, FileTimes, Metadata, OpenOptions};
use std::io::{self, Error};
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, chown, symlink};
use std::path::Path;
use std::time::{Duration, SystemTime};

use ckpt_tests::mount::{is_root, mountable};
use ckpt_tests::mounts::{make_read_only, mount_small, with_mounts};
use ckpt_tests::readers::paths;
use ckpt_tests::sample::{self, Node, Tree};
use rustix::mount::{MountFlags, mount_remount};

use super::Scene;

/// A call that would change something in a directory with a file `file`, a directory `sub` and a link `link`.
type Change = (&'static str, fn(&Path) -> io::Result<()>);

fn c(path: &Path) -> CString {
    CString::new(path.as_os_str().as_bytes()).unwrap()
}

fn done(code: impl Into<i64>) -> io::Result<()> {
    if code.into() < 0 { Err(Error::last_os_error()) } else { Ok(()) }
}

fn open(options: &mut OpenOptions, path: &Path) -> io::Result<()> {
    options.open(path).map(drop)
}

fn read_only(at: &Path) -> io::Result<File> {
    File::open(at.join("file"))
}

const CHANGES: &[Change] = &[
    ("open to write", |at| open(OpenOptions::new().write(true), &at.join("file"))),
    ("open to read and write", |at| open(OpenOptions::new().read(true).write(true), &at.join("file"))),
    ("open to append", |at| open(OpenOptions::new().append(true), &at.join("file"))),
    ("O_TRUNC", |at| open(OpenOptions::new().write(true).truncate(true), &at.join("file"))),
    ("O_TRUNC to read", |at| open(OpenOptions::new().read(true).custom_flags(libc::O_TRUNC), &at.join("file"))),
    ("O_CREAT of what is there", |at| {
        open(OpenOptions::new().write(true).create(true).truncate(false), &at.join("file"))
    }),
    ("O_CREAT", |at| open(OpenOptions::new().write(true).create(true).truncate(true), &at.join("new"))),
    ("O_CREAT in a directory", |at| open(OpenOptions::new().write(true).create_new(true), &at.join("sub/new"))),
    ("O_TMPFILE", |at| open(OpenOptions::new().write(true).custom_flags(libc::O_TMPFILE), &at.join("sub"))),
    ("open as an ordinary write", |at| fs::write(at.join("file"), b"x")),
    ("mkdir", |at| fs::create_dir(at.join("new"))),
    ("mkdir of what is there", |at| fs::create_dir(at.join("sub"))),
    // SAFETY: a path with a NUL, here and below.
    ("mknod of a pipe", |at| done(unsafe { libc::mknod(c(&at.join("new")).as_ptr(), libc::S_IFIFO | 0o600, 0) })),
    // SAFETY: as above.
    ("mknod of a device", |at| done(unsafe { libc::mknod(c(&at.join("new")).as_ptr(), libc::S_IFCHR | 0o600, 0x103) })),
    ("bind of a socket", |at| std::os::unix::net::UnixListener::bind(at.join("s")).map(drop)),
    ("unlink", |at| fs::remove_file(at.join("file"))),
    ("unlink of a link", |at| fs::remove_file(at.join("link"))),
    ("unlink of nothing", |at| fs::remove_file(at.join("nothing"))),
    ("rmdir", |at| fs::remove_dir(at.join("sub"))),
    ("rename", |at| fs::rename(at.join("file"), at.join("new"))),
    ("rename over another", |at| fs::rename(at.join("file"), at.join("other"))),
    ("rename of a directory", |at| fs::rename(at.join("sub"), at.join("new"))),
    ("exchange", |at| {
        let (from, to) = (c(&at.join("file")), c(&at.join("other")));
        // SAFETY: as above.
        done(unsafe {
            libc::renameat2(libc::AT_FDCWD, from.as_ptr(), libc::AT_FDCWD, to.as_ptr(), libc::RENAME_EXCHANGE)
        })
    }),
    ("link", |at| fs::hard_link(at.join("file"), at.join("new"))),
    ("symlink", |at| symlink("file", at.join("new"))),
    ("chmod", |at| fs::set_permissions(at.join("file"), fs::Permissions::from_mode(0o777))),
    ("chmod of a directory", |at| fs::set_permissions(at.join("sub"), fs::Permissions::from_mode(0o777))),
    ("fchmod", |at| read_only(at)?.set_permissions(fs::Permissions::from_mode(0o600))),
    ("chown", |at| chown(at.join("file"), Some(7), Some(7))),
    ("chown of a directory", |at| chown(at.join("sub"), Some(7), None)),
    ("lchown", |at| std::os::unix::fs::lchown(at.join("link"), Some(7), None)),
    ("utimensat", |at| File::open(at.join("sub"))?.set_modified(SystemTime::UNIX_EPOCH)),
    ("futimens", |at| {
        read_only(at)?.set_times(FileTimes::new().set_accessed(SystemTime::UNIX_EPOCH + Duration::from_secs(9)))
    }),
    // SAFETY: as above.
    ("truncate", |at| done(unsafe { libc::truncate(c(&at.join("file")).as_ptr(), 3) })),
    // SAFETY: as above.
    ("truncate to more", |at| done(unsafe { libc::truncate(c(&at.join("file")).as_ptr(), 1 << 40) })),
    ("ftruncate", |at| read_only(at)?.set_len(0)),
    ("setxattr", |at| {
        let (path, value) = (c(&at.join("file")), [1_u8; 3]);
        // SAFETY: as above; the value has the length that is told.
        done(unsafe { libc::setxattr(path.as_ptr(), c"user.x".as_ptr(), value.as_ptr().cast(), 3, 0) })
    }),
    ("setxattr of a directory", |at| {
        let (path, value) = (c(&at.join("sub")), [1_u8; 3]);
        // SAFETY: as above.
        done(unsafe { libc::setxattr(path.as_ptr(), c"user.x".as_ptr(), value.as_ptr().cast(), 3, 0) })
    }),
    // SAFETY: as above.
    ("removexattr", |at| done(unsafe { libc::removexattr(c(&at.join("file")).as_ptr(), c"user.ckpt.id".as_ptr()) })),
    // SAFETY: a descriptor that is open, here and below.
    ("fallocate", |at| done(unsafe { libc::fallocate(read_only(at)?.as_raw_fd(), 0, 0, 1 << 20) })),
    ("punch a hole", |at| {
        let how = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
        // SAFETY: as above.
        done(unsafe { libc::fallocate(read_only(at)?.as_raw_fd(), how, 0, 4096) })
    }),
    // SAFETY: as above; the bytes are there for the call.
    ("write", |at| done(unsafe { libc::write(read_only(at)?.as_raw_fd(), b"x".as_ptr().cast(), 1) } as i64)),
    // SAFETY: as above.
    ("pwrite", |at| done(unsafe { libc::pwrite(read_only(at)?.as_raw_fd(), b"x".as_ptr().cast(), 1, 0) } as i64)),
    ("mmap shared to write", |at| {
        let (file, access) = (read_only(at)?, libc::PROT_READ | libc::PROT_WRITE);
        // SAFETY: it is refused, or never used.
        let map = unsafe { libc::mmap(std::ptr::null_mut(), 4096, access, libc::MAP_SHARED, file.as_raw_fd(), 0) };
        if map == libc::MAP_FAILED { Err(Error::last_os_error()) } else { Ok(()) }
    }),
    ("mprotect of a shared mapping to write", |at| {
        let file = read_only(at)?;
        // SAFETY: a new mapping, which is never used.
        unsafe {
            let map = libc::mmap(std::ptr::null_mut(), 4096, libc::PROT_READ, libc::MAP_SHARED, file.as_raw_fd(), 0);
            done(libc::mprotect(map, 4096, libc::PROT_READ | libc::PROT_WRITE))
        }
    }),
    ("copy_file_range", |at| {
        let (from, to) = (File::open(at.join("other"))?, read_only(at)?);
        let null = std::ptr::null_mut();
        // SAFETY: descriptors that are open.
        done(unsafe { libc::copy_file_range(from.as_raw_fd(), null, to.as_raw_fd(), null, 10, 0) } as i64)
    }),
    ("sendfile", |at| {
        let (from, to) = (File::open(at.join("other"))?, read_only(at)?);
        // SAFETY: as above.
        done(unsafe { libc::sendfile(to.as_raw_fd(), from.as_raw_fd(), std::ptr::null_mut(), 10) } as i64)
    }),
    ("FS_IOC_SETFLAGS", |at| {
        let (file, flags) = (read_only(at)?, 0x10_i64);
        // SAFETY: as above; the flags are there for the call.
        done(unsafe { libc::ioctl(file.as_raw_fd(), libc::FS_IOC_SETFLAGS, &raw const flags) })
    }),
    ("access to write", |at| {
        // SAFETY: a path with a NUL.
        done(unsafe { libc::access(c(&at.join("file")).as_ptr(), libc::W_OK) })
    }),
];

/// The number of the error that each change ends with; none when it was done.
fn answers(at: &Path) -> Vec<(&'static str, Option<i32>)> {
    CHANGES.iter().map(|(name, change)| (*name, change(at).err().and_then(|error| error.raw_os_error()))).collect()
}

fn tree() -> Tree {
    Tree::directory()
        .with("file", Node::File(sample::noise(1, 100_000), 0o644))
        .with("other", Node::File(sample::noise(2, 5000), 0o644))
        .with("sub", Node::Directory(0o755))
        .with("sub/inner", Node::File(b"inner".to_vec(), 0o644))
        .with("link", Node::Link("file".into()))
}

/// All that is told of a directory and what is in it, so that a change would show.
fn told(root: &Path) -> Vec<String> {
    let line = |path: &Path, of: &Metadata| {
        format!("{} {:o} {} {} {} {}", path.display(), of.mode(), of.size(), of.mtime(), of.nlink(), of.uid())
    };
    paths(root).iter().map(|(path, of)| line(path, of)).collect()
}

#[test]
fn every_change_is_refused_as_by_a_disk_that_is_read_only() {
    if !mountable() {
        return;
    }
    let scene = Scene::new();
    let original = scene.put(&tree(), "r", 1);
    let mount = scene.mount();
    let at = mount.path("r/step-1");
    let before = told(&at);
    let ours = answers(&at);
    for (name, error) in &ours {
        assert!(error.is_some(), "{name} is done");
    }
    assert_eq!(told(&at), before);
    let mut compared = false;
    with_mounts(|| {
        let other = scene.lab.path("original-tmpfs");
        fs::create_dir(&other).unwrap();
        mount_small(&other, 1 << 20);
        let copy = other.join("copy");
        tree().write(&copy);
        make_read_only(&other);
        assert_eq!(ours, answers(&copy));
        compared = true;
    });
    assert!(compared || !is_root());
    // Where no checkpoint is, neither.
    for at in [mount.at().to_owned(), mount.path("r"), mount.path("by-id")] {
        let error = fs::write(at.join("new"), b"x").unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EROFS), "{}", at.display());
        assert_eq!(fs::create_dir(at.join("new")).unwrap_err().raw_os_error(), Some(libc::EROFS));
    }
    assert_eq!(fs::remove_file(mount.path("r/latest")).unwrap_err().raw_os_error(), Some(libc::EROFS));
    ckpt_tests::readers::assert_same_bytes(&original, &at, "after all of it");
}

#[test]
fn who_mounts_it_anew_for_writing_can_change_nothing() {
    if !mountable() || !is_root() {
        return;
    }
    let scene = Scene::new();
    let original = scene.put(&tree(), "r", 1);
    let mount = scene.mount();
    let at = mount.path("r/step-1");
    let before = told(&at);
    mount_remount(mount.at(), MountFlags::empty(), c"").unwrap();
    let is_read_only = rustix::fs::statvfs(mount.at()).unwrap().f_flag.contains(rustix::fs::StatVfsMountFlags::RDONLY);
    assert!(!is_read_only, "the kernel lets nothing through, and this test tests nothing");
    // What the kernel itself refuses for another reason, it still does.
    let read_only_by_kernel = [
        "mkdir of what is there",
        "unlink of nothing",
        "ftruncate",
        "write",
        "pwrite",
        "mmap shared to write",
        "mprotect of a shared mapping to write",
        "copy_file_range",
        "sendfile",
        "FS_IOC_SETFLAGS",
        "fallocate",
        "punch a hole",
        "removexattr",
        "O_TMPFILE",
    ];
    for (name, error) in answers(&at) {
        // The kernel answers this by the modes alone.
        if name == "access to write" {
            continue;
        }
        let is_refused = if read_only_by_kernel.contains(&name) { error.is_some() } else { error == Some(libc::EROFS) };
        assert!(is_refused, "{name}: {:?}", error.map(Error::from_raw_os_error));
    }
    assert_eq!(told(&at), before);
    assert!(fs::write(mount.path("r/new"), b"x").is_err() && fs::create_dir(mount.path("new")).is_err());
    ckpt_tests::readers::assert_same_bytes(&original, &at, "after all of it");
}
