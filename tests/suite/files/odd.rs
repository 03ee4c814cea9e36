//! Names that are no text, links that lead away, things that are no files.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::symlink;

use ckpt_tests::lab::{Lab, Node, noise, tree};
use rustix::fs::{CWD, FileType, Mode, mknodat};

#[test]
fn names_of_any_bytes_come_back() {
    let lab = Lab::new();
    let long = "n".repeat(255);
    let names: [&[u8]; 9] = [
        b"with space",
        b"new\nline",
        b"tab\tand\x1b[31mred",
        b"latin1-\xe9\xff\x80",
        b"-dash",
        b"*[glob]?{a,b}",
        "日本語".as_bytes(),
        b"\"quotes'\\",
        long.as_bytes(),
    ];
    for (at, name) in names.iter().enumerate() {
        let path = [b"dir/", *name, b".d/", &name[..name.len().min(250)]].concat();
        if name.len() < 250 {
            lab.write(OsStr::from_bytes(&path), &noise(at as u64, 50_000));
        }
        lab.write(OsStr::from_bytes(&[b"dir/", *name].concat()), &noise(100 + at as u64, 100));
    }
    symlink(OsStr::from_bytes(b"latin1-\xe9\xff\x80"), lab.path("dir/link")).unwrap();
    lab.put(&[&lab.path("dir")], "r", 1).unwrap();
    lab.get("r@1", &lab.path("back")).unwrap();
    assert_eq!(tree(&lab.path("back")), tree(&lab.path("dir")));
    let shown = lab.ok(&[&"show", &"r@1"]);
    assert!(!shown.stdout.contains(&0x1b), "a name moves the terminal");
    lab.ok(&[&"show", &"r@1", &"--json"]).json();
    // Each of them alone, and under its own name in a directory.
    fs::create_dir(lab.path("one")).unwrap();
    for (step, name) in names.iter().enumerate() {
        let source = lab.path("dir").join(OsStr::from_bytes(name));
        lab.ok(&[&"put", &OsStr::new("--run"), &"one", &"--step", &step.to_string(), &"--", &source]);
        lab.ok(&[&"get", &format!("one@{step}"), &"one"]);
        let back = lab.path("one").join(OsStr::from_bytes(name));
        assert_eq!(fs::read(back).unwrap(), fs::read(source).unwrap(), "{name:?}");
    }
    assert_eq!(tree(&lab.path("one")).len(), names.len());
}

#[test]
fn links_that_lead_out_are_refused_by_name() {
    let lab = Lab::new();
    lab.write("dir/sub/file.pt", b"bytes");
    lab.write("outside.pt", b"secret");
    let absolute = lab.path("dir/sub/file.pt");
    let targets = [
        "../outside.pt",
        "sub/../../outside.pt",
        "/etc/passwd",
        "..",
        absolute.to_str().unwrap(),
        "../dir/sub/file.pt",
    ];
    for target in targets {
        let link = lab.path("dir/the-link");
        symlink(target, &link).unwrap();
        let ran = lab.run(&[&"put", &"dir", &"--run", &"r", &"--step", &"1"]).expect(2);
        ran.says("the-link").says(target).says("outside of what is being stored");
        fs::remove_file(&link).unwrap();
    }
    // By way of another link the same words lead elsewhere: `up` is the root, so `up/../x` is outside.
    symlink("..", lab.path("dir/sub/up")).unwrap();
    symlink("sub/up/../outside.pt", lab.path("dir/the-link")).unwrap();
    assert_eq!(fs::read(lab.path("dir/the-link")).unwrap(), b"secret");
    lab.run(&[&"put", &"dir", &"--run", &"r", &"--step", &"1"]).expect(2).says("the-link");
    fs::remove_file(lab.path("dir/the-link")).unwrap();
    assert!(lab.open().checkpoints().unwrap().is_empty());
    // Those that stay inside are kept as they are, also one that leads nowhere and one that leads to itself.
    symlink("sub/none", lab.path("dir/dangling")).unwrap();
    symlink("itself", lab.path("dir/itself")).unwrap();
    lab.ok(&[&"put", &"dir", &"--run", &"r", &"--step", &"1"]);
    lab.ok(&[&"get", &"r@1", &"back"]);
    let links = |node: &&Node| matches!(node, Node::Link(_));
    assert_eq!(tree(&lab.path("back")).values().filter(links).count(), 3);
    assert_eq!(tree(&lab.path("back")), tree(&lab.path("dir")));
}

#[test]
fn what_is_no_file_is_refused_by_name() {
    let lab = Lab::new();
    lab.write("dir/file.pt", b"bytes");
    let fifo = lab.path("dir/a-fifo");
    mknodat(CWD, &fifo, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
    for source in ["dir", "dir/a-fifo"] {
        let ran = lab.run(&[&"put", &source, &"--run", &"r", &"--step", &"1"]).expect(2);
        ran.says("a-fifo is neither file, directory nor link");
    }
    fs::remove_file(&fifo).unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(lab.path("dir/a-socket")).unwrap();
    lab.run(&[&"put", &"dir", &"--run", &"r", &"--step", &"1"]).expect(2).says("a-socket is neither");
    lab.run(&[&"put", &"/dev/zero", &"--run", &"r", &"--step", &"1"]).expect(2).says("/dev/zero is neither");
    assert!(lab.open().checkpoints().unwrap().is_empty());
    assert!(tree(&lab.store().join("tmp")).is_empty());
}
