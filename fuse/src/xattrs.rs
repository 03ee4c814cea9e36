//! What a checkpoint tells of itself as extended attributes. Pure: never reads anything.

use ckpt_store::CheckpointId;

/// What all of their names begin with.
pub const PREFIX: &str = "user.ckpt.";
/// Bytes that it takes in packs.
pub const STORED_BYTES: &str = "user.ckpt.stored_bytes";
/// The longest value that Linux hands on.
const VALUE_BYTES_MAX: usize = 64 << 10;

/// What is known of a file or directory.
#[derive(Debug, Default)]
pub struct About<'a> {
    /// The checkpoint that it belongs to.
    pub checkpoint: Option<(CheckpointId, &'a str, Option<u64>)>,
    /// Bytes that it takes in packs.
    pub stored_bytes: Option<u64>,
    /// Its whole name, where that is not shown.
    pub whole_name: Option<&'a str>,
}

impl About<'_> {
    /// All names with their values.
    pub fn all(&self) -> Vec<(&'static str, Vec<u8>)> {
        let mut all = Vec::new();
        if let Some((id, run, step)) = self.checkpoint {
            all.push(("user.ckpt.id", id.to_string()));
            all.push(("user.ckpt.run", run.to_owned()));
            all.extend(step.map(|step| ("user.ckpt.step", step.to_string())));
        }
        all.extend(self.stored_bytes.map(|bytes| (STORED_BYTES, bytes.to_string())));
        all.extend(self.whole_name.map(|name| ("user.ckpt.name", name.to_owned())));
        let bytes = |(name, value): (_, String)| {
            let mut value = value.into_bytes();
            value.truncate(VALUE_BYTES_MAX);
            (name, value)
        };
        all.into_iter().map(bytes).collect()
    }
}

/// The list of these names as `listxattr` gives it.
pub fn list(all: &[(&'static str, Vec<u8>)]) -> Vec<u8> {
    all.iter().flat_map(|(name, _)| name.bytes().chain([0])).collect()
}
