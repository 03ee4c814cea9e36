//! The command as its users meet it: help, messages, exit codes, JSON.

mod failures;
mod gc;
mod help;
mod json;
mod place;
mod policy;
mod put;
mod refs;

use std::fs;
use std::path::PathBuf;

use ckpt_tests::run::{Ran, ckpt_ok, on, run};
use serde_json::Value;
use tempfile::TempDir;

/// A store and a place for files beside it.
struct Desk {
    dir: TempDir,
}

impl Desk {
    fn new() -> Self {
        let desk = Self { dir: tempfile::tempdir().expect("a temporary directory") };
        ckpt_ok(&desk.store(), ["init"]);
        desk
    }

    fn store(&self) -> PathBuf {
        self.dir.path().join("store")
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// A file of `bytes` bytes that nothing compresses, others for each name.
    fn file(&self, name: &str, bytes: usize) -> PathBuf {
        let mut content = vec![0; bytes];
        blake3::Hasher::new().update(name.as_bytes()).finalize_xof().fill(&mut content);
        let path = self.path(name);
        fs::write(&path, content).expect("writing a sample");
        path
    }

    fn ok(&self, args: &[&str]) -> Ran {
        let ran = run(on(&self.store()).current_dir(self.dir.path()).args(args));
        assert_eq!(ran.code, Some(0), "{args:?}: {ran:?}");
        assert_eq!(ran.stderr, "", "{args:?} talks although nothing is wrong");
        ran
    }

    fn json(&self, args: &[&str]) -> Value {
        self.ok(&[args, &["--json"]].concat()).json()
    }

    /// Runs a command that must fail with this code, say `message` and nothing else but `hint`, and answer nothing.
    fn fails(&self, args: &[&str], code: i32, message: &str, hint: &str) {
        let ran = run(on(&self.store()).current_dir(self.dir.path()).args(args));
        assert_eq!(ran.code, Some(code), "{args:?}: {ran:?}");
        assert_eq!(ran.text(), "", "{args:?} answers although it failed");
        let expected =
            if hint.is_empty() { format!("Error: {message}\n") } else { format!("Error: {message}\nHint: {hint}\n") };
        assert_eq!(ran.stderr, expected, "{args:?}");
    }

    /// Six checkpoints of run `a/b`, steps 100 to 600, each with 100 kB of its own.
    fn six() -> Self {
        let desk = Self::new();
        for (at, loss) in ["0.9", "0.4", "nan", "0.5", "0.3", "0.8"].iter().enumerate() {
            let name = format!("step={}00.bin", at + 1);
            desk.file(&name, 100_000);
            desk.ok(&["put", &name, "--run", "a/b", "--metric", &format!("val_loss={loss}")]);
        }
        desk
    }
}

fn steps(checkpoints: &Value) -> Vec<u64> {
    let list = checkpoints.as_array().expect("a list of checkpoints");
    list.iter().map(|checkpoint| checkpoint["step"].as_u64().expect("a step")).collect()
}
