//! The clock table of a synced table: its key columns compare as the table's own key does, and take the same values.

use rusqlite::{Connection, OptionalExtension};

use crate::dot_index::DotIndex;
use crate::error::StoreError;
use crate::identifier::quote;
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
    let has_index = has_dot_index(conn, table.number)?;
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
    if has_index {
        if !fresh {
            DotIndex::take_over(conn, table)?;
        }
        conn.execute_batch(&format!("DROP INDEX IF EXISTS main.{}", quote(&dot_index_name(table.number))))?;
    }
    Ok(fresh)
}

/// The index that clock tables of the first three forms had.
fn dot_index_name(number: i64) -> String {
    format!("_sync_dot_{number}")
}

fn has_dot_index(conn: &Connection, number: i64) -> Result<bool, StoreError> {
    let sql = "SELECT 1 FROM main.sqlite_schema WHERE type = 'index' AND name = ?1";
    Ok(conn.prepare_cached(sql)?.exists([dot_index_name(number)])?)
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
