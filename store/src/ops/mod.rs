//! The verbs of the store, one file each. Never touches the terminal, the environment or the home directory.

pub mod change;
pub mod gc;
pub mod get;
pub mod put;
pub mod reading;
pub mod stats;
pub mod verify;
