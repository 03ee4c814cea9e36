//! The tests of ckpt as a whole, one file for each kind of doubt.

mod bad_input;
mod cli;
mod crash;
mod damage;
mod files;
mod formats;
mod given;
mod golden;
mod head_protocol;
mod import;
mod model;
mod mount;
mod parts;
mod processes;
mod protocol;
mod reads;
mod repack;
mod tensors;
mod tidy;
mod torch;
mod views;
mod watch;
mod writers;
