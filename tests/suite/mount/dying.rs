//! A server that is killed while it tells the kernel news: somebody looks a name up, which holds the lock that the news
//! need, and nobody answers any more. Such a process can't die.

use std::fs;
use std::time::Duration;

use ckpt_tests::mount::{Mount, is_root, minor_of, mountable};
use ckpt_tests::run::ckpt_ok;
use ckpt_tests::sample::{self, Node, Tree};

use super::{NOTICES, Scene, wait_for};

/// The threads of a process, by number, name and state.
fn threads(pid: u32) -> Vec<(i32, String, char)> {
    let entries = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let about = |tid: i32| {
        let stat = fs::read_to_string(format!("/proc/{pid}/task/{tid}/stat")).ok()?;
        let (name, rest) = stat.split_once('(')?.1.rsplit_once(')')?;
        Some((tid, name.to_owned(), rest.trim_start().chars().next()?))
    };
    entries.filter_map(|entry| about(entry.file_name().to_str()?.parse().ok()?)).collect()
}

/// Lets a thread of another process stand still, until that is killed.
fn hold(tid: i32) {
    // SAFETY: nothing of this process is named by these; the other one is a child that this test started.
    let held = unsafe {
        libc::ptrace(libc::PTRACE_SEIZE, tid, 0, 0) == 0 && libc::ptrace(libc::PTRACE_INTERRUPT, tid, 0, 0) == 0
    };
    assert!(held, "{}", std::io::Error::last_os_error());
}

/// Takes note of the end of a thread that was held, which its process waits for.
fn bury(tid: i32) {
    let mut status = 0;
    wait_for("a thread ends", NOTICES, || {
        // SAFETY: `status` is there for the call.
        let got = unsafe { libc::waitpid(tid, &raw mut status, libc::__WALL | libc::WNOHANG) };
        got < 0 || (got > 0 && (libc::WIFSIGNALED(status) || libc::WIFEXITED(status)))
    });
}

#[test]
fn a_killed_server_that_cannot_die_is_cut_off() {
    if !mountable() || !is_root() {
        return;
    }
    let scene = Scene::new();
    scene.put(&Tree::directory().with("a.bin", Node::File(sample::noise(1, 1000), 0o644)), "r", 1);
    for how in ["mount", "umount"] {
        let mut mount = scene.mount();
        assert!(fs::metadata(mount.path(format!("r/{how}"))).is_err());
        let pid = mount.server();
        let answering: Vec<i32> =
            threads(pid).into_iter().filter(|(_, name, _)| name.starts_with("fuser")).map(|(tid, ..)| tid).collect();
        assert!(!answering.is_empty(), "{:?}", threads(pid));
        answering.iter().for_each(|tid| hold(*tid));
        let looked_for = mount.path(format!("r/unknown-{how}"));
        let looks = std::thread::spawn(move || fs::metadata(looked_for));
        // Until it waits for an answer.
        std::thread::sleep(Duration::from_millis(300));
        scene.lab.ok(&[&"tag", &"r@1", &how]);
        wait_for("the news are being told", NOTICES, || {
            threads(pid).iter().any(|(_, name, state)| name == "ckpt-watch" && *state == 'D')
        });
        // SAFETY: a signal to a child that was not waited for yet.
        unsafe { libc::kill(pid.cast_signed(), libc::SIGKILL) };
        answering.iter().for_each(|tid| bury(*tid));
        // It may be that a kernel lets it die.
        mount.kill();
        let at = mount.at().to_owned();
        if how == "mount" {
            let again = Mount::new(&scene.lab.store(), &at);
            assert!(again.path("r/step-1/a.bin").is_file());
            again.umount();
        } else {
            ckpt_ok(&scene.lab.store(), ["umount".as_ref(), at.as_os_str()]);
        }
        assert!(looks.join().unwrap().is_err(), "there is no such name");
        wait_for("the process ends", NOTICES, || threads(pid).iter().all(|(.., state)| *state == 'Z'));
        assert!(minor_of(&at).is_none());
        drop(mount);
    }
}
