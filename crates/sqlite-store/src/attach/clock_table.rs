//! The clock table of a synced table: its key columns compare as the table's own key does, and take the same values.

use rusqlite::{Connection, OptionalExtension};

use crate::error::StoreError;
use crate::identifier::quote;
use crate::schema::{Collation, Table};

/// Makes the clock table, or makes it anew where the table has got another key. True if it is new, hence empty.
pub(super) fn ensure(conn: &Connection, table: &Table) -> Result<bool, StoreError> {
    let definition = definition(table);
    let stored: Option<String> = conn
        .query_row(
            "SELECT sql FROM main.sqlite_schema WHERE type = 'table' AND name = ?1 COLLATE NOCASE",
            [&table.clock],
            |row| row.get(0),
        )
        .optional()?;
    let fresh = match &stored {
        // A renamed table keeps its text but for the name.
        Some(stored) => !stored.ends_with(&definition),
        None => true,
    };
    let name = quote(&table.clock);
    if fresh {
        conn.execute_batch(&format!("DROP TABLE IF EXISTS main.{name}; CREATE TABLE main.{name} {definition}"))?;
    }
    conn.execute_batch(&format!(
        "CREATE INDEX IF NOT EXISTS main.\"_sync_dot_{}\" ON {name} (origin, seq)",
        table.number
    ))?;
    Ok(fresh)
}

/// What follows the name. A typed key column would convert what a typeless one (or ANY in a STRICT table) holds, so
/// the type follows the affinity, not the declaration.
fn definition(table: &Table) -> String {
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
         flags INTEGER NOT NULL, PRIMARY KEY ({names}col)) WITHOUT ROWID",
        key.collect::<String>()
    )
}
