//! Capture of rows together: where a row was inserted, deleted, or had columns updated, and neither counters nor rows
//! that wait are concerned, its entries are all that is to be written, and its state before is all that has to be known.

use std::collections::BTreeMap;

use replication::{Entry, EntryFlags, Granularity, RowClock, RowImage, Timestamp, Value};
use rusqlite::Connection;

use super::log::Touched;
use super::singly::{all_columns, capture_row};
use super::{Gathered, give_row_entry};
use crate::error::StoreError;
use crate::replica::Replica;
use crate::row_clock::{KeyEntry, drop_column_entries_of, put_entries, read_image};
use crate::row_state::{RowState, read_states_within};
use crate::triggers::mask_bit;

/// A capture at work.
pub(super) struct Capturing<'a> {
    conn: &'a Connection,
    replica: &'a mut Replica,
    now: i64,
    gathered: Option<&'a mut Gathered>,
    /// Rows that got a new dot.
    pub(super) rows: usize,
}

/// What a row gets.
enum Plan {
    /// Nothing: it is as it was.
    Nothing,
    /// An entry of the row.
    Whole(EntryFlags),
    /// Entries of these columns, by their places.
    Columns(Vec<u16>),
    /// Something that only the way of single rows does.
    Singly,
}

/// What is to be written in the clock of one table.
#[derive(Default)]
struct Writing {
    /// The places of rows that were written as a whole: none of their columns has an entry of its own any more.
    rewritten: Vec<usize>,
    /// Entries: the row's place, and the number of the column, 0 for the row.
    entries: Vec<(usize, u16, Entry)>,
}

impl<'a> Capturing<'a> {
    pub(super) const fn new(
        conn: &'a Connection,
        replica: &'a mut Replica,
        now: i64,
        gathered: Option<&'a mut Gathered>,
    ) -> Self {
        Self { conn, replica, now, gathered, rows: 0 }
    }

    /// Captures rows, in the order in which they were touched.
    pub(super) fn rows(&mut self, rows: &[Touched]) -> Result<(), StoreError> {
        let mut states: Vec<Option<RowState>> = rows.iter().map(|_| None).collect();
        let mut by_table: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
        for (place, row) in rows.iter().enumerate().filter(|(_, row)| !row.is_nameless()) {
            by_table.entry(row.table).or_default().push(place);
        }
        let mut room =
            self.gathered.as_ref().filter(|gathered| !gathered.is_too_much()).map(|gathered| gathered.room());
        for (index, places) in &by_table {
            if self.replica.waiting.rows > 0 || self.replica.tables[*index].table.counters().next().is_some() {
                continue;
            }
            let keys: Vec<&[Value]> = places.iter().map(|place| rows[*place].key.as_slice()).collect();
            let read = read_states_within(self.conn, self.replica, *index, &keys, room.as_mut())?;
            places.iter().zip(read).for_each(|(place, state)| states[*place] = Some(state));
        }
        if let Some(gathered) = self.gathered.as_mut().filter(|_| room == Some(0)) {
            // Rows were read without their content.
            gathered.give_up();
        }
        let mut writing: BTreeMap<usize, Writing> = BTreeMap::new();
        for (place, (row, state)) in rows.iter().zip(states).enumerate() {
            if row.is_nameless() {
                continue;
            }
            let before = self.rows;
            self.row((place, row), state, writing.entry(row.table).or_default())?;
            if self.rows > before {
                self.replica.touched.insert(self.replica.tables[row.table].table.number);
            }
        }
        writing.into_iter().try_for_each(|(index, writing)| self.write(index, rows, &writing))
    }

    fn singly(&mut self, row: &Touched) -> Result<(), StoreError> {
        if !capture_row(self.conn, self.replica, row, self.now)? {
            return Ok(());
        }
        self.rows += 1;
        if self.gathers() {
            let image = read_image(self.conn, self.replica, &self.replica.tables[row.table], &row.key)?;
            image.into_iter().for_each(|image| self.gather(row.table, image));
        }
        Ok(())
    }

    fn gathers(&self) -> bool {
        self.gathered.as_ref().is_some_and(|gathered| !gathered.is_too_much())
    }

    fn gather(&mut self, table: usize, image: RowImage) {
        if let Some(gathered) = &mut self.gathered {
            gathered.add(table, image);
        }
    }

    /// Captures one row; its entries are still to be written.
    fn row(
        &mut self,
        (place, row): (usize, &Touched),
        state: Option<RowState>,
        writing: &mut Writing,
    ) -> Result<(), StoreError> {
        let index = row.table;
        let Some(state) = state else { return self.singly(row) };
        match plan(self.replica, row, &state) {
            Plan::Nothing => Ok(()),
            Plan::Singly => self.singly(row),
            Plan::Whole(flags) => {
                let entry = self.next_entry(row, flags);
                if state.has_columns {
                    writing.rewritten.push(place);
                }
                writing.entries.push((place, 0, entry));
                let values = state.values.unwrap_or_else(|| row.key.clone());
                self.captured(index, RowImage { values, clock: RowClock::whole(entry) });
                Ok(())
            }
            Plan::Columns(columns) => {
                let clock = match state.clock {
                    Some(clock) => clock,
                    None => RowClock::whole(give_row_entry(self.conn, self.replica, index, &row.key, None)?),
                };
                let entry = self.next_entry(row, EntryFlags::empty());
                let mut image = RowImage { values: state.values.unwrap_or_default(), clock };
                for column in columns {
                    let number = self.replica.tables[index].table.columns[usize::from(column)].number;
                    writing.entries.push((place, number, entry));
                    image.clock.set_entry(column, entry);
                }
                self.captured(index, image);
                Ok(())
            }
        }
    }

    fn captured(&mut self, index: usize, image: RowImage) {
        self.rows += 1;
        if self.gathers() {
            self.gather(index, image);
        }
    }

    fn next_entry(&mut self, row: &Touched, flags: EntryFlags) -> Entry {
        let timestamp: Timestamp = self.replica.clock.stamp(row.millis, self.now);
        Entry::new(timestamp, self.replica.next_dot(), flags)
    }

    fn write(&mut self, index: usize, rows: &[Touched], writing: &Writing) -> Result<(), StoreError> {
        let rewritten: Vec<&[Value]> = writing.rewritten.iter().map(|place| rows[*place].key.as_slice()).collect();
        drop_column_entries_of(self.conn, &self.replica.tables[index], &rewritten)?;
        let entries =
            writing.entries.iter().map(|(place, column, entry)| (rows[*place].key.as_slice(), *column, *entry));
        put_entries(self.conn, self.replica, index, &entries.collect::<Vec<KeyEntry<'_>>>())
    }
}

/// What a row is to get.
fn plan(replica: &Replica, row: &Touched, state: &RowState) -> Plan {
    let table = &replica.tables[row.table];
    if state.values.is_some() && row.candidate {
        return Plan::Nothing;
    }
    if state.has_more {
        return Plan::Singly;
    }
    if state.values.is_none() {
        return Plan::Whole(EntryFlags::DELETED);
    }
    if row.whole {
        return match (row.again || state.clock.is_some(), row.inserted) {
            // What it takes the place of has gone, here and in columns that others have.
            (true, _) => Plan::Singly,
            (false, true) => Plan::Whole(EntryFlags::INSERTED),
            (false, false) => Plan::Whole(EntryFlags::empty()),
        };
    }
    let every = all_columns(table);
    if row.mask & every == every {
        return Plan::Whole(EntryFlags::empty());
    }
    if table.rules.granularity == Granularity::Row || state.clock.as_ref().is_some_and(RowClock::is_deleted) {
        return Plan::Singly;
    }
    let places = (0..).zip(&table.table.columns);
    let written = places.filter(|(_, column)| row.mask & mask_bit(column.number) != 0).map(|(place, _)| place);
    Plan::Columns(written.collect())
}
