//! Runs the real command `ckpt`.
