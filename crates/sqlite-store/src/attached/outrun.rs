//! A peer knows changes of this database's origin that the file does not have: file and state folder were brought back together
//! from an older state, as a snapshot of a whole machine does, and nothing on this machine tells. What was written since it was
//! opened bears sequences that peers know for other changes: it goes out under a new origin, as the same changes, and peers
//! give back what was lost.
//!
//! Changes of earlier runs that no peer was given go out again too.
//!
//! What cannot be told apart here: a file that has issued as many sequences again as were lost before it meets a peer, and peers that
//! claim what is not so: nothing proves what they say, and to believe it costs no more than an origin. They are not believed without
//! end.

use replication::{Batch, Dot, Entry, EntryFlags, Origin, Value, VersionVector};
use rusqlite::{Connection, params};

use super::Attachment;
use super::identity::{Memory, succeed};
use crate::apply::{Held, HeldKind};
use crate::attach::born_key;
use crate::bind::values_from;
use crate::database::DatabaseEvent;
use crate::dot_index::{self, DotRow};
use crate::error::StoreError;
use crate::fail_point::fail_point;
use crate::identifier::quote;
use crate::meta;
use crate::parked;
use crate::replica::{Replica, wall_millis};
use crate::row_clock::{ORIGIN_BITS, put_counter, read_image};
use crate::staging;

const REASON: &str = "a peer knows changes of this file that are not in it: it was brought back from an older state";

/// How often an origin is left within [`WINDOW`]: a file may be brought back again, but a peer that always claims more would make
/// origins without end.
const TIMES: usize = 4;

/// The time in which an origin is left at most so often, in milliseconds.
const WINDOW: i64 = 3_600_000;

/// Rows that are issued again at a time.
const ROWS: usize = 10_000;

/// When origins were left, in `_sync_meta`.
const LEFT: &str = "left";

/// What came of what a peer knows of this database's origin.
pub(super) enum Outrun {
    /// It knows no more than there is.
    No,
    /// The origin was left.
    Left,
    /// It was left too often to be left again.
    TooOften(Held),
}

/// Whether an origin was left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Leaving {
    /// There was no reason to.
    Stayed,
    /// The database has a new one.
    Left,
    /// It was left too often to be left again.
    TooOften,
}

/// When origins were left within the time that counts.
fn left_lately(conn: &Connection, now: i64) -> Result<Vec<i64>, StoreError> {
    let left: Vec<i64> = meta::read(conn, LEFT)?.unwrap_or_default();
    // A clock that was ahead once does not count for ever.
    Ok(left.into_iter().filter(|at| at.abs_diff(now) < WINDOW.unsigned_abs()).collect())
}

impl Attachment {
    /// Gives the database a new origin if the sender of a batch knows more of its own than there is.
    pub(super) fn leave_origin(&mut self, batch: &Batch) -> Result<Outrun, StoreError> {
        let is_outrun = |replica: &Replica| {
            let issued = replica.have.get(replica.own);
            batch.context.get(replica.own).max(batch.to.get(replica.own)) > issued
        };
        if !is_outrun(&self.replica) {
            return Ok(Outrun::No);
        }
        let since = self.opened_at;
        let left = self.leave_for(REASON, |conn, replica, origin| {
            // Another daemon on the file may have issued what the peer knows.
            if !is_outrun(replica) {
                return Ok(false);
            }
            issue_again(conn, replica, origin, since)?;
            fail_point("outrun-before-commit");
            Ok(true)
        })?;
        Ok(match left {
            Leaving::Stayed => Outrun::No,
            Leaving::Left => Outrun::Left,
            Leaving::TooOften => Outrun::TooOften(self.too_often(batch)),
        })
    }

    /// Gives the database a new origin, in a transaction with `work`, which is handed it and may decide that all stays as it is. Not too
    /// often.
    pub(super) fn leave_for(
        &mut self,
        reason: &str,
        work: impl FnOnce(&Connection, &mut Replica, Origin) -> Result<bool, StoreError>,
    ) -> Result<Leaving, StoreError> {
        let now = wall_millis();
        let mut left = left_lately(&self.conn, now)?;
        if left.len() >= TIMES {
            return Ok(Leaving::TooOften);
        }
        left.push(now);
        let node = self.options.node.clone();
        let origin = self.in_write(|conn, replica| {
            let origin = succeed(conn, &node, replica.own)?;
            if !work(conn, replica, origin)? {
                return Ok((None, false));
            }
            meta::write(conn, LEFT, &left)?;
            Ok((Some(origin), true))
        })?;
        let Some(origin) = origin else { return Ok(Leaving::Stayed) };
        fail_point("origin-left");
        // Until the replica is what the file holds now, nothing of it may be told, and nothing be issued.
        self.broken = true;
        self.reload()?;
        staging::clear_stale(&self.conn, &self.replica)?;
        self.broken = false;
        self.opened_at = 0;
        self.memory.iter_mut().for_each(Memory::begin_origin);
        self.remember()?;
        self.events.push(DatabaseEvent::NewOrigin { origin, reason: reason.to_owned() });
        Ok(Leaving::Left)
    }

    fn too_often(&self, batch: &Batch) -> Held {
        let known = batch.context.get(self.replica.own).max(batch.to.get(self.replica.own));
        let reason = format!(
            "it claims to know change {known} of this file, which has written {}, and the file has gone on under another origin {TIMES} times within the hour for such a claim",
            self.replica.have.get(self.replica.own)
        );
        let remedy =
            "see which peer claims what is not so: what it says is taken again an hour after the first of these claims";
        Held { kind: HeldKind::Claim, table: None, reason, remedy: remedy.to_owned() }
    }
}

/// Makes changes of `origin` of those that this database issued after a sequence of its own.
pub(super) fn issue_again(
    conn: &Connection,
    replica: &mut Replica,
    origin: Origin,
    since: u64,
) -> Result<(), StoreError> {
    let (before, issued) = (replica.own, replica.have.get(replica.own));
    let since = since.min(issued);
    let (old, new) = (replica.origin_id(conn, before)?, replica.origin_id(conn, origin)?);
    issue_dots_again(conn, replica, (old, origin), since)?;
    for index in 0..replica.tables.len() {
        set_counted(conn, replica, index, (before, origin), since)?;
        let clock = quote(&replica.tables[index].table.clock);
        let sql = format!(
            "UPDATE main.{clock} SET origin = ?2, seq = seq - ?3 WHERE origin = ?1 AND seq > ?3 AND {}",
            not_own_tally()
        );
        conn.execute(&sql, params![old, new, since.cast_signed()])?;
        let table = &replica.tables[index].table;
        for column in &table.columns {
            let key = born_key(table.number, column.number);
            let Some(mut known) = meta::read::<VersionVector>(conn, &key)? else { continue };
            known.raise(origin, known.get(before).saturating_sub(since));
            known.lower(before, since);
            meta::write(conn, &key, &known)?;
        }
    }
    parked::forget_sequences(conn, before, since)?;
    let sql = "UPDATE main._sync_origin SET seq = ?2 WHERE id = ?1";
    conn.execute(sql, params![old, since.cast_signed()])?;
    conn.execute(sql, params![new, (issued - since).cast_signed()])?;
    Ok(())
}

/// The rows that bear the dots after a sequence of the origin with the number `old` will bear those of another.
fn issue_dots_again(
    conn: &Connection,
    replica: &mut Replica,
    (old, origin): (i64, Origin),
    since: u64,
) -> Result<(), StoreError> {
    replica.save_dots(conn)?;
    let (mut after, issued) = (since, replica.have.get(replica.own));
    while after < issued {
        let found = dot_index::find(conn, old, (after, issued), ROWS)?;
        after = found.upto;
        for DotRow { sequence, table, key } in found.rows {
            replica.dots.add(Dot { origin, sequence: sequence - since }, table, &key)?;
        }
    }
    replica.save_dots(conn)
}

/// The condition on a line of a clock table that it does not tell what the origin `?1` counted.
fn not_own_tally() -> String {
    format!("(col >= -1 OR (-col & {}) <> ?1 + 1)", (1_i64 << ORIGIN_BITS) - 1)
}

/// Counters in which something was counted since are set to what they hold: how much of a sum came before is not known.
fn set_counted(
    conn: &Connection,
    replica: &mut Replica,
    index: usize,
    (before, origin): (Origin, Origin),
    since: u64,
) -> Result<(), StoreError> {
    let table = &replica.tables[index].table;
    if table.counters().next().is_none() {
        return Ok(());
    }
    let (clock, width) = (quote(&table.clock), table.key.len());
    let list: Vec<String> = (0..width).map(|n| format!("k{n}")).collect();
    let old = replica.origin_id(conn, before)?;
    let sql = format!(
        "SELECT DISTINCT {} FROM main.{clock} WHERE origin = ?1 AND seq > ?2 AND NOT {}",
        list.join(", "),
        not_own_tally()
    );
    let mut statement = conn.prepare(&sql)?;
    let mut rows = statement.query(params![old, since.cast_signed()])?;
    let mut keys: Vec<Vec<Value>> = Vec::new();
    while let Some(row) = rows.next()? {
        keys.push(values_from(row, 0, width)?);
    }
    drop(rows);
    for key in keys {
        let Some(image) = read_image(conn, replica, &replica.tables[index], &key)? else { continue };
        for (column, counter) in &image.clock.counters {
            let place = usize::from(*column);
            let Some(own) = counter.tallies.iter().find(|tally| tally.origin() == before) else { continue };
            let (timestamp, sequence) = (own.entry.timestamp, own.entry.dot.sequence);
            if sequence <= since {
                continue;
            }
            let mut counter = counter.clone();
            if !image.clock.is_deleted() {
                let dot = Dot { origin, sequence: sequence - since };
                counter.set_to(Entry::new(timestamp, dot, EntryFlags::empty()), image.values[place].clone());
            }
            let tallies = counter.tallies.iter_mut().filter(|tally| tally.origin() == before);
            tallies.for_each(|tally| {
                tally.entry.dot.sequence = since.max(1);
                tally.absorbed_at = tally.absorbed_at.min(since.max(1));
            });
            let number = replica.tables[index].table.columns[place].number;
            put_counter(conn, replica, index, &key, number, &counter)?;
        }
    }
    Ok(())
}
