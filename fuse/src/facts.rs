//! Gathers what a mount says of itself. Never looks at the mount: what the kernel knows of it stands in `/proc` and `/sys`.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use crate::files::Files;
use crate::materialize::Materializer;
use crate::mounted::read_ahead_kb;
use crate::mountinfo::Mount;
use crate::warm::Warmer;
use crate::{Options, Status, mounts};

/// Who knows what changes.
pub struct Sources {
    /// Of open files and of what is decoded.
    pub files: Arc<Files>,
    /// Of what is brought into memory ahead.
    pub warmer: Arc<Warmer>,
    /// Of what is laid down whole, where that was asked for.
    pub materializer: Option<Arc<Materializer>>,
}

/// What is known from the start, and who knows the rest.
pub struct Facts {
    fixed: Status,
    directory: PathBuf,
    sources: Sources,
}

impl Facts {
    /// What a mount that begins now says of itself.
    pub fn new(store: &Path, directory: &Path, options: &Options, sources: Sources) -> Self {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let fixed = Status {
            store: store.to_owned(),
            pid: std::process::id(),
            since_ms: i64::try_from(since.as_millis()).unwrap_or(i64::MAX),
            version: env!("CARGO_PKG_VERSION").into(),
            runs: options.runs.clone(),
            allow_other: options.allow_other,
            cache_bytes_max: options.cache_bytes as u64,
            log: options.log_file.clone(),
            ..Status::default()
        };
        Self { fixed, directory: directory.to_owned(), sources }
    }

    /// What it says now.
    pub fn status(&self) -> Status {
        let mount = mounts::on(&self.directory).ok().flatten().filter(Mount::is_ours);
        let usage = self.sources.files.usage();
        let (materialized, materialize_why_not) =
            self.sources.materializer.as_ref().map_or((None, None), |materializer| {
                let (materialized, why_not) = materializer.usage();
                (Some(materialized), why_not)
            });
        Status {
            cache_bytes: usage.cache_bytes,
            chunks_decoded: usage.chunks_decoded,
            open_files: usage.files,
            open_checkpoints: usage.checkpoints,
            damaged_chunks: usage.damaged_chunks,
            materialized,
            materialize_why_not,
            read_ahead_kb: mount.and_then(|mount| read_ahead_kb(mount.device)),
            warm: self.sources.warmer.state(),
            ..self.fixed.clone()
        }
    }
}
