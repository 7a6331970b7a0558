//! This machine's clock was far ahead and is right again. What was written meanwhile is stamped in the future: peers refuse it, and all
//! that is written after it, until that time comes. Since nobody has taken it, it goes out anew, as the same changes under another
//! origin, with stamps of the present.
//!
//! A clock that was right and is far behind now looks the same from here. So this is done only where a peer that has refused a
//! stamp shows the same time as this machine, and where nothing but what is stamped anew is later than that: whatever those
//! changes knew of keeps an earlier stamp than they have.

use replication::Timestamp;
use rusqlite::{Connection, OptionalExtension, params};

use super::Attachment;
use super::outrun::issue_again;
use crate::error::StoreError;
use crate::identifier::quote;
use crate::replica::{Replica, latest_stamp, wall_millis};
use crate::row_clock::order_bytes;

const REASON: &str = "this machine's clock was far ahead and is right again: what was written meanwhile goes out with stamps of the present";

impl Attachment {
    /// Stamps anew what peers refuse, if a peer whose clock shows `peer_millis` has refused something.
    pub(crate) fn restamp(&mut self, peer_millis: i64) -> Result<(), StoreError> {
        let (now, skew) = (wall_millis(), self.max_skew());
        let limit = latest_stamp(now, skew).raw();
        let ahead = self.replica.clock.last().raw() > limit;
        if !ahead || now.abs_diff(peer_millis) > skew.unsigned_abs() {
            return Ok(());
        }
        let given = self.known_by_others();
        // Where origins were left too often, it is tried again when the peer refuses something again.
        self.leave_for(REASON, |conn, replica, origin| {
            let Some(since) = first_ahead(conn, replica, limit)?.filter(|since| *since >= given) else {
                return Ok(false);
            };
            if !nothing_else_is_ahead(conn, replica, since, limit)? {
                return Ok(false);
            }
            stamp(conn, replica, (since, limit), now)?;
            issue_again(conn, replica, origin, since)?;
            // What was counted before bears the last sequence that is left, or the first: nobody has another change of that name.
            let old = replica.origin_id(conn, replica.own)?;
            conn.execute("UPDATE main._sync_origin SET seq = max(seq, 1) WHERE id = ?1", [old])?;
            Ok(true)
        })?;
        Ok(())
    }
}

/// The sequence before the first change of this database's origin that is stamped later than `limit`, if there is one.
fn first_ahead(conn: &Connection, replica: &mut Replica, limit: i64) -> Result<Option<u64>, StoreError> {
    let own = replica.origin_id(conn, replica.own)?;
    let mut first: Option<i64> = None;
    for table in &replica.tables {
        let sql = format!("SELECT min(seq) FROM main.{} WHERE origin = ?1 AND ts > ?2", quote(&table.table.clock));
        let found: Option<i64> = conn.query_row(&sql, params![own, limit], |row| row.get(0))?;
        first = first.into_iter().chain(found).min();
    }
    Ok(first.map(|sequence| sequence.cast_unsigned().saturating_sub(1)))
}

/// Whether no change is stamped later than `limit` but those of this database's origin after a sequence, and none stands for one
/// that was.
fn nothing_else_is_ahead(conn: &Connection, replica: &mut Replica, since: u64, limit: i64) -> Result<bool, StoreError> {
    let own = replica.origin_id(conn, replica.own)?;
    for table in &replica.tables {
        let sql = format!(
            "SELECT 1 FROM main.{} WHERE (ts > ?2 AND (origin <> ?1 OR seq <= ?3)) OR (col >= -1 AND more > ?4) LIMIT 1",
            quote(&table.table.clock)
        );
        let found = conn
            .query_row(&sql, params![own, limit, since.cast_signed(), order_bytes(limit)], |_| Ok(()))
            .optional()?;
        if found.is_some() {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Gives the changes after a sequence that are later than `limit` stamps from now on, in their order, and sets the clock after them.
fn stamp(conn: &Connection, replica: &mut Replica, (since, limit): (u64, i64), now: i64) -> Result<(), StoreError> {
    let own = replica.origin_id(conn, replica.own)?;
    let mut latest = Timestamp::from_millis(now).raw();
    for table in &replica.tables {
        let sql = format!("SELECT max(ts) FROM main.{} WHERE ts <= ?1", quote(&table.table.clock));
        let found: Option<i64> = conn.query_row(&sql, [limit], |row| row.get(0))?;
        latest = latest.max(found.unwrap_or_default());
    }
    for table in &replica.tables {
        let sql = format!(
            "UPDATE main.{} SET ts = ?1 + seq - ?2 WHERE origin = ?3 AND seq > ?2 AND ts > ?4",
            quote(&table.table.clock)
        );
        conn.execute(&sql, params![latest, since.cast_signed(), own, limit])?;
    }
    let issued = replica.have.get(replica.own);
    let last = latest.saturating_add_unsigned(issued.saturating_sub(since));
    conn.execute("UPDATE main._sync_meta SET value = ?1 WHERE key = 'clock'", [last])?;
    Ok(())
}
