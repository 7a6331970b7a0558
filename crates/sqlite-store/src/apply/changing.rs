//! Merging rows together, whether they are here already or not: how they stand is read at once, and what becomes of them is written
//! at once. What each becomes is decided as ever; rows of which more is to be done than writing them and their clocks, as
//! recording a conflict, go one by one.

use std::collections::{BTreeMap, HashSet};

use replication::{EntryFlags, Outcome, RowClock, RowImage, Value, VersionVector, merge};

use super::Stop;
use super::columns::converted;
use super::together::Refusal;
use super::work::{Work, merge_context};
use crate::bind::{Bound, bind_from};
use crate::capture::CanonicalKey;
use crate::row_clock::{KeyEntry, drop_column_entries_of, put_entries, unspoken};
use crate::row_state::{RowState, read_states};

/// A row that is to change.
struct Change {
    key: Vec<Value>,
    old: Option<RowImage>,
    /// Whether single columns have entries in the clock as it is stored.
    has_columns: bool,
    new: RowImage,
    /// The row that came, where the new one is another.
    came: Option<Box<RowImage>>,
}

impl Work<'_> {
    /// Merges rows of one table that have taken `context` into account, as far as they go together. Gives back those that are to be
    /// merged one by one.
    pub(super) fn merge_together(
        &mut self,
        index: usize,
        rows: Vec<(usize, RowImage)>,
        context: &VersionVector,
    ) -> Result<Vec<(usize, RowImage)>, Stop> {
        if rows.len() < 2 || !self.may_go_together(index) {
            return Ok(rows);
        }
        let shape = &self.replica.tables[index].shape;
        let keys: Vec<Vec<Value>> = rows.iter().map(|(_, row)| row.owned_key(shape)).collect();
        let table = &self.replica.tables[index];
        let mut known = HashSet::with_capacity(keys.len());
        if !keys.iter().all(|key| known.insert(CanonicalKey::of(table, key))) {
            // What becomes of the second rests on what became of the first.
            return Ok(rows);
        }
        let named: Vec<&[Value]> = keys.iter().map(Vec::as_slice).collect();
        let states = read_states(self.conn, self.replica, index, &named)?;
        let (mut changes, mut singly) = (Vec::with_capacity(rows.len()), Vec::new());
        for (((_, row), key), state) in rows.into_iter().zip(keys).zip(states) {
            let row = self.decide_plain((index, key), state, row, context, &mut changes);
            singly.extend(row.map(|row| (index, row)));
        }
        if changes.is_empty() {
            return Ok(singly);
        }
        // Numbers of origins that are new stay whatever becomes of the rows.
        for entry in changes.iter().flat_map(|change| change.new.clock.entries()) {
            self.replica.origin_id(self.conn, entry.dot.origin)?;
        }
        self.around("SAVEPOINT _sync_together")?;
        match self.write_changes(index, &changes) {
            Ok(()) => self.around("RELEASE _sync_together")?,
            Err(Refusal::Store(error)) => return Err(error.into()),
            Err(Refusal::Row) => {
                self.conn.execute_batch("ROLLBACK TO _sync_together; RELEASE _sync_together")?;
                self.in_vain += 1;
                // Those that were to be taken as they came are still at hand.
                singly.extend(changes.into_iter().map(|change| (index, change.came.map_or(change.new, |came| *came))));
                return Ok(singly);
            }
        }
        for Change { old, new, .. } in changes.iter().filter(|change| change.writes()) {
            self.applied.written.count(old.as_ref().is_some_and(is_there), is_there(new));
            self.applied.rows += 1;
        }
        self.replica.touched.insert(self.replica.tables[index].table.number);
        Ok(singly)
    }

    /// Adds what becomes of a row to the changes, if it changes. Gives it back if it does not go together with others.
    fn decide_plain(
        &self,
        (index, key): (usize, Vec<Value>),
        state: RowState,
        row: RowImage,
        context: &VersionVector,
        changes: &mut Vec<Change>,
    ) -> Option<RowImage> {
        let table = &self.replica.tables[index];
        let columns = &table.table.columns;
        if state.has_more || !is_plain(&row.clock) || converted(columns, &row, 0..columns.len()).is_some() {
            return Some(row);
        }
        let old = match (state.values, state.clock) {
            (None, None) => None,
            (None, Some(clock)) if clock.is_deleted() => Some(RowImage { values: key.clone(), clock }),
            (Some(values), Some(clock)) if !clock.is_deleted() => Some(RowImage { values, clock }),
            // It came or went unseen, or has no clock yet.
            _ => return Some(row),
        };
        let cx = merge_context(self.replica, index, context, self.own, &[]);
        let outcome = match merge(old.as_ref(), &row, &cx) {
            Ok(merged) if merged.conflict.is_none() => merged.outcome,
            _ => return Some(row),
        };
        let (new, came) = match outcome {
            Outcome::Keep => return None,
            Outcome::TakeRemote => (row, None),
            Outcome::Store(image) if is_plain(&image.clock) => (image, Some(Box::new(row))),
            Outcome::Store(_) | Outcome::Issue { .. } => return Some(row),
        };
        changes.push(Change { key, old, has_columns: state.has_columns, new, came });
        None
    }

    fn write_changes(&mut self, index: usize, changes: &[Change]) -> Result<(), Refusal> {
        let mut entries: Vec<KeyEntry<'_>> = Vec::with_capacity(changes.len());
        let mut rewritten: Vec<&[Value]> = Vec::new();
        for Change { key, old, has_columns, new, .. } in changes {
            let table = &self.replica.tables[index];
            // Where columns came later than rows, a clock as it is read has entries that are not stored.
            let before = old.as_ref().map(|old| &old.clock).filter(|_| table.born.is_empty());
            let stays = |column: u16| new.clock.columns.iter().any(|(known, _)| *known == column);
            let stay = before.is_some_and(|before| before.columns.iter().all(|(column, _)| stays(*column)));
            if *has_columns && !stay {
                rewritten.push(key);
            }
            let before = before.filter(|_| stay);
            let is_written =
                |column: u16, entry| before.is_some_and(|before| before.columns.contains(&(column, entry)));
            if before.is_none_or(|before| before.row != new.clock.row) {
                entries.push((key, 0, new.clock.row));
            }
            // Here the row entry speaks for all columns that have none of their own.
            let spoken = unspoken(table, &new.clock).into_iter().map(|column| (column, new.clock.row));
            for (column, entry) in new.clock.columns.iter().copied().chain(spoken) {
                if !is_written(column, entry) {
                    entries.push((key, table.table.columns[usize::from(column)].number, entry));
                }
            }
        }
        drop_column_entries_of(self.conn, &self.replica.tables[index], &rewritten)?;
        put_entries(self.conn, self.replica, index, &entries)?;
        self.write_rows(index, changes)
    }

    fn write_rows(&self, index: usize, changes: &[Change]) -> Result<(), Refusal> {
        let table = &self.replica.tables[index];
        // By what is to be done to them, so that each statement is looked for once.
        let mut updates: BTreeMap<Vec<usize>, Vec<&Change>> = BTreeMap::new();
        let (mut deletes, mut inserts): (Vec<&[Value]>, Vec<&[Value]>) = Default::default();
        for change in changes {
            match (change.old.as_ref().filter(|old| is_there(old)), is_there(&change.new)) {
                (None, true) => inserts.push(&change.new.values),
                (Some(_), false) => deletes.push(&change.key),
                (Some(old), true) => {
                    let values = old.values.iter().zip(&change.new.values).enumerate();
                    let changed: Vec<usize> = values.filter(|(_, (old, new))| old != new).map(|(at, _)| at).collect();
                    if !changed.is_empty() {
                        updates.entry(changed).or_default().push(change);
                    }
                }
                (None, false) => {}
            }
        }
        // Rows that go make room for others in unique indexes.
        let mut delete = self.conn.prepare_cached(&table.sql.delete)?;
        for key in deletes {
            bind_from(&mut delete, 1, key)?;
            delete.raw_execute()?;
        }
        let mut insert = self.conn.prepare_cached(&table.sql.insert)?;
        for values in inserts {
            bind_from(&mut insert, 1, values)?;
            insert.raw_execute()?;
        }
        for (changed, changes) in updates {
            let width = table.table.key.len();
            let mut statement = self.conn.prepare_cached(&table.sql.update(&changed, width))?;
            for change in changes {
                bind_from(&mut statement, 1, &change.key)?;
                for (offset, place) in changed.iter().enumerate() {
                    statement.raw_bind_parameter(width + 1 + offset, Bound(&change.new.values[*place]))?;
                }
                statement.raw_execute()?;
            }
        }
        Ok(())
    }
}

impl Change {
    /// Whether the row itself changes, and not its clock alone.
    fn writes(&self) -> bool {
        match self.old.as_ref().filter(|old| is_there(old)) {
            None => is_there(&self.new),
            Some(old) => !is_there(&self.new) || old.values != self.new.values,
        }
    }
}

fn is_there(image: &RowImage) -> bool {
    !image.clock.is_deleted()
}

/// Whether a clock is made of entries of the row and of columns alone that say nothing but when they were written.
fn is_plain(clock: &RowClock) -> bool {
    let absent = EntryFlags::ABSENT;
    clock.counters.is_empty()
        && clock.rest.is_none()
        && clock.entries().all(|entry| entry.authored.is_none() && !entry.flags.contains(absent))
}
