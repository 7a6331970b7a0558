//! Which rows bear which dots: what a peer at some position lacks is found by it, without a look at all rows.
//!
//! An index of SQLite's over the clock tables would keep an entry for each dot in its place at all times, and to move one that is
//! overwritten costs an update as much as the clock entry itself. So dots are only ever added here, as they are issued or applied: those
//! of one origin in one transaction make a *segment*, a line of `_sync_dot`, and small transactions share one, the origin's *open*
//! segment. A row that is written again is in a later segment too; whoever reads asks the row's clock whether it still bears the dot.
//! Every so often segments are [tidied](tidying): read, and written anew without what has been overwritten. (The same trade as that of
//! log-structured merge trees: O'Neil et al., 1996.)
//!
//! Invariant: each dot in a clock table, with a sequence of 1 or more, is in a segment with the key of its row. What is in a segment may
//! not be in a clock table any more, or its table may be gone.

mod reading;
mod segment;
mod tidying;

use std::collections::{BTreeMap, BTreeSet};

use replication::{Dot, Origin, Value};
use rusqlite::{Connection, OptionalExtension, params};

pub(crate) use self::reading::find;
pub(crate) use self::segment::DotRow;
use self::segment::{Segment, rows_of};
pub(crate) use self::tidying::{Growth, Tidying};

use crate::bind::values_from;
use crate::error::StoreError;
use crate::meta;
use crate::schema::Table;
use crate::table_sql::TableSql;

/// Bytes up to which a segment is added to by later transactions: its line is written with a page that is written anyway.
const SHARED: usize = 1 << 10;

/// Bytes from which on a transaction begins another segment: whoever reads one has all of it in memory.
const FULL: usize = 16 << 10;

/// The last sequence of a segment that is still added to, as the file has it: the index over it is not written again each time.
const OPEN: i64 = i64::MAX;

/// Where the file remembers the numbers of origins and of the tables in which they have issued something.
const ISSUED: &str = "issued";

/// What is to be added, and what was added last.
#[derive(Debug, Default)]
pub(crate) struct DotIndex {
    tails: BTreeMap<Origin, Tail>,
    /// Those that are full.
    full: Vec<(Origin, Tail)>,
    /// Numbers of origins and tables in which these have issued something, or did.
    issued: BTreeSet<(i64, i64)>,
    /// Rows that were added since this was loaded.
    added: u64,
}

/// The last segment of an origin.
#[derive(Debug, Default)]
struct Tail {
    /// Its line, if there is one, and the first sequence that stands there.
    id: Option<i64>,
    first: u64,
    segment: Segment,
    /// Whether there is more in it than the file has.
    is_dirty: bool,
}

impl DotIndex {
    pub(crate) fn load(conn: &Connection) -> Result<Self, StoreError> {
        let issued = meta::read(conn, ISSUED)?.unwrap_or_default();
        Ok(Self { issued, ..Self::default() })
    }

    /// Adds all dots of a clock table, which an index of SQLite's has told of until now.
    pub(crate) fn take_over(conn: &Connection, table: &Table) -> Result<(), StoreError> {
        let mut index = Self::load(conn)?;
        let mut statement = conn.prepare(&TableSql::new(table).clock_dots)?;
        let mut lines = statement.query([])?;
        let (mut of, mut segment) = (0, Segment::default());
        while let Some(line) = lines.next()? {
            let (origin, sequence): (i64, i64) = (line.get(0)?, line.get(1)?);
            if segment.bytes.len() >= FULL || origin != of {
                index.insert(conn, of, &segment)?;
                (of, segment) = (origin, Segment::default());
            }
            if sequence > 0 {
                segment.add(sequence.cast_unsigned(), table.number, &values_from(line, 2, table.key.len())?)?;
            }
        }
        index.insert(conn, of, &segment)?;
        meta::write(conn, ISSUED, &index.issued)
    }

    /// Writes a segment that nothing is added to any more.
    fn insert(&mut self, conn: &Connection, origin: i64, segment: &Segment) -> Result<(), StoreError> {
        if !segment.bytes.is_empty() {
            self.issued.extend(segment.tables.iter().map(|table| (origin, *table)));
            insert(conn, origin, segment, segment.last.cast_signed())?;
        }
        Ok(())
    }

    /// Adds a row that bears a dot.
    pub(crate) fn add(&mut self, dot: Dot, table: i64, key: &[Value]) -> Result<(), StoreError> {
        if dot.sequence == 0 {
            return Ok(());
        }
        let tail = self.tails.entry(dot.origin).or_default();
        if tail.segment.bytes.len() >= FULL {
            self.full.push((dot.origin, std::mem::take(tail)));
        }
        tail.is_dirty = true;
        self.added += 1;
        tail.segment.add(dot.sequence, table, key)
    }

    /// How many rows were added since this was loaded.
    pub(crate) const fn added(&self) -> u64 {
        self.added
    }

    /// Whether something was added that the file does not have.
    pub(crate) fn is_dirty(&self) -> bool {
        !self.full.is_empty() || self.tails.values().any(|tail| tail.is_dirty)
    }

    /// The numbers of the tables in which an origin has issued something, by its own number.
    pub(crate) fn issued_by(&self, origin: i64) -> impl Iterator<Item = i64> {
        self.issued.range((origin, i64::MIN)..=(origin, i64::MAX)).map(|(_, table)| *table)
    }

    /// Writes what was added; `id` tells the number of an origin.
    pub(crate) fn save(
        &mut self,
        conn: &Connection,
        mut id: impl FnMut(Origin) -> Result<i64, StoreError>,
    ) -> Result<(), StoreError> {
        let known = self.issued.len();
        let mut full = std::mem::take(&mut self.full);
        let full = full.iter_mut().map(|(origin, tail)| (*origin, tail));
        let tails = self.tails.iter_mut().map(|(origin, tail)| (*origin, tail));
        for (origin, tail) in full.chain(tails).filter(|(_, tail)| tail.is_dirty) {
            let origin = id(origin)?;
            self.issued.extend(tail.segment.tables.iter().map(|table| (origin, *table)));
            tail.save(conn, origin)?;
        }
        self.tails.retain(|_, tail| tail.segment.bytes.len() < SHARED);
        if self.issued.len() > known {
            meta::write(conn, ISSUED, &self.issued)?;
        }
        Ok(())
    }

    /// Forgets which segments are added to: their lines are gone.
    fn close(&mut self) {
        self.tails.clear();
    }
}

impl Tail {
    fn save(&mut self, conn: &Connection, origin: i64) -> Result<(), StoreError> {
        if self.id.is_none() {
            self.go_on(conn, origin)?;
        }
        let Segment { first, last, bytes, .. } = &self.segment;
        let last = if bytes.len() < SHARED { OPEN } else { last.cast_signed() };
        match self.id {
            None => self.id = Some(insert(conn, origin, &self.segment, last)?),
            // SQLite writes an index over columns that are set, whether or not they are what they were.
            Some(id) if last == OPEN && *first == self.first => {
                conn.prepare_cached("UPDATE main._sync_dot SET dots = ?2 WHERE id = ?1")?
                    .execute(params![id, bytes])?;
            }
            Some(id) => {
                conn.prepare_cached("UPDATE main._sync_dot SET first = ?2, last = ?3, dots = ?4 WHERE id = ?1")?
                    .execute(params![id, first.cast_signed(), last, bytes])?;
            }
        }
        self.first = self.segment.first;
        self.is_dirty = false;
        Ok(())
    }

    /// Goes on with the open segment of the origin, if there is one: this is what comes after it.
    fn go_on(&mut self, conn: &Connection, origin: i64) -> Result<(), StoreError> {
        let sql = "SELECT id, dots FROM main._sync_dot WHERE origin = ?1 AND last = ?2";
        let open = conn.prepare_cached(sql)?.query_row([origin, OPEN], |row| Ok((row.get(0)?, row.get(1)?)));
        let Some((id, before)): Option<(i64, Vec<u8>)> = open.optional()? else { return Ok(()) };
        let mut segment = Segment::default();
        for DotRow { sequence, table, key } in rows_of(&before)?.into_iter().chain(rows_of(&self.segment.bytes)?) {
            segment.add(sequence, table, &key)?;
        }
        // What stands there as the first is not asked for.
        (self.id, self.first, self.segment) = (Some(id), 0, segment);
        Ok(())
    }
}

fn insert(conn: &Connection, origin: i64, segment: &Segment, last: i64) -> Result<i64, StoreError> {
    conn.prepare_cached("INSERT INTO main._sync_dot (origin, first, last, dots) VALUES (?1, ?2, ?3, ?4)")?
        .execute(params![origin, segment.first.cast_signed(), last, segment.bytes])?;
    Ok(conn.last_insert_rowid())
}
