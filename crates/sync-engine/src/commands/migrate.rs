//! `sync-engine migrate`: a command that changes the schema, run with the triggers lifted.

use std::ffi::OsString;
use std::io::Write as _;
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::process::{ExitCode, ExitStatus};

use anyhow::Context as _;
use rustix::io::{FdFlags, fcntl_setfd};
use rustix::process::{Pid, Signal, kill_process};
use sqlite_store::attach::Attached;
use sqlite_store::lift::{self, Lifted};
use tokio::process::{Child, Command};
use tokio::signal::unix::{SignalKind, signal};

use crate::cli::Migrate;
use crate::commands::databases::OneShot;

/// How often it is tried to put the triggers back while another program holds the file's lock. Each try waits some seconds.
const TRIES: u32 = 12;

/// Runs the command between lifting the triggers and putting them back; its exit code is the answer.
pub(crate) async fn run(arguments: Migrate) -> anyhow::Result<ExitCode> {
    let database = &arguments.database;
    let lifted = lift::lift(database)
        .map_err(OneShot)
        .with_context(|| format!("cannot lift the triggers of {}", database.display()))?;
    if lifted.is_none() {
        remark(&format!("{}: not attached, nothing to lift", database.display()));
    }
    let ended = run_command(&arguments.command, lifted.as_ref()).await;
    // Whatever became of the command, and before it is told.
    if let Some(lifted) = lifted {
        let restored = put_back(&lifted).with_context(|| not_back(database))?;
        remark(&match restored {
            Some(attached) => format!("{}: the triggers are back{}", database.display(), written(&attached)),
            None => format!("{}: the command has detached it", database.display()),
        });
    }
    Ok(ExitCode::from(exit_code(ended?)))
}

/// Runs the command to its end. Ctrl-C reaches it by itself, being sent to all programs at the terminal; what is sent to
/// this process alone is passed on.
async fn run_command(words: &[OsString], lifted: Option<&Lifted>) -> anyhow::Result<ExitStatus> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut hangup = signal(SignalKind::hangup())?;
    if let Some(lifted) = lifted {
        // So that the triggers stay lifted until the command is over, should this process be killed.
        fcntl_setfd(lifted.as_inheritable(), FdFlags::empty())?;
    }
    let (program, arguments) = words.split_first().context("no command is given")?;
    let mut child = Command::new(program)
        .args(arguments)
        .spawn()
        .with_context(|| format!("cannot run {}", Path::new(program).display()))?;
    loop {
        tokio::select! {
            ended = child.wait() => return Ok(ended?),
            _ = interrupt.recv() => {}
            _ = terminate.recv() => pass_on(&child, Signal::TERM),
            _ = hangup.recv() => pass_on(&child, Signal::HUP),
        }
    }
}

fn pass_on(child: &Child, signal: Signal) {
    let process = child.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?));
    if let Some(process) = process {
        // It may have ended already, which is what was asked for.
        let _ = kill_process(process, signal);
    }
}

fn put_back(lifted: &Lifted) -> Result<Option<Attached>, OneShot> {
    let mut tries = 1;
    loop {
        match lifted.restore() {
            Err(error) if error.is_busy() && tries < TRIES => tries += 1,
            other => return other.map_err(OneShot),
        }
    }
}

fn not_back(database: &Path) -> String {
    format!(
        "the triggers of {0} are not back; a running daemon puts them back, and so does `sync-engine attach {0}`",
        database.display()
    )
}

/// The tables that the migration wrote, in words.
fn written(attached: &Attached) -> String {
    let is_marked = |number: i64| {
        attached.rebuilt.contains(&number)
            || attached.rewritten.contains(&number)
            || attached.unwatched.iter().any(|(table, _)| *table == number)
    };
    let marked = attached.schema.tables.iter().filter(|table| is_marked(table.number));
    let names: Vec<&str> = marked.map(|table| table.name.as_str()).collect();
    if names.is_empty() { String::new() } else { format!("; looked at for what was written: {}", names.join(", ")) }
}

/// As shells tell it: the command's own, or 128 and the number of the signal that ended it.
fn exit_code(ended: ExitStatus) -> u8 {
    let code = ended.code().or_else(|| ended.signal().map(|signal| 128 + signal));
    code.and_then(|code| u8::try_from(code).ok()).unwrap_or(1)
}

/// Standard output is the command's own. Where standard error is gone there is nobody to tell.
fn remark(line: &str) {
    let _ = writeln!(std::io::stderr(), "sync-engine: {line}");
}
