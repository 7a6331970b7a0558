//! Capture: the change log that triggers wrote becomes stamped clock entries with dots.
//!
//! Runs inside a write transaction of the daemon. The log says which rows were touched and in what order, nothing more;
//! what became of a row is read from the row. Reads all of the log (up to a limit), deletes what it read.
//!
//! Rows of one table that were touched one after the other are looked up and given their entries many to a statement, as far as
//! that is all there is to do; the others go one by one. Where the log is read to its end, what was captured is at hand as a batch:
//! peers that have all before it need not have it read again.

mod canonical;
mod gathered;
mod log;
mod singly;
mod together;

use rusqlite::Connection;

pub(crate) use canonical::{CanonicalKey, canonical_key};
pub(crate) use gathered::{Gathered, Usual};
pub(crate) use singly::give_row_entry;

use crate::error::StoreError;
use crate::fail_point::fail_point;
use crate::replica::Replica;
use crate::table_sql::AT_ONCE;

/// Rows whose states are looked up before any of them is given its entries.
const TOGETHER: usize = 16 * AT_ONCE;

/// What one capture did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Captured {
    /// Rows that got a new dot.
    pub(crate) rows: usize,
    /// Log rows read.
    pub(crate) log_rows: usize,
    /// Rows whose key holds NULL: they cannot be named and are not synced.
    pub(crate) null_keys: usize,
    /// Whether the log is empty now.
    pub(crate) drained: bool,
}

/// Captures up to `limit` rows of the log. What becomes of the rows is gathered, if that is wanted.
pub(crate) fn capture(
    conn: &Connection,
    replica: &mut Replica,
    now: i64,
    limit: usize,
    gathered: Option<&mut Gathered>,
) -> Result<Captured, StoreError> {
    let (touched, mut captured) = log::read(conn, replica, limit)?;
    if captured.log_rows == 0 {
        return Ok(captured);
    }
    fail_point("capture-log-read");
    let before = replica.have.clone();
    captured.null_keys = touched.iter().filter(|row| row.is_nameless()).count();
    let mut capturing = together::Capturing::new(conn, replica, now, gathered);
    touched.chunks(TOGETHER).try_for_each(|rows| capturing.rows(rows))?;
    captured.rows = capturing.rows;
    fail_point("capture-rows-written");
    replica.save(conn, &before)?;
    Ok(captured)
}

/// Whether the log holds rows.
pub(crate) fn has_log(conn: &Connection) -> Result<bool, StoreError> {
    Ok(conn.prepare_cached("SELECT EXISTS (SELECT 1 FROM main._sync_log)")?.query_row([], |row| row.get(0))?)
}

/// How many rows the log holds; more where numbers between them are missing.
pub(crate) fn log_rows(conn: &Connection) -> Result<usize, StoreError> {
    // Each of the two is found at an end of the table.
    let sql = "SELECT (SELECT max(seq) FROM main._sync_log) - (SELECT min(seq) FROM main._sync_log) + 1";
    let rows: Option<i64> = conn.prepare_cached(sql)?.query_row([], |row| row.get(0))?;
    Ok(rows.and_then(|rows| usize::try_from(rows).ok()).unwrap_or(0))
}
