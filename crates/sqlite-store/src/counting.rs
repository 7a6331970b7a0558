//! What applications count: their updates of counter columns become tallies in the row's clock.
//!
//! No operation is logged, only that a column changed, and what it held before. How much was counted is what the table holds
//! now less what the clock makes of the counter; where nothing was counted before, less what the first update found.

use std::collections::HashMap;

use replication::{Counter, Entry, RowClock, Value};
use rusqlite::Connection;

use crate::error::StoreError;
use crate::replica::Replica;
use crate::row_clock::{put_counter, read_clock, read_row};
use crate::triggers::mask_bit;

/// What the log says of a row's counters: what each held before it was first updated, by column number.
pub(crate) type Before = HashMap<u16, Value>;

/// A row's counters as an update leaves them: those that were counted in, by place in the table. A counter column from whose
/// value nothing can be counted is not among them; its change is an ordinary one.
#[derive(Default)]
pub(crate) struct Counting {
    changed: Vec<(usize, Counter)>,
}

impl Counting {
    /// What an update with this mask counted. `clock` is the row's clock before it, `entry` that of the update.
    pub(crate) fn of_update(
        conn: &Connection,
        replica: &Replica,
        (index, key): (usize, &[Value]),
        clock: &RowClock,
        (mask, before): (i64, &Before),
        entry: Entry,
    ) -> Result<Self, StoreError> {
        let table = &replica.tables[index];
        let columns = table.table.columns.iter().enumerate();
        let counters = columns.filter(|(place, column)| {
            mask & mask_bit(column.number) != 0 && (column.counter || clock.counter(place_number(*place)).is_some())
        });
        let counters: Vec<(usize, u16)> = counters.map(|(place, column)| (place, column.number)).collect();
        if counters.is_empty() {
            return Ok(Self::default());
        }
        let mut counting = Self::default();
        let Some(row) = read_row(conn, table, key)? else { return Ok(counting) };
        for (place, number) in counters {
            let (index, now) = (place_number(place), &row[place]);
            let counter = match (clock.counter(index), before.get(&number)) {
                (Some(known), _) => {
                    let mut counter = known.clone();
                    if !counter.count(entry, &known.value(), now) {
                        counter.set_to(entry, now.clone());
                    }
                    Some(counter)
                }
                (None, Some(held)) => {
                    let mut counter = Counter::new(*clock.effective(index), held.clone());
                    counter.count(entry, held, now).then_some(counter)
                }
                (None, None) => None,
            };
            counting.changed.extend(counter.map(|counter| (place, counter)));
        }
        Ok(counting)
    }

    /// Whether a column was counted in: then its change is not one of the row.
    pub(crate) fn counts(&self, replica: &Replica, index: usize, number: u16) -> bool {
        let columns = &replica.tables[index].table.columns;
        self.changed.iter().any(|(place, _)| columns[*place].number == number)
    }

    pub(crate) fn write(
        &self,
        conn: &Connection,
        replica: &mut Replica,
        index: usize,
        key: &[Value],
    ) -> Result<(), StoreError> {
        self.changed.iter().try_for_each(|(place, counter)| {
            let number = replica.tables[index].table.columns[*place].number;
            put_counter(conn, replica, index, key, number, counter)
        })
    }
}

/// Changes the counters of a row that is written as a whole.
fn each(
    conn: &Connection,
    replica: &mut Replica,
    (index, key): (usize, &[Value]),
    clock: &RowClock,
    change: impl Fn(&mut Counter, usize),
) -> Result<(), StoreError> {
    for (column, counter) in &clock.counters {
        let (place, mut counter) = (usize::from(*column), counter.clone());
        change(&mut counter, place);
        let number = replica.tables[index].table.columns[place].number;
        put_counter(conn, replica, index, key, number, &counter)?;
    }
    Ok(())
}

/// What became of a row as a whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Written {
    /// What it holds is what its counters are set to.
    Inserted,
    /// What its counters were set to is said anew, beside what was counted.
    Updated,
    /// What was counted is kept for a row that comes after it.
    Deleted,
}

/// Gives a row that was written as a whole, with this entry, its counters.
pub(crate) fn write_whole(
    conn: &Connection,
    replica: &mut Replica,
    (index, key): (usize, &[Value]),
    entry: Entry,
    written: Written,
) -> Result<(), StoreError> {
    let table = &replica.tables[index];
    // Tables without counters are not looked at.
    if table.table.counters().next().is_none() {
        return Ok(());
    }
    let Some(clock) = read_clock(conn, replica, table, key)?.filter(|clock| !clock.counters.is_empty()) else {
        return Ok(());
    };
    let row = read_row(conn, table, key)?.unwrap_or_default();
    each(conn, replica, (index, key), &clock, |counter, place| match (written, row.get(place)) {
        (Written::Inserted, Some(value)) => counter.set_to(entry, value.clone()),
        (Written::Updated, Some(_)) => counter.confirm(entry),
        (Written::Deleted, _) | (_, None) => counter.bury(entry),
    })
}

/// A migration wrote the row while nobody watched: what its counters hold now was counted, or else they were set to it.
pub(crate) fn rewrite(
    conn: &Connection,
    replica: &mut Replica,
    index: usize,
    key: &[Value],
    clock: &RowClock,
    entry: Entry,
) -> Result<(), StoreError> {
    if clock.counters.is_empty() {
        return Ok(());
    }
    let Some(row) = read_row(conn, &replica.tables[index], key)? else { return Ok(()) };
    each(conn, replica, (index, key), clock, |counter, place| {
        let (known, now) = (counter.value(), &row[place]);
        if clock.is_deleted() || (known != *now && !counter.count(entry, &known, now)) {
            counter.set_to(entry, now.clone());
        } else {
            counter.confirm(entry);
        }
    })
}

/// SQLite allows at most 32,767 columns.
fn place_number(place: usize) -> u16 {
    u16::try_from(place).unwrap_or(u16::MAX)
}
