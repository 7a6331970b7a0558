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
    conn.execute("DELETE FROM main._sync_meta WHERE key = ?1", [rewritten_key(number)])?;
    Ok(())
}

/// Notes that what was written in a new column before the triggers knew it has become changes.
///
/// # Errors
/// SQLite's own; the column is then named again at the next attach.
pub fn settle_unwatched(conn: &Connection, number: i64, column: u16) -> Result<(), StoreError> {
    conn.execute("DELETE FROM main._sync_meta WHERE key = ?1", [unwatched_key(number, column)])?;
    Ok(())
}

pub(super) fn rebuilt_key(number: i64) -> String {
    format!("rebuilt_{number}")
}

pub(super) fn rewritten_key(number: i64) -> String {
    format!("rewritten_{number}")
}

pub(super) fn unwatched_key(number: i64, column: u16) -> String {
    format!("unwatched_{number}_{column}")
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
}

pub(super) fn read_marks(conn: &Connection, tables: &[Table]) -> Result<Marks, StoreError> {
    let mut statement = conn.prepare("SELECT key FROM main._sync_meta")?;
    let marks = statement.query_map([], |row| row.get(0))?.collect::<Result<HashSet<String>, _>>()?;
    let marked = |key: fn(i64) -> String| {
        let numbers = tables.iter().map(|table| table.number);
        numbers.filter(|number| marks.contains(&key(*number))).collect()
    };
    let columns = tables.iter().flat_map(|table| table.columns.iter().map(|column| (table.number, column.number)));
    let unwatched = columns.filter(|(table, column)| marks.contains(&unwatched_key(*table, *column)));
    let unwatched: Vec<(i64, u16)> = unwatched.collect();
    let mut rewritten: Vec<i64> = marked(rewritten_key);
    // Under another key's name no row is known to peers.
    let renamed = tables
        .iter()
        .filter(|table| table.key_columns().any(|column| unwatched.contains(&(table.number, column.number))));
    let renamed: Vec<i64> = renamed.map(|table| table.number).filter(|number| !rewritten.contains(number)).collect();
    rewritten.extend(renamed);
    Ok(Marks { rebuilt: marked(rebuilt_key), rewritten, unwatched })
}
