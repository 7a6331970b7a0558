//! The binary: reads the command line, dispatches, and turns errors into messages and exit codes.

mod cli;
mod commands;

use std::process::ExitCode;

use clap::Parser as _;

#[cfg(target_os = "linux")]
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    let cli = cli::Cli::parse();
    match commands::run(cli.command) {
        Ok(code) => code,
        Err(error) => {
            commands::complain(&error);
            commands::exit_code(&error)
        }
    }
}
