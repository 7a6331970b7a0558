//! Events: the lines of the log that people script against, and the hook that sees them.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime};

use serde::ser::SerializeMap as _;
use serde::{Serialize, Serializer};
use sqlite_store::RowOperation;
use tracing::Level;

use crate::change_event::ChangeEvent;
use crate::telemetry::rfc3339;

/// The tracing target that events are logged under.
pub(crate) const TARGET: &str = "sync_engine::event";

/// Events that may wait for the hook.
const HOOK_QUEUE: usize = 1024;

/// How long closing waits for the hook to see what is queued.
const HOOK_GRACE: Duration = Duration::from_secs(2);

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum EventName {
    /// The daemon, a database or a peer's first catch-up begins.
    SyncStart,
    /// The same ends.
    SyncComplete,
    /// Something stopped a table, a database or a peer.
    SyncError,
    /// A try that will be made again.
    SyncRetry,
    /// The incoming change lost and was not applied.
    ConflictSkip,
    /// The incoming change won.
    ConflictApply,
    /// Both changes were merged.
    ConflictMerge,
    /// A session with a peer begins.
    PeerConnected,
    /// It ends.
    PeerLost,
    /// The hook failed or could not keep up.
    LogHookError,
    /// A row was inserted by a peer's change.
    Insert,
    /// A row was updated by a peer's change.
    Update,
    /// A row was deleted by a peer's change.
    Delete,
}

impl EventName {
    /// The name in the log.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::SyncStart => "sync_start",
            Self::SyncComplete => "sync_complete",
            Self::SyncError => "sync_error",
            Self::SyncRetry => "sync_retry",
            Self::ConflictSkip => "conflict_skip",
            Self::ConflictApply => "conflict_apply",
            Self::ConflictMerge => "conflict_merge",
            Self::PeerConnected => "peer_connected",
            Self::PeerLost => "peer_lost",
            Self::LogHookError => "log_hook_error",
            Self::Insert => "insert",
            Self::Update => "update",
            Self::Delete => "delete",
        }
    }

    /// How loud it is.
    pub const fn level(self) -> Level {
        match self {
            Self::SyncError => Level::ERROR,
            Self::SyncRetry
            | Self::PeerLost
            | Self::ConflictSkip
            | Self::ConflictApply
            | Self::ConflictMerge
            | Self::LogHookError => Level::WARN,
            Self::SyncStart | Self::SyncComplete | Self::PeerConnected => Level::INFO,
            Self::Insert | Self::Update | Self::Delete => Level::DEBUG,
        }
    }
}

/// A field's value.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(untagged)]
pub enum FieldValue {
    /// Text.
    Text(String),
    /// A number.
    Number(i64),
    /// Yes or no.
    Truth(bool),
}

impl From<String> for FieldValue {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}

impl From<&str> for FieldValue {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

impl From<bool> for FieldValue {
    fn from(truth: bool) -> Self {
        Self::Truth(truth)
    }
}

impl From<i64> for FieldValue {
    fn from(number: i64) -> Self {
        Self::Number(number)
    }
}

impl From<u64> for FieldValue {
    fn from(number: u64) -> Self {
        Self::Number(i64::try_from(number).unwrap_or(i64::MAX))
    }
}

impl From<usize> for FieldValue {
    fn from(number: usize) -> Self {
        Self::Number(i64::try_from(number).unwrap_or(i64::MAX))
    }
}

impl fmt::Display for FieldValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(text) if needs_quotes(text) => write!(f, "{text:?}"),
            Self::Text(text) => f.write_str(text),
            Self::Number(number) => number.fmt(f),
            Self::Truth(truth) => truth.fmt(f),
        }
    }
}

/// Whether a value would not read back as one word.
fn needs_quotes(text: &str) -> bool {
    text.is_empty() || text.chars().any(|c| c.is_whitespace() || c.is_control() || matches!(c, '"' | '=' | '\\'))
}

/// Something that happened, as the log and the hook see it.
#[derive(Debug, Clone, PartialEq)]
pub struct Event {
    /// What.
    pub name: EventName,
    /// When.
    pub at: SystemTime,
    /// With what particulars, in the order of the log line.
    pub fields: Vec<(&'static str, FieldValue)>,
}

impl Event {
    /// An event of now, without fields.
    pub fn new(name: EventName) -> Self {
        Self { name, at: SystemTime::now(), fields: Vec::new() }
    }

    /// The event with one more field.
    #[must_use]
    pub fn field(mut self, key: &'static str, value: impl Into<FieldValue>) -> Self {
        self.fields.push((key, value.into()));
        self
    }

    /// The value of a field.
    pub fn get(&self, key: &str) -> Option<&FieldValue> {
        self.fields.iter().find(|(name, _)| *name == key).map(|(_, value)| value)
    }
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name.as_str())?;
        self.fields.iter().try_for_each(|(key, value)| write!(f, " {key}={value}"))
    }
}

impl Serialize for Event {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(3 + self.fields.len()))?;
        map.serialize_entry("time", &rfc3339(self.at))?;
        map.serialize_entry("level", self.name.level().as_str())?;
        map.serialize_entry("event", self.name.as_str())?;
        for (key, value) in &self.fields {
            map.serialize_entry(key, value)?;
        }
        map.end()
    }
}

/// A function that sees every event.
pub type LogHook = dyn Fn(&Event) + Send + Sync;

/// Where events go: the log, and the hook if there is one.
#[derive(Clone, Default)]
pub struct EventSink {
    hook: Option<Arc<Hook>>,
}

impl fmt::Debug for EventSink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EventSink").field("hook", &self.hook.is_some()).finish()
    }
}

/// The hook's thread and its queue: a slow hook holds up nobody.
struct Hook {
    queue: Mutex<Option<SyncSender<Event>>>,
    thread: Mutex<Option<JoinHandle<()>>>,
    /// Events that found the queue full since the last one that did not.
    missed: AtomicU64,
}

impl EventSink {
    /// A sink with a hook. Without a thread for it the hook is never called, which the log says.
    pub fn with_hook(hook: Arc<LogHook>) -> Self {
        let (sender, receiver) = sync_channel(HOOK_QUEUE);
        let thread = std::thread::Builder::new().name("log hook".to_owned()).spawn(move || call_hook(&*hook, &receiver));
        match thread {
            Ok(thread) => Self {
                hook: Some(Arc::new(Hook {
                    queue: Mutex::new(Some(sender)),
                    thread: Mutex::new(Some(thread)),
                    missed: AtomicU64::new(0),
                })),
            },
            Err(error) => {
                log(&hook_error(&format!("no thread for the hook: {error}")));
                Self::default()
            }
        }
    }

    /// Logs an event and hands it to the hook. Never waits for the hook.
    pub fn emit(&self, event: Event) {
        log(&event);
        let Some(hook) = &self.hook else { return };
        let queue = hook.queue.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(sender) = queue.as_ref() else { return };
        match sender.try_send(event) {
            Ok(()) => {
                let missed = hook.missed.swap(0, Ordering::Relaxed);
                if missed > 0 {
                    log(&hook_error("the hook was too slow").field("missed", missed));
                }
            }
            Err(TrySendError::Full(_)) => {
                hook.missed.fetch_add(1, Ordering::Relaxed);
            }
            Err(TrySendError::Disconnected(_)) => {}
        }
    }

    /// Whether anybody wants to see single rows.
    pub(crate) fn wants_changes(&self) -> bool {
        self.hook.is_some() || tracing::enabled!(target: TARGET, Level::DEBUG)
    }

    /// Logs a row that a peer's change wrote.
    pub(crate) fn change(&self, operation: RowOperation, change: &ChangeEvent) {
        if !self.wants_changes() {
            return;
        }
        self.emit(
            Event::new(crate::change_event::event_name(operation))
                .field("database", change.database.as_str())
                .field("table", change.table.as_str())
                .field("key", change.key.to_string())
                .field("node", change.node.as_str())
                .field("id", change.id.as_str()),
        );
    }

    /// Waits until the hook has seen what is queued, for two seconds at most. Nothing reaches it afterwards.
    pub async fn close(&self) {
        let Some(hook) = &self.hook else { return };
        drop(hook.queue.lock().unwrap_or_else(PoisonError::into_inner).take());
        let thread = hook.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = thread {
            let joined = tokio::task::spawn_blocking(move || thread.join());
            if tokio::time::timeout(HOOK_GRACE, joined).await.is_err() {
                log(&hook_error("the hook did not finish in time"));
            }
        }
    }
}

fn call_hook(hook: &LogHook, queue: &Receiver<Event>) {
    while let Ok(event) = queue.recv() {
        if catch_unwind(AssertUnwindSafe(|| hook(&event))).is_err() {
            log(&hook_error("the hook panicked").field("during", event.name.as_str()));
        }
    }
}

fn hook_error(reason: &str) -> Event {
    Event::new(EventName::LogHookError).field("reason", reason)
}

/// One line of the log. The fields travel as one JSON text, from which the log's format makes its own.
fn log(event: &Event) {
    macro_rules! line {
        ($level:expr) => {
            tracing::event!(
                target: TARGET,
                $level,
                event = event.name.as_str(),
                fields = %serde_json::to_string(event).unwrap_or_default()
            )
        };
    }
    match event.name.level() {
        Level::ERROR => line!(Level::ERROR),
        Level::WARN => line!(Level::WARN),
        Level::INFO => line!(Level::INFO),
        _ => line!(Level::DEBUG),
    }
}

#[cfg(test)]
mod tests {
    use super::{Event, EventName, EventSink};
    use std::sync::{Arc, Mutex};

    #[test]
    fn a_line_reads_back() {
        let event = Event::new(EventName::PeerLost).field("node", "oslo").field("reason", "a \"word\"\nor two").field("n", 3_u64);
        assert_eq!(event.to_string(), r#"peer_lost node=oslo reason="a \"word\"\nor two" n=3"#);
    }

    #[tokio::test]
    async fn a_hook_that_panics_is_called_again() {
        let seen = Arc::new(Mutex::new(Vec::new()));
        let noted = Arc::clone(&seen);
        let sink = EventSink::with_hook(Arc::new(move |event: &Event| {
            noted.lock().unwrap().push(event.name);
            assert!(event.name != EventName::SyncStart, "on purpose");
        }));
        sink.emit(Event::new(EventName::SyncStart));
        sink.emit(Event::new(EventName::SyncComplete));
        sink.close().await;
        let seen = seen.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        assert_eq!(*seen, [EventName::SyncStart, EventName::SyncComplete]);
    }
}
