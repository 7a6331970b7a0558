//! The moment of a copy is one at which nothing waits for capture, where there is such a moment.
//!
//! What waits is in the copy as what applications logged. The daemon stamps it afterwards under the database's origin, and a restored file
//! would stamp it again under another: rows would be equal, but conflicts could be recorded that are none, and a counter would count twice.

use std::time::{Duration, Instant};

use rusqlite::{Connection, OptionalExtension as _};

use crate::attach::bookkeeping::is_own_table;
use crate::error::StoreError;

/// How long a moment is looked for at which nothing waits, while somebody captures and programs write.
const PATIENCE: Duration = Duration::from_secs(10);

/// After this time without any sign of it nobody captures.
const IDLE: Duration = Duration::from_millis(2_500);

/// The pause between two looks.
const PAUSE: Duration = Duration::from_millis(2);

/// Begins a read transaction. How many changes wait for capture in what it sees.
pub(super) fn begin(conn: &Connection) -> Result<u64, StoreError> {
    let begun = Instant::now();
    let mut changed = begun;
    let mut oldest = None;
    loop {
        conn.execute_batch("BEGIN")?;
        // Only the first read makes it one.
        let now = oldest_waiting(conn)?;
        if now.is_none() {
            return Ok(0);
        }
        if now != oldest {
            (oldest, changed) = (now, Instant::now());
        }
        if changed.elapsed() >= IDLE || begun.elapsed() >= PATIENCE {
            let count: i64 = conn.query_row("SELECT count(*) FROM main._sync_log", [], |row| row.get(0))?;
            return Ok(count.cast_unsigned());
        }
        conn.execute_batch("ROLLBACK")?;
        std::thread::sleep(PAUSE);
    }
}

/// What tells the change that waits for the longest time from others; numbers are used again.
fn oldest_waiting(conn: &Connection) -> Result<Option<(i64, i64)>, StoreError> {
    if !is_own_table(conn, "_sync_log")? {
        return Ok(None);
    }
    let sql = "SELECT seq, ts FROM main._sync_log ORDER BY seq LIMIT 1";
    Ok(conn.query_row(sql, [], |row| Ok((row.get(0)?, row.get(1)?))).optional()?)
}
