//! Changes as others see them: the apply callback, the debug log, and the change stream.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use serde::Serialize;
use serde_json::{Map, Value as Json};
use sqlite_store::json::{key_json, row_json};
use sqlite_store::{IncomingRow, RowObserver, RowOperation, RowVerdict};

use crate::event::{EventName, EventSink};
use crate::query_string;
use crate::telemetry::rfc3339;

/// One change of one row.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ChangeEvent {
    /// The change's dot: `origin:sequence`.
    pub id: String,
    /// The database's shared name.
    pub database: String,
    /// The table.
    pub table: String,
    /// `insert`, `update` or `delete`.
    pub op: &'static str,
    /// The key columns by name.
    pub key: Json,
    /// The row as it is after the change; none for a deletion.
    pub row: Option<Map<String, Json>>,
    /// Names of the columns whose values changed.
    pub changed: Vec<String>,
    /// The node that wrote the change.
    pub node: String,
    /// When, in RFC 3339, UTC.
    pub timestamp: String,
    /// Whether this node wrote it.
    pub local: bool,
}

impl ChangeEvent {
    /// The event of a row that is about to be applied.
    pub(crate) fn incoming(database: &str, row: &IncomingRow<'_>) -> Self {
        let millis = u64::try_from(row.timestamp.millis()).unwrap_or(0);
        Self {
            id: row.dot.to_string(),
            database: database.to_owned(),
            table: row.shape.name.clone(),
            op: row.operation.as_str(),
            key: key_json(row.shape, row.key),
            row: row.new.map(|values| row_json(row.shape, values)),
            changed: row.changed().into_iter().map(|index| row.shape.columns[index].clone()).collect(),
            node: row.node.to_owned(),
            timestamp: rfc3339(SystemTime::UNIX_EPOCH + Duration::from_millis(millis)),
            local: false,
        }
    }
}

/// Which changes of a node's are to be shown over HTTP.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ChangeFilter {
    /// Only of this database.
    pub database: Option<String>,
    /// Only of this table.
    pub table: Option<String>,
    /// After the change of this id; `begin` for everything as it stands. None: what comes from now on.
    pub since: Option<String>,
}

impl ChangeFilter {
    /// The filter as the query of `/v1/changes`.
    pub fn to_query(&self) -> String {
        let given = [("database", &self.database), ("table", &self.table), ("since", &self.since)];
        let given = given.into_iter().filter_map(|(name, value)| Some((name, value.as_deref()?)));
        given.map(|(name, value)| format!("{name}={}", query_string::encode(value))).collect::<Vec<_>>().join("&")
    }
}

/// What an apply callback answers.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum ApplyDecision {
    /// Write the row.
    Apply,
    /// Leave this node's row as it is. It becomes a new change, so that all nodes agree on it.
    Skip,
    /// Write this row instead, as a new change that all nodes receive. Columns that it does not name keep the incoming
    /// value; values are as [`ChangeEvent::row`] has them.
    Replace(Map<String, Json>),
    /// Roll the batch back; it is tried again after a pause.
    Fail(String),
}

/// Sees each incoming change inside the apply transaction. A panic in it counts as [`ApplyDecision::Fail`].
pub type ApplyCallback = dyn Fn(&ChangeEvent) -> ApplyDecision + Send + Sync;

/// Connects an apply callback and the debug log to the store.
pub(crate) struct ChangeObserver {
    database: String,
    callback: Option<Arc<ApplyCallback>>,
    events: EventSink,
    /// What is told once it is committed.
    shown: Mutex<Vec<(RowOperation, ChangeEvent)>>,
}

impl ChangeObserver {
    /// An observer of a database's incoming rows, if anybody wants to see them.
    pub(crate) fn wanted(
        database: &str,
        callback: Option<&Arc<ApplyCallback>>,
        events: &EventSink,
    ) -> Option<Arc<dyn RowObserver>> {
        (callback.is_some() || events.wants_changes()).then(|| -> Arc<dyn RowObserver> {
            Arc::new(Self {
                database: database.to_owned(),
                callback: callback.cloned(),
                events: events.clone(),
                shown: Mutex::default(),
            })
        })
    }

    fn shown(&self) -> MutexGuard<'_, Vec<(RowOperation, ChangeEvent)>> {
        self.shown.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl RowObserver for ChangeObserver {
    fn observe(&self, row: &IncomingRow<'_>) -> RowVerdict {
        let event = ChangeEvent::incoming(&self.database, row);
        let verdict = match &self.callback {
            None => RowVerdict::Apply,
            Some(callback) => match callback(&event) {
                ApplyDecision::Apply => RowVerdict::Apply,
                ApplyDecision::Skip => RowVerdict::Skip,
                ApplyDecision::Fail(reason) => RowVerdict::Fail(reason),
                ApplyDecision::Replace(columns) => replaced(row, &columns),
            },
        };
        match &verdict {
            RowVerdict::Apply => self.shown().push((row.operation, event)),
            // What is written instead is this node's own change.
            RowVerdict::Replace(values) => {
                let written = ChangeEvent::incoming(&self.database, &IncomingRow { new: Some(values), ..*row });
                self.shown().push((row.operation, written));
            }
            RowVerdict::Skip | RowVerdict::Fail(_) => {}
        }
        verdict
    }

    fn ended(&self, committed: bool) {
        let shown = std::mem::take(&mut *self.shown());
        if committed {
            shown.iter().for_each(|(operation, event)| self.events.change(*operation, event));
        }
    }
}

fn replaced(row: &IncomingRow<'_>, columns: &Map<String, Json>) -> RowVerdict {
    let Some(base) = row.new.or(row.old) else {
        return RowVerdict::Fail("the apply callback replaced a row that is not there".to_owned());
    };
    let mut values = base.to_vec();
    for (name, value) in columns {
        let Some(index) = row.shape.columns.iter().position(|column| column == name) else {
            return RowVerdict::Fail(format!(
                "the apply callback named a column {name:?} that {:?} does not have",
                row.shape.name
            ));
        };
        let is_key = row.shape.key.iter().any(|key| usize::from(*key) == index);
        match sqlite_store::json::value_from_json(value) {
            Some(value) if is_key && value != values[index] => {
                return RowVerdict::Fail(format!("the apply callback changed the key column {name:?}"));
            }
            Some(value) => values[index] = value,
            None => {
                return RowVerdict::Fail(format!(
                    "the apply callback gave column {name:?} a value that SQLite has none for"
                ));
            }
        }
    }
    RowVerdict::Replace(values)
}

/// Whether an operation's event belongs in the log.
pub(crate) fn event_name(operation: RowOperation) -> EventName {
    match operation {
        RowOperation::Insert => EventName::Insert,
        RowOperation::Update => EventName::Update,
        RowOperation::Delete => EventName::Delete,
    }
}
