//! From what happens in sessions to lines in the log.

use std::time::Duration;

use replication::message::{ProblemCode, shortened};
use replication::session::SessionEvent;
use sqlite_store::{StoreError, TableNames};

use crate::event::{Event, EventName, EventSink};

/// Bytes of a peer's rule that are told.
const MAX_RULE: usize = 2_000;

/// Tells what happened in the session with `node`. Sessions know tables by their names on the wire; `names` are those that the
/// event's database has for them here.
pub(crate) fn tell(events: &EventSink, node: &str, event: SessionEvent, names: &[TableNames]) {
    match event {
        SessionEvent::Opened { version, .. } => {
            events.emit(Event::new(EventName::PeerConnected).field("node", node).field("version", version));
        }
        SessionEvent::Databases { .. } => {}
        SessionEvent::CatchUpStarted { database } => {
            events.emit(Event::new(EventName::SyncStart).field("node", node).field("database", database));
        }
        SessionEvent::CatchUpProgress { database, rows } => events.emit(
            Event::new(EventName::SyncStart)
                .field("node", node)
                .field("database", database)
                .field("phase", "catch_up")
                .field("rows", rows),
        ),
        SessionEvent::CatchUpComplete { database, rows, millis } => events.emit(
            Event::new(EventName::SyncComplete)
                .field("node", node)
                .field("database", database)
                .field("rows", rows)
                .field("seconds", format!("{:.3}", Duration::from_millis(millis).as_secs_f64())),
        ),
        SessionEvent::Reconciled { database, rows, millis } => events.emit(
            Event::new(EventName::SyncComplete)
                .field("node", node)
                .field("database", database)
                .field("phase", "reconcile")
                .field("rows", rows)
                .field("seconds", format!("{:.3}", Duration::from_millis(millis).as_secs_f64())),
        ),
        SessionEvent::SchemaDiffers { database, tables } => {
            for table in tables {
                let line = Event::new(EventName::SyncError)
                    .field("kind", "schema_mismatch")
                    .field("node", node)
                    .field("database", database.as_str());
                events.emit(
                    of_table(line, table, names)
                        .field("reason", "the table is missing on one side, or its columns differ")
                        .field("remedy", SAME_SCHEMA),
                );
            }
        }
        SessionEvent::PoliciesDiffer { database, table, here, there } => {
            let rule = |rule: Option<String>| rule.unwrap_or_else(|| "column: last-write-wins".to_owned());
            let there = shortened(&rule(there), MAX_RULE);
            let reason = format!("conflicts are decided here by {:?} and there by {there:?}", rule(here));
            let line = Event::new(EventName::SyncError)
                .field("kind", "policy_mismatch")
                .field("node", node)
                .field("database", database);
            events.emit(
                of_table(line, table, names)
                    .field("reason", reason)
                    .field("remedy", "give the table and its columns the same policies on every node"),
            );
        }
        SessionEvent::SchemaAgrees { database, tables } => {
            for table in tables {
                let line = Event::new(EventName::SyncComplete)
                    .field("kind", "schema_mismatch")
                    .field("node", node)
                    .field("database", database.as_str());
                events.emit(of_table(line, table, names).field("reason", "the table is the same on both sides now"));
            }
        }
        SessionEvent::Held { database, problem } => {
            let line = Event::new(EventName::SyncError)
                .field("kind", kind(problem.code))
                .field("node", node)
                .field("database", database);
            let line = of_table(line, problem.table.unwrap_or_default(), names);
            events.emit(line.field("reason", problem.text).field("remedy", remedy(problem.code)));
        }
        SessionEvent::Refused(problem) => events.emit(
            Event::new(EventName::SyncError)
                .field("kind", kind(problem.code))
                .field("node", node)
                .field("reason", problem.text)
                .field("remedy", remedy(problem.code)),
        ),
        SessionEvent::PeerProblem(problem) => {
            let line = Event::new(EventName::SyncError)
                .field("kind", kind(problem.code))
                .field("node", node)
                .field("database", problem.database.unwrap_or_default());
            let line = of_table(line, problem.table.unwrap_or_default(), names);
            events.emit(
                line.field("reason", format!("node {node} says: {}", problem.text))
                    .field("remedy", remedy(problem.code)),
            );
        }
    }
}

/// How many lines an event takes in the log.
pub(crate) fn lines_of(event: &SessionEvent) -> usize {
    match event {
        SessionEvent::Databases { .. } => 0,
        SessionEvent::SchemaDiffers { tables, .. } | SessionEvent::SchemaAgrees { tables, .. } => tables.len(),
        _ => 1,
    }
}

/// Leaves of an event no more than so many lines.
pub(crate) fn shorten(event: &mut SessionEvent, lines: usize) {
    if let SessionEvent::SchemaDiffers { tables, .. } | SessionEvent::SchemaAgrees { tables, .. } = event {
        tables.truncate(lines);
    }
}

/// Tells that there is more to tell of a peer than is told.
pub(crate) fn cut_short(events: &EventSink, node: &str) {
    events.emit(
        Event::new(EventName::SyncError)
            .field("kind", "overload")
            .field("node", node)
            .field(
                "reason",
                "there is more to tell of this node than the log takes; what more there is in this minute is left out",
            )
            .field("remedy", "see to what is told of it first"),
    );
}

/// The database that an event is about, if it may name one of its tables.
pub(crate) fn database_of(event: &SessionEvent) -> Option<&str> {
    match event {
        SessionEvent::SchemaDiffers { database, .. }
        | SessionEvent::SchemaAgrees { database, .. }
        | SessionEvent::PoliciesDiffer { database, .. }
        | SessionEvent::Held { database, .. } => Some(database),
        SessionEvent::PeerProblem(problem) => problem.database.as_deref(),
        SessionEvent::Opened { .. }
        | SessionEvent::Databases { .. }
        | SessionEvent::CatchUpStarted { .. }
        | SessionEvent::CatchUpProgress { .. }
        | SessionEvent::CatchUpComplete { .. }
        | SessionEvent::Reconciled { .. }
        | SessionEvent::Refused(_) => None,
    }
}

/// The line with the table's name here, and that on the wire where it is another.
fn of_table(line: Event, wire_name: String, names: &[TableNames]) -> Event {
    let same = |table: &&TableNames| {
        table.remote_name.as_ref().is_some_and(|remote_name| remote_name.eq_ignore_ascii_case(&wire_name))
    };
    match names.iter().find(same) {
        Some(table) => line.field("table", table.name.as_str()).field("remote_name", wire_name),
        None => line.field("table", wire_name),
    }
}

/// What to do where tables are not the same.
const SAME_SCHEMA: &str =
    "run the same migration on every node, or set remote_name where tables or columns only have other names";

/// Tells that a peer took the place of another process of its name.
pub(crate) fn namesake(events: &EventSink, node: &str) {
    events.emit(
        Event::new(EventName::SyncError)
            .field("kind", "duplicate_node")
            .field("node", node)
            .field("reason", "another process of this name was connected until now: two nodes bear the name, or it was started anew while its old link stood")
            .field("remedy", "give each node a name of its own"),
    );
}

/// What to do about a problem, where the problem itself does not say it all.
fn remedy(code: ProblemCode) -> &'static str {
    match code {
        ProblemCode::ProtocolVersion => "run the same version of sync-engine on both nodes",
        ProblemCode::Cluster => "set the same cluster on both nodes if they belong together, else remove the peer",
        ProblemCode::DuplicateNode => "give each node a name of its own",
        ProblemCode::SelfConnection => "remove the peer from the configuration",
        ProblemCode::Protocol => "check that a sync-engine of the same version is at the other end",
        ProblemCode::SchemaMismatch => SAME_SCHEMA,
        ProblemCode::ClockSkew => "set the clocks of both machines (NTP), or raise max_clock_skew",
        ProblemCode::Unavailable => "make the table's constraints the same on every node",
        ProblemCode::TooLarge => "make the row smaller, or delete it",
        ProblemCode::ReadOnly => "give the node that sends the role write, or stop what writes there",
        ProblemCode::Denied => "give the node the token or the certificate that is its own",
        ProblemCode::Other => "see the log of the node that reports it",
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
        ProblemCode::ReadOnly | ProblemCode::Denied => "auth",
        ProblemCode::Other => "other",
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
