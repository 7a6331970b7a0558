//! The entries of one origin that a peer lacks, and where their rows are.

use replication::{Dot, Entry, EntryFlags, Origin, RowClock, RowImage, Timestamp, Value};
use rusqlite::Connection;

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
    /// Among the rows that could not be taken in, under this number.
    Parked(i64),
}

impl Place {
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
        if self.replica.waiting.rows > 0 {
            until = self.parked(after, until)?;
        }
        self.entries.sort_by_key(|entry| entry.sequence);
        Ok(until)
    }

    /// The entries of one table, by their keys.
    fn keys(&mut self, index: usize, after: u64, until: u64) -> Result<u64, StoreError> {
        let table = &self.replica.tables[index];
        let mut statement = self.conn.prepare_cached(&table.sql.clock_since)?;
        let mut rows = statement.query([self.id, after.cast_signed(), until.cast_signed()])?;
        let mut dots = Dots::after(after);
        while let Some(row) = rows.next()? {
            let sequence = row.get::<_, i64>(0)?.cast_unsigned();
            if dots.may_end(sequence) && dots.found > self.room.rows {
                return Ok(dots.last);
            }
            let key = values_from(row, 1, table.table.key.len())?;
            dots.note(sequence, Place::Table(index, key), &mut self.entries);
        }
        Ok(until)
    }

    /// The same, and their rows where the entry is all of the clock.
    fn rows(&mut self, index: usize, after: u64, until: u64) -> Result<u64, StoreError> {
        let table = &self.replica.tables[index];
        let (width, columns) = (table.table.key.len(), table.table.columns.len());
        let mut statement = self.conn.prepare_cached(&table.many.rows_since)?;
        let mut rows = statement.query([self.id, after.cast_signed(), until.cast_signed()])?;
        let mut dots = Dots::after(after);
        while let Some(row) = rows.next()? {
            let sequence = row.get::<_, i64>(0)?.cast_unsigned();
            let full = dots.found > self.room.rows || self.bytes >= self.room.bytes;
            if dots.may_end(sequence) && full {
                return Ok(dots.last);
            }
            if self.bytes > LARGE && self.large.is_none() {
                *self.large = Some(LargeRead::begin());
            }
            let key = values_from(row, 1, width)?;
            let place = match row.get::<_, Option<i64>>(width + 1)? {
                Some(timestamp) => {
                    let timestamp = Timestamp::from_raw(timestamp).unwrap_or_default();
                    let flags = EntryFlags::from_bits(row.get(width + 2)?);
                    let clock = RowClock::whole(Entry::new(timestamp, Dot { origin: self.origin, sequence }, flags));
                    let image = RowImage { values: values_from(row, width + 3, columns)?, clock };
                    self.bytes += image.wire_size();
                    Place::Read(index, key, Box::new(image))
                }
                None => Place::Table(index, key),
            };
            dots.note(sequence, place, &mut self.entries);
        }
        Ok(until)
    }

    /// The same of the rows that could not be taken in: they are as much this database's to pass on.
    fn parked(&mut self, after: u64, until: u64) -> Result<u64, StoreError> {
        let mut statement = self.conn.prepare_cached(
            "SELECT seq, parked FROM main._sync_parked_dot WHERE origin = ?1 AND seq > ?2 AND seq <= ?3 ORDER BY seq",
        )?;
        let mut rows = statement.query([self.id, after.cast_signed(), until.cast_signed()])?;
        let mut dots = Dots::after(after);
        while let Some(row) = rows.next()? {
            let sequence = row.get::<_, i64>(0)?.cast_unsigned();
            if dots.may_end(sequence) && dots.found > self.room.rows {
                return Ok(dots.last);
            }
            dots.note(sequence, Place::Parked(row.get(1)?), &mut self.entries);
        }
        Ok(until)
    }
}

/// The dots of one table in the order of their sequences.
struct Dots {
    found: usize,
    last: u64,
}

impl Dots {
    const fn after(after: u64) -> Self {
        Self { found: 0, last: after }
    }

    /// Whether all entries of the last dot were seen, where the next is of this sequence.
    const fn may_end(&self, next: u64) -> bool {
        self.found > 0 && next != self.last
    }

    fn note(&mut self, sequence: u64, place: Place, entries: &mut Vec<LackingEntry>) {
        // One dot may have many entries. It has one row, but for sums that were counted under an origin that was left.
        let again = self.found > 0 && sequence == self.last && entries.last().is_some_and(|last| last.place.is(&place));
        if !again {
            entries.push(LackingEntry { sequence, place });
        }
        self.found += 1;
        self.last = sequence;
    }
}
