//! Rows of a catch-up that are not sent, because they are here already under other dots: which dots are to take the place of
//! which, when all else is here. See [`replication::reconcile`].
//!
//! Until then the rows are ordinary ones: they may be written, deleted, merged with those of other peers, or exchanged with these.
//! What was written since comes after both dots. What another peer's baseline row has taken the place of is no longer what was
//! compared: such rows have to be sent after all.

use replication::codec::{decode_values, encode_values};
use replication::reconcile::{Exchange, KeyRange};
use replication::{Dot, DotSet, Origin, Timestamp, Value, VersionVector};
use rusqlite::{Connection, OptionalExtension, Row, params};

use super::{Stage, unusable};
use crate::bind::bind_from;
use crate::dot_index::{self, DotRow};
use crate::error::StoreError;
use crate::fail_point::fail_point;
use crate::replica::Replica;

/// Ranges that are checked in one transaction: some thousands of rows.
const CHECKED: usize = 32;

/// Rows whose dots are exchanged that are looked for at a time.
const FOUND: usize = 8_192;

pub(super) const TABLE: &str = "
    -- Dots that are exchanged when a catch-up is complete: those of the rows of a table in a range of keys.
    CREATE TABLE IF NOT EXISTS _sync_spool._sync_exchange (id INTEGER PRIMARY KEY, source BLOB NOT NULL,
        tbl INTEGER NOT NULL, after BLOB, until BLOB, our_origin BLOB NOT NULL, our_seq INTEGER NOT NULL,
        their_origin BLOB NOT NULL, their_seq INTEGER NOT NULL, count INTEGER NOT NULL);
    CREATE INDEX IF NOT EXISTS _sync_spool._sync_exchange_source ON _sync_exchange (source);
    CREATE INDEX IF NOT EXISTS _sync_spool._sync_exchange_ours ON _sync_exchange (our_origin, our_seq);";

/// One of them.
#[derive(Debug)]
struct Noted {
    id: i64,
    source: Origin,
    table: i64,
    after: Option<Vec<u8>>,
    until: Option<Vec<u8>>,
    exchange: Exchange,
}

const COLUMNS: &str = "id, source, tbl, after, until, our_origin, our_seq, their_origin, their_seq, count";

impl Noted {
    fn read(row: &Row<'_>) -> rusqlite::Result<Self> {
        let dot = |place: usize| -> rusqlite::Result<Dot> {
            let sequence = row.get::<_, i64>(place + 1)?.cast_unsigned();
            Ok(Dot { origin: Origin::from_bytes(row.get(place)?), sequence })
        };
        let exchange = Exchange { ours: dot(5)?, theirs: dot(7)?, count: row.get::<_, i64>(9)?.cast_unsigned() };
        let source = Origin::from_bytes(row.get(1)?);
        Ok(Self { id: row.get(0)?, source, table: row.get(2)?, after: row.get(3)?, until: row.get(4)?, exchange })
    }

    fn write(&self, conn: &Connection) -> Result<(), StoreError> {
        let Exchange { ours, theirs, count } = self.exchange;
        conn.prepare_cached(
            "INSERT INTO _sync_spool._sync_exchange (source, tbl, after, until, our_origin, our_seq, their_origin, \
             their_seq, count) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)",
        )?
        .execute(params![
            self.source.as_bytes(),
            self.table,
            self.after,
            self.until,
            ours.origin.as_bytes(),
            ours.sequence.cast_signed(),
            theirs.origin.as_bytes(),
            theirs.sequence.cast_signed(),
            count.cast_signed(),
        ])?;
        Ok(())
    }

    fn drop(&self, conn: &Connection) -> Result<(), StoreError> {
        conn.prepare_cached("DELETE FROM _sync_spool._sync_exchange WHERE id = ?1")?.execute([self.id])?;
        Ok(())
    }

    /// Whether the rows in the range hold what they held when they were compared, or what comes after both.
    fn stands(&self, conn: &Connection, replica: &Replica) -> Result<bool, StoreError> {
        let Some(table) = replica.table_by_number(self.table).map(|index| &replica.tables[index]) else {
            return Ok(false);
        };
        let width = table.table.key.len();
        let bounds = [&self.after, &self.until].into_iter().flatten();
        let bounds = bounds.map(|key| decode_values(key, width)).collect::<Result<Vec<_>, _>>().map_err(unusable)?;
        let sql = table.sql.entries_in_range(self.after.is_some(), self.until.is_some());
        let mut statement = conn.prepare_cached(&sql)?;
        let bounds: Vec<Value> = bounds.into_iter().flatten().collect();
        bind_from(&mut statement, 1, &bounds)?;
        let mut rows = statement.raw_query();
        while let Some(row) = rows.next()? {
            let Some(id) = row.get::<_, Option<i64>>(0)? else { return Ok(false) };
            let (timestamp, sequence): (i64, i64) = (row.get(1)?, row.get(2)?);
            let dot = Dot { origin: replica.origin(id)?, sequence: sequence.cast_unsigned() };
            let later = timestamp > Timestamp::BASELINE.raw() || dot.origin >= self.exchange.theirs.origin;
            if !later && self.exchange.taken_by(dot).is_none() {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

/// Notes that dots are to be exchanged when the catch-up from `source` is complete. Durable, as a part of that.
pub(crate) fn note(
    conn: &Connection,
    replica: &mut Replica,
    (source, table): (Origin, i64),
    (range, exchange): (&KeyRange, &Exchange),
    began: (VersionVector, VersionVector),
) -> Result<(), StoreError> {
    let key = |key: &Option<Vec<Value>>| key.as_deref().map(encode_values).transpose().map_err(unusable);
    let (after, until) = (key(&range.after)?, key(&range.until)?);
    Noted { id: 0, source, table, after, until, exchange: *exchange }.write(conn)?;
    if !replica.received.contains_key(&source) {
        let position = replica.have.clone();
        Stage::open(conn, source)?.advance(conn, replica, &position, false)?;
    }
    super::note_began(conn, replica, source, || began)?;
    let (origin, first, last) = exchange.their_run();
    replica.received.entry(source).or_default().held.insert(origin, first, last);
    fail_point("exchange-noted");
    Ok(())
}

/// The dots of a source that are not to be sent.
pub(super) fn held(conn: &Connection, source: Origin) -> Result<DotSet, StoreError> {
    let mut held = DotSet::new();
    for noted in of_source(conn, source, 0, usize::MAX)? {
        let (origin, first, last) = noted.exchange.their_run();
        held.insert(origin, first, last);
    }
    Ok(held)
}

fn of_source(conn: &Connection, source: Origin, after: i64, limit: usize) -> Result<Vec<Noted>, StoreError> {
    let sql =
        format!("SELECT {COLUMNS} FROM _sync_spool._sync_exchange WHERE source = ?1 AND id > ?2 ORDER BY id LIMIT ?3");
    let mut statement = conn.prepare_cached(&sql)?;
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    let noted = statement.query_map(params![source.as_bytes(), after, limit], Noted::read)?;
    Ok(noted.collect::<Result<_, _>>()?)
}

/// Where a check stands.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Check {
    /// The last that was looked at.
    after: i64,
    /// How many cannot be exchanged any more, and are forgotten.
    pub(crate) gone: usize,
    pub(crate) finished: bool,
}

/// Forgets what cannot be exchanged any more, a few at a time. If there is any, the rest of the catch-up does not fit what is
/// left, and is to be asked for again.
pub(crate) fn check(conn: &Connection, replica: &Replica, source: Origin, check: Check) -> Result<Check, StoreError> {
    let noted = of_source(conn, source, check.after, CHECKED)?;
    let mut check = Check { finished: noted.len() < CHECKED, ..check };
    for noted in noted {
        check.after = noted.id;
        if !noted.stands(conn, replica)? {
            noted.drop(conn)?;
            check.gone += 1;
        }
    }
    Ok(check)
}

/// What a step of exchanging did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Exchanged {
    /// So many rows have other dots, or were later than both.
    Rows(usize),
    /// Rows are no longer what was compared.
    Gone,
}

/// Exchanges the next dots of a complete catch-up: those of `limit` rows, to within a range.
pub(crate) fn step(
    conn: &Connection,
    replica: &mut Replica,
    source: Origin,
    limit: usize,
) -> Result<Exchanged, StoreError> {
    let mut rows = 0;
    while rows < limit {
        let Some(noted) = of_source(conn, source, 0, 1)?.pop() else { break };
        if !noted.stands(conn, replica)? {
            return Ok(Exchanged::Gone);
        }
        noted.drop(conn)?;
        fail_point("exchange-forgotten");
        exchange(conn, replica, &noted)?;
        follow(conn, &noted.exchange)?;
        fail_point("exchange-done");
        rows += usize::try_from(noted.exchange.count).unwrap_or(usize::MAX);
    }
    Ok(Exchanged::Rows(rows))
}

fn exchange(conn: &Connection, replica: &mut Replica, noted: &Noted) -> Result<(), StoreError> {
    let Some(index) = replica.table_by_number(noted.table) else { return Ok(()) };
    let Exchange { ours, theirs, .. } = noted.exchange;
    let (old, new) = (replica.origin_id(conn, ours.origin)?, replica.origin_id(conn, theirs.origin)?);
    let (_, first, last) = noted.exchange.our_run();
    let mut after = first.saturating_sub(1);
    while after < last {
        let found = dot_index::find(conn, old, (after, last), FOUND)?;
        after = found.upto;
        // The table may have had another key before.
        let width = replica.tables[index].table.key.len();
        let is_of = |row: &DotRow| row.table == noted.table && row.key.len() == width;
        for DotRow { sequence, key, .. } in found.rows.into_iter().filter(is_of) {
            let Some(dot) = noted.exchange.taken_by(Dot { origin: ours.origin, sequence }) else { continue };
            let mut statement = conn.prepare_cached(&replica.tables[index].sql.clock_exchange)?;
            bind_from(&mut statement, 1, &key)?;
            for (place, number) in [old, new, sequence.cast_signed(), dot.sequence.cast_signed()].iter().enumerate() {
                statement.raw_bind_parameter(key.len() + 1 + place, number)?;
            }
            if statement.raw_execute()? > 0 {
                replica.add_dot(index, dot, &key)?;
            }
        }
    }
    replica.save_dots(conn)
}

/// Puts what other sources are to be exchanged with right: the rows have other dots now.
fn follow(conn: &Connection, done: &Exchange) -> Result<(), StoreError> {
    let (origin, first, last) = done.our_run();
    let sql = format!(
        "SELECT {COLUMNS} FROM _sync_spool._sync_exchange \
         WHERE our_origin = ?1 AND our_seq <= ?3 AND our_seq + count > ?2"
    );
    let mut statement = conn.prepare_cached(&sql)?;
    let found =
        statement.query_map(params![origin.as_bytes(), first.cast_signed(), last.cast_signed()], Noted::read)?;
    for noted in found.collect::<Result<Vec<_>, _>>()? {
        noted.drop(conn)?;
        for exchange in noted.exchange.after(done) {
            Noted { exchange, after: noted.after.clone(), until: noted.until.clone(), ..noted }.write(conn)?;
        }
    }
    Ok(())
}

/// Forgets all that is to be exchanged with a source.
pub(super) fn clear(conn: &Connection, source: Origin) -> Result<(), StoreError> {
    conn.prepare_cached("DELETE FROM _sync_spool._sync_exchange WHERE source = ?1")?.execute([source.as_bytes()])?;
    Ok(())
}

/// Whether no dots of a catch-up are left to be exchanged.
pub(crate) fn is_empty(conn: &Connection, source: Origin) -> Result<bool, StoreError> {
    let sql = "SELECT 1 FROM _sync_spool._sync_exchange WHERE source = ?1 LIMIT 1";
    let found: Option<i64> = conn.prepare_cached(sql)?.query_row([source.as_bytes()], |row| row.get(0)).optional()?;
    Ok(found.is_none())
}

/// How many rows are to be exchanged.
pub(crate) fn count(conn: &Connection, source: Origin) -> Result<usize, StoreError> {
    let sql = "SELECT coalesce(sum(count), 0) FROM _sync_spool._sync_exchange WHERE source = ?1";
    let count: i64 = conn.prepare_cached(sql)?.query_row([source.as_bytes()], |row| row.get(0))?;
    Ok(usize::try_from(count).unwrap_or(usize::MAX))
}
