//! fio writes a file whose every block can be checked, and checks it through the mount.

use std::fs;
use std::process::Command;

use ckpt_tests::mount::{has_program, mountable};

use super::{Scene, program};

const SIZE: &str = "48M";

#[test]
fn fio_verifies_what_it_wrote() {
    if !mountable() || !has_program("fio") {
        return;
    }
    let scene = Scene::new();
    let original = scene.lab.path("original-fio");
    fs::create_dir(&original).unwrap();
    let file = original.join("pattern");
    let pattern = ["--verify=crc32c", "--bs=8k", "--verify_interval=4096", "--randseed=7", "--allrandrepeat=1"];
    let size = format!("--size={SIZE}");
    let fio = |name: &str, path: &std::path::Path, more: &[&str]| {
        let mut fio = Command::new("fio");
        fio.current_dir(scene.lab.dir()).arg(format!("--name={name}")).arg(format!("--filename={}", path.display()));
        fio.args(pattern).args([&*size, "--verify_fatal=1", "--thread"]).args(more);
        fio
    };
    program(&mut fio("write", &file, &["--rw=write", "--do_verify=0", "--ioengine=psync"]));
    scene.lab.put(&[&original], "fio", 1).unwrap();
    let mount = scene.mount();
    let mounted = mount.path("fio/step-1/pattern");
    for engine in ["psync", "mmap", "libaio", "io_uring"] {
        let engine_is = format!("--ioengine={engine}");
        for way in ["read", "randread"] {
            let direct = if engine == "libaio" { "--direct=1" } else { "--direct=0" };
            let ran =
                fio(engine, &mounted, &[&engine_is, &format!("--rw={way}"), direct, "--iodepth=8", "--numjobs=3"])
                    .output()
                    .unwrap();
            let told = String::from_utf8_lossy(&[&ran.stdout[..], &ran.stderr[..]].concat()).into_owned();
            if engine == "io_uring" && (told.contains("not supported") || told.contains("not permitted")) {
                continue;
            }
            assert!(ran.status.success() && told.contains("err= 0"), "{engine}, {way}: {told}");
        }
    }
    drop(mount);
    // And it would see one wrong byte.
    let mut bytes = fs::read(&file).unwrap();
    let middle = bytes.len() / 2 + 100;
    bytes[middle] ^= 1;
    fs::write(&file, bytes).unwrap();
    let ran = fio("wrong", &file, &["--rw=read", "--ioengine=psync"]).output().unwrap();
    assert!(!ran.status.success(), "fio checks nothing: {ran:?}");
}
