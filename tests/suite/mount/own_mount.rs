//! The server never looks at a path below its own mount: it would wait for itself.

use std::fs;
use std::path::Path;
use std::process::Command;

use ckpt_tests::lab::Lab;
use ckpt_tests::mount::{Mount, Mounting, has_program, mountable};
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

/// Every call of the server that names a path, while all of it is used, is about another place; but for those by which it
/// mounts and unmounts.
#[test]
fn no_call_of_the_server_names_its_mount() {
    if !mountable() || !has_program("strace") {
        return;
    }
    let scene = Scene::new();
    let original = scene.put(&odd::tree(3), "r", 1);
    let calls = scene.lab.path("calls");
    let out = calls.as_os_str();
    let wrapper = [
        "strace".as_ref(),
        "-f".as_ref(),
        "-qq".as_ref(),
        "-s4096".as_ref(),
        "-y".as_ref(),
        "-e".as_ref(),
        "trace=%file,%desc".as_ref(),
        "-o".as_ref(),
        out,
    ];
    let warm = ["--warm", "r@1"];
    let mount = Mounting::new(&scene.lab.store(), &scene.lab.path("mnt")).under(wrapper).args(warm).start();
    use_all(&scene, &mount, &original);
    let at = mount.at().to_owned();
    drop(mount);
    let told = fs::read(&calls).unwrap();
    let told = String::from_utf8_lossy(&told);
    let lines: Vec<&str> = told.lines().collect();
    // What comes after the mount is there, until it goes.
    let mounted = lines.iter().position(|line| line.contains(" mount(") || line.contains("fsmount("));
    let mounted = mounted.unwrap_or_else(|| panic!("no mount among {} calls", lines.len()));
    let at = at.display().to_string();
    let names = |line: &&&str| line.contains(&format!("\"{at}")) || line.contains(&format!("<{at}"));
    let wrong: Vec<&&str> =
        lines[mounted + 1..].iter().filter(names).filter(|line| !line.contains(" umount2(")).collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert!(lines.len() - mounted > 200, "only {} calls after the mount: nothing was traced", lines.len() - mounted);
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
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        if ended.is_none() {
            child.kill().unwrap();
            child.wait().unwrap();
            ckpt_tests::mount::detach(&at);
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
