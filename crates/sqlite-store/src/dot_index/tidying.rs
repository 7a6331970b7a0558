//! Writing segments anew, without what has been overwritten and many small ones as one.
//!
//! What a row once bore and does not bear any more it only bears again where that is added again. So what is found without the write lock
//! may be left out under it, as long as the lines are what they were.

use rusqlite::{Connection, OptionalExtension};
use serde::{Deserialize, Serialize};

use super::segment::{DotRow, Segment, rows_of};
use super::{FULL, insert};
use crate::error::StoreError;
use crate::meta;
use crate::replica::Replica;
use crate::row_state::each_dot;

/// Where the file remembers what the last pass left.
const TIDIED: &str = "tidied";

/// Lines that are too few to be tidied.
const FEW: i64 = 256;

/// How many times as many are too many.
const URGENT: i64 = 4;

/// Bytes of segments that are tidied at a time, to within one: some thousands of rows.
const AT_A_TIME: i64 = 8 << 10;

/// Where less than one row in so many has been overwritten, and no line is saved, segments stay as they are.
const WORTHWHILE: usize = 8;

/// What the last pass left.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
struct Tidied {
    /// The number of the last line there was, and how many there were.
    upto: i64,
    lines: i64,
}

/// A line of `_sync_dot`.
#[derive(Debug, Clone, Copy)]
struct Line {
    id: i64,
    origin: i64,
    bytes: i64,
}

/// How many segments there are more than the last pass left.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Growth {
    added: i64,
    left: i64,
}

impl Growth {
    pub(crate) fn of(conn: &Connection) -> Result<Self, StoreError> {
        let Tidied { upto, lines } = meta::read(conn, TIDIED)?.unwrap_or_default();
        let last: Option<i64> =
            conn.prepare_cached("SELECT max(id) FROM main._sync_dot")?.query_row([], |row| row.get(0))?;
        Ok(Self { added: last.unwrap_or(0).saturating_sub(upto), left: lines.max(FEW) })
    }

    /// Whether as many were added as that left: so each row that is added costs a look at two.
    pub(crate) const fn is_due(self) -> bool {
        self.added >= self.left
    }

    /// Whether it is time to even if there is other work.
    pub(crate) const fn is_urgent(self) -> bool {
        self.added >= self.left.saturating_mul(URGENT)
    }
}

/// A pass over all segments.
#[derive(Debug)]
pub(crate) struct Tidying {
    /// Those that are still to be looked at, the last one first.
    lines: Vec<Line>,
}

/// Some segments of one origin, and what is to take their place.
pub(crate) struct Exchange {
    origin: i64,
    before: Vec<(i64, Vec<u8>)>,
    after: Vec<Segment>,
}

impl Tidying {
    /// Begins a pass.
    pub(crate) fn begin(conn: &Connection) -> Result<Self, StoreError> {
        let mut statement =
            conn.prepare("SELECT id, origin, length(dots) FROM main._sync_dot ORDER BY origin DESC, first DESC")?;
        let read = |row: &rusqlite::Row<'_>| Ok(Line { id: row.get(0)?, origin: row.get(1)?, bytes: row.get(2)? });
        let lines = statement.query_map([], read)?.collect::<rusqlite::Result<_>>()?;
        Ok(Self { lines })
    }

    /// Looks at the next segments; none if there are no more.
    pub(crate) fn next(&mut self, conn: &Connection, replica: &Replica) -> Result<Option<Exchange>, StoreError> {
        let Some(Line { origin, .. }) = self.lines.last().copied() else { return Ok(None) };
        let (mut before, mut rows, mut bytes) = (Vec::new(), Vec::new(), 0);
        while let Some(line) = self.lines.last().filter(|line| line.origin == origin) {
            bytes += line.bytes;
            if !before.is_empty() && bytes > AT_A_TIME {
                break;
            }
            // Another daemon on the same file may have tidied it, and its number may be that of another line by now.
            let sql = "SELECT dots FROM main._sync_dot WHERE id = ?1 AND origin = ?2";
            let dots: Option<Vec<u8>> =
                conn.prepare_cached(sql)?.query_row([line.id, origin], |row| row.get(0)).optional()?;
            if let Some(dots) = dots {
                rows.extend(rows_of(&dots)?);
                before.push((line.id, dots));
            }
            self.lines.pop();
        }
        let found = rows.len();
        let rows = borne(conn, replica, origin, rows)?;
        let is_worthwhile = (found - rows.len()) * WORTHWHILE >= found;
        let mut after: Vec<Segment> = Vec::new();
        for DotRow { sequence, table, key } in &rows {
            let fits = after.last().is_some_and(|segment| segment.bytes.len() < FULL);
            if !fits {
                after.push(Segment::default());
            }
            if let Some(segment) = after.last_mut() {
                segment.add(*sequence, *table, key)?;
            }
        }
        if !is_worthwhile && after.len() >= before.len() {
            before.clear();
        }
        Ok(Some(Exchange { origin, before, after }))
    }

    /// Takes note that a pass is finished.
    pub(crate) fn finish(conn: &Connection) -> Result<(), StoreError> {
        let sql = "SELECT coalesce(max(id), 0), count(*) FROM main._sync_dot";
        let tidied = conn.query_row(sql, [], |row| Ok(Tidied { upto: row.get(0)?, lines: row.get(1)? }))?;
        meta::write(conn, TIDIED, &tidied)
    }
}

impl Exchange {
    /// Whether there is anything to exchange.
    pub(crate) fn is_empty(&self) -> bool {
        self.before.is_empty()
    }

    /// Puts the new segments in the place of those before, in a write transaction. False if these are not what they were: all stays
    /// as it is.
    pub(crate) fn make(&self, conn: &Connection, replica: &mut Replica) -> Result<bool, StoreError> {
        for (id, dots) in &self.before {
            let sql = "SELECT 1 FROM main._sync_dot WHERE id = ?1 AND origin = ?2 AND dots = ?3";
            if !conn.prepare_cached(sql)?.exists((id, self.origin, dots))? {
                return Ok(false);
            }
        }
        for (id, _) in &self.before {
            conn.prepare_cached("DELETE FROM main._sync_dot WHERE id = ?1")?.execute([id])?;
        }
        replica.dots.close();
        for segment in &self.after {
            insert(conn, self.origin, segment, segment.last.cast_signed())?;
        }
        Ok(true)
    }
}

/// Those of the rows that bear their dots, each once, by their sequences.
fn borne(conn: &Connection, replica: &Replica, origin: i64, mut rows: Vec<DotRow>) -> Result<Vec<DotRow>, StoreError> {
    rows.sort_by_key(|row| (row.sequence, row.table));
    rows.dedup();
    // What is of a table that is not synced now may be of use again.
    let mut statement = conn.prepare_cached("SELECT id FROM main._sync_table")?;
    let known = statement.query_map([], |row| row.get(0))?.collect::<rusqlite::Result<Vec<i64>>>()?;
    let rests = |table: i64| known.contains(&table) && replica.table_by_number(table).is_none();
    let mut is_borne: Vec<bool> = rows.iter().map(|row| rests(row.table)).collect();
    for (index, table) in replica.tables.iter().enumerate() {
        let of_table: Vec<usize> = (0..rows.len())
            .filter(|place| rows[*place].table == table.table.number && rows[*place].key.len() == table.table.key.len())
            .collect();
        let keys: Vec<_> = of_table.iter().map(|place| rows[*place].key.as_slice()).collect();
        each_dot(conn, replica, index, &keys, |row, of, sequence| {
            let place = of_table[row];
            is_borne[place] |= of == origin && sequence == rows[place].sequence;
        })?;
    }
    let mut is_borne = is_borne.into_iter();
    rows.retain(|_| is_borne.next() == Some(true));
    Ok(rows)
}
