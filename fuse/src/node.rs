//! What a path of the mount can be. Never knows its name or its inode.

use ckpt_store::CheckpointId;

/// A file, directory or link of the mount.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Node {
    /// The directory of all runs whose names begin with these components, `/` after each; empty is the root.
    Runs(String),
    /// The directory of all checkpoints by their ids.
    ById,
    /// A link that the mount makes: `latest`, `best`, a tag, an id.
    Link {
        /// Where it points.
        target: String,
    },
    /// The directory of a checkpoint.
    Checkpoint(CheckpointId),
    /// A file, directory or link of a checkpoint, by its number in the manifest.
    Member(CheckpointId, u32),
    /// A checkpoint as one safetensors file.
    Safetensors(CheckpointId),
    /// The directory of a checkpoint's tensors.
    Tensors(CheckpointId),
    /// A tensor as a NumPy file, by its number among those of the checkpoint.
    Tensor(CheckpointId, u32),
}
