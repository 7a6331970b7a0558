//! The commands of the binary.

mod backup;
mod completions;
mod config;
mod conflicts;
mod daemon;
mod databases;
mod demo;
mod forget;
mod in_step;
mod man;
mod migrate;
mod pair;
mod progress;
mod reload;
mod restore;
mod run;
mod service;
mod signals;
mod status;
mod stream;
mod sync;
mod tail;
mod tls;
mod verify;

use std::collections::BTreeMap;
use std::io::Write as _;
use std::process::ExitCode;

use sync_engine::EngineError;
use sync_engine::config::ConfigErrors;

use crate::cli::Command;

/// The answer is no: not healthy, not reachable.
const NO: u8 = 1;
/// The command line is wrong, as clap has it.
const MISUSE: u8 = 2;
/// Input or output failed (`EX_IOERR` of sysexits.h).
const IO: u8 = 74;
/// The configuration is wrong (`EX_CONFIG`).
const CONFIG: u8 = 78;

/// An argument of the command line is wrong in a way that takes more than its form to see.
#[derive(Debug, thiserror::Error)]
#[error("{0}; see --help for examples")]
pub(crate) struct Misuse(String);

/// Runs one command.
pub(crate) fn run(command: Command) -> anyhow::Result<ExitCode> {
    match command {
        Command::Run(arguments) => asynchronously(run::run(arguments)),
        Command::Demo(arguments) => asynchronously(demo::run(&arguments.dir, &arguments.listen)),
        Command::Attach(arguments) => databases::attach(&arguments),
        Command::Detach(arguments) => databases::detach(&arguments),
        Command::Migrate(arguments) => asynchronously(migrate::run(arguments)),
        Command::Status(arguments) => status::run(&arguments),
        Command::Tail(arguments) => tail::run(&arguments),
        Command::Forget(arguments) => forget::run(&arguments),
        Command::Pair(arguments) => asynchronously(pair::run(arguments)),
        Command::Sync(arguments) => sync::run(&arguments),
        Command::Verify(arguments) => verify::run(&arguments),
        Command::Conflicts(command) => conflicts::run(&command),
        Command::Tls(command) => tls::run(&command),
        Command::Backup(arguments) => backup::run(&arguments),
        Command::Restore(arguments) => restore::run(&arguments),
        Command::Config(command) => config::run(&command),
        Command::Completions(arguments) => completions::run(&arguments),
        Command::Man(arguments) => man::run(&arguments),
    }
}

fn asynchronously<T>(work: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(work)
}

/// The exit code that an error stands for.
pub(crate) fn exit_code(error: &anyhow::Error) -> ExitCode {
    code(error).into()
}

fn code(error: &anyhow::Error) -> u8 {
    for cause in error.chain() {
        if cause.is::<Misuse>() {
            return MISUSE;
        }
        if cause.is::<ConfigErrors>() {
            return CONFIG;
        }
        if let Some(error) = cause.downcast_ref::<EngineError>() {
            return match error {
                EngineError::Url { .. }
                | EngineError::NotLoopback { .. }
                | EngineError::KeyRanges { .. }
                | EngineError::DuplicateDatabase { .. } => CONFIG,
                _ => IO,
            };
        }
        if cause.is::<std::io::Error>()
            || cause.is::<sqlite_store::StoreError>()
            || cause.is::<databases::OneShot>()
            || cause.is::<sync_engine::telemetry::TelemetryError>()
        {
            return IO;
        }
    }
    NO
}

/// An error for people: what happened, each cause that is not told already, and what to do.
pub(crate) fn message(error: &anyhow::Error) -> String {
    let mut text = String::new();
    for cause in error.chain() {
        let cause = cause.to_string();
        if text.is_empty() {
            text = cause;
        } else if !text.contains(&cause) && !cause.starts_with("Error code ") {
            text = format!("{text}: {cause}");
        }
    }
    let store = error.chain().find_map(|cause| cause.downcast_ref::<sqlite_store::StoreError>());
    store.map_or(text.clone(), |store| format!("{text}; {}", store.remedy()))
}

/// The process's environment, where it is text.
fn environment() -> BTreeMap<String, String> {
    std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .collect()
}

/// Tells of an error. Where standard error is gone there is nobody to tell.
pub(crate) fn complain(error: &anyhow::Error) {
    let _ = writeln!(std::io::stderr(), "sync-engine: {}", message(error));
}

/// Prints a line. A reader that went away ends the output, not the command.
fn say(line: &str) {
    let _ = writeln!(std::io::stdout().lock(), "{line}");
}

/// Prints what is no line for people. A reader that went away ends the output, not the command.
fn print(text: &[u8]) -> anyhow::Result<ExitCode> {
    match std::io::stdout().lock().write_all(text) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(ExitCode::SUCCESS),
    }
}
