//! Which records are kept: so many for each database, and for so long. Those that were acted on go first, then the oldest.

use std::time::Duration;

use rusqlite::{Connection, params};

use crate::conflicts::OPEN;
use crate::error::StoreError;

/// Records removed in one transaction at most.
const STEP: i64 = 2_000;

/// How many records a database keeps, and for how long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ConflictRetention {
    /// How many records; at least 1.
    pub records: usize,
    /// How long after the conflict.
    pub age: Duration,
}

impl Default for ConflictRetention {
    /// 10,000 records, 90 days.
    fn default() -> Self {
        Self { records: 10_000, age: Duration::from_secs(90 * 86_400) }
    }
}

impl ConflictRetention {
    /// The last moment, in milliseconds since 1970, of which nothing is kept.
    fn horizon(&self, now: i64) -> i64 {
        now.saturating_sub(i64::try_from(self.age.as_millis()).unwrap_or(i64::MAX))
    }

    /// How many records are more than are to be kept.
    fn excess(&self, conn: &Connection) -> Result<i64, StoreError> {
        let count: i64 =
            conn.prepare_cached("SELECT count(*) FROM main._sync_conflict")?.query_row([], |row| row.get(0))?;
        Ok(count.saturating_sub(i64::try_from(self.records).unwrap_or(i64::MAX)).max(0))
    }

    /// Whether there is a record to remove.
    pub(crate) fn is_due(&self, conn: &Connection, now: i64) -> Result<bool, StoreError> {
        // State by state, because the index that makes this cheap begins with it.
        let old = "SELECT EXISTS (SELECT 1 FROM main._sync_conflict WHERE state = ?2 AND at <= ?1) \
                   OR EXISTS (SELECT 1 FROM main._sync_conflict WHERE state IN ('restored', 'dismissed') AND at <= ?1)";
        let old = conn.prepare_cached(old)?.query_row(params![self.horizon(now), OPEN], |row| row.get(0))?;
        Ok(old || self.excess(conn)? > 0)
    }

    /// Removes some of the records that are not to be kept, inside a write transaction. True once none is left.
    pub(crate) fn step(&self, conn: &Connection, now: i64) -> Result<bool, StoreError> {
        conn.execute(
            "INSERT INTO main._sync_meta (key, value) SELECT 'conflict', max(id) FROM main._sync_conflict WHERE true \
             ON CONFLICT DO UPDATE SET value = max(coalesce(value, 0), coalesce(excluded.value, 0))",
            [],
        )?;
        let mut room = STEP - remove(conn, self.horizon(now), STEP)?;
        let excess = self.excess(conn)?;
        room -= remove(conn, i64::MAX, excess.min(room))?;
        Ok(room > 0)
    }
}

/// Removes up to `limit` records that are not younger than `horizon`: the closed ones first, each kind from the oldest.
fn remove(conn: &Connection, horizon: i64, limit: i64) -> Result<i64, StoreError> {
    let mut removed = 0;
    for states in ["state IN ('restored', 'dismissed')", "state = 'open'"] {
        let sql = format!(
            "DELETE FROM main._sync_conflict WHERE id IN \
             (SELECT id FROM main._sync_conflict WHERE {states} AND at <= ?1 ORDER BY at, id LIMIT ?2)"
        );
        let gone = conn.prepare_cached(&sql)?.execute(params![horizon, limit - removed])?;
        removed += i64::try_from(gone).unwrap_or(i64::MAX);
    }
    Ok(removed)
}
