//! `shale`: one binary, a file per command. The only place that prints, reads the environment, exits,
//! and wires the parts together.
#![expect(
    clippy::disallowed_methods,
    reason = "this is the command line: the place for the environment"
)]

mod commands;
mod context;
mod failure;
mod global;
mod leaks;
mod logging;
mod memory;
mod output;
mod patience;
mod places;
mod progress;
mod settings;
mod system;

use std::process::ExitCode;

use clap::{CommandFactory, FromArgMatches, Parser};

use crate::commands::Command;
use crate::context::Context;
use crate::global::Global;
use crate::settings::Flags;
use crate::system::System;

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
    // Before there is another thread.
    let system = System::take();
    let matches = Cli::command().get_matches();
    let cli = match Cli::from_arg_matches(&matches) {
        Ok(cli) => cli,
        Err(error) => error.exit(),
    };
    if matches!(
        cli.command,
        Command::Push(_) | Command::Server(_) | Command::Up(_)
    ) {
        memory::keep_small();
    }
    let debug = cli.global.debug;
    let done = match cli.command {
        // It lives long, and has nothing that it does not need.
        Command::Keeper(keeper) => keeper.run(),
        command => {
            let serves_mounts = matches!(command, Command::Host(_) | Command::Up(_));
            Context::new(cli.global, Flags::of(&matches), system).and_then(|context| {
                let done = command.run(&context);
                if serves_mounts {
                    // Threads that wait for requests of a mount wait until the process ends.
                    context.runtime.shutdown_background();
                }
                done
            })
        }
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => failure::report(&error, debug),
    }
}
