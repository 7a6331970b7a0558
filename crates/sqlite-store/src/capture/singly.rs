//! Capture of one row at a time: whatever was done to it.

use std::collections::BTreeSet;

use replication::{Entry, EntryFlags, Granularity, RowClock, Timestamp, Value};
use rusqlite::Connection;

use super::log::Touched;
use crate::bind::bind_from;
use crate::counting::{self, Counting, Written};
use crate::error::StoreError;
use crate::parked;
use crate::replica::{Replica, ReplicaTable};
use crate::row_clock::{Counters, drop_column_entries, has_entry, put_entry, put_rest, read_clock};
use crate::triggers::mask_bit;

/// Gives one touched row its entries. False if nothing is new.
pub(super) fn capture_row(
    conn: &Connection,
    replica: &mut Replica,
    row: &Touched,
    now: i64,
) -> Result<bool, StoreError> {
    let table = &replica.tables[row.table];
    let exists = {
        let mut statement = conn.prepare_cached(&table.sql.exists)?;
        bind_from(&mut statement, 1, &row.key)?;
        statement.raw_query().next()?.is_some()
    };
    if exists && row.candidate {
        return Ok(false);
    }
    let settings = counting::settings(conn, replica, row.table, &row.key)?;
    if !exists {
        write_whole(conn, replica, row, EntryFlags::DELETED, &[], now)?;
    } else if row.whole {
        let flags = if row.inserted { EntryFlags::INSERTED } else { EntryFlags::empty() };
        write_whole(conn, replica, row, flags, &[], now)?;
    } else {
        write_update(conn, replica, row, &settings, now)?;
    }
    let unwritten = if row.whole { Vec::new() } else { unwritten(replica, row, settings) };
    counting::note_as_it_stands(conn, replica, (row.table, &row.key), &unwritten)?;
    Ok(true)
}

/// Those of a row's counters that an update left alone.
fn unwritten(replica: &Replica, row: &Touched, mut settings: Counters) -> Counters {
    let columns = &replica.tables[row.table].table.columns;
    settings.retain(|(column, _)| row.mask & mask_bit(columns[usize::from(*column)].number) == 0);
    settings
}

/// Gives an updated row its entries: tallies of what was counted, and of the rest an entry of the row or of its columns.
fn write_update(
    conn: &Connection,
    replica: &mut Replica,
    row: &Touched,
    settings: &Counters,
    now: i64,
) -> Result<(), StoreError> {
    let table = &replica.tables[row.table];
    let (every, whole) = (all_columns(table), table.rules.granularity == Granularity::Row);
    let counts = table.table.counters().next().is_some();
    if !counts && row.mask & every == every {
        return write_whole(conn, replica, row, EntryFlags::empty(), &[], now).map(drop);
    }
    let clock = match read_clock(conn, replica, table, &row.key)? {
        Some(clock) => clock,
        None => RowClock::whole(give_row_entry(conn, replica, row.table, &row.key, None)?),
    };
    let timestamp = replica.clock.stamp(row.millis, now);
    let entry = Entry::new(timestamp, replica.next_dot(), EntryFlags::empty());
    let place = (row.table, row.key.as_slice());
    let counting = Counting::of_update(conn, replica, place, &clock, (row.mask, &row.before, settings), entry)?;
    let columns = replica.tables[row.table].table.columns.iter().map(|column| column.number);
    let written =
        columns.filter(|number| row.mask & mask_bit(*number) != 0 && !counting.counts(replica, row.table, *number));
    let written: Vec<u16> = written.collect();
    counting.write(conn, replica, row.table, &row.key)?;
    if written.is_empty() {
        return Ok(());
    }
    if whole || row.mask & every == every {
        let kept = if whole { untouched_unique(replica, row, &clock) } else { Vec::new() };
        return put_whole(conn, replica, row, entry, &kept);
    }
    written.into_iter().try_for_each(|number| put_entry(conn, replica, row.table, &row.key, number, &entry))
}

/// The entries, by column number, of columns that decide over unique values and that an update of a row as a whole left
/// alone: who keeps a unique value is judged by when it was written, not by when anything in its row was.
fn untouched_unique(replica: &Replica, row: &Touched, clock: &RowClock) -> Vec<(u16, Entry)> {
    let table = &replica.tables[row.table].table;
    let deciding: BTreeSet<usize> =
        table.unique.iter().filter_map(|index| table.deciding_columns(index)).flatten().collect();
    let untouched = deciding.into_iter().filter(|index| row.mask & mask_bit(table.columns[*index].number) == 0);
    // The writer's table has all columns: the row is one again.
    let entry = |index: usize| {
        let entry = clock.effective(u16::try_from(index).unwrap_or(u16::MAX));
        Entry { flags: entry.flags.without(EntryFlags::APART), ..*entry }
    };
    untouched.map(|index| (table.columns[index].number, entry(index))).collect()
}

/// Writes the row's own entry as a new change.
fn write_whole(
    conn: &Connection,
    replica: &mut Replica,
    row: &Touched,
    flags: EntryFlags,
    kept: &[(u16, Entry)],
    now: i64,
) -> Result<(), StoreError> {
    let timestamp = replica.clock.stamp(row.millis, now);
    let entry = Entry::new(timestamp, replica.next_dot(), flags);
    put_whole(conn, replica, row, entry, kept)
}

/// Writes the row's own entry, and the entries of the columns that are to keep theirs.
fn put_whole(
    conn: &Connection,
    replica: &mut Replica,
    row: &Touched,
    entry: Entry,
    kept: &[(u16, Entry)],
) -> Result<(), StoreError> {
    let key = row.key.as_slice();
    let written = match (entry.flags.contains(EntryFlags::DELETED), row.whole) {
        (true, _) => Written::Deleted,
        (false, true) => Written::Inserted,
        (false, false) => Written::Updated,
    };
    if !matches!(written, Written::Updated) && replica.waiting.rows > 0 {
        let shape = replica.tables[row.table].wire.clone();
        let counted = parked::forget_columns(conn, replica, &shape, (key, entry))?;
        counting::take_note(conn, replica, (row.table, key), &counted)?;
    }
    if matches!(written, Written::Inserted) && (row.again || has_entry(conn, &replica.tables[row.table], key)?) {
        // What the row had before that it takes the place of has gone, here and in columns that others have.
        put_rest(conn, replica, row.table, key, &entry)?;
    }
    counting::write_whole(conn, replica, (row.table, key), entry, written)?;
    drop_column_entries(conn, &replica.tables[row.table], key)?;
    put_entry(conn, replica, row.table, key, 0, &entry)?;
    kept.iter().try_for_each(|(column, entry)| put_entry(conn, replica, row.table, key, *column, entry))
}

/// Gives a baseline row its row entry: a dot, so that it can travel, and the stamp 0, so that every change since attach
/// beats it. `values` is what it holds, unless that is later than the entry.
pub(crate) fn give_row_entry(
    conn: &Connection,
    replica: &mut Replica,
    table: usize,
    key: &[Value],
    values: Option<&[Value]>,
) -> Result<Entry, StoreError> {
    let entry = Entry::new(Timestamp::BASELINE, replica.next_dot(), EntryFlags::INSERTED);
    put_entry(conn, replica, table, key, 0, &entry)?;
    if let Some(values) = values {
        counting::note(conn, replica, (table, key), &RowClock::whole(entry), values)?;
    }
    Ok(entry)
}

/// The mask in which every column that is not part of the key differs.
pub(super) fn all_columns(table: &ReplicaTable) -> i64 {
    let columns = table.table.columns.iter().enumerate();
    columns
        .filter(|(index, _)| !table.table.key.contains(index))
        .fold(0, |mask, (_, column)| mask | mask_bit(column.number))
}
