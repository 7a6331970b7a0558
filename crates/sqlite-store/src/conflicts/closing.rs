//! Acting on records, inside a write transaction of the database's thread: a record is closed once, by restoring or by
//! dismissing it.

use rusqlite::{Connection, OptionalExtension, params};

use crate::conflicts::{DISMISSED, OPEN, StoredConflict};
use crate::error::StoreError;

/// What to do about an open record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConflictAction {
    /// Write the losing row back, as a new change that all nodes receive.
    Restore,
    /// Leave everything as it is.
    Dismiss,
}

/// Why a record cannot be acted on. Nothing was changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{reason}; {remedy}")]
pub struct Refusal {
    /// What kind of reason.
    pub kind: RefusalKind,
    /// What stands in the way, and where.
    pub reason: String,
    /// What to do.
    pub remedy: String,
}

/// Kinds of reasons not to act on a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RefusalKind {
    /// There is no such record.
    Unknown,
    /// It was acted on before.
    Closed,
    /// The table as it is now does not take what was lost.
    InTheWay,
}

impl Refusal {
    pub(crate) fn in_the_way(reason: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { kind: RefusalKind::InTheWay, reason: reason.into(), remedy: remedy.into() }
    }
}

/// Why acting on a record ends without a change.
pub(crate) enum Denied {
    Refused(Refusal),
    Store(StoreError),
}

impl From<Refusal> for Denied {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

impl From<StoreError> for Denied {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl From<rusqlite::Error> for Denied {
    fn from(error: rusqlite::Error) -> Self {
        Self::Store(error.into())
    }
}

/// Marks an open record as seen.
pub(crate) fn dismiss(conn: &Connection, number: i64) -> Result<StoredConflict, Denied> {
    let mut record = open_record(conn, number, "dismissed")?;
    close(conn, &mut record, DISMISSED)?;
    Ok(record)
}

/// The record of this number, if it is open.
pub(super) fn open_record(conn: &Connection, number: i64, to_be: &str) -> Result<StoredConflict, Denied> {
    let Some(record) = read(conn, number)? else {
        return Err(Refusal {
            kind: RefusalKind::Unknown,
            reason: "there is no such record".to_owned(),
            remedy: "see the list for those that there are; old ones are removed".to_owned(),
        }
        .into());
    };
    if record.state != OPEN {
        return Err(Refusal {
            kind: RefusalKind::Closed,
            reason: format!("it cannot be {to_be}, because it is {} already", record.state),
            remedy: "a record is acted on once; it still shows both rows, to write by hand what is wanted".to_owned(),
        }
        .into());
    }
    Ok(record)
}

fn read(conn: &Connection, number: i64) -> Result<Option<StoredConflict>, StoreError> {
    let sql = "SELECT tbl, key, kind, policy, outcome, at, record, state FROM main._sync_conflict WHERE id = ?1";
    let found = conn
        .query_row(sql, [number], |row| {
            Ok(StoredConflict {
                number,
                table: row.get(0)?,
                key: serde_json::from_str(&row.get::<_, String>(1)?).unwrap_or_default(),
                kind: row.get(2)?,
                policy: row.get(3)?,
                outcome: row.get(4)?,
                at: row.get(5)?,
                sides: serde_json::from_str(&row.get::<_, String>(6)?).unwrap_or_default(),
                state: row.get(7)?,
            })
        })
        .optional()?;
    Ok(found)
}

/// Writes the record's new state, and what became of its sides.
pub(super) fn close(conn: &Connection, record: &mut StoredConflict, state: &str) -> Result<(), StoreError> {
    state.clone_into(&mut record.state);
    let text =
        serde_json::to_string(&record.sides).map_err(|error| StoreError::Encoding { reason: error.to_string() })?;
    let sql = "UPDATE main._sync_conflict SET state = ?2, record = ?3 WHERE id = ?1";
    conn.execute(sql, params![record.number, record.state, text])?;
    Ok(())
}

/// How many records are open.
pub(crate) fn count_open(conn: &Connection) -> Result<u64, StoreError> {
    let sql = "SELECT count(*) FROM main._sync_conflict WHERE state = ?1";
    Ok(conn.prepare_cached(sql)?.query_row([OPEN], |row| row.get::<_, i64>(0))?.cast_unsigned())
}
