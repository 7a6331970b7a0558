//! The log: `synchronization.log`, written through tracing, and through tracing-appender's thread so that a slow disk does
//! not hold up whoever logs. Owns the form of a line; must not touch what events mean.

mod log_file;

use std::fmt::{self, Write as _};
use std::io::IsTerminal as _;
use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Map, Value as Json};
use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
use tracing_appender::non_blocking::{NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Registry, reload};

use crate::config::{LogFormat, LogSettings};
use crate::event::{FieldValue, TARGET};
use crate::telemetry::log_file::{Gap, LogFile, Retention};

/// Lines that may wait to be written. Beyond that whoever logs waits: nothing is dropped.
const BUFFER: usize = 16_384;

/// Why the log cannot be written. Nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// The folder cannot be made or written.
    #[error("cannot write the log in {}: {reason}; set log.directory to a folder that this user may write", folder.display())]
    Folder {
        /// The folder.
        folder: PathBuf,
        /// What the system said.
        reason: String,
    },
    /// The level is none.
    #[error("log.level {level:?} is not a level: {reason}; use error, warn, info, debug or trace")]
    Level {
        /// What was given.
        level: String,
        /// What is wrong.
        reason: String,
    },
    /// The process has a log already.
    #[error("this process has a log already")]
    Installed,
}

/// The log of this process. What is queued is written when it is dropped: keep it until the end.
#[derive(Debug)]
pub struct Log {
    level: reload::Handle<EnvFilter, Registry>,
    format: Arc<Mutex<LogFormat>>,
    retention: Arc<Mutex<Retention>>,
    _queue: WorkerGuard,
}

/// Starts the log of this process.
///
/// # Errors
/// The folder cannot be written, the level is none, or there is a log already.
pub fn start(settings: &LogSettings) -> Result<Log, TelemetryError> {
    let folder_error = |reason: String| TelemetryError::Folder { folder: settings.directory.clone(), reason };
    let (filter, level) = reload::Layer::new(filter(&settings.level)?);
    let retention = Arc::new(Mutex::new(Retention { rotation: settings.rotation, keep: settings.keep }));
    let format = Arc::new(Mutex::new(settings.format));
    let gap = gap(Arc::clone(&format));
    let file = LogFile::open(&settings.directory, Arc::clone(&retention), gap)
        .map_err(|error| folder_error(error.to_string()))?;
    let (writer, queue) = NonBlockingBuilder::default().lossy(false).buffered_lines_limit(BUFFER).finish(file);
    let lines = Lines { format: Arc::clone(&format) };
    let to_file = tracing_subscriber::fmt::layer().event_format(lines).with_ansi(false).with_writer(writer);
    let to_terminal = std::io::stderr().is_terminal().then(|| {
        tracing_subscriber::fmt::layer()
            .event_format(Lines { format: Arc::new(Mutex::new(LogFormat::Text)) })
            .with_ansi(false)
            .with_writer(std::io::stderr)
    });
    tracing_subscriber::registry()
        .with(filter)
        .with(to_file)
        .with(to_terminal)
        .try_init()
        .map_err(|_| TelemetryError::Installed)?;
    Ok(Log { level, format, retention, _queue: queue })
}

impl Log {
    /// Goes on with another level, format or rotation. The folder stays the one that the log was started in.
    ///
    /// # Errors
    /// The level is none. Nothing was changed.
    pub fn reconfigure(&self, settings: &LogSettings) -> Result<(), TelemetryError> {
        let filter = filter(&settings.level)?;
        self.level
            .reload(filter)
            .map_err(|error| TelemetryError::Level { level: settings.level.clone(), reason: error.to_string() })?;
        *self.format.lock().unwrap_or_else(PoisonError::into_inner) = settings.format;
        *self.retention.lock().unwrap_or_else(PoisonError::into_inner) =
            Retention { rotation: settings.rotation, keep: settings.keep };
        Ok(())
    }
}

/// A plain level holds for our own lines; libraries are heard from a warning on.
fn filter(level: &str) -> Result<EnvFilter, TelemetryError> {
    let plain = ["error", "warn", "info", "debug", "trace", "off"].contains(&level);
    let directives = if plain {
        format!("warn,sync_engine={level},sqlite_store={level},peer_link={level},replication={level}")
    } else {
        level.to_owned()
    };
    EnvFilter::try_new(directives)
        .map_err(|error| TelemetryError::Level { level: level.to_owned(), reason: error.to_string() })
}

/// What says in the log that lines are missing.
fn gap(format: Arc<Mutex<LogFormat>>) -> Box<Gap> {
    Box::new(move |lost| {
        let mut line = Map::new();
        line.insert("time".to_owned(), rfc3339(SystemTime::now()).into());
        line.insert("level".to_owned(), "WARN".into());
        line.insert("event".to_owned(), "log".into());
        line.insert("reason".to_owned(), "the log could not be written".into());
        line.insert("lines_lost".to_owned(), lost.into());
        let format = *format.lock().unwrap_or_else(PoisonError::into_inner);
        in_format(format, line) + "\n"
    })
}

fn in_format(format: LogFormat, line: Map<String, Json>) -> String {
    match format {
        LogFormat::Json => Json::Object(line).to_string(),
        LogFormat::Text => text(&line),
    }
}

/// How many lines could not be written into the log.
pub(crate) fn lost_lines() -> u64 {
    log_file::LOST_LINES.load(Ordering::Relaxed)
}

/// How a line looks.
struct Lines {
    format: Arc<Mutex<LogFormat>>,
}

impl<S, N> FormatEvent<S, N> for Lines
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, _: &FmtContext<'_, S, N>, mut writer: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let mut fields = Fields::default();
        event.record(&mut fields);
        let line = fields.line(event);
        let format = *self.format.lock().unwrap_or_else(PoisonError::into_inner);
        writeln!(writer, "{}", in_format(format, line))
    }
}

/// One line's fields in order.
#[derive(Default)]
struct Fields {
    map: Map<String, Json>,
}

impl Fields {
    /// The line as an object: an event of ours as it was emitted, anything else as a `log` event.
    fn line(mut self, event: &Event<'_>) -> Map<String, Json> {
        if event.metadata().target() == TARGET
            && let Some(Json::String(fields)) = self.map.remove("fields")
            && let Ok(Json::Object(line)) = serde_json::from_str(&fields)
        {
            return line;
        }
        let mut line = Map::new();
        line.insert("time".to_owned(), rfc3339(SystemTime::now()).into());
        line.insert("level".to_owned(), event.metadata().level().as_str().into());
        line.insert("event".to_owned(), "log".into());
        for (name, value) in self.map {
            // A field of somebody else's must not pass for the line's own.
            let taken = line.contains_key(&name);
            line.insert(if taken { format!("field_{name}") } else { name }, value);
        }
        line
    }
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.map.insert(field.name().to_owned(), format!("{value:?}").into());
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.map.insert(field.name().to_owned(), value.into());
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.map.insert(field.name().to_owned(), value.into());
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.map.insert(field.name().to_owned(), value.into());
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.map.insert(field.name().to_owned(), value.into());
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.map.insert(field.name().to_owned(), value.into());
    }
}

/// `time level event key=value …`
fn text(line: &Map<String, Json>) -> String {
    let mut text = String::with_capacity(160);
    for (key, value) in line {
        let value = match value {
            Json::String(value) => FieldValue::Text(value.clone()).to_string(),
            other => other.to_string(),
        };
        if text.is_empty() {
            text.push_str(&value);
        } else if matches!(key.as_str(), "level" | "event") {
            text.push(' ');
            text.push_str(&value);
        } else {
            // Writing to a String cannot fail.
            let _ = write!(text, " {key}={value}");
        }
    }
    text
}

/// A time in RFC 3339, UTC, with milliseconds. Times before 1970 are shown as 1970.
pub fn rfc3339(time: SystemTime) -> String {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    let (seconds, millis) = (since.as_secs(), since.subsec_millis());
    let (days, second) = (seconds / 86_400, seconds % 86_400);
    let (year, month, day) = civil(days);
    format!(
        "{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}.{millis:03}Z",
        second / 3600,
        second / 60 % 60,
        second % 60
    )
}

/// Year, month and day of a number of days since 1970-01-01 (Howard Hinnant, "chrono-Compatible Low-Level Date
/// Algorithms", `civil_from_days`).
fn civil(days: u64) -> (u64, u64, u64) {
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_index = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_index + 2) / 5 + 1;
    let month = if month_index < 10 { month_index + 3 } else { month_index - 9 };
    (year_of_era + era * 400 + u64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::sync::{Arc, Mutex};
    use std::time::{Duration, UNIX_EPOCH};

    use tracing_subscriber::layer::SubscriberExt as _;

    use super::{Lines, filter, rfc3339, text};
    use crate::config::LogFormat;
    use crate::event::{Event, EventName, EventSink};

    #[derive(Clone, Default)]
    struct Captured(Arc<Mutex<Vec<u8>>>);

    impl Write for Captured {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    /// The lines that `work` logs.
    fn lines(format: LogFormat, level: &str, work: impl FnOnce()) -> Vec<String> {
        let captured = Captured::default();
        let writer = captured.clone();
        let layer = tracing_subscriber::fmt::layer()
            .event_format(Lines { format: Arc::new(Mutex::new(format)) })
            .with_ansi(false)
            .with_writer(move || writer.clone());
        let subscriber = tracing_subscriber::registry().with(filter(level).unwrap()).with(layer);
        tracing::subscriber::with_default(subscriber, work);
        let bytes = captured.0.lock().unwrap().clone();
        String::from_utf8(bytes).unwrap().lines().map(str::to_owned).collect()
    }

    fn lost() -> Event {
        let mut event = Event::new(EventName::PeerLost)
            .field("node", "oslo")
            .field("reason", "said \"bye\"\nand = left\u{1b}[0m")
            .field("rows", 3_u64)
            .field("clean", true)
            .field("empty", "");
        event.at = UNIX_EPOCH + Duration::from_millis(1_795_428_000_123);
        event
    }

    #[test]
    fn an_event_as_text() {
        let lines = lines(LogFormat::Text, "info", || EventSink::default().emit(lost()));
        let expected = concat!(
            "2026-11-23T10:00:00.123Z WARN peer_lost node=oslo ",
            r#"reason="said \"bye\"\nand = left\u{1b}[0m" rows=3 clean=true empty="""#
        );
        assert_eq!(lines, [expected]);
    }

    #[test]
    fn an_event_as_json() {
        let lines = lines(LogFormat::Json, "info", || EventSink::default().emit(lost()));
        let expected = concat!(
            r#"{"time":"2026-11-23T10:00:00.123Z","level":"WARN","event":"peer_lost","node":"oslo","#,
            r#""reason":"said \"bye\"\nand = left\u001b[0m","rows":3,"clean":true,"empty":""}"#
        );
        assert_eq!(lines, [expected]);
    }

    #[test]
    fn diagnostics_are_log_events_and_cannot_pass_for_others() {
        let work = || tracing::info!(event = "peer_lost", half = 0.5, "two\nlines");
        let text_lines = lines(LogFormat::Text, "info", work);
        let [line] = text_lines.as_slice() else { panic!("{text_lines:?}") };
        let (_, rest) = line.split_once(' ').unwrap();
        assert_eq!(rest, r#"INFO log message="two\nlines" field_event=peer_lost half=0.5"#);
        let json_lines = lines(LogFormat::Json, "info", work);
        let json: serde_json::Value = serde_json::from_str(&json_lines[0]).unwrap();
        assert_eq!((&json["event"], &json["half"]), (&"log".into(), &0.5.into()));
    }

    #[test]
    fn a_plain_level_is_for_our_own_lines() {
        let work = || {
            EventSink::default().emit(Event::new(EventName::Insert));
            tracing::info!(target: "hyper", "of a library");
            tracing::warn!(target: "hyper", "of a library, important");
            tracing::debug!(target: "peer_link", "of ours");
        };
        assert_eq!(lines(LogFormat::Text, "info", work).len(), 1);
        assert_eq!(lines(LogFormat::Text, "debug", work).len(), 3);
        assert_eq!(lines(LogFormat::Text, "warn,sync_engine=debug", work).len(), 2);
    }

    #[test]
    fn times_read_as_rfc_3339() {
        assert_eq!(rfc3339(UNIX_EPOCH), "1970-01-01T00:00:00.000Z");
        assert_eq!(rfc3339(UNIX_EPOCH + Duration::from_millis(951_782_399_999)), "2000-02-28T23:59:59.999Z");
        assert_eq!(rfc3339(UNIX_EPOCH + Duration::from_secs(1_709_164_800)), "2024-02-29T00:00:00.000Z");
        assert_eq!(rfc3339(UNIX_EPOCH + Duration::from_secs(4_102_444_800)), "2100-01-01T00:00:00.000Z");
    }

    #[test]
    fn a_text_line_has_no_names_for_what_stands_first() {
        let line = serde_json::json!({"time": "T", "level": "INFO", "event": "peer_lost", "node": "a b", "n": 1});
        let line = line.as_object().unwrap();
        assert_eq!(text(line), r#"T INFO peer_lost node="a b" n=1"#);
    }
}
