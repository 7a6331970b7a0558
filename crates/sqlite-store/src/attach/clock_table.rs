//! The clock table of a synced table: its key columns compare as the table's own key does, and take the same values.

use std::collections::BTreeSet;

use rusqlite::{Connection, OptionalExtension};

use crate::dot_index::DotIndex;
use crate::error::StoreError;
use crate::identifier::quote;
use crate::meta;
use crate::schema::{Collation, Table};

/// Makes the clock table, or makes it anew where the table has got another key. True if it is new, hence empty.
pub(super) fn ensure(conn: &Connection, table: &Table) -> Result<bool, StoreError> {
    let definition = definition(table, ", more BLOB");
    let stored: Option<String> = conn
        .query_row(
            "SELECT sql FROM main.sqlite_schema WHERE type = 'table' AND name = ?1 COLLATE NOCASE",
            [&table.clock],
            |row| row.get(0),
        )
        .optional()?;
    let name = quote(&table.clock);
    // A renamed table keeps its text but for the name.
    let fresh = match &stored {
        Some(stored) if stored.ends_with(&definition) => false,
        Some(stored) if stored.ends_with(&self::definition(table, "")) => {
            widen(conn, &name, &definition)?;
            false
        }
        _ => {
            conn.execute_batch(&format!("DROP TABLE IF EXISTS main.{name}; CREATE TABLE main.{name} {definition}"))?;
            true
        }
    };
    take_over_dots(conn, table, fresh)?;
    Ok(fresh)
}

/// Where the file remembers of which tables, by their numbers, the index of dots does not tell yet: those that were there before it was.
const UNTOLD: &str = "untold";

/// Takes note of that: clock tables have an index of SQLite's instead.
pub(super) fn note_untold(conn: &Connection) -> Result<(), StoreError> {
    let mut statement = conn.prepare("SELECT id FROM main._sync_table")?;
    let numbers = statement.query_map([], |row| row.get(0))?.collect::<rusqlite::Result<BTreeSet<i64>>>()?;
    meta::write(conn, UNTOLD, &numbers)
}

/// Has the index of dots tell of a table that was there before it was, whenever that is synced again.
fn take_over_dots(conn: &Connection, table: &Table, fresh: bool) -> Result<(), StoreError> {
    let mut untold: BTreeSet<i64> = meta::read(conn, UNTOLD)?.unwrap_or_default();
    if !untold.remove(&table.number) {
        return Ok(());
    }
    if !fresh {
        DotIndex::take_over(conn, table)?;
    }
    conn.execute_batch(&format!("DROP INDEX IF EXISTS main.\"_sync_dot_{}\"", table.number))?;
    meta::write(conn, UNTOLD, &untold)
}

/// Gives a table of the first form the column that came with the second.
fn widen(conn: &Connection, name: &str, definition: &str) -> Result<(), StoreError> {
    conn.execute_batch(&format!(
        "CREATE TABLE main._sync_wider {definition};
         INSERT INTO main._sync_wider SELECT *, NULL FROM main.{name};
         DROP TABLE main.{name};
         ALTER TABLE main._sync_wider RENAME TO {name}"
    ))?;
    Ok(())
}

/// What follows the name. A typed key column would convert what a typeless one (or ANY in a STRICT table) holds, so
/// the type follows the affinity, not the declaration. `more` holds what few entries have.
fn definition(table: &Table, more: &str) -> String {
    let key = table.key_columns().enumerate().map(|(place, column)| {
        let collate = match column.collation {
            Collation::Binary => String::new(),
            other => format!(" COLLATE {}", other.name()),
        };
        let declared = column.affinity.declaration();
        let space = if declared.is_empty() { "" } else { " " };
        format!("k{place}{space}{declared}{collate} NOT NULL, ")
    });
    let names: String = (0..table.key.len()).map(|place| format!("k{place}, ")).collect();
    format!(
        "({}col INTEGER NOT NULL, ts INTEGER NOT NULL, origin INTEGER NOT NULL, seq INTEGER NOT NULL, \
         flags INTEGER NOT NULL{more}, PRIMARY KEY ({names}col)) WITHOUT ROWID",
        key.collect::<String>()
    )
}
