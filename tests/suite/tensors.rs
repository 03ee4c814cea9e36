//! The commands that know tensors: what they say, and that they read no more than they need.

mod export;
mod show;

use std::fs;

use ckpt_tests::lab::{noise, safetensors};
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
