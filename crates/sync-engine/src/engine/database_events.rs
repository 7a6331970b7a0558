//! From what databases tell to lines in the log.

use std::sync::Arc;
use std::time::Duration;

use replication::Decision;
use sqlite_store::foreign_keys::{NewOrphans, Orphan};
use sqlite_store::warning::{Warning, WarningKind};
use sqlite_store::{ConflictNote, DatabaseEvent, StoreError};
use tokio::sync::mpsc;

use crate::conflicts::record_id;
use crate::engine::session_events;
use crate::engine::shared::{Shared, wall_millis};
use crate::event::{Event, EventName, EventSink};

/// The pause before what could not be noted is tried again.
const NOTE_AGAIN: Duration = Duration::from_secs(1);

/// Reports what databases tell until they or the engine end.
pub(crate) async fn report(shared: Arc<Shared>, mut heard: mpsc::Receiver<(Arc<str>, DatabaseEvent)>) {
    loop {
        tokio::select! {
            told = heard.recv() => match told {
                Some((database, event)) => take(&shared, &database, event).await,
                None => return,
            },
            () = shared.stop.cancelled() => break,
        }
    }
    // Databases must never wait for this queue once nobody reads it.
    heard.close();
    while let Some((database, event)) = heard.recv().await {
        take(&shared, &database, event).await;
    }
}

/// Notes that rows were merged which who follows changes was not shown, until it is noted.
async fn note_merged(shared: Arc<Shared>, database: String, mut error: StoreError) {
    loop {
        if shared.told.is_news(&format!("changes {error}")) {
            session_events::store_failed(&shared.events, &error);
        }
        tokio::select! {
            () = tokio::time::sleep(NOTE_AGAIN) => {}
            () = shared.stop.cancelled() => return,
        }
        match shared.changes.merged_late(&database, wall_millis()).await {
            Ok(_) => return,
            Err(again) => error = again,
        }
    }
}

async fn take(shared: &Arc<Shared>, database: &str, event: DatabaseEvent) {
    if let DatabaseEvent::Unparked { .. } = event
        && let Err(error) = shared.changes.merged_late(database, wall_millis()).await
    {
        // Not here: databases wait for this queue.
        shared.tracker.spawn(note_merged(Arc::clone(shared), database.to_owned(), error));
    }
    tell(&shared.events, database, event);
}

fn tell(events: &EventSink, database: &str, event: DatabaseEvent) {
    let about = |name| Event::new(name).field("database", database);
    let line = match event {
        DatabaseEvent::Attached { created, synced, unsynced } => {
            events.emit(about(EventName::SyncStart).field("tables", synced).field("created", created));
            for table in unsynced.into_iter().filter(|table| !table.intended) {
                let line = about(EventName::SyncError).field("kind", "unsynced_table").field("table", table.table);
                events.emit(line.field("reason", table.reason).field("remedy", table.remedy));
            }
            return;
        }
        DatabaseEvent::Warned(warning) => warned(database, warning),
        DatabaseEvent::ParentsMissing(news) => return parents_missing(events, database, &news),
        DatabaseEvent::ParentsComplete => about(EventName::SyncComplete)
            .field("kind", "foreign_key_missing")
            .field("reason", "no row lacks its parent any more"),
        DatabaseEvent::ClockBehind { millis } => about(EventName::SyncError)
            .field("kind", "clock_skew")
            .field(
                "reason",
                format!(
                    "changes here are stamped {} s ahead of this machine's clock: it is behind, or was ahead",
                    millis / 1000
                ),
            )
            .field("remedy", "set the clock of this machine (NTP); what was stamped too far ahead goes out anew then"),
        DatabaseEvent::NewOrigin { origin, reason } => {
            about(EventName::SyncStart).field("origin", origin.to_string()).field("reason", reason)
        }
        DatabaseEvent::SchemaChanged { rebuilt } => {
            about(EventName::SyncStart).field("reason", "the schema changed").field("rebuilt", rebuilt.join(","))
        }
        DatabaseEvent::Failed { kind, reason, remedy, retry_in } => about(EventName::SyncError)
            .field("kind", kind)
            .field("reason", reason)
            .field("remedy", remedy)
            .field("in", pause(retry_in)),
        DatabaseEvent::Migrating => about(EventName::SyncRetry)
            .field("reason", "a migration runs with the triggers lifted; sync goes on when it is over"),
        DatabaseEvent::Waiting { retry_in } => about(EventName::SyncRetry)
            .field("reason", "another program has held the lock for longer than is usual; nothing is lost")
            .field("in", pause(retry_in)),
        DatabaseEvent::Recovered => about(EventName::SyncStart).field("reason", "the database works again"),
        DatabaseEvent::Missing => {
            about(EventName::SyncRetry).field("reason", "the file does not exist; it is attached as soon as it does")
        }
        DatabaseEvent::Parked(note) => about(EventName::SyncError)
            .field("kind", note.kind.as_str())
            .field("table", note.table)
            .field("reason", format!("{}; rows of peers wait, and everything else goes on", note.reason))
            .field("remedy", note.remedy),
        DatabaseEvent::Unparked { table, rows } => {
            about(EventName::SyncComplete).field("table", table).field("phase", "parked").field("rows", rows)
        }
        DatabaseEvent::Forgotten { table, rows } => about(EventName::SyncComplete)
            .field("kind", "schema_mismatch")
            .field("table", table)
            .field("phase", "parked")
            .field("reason", "what waited for columns or tables that no node has any more is forgotten")
            .field("rows", rows),
        DatabaseEvent::NullKeys { rows } => about(EventName::SyncError)
            .field("kind", "null_key")
            .field("rows", rows)
            .field("reason", "rows whose key holds NULL cannot be named and are not synced")
            .field("remedy", "give them a key, or declare the key NOT NULL"),
        DatabaseEvent::CatchingUp { rows } => {
            about(EventName::SyncStart).field("phase", "catch_up").field("rows", rows)
        }
        DatabaseEvent::Conflict(note) => conflict(database, &note),
        DatabaseEvent::Publishing { table, rows, finished } => {
            let name = if finished { EventName::SyncComplete } else { EventName::SyncStart };
            about(name).field("table", table).field("phase", "baseline").field("rows", rows)
        }
    };
    events.emit(line);
}

fn warned(database: &str, warning: Warning) -> Event {
    let name = match warning.kind {
        // It is not as somebody has asked for.
        WarningKind::KeyRange | WarningKind::TriggerRule | WarningKind::UnknownName => EventName::SyncError,
        WarningKind::KeyClash | WarningKind::UnknownTrigger => EventName::SyncStart,
    };
    let line = Event::new(name).field("database", database).field("kind", warning.kind.as_str());
    let line = match warning.table {
        Some(table) => line.field("table", table),
        None => line,
    };
    line.field("reason", warning.reason).field("remedy", warning.remedy)
}

/// A line for each row where they are few, else one for the table.
fn parents_missing(events: &EventSink, database: &str, news: &NewOrphans) {
    const REMEDY: &str =
        "nothing, if the parent is still to come; else insert the parent, or correct or delete the row, on any node";
    let line = |key: String, reason: String| {
        Event::new(EventName::SyncError)
            .field("kind", "foreign_key_missing")
            .field("database", database)
            .field("table", news.table.as_str())
            .field("key", key)
            .field("reason", reason)
            .field("remedy", REMEDY)
    };
    if news.count <= news.first.len() as u64 {
        for Orphan { key, parent, .. } in &news.first {
            events.emit(line(key.to_string(), format!("its parent {parent} is not here")));
        }
        return;
    }
    let keys: Vec<String> = news.first.iter().map(|orphan| orphan.key.to_string()).collect();
    let parents: Vec<String> = news.first.iter().map(|orphan| orphan.parent.to_string()).collect();
    let reason = format!("{} rows lack a parent, among them {}", news.count, parents.join(" "));
    events.emit(line(keys.join(" "), reason).field("rows", news.count));
}

/// A conflict that was decided.
fn conflict(database: &str, note: &ConflictNote) -> Event {
    let name = match note.decision {
        Decision::LocalKept => EventName::ConflictSkip,
        Decision::RemoteApplied => EventName::ConflictApply,
        Decision::Merged => EventName::ConflictMerge,
    };
    Event::new(name)
        .field("kind", note.kind.as_str())
        .field("database", database)
        .field("table", note.table.as_str())
        .field("key", note.key.to_string())
        .field("policy", note.policy.as_str())
        .field("id", record_id(database, note.id))
}

fn pause(length: std::time::Duration) -> String {
    format!("{:.1}s", length.as_secs_f64())
}
