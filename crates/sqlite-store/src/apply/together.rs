//! Writing rows that are new here together: most rows of a first contact are, and of a large import at a peer. What each becomes
//! is decided as ever; rows of which anything else is to be done than writing them go one by one.

use replication::{EntryFlags, Outcome, RowImage, Value, VersionVector, merge};
use rusqlite::Statement;

use super::Stop;
use super::columns::converted;
use super::work::{Work, merge_context};
use crate::bind::bind_from;
use crate::error::StoreError;
use crate::row_clock::has_entry;
use crate::row_write::is_constraint;
use crate::table_sql::AT_ONCE;

/// How often it may be in vain before a batch is taken row by row.
const IN_VAIN: usize = 4;

/// Why rows could not be written together.
pub(super) enum Refusal {
    /// A row is here already, or a constraint refuses one: nothing is written.
    Row,
    Store(StoreError),
}

impl From<StoreError> for Refusal {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Sqlite(error) => error.into(),
            error => Self::Store(error),
        }
    }
}

impl From<rusqlite::Error> for Refusal {
    fn from(error: rusqlite::Error) -> Self {
        if is_constraint(&error) { Self::Row } else { Self::Store(error.into()) }
    }
}

impl Work<'_> {
    /// Writes rows of one table that have taken `context` into account, if all of them are new here and are to be taken as they
    /// are. False if not: nothing is done then, and they are to be merged one by one.
    pub(super) fn insert_together(
        &mut self,
        index: usize,
        rows: &[&RowImage],
        context: &VersionVector,
    ) -> Result<bool, Stop> {
        if !self.go_together(index, rows, context)? {
            return Ok(false);
        }
        // Numbers of origins that are new stay whatever becomes of the rows.
        let ids = rows.iter().map(|row| self.replica.origin_id(self.conn, row.clock.row.dot.origin));
        let ids = ids.collect::<Result<Vec<i64>, _>>()?;
        self.around("SAVEPOINT _sync_together")?;
        match self.write_together(index, rows, &ids) {
            Ok(()) => self.around("RELEASE _sync_together")?,
            Err(Refusal::Store(error)) => return Err(error.into()),
            Err(Refusal::Row) => {
                self.conn.execute_batch("ROLLBACK TO _sync_together; RELEASE _sync_together")?;
                self.in_vain += 1;
                return Ok(false);
            }
        }
        let places = self.replica.tables[index].shape.key.clone();
        for row in rows {
            let key: Vec<Value> = places.iter().map(|place| row.values[usize::from(*place)].clone()).collect();
            self.replica.add_dot(index, row.clock.row.dot, &key)?;
        }
        self.applied.rows += rows.len();
        self.applied.written.inserted += rows.len() as u64;
        let number = self.replica.tables[index].table.number;
        self.replica.touched.insert(number);
        Ok(true)
    }

    /// Begins or ends the writing of some rows: one statement for each few of them, which is prepared once.
    pub(super) fn around(&self, sql: &str) -> Result<(), StoreError> {
        self.conn.prepare_cached(sql)?.execute([])?;
        Ok(())
    }

    /// Whether rows of a table may be written together at all.
    pub(super) fn may_go_together(&self, index: usize) -> bool {
        self.in_vain < IN_VAIN
            && self.rules.observer.is_none()
            && self.replica.waiting.rows == 0
            && self.deferred.is_empty()
            && self.replica.tables[index].table.counters().next().is_none()
    }

    /// Whether nothing is to be done with rows but to write them, should none of them be here.
    fn go_together(&mut self, index: usize, rows: &[&RowImage], context: &VersionVector) -> Result<bool, StoreError> {
        let table = &self.replica.tables[index];
        let plain = rows.len() == AT_ONCE
            && self.may_go_together(index)
            && table.many.insert.is_some()
            && table.born.is_empty();
        if !plain {
            return Ok(false);
        }
        // Rows that were changed are mostly not alone.
        let key: Vec<_> = rows[0].owned_key(&table.shape);
        if has_entry(self.conn, table, &key)? {
            return Ok(false);
        }
        let columns = &table.table.columns;
        let cx = merge_context(self.replica, index, context, self.own, &[]);
        let is_plain = |row: &&RowImage| {
            let clock = &row.clock;
            clock.columns.is_empty()
                && clock.counters.is_empty()
                && clock.rest.is_none()
                && clock.row.authored.is_none()
                && !clock.row.flags.contains(EntryFlags::DELETED)
                && !clock.row.flags.contains(EntryFlags::ABSENT)
                && converted(columns, row, 0..columns.len()).is_none()
                && merge(None, row, &cx)
                    .is_ok_and(|merged| merged.conflict.is_none() && matches!(merged.outcome, Outcome::TakeRemote))
        };
        Ok(rows.iter().all(is_plain))
    }

    fn write_together(&self, index: usize, rows: &[&RowImage], ids: &[i64]) -> Result<(), Refusal> {
        let table = &self.replica.tables[index];
        let Some(insert) = &table.many.insert else { return Err(Refusal::Row) };
        let mut entries = self.conn.prepare_cached(&table.many.put_entries)?;
        let mut place = 1;
        for (row, id) in rows.iter().zip(ids) {
            for value in row.key(&table.shape) {
                bind_from(&mut entries, place, std::slice::from_ref(value))?;
                place += 1;
            }
            let entry = &row.clock.row;
            let numbers = [entry.timestamp.raw(), *id, entry.dot.sequence.cast_signed(), i64::from(entry.flags.bits())];
            place = bind_numbers(&mut entries, place, numbers)?;
        }
        entries.raw_execute()?;
        let mut statement = self.conn.prepare_cached(insert)?;
        for (place, row) in rows.iter().enumerate() {
            bind_from(&mut statement, place * row.values.len() + 1, &row.values)?;
        }
        statement.raw_execute()?;
        Ok(())
    }
}

/// Binds numbers to consecutive parameters; the next place.
fn bind_numbers(statement: &mut Statement<'_>, first: usize, numbers: [i64; 4]) -> rusqlite::Result<usize> {
    for (offset, number) in numbers.into_iter().enumerate() {
        statement.raw_bind_parameter(first + offset, number)?;
    }
    Ok(first + numbers.len())
}
