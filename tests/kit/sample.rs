//! Makes checkpoints of known content.
