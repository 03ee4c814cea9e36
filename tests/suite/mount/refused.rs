//! Mounts that can't be, and what people are told: the directory, the store, the log, the rights.

use std::fs::{self, File};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use ckpt_tests::desk::Desk;
use ckpt_tests::mount::{NOBODY, detach, has_program, is_root, minor_of, mountable};
use ckpt_tests::mounts::{mount_with, with_mounts};
use ckpt_tests::process::Process;
use ckpt_tests::run::{Ran, copy_for_all, run};
use rustix::fs::{FileType, Mode, makedev, mknodat};
use rustix::mount::{mount_bind, mount_bind_recursive};

/// That a command fails in this way and leaves no mount.
#[track_caller]
fn assert_refused(desk: &Desk, ran: &Ran, code: i32, error: &str, hint: &str) {
    assert_eq!(ran.code, Some(code), "{ran:?}");
    assert!(ran.stdout.is_empty(), "{ran:?}");
    assert!(ran.stderr.starts_with(&format!("Error: {error}")), "{ran:?}");
    assert!(ran.stderr.contains(&format!("Hint: {hint}")), "{ran:?}");
    assert_eq!(minor_of(desk.at()), None, "{ran:?}");
}

#[test]
fn what_can_not_be_a_mount_point() {
    if !mountable() {
        return;
    }
    let desk = Desk::new();
    let dir = desk.lab.dir().canonicalize().unwrap();
    let (store, shown) = (desk.lab.store().canonicalize().unwrap(), |name: &str| dir.join(name).display().to_string());
    for foreground in [&[][..], &["--foreground"]] {
        let mount = |at: &str, more: &[&str]| desk.run([&["mount", at], foreground, more].concat());
        assert_refused(&desk, &mount("new", &[]), 3, &format!("no directory {}\n", shown("new")), "`mkdir -p ");
        let error = format!("{} is not a directory\n", shown("model.bin"));
        assert_refused(&desk, &mount("model.bin", &[]), 2, &error, "mount on an empty directory");
        fs::create_dir_all(desk.lab.path("full/x")).unwrap();
        let error = format!("the directory {} is not empty\n", shown("full"));
        assert_refused(&desk, &mount("full", &[]), 7, &error, "another directory will do; with `--nonempty`");
        // The store, however it is named.
        symlink(&store, desk.lab.path("link")).ok();
        for at in [store.join("tmp").to_str().unwrap(), "link/tmp", "."] {
            let ran = mount(at, &["--nonempty"]);
            assert_eq!(ran.code, Some(2), "{at}: {ran:?}");
            assert!(ran.stderr.contains("can't be the mount point"), "{at}: {ran:?}");
        }
        let inside = desk.at().join("log/file");
        let ran = mount(desk.at().to_str().unwrap(), &["--log", inside.to_str().unwrap()]);
        assert_refused(&desk, &ran, 2, &desk.at().display().to_string(), "mount on an empty");
        assert!(ran.stderr.contains("it would hide the log") && !inside.exists(), "{ran:?}");
    }
    // What is in a directory that is not empty is there again afterwards.
    assert_eq!(desk.run(["mount", "full", "--nonempty"]).code, Some(0));
    assert!(desk.lab.path("full/r").exists() && !desk.lab.path("full/x").exists());
    assert_eq!(desk.run(["umount", "full"]).code, Some(0));
    assert!(desk.lab.path("full/x").exists());
}

#[test]
fn what_can_not_be_mounted() {
    if !mountable() {
        return;
    }
    let desk = Desk::new();
    let at = desk.at().to_str().unwrap();
    let mut other = ckpt_tests::run::command();
    let ran = run(other
        .current_dir(desk.lab.dir())
        .args(["--store", "nowhere", "mount", at])
        .env("HOME", desk.lab.path("home")));
    assert_refused(&desk, &ran, 3, "no store ", "`ckpt init` makes one");
    assert_refused(&desk, &desk.run(["mount", at, "--warm", "r@7"]), 3, "no checkpoint r@7", "did you mean r@1?");
    // Whoever may write to it would choose what root reads out to everybody.
    let laid = desk.lab.path("laid");
    fs::create_dir(&laid).unwrap();
    for mode in [0o777, 0o1777].into_iter().filter(|_| is_root()) {
        fs::set_permissions(&laid, fs::Permissions::from_mode(mode)).unwrap();
        let ran = desk.run(["mount", at, "--materialize", laid.to_str().unwrap()]);
        assert!(ran.code == Some(6) && ran.stderr.contains("others than root may write to it"), "{ran:?}");
        assert!(ran.stderr.ends_with("\nHint: check who owns the files and what they allow\n"), "{ran:?}");
        assert!(fs::read_dir(&laid).unwrap().next().is_none() && minor_of(desk.at()).is_none(), "{ran:?}");
    }
    fs::write(desk.lab.store().join("FORMAT"), "{}").unwrap();
    let ran = desk.run(["mount", at]);
    assert!(ran.code == Some(4) && ran.stderr.contains("Hint: `ckpt repair`"), "{ran:?}");
}

#[test]
fn what_can_not_be_unmounted() {
    if !mountable() {
        return;
    }
    let mut desk = Desk::new();
    let none = format!("no store is mounted on {}\n", desk.at().display());
    assert_refused(&desk, &desk.verb("umount", &[]), 3, &none, "`ckpt mount --status` lists");
    assert_refused(&desk, &desk.verb("mount", &["--status"]), 3, &none, "`ckpt mount --status` lists");
    assert_eq!(desk.run(["umount", "nowhere/at/all"]).code, Some(3));
    desk.mount(&[]);
    let ran = desk.run(["umount".as_ref(), desk.at().join("r").as_os_str()]);
    assert!(ran.code == Some(3), "{ran:?}");
    assert!(ran.stderr.contains(&format!("Hint: it lies in the mount on '{}'\n", desk.at().display())), "{ran:?}");
    desk.verb("umount", &[]).expect(0);
}

#[test]
fn the_log_is_bounded_and_may_be_missing() {
    if !mountable() {
        return;
    }
    let mut desk = Desk::new();
    fs::create_dir_all(desk.log().parent().unwrap()).unwrap();
    fs::write(desk.log(), vec![b'\n'; 5 << 20]).unwrap();
    let server = desk.mount(&[]);
    let file = File::open(desk.file()).unwrap();
    assert!(server.send(libc::SIGTERM));
    super::wait_for("it is unmounted", super::NOTICES, || minor_of(desk.at()).is_none());
    drop(file);
    super::wait_for("it is told", super::NOTICES, || {
        fs::read_to_string(desk.log()).is_ok_and(|log| log.len() < 1000 && log.contains("what is open is served"))
    });
    assert_eq!(fs::metadata(desk.log().with_extension("log.1")).unwrap().len(), 5 << 20);
    let log = fs::read_to_string(desk.log()).unwrap();
    assert!(log.contains("Z ") && log.contains(": unmounted; what is open is served"), "{log}");
    // One that can't be written is an error when it was asked for, and a note when not.
    fs::write(desk.lab.path("in the way"), "").unwrap();
    let ran = desk.verb("mount", &["--log", "in the way/log"]);
    assert!(ran.code != Some(0) && ran.stderr.starts_with("Error: can't write "), "{ran:?}");
    let at = desk.at().as_os_str();
    let ran = run(desk.command(["mount".as_ref(), at]).env("XDG_STATE_HOME", desk.lab.path("in the way")));
    assert!(ran.code == Some(0) && ran.stderr.starts_with("Note: there is no log: "), "{ran:?}");
    desk.verb("umount", &[]).expect(0);
}

/// The command as an ordinary user runs it, on a store that is theirs.
struct Ordinary<'a> {
    desk: &'a Desk,
}

impl<'a> Ordinary<'a> {
    fn new(desk: &'a Desk) -> Self {
        fs::set_permissions(desk.lab.dir(), fs::Permissions::from_mode(0o755)).unwrap();
        copy_for_all(desk.lab.dir());
        fs::create_dir_all(desk.lab.path("home")).unwrap();
        let given = Command::new("chown").arg("-R").arg(format!("{NOBODY}:{NOBODY}")).arg(desk.lab.dir()).status();
        assert!(given.unwrap().success());
        Self { desk }
    }

    fn verb(&self, verb: &str, args: &[&str], path: Option<&Path>) -> Ran {
        let mut command = Command::new(self.desk.lab.path("ckpt"));
        command.env_clear().env("PATH", path.map_or_else(|| std::env::var_os("PATH").unwrap(), |path| path.into()));
        command.env("HOME", self.desk.lab.path("home")).uid(NOBODY).gid(NOBODY).current_dir("/");
        run(command.arg("--store").arg(self.desk.lab.store()).arg(verb).arg(self.desk.at()).args(args))
    }
}

/// In a mount namespace, puts a device of FUSE in the place of the real one.
fn with_device(desk: &Desk, mode: u32, work: impl FnOnce() + Send) {
    let devices = desk.lab.path("devices");
    fs::create_dir(&devices).unwrap();
    with_mounts(|| {
        mount_with(&devices, "size=65536");
        let device = devices.join("fuse");
        if mode != 0 {
            mknodat(rustix::fs::CWD, &device, FileType::CharacterDevice, Mode::from_raw_mode(mode), makedev(10, 229))
                .unwrap();
            fs::set_permissions(&device, fs::Permissions::from_mode(mode)).unwrap();
            mount_bind(&device, "/dev/fuse").unwrap();
        } else {
            // All of it but this, and the directory that the store may lie in.
            File::create(devices.join("null")).unwrap();
            fs::create_dir(devices.join("shm")).unwrap();
            mount_bind("/dev/shm", devices.join("shm")).unwrap();
            mount_bind_recursive(&devices, "/dev").unwrap();
        }
        work();
    });
    fs::remove_dir(&devices).unwrap();
}

#[test]
fn an_ordinary_user_mounts_and_unmounts_by_fusermount3() {
    if !mountable() || !is_root() || !has_program("fusermount3") {
        return;
    }
    let desk = Desk::new();
    let user = Ordinary::new(&desk);
    with_device(&desk, 0o666, || {
        let ran = user.verb("mount", &[], None).expect(0);
        let status = user.verb("mount", &["--status", "--json"], None).expect(0).json();
        assert_eq!((&status["state"], &status["user"]), (&"alive".into(), &NOBODY.into()), "{status} {ran:?}");
        // Root may not look, but sees that it is there, and whose.
        let seen = desk.status();
        assert_eq!((&seen["state"], &seen["user"]), (&"refused".into(), &NOBODY.into()), "{seen}");
        let seen = run(Command::new("cat").arg(desk.file()).uid(NOBODY).gid(NOBODY));
        assert!(seen.stdout == desk.bytes, "{}", seen.stderr);
        // Open by its user, it is busy for them as well.
        let script = format!("exec sleep 100 < '{}'", desk.file().display());
        let mut open = Command::new("sh").args(["-c", &script]).uid(NOBODY).gid(NOBODY).spawn().unwrap();
        super::wait_for("it is open", super::NOTICES, || {
            fs::read_link(format!("/proc/{}/fd/0", open.id())).is_ok_and(|path| path == desk.file())
        });
        let busy = user.verb("umount", &[], None);
        open.kill().unwrap();
        open.wait().unwrap();
        assert!(busy.code == Some(6) && busy.stderr.contains("is in use"), "{busy:?}");
        user.verb("umount", &[], None).expect(0);
        assert_eq!(minor_of(desk.at()), None);
        desk.assert_gone();
        // What a killed server left is theirs to take away.
        user.verb("mount", &[], None).expect(0);
        let status = user.verb("mount", &["--status", "--json"], None).json();
        assert!(Process::of(u32::try_from(status["pid"].as_u64().unwrap()).unwrap()).send(libc::SIGKILL));
        let ran = user.verb("mount", &[], None).expect(0);
        assert!(ran.stderr.contains("was killed"), "{ran:?}");
        user.verb("umount", &[], None).expect(0);
        // A directory has to be theirs.
        fs::set_permissions(desk.at(), fs::Permissions::from_mode(0o755)).unwrap();
        std::os::unix::fs::chown(desk.at(), Some(0), Some(0)).unwrap();
        let ran = user.verb("mount", &[], None);
        assert_refused(&desk, &ran, 6, "mounting is refused: fusermount3: ", "users who are not root mount on");
        std::os::unix::fs::chown(desk.at(), Some(NOBODY), Some(NOBODY)).unwrap();
        // Others are let in only where the system says so.
        let ran = user.verb("mount", &["--allow-other"], None);
        assert_refused(
            &desk,
            &ran,
            6,
            "other users may not be let in",
            "root can allow it by a line `user_allow_other`",
        );
        // Without the helper there is no way.
        let ran = user.verb("mount", &[], Some(Path::new("/nonexistent")));
        if !Path::new("/bin/fusermount3").exists() && !Path::new("/sbin/fusermount3").exists() {
            assert_refused(&desk, &ran, 6, "fusermount3 is missing", "`apt install fuse3`");
        } else {
            user.verb("umount", &[], None).expect(0);
        }
        // What they may not do they are not told to.
        desk.verb("mount", &[]).expect(0);
        let ran = user.verb("mount", &[], None);
        assert!(ran.code == Some(7) && ran.stderr.contains("Hint: it is another user's; "), "{ran:?}");
        assert!(!ran.stderr.contains("umount"), "{ran:?}");
        desk.verb("umount", &[]).expect(0);
    });
    detach(desk.at());
}

#[test]
fn without_the_device_people_are_told_what_lacks() {
    if !mountable() || !is_root() || !has_program("fusermount3") {
        return;
    }
    let desk = Desk::new();
    let user = Ordinary::new(&desk);
    with_device(&desk, 0o600, || {
        let ran = user.verb("mount", &[], None);
        assert_refused(
            &desk,
            &ran,
            6,
            "/dev/fuse can't be opened\nCaused by: Permission denied",
            "`chmod 666 /dev/fuse`",
        );
    });
    with_device(&desk, 0, || {
        for ran in [desk.verb("mount", &[]), user.verb("mount", &[], None)] {
            assert_refused(&desk, &ran, 6, "there is no FUSE here: /dev/fuse is missing", "`modprobe fuse` as root");
        }
    });
}
