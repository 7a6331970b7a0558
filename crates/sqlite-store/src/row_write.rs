//! Writing single rows: UPDATE, INSERT and DELETE only, never REPLACE, under which external-content full-text indexes
//! keep stale entries.

use replication::{RowClock, RowImage, Value};
use rusqlite::{Connection, ErrorCode, ffi};

use crate::apply::{HeldKind, Stop};
use crate::bind::{Bound, bind_from};
use crate::replica::ReplicaTable;

/// One row that is to change from `old` to `new`. Its clock is written already.
#[derive(Debug, Clone)]
pub(crate) struct RowWrite {
    pub(crate) table: usize,
    pub(crate) key: Vec<Value>,
    pub(crate) old: Option<Vec<Value>>,
    pub(crate) new: Option<Vec<Value>>,
    pub(crate) clock: RowClock,
}

impl RowWrite {
    /// The row as it is to be.
    pub(crate) fn image(&self) -> RowImage {
        RowImage { values: self.new.clone().unwrap_or_else(|| self.key.clone()), clock: self.clock.clone() }
    }
}

/// Writes the row's content. False if a unique index refuses it; nothing is changed then.
pub(crate) fn write_row(conn: &Connection, table: &ReplicaTable, write: &RowWrite) -> Result<bool, Stop> {
    match try_write(conn, table, &write.key, write.old.as_deref(), write.new.as_deref()) {
        Ok(()) => Ok(true),
        Err(error) if is_unique_violation(&error) => Ok(false),
        Err(error) => Err(refused(table, error)),
    }
}

/// Changes the content of the row with a key from `old` to `new`. A statement that fails changes nothing.
pub(crate) fn try_write(
    conn: &Connection,
    table: &ReplicaTable,
    key: &[Value],
    old: Option<&[Value]>,
    new: Option<&[Value]>,
) -> rusqlite::Result<()> {
    match (old, new) {
        (None, Some(new)) => insert(conn, table, new),
        (Some(old), Some(new)) => update(conn, table, key, old, new),
        (Some(_), None) => delete(conn, table, key),
        (None, None) => Ok(()),
    }
}

fn insert(conn: &Connection, table: &ReplicaTable, new: &[Value]) -> rusqlite::Result<()> {
    let mut statement = conn.prepare_cached(&table.sql.insert)?;
    bind_from(&mut statement, 1, new)?;
    statement.raw_execute().map(drop)
}

fn update(
    conn: &Connection,
    table: &ReplicaTable,
    key: &[Value],
    old: &[Value],
    new: &[Value],
) -> rusqlite::Result<()> {
    let changed: Vec<usize> = (0..new.len()).filter(|index| old[*index] != new[*index]).collect();
    if changed.is_empty() {
        return Ok(());
    }
    let mut statement = conn.prepare_cached(&table.sql.update(&changed, key.len()))?;
    bind_from(&mut statement, 1, key)?;
    for (offset, index) in changed.iter().enumerate() {
        statement.raw_bind_parameter(key.len() + 1 + offset, Bound(&new[*index]))?;
    }
    statement.raw_execute().map(drop)
}

pub(crate) fn delete(conn: &Connection, table: &ReplicaTable, key: &[Value]) -> rusqlite::Result<()> {
    let mut statement = conn.prepare_cached(&table.sql.delete)?;
    bind_from(&mut statement, 1, key)?;
    statement.raw_execute().map(drop)
}

pub(crate) fn is_unique_violation(error: &rusqlite::Error) -> bool {
    const UNIQUE: [i32; 3] =
        [ffi::SQLITE_CONSTRAINT_UNIQUE, ffi::SQLITE_CONSTRAINT_PRIMARYKEY, ffi::SQLITE_CONSTRAINT_ROWID];
    matches!(error, rusqlite::Error::SqliteFailure(failure, _) if UNIQUE.contains(&failure.extended_code))
}

/// Whether a constraint of the table refuses the row.
pub(crate) fn is_constraint(error: &rusqlite::Error) -> bool {
    matches!(error.sqlite_error_code(), Some(ErrorCode::ConstraintViolation | ErrorCode::TypeMismatch))
}

pub(crate) fn refused(table: &ReplicaTable, error: rusqlite::Error) -> Stop {
    if !is_constraint(&error) {
        return Stop::Store(error.into());
    }
    Stop::held(
        HeldKind::Constraint,
        Some(&table.wire.name),
        format!("an incoming row of {} violates a constraint here: {error}", table.named()),
        "make the table's constraints the same on every node",
    )
}

/// Inserts a row under a rowid, where it had one that is not a column. False if a unique index refuses it.
pub(crate) fn insert_under(
    conn: &Connection,
    table: &ReplicaTable,
    new: &[Value],
    rowid: Option<i64>,
) -> Result<bool, Stop> {
    let result = match (rowid, &table.sql.insert_with_rowid) {
        (Some(rowid), Some(sql)) => {
            let mut statement = conn.prepare_cached(sql)?;
            statement.raw_bind_parameter(1, rowid)?;
            bind_from(&mut statement, 2, new)?;
            statement.raw_execute().map(drop)
        }
        _ => insert(conn, table, new),
    };
    match result {
        Ok(()) => Ok(true),
        Err(error) if is_unique_violation(&error) => Ok(false),
        Err(error) => Err(refused(table, error)),
    }
}
