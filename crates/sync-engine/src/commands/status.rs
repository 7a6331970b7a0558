//! `sync-engine status`: asks the running daemon, once or again and again.

mod layout;

use std::io::{IsTerminal as _, Write as _};
use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use anyhow::Context as _;
use sync_engine::status::Status as Report;
use sync_engine::telemetry::rfc3339;

use crate::cli::Status;
use crate::commands::daemon::Daemon;
use crate::commands::{NO, say};

/// The pause between two looks: on a terminal, and where what is printed is kept.
const PAUSES: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(5));

/// Prints what the daemon says of itself.
pub(crate) fn run(arguments: &Status) -> anyhow::Result<ExitCode> {
    let daemon = Daemon::find(&arguments.place)?;
    let (text, healthy) = look(&daemon, arguments.json)?;
    if arguments.watch {
        return watch(&daemon, arguments.json, text);
    }
    say(text.trim_end());
    Ok(if healthy { ExitCode::SUCCESS } else { NO.into() })
}

/// What there is to print, and whether the daemon is healthy.
fn look(daemon: &Daemon, json: bool) -> anyhow::Result<(String, bool)> {
    let answer = daemon.get("/v1/status")?.expect_done()?;
    let report: Report = serde_json::from_str(&answer).context("the daemon's answer is of another version")?;
    let text = if json { answer.trim_end().to_owned() + "\n" } else { layout::text(&report) };
    Ok((text, report.healthy))
}

/// Prints it again and again, until somebody stops it or nobody reads it any more. A daemon that is away is waited for.
fn watch(daemon: &Daemon, json: bool, mut text: String) -> anyhow::Result<ExitCode> {
    let redraws = !json && std::io::stdout().is_terminal();
    loop {
        let mut out = std::io::stdout().lock();
        let shown = if redraws {
            // In place: to the corner, each line over the one before, and away with what is left of it.
            let lines = text.replace('\n', "\x1b[K\n");
            write!(out, "\x1b[H{lines}\x1b[J")
        } else if json {
            write!(out, "{text}")
        } else {
            writeln!(out, "{}\n{text}", rfc3339(SystemTime::now()))
        };
        if shown.and_then(|()| out.flush()).is_err() {
            return Ok(ExitCode::SUCCESS);
        }
        drop(out);
        std::thread::sleep(if redraws { PAUSES.0 } else { PAUSES.1 });
        text = match look(daemon, json) {
            Ok((text, _)) => text,
            Err(error) if json => serde_json::json!({ "error": format!("{error:#}") }).to_string() + "\n",
            Err(error) => format!("{error:#}\n"),
        };
    }
}
