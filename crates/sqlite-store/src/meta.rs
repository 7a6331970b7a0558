//! What the file remembers as JSON, by keys in `_sync_meta`.

use rusqlite::{Connection, OptionalExtension};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::error::StoreError;

/// What is remembered under a key, if anything is.
pub(crate) fn read<T: DeserializeOwned>(conn: &Connection, key: &str) -> Result<Option<T>, StoreError> {
    let sql = "SELECT value FROM main._sync_meta WHERE key = ?1";
    let text: Option<String> = conn.prepare_cached(sql)?.query_row([key], |row| row.get(0)).optional()?;
    let damaged = |error| StoreError::Damaged { what: format!("{key} in _sync_meta: {error}") };
    text.map(|text| serde_json::from_str(&text).map_err(damaged)).transpose()
}

/// Remembers something under a key, in place of what was there.
pub(crate) fn write<T: Serialize>(conn: &Connection, key: &str, value: &T) -> Result<(), StoreError> {
    let text = serde_json::to_string(value).map_err(|error| StoreError::Encoding { reason: error.to_string() })?;
    conn.execute("INSERT OR REPLACE INTO main._sync_meta (key, value) VALUES (?1, ?2)", [key, text.as_str()])?;
    Ok(())
}
