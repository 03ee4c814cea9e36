//! What the server in the background tells the process that started it, over a pipe: that it is ready, or why not.

use serde::{Deserialize, Serialize};

use crate::output::{print, printable};

/// One line of JSON.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Told {
    /// The mount was looked at and answers.
    Ready(Ready),
    /// It can't be: what to print, and the exit code.
    Failed { text: String, code: u8 },
}

/// A mount that works. Scripts see it with `--json`; documented in docs/cli.md.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Ready {
    pub store: String,
    pub directory: String,
    pub pid: u32,
    /// How far the kernel reads ahead.
    pub read_ahead_kb: Option<u64>,
    pub log: Option<String>,
    /// What people should know.
    pub notes: Vec<String>,
}

impl Ready {
    /// Tells whoever called the command.
    pub fn answer(&self, json: bool) -> Result<(), crate::failure::Failure> {
        self.notes.iter().for_each(|note| eprintln!("Note: {note}"));
        if json {
            return crate::output::print_json(self);
        }
        let (store, on) = (printable(&self.store), printable(&self.directory));
        print(&format!("mounted {store} on {on} (process {})\n", self.pid))
    }
}
