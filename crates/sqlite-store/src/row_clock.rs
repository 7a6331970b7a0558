//! Reading and writing the clock and the content of single rows.

mod stored;

use replication::{Counter, Dot, Entry, EntryFlags, Granularity, RowClock, RowImage, Tally, Timestamp, Value};
use rusqlite::{Connection, Row};

pub(crate) use stored::{Counters, counter_places, order_bytes};
pub(crate) use stored::{ORIGIN_BITS, REST_PLACE};
use stored::{StoredCounters, authored_bytes, authored_from, encoded, set_place, tally_place};

use crate::bind::{bind_from, values_from};
use crate::error::StoreError;
use crate::parked;
use crate::replica::{Replica, ReplicaTable};
use crate::table_sql::AT_ONCE;

/// A row's clock as stored: column entries carry column numbers of the registry there, and indices into the shape here.
/// None if the key has no row entry.
pub(crate) fn read_clock(
    conn: &Connection,
    replica: &Replica,
    table: &ReplicaTable,
    key: &[Value],
) -> Result<Option<RowClock>, StoreError> {
    Ok(read_clock_and_settings(conn, replica, table, key)?.map(|(clock, _)| clock))
}

/// The same, and what its counters hold in which nothing was counted, as far as this database has seen to it.
pub(crate) fn read_clock_and_settings(
    conn: &Connection,
    replica: &Replica,
    table: &ReplicaTable,
    key: &[Value],
) -> Result<Option<(RowClock, Counters)>, StoreError> {
    let mut statement = conn.prepare_cached(&table.sql.clock_entries)?;
    bind_from(&mut statement, 1, key)?;
    let mut rows = statement.raw_query();
    let mut reader = ClockReader::default();
    while let Some(row) = rows.next()? {
        reader.note(replica, table, row, 0)?;
    }
    reader.finish(conn, replica, table, key)
}

/// The clock of one row, as its lines are read.
#[derive(Default)]
pub(crate) struct ClockReader {
    row: Option<Entry>,
    columns: Vec<(u16, Entry)>,
    counters: StoredCounters,
    rest: Option<Entry>,
    has_columns: bool,
    has_more: bool,
}

impl ClockReader {
    /// Takes a line: col, ts, origin, seq, flags and more, from a column of the result on.
    pub(crate) fn note(
        &mut self,
        replica: &Replica,
        table: &ReplicaTable,
        row: &Row<'_>,
        first: usize,
    ) -> Result<(), StoreError> {
        let column: i64 = row.get(first)?;
        let mut entry = Entry::new(
            Timestamp::from_raw(row.get(first + 1)?).unwrap_or_default(),
            Dot {
                origin: replica.origin(row.get(first + 2)?)?,
                sequence: row.get::<_, i64>(first + 3)?.cast_unsigned(),
            },
            EntryFlags::from_bits(row.get(first + 4)?),
        );
        let more = row.get_ref(first + 5)?.as_blob_or_null().map_err(rusqlite::Error::from)?;
        self.has_columns |= column > 0;
        self.has_more |= column < 0;
        if column == REST_PLACE {
            self.rest = Some(entry);
        } else if column < 0 {
            self.counters.note(column, entry, more.unwrap_or_default())?;
        } else {
            entry.authored = more.and_then(authored_from);
            if column == 0 {
                self.row = Some(entry);
            } else {
                // An entry of a column that the table no longer has speaks for nothing.
                self.columns.extend(place_of(table, column).map(|place| (place, entry)));
            }
        }
        Ok(())
    }

    /// Whether there were entries of single columns.
    pub(crate) const fn has_columns(&self) -> bool {
        self.has_columns
    }

    /// Whether there was something else than entries of the row and of columns.
    pub(crate) const fn has_more(&self) -> bool {
        self.has_more
    }

    /// The clock, and what its counters hold in which nothing was counted. None if there was no row entry.
    pub(crate) fn finish(
        self,
        conn: &Connection,
        replica: &Replica,
        table: &ReplicaTable,
        key: &[Value],
    ) -> Result<Option<(RowClock, Counters)>, StoreError> {
        let Self { row, columns, counters, rest, .. } = self;
        let Some(row) = row else { return Ok(None) };
        let mut clock = RowClock { columns, ..RowClock::whole(row) };
        clock.rest = rest.filter(|_| !clock.is_deleted());
        for column in unspoken(table, &clock) {
            let apart =
                if table.rules.granularity == Granularity::Row { EntryFlags::APART } else { EntryFlags::empty() };
            let entry = match clock.rest {
                // The row took the place of a deleted one when the column was not here: it speaks for that as it does elsewhere.
                Some(rest) if !parked::has_cell(conn, replica, &table.wire, (key, column))? => rest.filled(),
                _ => Entry::never(replica.own),
            };
            clock.columns.push((column, Entry { flags: entry.flags.with(apart), ..entry }));
        }
        clock.columns.sort_unstable_by_key(|(index, _)| *index);
        let (counted, mut settings) = counters.finish(|number| place_of(table, number));
        clock.counters = counted;
        settings.retain(|(column, counter)| !clock.is_deleted() && counter.set.dot == clock.effective(*column).dot);
        Ok(Some((clock, settings)))
    }
}

/// The columns that a clock as stored does not speak for: they came later than the row entry, and have none of their own.
pub(crate) fn unspoken(table: &ReplicaTable, clock: &RowClock) -> Vec<u16> {
    let older = table.born.iter().filter(|(_, born)| !clock.is_deleted() && born.covers(clock.row.dot));
    let own = |column: u16| clock.columns.iter().any(|(known, _)| *known == column);
    older.map(|(column, _)| *column).filter(|column| !own(*column)).collect()
}

/// The place in the shape of the column with a number of the registry.
fn place_of(table: &ReplicaTable, number: i64) -> Option<u16> {
    let place = table.table.columns.iter().position(|known| i64::from(known.number) == number)?;
    u16::try_from(place).ok()
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

/// Whether a key has a row entry: its row is there, or was deleted.
pub(crate) fn has_entry(conn: &Connection, table: &ReplicaTable, key: &[Value]) -> Result<bool, StoreError> {
    let mut statement = conn.prepare_cached(&table.sql.clock_exists)?;
    bind_from(&mut statement, 1, key)?;
    Ok(statement.raw_query().next()?.is_some())
}

/// Whether a column, by its number in the registry, has an entry of its own in the row of a key, and somebody wrote it.
pub(crate) fn has_column_entry(
    conn: &Connection,
    table: &ReplicaTable,
    key: &[Value],
    column: u16,
) -> Result<bool, StoreError> {
    let mut statement = conn.prepare_cached(&table.sql.clock_entries)?;
    bind_from(&mut statement, 1, key)?;
    let mut rows = statement.raw_query();
    while let Some(row) = rows.next()? {
        if row.get::<_, i64>(0)? == i64::from(column) && row.get::<_, i64>(3)? > 0 {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Writes what speaks for columns that are not here.
pub(crate) fn put_rest(
    conn: &Connection,
    replica: &mut Replica,
    index: usize,
    key: &[Value],
    entry: &Entry,
) -> Result<(), StoreError> {
    put(conn, replica, index, key, (REST_PLACE, None), entry)
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
    let more = entry.authored.map(authored_bytes);
    put(conn, replica, index, key, (i64::from(column), more.as_ref().map(|bytes| bytes.as_slice())), entry)
}

/// Writes a counter of a key; `column` is a column number of the registry.
pub(crate) fn put_counter(
    conn: &Connection,
    replica: &mut Replica,
    index: usize,
    key: &[Value],
    column: u16,
    counter: &Counter,
) -> Result<(), StoreError> {
    let base = encoded(std::slice::from_ref(&counter.base))?;
    put(conn, replica, index, key, (set_place(column), Some(&base)), &counter.set)?;
    for Tally { entry, sum, absorbed, absorbed_at } in &counter.tallies {
        let id = replica.origin_id(conn, entry.dot.origin)?;
        let more = encoded(&[sum.clone(), absorbed.clone(), Value::Integer(absorbed_at.cast_signed())])?;
        put(conn, replica, index, key, (tally_place(column, id), Some(&more)), entry)?;
    }
    Ok(())
}

fn put(
    conn: &Connection,
    replica: &mut Replica,
    index: usize,
    key: &[Value],
    (place, more): (i64, Option<&[u8]>),
    entry: &Entry,
) -> Result<(), StoreError> {
    let id = replica.origin_id(conn, entry.dot.origin)?;
    let mut statement = conn.prepare_cached(&replica.tables[index].sql.clock_put)?;
    bind_from(&mut statement, 1, key)?;
    let next = key.len() + 1;
    statement.raw_bind_parameter(next, place)?;
    statement.raw_bind_parameter(next + 1, entry.timestamp.raw())?;
    statement.raw_bind_parameter(next + 2, id)?;
    statement.raw_bind_parameter(next + 3, entry.dot.sequence.cast_signed())?;
    statement.raw_bind_parameter(next + 4, entry.flags.bits())?;
    statement.raw_bind_parameter(next + 5, more)?;
    // What was there is known to bear its dot.
    let is_new = statement.raw_execute()? > 0;
    if is_new { replica.add_dot(index, entry.dot, key) } else { Ok(()) }
}

/// An entry that is to be written under a key: `column` 0 is the row, else a column number of the registry.
pub(crate) type KeyEntry<'a> = (&'a [Value], u16, Entry);

/// Writes entries of one table, many to a statement. None stands for another change.
pub(crate) fn put_entries(
    conn: &Connection,
    replica: &mut Replica,
    index: usize,
    entries: &[KeyEntry<'_>],
) -> Result<(), StoreError> {
    let together = entries.chunks_exact(AT_ONCE);
    let rest = together.remainder();
    for entries in together {
        let mut ids = [0; AT_ONCE];
        for (id, (key, _, entry)) in ids.iter_mut().zip(entries) {
            *id = replica.origin_id(conn, entry.dot.origin)?;
            replica.add_dot(index, entry.dot, key)?;
        }
        let mut statement = conn.prepare_cached(&replica.tables[index].many.upsert_entries)?;
        let mut place = 1;
        for ((key, column, entry), id) in entries.iter().zip(ids) {
            bind_from(&mut statement, place, key)?;
            place += key.len();
            let (sequence, flags) = (entry.dot.sequence.cast_signed(), i64::from(entry.flags.bits()));
            for number in [i64::from(*column), entry.timestamp.raw(), id, sequence, flags] {
                statement.raw_bind_parameter(place, number)?;
                place += 1;
            }
        }
        statement.raw_execute()?;
    }
    rest.iter().try_for_each(|(key, column, entry)| put_entry(conn, replica, index, key, *column, entry))
}

/// Removes all column entries of a key: the row was written as a whole.
pub(crate) fn drop_column_entries(conn: &Connection, table: &ReplicaTable, key: &[Value]) -> Result<(), StoreError> {
    let mut statement = conn.prepare_cached(&table.sql.clock_drop_columns)?;
    bind_from(&mut statement, 1, key)?;
    statement.raw_execute()?;
    Ok(())
}

/// The same of many keys.
pub(crate) fn drop_column_entries_of(
    conn: &Connection,
    table: &ReplicaTable,
    keys: &[&[Value]],
) -> Result<(), StoreError> {
    let mut singly = keys;
    if let Some(sql) = &table.many.drop_columns {
        let together = keys.chunks_exact(AT_ONCE);
        singly = together.remainder();
        for keys in together {
            let mut statement = conn.prepare_cached(sql)?;
            for (key, place) in keys.iter().zip(1..) {
                bind_from(&mut statement, place, key)?;
            }
            statement.raw_execute()?;
        }
    }
    singly.iter().try_for_each(|key| drop_column_entries(conn, table, key))
}

/// Removes the entries of a key but that of the row, what was counted, and those in some places: what stays is not told of anew.
fn drop_parts_but(conn: &Connection, table: &ReplicaTable, key: &[Value], stay: &[i64]) -> Result<(), StoreError> {
    let mut statement = conn.prepare_cached(&table.sql.clock_entries)?;
    bind_from(&mut statement, 1, key)?;
    let mut lines = statement.raw_query();
    let mut going = Vec::new();
    while let Some(line) = lines.next()? {
        let place: i64 = line.get(0)?;
        if (place > 0 || place == REST_PLACE) && !stay.contains(&place) {
            going.push(place);
        }
    }
    for place in going {
        let mut statement = conn.prepare_cached(&table.sql.clock_drop_place)?;
        bind_from(&mut statement, 1, key)?;
        statement.raw_bind_parameter(key.len() + 1, place)?;
        statement.raw_execute()?;
    }
    Ok(())
}

/// Replaces the whole clock of a key. `had_columns` says whether entries of columns may exist, or of all that are not here.
pub(crate) fn put_clock(
    conn: &Connection,
    replica: &mut Replica,
    index: usize,
    key: &[Value],
    clock: &RowClock,
    had_columns: bool,
) -> Result<(), StoreError> {
    let columns = &replica.tables[index].table.columns;
    // Here the row entry speaks for all columns that have none of their own.
    let spoken = unspoken(&replica.tables[index], clock).into_iter().map(|column| (column, clock.row));
    let parts = clock.columns.iter().copied().chain(spoken);
    let parts: Vec<(u16, Entry)> = parts.map(|(column, entry)| (columns[usize::from(column)].number, entry)).collect();
    if had_columns {
        let places = parts.iter().map(|(number, _)| i64::from(*number));
        let stay: Vec<i64> = places.chain(clock.rest.map(|_| REST_PLACE)).collect();
        drop_parts_but(conn, &replica.tables[index], key, &stay)?;
    }
    put_entry(conn, replica, index, key, 0, &clock.row)?;
    if let Some(rest) = &clock.rest {
        put_rest(conn, replica, index, key, rest)?;
    }
    for (number, entry) in &parts {
        put_entry(conn, replica, index, key, *number, entry)?;
    }
    for (column, counter) in &clock.counters {
        let number = replica.tables[index].table.columns[usize::from(*column)].number;
        put_counter(conn, replica, index, key, number, counter)?;
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
