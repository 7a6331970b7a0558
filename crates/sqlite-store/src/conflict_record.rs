//! Conflict records: both images of a conflict, kept in `_sync_conflict` in the transaction that decided it.

use replication::{ConflictKind, Decided, Decision, RowImage, Value};
use rusqlite::{Connection, params};
use serde_json::Value as Json;

use crate::conflicts::{ConflictSide, ConflictSides, OPEN};
use crate::error::StoreError;
use crate::json::key_json;
use crate::replica::Replica;

/// A decided conflict, for the log.
#[derive(Debug, Clone, PartialEq)]
pub struct ConflictNote {
    /// The record's number in the file.
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
    let (winner, loser) = if remote_won(local, remote, decided) { (remote, local) } else { (local, remote) };
    let columns = decided.columns.iter().filter_map(|index| entry.shape.columns.get(usize::from(*index)));
    let side = |image: Option<&RowImage>| image.map(|image| ConflictSide::of(replica, &entry.shape, image));
    let sides = ConflictSides {
        winner: side(winner),
        loser: side(loser),
        columns: columns.cloned().collect(),
        ..ConflictSides::default()
    };
    let text = serde_json::to_string(&sides).map_err(|error| StoreError::Encoding { reason: error.to_string() })?;
    let note = ConflictNote {
        id: 0,
        kind: decided.kind,
        table: entry.shape.name.clone(),
        key: key_json(&entry.shape, key),
        policy: decided.policy.clone(),
        decision: decided.decision,
    };
    // What was removed may have had the highest number; people and scripts may still hold it.
    conn.prepare_cached(
        "INSERT INTO main._sync_conflict (id, tbl, key, kind, policy, outcome, at, record, state) VALUES (1 + max( \
         coalesce((SELECT max(id) FROM main._sync_conflict), 0), \
         coalesce((SELECT value FROM main._sync_meta WHERE key = 'conflict'), 0)), ?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
    )?
    .execute(params![
        note.table,
        note.key.to_string(),
        note.kind.as_str(),
        note.policy,
        note.decision.as_str(),
        now,
        text,
        OPEN
    ])?;
    Ok(ConflictNote { id: conn.last_insert_rowid(), ..note })
}

/// Takes a record back, in the transaction that wrote it: the row was not written after all.
pub(crate) fn forget_conflict(conn: &Connection, note: &ConflictNote) -> Result<(), StoreError> {
    conn.prepare_cached("DELETE FROM main._sync_conflict WHERE id = ?1")?.execute([note.id])?;
    Ok(())
}

/// Which side the record calls the winner. Of a merge something of both stands: there it is the side of the newest write
/// among the columns in conflict, on whichever node the record is made.
fn remote_won(local: Option<&RowImage>, remote: Option<&RowImage>, decided: &Decided) -> bool {
    match decided.decision {
        Decision::RemoteApplied => true,
        Decision::LocalKept => false,
        Decision::Merged => {
            let newest = |image: &RowImage| {
                let entries = decided.columns.iter().map(|column| image.clock.effective(*column));
                entries.chain(decided.columns.is_empty().then(|| image.clock.newest())).map(|entry| entry.order()).max()
            };
            remote.and_then(newest) > local.and_then(newest)
        }
    }
}
