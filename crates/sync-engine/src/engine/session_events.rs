//! From what happens in sessions to lines in the log.

use std::time::Duration;

use replication::Decision;
use replication::message::ProblemCode;
use replication::session::SessionEvent;
use sqlite_store::{ConflictNote, StoreError};

use crate::event::{Event, EventName, EventSink};

/// Tells what happened in the session with `node`.
pub(crate) fn tell(events: &EventSink, node: &str, event: SessionEvent) {
    match event {
        SessionEvent::Opened { version, .. } => {
            events.emit(Event::new(EventName::PeerConnected).field("node", node).field("version", version));
        }
        SessionEvent::Databases { .. } => {}
        SessionEvent::CatchUpStarted { database } => {
            events.emit(Event::new(EventName::SyncStart).field("node", node).field("database", database));
        }
        SessionEvent::CatchUpComplete { database, rows, millis } => events.emit(
            Event::new(EventName::SyncComplete)
                .field("node", node)
                .field("database", database)
                .field("rows", rows)
                .field("seconds", format!("{:.3}", Duration::from_millis(millis).as_secs_f64())),
        ),
        SessionEvent::SchemaDiffers { database, tables } => {
            for table in tables {
                events.emit(
                    Event::new(EventName::SyncError)
                        .field("kind", "schema_mismatch")
                        .field("node", node)
                        .field("database", database.as_str())
                        .field("table", table)
                        .field("reason", "the table is missing on one side, or its columns differ")
                        .field("remedy", "run the same migration on every node"),
                );
            }
        }
        SessionEvent::Held { database, problem } => events.emit(
            Event::new(EventName::SyncError)
                .field("kind", kind(problem.code))
                .field("node", node)
                .field("database", database)
                .field("table", problem.table.unwrap_or_default())
                .field("reason", problem.text),
        ),
        SessionEvent::Refused(problem) => events.emit(
            Event::new(EventName::SyncError)
                .field("kind", kind(problem.code))
                .field("node", node)
                .field("reason", problem.text),
        ),
        SessionEvent::PeerProblem(problem) => events.emit(
            Event::new(EventName::SyncError)
                .field("kind", kind(problem.code))
                .field("node", node)
                .field("database", problem.database.unwrap_or_default())
                .field("table", problem.table.unwrap_or_default())
                .field("reason", format!("node {node} says: {}", problem.text)),
        ),
    }
}

fn kind(code: ProblemCode) -> &'static str {
    match code {
        ProblemCode::ProtocolVersion | ProblemCode::Protocol => "protocol",
        ProblemCode::Cluster => "cluster",
        ProblemCode::DuplicateNode => "duplicate_node",
        ProblemCode::SelfConnection => "self_connection",
        ProblemCode::SchemaMismatch => "schema_mismatch",
        ProblemCode::ClockSkew => "clock_skew",
        ProblemCode::Unavailable => "unavailable",
        ProblemCode::TooLarge => "too_large",
        ProblemCode::Other => "other",
    }
}

/// Tells of conflicts that were decided.
pub(crate) fn conflicts(events: &EventSink, database: &str, notes: &[ConflictNote]) {
    for note in notes {
        let name = match note.decision {
            Decision::LocalKept => EventName::ConflictSkip,
            Decision::RemoteApplied => EventName::ConflictApply,
            Decision::Merged => EventName::ConflictMerge,
        };
        events.emit(
            Event::new(name)
                .field("kind", note.kind.as_str())
                .field("database", database)
                .field("table", note.table.as_str())
                .field("key", note.key.to_string())
                .field("policy", note.policy.as_str())
                .field("id", note.id),
        );
    }
}

/// Tells of a batch that the apply callback rolled back.
pub(crate) fn apply_failed(events: &EventSink, database: &str, reason: &str, again: Duration) {
    events.emit(
        Event::new(EventName::SyncRetry)
            .field("database", database)
            .field("reason", reason)
            .field("in", format!("{:.1}s", again.as_secs_f64())),
    );
}

/// Tells of the state folder's trouble.
pub(crate) fn store_failed(events: &EventSink, error: &StoreError) {
    events.emit(
        Event::new(EventName::SyncError)
            .field("kind", error.kind())
            .field("reason", error.to_string())
            .field("remedy", error.remedy()),
    );
}
