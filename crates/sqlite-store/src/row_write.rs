//! Writing rows past unique indexes.
//!
//! UPDATE, INSERT and DELETE only, never REPLACE: external-content full-text indexes keep stale entries under it. A row
//! that a unique index refuses waits until the rest of the batch is written; what still clashes then makes way for each
//! other under their old rowids; what clashes even so has met a row of another key, and the unique value's newest
//! writer keeps it.

use replication::{ConflictKind, Decided, Decision, Entry, EntryFlags, RowClock, RowImage, Timestamp, Value};
use rusqlite::{Connection, ErrorCode, ffi};

use crate::apply::{HeldKind, Stop};
use crate::bind::{Bound, bind_from, values_from};
use crate::conflict_record::{ConflictNote, record_conflict};
use crate::error::StoreError;
use crate::identifier::quote;
use crate::replica::{Replica, ReplicaTable};
use crate::row_clock::{put_clock, read_clock, read_row};

/// One row that is to change from `old` to `new`. Its clock is written already.
#[derive(Debug, Clone)]
pub(crate) struct RowWrite {
    pub(crate) table: usize,
    pub(crate) key: Vec<Value>,
    pub(crate) old: Option<Vec<Value>>,
    pub(crate) new: Option<Vec<Value>>,
    pub(crate) clock: RowClock,
}

/// Writes the row's content. False if a unique index refuses it; nothing is changed then.
pub(crate) fn write_row(conn: &Connection, table: &ReplicaTable, write: &RowWrite) -> Result<bool, Stop> {
    let result = match (&write.old, &write.new) {
        (None, Some(new)) => insert(conn, table, new),
        (Some(old), Some(new)) => update(conn, table, write, old, new),
        (Some(_), None) => delete(conn, table, &write.key),
        (None, None) => Ok(()),
    };
    match result {
        Ok(()) => Ok(true),
        Err(error) if is_unique_violation(&error) => Ok(false),
        Err(error) => Err(refused(table, error)),
    }
}

fn insert(conn: &Connection, table: &ReplicaTable, new: &[Value]) -> rusqlite::Result<()> {
    let mut statement = conn.prepare_cached(&table.sql.insert)?;
    bind_from(&mut statement, 1, new)?;
    statement.raw_execute().map(drop)
}

fn update(
    conn: &Connection,
    table: &ReplicaTable,
    write: &RowWrite,
    old: &[Value],
    new: &[Value],
) -> rusqlite::Result<()> {
    let changed: Vec<usize> = (0..new.len()).filter(|index| old[*index] != new[*index]).collect();
    if changed.is_empty() {
        return Ok(());
    }
    let mut statement = conn.prepare_cached(&table.sql.update(&changed, write.key.len()))?;
    bind_from(&mut statement, 1, &write.key)?;
    for (offset, index) in changed.iter().enumerate() {
        statement.raw_bind_parameter(write.key.len() + 1 + offset, Bound(&new[*index]))?;
    }
    statement.raw_execute().map(drop)
}

fn delete(conn: &Connection, table: &ReplicaTable, key: &[Value]) -> rusqlite::Result<()> {
    let mut statement = conn.prepare_cached(&table.sql.delete)?;
    bind_from(&mut statement, 1, key)?;
    statement.raw_execute().map(drop)
}

fn is_unique_violation(error: &rusqlite::Error) -> bool {
    const UNIQUE: [i32; 3] =
        [ffi::SQLITE_CONSTRAINT_UNIQUE, ffi::SQLITE_CONSTRAINT_PRIMARYKEY, ffi::SQLITE_CONSTRAINT_ROWID];
    matches!(error, rusqlite::Error::SqliteFailure(failure, _) if UNIQUE.contains(&failure.extended_code))
}

fn refused(table: &ReplicaTable, error: rusqlite::Error) -> Stop {
    match error.sqlite_error_code() {
        Some(ErrorCode::ConstraintViolation | ErrorCode::TypeMismatch) => Stop::held(
            HeldKind::Constraint,
            Some(&table.shape.name),
            format!("an incoming row of table {:?} violates a constraint here: {error}", table.shape.name),
            "make the table's constraints the same on every node",
        ),
        _ => Stop::Store(error.into()),
    }
}

/// Writes the rows that unique indexes refused.
pub(crate) fn settle_unique(
    conn: &Connection,
    replica: &mut Replica,
    mut waiting: Vec<RowWrite>,
    now: i64,
    conflicts: &mut Vec<ConflictNote>,
) -> Result<(), Stop> {
    while !waiting.is_empty() {
        let before = waiting.len();
        let mut refused = Vec::new();
        for write in waiting {
            if !write_row(conn, &replica.tables[write.table], &write)? {
                refused.push(write);
            }
        }
        waiting = refused;
        if waiting.len() == before {
            break;
        }
    }
    if waiting.is_empty() {
        return Ok(());
    }
    // A circle of rows, or rows of other keys in the way: all make way, then all come back under their rowids.
    let mut out = Vec::with_capacity(waiting.len());
    for write in waiting {
        let rowid = take_out(conn, &replica.tables[write.table], &write)?;
        out.push((write, rowid));
    }
    // New rows last: SQLite might give them a rowid that is to be had back.
    out.sort_by_key(|(_, rowid)| rowid.is_none());
    for (write, rowid) in out {
        put_back(conn, replica, write, rowid, now, conflicts)?;
    }
    Ok(())
}

/// Deletes the row as it stood; returns the rowid it had, where that is not a column.
fn take_out(conn: &Connection, table: &ReplicaTable, write: &RowWrite) -> Result<Option<i64>, Stop> {
    if write.old.is_none() {
        return Ok(None);
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
    Ok(rowid)
}

fn put_back(
    conn: &Connection,
    replica: &mut Replica,
    write: RowWrite,
    rowid: Option<i64>,
    now: i64,
    conflicts: &mut Vec<ConflictNote>,
) -> Result<(), Stop> {
    let Some(new) = &write.new else { return Ok(()) };
    if insert_under(conn, &replica.tables[write.table], new, rowid)? {
        return Ok(());
    }
    let rivals = rivals(conn, &replica.tables[write.table], &write.key, new)?;
    let kind = if rivals.len() > 1 { ConflictKind::MultipleUniqueConflicts } else { ConflictKind::UniqueExists };
    let mut loses = false;
    let mut images = Vec::with_capacity(rivals.len());
    for key in rivals {
        let table = &replica.tables[write.table];
        let Some(values) = read_row(conn, table, &key)? else { continue };
        let clock = match read_clock(conn, replica, table, &key)? {
            Some(clock) => clock,
            None => RowClock::whole(crate::capture::give_row_entry(conn, replica, write.table, &key)?),
        };
        let table = &replica.tables[write.table];
        loses |= claim(table, &values, new, &clock) > claim(table, new, &values, &write.clock);
        images.push((key, RowImage { values, clock }));
    }
    let incoming = RowImage { values: new.clone(), clock: write.clock.clone() };
    let decided = |decision| Decided { kind, decision, columns: Vec::new() };
    if loses {
        let winner = images.first().map(|(_, image)| image);
        let note = record_conflict(
            conn,
            replica,
            write.table,
            &write.key,
            winner,
            Some(&incoming),
            &decided(Decision::LocalKept),
            now,
        )?;
        conflicts.push(note);
        return displace(conn, replica, write.table, &write.key, &write.clock, now).map_err(Stop::from);
    }
    for (key, image) in &images {
        let note = record_conflict(
            conn,
            replica,
            write.table,
            key,
            Some(image),
            Some(&incoming),
            &decided(Decision::RemoteApplied),
            now,
        )?;
        conflicts.push(note);
        delete(conn, &replica.tables[write.table], key)?;
        displace(conn, replica, write.table, key, &image.clock, now)?;
    }
    if insert_under(conn, &replica.tables[write.table], new, rowid)? {
        return Ok(());
    }
    Err(Stop::held(
        HeldKind::Constraint,
        Some(&replica.tables[write.table].shape.name),
        "a unique index refuses a row although no row with its values is left".to_owned(),
        "run PRAGMA integrity_check and REINDEX on this file",
    ))
}

fn insert_under(conn: &Connection, table: &ReplicaTable, new: &[Value], rowid: Option<i64>) -> Result<bool, Stop> {
    let result = match (rowid, &table.sql.insert_with_rowid) {
        (Some(rowid), Some(sql)) => {
            let mut statement = conn.prepare_cached(sql)?;
            statement.raw_bind_parameter(1, rowid)?;
            bind_from(&mut statement, 2, new)?;
            statement.raw_execute().map(drop)
        }
        _ => insert(conn, table, new),
    };
    match result {
        Ok(()) => Ok(true),
        Err(error) if is_unique_violation(&error) => Ok(false),
        Err(error) => Err(refused(table, error)),
    }
}

/// When the unique values that two rows share were last written in one of them: the newest entry among the columns of
/// unique indexes in which the rows agree, else (an index on an expression) the row's newest. Not simply the row's
/// newest: an unrelated column's update would change the verdict on one node only, and both rows would go.
fn claim(
    table: &ReplicaTable,
    values: &[Value],
    other: &[Value],
    clock: &RowClock,
) -> (Timestamp, replication::Origin) {
    let shared = table
        .table
        .unique
        .iter()
        .filter_map(crate::schema::UniqueIndex::plain_columns)
        .filter(|columns| columns.iter().all(|index| alike(&values[*index], &other[*index])))
        .flatten();
    let newest = shared.map(|index| clock.effective(u16::try_from(index).unwrap_or(u16::MAX)).order()).max();
    newest.unwrap_or_else(|| clock.newest().order())
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
    let entry = Entry { timestamp: replica.clock.stamp(now, now), dot: replica.next_dot(), flags };
    put_clock(conn, replica, table, key, &RowClock::whole(entry), !clock.columns.is_empty())
}

/// The keys of the rows that stand in a row's way. SQLite itself finds them, whatever its indexes are made of: a REPLACE
/// under a savepoint that is rolled back, watched by a TEMP trigger.
fn rivals(conn: &Connection, table: &ReplicaTable, key: &[Value], new: &[Value]) -> Result<Vec<Vec<Value>>, Stop> {
    let names: Vec<String> =
        table.table.key.iter().map(|index| format!("OLD.{}", quote(&table.table.columns[*index].name))).collect();
    let columns: Vec<String> = (0..names.len()).map(|n| format!("k{n}")).collect();
    conn.execute_batch(&format!(
        "SAVEPOINT _sync_probe;
         CREATE TEMP TABLE _sync_rivals ({});
         CREATE TEMP TRIGGER _sync_rival AFTER DELETE ON main.{} BEGIN INSERT INTO _sync_rivals VALUES ({}); END",
        columns.join(", "),
        quote(&table.table.name),
        names.join(", ")
    ))?;
    // Only with this setting does a REPLACE fire the delete triggers of the rows that it takes out.
    let found = with_recursive_triggers(conn, || probe(conn, table, new, names.len()));
    conn.execute_batch("ROLLBACK TO _sync_probe; RELEASE _sync_probe")?;
    let mut found = found?;
    found.retain(|rival| rival != key);
    Ok(found)
}

fn with_recursive_triggers<T>(conn: &Connection, act: impl FnOnce() -> rusqlite::Result<T>) -> rusqlite::Result<T> {
    conn.execute_batch("PRAGMA recursive_triggers = ON")?;
    let result = act();
    conn.execute_batch("PRAGMA recursive_triggers = OFF")?;
    result
}

fn probe(conn: &Connection, table: &ReplicaTable, new: &[Value], width: usize) -> rusqlite::Result<Vec<Vec<Value>>> {
    let replace = table.sql.insert.replacen("INSERT", "INSERT OR REPLACE", 1);
    let mut statement = conn.prepare(&replace)?;
    bind_from(&mut statement, 1, new)?;
    statement.raw_execute()?;
    let mut statement = conn.prepare("SELECT * FROM temp._sync_rivals")?;
    let mut rows = statement.query([])?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        found.push(values_from(row, 0, width)?);
    }
    Ok(found)
}
