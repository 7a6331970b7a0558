//! Capture of rows together: where a row was inserted, deleted, or had columns updated, and neither counters nor rows
//! that wait are concerned, its entries are all that is to be written, and its state before is all that has to be known.

use std::collections::BTreeMap;

use replication::{Entry, EntryFlags, Granularity, RowClock, RowImage, Timestamp, Value};
use rusqlite::{Connection, Statement};

use super::log::Touched;
use super::singly::{all_columns, capture_row};
use super::{Gathered, give_row_entry};
use crate::bind::{bind_from, values_from};
use crate::error::StoreError;
use crate::replica::Replica;
use crate::row_clock::{ClockReader, drop_column_entries, put_entry, read_image};
use crate::table_sql::AT_ONCE;
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

/// A row as it stands, and its clock as it was.
struct State {
    exists: bool,
    /// Its content, where it is there and that is wanted.
    values: Vec<Value>,
    clock: Option<RowClock>,
    /// Whether single columns have entries of their own.
    has_columns: bool,
    /// Whether something else is in its clock.
    has_more: bool,
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

/// The columns before a row's content in what [`ManySql::states`](crate::table_sql::ManySql::states) gives.
const FIXED: usize = 8;

/// An entry that is to be written: the row's place, and the number of the column, 0 for the row.
type Written = (usize, u16, Entry);

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
        let mut states: Vec<Option<State>> = rows.iter().map(|_| None).collect();
        let mut by_table: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
        for (place, row) in rows.iter().enumerate().filter(|(_, row)| !row.is_nameless()) {
            by_table.entry(row.table).or_default().push(place);
        }
        for (index, places) in &by_table {
            if self.replica.waiting.rows > 0 || self.replica.tables[*index].table.counters().next().is_some() {
                continue;
            }
            let together = places.chunks_exact(AT_ONCE);
            let rest = together.remainder().chunks(1);
            together.chain(rest).try_for_each(|places| self.look_up(*index, rows, places, &mut states))?;
        }
        let mut written: BTreeMap<usize, Vec<Written>> = BTreeMap::new();
        for (place, (row, state)) in rows.iter().zip(states).enumerate() {
            if row.is_nameless() {
                continue;
            }
            let before = self.rows;
            self.row((place, row), state, written.entry(row.table).or_default())?;
            if self.rows > before {
                self.replica.touched.insert(self.replica.tables[row.table].table.number);
            }
        }
        written.into_iter().try_for_each(|(index, entries)| self.write(index, rows, &entries))
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
        state: Option<State>,
        written: &mut Vec<Written>,
    ) -> Result<(), StoreError> {
        let index = row.table;
        let Some(state) = state else { return self.singly(row) };
        match plan(self.replica, row, &state) {
            Plan::Nothing => Ok(()),
            Plan::Singly => self.singly(row),
            Plan::Whole(flags) => {
                let entry = self.next_entry(row, flags);
                if state.has_columns {
                    drop_column_entries(self.conn, &self.replica.tables[index], &row.key)?;
                }
                written.push((place, 0, entry));
                let values = if state.exists { state.values } else { row.key.clone() };
                self.captured(index, RowImage { values, clock: RowClock::whole(entry) });
                Ok(())
            }
            Plan::Columns(columns) => {
                let clock = match state.clock {
                    Some(clock) => clock,
                    None => RowClock::whole(give_row_entry(self.conn, self.replica, index, &row.key, None)?),
                };
                let entry = self.next_entry(row, EntryFlags::empty());
                let mut image = RowImage { values: state.values, clock };
                for column in columns {
                    let number = self.replica.tables[index].table.columns[usize::from(column)].number;
                    written.push((place, number, entry));
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

    /// Looks how rows of a table stand, at these places among all, and what their clocks were.
    fn look_up(
        &self,
        index: usize,
        rows: &[Touched],
        places: &[usize],
        states: &mut [Option<State>],
    ) -> Result<(), StoreError> {
        let table = &self.replica.tables[index];
        let content = self.gathers();
        let columns = if content { table.table.columns.len() } else { 0 };
        let mut statement = self.conn.prepare_cached(table.many.states(places.len() > 1, content))?;
        let mut parameter = 1;
        for place in places {
            bind_from(&mut statement, parameter, &rows[*place].key)?;
            parameter += rows[*place].key.len();
        }
        let mut readers: Vec<(Option<Vec<Value>>, ClockReader)> =
            places.iter().map(|_| (None, ClockReader::default())).collect();
        let mut lines = statement.raw_query();
        while let Some(line) = lines.next()? {
            let at = usize::from(line.get::<_, u16>(0)?);
            let Some((values, reader)) = readers.get_mut(at) else { continue };
            if values.is_none() && line.get(1)? {
                *values = Some(values_from(line, FIXED, columns)?);
            }
            if line.get::<_, Option<i64>>(2)?.is_some() {
                reader.note(self.replica, table, line, 2)?;
            }
        }
        drop(lines);
        for (place, (values, reader)) in places.iter().zip(readers) {
            let (has_columns, has_more) = (reader.has_columns(), reader.has_more());
            let clock = match has_more {
                true => None,
                false => reader.finish(self.conn, self.replica, table, &rows[*place].key)?.map(|(clock, _)| clock),
            };
            let exists = values.is_some();
            states[*place] = Some(State { exists, values: values.unwrap_or_default(), clock, has_columns, has_more });
        }
        Ok(())
    }

    /// Writes entries, many to a statement.
    fn write(&mut self, index: usize, rows: &[Touched], written: &[Written]) -> Result<(), StoreError> {
        let own = self.replica.origin_id(self.conn, self.replica.own)?;
        let together = written.chunks_exact(AT_ONCE);
        let rest = together.remainder();
        for entries in together {
            let mut statement = self.conn.prepare_cached(&self.replica.tables[index].many.upsert_entries)?;
            let mut place = 1;
            for (row, column, entry) in entries {
                place = bind_entry(&mut statement, place, &rows[*row].key, (*column, own, entry))?;
            }
            statement.raw_execute()?;
        }
        for (row, column, entry) in rest {
            put_entry(self.conn, self.replica, index, &rows[*row].key, *column, entry)?;
        }
        let last = written.iter().map(|(_, _, entry)| entry.dot).next_back();
        if let Some(dot) = last {
            self.replica.tables[index].high.raise(dot.origin, dot.sequence);
        }
        Ok(())
    }
}

/// Binds an entry from a place on; the next place.
fn bind_entry(
    statement: &mut Statement<'_>,
    first: usize,
    key: &[Value],
    (column, origin, entry): (u16, i64, &Entry),
) -> Result<usize, StoreError> {
    bind_from(statement, first, key)?;
    let place = first + key.len();
    let numbers = [
        i64::from(column),
        entry.timestamp.raw(),
        origin,
        entry.dot.sequence.cast_signed(),
        i64::from(entry.flags.bits()),
    ];
    for (offset, number) in numbers.into_iter().enumerate() {
        statement.raw_bind_parameter(place + offset, number)?;
    }
    Ok(place + numbers.len())
}

/// What a row is to get.
fn plan(replica: &Replica, row: &Touched, state: &State) -> Plan {
    let table = &replica.tables[row.table];
    if state.exists && row.candidate {
        return Plan::Nothing;
    }
    if state.has_more {
        return Plan::Singly;
    }
    if !state.exists {
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
