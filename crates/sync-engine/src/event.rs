//! Events: the lines of the log that people script against, and the hook that sees them. Owns their names, their levels and their
//! fields' form; must not touch what a line of the log looks like.

mod command_hook;
mod recent;
mod sink;

use std::fmt;
use std::time::SystemTime;

use serde::ser::SerializeMap as _;
use serde::{Serialize, Serializer};
use tracing::Level;

use crate::telemetry::rfc3339;

pub use sink::{EventSink, LogHook};

/// The tracing target that events are logged under.
pub(crate) const TARGET: &str = "sync_engine::event";

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
    /// A person had the losing row of a conflict written back.
    ConflictRestore,
    /// A person closed the record of a conflict.
    ConflictDismiss,
    /// A person had rows issued anew as they are here, because other nodes hold something else.
    Reissue,
    /// A node is not waited for any more.
    PeerForgotten,
    /// A session with a peer begins.
    PeerConnected,
    /// It ends.
    PeerLost,
    /// The configuration was read again: what changed, or that it stays as it was.
    ConfigReload,
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
            Self::ConflictRestore => "conflict_restore",
            Self::ConflictDismiss => "conflict_dismiss",
            Self::Reissue => "reissue",
            Self::PeerForgotten => "peer_forgotten",
            Self::PeerConnected => "peer_connected",
            Self::PeerLost => "peer_lost",
            Self::ConfigReload => "config_reload",
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
            Self::SyncStart
            | Self::SyncComplete
            | Self::ConflictRestore
            | Self::ConflictDismiss
            | Self::Reissue
            | Self::PeerForgotten
            | Self::ConfigReload
            | Self::PeerConnected => Level::INFO,
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

#[cfg(test)]
mod tests {
    use super::{Event, EventName};

    #[test]
    fn a_line_reads_back() {
        let event = Event::new(EventName::PeerLost)
            .field("node", "oslo")
            .field("reason", "a \"word\"\nor two")
            .field("n", 3_u64);
        assert_eq!(event.to_string(), r#"peer_lost node=oslo reason="a \"word\"\nor two" n=3"#);
    }
}
