//! What the tests share: making checkpoints, running the command, disks that record and fail. Holds no test.

pub mod calls;
mod connection;
pub mod desk;
pub mod disk;
pub mod faults;
pub mod gate;
pub mod image;
pub mod lab;
pub mod map;
pub mod mount;
pub mod mounts;
pub mod odd;
pub mod process;
pub mod python;
pub mod readers;
pub mod run;
pub mod sample;
pub mod shim;
pub mod stops;
pub mod storm;
pub mod world;
