//! The server never looks at a path below its own mount: it would wait for itself.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use ckpt_tests::lab::Lab;
use ckpt_tests::mount::{Mount, Mounting, break_up, has_program, minor_of, mountable};
use ckpt_tests::odd;
use ckpt_tests::readers::{assert_same_bytes, files};
use ckpt_tests::run::{ckpt, on, run};

use super::{NOTICES, Scene, wait_for};

/// All that a mount is for, in a few calls.
fn use_all(scene: &Scene, mount: &Mount, original: &Path) {
    assert_same_bytes(original, &mount.path("r/step-1"), "used");
    for path in ["", "r", "by-id", "r/step-1", "r/latest/."] {
        fs::read_dir(mount.path(path)).unwrap().for_each(|entry| drop(entry.unwrap().metadata()));
    }
    for path in files(&mount.path("r/step-1")).iter().take(3) {
        let _ = Command::new("getfattr").args(["-d", "-m", "-"]).arg(mount.path("r/step-1").join(path)).output();
    }
    assert!(rustix::fs::statvfs(mount.at()).is_ok() && !mount.path("nothing").exists());
    let status = run(on(&scene.lab.store()).args(["mount", "--status"]).arg(mount.at()));
    assert_eq!(status.code, Some(0), "{status:?}");
    let second = scene.put(&odd::tree(4), "r", 2);
    wait_for("a second", NOTICES, || mount.path("r/step-2").exists());
    assert_same_bytes(&second, &mount.path("r/step-2"), "the second");
    scene.lab.ok(&[&"rm", &"r@2"]);
    scene.lab.ok(&[&"gc"]);
    wait_for("it leaves", NOTICES, || !mount.path("r/step-2").exists());
}

/// The numbers of the threads of the first process in a trace: not those of the processes that it started, which look at the
/// mount for it.
fn threads_of_the_server<'a>(lines: &[(&'a str, &str)]) -> BTreeSet<&'a str> {
    let first = lines[0].0;
    let started = |line: &&(&str, &str)| line.1.contains("execve(") && line.0 != first;
    let mut others: BTreeSet<String> = lines.iter().filter(started).map(|line| line.0.to_owned()).collect();
    loop {
        let made = lines.iter().filter(|line| others.contains(line.0) && line.1.contains("clone"));
        let made: Vec<String> = made.filter_map(|line| Some(line.1.rsplit_once(" = ")?.1.to_owned())).collect();
        let before = others.len();
        others.extend(made);
        if others.len() == before {
            return lines.iter().map(|line| line.0).filter(|id| !others.contains(*id)).collect();
        }
    }
}

/// Whether a call names a path or what is below it.
fn names(call: &str, path: &str) -> bool {
    let named = ["\"", "<"].into_iter().flat_map(|before| ["\"", ">", "/"].map(|after| [before, path, after].concat()));
    named.into_iter().any(|text| call.contains(&text))
}

/// Every call of the server that names a path, or a descriptor of one, while all of it is used, is about another place; but for
/// those by which it mounts and unmounts.
#[test]
fn no_call_of_the_server_names_its_mount() {
    if !mountable() || !has_program("strace") {
        return;
    }
    let scene = Scene::new();
    let original = scene.put(&odd::tree(3), "r", 1);
    let calls = scene.lab.path("calls");
    let strace = ["strace", "-f", "-qq", "-s4096", "-y", "-e", "trace=%file,%desc,%process", "-o"];
    let wrapper = strace.iter().map(OsStr::new).chain([calls.as_os_str()]);
    let mounting = Mounting::new(&scene.lab.store(), &scene.lab.path("mnt")).under(wrapper);
    let mount = mounting.args(["--warm", "r@1"]).limit(Duration::from_secs(300)).start();
    use_all(&scene, &mount, &original);
    let at = mount.at().display().to_string();
    mount.umount();
    let told = fs::read(&calls).unwrap();
    let told = String::from_utf8_lossy(&told);
    let lines: Vec<(&str, &str)> = told.lines().filter_map(|line| line.split_once(' ')).collect();
    let server = threads_of_the_server(&lines);
    let calls: Vec<&str> = lines.iter().filter(|(id, _)| server.contains(id)).map(|(_, call)| call.trim()).collect();
    // What comes after the mount is there, until it goes.
    let is_mount = |call: &&str| call.starts_with("mount(") || call.starts_with("fsmount(");
    let mounted = calls.iter().position(is_mount);
    let mounted = mounted.unwrap_or_else(|| panic!("no mount among {} calls", calls.len()));
    // A descriptor that is closed may be of the directory below.
    let is_end = |call: &str| call.starts_with("umount2(") || call.starts_with("close(");
    let wrong: Vec<&&str> = calls[mounted + 1..].iter().filter(|call| names(call, &at) && !is_end(call)).collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert!(calls.len() - mounted > 200, "only {} calls after the mount: nothing was traced", calls.len() - mounted);
}

/// A mount over the store, or over what the store is in, would hide the store from the server behind itself.
#[test]
fn a_mount_over_its_own_store_is_refused() {
    if !mountable() {
        return;
    }
    let lab = Lab::quick();
    lab.put(&[&lab.write("file", b"words")], "r", 1).unwrap();
    let before = ckpt_tests::lab::tree(&lab.store());
    for at in [lab.store(), lab.dir().to_owned(), lab.store().join("packs"), lab.store().join("../store")] {
        // One that is mounted after all can't answer, and can't be waited for.
        let mut mount = on(&lab.store());
        mount.arg("mount").arg(&at).arg("--foreground");
        let mut child = mount.stderr(std::process::Stdio::piped()).spawn().unwrap();
        let mut ended = None;
        for _ in 0..500 {
            ended = child.try_wait().unwrap();
            if ended.is_some() {
                break;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        if ended.is_none() {
            // Not by asking the file system where it is.
            let named = if at.ends_with("../store") { lab.store() } else { at.clone() };
            if let Some(minor) = minor_of(&named) {
                break_up(&named, minor, child.id());
            }
            child.kill().unwrap();
            child.wait().unwrap();
        }
        let code = ended.and_then(|ended| ended.code());
        assert!(code.is_some_and(|code| code != 0), "{} is mounted over: {code:?}", at.display());
        let told = std::io::read_to_string(child.stderr.take().unwrap()).unwrap();
        assert!(told.starts_with("Error: "), "{told}");
    }
    assert_eq!(ckpt_tests::lab::tree(&lab.store()), before);
}

/// However the store and the directory are named: relative, through links, from another place, inside the other's neighbor.
#[test]
fn any_way_to_name_them_will_do() {
    if !mountable() {
        return;
    }
    let scene = Scene::new();
    let original = scene.put(&odd::tree(6), "r", 1);
    let lab = &scene.lab;
    std::os::unix::fs::symlink(lab.store(), lab.path("link to store")).unwrap();
    fs::create_dir_all(lab.path("real/mnt")).unwrap();
    std::os::unix::fs::symlink("real", lab.path("link")).unwrap();
    for (store, at) in [
        ("store", "mnt"),
        ("link to store", "link/mnt"),
        ("./real/../store", "with blanks\nand lines"),
        ("store/", "store beside/mnt/"),
    ] {
        fs::create_dir_all(lab.path(at)).unwrap();
        let mount = |args: &[&str]| {
            let mut command = ckpt_tests::run::command();
            run(command.current_dir(lab.dir()).args(["--store", store, "mount", at]).args(args))
        };
        // In the background, which changes its directory.
        let started = mount(&[]);
        assert_eq!(started.code, Some(0), "{at:?}: {started:?}");
        let shown = lab.path(at).join("r/latest");
        let same = std::panic::catch_unwind(|| assert_same_bytes(&original, &shown, at));
        let ended = ckpt(&lab.store(), ["umount".as_ref(), fs::canonicalize(lab.path(at)).unwrap().as_os_str()]);
        same.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        assert_eq!(ended.code, Some(0), "{at:?}: {ended:?}");
        assert!(!shown.exists(), "{at:?} is still mounted");
    }
}
