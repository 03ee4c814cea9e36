//! What a mount says of itself, in an extended attribute of its root. Never gathers it: that is the server's.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// The extended attribute of the mount's root that holds it, as JSON.
pub const ATTRIBUTE: &str = "user.ckpt.status";

/// What a mount says of itself. Fields are added, never changed: a newer command may ask an older server.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Status {
    /// The store.
    pub store: PathBuf,
    /// The process that serves the mount.
    pub pid: u32,
    /// When it was mounted, in milliseconds since 1970.
    pub since_ms: i64,
    /// The version of the server.
    pub version: String,
    /// The glob of the runs that are shown; none when all are.
    pub runs: Option<String>,
    /// Whether other users may look.
    pub allow_other: bool,
    /// Bytes of decoded chunks that are kept.
    pub cache_bytes: u64,
    /// The most bytes of them.
    pub cache_bytes_max: u64,
    /// Chunks that were read and decoded so far.
    pub chunks_decoded: u64,
    /// Files that are open now.
    pub open_files: u64,
    /// Checkpoints that are held open now, which gc leaves alone.
    pub open_checkpoints: u64,
    /// How far the kernel reads ahead, in KiB.
    pub read_ahead_kb: Option<u64>,
    /// Chunks that turned out to be damaged so far.
    pub damaged_chunks: u64,
    /// What is laid down whole, for the kernel to read it by itself.
    pub materialized: Option<Materialized>,
    /// Why files are not laid down whole, or not read by the kernel itself.
    pub materialize_why_not: Option<String>,
    /// What is brought into memory ahead.
    pub warm: Option<Warm>,
    /// Where it writes what happens.
    pub log: Option<PathBuf>,
}

/// Files that are laid down whole.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Materialized {
    /// Where.
    pub directory: PathBuf,
    /// How many.
    pub files: u64,
    /// Bytes that they take.
    pub bytes: u64,
    /// The most bytes that they may take.
    pub bytes_max: u64,
}

/// How far bringing files into memory has come.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Warm {
    /// Files that are in memory.
    pub files: u64,
    /// Bytes that are in memory.
    pub bytes: u64,
    /// All bytes that are to be.
    pub bytes_all: u64,
    /// Whether nothing is left to do.
    pub done: bool,
    /// What could not be brought, the first of it.
    pub failed: Option<String>,
}

impl Status {
    /// Its form in the attribute.
    pub fn to_bytes(&self) -> Vec<u8> {
        serde_json::to_vec(self).unwrap_or_default()
    }
}
