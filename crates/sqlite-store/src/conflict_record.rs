//! Conflict records: both images of a conflict, kept in `_sync_conflict` in the transaction that decided it.

use replication::{ConflictKind, Decided, Decision, Entry, RowImage, TableShape, Value};
use rusqlite::{Connection, params};
use serde_json::{Map, Value as Json, json};

use crate::error::StoreError;
use crate::json::{key_json, row_json};
use crate::replica::Replica;

/// A decided conflict, for the log.
#[derive(Debug, Clone, PartialEq)]
pub struct ConflictNote {
    /// The record's id in `_sync_conflict`.
    pub id: i64,
    /// What kind of conflict.
    pub kind: ConflictKind,
    /// The table.
    pub table: String,
    /// The key, as a JSON object.
    pub key: Json,
    /// The policy that decided.
    pub policy: String,
    /// How it ended here.
    pub decision: Decision,
}

/// Writes the record of a decided conflict. `local` is the row as it stood here, `remote` the row that came.
#[allow(clippy::too_many_arguments, reason = "the two sides of a conflict and where it happened")]
pub(crate) fn record_conflict(
    conn: &Connection,
    replica: &Replica,
    table: usize,
    key: &[Value],
    local: Option<&RowImage>,
    remote: Option<&RowImage>,
    decided: &Decided,
    now: i64,
) -> Result<ConflictNote, StoreError> {
    let entry = &replica.tables[table];
    let (winner, loser) = match decided.decision {
        Decision::RemoteApplied => (remote, local),
        Decision::LocalKept | Decision::Merged => (local, remote),
    };
    let columns: Vec<&str> = decided
        .columns
        .iter()
        .filter_map(|index| entry.shape.columns.get(usize::from(*index)))
        .map(String::as_str)
        .collect();
    let record = json!({
        "winner": side(replica, &entry.shape, winner),
        "loser": side(replica, &entry.shape, loser),
        "columns": columns,
    });
    let note = ConflictNote {
        id: 0,
        kind: decided.kind,
        table: entry.shape.name.clone(),
        key: key_json(&entry.shape, key),
        policy: decided.policy.clone(),
        decision: decided.decision,
    };
    conn.prepare_cached(
        "INSERT INTO main._sync_conflict (tbl, key, kind, policy, outcome, at, record, state) \
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, 'open')",
    )?
    .execute(params![
        note.table,
        note.key.to_string(),
        note.kind.as_str(),
        note.policy,
        note.decision.as_str(),
        now,
        record.to_string()
    ])?;
    Ok(ConflictNote { id: conn.last_insert_rowid(), ..note })
}

/// Takes a record back, in the transaction that wrote it: the row was not written after all.
pub(crate) fn forget_conflict(conn: &Connection, note: &ConflictNote) -> Result<(), StoreError> {
    conn.prepare_cached("DELETE FROM main._sync_conflict WHERE id = ?1")?.execute([note.id])?;
    Ok(())
}

fn side(replica: &Replica, shape: &TableShape, image: Option<&RowImage>) -> Json {
    let Some(image) = image else { return Json::Null };
    let newest: &Entry = image.clock.newest();
    let row = if image.clock.is_deleted() { Json::Null } else { Json::Object(row_json(shape, &image.values)) };
    let mut side = Map::new();
    side.insert("node".to_owned(), replica.node_name(newest.dot.origin).into());
    side.insert("dot".to_owned(), newest.dot.to_string().into());
    side.insert("timestamp".to_owned(), newest.timestamp.raw().into());
    side.insert("row".to_owned(), row);
    Json::Object(side)
}
