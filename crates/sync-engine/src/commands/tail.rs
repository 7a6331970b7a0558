//! `sync-engine tail`: change events as JSON lines, from the running daemon, until somebody stops it.

use std::io::Write as _;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::bail;
use sync_engine::ChangeFilter;

use crate::cli::Tail;
use crate::commands::daemon::{Daemon, Unreachable};
use crate::commands::stream::{Event, Opened, Stream};

/// The first and the longest pause before the daemon is tried again.
const PAUSES: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(5));

/// Prints events until the daemon has none any more, or nobody reads them.
pub(crate) fn run(arguments: &Tail) -> anyhow::Result<ExitCode> {
    let daemon = Daemon::find(&arguments.place)?;
    let path = path(arguments);
    let unreachable = |error: anyhow::Error| Unreachable::new(&daemon, format!("{error:#}"));
    let mut stream = expect(Stream::open(&daemon, &path, None).map_err(unreachable)?)?;
    let mut last = None;
    loop {
        let reason = match print(&mut stream, &mut last)? {
            Ended::NobodyReads => return Ok(ExitCode::SUCCESS),
            Ended::Gone(reason) => bail!("{reason}"),
            Ended::Cut(reason) => reason,
        };
        say(&format!("{reason}; waiting for the daemon at http://{}", daemon.authority()));
        stream = again(&daemon, &path, last.as_deref())?;
        let from = last.as_deref().map_or_else(
            || "; changes made meanwhile are not shown: --since begin shows everything as it stands".to_owned(),
            |id| format!(", after {id}"),
        );
        say(&format!("connected again{from}"));
    }
}

fn path(arguments: &Tail) -> String {
    let Tail { database, table, since, .. } = arguments;
    let [database, table, since] = [database, table, since].map(Clone::clone);
    format!("/v1/changes?{}", ChangeFilter { database, table, since }.to_query())
}

fn expect(opened: Opened) -> anyhow::Result<Stream> {
    match opened {
        Opened::Stream(stream) => Ok(stream),
        Opened::Refused(answer) => {
            answer.expect_done()?;
            bail!("the daemon sent no stream")
        }
    }
}

/// How a stream ended.
enum Ended {
    NobodyReads,
    Gone(String),
    Cut(String),
}

/// Prints what comes, and notes in `last` after which event to go on.
fn print(stream: &mut Stream, last: &mut Option<String>) -> anyhow::Result<Ended> {
    loop {
        let event = match stream.next() {
            Ok(Some(event)) => event,
            Ok(None) => return Ok(Ended::Cut("the daemon ended the stream".to_owned())),
            Err(error) => return Ok(Ended::Cut(format!("the stream broke: {error:#}"))),
        };
        let Event { kind, data, id } = event;
        if kind == "gone" {
            let told: Option<serde_json::Value> = serde_json::from_str(&data).ok();
            let reason = told.as_ref().and_then(|told| told["error"].as_str()).unwrap_or(&data);
            return Ok(Ended::Gone(reason.to_owned()));
        }
        if !data.is_empty() {
            let mut out = std::io::stdout().lock();
            if writeln!(out, "{data}").and_then(|()| out.flush()).is_err() {
                return Ok(Ended::NobodyReads);
            }
        }
        *last = id.or(last.take());
    }
}

/// Waits until the daemon is there again, and goes on with it.
fn again(daemon: &Daemon, path: &str, last: Option<&str>) -> anyhow::Result<Stream> {
    let mut pause = PAUSES.0;
    loop {
        std::thread::sleep(pause);
        pause = (pause * 2).min(PAUSES.1);
        match Stream::open(daemon, path, last) {
            // It is on its way, in one direction or the other.
            Ok(Opened::Refused(answer)) if answer.status == 503 => {}
            Ok(opened) => return expect(opened),
            Err(_) => {}
        }
    }
}

/// Tells who waits what is going on. Where standard error is gone there is nobody to tell.
fn say(line: &str) {
    let _ = writeln!(std::io::stderr(), "sync-engine: {line}");
}
