//! The binary: reads the command line, dispatches, and turns errors into messages and exit codes.

mod cli;
mod commands;

use std::io::Write as _;
use std::process::ExitCode;

use clap::Parser as _;

fn main() -> ExitCode {
    let cli = cli::Cli::parse();
    match commands::run(cli.command) {
        Ok(code) => code,
        Err(error) => {
            // Where standard error is gone there is nobody to tell.
            let _ = writeln!(std::io::stderr(), "sync-engine: {}", commands::message(&error));
            commands::exit_code(&error)
        }
    }
}
