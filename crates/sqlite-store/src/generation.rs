//! The generation of a file: another number after each transaction of a daemon. Whoever remembers it sees whether another daemon has
//! written, and that what is known of the file has to be read anew.

use rusqlite::{Connection, OptionalExtension};

use crate::error::StoreError;

/// The file's generation; 0 before the first.
pub(crate) fn read(conn: &Connection) -> Result<i64, StoreError> {
    let sql = "SELECT value FROM main._sync_meta WHERE key = 'generation'";
    Ok(conn.prepare_cached(sql)?.query_row([], |row| row.get(0)).optional()?.unwrap_or(0))
}

/// Begins a generation, and says which: the one after that which others left behind.
pub(crate) fn begin(conn: &Connection) -> rusqlite::Result<i64> {
    let sql = "INSERT INTO main._sync_meta (key, value) VALUES ('generation', 1) \
               ON CONFLICT DO UPDATE SET value = iif(value < 9223372036854775807, value + 1, 1) RETURNING value";
    conn.prepare_cached(sql)?.query_row([], |row| row.get(0))
}
