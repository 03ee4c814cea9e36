//! The command `ckpt`: reads arguments, calls the library, prints. Decides nothing about stores: that is the library's.

#![forbid(unsafe_code)]

mod args;
mod commands;
mod failure;
mod figures;
mod output;
mod progress;

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    let args = args::Args::parse();
    match commands::run(args) {
        Ok(code) => code,
        Err(failure) => failure.report(),
    }
}
