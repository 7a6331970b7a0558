//! The entries of one origin that a peer lacks, and where their rows are.

use replication::{Dot, Entry, EntryFlags, Origin, RowClock, RowImage, Timestamp, Value};
use rusqlite::{Connection, Row};

use super::{BatchLimits, LARGE};
use crate::bind::values_from;
use crate::error::StoreError;
use crate::large_reads::LargeRead;
use crate::replica::Replica;

/// An entry that the peer lacks.
pub(super) struct LackingEntry {
    pub(super) sequence: u64,
    pub(super) place: Place,
}

/// Where its row is.
pub(super) enum Place {
    /// In a table, by its index, under this key.
    Table(usize, Vec<Value>),
    /// The same, where the entry is all of the clock: this is the row.
    Read(usize, Vec<Value>, Box<RowImage>),
    /// The same, where there are others: this is the row, if it is there.
    Found(usize, Vec<Value>, Option<Box<RowImage>>),
    /// Among the rows that could not be taken in, under this number.
    Parked(i64),
}

impl Place {
    /// The key of its row; empty if that could not be taken in.
    pub(super) fn key(&self) -> &[Value] {
        match self {
            Self::Table(_, key) | Self::Read(_, key, _) | Self::Found(_, key, _) => key,
            Self::Parked(_) => &[],
        }
    }

    /// Whether both are the same row.
    fn is(&self, other: &Self) -> bool {
        match (self, other) {
            (
                Self::Table(table, key) | Self::Read(table, key, _),
                Self::Table(other, same) | Self::Read(other, same, _),
            ) => table == other && key == same,
            (Self::Parked(number), Self::Parked(other)) => number == other,
            _ => false,
        }
    }
}

/// What is found of one origin.
pub(super) struct Lacking<'a> {
    conn: &'a Connection,
    replica: &'a Replica,
    origin: Origin,
    /// The small number that stands for it.
    id: i64,
    /// The rows that are wanted, and the bytes of those that are read together with their entries.
    room: BatchLimits,
    bytes: usize,
    /// Where it is large.
    large: &'a mut Option<LargeRead>,
    pub(super) entries: Vec<LackingEntry>,
}

impl<'a> Lacking<'a> {
    pub(super) const fn new(
        conn: &'a Connection,
        replica: &'a Replica,
        (origin, id): (Origin, i64),
        room: BatchLimits,
        large: &'a mut Option<LargeRead>,
    ) -> Self {
        Self { conn, replica, origin, id, room, bytes: 0, large, entries: Vec::new() }
    }

    /// Finds the first entries with sequences above `after` up to `until`, in all tables, in their order: at least as many as there
    /// is room for if there are so many. Returns the sequence up to which they are complete; some may lie beyond it.
    pub(super) fn find(&mut self, after: u64, mut until: u64) -> Result<u64, StoreError> {
        for (index, table) in self.replica.tables.iter().enumerate() {
            if table.high.get(self.origin) <= after {
                continue;
            }
            // What the first tables fill is not filled again by the others, whose rows are read one by one. Where columns came later
            // than rows, what speaks for them is not the row's entry alone.
            let with_rows = self.bytes < self.room.bytes && table.born.is_empty();
            until = if with_rows { self.rows(index, after, until)? } else { self.keys(index, after, until)? };
        }
        if self.room.passed_on && self.replica.waiting.rows > 0 {
            until = self.parked(after, until)?;
        }
        self.entries.sort_by_key(|entry| entry.sequence);
        Ok(until)
    }

    /// The entries of one table, by their keys.
    fn keys(&mut self, index: usize, after: u64, until: u64) -> Result<u64, StoreError> {
        let table = &self.replica.tables[index];
        let width = table.table.key.len();
        self.each(&table.sql.clock_since, after, until, |_, row, _| {
            Ok(Place::Table(index, values_from(row, 1, width)?))
        })
    }

    /// The same, and their rows where the entry is all of the clock.
    fn rows(&mut self, index: usize, after: u64, until: u64) -> Result<u64, StoreError> {
        let table = &self.replica.tables[index];
        let (width, columns) = (table.table.key.len(), table.table.columns.len());
        self.each(&table.many.rows_since, after, until, |lacking, row, sequence| {
            let key = values_from(row, 1, width)?;
            let Some(timestamp) = row.get::<_, Option<i64>>(width + 1)? else { return Ok(Place::Table(index, key)) };
            let timestamp = Timestamp::from_raw(timestamp).unwrap_or_default();
            let flags = EntryFlags::from_bits(row.get(width + 2)?);
            let clock = RowClock::whole(Entry::new(timestamp, Dot { origin: lacking.origin, sequence }, flags));
            let image = RowImage { values: values_from(row, width + 3, columns)?, clock };
            lacking.bytes += image.wire_size();
            if lacking.bytes > LARGE && lacking.large.is_none() {
                *lacking.large = Some(LargeRead::begin());
            }
            Ok(Place::Read(index, key, Box::new(image)))
        })
    }

    /// The same of the rows that could not be taken in: they are as much this database's to pass on.
    fn parked(&mut self, after: u64, until: u64) -> Result<u64, StoreError> {
        let sql =
            "SELECT seq, parked FROM main._sync_parked_dot WHERE origin = ?1 AND seq > ?2 AND seq <= ?3 ORDER BY seq";
        self.each(sql, after, until, |_, row, _| Ok(Place::Parked(row.get(1)?)))
    }

    /// Notes the entries that a statement gives, which begin with their sequences, as long as there is room; the sequence up to
    /// which they are complete.
    fn each(
        &mut self,
        sql: &str,
        after: u64,
        until: u64,
        place: impl Fn(&mut Self, &Row<'_>, u64) -> rusqlite::Result<Place>,
    ) -> Result<u64, StoreError> {
        let (mut found, mut last, bytes) = (0, after, self.bytes);
        let mut statement = self.conn.prepare_cached(sql)?;
        let mut rows = statement.query([self.id, after.cast_signed(), until.cast_signed()])?;
        while let Some(row) = rows.next()? {
            let sequence = row.get::<_, i64>(0)?.cast_unsigned();
            // What earlier tables have filled does not count here.
            let full = found > self.room.rows || (self.bytes > bytes && self.bytes >= self.room.bytes);
            // Entries of one dot go together.
            if full && sequence != last {
                return Ok(last);
            }
            let place = place(self, row, sequence)?;
            // One dot may have many entries. It has one row, but for sums that were counted under an origin that was left.
            let again = found > 0 && sequence == last && self.entries.last().is_some_and(|last| last.place.is(&place));
            if !again {
                self.entries.push(LackingEntry { sequence, place });
            }
            (found, last) = (found + 1, sequence);
        }
        Ok(until)
    }
}
