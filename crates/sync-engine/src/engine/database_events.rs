//! From what databases tell to lines in the log.

use std::sync::Arc;

use sqlite_store::DatabaseEvent;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::event::{Event, EventName, EventSink};

/// Reports what databases tell until they or the engine end.
pub(crate) async fn report(
    events: EventSink,
    mut heard: mpsc::Receiver<(Arc<str>, DatabaseEvent)>,
    stop: CancellationToken,
) {
    loop {
        tokio::select! {
            told = heard.recv() => match told {
                Some((database, event)) => tell(&events, &database, event),
                None => return,
            },
            () = stop.cancelled() => break,
        }
    }
    // Databases must never wait for this queue once nobody reads it.
    heard.close();
    while let Some((database, event)) = heard.recv().await {
        tell(&events, &database, event);
    }
}

fn tell(events: &EventSink, database: &str, event: DatabaseEvent) {
    match event {
        DatabaseEvent::Attached { created, synced, unsynced } => {
            events.emit(
                Event::new(EventName::SyncStart)
                    .field("database", database)
                    .field("tables", synced)
                    .field("created", created),
            );
            for table in unsynced {
                events.emit(
                    Event::new(EventName::SyncError)
                        .field("kind", "unsynced_table")
                        .field("database", database)
                        .field("table", table.table)
                        .field("reason", table.reason)
                        .field("remedy", table.remedy),
                );
            }
        }
        DatabaseEvent::NewOrigin { origin, reason } => events.emit(
            Event::new(EventName::SyncStart)
                .field("database", database)
                .field("origin", origin.to_string())
                .field("reason", reason),
        ),
        DatabaseEvent::SchemaChanged { rebuilt } => events.emit(
            Event::new(EventName::SyncStart)
                .field("database", database)
                .field("reason", "the schema changed")
                .field("rebuilt", rebuilt.join(",")),
        ),
        DatabaseEvent::Failed { kind, reason, remedy, retry_in } => events.emit(
            Event::new(EventName::SyncError)
                .field("kind", kind)
                .field("database", database)
                .field("reason", reason)
                .field("remedy", remedy)
                .field("in", format!("{:.1}s", retry_in.as_secs_f64())),
        ),
        DatabaseEvent::Waiting { retry_in } => events.emit(
            Event::new(EventName::SyncRetry)
                .field("database", database)
                .field("reason", "another program has held the lock for longer than is usual; nothing is lost")
                .field("in", format!("{:.1}s", retry_in.as_secs_f64())),
        ),
        DatabaseEvent::Recovered => events.emit(
            Event::new(EventName::SyncStart).field("database", database).field("reason", "the database works again"),
        ),
        DatabaseEvent::Missing => events.emit(
            Event::new(EventName::SyncRetry)
                .field("database", database)
                .field("reason", "the file does not exist; it is attached as soon as it does"),
        ),
        DatabaseEvent::NullKeys { rows } => events.emit(
            Event::new(EventName::SyncError)
                .field("kind", "null_key")
                .field("database", database)
                .field("rows", rows)
                .field("reason", "rows whose key holds NULL cannot be named and are not synced")
                .field("remedy", "give them a key, or declare the key NOT NULL"),
        ),
        DatabaseEvent::Publishing { table, rows, finished } => {
            let name = if finished { EventName::SyncComplete } else { EventName::SyncStart };
            events.emit(
                Event::new(name)
                    .field("database", database)
                    .field("table", table)
                    .field("phase", "baseline")
                    .field("rows", rows),
            );
        }
    }
}
