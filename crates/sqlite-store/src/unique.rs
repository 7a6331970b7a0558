//! Rows that unique indexes refuse.
//!
//! Such a row waits until the rest of the batch is written. What still clashes then makes way for each other, under the
//! old rowids; what clashes even so has met a row of another key, and the newest writer of the unique value keeps it.

use std::collections::BTreeSet;

use replication::{
    ConflictKind, Decided, Decision, Dot, Entry, EntryFlags, Origin, RowClock, RowImage, Timestamp, Value,
};
use rusqlite::Connection;

use crate::apply::{HeldKind, Stop, Work};
use crate::bind::{bind_from, values_from};
use crate::capture::give_row_entry;
use crate::conflict_record::record_conflict;
use crate::error::StoreError;
use crate::identifier::quote;
use crate::replica::{Replica, ReplicaTable};
use crate::row_clock::{collect_keys, put_clock, read_clock, read_row};
use crate::row_write::{RowWrite, delete, insert_under, refused, write_row};

/// Who decides over unique values, whatever decides over rows: the newest writer keeps the value.
const POLICY: &str = "last-write-wins";

/// Writes the rows that unique indexes refused so far.
pub(crate) fn settle(work: &mut Work<'_>) -> Result<(), Stop> {
    try_again(work)?;
    if work.deferred.is_empty() {
        return Ok(());
    }
    let mut probe = Probe::default();
    // Only with this setting does a REPLACE fire the delete triggers of the rows that it takes out. Setting it makes
    // SQLite prepare every statement anew, hence once for all rows.
    work.conn.execute_batch("PRAGMA recursive_triggers = ON")?;
    let settled =
        bring_along(work, &mut probe).and_then(|()| try_again(work)).and_then(|()| make_way(work, &mut probe));
    work.conn.execute_batch("PRAGMA recursive_triggers = OFF")?;
    settled?;
    Ok(probe.remove(work.conn)?)
}

/// Tries the rows again, the last first: a chain of rows that each take the value of the next comes free from its end. Goes
/// on while that helps a good part of them, so that a long chain in no order does not take quadratic time.
fn try_again(work: &mut Work<'_>) -> Result<(), Stop> {
    loop {
        let before = work.deferred.len();
        let mut refused = Vec::new();
        for write in std::mem::take(&mut work.deferred).into_iter().rev() {
            if !write_row(work.conn, &work.replica.tables[write.table], &write)? {
                refused.push(write);
            }
        }
        work.deferred = refused;
        let written = before - work.deferred.len();
        if written * 8 <= before {
            return Ok(());
        }
    }
}

/// A row in the way whose newer state is staged is not what the sender has: that state is merged now, in the same
/// transaction.
fn bring_along(work: &mut Work<'_>, probe: &mut Probe) -> Result<(), Stop> {
    let Some(stage) = work.stage else { return Ok(()) };
    let mut next = 0;
    while let Some(write) = work.deferred.get(next) {
        next += 1;
        let Some(new) = &write.new else { continue };
        let index = write.table;
        for rival in possible_rivals(work.conn, index, &work.replica.tables[index], &write.key, new, probe)? {
            if let Some(staged) = stage.take(work.conn, work.replica, index, &rival)? {
                work.row(staged.table, staged.row, &staged.context)?;
            }
        }
    }
    Ok(())
}

/// The rows that may stand in a row's way, other than that of `key`.
fn possible_rivals(
    conn: &Connection,
    index: usize,
    table: &ReplicaTable,
    key: &[Value],
    new: &[Value],
    probe: &mut Probe,
) -> Result<Vec<Vec<Value>>, Stop> {
    let Some(finders) = &table.sql.same_unique else { return Ok(probe.rivals(conn, index, table, key, new)?.0) };
    let mut found = Vec::new();
    for (sql, columns) in finders {
        let mut statement = conn.prepare_cached(sql)?;
        let values: Vec<Value> = columns.iter().map(|column| new[*column].clone()).collect();
        bind_from(&mut statement, 1, &values)?;
        let keys = collect_keys(&mut statement, key.len())?;
        found.extend(keys.into_iter().filter(|rival| rival != key));
    }
    Ok(found)
}

/// A circle of rows, or rows of other keys in the way: all make way, then all come back under their rowids.
fn make_way(work: &mut Work<'_>, probe: &mut Probe) -> Result<(), Stop> {
    let waiting = std::mem::take(&mut work.deferred);
    let mut out = Vec::with_capacity(waiting.len());
    for write in waiting {
        let place = take_out(work.conn, &work.replica.tables[write.table], &write)?;
        out.push((write, place));
    }
    // New rows last: SQLite might give them a rowid that is to be had back.
    out.sort_by_key(|(_, place)| place.rowid.is_none());
    out.into_iter().try_for_each(|(write, place)| put_back(work, probe, write, &place))
}

/// What a row that makes way is to have again when it comes back.
#[derive(Debug, Default)]
struct Vacated {
    /// Its rowid, where that is not a column.
    rowid: Option<i64>,
    /// What is in its excluded columns.
    excluded: Vec<Value>,
}

/// Deletes the row as it stood.
fn take_out(conn: &Connection, table: &ReplicaTable, write: &RowWrite) -> Result<Vacated, Stop> {
    if write.old.is_none() {
        return Ok(Vacated::default());
    }
    let mut excluded = Vec::new();
    if let Some(sql) = &table.sql.excluded {
        let mut statement = conn.prepare_cached(&sql.read)?;
        bind_from(&mut statement, 1, &write.key)?;
        if let Some(row) = statement.raw_query().next()? {
            excluded = values_from(row, 0, sql.count)?;
        }
    }
    let rowid = match &table.sql.rowid {
        Some(sql) => {
            let mut statement = conn.prepare_cached(sql)?;
            bind_from(&mut statement, 1, &write.key)?;
            let mut rows = statement.raw_query();
            match rows.next()? {
                Some(row) => Some(row.get(0)?),
                None => None,
            }
        }
        None => None,
    };
    delete(conn, table, &write.key)?;
    Ok(Vacated { rowid, excluded })
}

/// Inserts a row in the place that it had. False if a unique index refuses it.
fn insert_back(conn: &Connection, table: &ReplicaTable, write: &RowWrite, place: &Vacated) -> Result<bool, Stop> {
    let Some(new) = &write.new else { return Ok(true) };
    if !insert_under(conn, table, new, place.rowid)? {
        return Ok(false);
    }
    if let Some(sql) = table.sql.excluded.as_ref().filter(|_| !place.excluded.is_empty()) {
        let mut statement = conn.prepare_cached(&sql.write)?;
        bind_from(&mut statement, 1, &write.key)?;
        bind_from(&mut statement, write.key.len() + 1, &place.excluded)?;
        statement.raw_execute().map_err(|error| refused(table, error))?;
    }
    Ok(true)
}

fn put_back(work: &mut Work<'_>, probe: &mut Probe, write: RowWrite, place: &Vacated) -> Result<(), Stop> {
    let Some(new) = &write.new else { return Ok(()) };
    let index = write.table;
    if insert_back(work.conn, &work.replica.tables[index], &write, place)? {
        return Ok(());
    }
    let (rivals, nameless) = probe.rivals(work.conn, index, &work.replica.tables[index], &write.key, new)?;
    let kind = if rivals.len() > 1 { ConflictKind::MultipleUniqueConflicts } else { ConflictKind::UniqueExists };
    let mut loses = false;
    let mut images = Vec::with_capacity(rivals.len());
    for key in rivals {
        let table = &work.replica.tables[index];
        let Some(values) = read_row(work.conn, table, &key)? else { continue };
        let clock = match read_clock(work.conn, work.replica, table, &key)? {
            Some(clock) => clock,
            None => RowClock::whole(give_row_entry(work.conn, work.replica, index, &key, Some(&values))?),
        };
        let table = &work.replica.tables[index];
        loses |= claim(table, &values, new, &clock) > claim(table, new, &values, &write.clock);
        images.push((key, RowImage { values, clock }));
    }
    let incoming = RowImage { values: new.clone(), clock: write.clock.clone() };
    if loses {
        let decided = Decided { kind, decision: Decision::LocalKept, columns: Vec::new(), policy: POLICY.to_owned() };
        let winner = images.first().map(|(_, image)| image);
        record(work, index, &write.key, winner, &incoming, &decided)?;
        return Ok(displace(work.conn, work.replica, index, &write.key, &write.clock, work.rules.now)?);
    }
    for (key, image) in &images {
        let decided =
            Decided { kind, decision: Decision::RemoteApplied, columns: Vec::new(), policy: POLICY.to_owned() };
        record(work, index, key, Some(image), &incoming, &decided)?;
        delete(work.conn, &work.replica.tables[index], key)?;
        work.applied.written.deleted += 1;
        displace(work.conn, work.replica, index, key, &image.clock, work.rules.now)?;
    }
    for rowid in nameless {
        remove_nameless(work, index, rowid, &incoming, kind)?;
    }
    if insert_back(work.conn, &work.replica.tables[index], &write, place)? {
        return Ok(());
    }
    Err(Stop::held(
        HeldKind::Constraint,
        Some(&work.replica.tables[index].wire.name),
        "a row is refused as not unique although no row with its values is left: an index is damaged, or a trigger of the table writes what is there already".to_owned(),
        "run PRAGMA integrity_check and REINDEX on this file, and look at what its triggers write",
    ))
}

/// A row whose key holds NULL is not synced: nobody else can know it, and it gives way to one that all have. The record
/// keeps it.
fn remove_nameless(
    work: &mut Work<'_>,
    index: usize,
    rowid: i64,
    incoming: &RowImage,
    kind: ConflictKind,
) -> Result<(), Stop> {
    let table = &work.replica.tables[index];
    let Some(sql) = &table.sql.by_rowid else { return Ok(()) };
    let columns = table.shape.columns.len();
    let values = work.conn.prepare_cached(&sql.row)?.query_row([rowid], |row| values_from(row, 0, columns))?;
    let key: Vec<Value> = table.shape.key.iter().map(|column| values[usize::from(*column)].clone()).collect();
    work.conn.prepare_cached(&sql.delete)?.execute([rowid])?;
    // It has no clock: it counts as what was there before everything else.
    let dot = Dot { origin: work.replica.own, sequence: 0 };
    let entry = Entry::new(Timestamp::BASELINE, dot, EntryFlags::empty());
    let image = RowImage { values, clock: RowClock::whole(entry) };
    let decided = Decided { kind, decision: Decision::RemoteApplied, columns: Vec::new(), policy: POLICY.to_owned() };
    Ok(record(work, index, &key, Some(&image), incoming, &decided)?)
}

fn record(
    work: &mut Work<'_>,
    index: usize,
    key: &[Value],
    local: Option<&RowImage>,
    incoming: &RowImage,
    decided: &Decided,
) -> Result<(), StoreError> {
    let note = record_conflict(work.conn, work.replica, index, key, local, Some(incoming), decided, work.rules.now)?;
    work.applied.conflicts.push(note);
    Ok(())
}

/// What speaks for a row that shares a unique value with another: the larger claim keeps it.
///
/// A value that an application wrote comes before one that a node put there when it settled a conflict, which brings back a
/// row as a whole with fresh stamps: that says nothing about when the value was written. Among equals the later one
/// counts: the newest entry among the columns that decide over the indexes in which the rows agree. Not simply the
/// row's newest: an unrelated column's update would change the verdict on one node only, and both rows would go.
fn claim(table: &ReplicaTable, values: &[Value], other: &[Value], clock: &RowClock) -> (bool, Timestamp, Origin) {
    let indexes = &table.table.unique;
    let agree = |columns: &Vec<usize>| columns.iter().all(|index| alike(&values[*index], &other[*index]));
    let shared: Vec<_> =
        indexes.iter().filter(|index| index.plain_columns().is_some_and(|columns| agree(&columns))).collect();
    // What an expression makes of values is not known here.
    let shared = if shared.is_empty() {
        indexes.iter().filter(|index| index.plain_columns().is_none()).collect()
    } else {
        shared
    };
    let deciding: Option<Vec<Vec<usize>>> =
        shared.into_iter().map(|index| table.table.deciding_columns(index)).collect();
    let columns: BTreeSet<usize> = deciding.into_iter().flatten().flatten().collect();
    // A default that nobody wrote came with the row.
    let entry = |index| Some(clock.effective(u16::try_from(index).ok()?)).filter(|entry| !entry.is_never());
    let entries = columns.into_iter().map(|index| entry(index).unwrap_or(&clock.row));
    let entry = entries.max_by_key(|entry| entry.order()).unwrap_or_else(|| clock.newest());
    (!entry.flags.contains(EntryFlags::RESOLUTION), entry.timestamp, entry.dot.origin)
}

/// Whether two values may be equal to a unique index, whatever its collation.
fn alike(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Text(a), Value::Text(b)) => a.trim_ascii_end().eq_ignore_ascii_case(b.trim_ascii_end()),
        (Value::Integer(_) | Value::Real(_), Value::Integer(_) | Value::Real(_)) => number(a) == number(b),
        (Value::Null, _) | (_, Value::Null) => false,
        _ => a == b,
    }
}

fn number(value: &Value) -> f64 {
    match value {
        // Only for likeness: a rounded integer is like its neighbours.
        #[allow(clippy::cast_precision_loss)]
        Value::Integer(n) => *n as f64,
        Value::Real(r) => *r,
        _ => f64::NAN,
    }
}

/// Makes a row's deletion a new change of this node, marked as displaced.
fn displace(
    conn: &Connection,
    replica: &mut Replica,
    table: usize,
    key: &[Value],
    clock: &RowClock,
    now: i64,
) -> Result<(), StoreError> {
    let flags = EntryFlags::DELETED.with(EntryFlags::DISPLACED).with(EntryFlags::RESOLUTION);
    let entry = Entry::new(replica.clock.stamp(now, now), replica.next_dot(), flags);
    let mut buried = RowClock { counters: clock.counters.clone(), ..RowClock::whole(entry) };
    buried.counters.iter_mut().for_each(|(_, counter)| counter.bury(entry));
    put_clock(conn, replica, table, key, &buried, !clock.columns.is_empty())
}

/// The rows that stand in the way of `new`, other than that of `key`: by their keys, and by their rowids where the key holds
/// NULL. Nothing is changed.
pub(crate) fn in_the_way(
    conn: &Connection,
    index: usize,
    table: &ReplicaTable,
    key: &[Value],
    new: &[Value],
) -> Result<(Vec<Vec<Value>>, Vec<i64>), Stop> {
    let mut probe = Probe::default();
    conn.execute_batch("PRAGMA recursive_triggers = ON")?;
    let rivals = probe.rivals(conn, index, table, key, new);
    conn.execute_batch("PRAGMA recursive_triggers = OFF")?;
    probe.remove(conn)?;
    rivals
}

/// Finds the rows that stand in a row's way. SQLite itself finds them, whatever its indexes are made of: a REPLACE under a
/// savepoint that is rolled back, watched by a TEMP trigger, of which each table has one for as long as rows are settled.
#[derive(Default)]
struct Probe {
    tables: BTreeSet<usize>,
}

impl Probe {
    /// The rows that would have to go for `new` to be inserted, other than that of `key`: by their keys, and by their rowids
    /// where the key holds NULL.
    fn rivals(
        &mut self,
        conn: &Connection,
        index: usize,
        table: &ReplicaTable,
        key: &[Value],
        new: &[Value],
    ) -> Result<(Vec<Vec<Value>>, Vec<i64>), Stop> {
        if self.tables.insert(index) {
            watch(conn, index, table)?;
        }
        conn.prepare_cached("SAVEPOINT _sync_probe")?.execute([])?;
        let found = replaced(conn, index, table, new);
        conn.prepare_cached("ROLLBACK TO _sync_probe")?.execute([])?;
        conn.prepare_cached("RELEASE _sync_probe")?.execute([])?;
        let (mut keys, mut nameless) = (Vec::new(), Vec::new());
        for (rowid, rival) in found.map_err(|error| refused(table, error))? {
            if rival.iter().any(Value::is_null) {
                nameless.extend(rowid);
            } else if rival != key {
                keys.push(rival);
            }
        }
        Ok((keys, nameless))
    }

    fn remove(self, conn: &Connection) -> rusqlite::Result<()> {
        self.tables.into_iter().try_for_each(|index| {
            conn.execute_batch(&format!("DROP TRIGGER temp._sync_rival_{index}; DROP TABLE temp._sync_rivals_{index}"))
        })
    }
}

fn watch(conn: &Connection, index: usize, table: &ReplicaTable) -> rusqlite::Result<()> {
    let names: Vec<String> = table.table.key_columns().map(|column| format!(", OLD.{}", quote(&column.name))).collect();
    let columns: Vec<String> = (0..names.len()).map(|n| format!(", k{n}")).collect();
    let rowid = table.sql.by_rowid.as_ref().map_or("NULL".to_owned(), |sql| format!("OLD.{}", sql.name));
    conn.execute_batch(&format!(
        "CREATE TEMP TABLE _sync_rivals_{index} (id{});
         CREATE TEMP TRIGGER _sync_rival_{index} AFTER DELETE ON main.{} BEGIN
             INSERT INTO _sync_rivals_{index} VALUES ({rowid}{});
         END",
        columns.concat(),
        quote(&table.table.name),
        names.concat()
    ))
}

/// Rowids, of tables that have one, and keys of the rows that a REPLACE takes out.
type Replaced = Vec<(Option<i64>, Vec<Value>)>;

fn replaced(conn: &Connection, index: usize, table: &ReplicaTable, new: &[Value]) -> rusqlite::Result<Replaced> {
    // Rows that were taken out before left their keys there as well.
    conn.prepare_cached(&format!("DELETE FROM temp._sync_rivals_{index}"))?.execute([])?;
    let mut statement = conn.prepare_cached(&table.sql.replace)?;
    bind_from(&mut statement, 1, new)?;
    statement.raw_execute()?;
    let mut statement = conn.prepare_cached(&format!("SELECT * FROM temp._sync_rivals_{index}"))?;
    let width = statement.column_count();
    let mut rows = statement.query([])?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        found.push((row.get(0)?, values_from(row, 1, width - 1)?));
    }
    Ok(found)
}
