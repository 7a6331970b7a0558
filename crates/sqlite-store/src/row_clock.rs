//! Reading and writing the clock and the content of single rows.

use replication::{Dot, Entry, EntryFlags, RowClock, RowImage, Timestamp, Value};
use rusqlite::Connection;

use crate::bind::{bind_from, values_from};
use crate::error::StoreError;
use crate::replica::{Replica, ReplicaTable};

/// A row's clock as stored: column entries carry column numbers of the registry there, and indices into the shape here.
/// None if the key has no row entry.
pub(crate) fn read_clock(
    conn: &Connection,
    replica: &Replica,
    table: &ReplicaTable,
    key: &[Value],
) -> Result<Option<RowClock>, StoreError> {
    let mut statement = conn.prepare_cached(&table.sql.clock_entries)?;
    bind_from(&mut statement, 1, key)?;
    let mut rows = statement.raw_query();
    let mut clock: Option<RowClock> = None;
    while let Some(row) = rows.next()? {
        let column: i64 = row.get(0)?;
        let entry = Entry {
            timestamp: Timestamp::from_raw(row.get(1)?).unwrap_or_default(),
            dot: Dot { origin: replica.origin(row.get(2)?)?, sequence: row.get::<_, i64>(3)?.cast_unsigned() },
            flags: EntryFlags::from_bits(row.get(4)?),
        };
        match &mut clock {
            None if column == 0 => clock = Some(RowClock::whole(entry)),
            // An entry of a column that the table no longer has speaks for nothing.
            Some(clock) => {
                if let Some(index) = table.table.columns.iter().position(|known| i64::from(known.number) == column) {
                    clock.columns.push((u16::try_from(index).unwrap_or(u16::MAX), entry));
                }
            }
            None => {}
        }
    }
    if let Some(clock) = &mut clock {
        clock.columns.sort_unstable_by_key(|(index, _)| *index);
    }
    Ok(clock)
}

/// The content of the row with a key: all synced columns in the table's order.
pub(crate) fn read_row(
    conn: &Connection,
    table: &ReplicaTable,
    key: &[Value],
) -> Result<Option<Vec<Value>>, StoreError> {
    let mut statement = conn.prepare_cached(&table.sql.row)?;
    bind_from(&mut statement, 1, key)?;
    let mut rows = statement.raw_query();
    match rows.next()? {
        Some(row) => Ok(Some(values_from(row, 0, table.table.columns.len())?)),
        None => Ok(None),
    }
}

/// The image of a row that has a row entry; none if it has none.
///
/// A living clock without a row cannot occur once the log is captured; it is treated as absent.
pub(crate) fn read_image(
    conn: &Connection,
    replica: &Replica,
    table: &ReplicaTable,
    key: &[Value],
) -> Result<Option<RowImage>, StoreError> {
    let Some(clock) = read_clock(conn, replica, table, key)? else { return Ok(None) };
    if clock.is_deleted() {
        return Ok(Some(RowImage { values: key.to_vec(), clock }));
    }
    Ok(read_row(conn, table, key)?.map(|values| RowImage { values, clock }))
}

/// Writes one entry of a key; `column` 0 is the row, else a column number of the registry.
pub(crate) fn put_entry(
    conn: &Connection,
    replica: &mut Replica,
    index: usize,
    key: &[Value],
    column: u16,
    entry: &Entry,
) -> Result<(), StoreError> {
    let id = replica.origin_id(conn, entry.dot.origin)?;
    let table = &mut replica.tables[index];
    table.high.raise(entry.dot.origin, entry.dot.sequence);
    let mut statement = conn.prepare_cached(&table.sql.clock_put)?;
    bind_from(&mut statement, 1, key)?;
    let next = key.len() + 1;
    statement.raw_bind_parameter(next, column)?;
    statement.raw_bind_parameter(next + 1, entry.timestamp.raw())?;
    statement.raw_bind_parameter(next + 2, id)?;
    statement.raw_bind_parameter(next + 3, entry.dot.sequence.cast_signed())?;
    statement.raw_bind_parameter(next + 4, entry.flags.bits())?;
    statement.raw_execute()?;
    Ok(())
}

/// Removes all column entries of a key: the row was written as a whole.
pub(crate) fn drop_column_entries(conn: &Connection, table: &ReplicaTable, key: &[Value]) -> Result<(), StoreError> {
    let mut statement = conn.prepare_cached(&table.sql.clock_drop_columns)?;
    bind_from(&mut statement, 1, key)?;
    statement.raw_execute()?;
    Ok(())
}

/// Replaces the whole clock of a key. `had_columns` says whether column entries may exist.
pub(crate) fn put_clock(
    conn: &Connection,
    replica: &mut Replica,
    index: usize,
    key: &[Value],
    clock: &RowClock,
    had_columns: bool,
) -> Result<(), StoreError> {
    if had_columns {
        drop_column_entries(conn, &replica.tables[index], key)?;
    }
    put_entry(conn, replica, index, key, 0, &clock.row)?;
    for (column, entry) in &clock.columns {
        let number = replica.tables[index].table.columns[usize::from(*column)].number;
        put_entry(conn, replica, index, key, number, entry)?;
    }
    Ok(())
}

/// Runs a statement whose lines begin with a key.
pub(crate) fn collect_keys(
    statement: &mut rusqlite::Statement<'_>,
    width: usize,
) -> Result<Vec<Vec<Value>>, StoreError> {
    let mut rows = statement.raw_query();
    let mut keys = Vec::new();
    while let Some(row) = rows.next()? {
        keys.push(values_from(row, 0, width)?);
    }
    Ok(keys)
}
