//! What the mount says of what it shows: names, sizes, times, links, inodes, as the programs of every day see them.

use std::collections::{BTreeMap, HashMap};
use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::{DirEntryExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use ckpt_tests::mount::{Mount, has_program, mountable};
use ckpt_tests::odd;
use ckpt_tests::readers::paths;

use super::{Scene, program};

/// What `find` prints of each thing below a directory, without the views.
fn found(root: &Path) -> Vec<String> {
    let format = "%P\t%y\t%m\t%T@\t%l\t%s\\0";
    let mut find = Command::new("find");
    find.arg(root).args([
        "-mindepth",
        "1",
        "(",
        "-path",
        "*/.tensors",
        "-o",
        "-path",
        "*/.safetensors",
        ")",
        "-prune",
        "-o",
    ]);
    let told = find.args(["-printf", format]).output().unwrap();
    assert!(told.status.success(), "{told:?}");
    let told = String::from_utf8_lossy(&told.stdout).into_owned();
    let mut lines: Vec<String> = told
        .split('\0')
        .filter(|line| !line.is_empty())
        .map(|line| {
            let fields: Vec<&str> = line.rsplitn(6, '\t').collect();
            // Directories have sizes as each file system likes, links have times and modes of their own.
            match fields[4] {
                "d" => fields[1..].join("\t"),
                "l" => [fields[1], fields[4], fields[5]].join("\t"),
                _ => fields.join("\t"),
            }
        })
        .collect();
    lines.sort();
    lines
}

#[test]
fn the_programs_of_every_day_see_the_original() {
    if !mountable() {
        return;
    }
    let scene = Scene::new();
    let original = scene.put(&odd::tree(3), "r", 1);
    let mount = scene.mount();
    let mounted = mount.path("r/step-1");
    assert_eq!(found(&mounted), found(&original));
    // What `ls` shows of files and links; it knows nothing of the views, which are hidden.
    let listed = |root: &Path| -> Vec<String> {
        let listed = program(Command::new("ls").args(["-lRN", "--time-style=full-iso"]).arg(".").current_dir(root));
        listed.lines().filter(|line| line.starts_with('-')).map(str::to_owned).collect()
    };
    assert_eq!(listed(&mounted), listed(&original));
    assert!(!listed(&mounted).is_empty());
    let blocks: u64 =
        paths(&original).iter().filter(|(_, of)| of.is_file()).map(|(_, of)| of.size().div_ceil(512)).sum();
    let owner = rustix::process::geteuid().as_raw();
    for (path, of) in paths(&mounted).iter().filter(|(_, of)| of.is_file()) {
        assert_eq!((of.blocks(), of.uid()), (of.size().div_ceil(512), owner), "{}", path.display());
    }
    let du =
        program(Command::new("du").args(["-s", "-B512", "--exclude=.safetensors", "--exclude=.tensors"]).arg(&mounted));
    let counted: u64 = du.split_whitespace().next().unwrap().parse().unwrap();
    assert!((blocks..blocks + 2000).contains(&counted), "du counts {counted} blocks, not {blocks}");
    // `tar -d` compares modes, times, owners, links and bytes.
    let hidden = ["--exclude=./.safetensors", "--exclude=./.tensors"];
    let mut tar = Command::new("tar")
        .arg("-C")
        .arg(&mounted)
        .args(hidden)
        .args(["-c", "."])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let compared =
        Command::new("tar").arg("-C").arg(&original).arg("-d").stdin(tar.stdout.take().unwrap()).output().unwrap();
    assert!(tar.wait().unwrap().success());
    let text = String::from_utf8_lossy(&[&compared.stdout[..], &compared.stderr[..]].concat()).into_owned();
    // Links have times of their own, and the directory of a checkpoint, which is the mount's, another mode.
    let wrong: Vec<&str> = text
        .lines()
        .filter(|line| !line.starts_with(".: "))
        .filter(|line| !line.contains("Mod time differs") || !is_link(&original, line))
        .collect();
    assert!(wrong.iter().all(|line| line.contains("Exiting with failure")), "{wrong:?}");
    let copy = scene.lab.path("original-copied");
    program(Command::new("cp").arg("-a").arg(&mounted).arg(&copy));
    ckpt_tests::readers::assert_same_metadata(&original, &copy, "cp -a");
    ckpt_tests::readers::assert_same_bytes(&original, &copy, "cp -a");
    if has_program("rsync") {
        let told =
            program(Command::new("rsync").args(["-nirl", "--checksum"]).arg(mounted.join("")).arg(original.join("")));
        assert_eq!(told, "");
    }
}

fn is_link(root: &Path, line: &str) -> bool {
    let path = line.split(": Mod time").next().unwrap();
    fs::symlink_metadata(root.join(path)).map_or(true, |of| of.is_symlink())
}

/// Inodes of all that is mounted, without following links.
fn inodes(root: &Path) -> BTreeMap<PathBuf, u64> {
    let mut found = BTreeMap::new();
    let mut todo = vec![root.to_owned()];
    while let Some(folder) = todo.pop() {
        for entry in fs::read_dir(&folder).unwrap() {
            let entry = entry.unwrap();
            let metadata = entry.metadata().unwrap();
            assert_eq!(entry.ino(), metadata.ino(), "{}", entry.path().display());
            if metadata.is_dir() {
                todo.push(entry.path());
            }
            found.insert(entry.path(), metadata.ino());
        }
    }
    found
}

#[test]
fn inodes_are_distinct_and_stay_over_a_remount() {
    if !mountable() {
        return;
    }
    let scene = Scene::new();
    for step in 0..4 {
        scene.put(&odd::tree(20 + step), "a/b", step);
    }
    scene.put(&odd::tree(20), "same", 1);
    scene.lab.ok(&[&"tag", &"a/b@2", &"special"]);
    let first = scene.mount();
    let before = inodes(first.at());
    assert_eq!(fs::metadata(first.at()).unwrap().ino(), 1);
    let distinct: HashMap<u64, &PathBuf> = before.iter().map(|(path, inode)| (*inode, path)).collect();
    assert_eq!(distinct.len(), before.len(), "two things share an inode");
    assert!(before.len() > 60, "only {} things are shown", before.len());
    first.umount();
    // In another order, and after another has come.
    scene.put(&odd::tree(30), "a/b", 9);
    let second = scene.mount();
    assert_eq!(fs::metadata(second.path("a/b/step-9")).unwrap().dev(), fs::metadata(second.at()).unwrap().dev());
    for (path, inode) in before.iter().rev() {
        if path.file_name() != Some(OsStr::new("latest")) {
            assert_eq!(fs::symlink_metadata(path).unwrap().ino(), *inode, "{}", path.display());
        }
    }
}

#[test]
fn the_tree_has_runs_links_and_ids() {
    if !mountable() {
        return;
    }
    let scene = Scene::new();
    for step in [5, 20, 10] {
        scene.put(&odd::tree(40 + step), "se-st/40k", step);
    }
    scene.put(&odd::tree(40), "se-st", 1);
    scene.lab.ok(&[&"tag", &"se-st/40k@10", &"special"]);
    let mount = scene.mount();
    let names = |path: &str| -> Vec<String> {
        let mut names: Vec<String> = ckpt_tests::lab::names(&mount.path(path)).into_iter().collect();
        names.sort();
        names
    };
    assert_eq!(names(""), ["by-id", "se-st"]);
    assert_eq!(names("se-st/40k"), ["latest", "special", "step-10", "step-20", "step-5"]);
    assert_eq!(names("se-st"), ["40k", "latest", "step-1"]);
    let target = |path: &str| fs::read_link(mount.path(path)).unwrap();
    let latest = scene.lab.open().resolve("se-st/40k@latest").unwrap();
    assert_eq!(target("se-st/40k/latest"), Path::new(&format!("step-{}", latest.step.unwrap())));
    assert_eq!(target("se-st/40k/special"), Path::new("step-10"));
    let ids: Vec<String> = scene.lab.open().checkpoints().unwrap().iter().map(|entry| entry.id.to_string()).collect();
    assert_eq!(names("by-id").len(), ids.len());
    for entry in scene.lab.open().checkpoints().unwrap() {
        let by_id = fs::canonicalize(mount.path(format!("by-id/{}", entry.id))).unwrap();
        assert_eq!(by_id, mount.path(format!("{}/step-{}", entry.run, entry.step.unwrap())));
    }
    // transformers sorts checkpoints by their times: those of the directories are when each was stored.
    let stored = |step: u64| fs::metadata(mount.path(format!("se-st/40k/step-{step}"))).unwrap().mtime_nsec();
    assert_ne!(stored(5), stored(20), "times have fractions of a second");
    for gone in
        ["se-st/40k/step-7", "se-st/40k/step-", "nothing", "se-st/40k/step-5/nothing", "by-id/x", "se-st/40k/step-05"]
    {
        let error = fs::symlink_metadata(mount.path(gone)).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::ENOENT), "{gone}");
    }
}

#[test]
fn a_glob_chooses_the_runs() {
    if !mountable() {
        return;
    }
    let scene = Scene::new();
    for run in ["a/one", "a/two", "b"] {
        scene.put(&odd::tree(1), run, 1);
    }
    let mount =
        ckpt_tests::mount::Mounting::new(&scene.lab.store(), &scene.lab.path("mnt")).args(["--run", "a/*"]).start();
    assert!(mount.path("a/one/step-1").is_dir() && mount.path("a/two/step-1").is_dir() && !mount.path("b").exists());
    assert_eq!(fs::read_dir(mount.path("by-id")).unwrap().count(), 2);
}

#[test]
fn the_room_is_that_of_the_store() {
    if !mountable() {
        return;
    }
    let scene = Scene::new();
    scene.put(&odd::tree(1), "r", 1);
    let mount = scene.mount();
    let (ours, theirs) = (rustix::fs::statvfs(mount.at()).unwrap(), rustix::fs::statvfs(scene.lab.store()).unwrap());
    assert_eq!(ours.f_blocks * ours.f_frsize, theirs.f_blocks * theirs.f_frsize);
    assert_eq!(ours.f_namemax, 255);
    assert!(ours.f_flag.contains(rustix::fs::StatVfsMountFlags::RDONLY));
    let told = |field: &str, path: &str| program(Command::new("findmnt").args(["-no", field]).arg(mount.path(path)));
    if has_program("findmnt") {
        assert_eq!(told("FSTYPE", "").trim(), "fuse.ckpt");
        let options = told("OPTIONS", "");
        assert!(["ro", "nosuid", "nodev"].iter().all(|option| options.contains(option)), "{options}");
    }
    drop(mount);
    let again: Mount = scene.mount();
    assert!(again.path("r/latest").is_dir());
}
