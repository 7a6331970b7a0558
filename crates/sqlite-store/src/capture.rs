//! Capture: the change log that triggers wrote becomes stamped clock entries with dots.
//!
//! Runs inside a write transaction of the daemon. The log says which rows were touched and in what order, nothing more;
//! what became of a row is read from the row. Reads all of the log (up to a limit), deletes what it read.

use std::collections::{BTreeSet, HashMap, hash_map};

use replication::{Entry, EntryFlags, Granularity, RowClock, Timestamp, Value};
use rusqlite::Connection;

use crate::bind::{bind_from, value_at, values_from};
use crate::counting::{self, Before, Counting, Written};
use crate::error::StoreError;
use crate::fail_point::fail_point;
use crate::parked;
use crate::replica::{Replica, ReplicaTable};
use crate::row_clock::{Counters, drop_column_entries, has_entry, put_entry, put_rest, read_clock};
use crate::schema::Collation;
use crate::triggers::{before, mask_bit, op};

/// What one capture did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Captured {
    /// Rows that got a new dot.
    pub(crate) rows: usize,
    /// Log rows read.
    pub(crate) log_rows: usize,
    /// Rows whose key holds NULL: they cannot be named and are not synced.
    pub(crate) null_keys: usize,
    /// Whether the log is empty now.
    pub(crate) drained: bool,
}

/// What the log says of one row.
struct Touched {
    /// The place in the log of the last that is said of it.
    last: i64,
    table: usize,
    key: Vec<Value>,
    inserted: bool,
    deleted: bool,
    /// A deletion was logged, and an insert after it.
    again: bool,
    /// Something other than an update of single columns, or a mere candidate, was logged.
    whole: bool,
    /// Only the guards named the row.
    candidate: bool,
    mask: i64,
    millis: i64,
    /// What counters held before they were first updated.
    before: Before,
}

/// Captures up to `limit` rows of the log.
pub(crate) fn capture(
    conn: &Connection,
    replica: &mut Replica,
    now: i64,
    limit: usize,
) -> Result<Captured, StoreError> {
    let (touched, mut captured) = read_log(conn, replica, limit)?;
    if captured.log_rows == 0 {
        return Ok(captured);
    }
    fail_point("capture-log-read");
    let before = replica.have.clone();
    for row in touched {
        if row.key.iter().any(Value::is_null) {
            captured.null_keys += 1;
        } else if capture_row(conn, replica, &row, now)? {
            captured.rows += 1;
            replica.touched.insert(replica.tables[row.table].table.number);
        }
    }
    fail_point("capture-rows-written");
    replica.save(conn, &before)?;
    Ok(captured)
}

/// Whether the log holds rows.
pub(crate) fn has_log(conn: &Connection) -> Result<bool, StoreError> {
    Ok(conn.prepare_cached("SELECT EXISTS (SELECT 1 FROM main._sync_log)")?.query_row([], |row| row.get(0))?)
}

/// Reads and deletes log rows, joining those of one row, in the order in which rows were touched last.
fn read_log(conn: &Connection, replica: &Replica, limit: usize) -> Result<(Vec<Touched>, Captured), StoreError> {
    let width = replica.tables.iter().map(|table| table.table.key.len()).max().unwrap_or(1);
    let keys: String = (0..width).map(|n| format!(", k{n}")).collect();
    let counters: BTreeSet<u16> =
        replica.tables.iter().flat_map(|table| table.table.counters()).map(|column| column.number).collect();
    let befores: String = counters.iter().map(|number| format!(", {}", before(*number))).collect();
    let mut statement = conn.prepare_cached(&format!(
        "SELECT seq, tbl, op, mask, ts{keys}{befores} FROM main._sync_log ORDER BY seq LIMIT ?1"
    ))?;
    let mut rows = statement.query([i64::try_from(limit).unwrap_or(i64::MAX)])?;
    let mut log = LogReader::default();
    let mut last = None;
    let mut captured = Captured::default();
    while let Some(row) = rows.next()? {
        last = Some(row.get::<_, i64>(0)?);
        captured.log_rows += 1;
        // A table that is gone or no longer synced: its changes have nowhere to go.
        let Some(index) = replica.table_by_number(row.get(1)?) else { continue };
        let table = &replica.tables[index];
        let key = values_from(row, 5, table.table.key.len())?;
        let said = Said { op: row.get(2)?, mask: row.get::<_, Option<i64>>(3)?.unwrap_or(0), millis: row.get(4)? };
        let touched = log.note(row.get(0)?, index, table, key, &said);
        if said.op == op::UPDATE {
            for column in table.table.counters().filter(|column| said.mask & mask_bit(column.number) != 0) {
                let place = counters.iter().position(|number| *number == column.number).unwrap_or(0);
                if let hash_map::Entry::Vacant(first) = touched.before.entry(column.number) {
                    first.insert(value_at(row, 5 + width + place)?);
                }
            }
        }
    }
    drop(rows);
    // Stamps rise with each row: one that was written early and late comes late, or all that were written between would
    // be stamped after it.
    log.touched.sort_by_key(|row| row.last);
    captured.drained = captured.log_rows < limit;
    match last {
        // Without a condition SQLite drops the pages whole.
        Some(_) if captured.drained => conn.prepare_cached("DELETE FROM main._sync_log")?.execute([])?,
        Some(last) => conn.prepare_cached("DELETE FROM main._sync_log WHERE seq <= ?1")?.execute([last])?,
        None => 0,
    };
    Ok((log.touched, captured))
}

#[derive(Default)]
struct LogReader {
    touched: Vec<Touched>,
    places: HashMap<(usize, Vec<Value>), usize>,
}

/// What one log row says.
struct Said {
    op: i64,
    mask: i64,
    millis: i64,
}

impl LogReader {
    fn note(&mut self, place: i64, index: usize, table: &ReplicaTable, key: Vec<Value>, said: &Said) -> &mut Touched {
        let touched = *self.places.entry((index, canonical_key(table, &key))).or_insert_with(|| {
            self.touched.push(Touched {
                last: place,
                table: index,
                key: Vec::new(),
                inserted: false,
                deleted: false,
                again: false,
                whole: false,
                candidate: true,
                mask: 0,
                millis: said.millis,
                before: Before::new(),
            });
            self.touched.len() - 1
        });
        let row = &mut self.touched[touched];
        (row.last, row.key, row.millis) = (place, key, said.millis);
        match said.op {
            op::UPDATE => row.mask |= said.mask,
            op::CANDIDATE => return row,
            op::INSERT => (row.again, row.inserted, row.whole) = (row.again || row.deleted, true, true),
            // A deletion: the row itself tells whether it is still gone.
            _ => (row.deleted, row.whole) = (true, true),
        }
        row.candidate = false;
        row
    }
}

/// Gives one touched row its entries. False if nothing is new.
fn capture_row(conn: &Connection, replica: &mut Replica, row: &Touched, now: i64) -> Result<bool, StoreError> {
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
fn all_columns(table: &ReplicaTable) -> i64 {
    let columns = table.table.columns.iter().enumerate();
    columns
        .filter(|(index, _)| !table.table.key.contains(index))
        .fold(0, |mask, (_, column)| mask | mask_bit(column.number))
}

/// The form of a key in which two keys that SQLite holds equal are equal by bytes: integral reals as integers, NOCASE
/// text in ASCII lower case, RTRIM text without trailing spaces. Triggers log keys after the column's affinity.
pub(crate) fn canonical_key(table: &ReplicaTable, key: &[Value]) -> Vec<Value> {
    let columns = table.table.key.iter().map(|index| &table.table.columns[*index]);
    key.iter().zip(columns).map(|(value, column)| canonical(value, column.collation)).collect()
}

fn canonical(value: &Value, collation: Collation) -> Value {
    match value {
        Value::Real(real) => integral(*real).map_or_else(|| value.clone(), Value::Integer),
        Value::Text(text) => match collation {
            Collation::Binary => value.clone(),
            Collation::NoCase => Value::Text(text.to_ascii_lowercase()),
            Collation::RTrim => {
                let kept = text.iter().rposition(|byte| *byte != b' ').map_or(0, |last| last + 1);
                Value::Text(text[..kept].to_vec())
            }
        },
        _ => value.clone(),
    }
}

/// The integer that a real equals exactly, if there is one.
fn integral(real: f64) -> Option<i64> {
    const LIMIT: f64 = 9_223_372_036_854_775_808.0;
    if real.fract() != 0.0 || !(-LIMIT..LIMIT).contains(&real) {
        return None;
    }
    // Exact: integral and within range.
    #[allow(clippy::cast_possible_truncation)]
    Some(real as i64)
}
