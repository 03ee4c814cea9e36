//! The loaders of the frameworks, on mounted files and views as on the files that they were.

use std::fs;
use std::path::Path;

use ckpt_tests::lab::names;
use ckpt_tests::mount::mountable;
use ckpt_tests::python::{python, run_python};

use super::Scene;

#[test]
fn loaders_bring_from_the_mount_what_they_bring_from_the_files() {
    if !mountable() {
        return;
    }
    let scene = Scene::new();
    let lab = &scene.lab;
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("formats/mounted_loaders.py");
    let (original, exports) = (lab.path("original-all"), lab.path("exports"));
    run_python(python().arg(&script).arg("write").arg(&original));
    fs::create_dir(&exports).unwrap();
    lab.put(&[&original], "all", 1).unwrap();
    for name in names(&original) {
        let (run, suffix) = name.split_once('.').unwrap_or((&name, ""));
        if ["pt", "pth", "safetensors", "keras", "h5", "npz"].contains(&suffix) {
            lab.put(&[&original.join(&name)], run, 1).unwrap();
            let export = exports.join(format!("{run}.safetensors"));
            lab.ok(&[&"get", &format!("{run}@1"), &export, &"--as", &"safetensors"]);
        }
    }
    assert_eq!(names(&exports).len(), 6, "{:?}", names(&exports));
    let mount = scene.mount();
    let told = run_python(python().arg(&script).arg("compare").arg(&original).arg(mount.at()).arg(&exports));
    let compared: u32 = told.trim().parse().unwrap();
    assert!(compared > 1000, "{compared} things were compared");
    // The views are in no listing, so that a copy of the directory is what was stored.
    assert_eq!(names(&mount.path("all/step-1")), names(&original));
    // The view is the export, byte for byte.
    for run in ["state", "weights", "arrays"] {
        let (view, export) = (mount.path(run).join("latest/.safetensors"), exports.join(format!("{run}.safetensors")));
        assert!(
            fs::read(view).unwrap() == fs::read(export).unwrap(),
            "{run}: the view is another file than the export"
        );
    }
}
