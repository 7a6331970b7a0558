//! Reading server-sent events from the daemon: the streaming form of a request. Owns their form; must not know what they mean.

use std::io::{BufRead as _, BufReader, Read, Write as _};
use std::time::Duration;

use anyhow::{Context as _, bail};

use crate::commands::daemon::{Answer, Daemon};

/// How long the daemon may say nothing: it gives a sign of life every 15 seconds.
const SILENCE: Duration = Duration::from_secs(45);

/// The longest line that is read.
const LINE: u64 = 1 << 30;

/// One event. A comment has none of these.
#[derive(Debug, Default)]
pub(super) struct Event {
    /// Its kind.
    pub(super) kind: String,
    /// Its content.
    pub(super) data: String,
    /// From where to go on after it.
    pub(super) id: Option<String>,
}

/// A stream of events.
pub(super) struct Stream {
    lines: BufReader<Box<dyn Read>>,
}

/// What the daemon answered: a stream, or why there is none.
pub(super) enum Opened {
    Stream(Stream),
    Refused(Answer),
}

impl Stream {
    /// Asks for a stream at a path, after the event of that id.
    pub(super) fn open(daemon: &Daemon, path: &str, last: Option<&str>) -> anyhow::Result<Opened> {
        Self::begin(daemon, path, last).map_err(|error| daemon.explained(error))
    }

    fn begin(daemon: &Daemon, path: &str, last: Option<&str>) -> anyhow::Result<Opened> {
        let (mut stream, host) = daemon.connect(SILENCE)?;
        let last = last.map(|id| format!("Last-Event-ID: {id}\r\n")).unwrap_or_default();
        // Of HTTP 1.0 the answer comes as it is, without chunks.
        let shown = daemon.authorization();
        write!(stream, "GET {path} HTTP/1.0\r\nHost: {host}\r\n{shown}Accept: text/event-stream\r\n{last}\r\n")?;
        stream.flush()?;
        let mut stream = Self { lines: BufReader::new(Box::new(stream)) };
        let first = stream.line()?.context("the daemon closed the connection")?;
        let status =
            first.split(' ').nth(1).and_then(|status| status.parse().ok()).context("the answer is not HTTP")?;
        while !stream.line()?.context("the daemon closed the connection")?.is_empty() {}
        if status == 200 {
            return Ok(Opened::Stream(stream));
        }
        let mut body = String::new();
        stream.lines.read_to_string(&mut body)?;
        Ok(Opened::Refused(Answer { status, body }))
    }

    /// The next event; none once the stream has ended. What was cut off in its middle is none.
    pub(super) fn next(&mut self) -> anyhow::Result<Option<Event>> {
        let mut event = Event::default();
        while let Some(line) = self.line()? {
            let (field, value) = line.split_once(':').unwrap_or((&line, ""));
            let value = value.strip_prefix(' ').unwrap_or(value);
            match field {
                "" if line.is_empty() && (event.id.is_some() || !event.data.is_empty()) => return Ok(Some(event)),
                "event" => value.clone_into(&mut event.kind),
                "data" => value.clone_into(&mut event.data),
                "id" => event.id = Some(value.to_owned()),
                _ => {}
            }
        }
        Ok(None)
    }

    /// The next line without its end; none where the stream ends before that.
    fn line(&mut self) -> anyhow::Result<Option<String>> {
        let mut line = String::new();
        self.lines.by_ref().take(LINE).read_line(&mut line)?;
        match line.strip_suffix('\n') {
            Some(text) => Ok(Some(text.strip_suffix('\r').unwrap_or(text).to_owned())),
            None if line.len() as u64 == LINE => bail!("the daemon sent a line without an end"),
            None => Ok(None),
        }
    }
}
