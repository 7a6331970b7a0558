//! Marks in the file that work on a table is due, until it is done.

use std::collections::HashSet;

use rusqlite::Connection;

use crate::error::StoreError;
use crate::schema::Table;

/// Notes that the rows of a rebuilt table have been compared with its clock entries.
///
/// # Errors
/// SQLite's own; the table is then named again at the next attach.
pub fn settle_rebuilt(conn: &Connection, number: i64) -> Result<(), StoreError> {
    conn.execute("DELETE FROM main._sync_meta WHERE key = ?1", [rebuilt_key(number)])?;
    Ok(())
}

/// Notes that the rows of a rebuilt table have become changes.
///
/// # Errors
/// SQLite's own; the table is then named again at the next attach.
pub fn settle_rewritten(conn: &Connection, number: i64) -> Result<(), StoreError> {
    let keys = [rewritten_key(number), misnamed_key(number)];
    conn.execute("DELETE FROM main._sync_meta WHERE key IN (?1, ?2)", keys)?;
    Ok(())
}

/// Notes that what was written in a new column before the triggers knew it has become changes.
///
/// # Errors
/// SQLite's own; the column is then named again at the next attach.
pub fn settle_unwatched(conn: &Connection, number: i64, column: u16) -> Result<(), StoreError> {
    let keys = [unwatched_key, misnamed_column_key, renamed_column_key].map(|key| key(number, column));
    conn.execute("DELETE FROM main._sync_meta WHERE key IN (?1, ?2, ?3)", keys)?;
    Ok(())
}

/// Notes that the deletions in a renamed table have been said anew.
///
/// # Errors
/// SQLite's own; the table is then named again at the next attach.
pub fn settle_renamed(conn: &Connection, number: i64) -> Result<(), StoreError> {
    conn.execute("DELETE FROM main._sync_meta WHERE key = ?1", [renamed_key(number)])?;
    Ok(())
}

/// Notes that what the counters of a table hold is known.
///
/// # Errors
/// SQLite's own; the table is then named again at the next attach.
pub fn settle_counted(conn: &Connection, number: i64) -> Result<(), StoreError> {
    conn.execute("DELETE FROM main._sync_meta WHERE key = ?1", [counted_key(number)])?;
    Ok(())
}

/// Whether rows of a rebuilt table may hold what nobody saw being written.
pub(crate) fn is_rewritten(conn: &Connection, number: i64) -> Result<bool, StoreError> {
    let mut statement = conn.prepare_cached("SELECT EXISTS (SELECT 1 FROM main._sync_meta WHERE key = ?1)")?;
    Ok(statement.query_row([rewritten_key(number)], |row| row.get(0))?)
}

/// Notes that what an excluded column held, which is included now, has become changes.
///
/// # Errors
/// SQLite's own; the column is then named again at the next attach.
pub fn settle_included(conn: &Connection, number: i64, column: u16) -> Result<(), StoreError> {
    conn.execute("DELETE FROM main._sync_meta WHERE key = ?1", [included_key(number, column)])?;
    Ok(())
}

pub(super) fn rebuilt_key(number: i64) -> String {
    format!("rebuilt_{number}")
}

pub(super) fn rewritten_key(number: i64) -> String {
    format!("rewritten_{number}")
}

pub(super) fn misnamed_key(number: i64) -> String {
    format!("misnamed_{number}")
}

pub(super) fn misnamed_column_key(number: i64, column: u16) -> String {
    format!("misnamed_{number}_{column}")
}

pub(super) fn counted_key(number: i64) -> String {
    format!("counted_{number}")
}

/// What this database knew when a column came to be synced.
pub(crate) fn born_key(number: i64, column: u16) -> String {
    format!("born_{number}_{column}")
}

pub(super) fn unwatched_key(number: i64, column: u16) -> String {
    format!("unwatched_{number}_{column}")
}

pub(super) fn renamed_key(number: i64) -> String {
    format!("renamed_{number}")
}

pub(super) fn renamed_column_key(number: i64, column: u16) -> String {
    format!("renamed_{number}_{column}")
}

pub(super) fn included_key(number: i64, column: u16) -> String {
    format!("included_{number}_{column}")
}

/// A mark in the file that work on a table is due.
pub(super) fn mark(conn: &Connection, key: String) -> Result<(), StoreError> {
    conn.execute("INSERT OR REPLACE INTO main._sync_meta (key, value) VALUES (?1, 1)", [key])?;
    Ok(())
}

/// The marks that a file holds.
pub(super) struct Marks {
    pub(super) rebuilt: Vec<i64>,
    pub(super) rewritten: Vec<i64>,
    pub(super) unwatched: Vec<(i64, u16)>,
    pub(super) included: Vec<(i64, u16)>,
    pub(super) renamed: Vec<i64>,
    pub(super) renamed_columns: Vec<(i64, u16)>,
    pub(super) counted: Vec<i64>,
    pub(super) misnamed: Misnamed,
}

/// What has been given another name on the wire than peers were told, by numbers, and is not said anew yet. What peers wrote
/// under that name had not taken into account what is here, whatever they knew: to them it was something else.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Misnamed {
    /// Tables. One with a key column among the columns is one of them.
    pub tables: Vec<i64>,
    /// Columns, as table and column.
    pub columns: Vec<(i64, u16)>,
}

pub(super) fn read_marks(conn: &Connection, tables: &[Table]) -> Result<Marks, StoreError> {
    let mut statement = conn.prepare("SELECT key FROM main._sync_meta")?;
    let marks = statement.query_map([], |row| row.get(0))?.collect::<Result<HashSet<String>, _>>()?;
    let marked = |key: fn(i64) -> String| {
        let numbers = tables.iter().map(|table| table.number);
        numbers.filter(|number| marks.contains(&key(*number))).collect()
    };
    let marked_columns = |key: fn(i64, u16) -> String| -> Vec<(i64, u16)> {
        let columns = tables.iter().flat_map(|table| table.columns.iter().map(|column| (table.number, column.number)));
        columns.filter(|(table, column)| marks.contains(&key(*table, *column))).collect()
    };
    let (unwatched, included) = (marked_columns(unwatched_key), marked_columns(included_key));
    let are = |key: fn(i64, u16) -> String| -> Vec<(i64, u16)> {
        unwatched.iter().copied().filter(|(table, column)| marks.contains(&key(*table, *column))).collect()
    };
    let renamed_columns = are(renamed_column_key);
    let mut misnamed = Misnamed { tables: marked(misnamed_key), columns: are(misnamed_column_key) };
    let (mut rewritten, mut renamed): (Vec<i64>, Vec<i64>) = (marked(rewritten_key), marked(renamed_key));
    // Under another key's name no row is known to peers.
    let by_key = |tables: &mut Vec<i64>, table: &Table, columns: &[(i64, u16)]| {
        let named = table.key_columns().any(|column| columns.contains(&(table.number, column.number)));
        if named && !tables.contains(&table.number) {
            tables.push(table.number);
        }
    };
    for table in tables {
        by_key(&mut rewritten, table, &unwatched);
        by_key(&mut renamed, table, &unwatched);
        by_key(&mut misnamed.tables, table, &misnamed.columns);
    }
    let (rebuilt, counted) = (marked(rebuilt_key), marked(counted_key));
    Ok(Marks { rebuilt, rewritten, unwatched, renamed, renamed_columns, counted, misnamed, included })
}
