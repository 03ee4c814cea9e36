//! What the tests share: making checkpoints, running the command, disks that record and fail. Holds no test.

pub mod disk;
pub mod faults;
pub mod gate;
pub mod image;
pub mod lab;
pub mod mount;
pub mod mounts;
pub mod python;
pub mod run;
pub mod sample;
pub mod shim;
pub mod stops;
pub mod storm;
pub mod world;
