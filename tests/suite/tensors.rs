//! The commands that know tensors: what they say, and that they read no more than they need.

mod diff;
mod export;
mod log;
mod show;

use std::fs;

use ckpt_tests::lab::{noise, safetensors};
use ckpt_tests::python::{python, run_python};
use ckpt_tests::run::{Ran, ckpt_ok, on, run};
use tempfile::TempDir;

/// A store in a directory of its own.
struct Bench {
    dir: TempDir,
}

impl Bench {
    fn new() -> Self {
        let bench = Self { dir: tempfile::tempdir().expect("a temporary directory") };
        ckpt_ok(&bench.store(), ["init"]);
        bench
    }

    fn store(&self) -> std::path::PathBuf {
        self.dir.path().join("store")
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.dir.path().join(name)
    }

    /// Stores these files as one checkpoint of the run `r`.
    fn put(&self, step: u64, files: &[(&str, Vec<u8>)]) {
        let folder = self.path(&format!("step-{step}"));
        for (name, bytes) in files {
            let path = folder.join(name);
            fs::create_dir_all(path.parent().expect("a folder")).expect("it can be made");
            fs::write(path, bytes).expect("it can be written");
        }
        let step = step.to_string();
        ckpt_ok(
            &self.store(),
            ["put".as_ref(), folder.as_os_str(), "--run=r".as_ref(), "--step".as_ref(), step.as_ref()],
        );
    }

    /// Runs a script with a Python that has torch, in the directory; what it prints is JSON.
    fn python(&self, script: &str) -> serde_json::Value {
        let printed = run_python(python().current_dir(self.dir.path()).arg("-c").arg(script));
        serde_json::from_str(&printed).unwrap_or_else(|error| panic!("no JSON ({error}): {printed}"))
    }

    /// The answer of a command that must not fail, as JSON.
    fn json(&self, args: &[&str]) -> serde_json::Value {
        let ran = self.ckpt(&[args, &["--json"]].concat());
        assert_eq!((ran.code, &*ran.stderr), (Some(0), ""), "{args:?}: {ran:?}");
        ran.json()
    }

    /// Writes noise over the middle of the pack that was made last.
    fn damage_the_newest_pack(&self) {
        let mut packs = ckpt_tests::lab::files(&self.store().join("packs"));
        packs.sort_by_key(|path| path.file_name().map(std::ffi::OsStr::to_owned));
        let path = packs.last().expect("a pack");
        let mut bytes = fs::read(path).expect("a pack can be read");
        let (from, to) = (bytes.len() / 4, bytes.len() / 2);
        bytes[from..to].fill(0x55);
        fs::write(path, bytes).expect("a pack can be written");
    }

    /// Runs the command in the directory.
    fn ckpt(&self, args: &[&str]) -> Ran {
        run(on(&self.store()).current_dir(self.dir.path()).args(args))
    }
}

/// A safetensors file of tensors: name, dtype, seed, bytes.
fn model(tensors: &[(&str, &str, u64, usize)]) -> Vec<u8> {
    let data: Vec<Vec<u8>> = tensors.iter().map(|(_, _, seed, len)| noise(*seed, *len)).collect();
    let named = tensors.iter().zip(&data).map(|((name, dtype, ..), data)| (*name, *dtype, &data[..]));
    safetensors(&named.collect::<Vec<_>>())
}
