//! What is written to a TARGET that is attached is captured as an application's writes are.
//!
//! The connection has triggers off, ours among them. TEMP triggers run all the same, so ours are copied as such; they write `_sync_log`
//! of TARGET, in the same transaction.

use rusqlite::Connection;

use crate::app_triggers::temp_copy;
use crate::attach::is_attached;
use crate::attach::registry::stored_triggers;
use crate::error::StoreError;

/// Copies the capture triggers. False if TARGET is not attached.
pub(super) fn install(conn: &Connection) -> Result<bool, StoreError> {
    if !is_attached(conn)? {
        return Ok(false);
    }
    for (number, trigger) in stored_triggers(conn)?.iter().enumerate() {
        let damaged = || StoreError::Damaged { what: format!("the trigger {:?} cannot be read", trigger.name) };
        let name = format!("_sync_capture_{}", number + 1);
        conn.execute_batch(&temp_copy(&trigger.sql, &name, &trigger.table).ok_or_else(damaged)?)?;
    }
    Ok(true)
}
