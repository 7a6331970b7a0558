//! What is chosen to be synced. The file remembers it, so that whoever attaches it without saying so leaves it as it is, and
//! that a change is noticed.

use replication::Selection;
use rusqlite::{Connection, OptionalExtension};

use crate::error::StoreError;

/// What the file remembers; everything where it remembers nothing.
pub(crate) fn stored(conn: &Connection) -> Result<Selection, StoreError> {
    let sql = "SELECT value FROM main._sync_meta WHERE key = 'selection'";
    let text: Option<String> = conn.query_row(sql, [], |row| row.get(0)).optional()?;
    let Some(text) = text else { return Ok(Selection::default()) };
    serde_json::from_str(&text)
        .map_err(|error| StoreError::Damaged { what: format!("the selection of tables: {error}") })
}

/// Has the file remember what is chosen.
pub(super) fn store(conn: &Connection, selection: &Selection) -> Result<(), StoreError> {
    let text = serde_json::to_string(selection).map_err(|error| StoreError::Encoding { reason: error.to_string() })?;
    conn.execute("INSERT OR REPLACE INTO main._sync_meta (key, value) VALUES ('selection', ?1)", [text])?;
    Ok(())
}
