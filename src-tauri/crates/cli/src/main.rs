//! `reprise`: the terminal command. Same engine as the window, no window.
//!
//! [`args`] is what the user typed; [`chat`], [`bench`], [`doctor`] and [`models`] do it; [`failure`] is the only place
//! where a fact from below becomes advice and an exit code. Answers and results go to standard output, everything
//! about them to standard error.

#![forbid(unsafe_code)]

mod args;
mod attach;
mod bench;
mod chat;
mod doctor;
mod failure;
mod figures;
mod interrupt;
mod machine;
mod models;
mod output;

use std::process::ExitCode;

use clap::Parser;

use crate::args::{Cli, Command};
use crate::failure::Failure;

fn main() -> ExitCode {
    // The PDF parser runs in a child of this very binary; such a child must not parse our arguments.
    reprise_library::pdf::serve_if_asked();
    let cli = Cli::parse();
    let json = cli.command.json();
    match run(cli.command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            failure.report(json);
            ExitCode::from(failure.exit_code())
        }
    }
}

fn run(command: Command) -> Result<(), Failure> {
    match command {
        Command::Chat(args) => chat::run(args),
        Command::Bench(command) => bench::run(command),
        Command::Doctor(args) => doctor::run(args),
        Command::Models(command) => models::run(command),
    }
}
