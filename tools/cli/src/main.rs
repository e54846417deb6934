//! `shale`: one binary, a file per command. The only place that prints, reads the environment, exits,
//! and wires the parts together.
#![expect(
    clippy::disallowed_methods,
    reason = "this is the command line: the place for the environment"
)]

mod commands;
mod context;
mod failure;
mod leaks;
mod memory;
mod output;
mod patience;
mod progress;

use std::process::ExitCode;

use clap::Parser;

use crate::commands::Command;
use crate::context::{Context, Global};

/// Deploys virtual machines from layered templates, lazily.
///
/// Exit codes: 0 done, 1 failure, 2 usage, 3 not found, 4 denied, 5 conflict or in use, 6 unavailable or
/// timed out, 7 integrity.
#[derive(Debug, Parser)]
#[command(name = "shale", version, max_term_width = 100)]
struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    if matches!(cli.command, Command::Push(_) | Command::Server(_)) {
        memory::keep_small();
    }
    let debug = cli.global.debug;
    let done = Context::new(cli.global).and_then(|context| cli.command.run(&context));
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => failure::report(&error, debug),
    }
}
