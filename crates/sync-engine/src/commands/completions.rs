//! `sync-engine completions`: a script that has a shell complete commands.

use std::process::ExitCode;

use clap::CommandFactory as _;

use crate::cli::{Cli, Completions};
use crate::commands::print;

pub(crate) fn run(arguments: &Completions) -> anyhow::Result<ExitCode> {
    let mut script = Vec::new();
    clap_complete::generate(arguments.shell, &mut Cli::command(), "sync-engine", &mut script);
    // clap_complete 4.6 calls the program by two names in bash's script where its own has a hyphen, and completes nothing after the
    // first word then.
    let script = String::from_utf8(script)?.replace("sync__subcmd__engine", "sync__engine");
    print(script.as_bytes())
}
