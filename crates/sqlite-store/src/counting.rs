//! What applications count: their updates of counter columns become tallies in the row's clock.
//!
//! No operation is logged, only that a column changed, and what it held before. How much was counted is what the table holds
//! now less what the clock makes of the counter; where nothing was counted before, less what the counter was set to. That
//! is noted beside each row that has a clock, as its content is captured or applied; a row that has none yet was not
//! counted in, and the first update says what it found.

use std::collections::HashMap;

use replication::{Counter, Entry, EntryFlags, RowClock, Value};
use rusqlite::Connection;

use crate::attach;
use crate::error::StoreError;
use crate::migration::next_after;
use crate::replica::Replica;
use crate::row_clock::{Counters, put_counter, read_clock, read_clock_and_settings, read_row};
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
        (mask, before, settings): (i64, &Before, &Counters),
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
            let counter = match (clock.counter(index), setting(settings, index), before.get(&number)) {
                (Some(known), ..) => {
                    let mut counter = known.clone();
                    if !counter.count(entry, &known.value(), now) {
                        counter.set_to(entry, now.clone());
                    }
                    Some(counter)
                }
                (None, Some(held), _) | (None, None, Some(held)) => {
                    let mut counter = Counter::new(*clock.effective(index), held.clone());
                    counter.count(entry, held, now).then_some(counter)
                }
                (None, None, None) => None,
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

/// Takes note of what was counted in columns of a row that were not here, by their names on the wire: what is written now has known
/// it.
pub(crate) fn take_note(
    conn: &Connection,
    replica: &mut Replica,
    (index, key): (usize, &[Value]),
    counted: &[(String, Counter)],
) -> Result<(), StoreError> {
    for (name, waited) in counted {
        let table = &replica.tables[index];
        let named = |known: &String| known.eq_ignore_ascii_case(name);
        let Some(place) = table.wire.columns.iter().position(named) else { continue };
        let column = &table.table.columns[place];
        let clock = read_clock(conn, replica, table, key)?;
        let (Some(clock), true, number) = (clock, column.counter, column.number) else { continue };
        let counter = match clock.counter(place_number(place)) {
            Some(known) => known.joined(waited, false),
            None => waited.clone(),
        };
        put_counter(conn, replica, index, key, number, &counter)?;
    }
    Ok(())
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

/// What the counters of a row are set to in which nothing was counted, as far as it is noted.
pub(crate) fn settings(
    conn: &Connection,
    replica: &Replica,
    index: usize,
    key: &[Value],
) -> Result<Counters, StoreError> {
    let table = &replica.tables[index];
    if table.table.counters().next().is_none() {
        return Ok(Counters::new());
    }
    let found = read_clock_and_settings(conn, replica, table, key)?;
    Ok(found.map(|(_, settings)| settings).unwrap_or_default())
}

/// What a counter was set to.
fn setting(settings: &Counters, column: u16) -> Option<&Value> {
    let found = settings.binary_search_by_key(&column, |(place, _)| *place).ok()?;
    Some(&settings[found].1.base)
}

/// Notes what the counters of a row with this clock and content are set to, where nothing was counted in them.
pub(crate) fn note(
    conn: &Connection,
    replica: &mut Replica,
    (index, key): (usize, &[Value]),
    clock: &RowClock,
    values: &[Value],
) -> Result<(), StoreError> {
    if clock.is_deleted() {
        return Ok(());
    }
    let columns = replica.tables[index].table.columns.iter().enumerate().filter(|(_, column)| column.counter);
    let columns = columns.map(|(place, column)| (place, column.number));
    let columns: Vec<(usize, u16)> =
        columns.filter(|(place, _)| clock.counter(place_number(*place)).is_none()).collect();
    columns.into_iter().try_for_each(|(place, number)| {
        let set = Counter::new(*clock.effective(place_number(place)), values[place].clone());
        put_counter(conn, replica, index, key, number, &set)
    })
}

/// The same for a row as it stands in the file. What is known of counters that nobody was seen to write comes before what
/// they hold: a migration under way may have let somebody count unseen.
pub(crate) fn note_as_it_stands(
    conn: &Connection,
    replica: &mut Replica,
    (index, key): (usize, &[Value]),
    unwritten: &Counters,
) -> Result<(), StoreError> {
    let table = &replica.tables[index];
    if table.table.counters().next().is_none() {
        return Ok(());
    }
    let Some(clock) = read_clock(conn, replica, table, key)? else { return Ok(()) };
    let Some(mut row) = read_row(conn, table, key)? else { return Ok(()) };
    for (column, counter) in unwritten {
        row[usize::from(*column)] = counter.base.clone();
    }
    note(conn, replica, (index, key), &clock, &row)
}

/// The clock of a row that a row which waited is merged with, before what a migration did is looked at: what was counted
/// unseen would be overwritten by what the clocks make of the counters.
pub(crate) fn count_unseen(
    conn: &Connection,
    replica: &mut Replica,
    (index, key): (usize, &[Value]),
    mut clock: RowClock,
    settings: &Counters,
    values: &[Value],
) -> Result<RowClock, StoreError> {
    let unseen = |(column, counter): &&(u16, Counter)| counter.value() != values[usize::from(*column)];
    let unseen: Counters = clock.counters.iter().chain(settings).filter(unseen).cloned().collect();
    if unseen.is_empty() || !attach::is_rewritten(conn, replica.tables[index].table.number)? {
        return Ok(clock);
    }
    let entry = next_after(clock.newest(), replica, EntryFlags::empty());
    for (column, mut counter) in unseen {
        let place = usize::from(column);
        if counter.count(entry, &counter.value(), &values[place]) {
            let number = replica.tables[index].table.columns[place].number;
            put_counter(conn, replica, index, key, number, &counter)?;
            clock.counters.retain(|(known, _)| *known != column);
            clock.counters.push((column, counter));
        }
    }
    clock.counters.sort_unstable_by_key(|(column, _)| *column);
    Ok(clock)
}

/// A row that a migration may have written while nobody watched.
pub(crate) struct Rewritten<'a> {
    pub(crate) index: usize,
    pub(crate) key: &'a [Value],
    /// Its clock and what its counters were set to, before.
    pub(crate) clock: &'a RowClock,
    pub(crate) settings: &'a Counters,
}

/// What the counters of a row hold now that a migration may have written was counted, or else they were set to it. `row` is
/// the row's new entry, `counted` the one of what was counted. True if something was.
pub(crate) fn rewrite(
    conn: &Connection,
    replica: &mut Replica,
    rewritten: &Rewritten<'_>,
    (row, counted): (Entry, Entry),
) -> Result<bool, StoreError> {
    let Rewritten { index, key, clock, settings } = *rewritten;
    if clock.counters.is_empty() && settings.is_empty() {
        return Ok(false);
    }
    let Some(holds) = read_row(conn, &replica.tables[index], key)? else { return Ok(false) };
    let mut any = false;
    for (column, counter) in clock.counters.iter().chain(settings) {
        let (place, mut counter) = (usize::from(*column), counter.clone());
        if clock.is_deleted() {
            counter.set_to(row, holds[place].clone());
        } else {
            any |= counter.follow(&holds[place], row, counted);
        }
        let number = replica.tables[index].table.columns[place].number;
        put_counter(conn, replica, index, key, number, &counter)?;
    }
    Ok(any)
}

/// SQLite allows at most 32,767 columns.
fn place_number(place: usize) -> u16 {
    u16::try_from(place).unwrap_or(u16::MAX)
}
