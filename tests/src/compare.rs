//! What is in a file, byte for byte.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::time::Duration;

use rusqlite::types::ValueRef;
use rusqlite::{Connection, OpenFlags};

use crate::{Failure, Result, fail};

/// How many differences a failure names.
const NAMED_DIFFERENCES: usize = 8;

/// A value with its storage class; reals by their bits, text by its bytes.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Cell {
    /// NULL.
    Null,
    /// An integer.
    Integer(i64),
    /// The bits of a real.
    Real(u64),
    /// The bytes of a text, which need not be UTF-8.
    Text(Vec<u8>),
    /// A BLOB.
    Blob(Vec<u8>),
}

/// The rows of a table by key; a table without a key has its whole rows as keys.
type Rows = BTreeMap<Vec<Cell>, Vec<Cell>>;

/// The synced tables of a file.
#[derive(Clone, PartialEq, Eq)]
pub struct Contents {
    tables: BTreeMap<String, Rows>,
}

impl Contents {
    /// How many rows a table has; none where there is no such table.
    #[must_use]
    pub fn count(&self, table: &str) -> usize {
        self.tables.get(table).map_or(0, BTreeMap::len)
    }

    /// How many rows all tables have.
    #[must_use]
    pub fn rows(&self) -> usize {
        self.tables.values().map(BTreeMap::len).sum()
    }
}

impl Cell {
    fn of(value: ValueRef<'_>) -> Self {
        match value {
            ValueRef::Null => Self::Null,
            ValueRef::Integer(integer) => Self::Integer(integer),
            ValueRef::Real(real) => Self::Real(real.to_bits()),
            ValueRef::Text(bytes) => Self::Text(bytes.to_vec()),
            ValueRef::Blob(bytes) => Self::Blob(bytes.to_vec()),
        }
    }
}

impl fmt::Debug for Cell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = |bytes: &[u8]| bytes[..bytes.len().min(40)].escape_ascii().to_string();
        match self {
            Self::Null => f.write_str("NULL"),
            Self::Integer(integer) => write!(f, "{integer}"),
            Self::Real(bits) => write!(f, "{:?}r", f64::from_bits(*bits)),
            Self::Text(bytes) => write!(f, "'{}'[{}]", shown(bytes), bytes.len()),
            Self::Blob(bytes) => write!(f, "x'{}'[{}]", shown(bytes), bytes.len()),
        }
    }
}

fn open(file: &Path) -> Result<Connection> {
    // Not read-only: a reader of a WAL file may have to make the shared memory file.
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(file, flags)
        .map_err(|error| Failure::new(format!("{}: {error}", file.display())))?;
    connection.busy_timeout(Duration::from_secs(30))?;
    Ok(connection)
}

/// The tables of the application that have rows of their own: no views, virtual tables, shadow tables or `_sync_*`.
const TABLES: &str = "SELECT name FROM pragma_table_list WHERE schema = 'main' AND type = 'table' \
    AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\' AND name NOT LIKE '\\_sync\\_%' ESCAPE '\\' ORDER BY name";

/// Reads all synced tables of a file, as they stand at one moment.
///
/// # Errors
/// The file cannot be read.
pub fn contents(file: &Path) -> Result<Contents> {
    let mut connection = open(file)?;
    let snapshot = connection.transaction()?;
    let mut names = snapshot.prepare(TABLES)?;
    let names = names.query_map([], |row| row.get::<_, String>(0))?.collect::<rusqlite::Result<Vec<_>>>()?;
    let mut tables = BTreeMap::new();
    for name in names {
        let rows = table_rows(&snapshot, &name)?;
        tables.insert(name, rows);
    }
    Ok(Contents { tables })
}

fn table_rows(connection: &Connection, table: &str) -> Result<Rows> {
    let mut columns =
        connection.prepare("SELECT name, pk FROM pragma_table_xinfo(?1) WHERE hidden IN (0, 2, 3) ORDER BY cid")?;
    let columns = columns
        .query_map([table], |row| Ok((row.get::<_, String>(0)?, row.get::<_, i64>(1)?)))?
        .collect::<rusqlite::Result<Vec<_>>>()?;
    let list: Vec<String> = columns.iter().map(|(name, _)| quoted(name)).collect();
    let mut select = connection.prepare(&format!("SELECT {} FROM {}", list.join(", "), quoted(table)))?;
    let mut found = select.query([])?;
    let mut rows = Rows::new();
    while let Some(row) = found.next()? {
        let cells =
            (0..columns.len()).map(|index| row.get_ref(index).map(Cell::of)).collect::<rusqlite::Result<Vec<_>>>()?;
        let mut key: Vec<Cell> =
            cells.iter().zip(&columns).filter(|(_, (_, pk))| *pk > 0).map(|(cell, _)| cell.clone()).collect();
        if key.is_empty() {
            key.clone_from(&cells);
        }
        if rows.insert(key.clone(), cells).is_some() {
            fail!("{table} has two rows {key:?}");
        }
    }
    Ok(rows)
}

fn quoted(identifier: &str) -> String {
    format!("\"{}\"", identifier.replace('"', "\"\""))
}

/// The first differences of two files, by table and key; empty when they are equal.
#[must_use]
pub fn differences(left: &Contents, right: &Contents) -> Vec<String> {
    let mut found = Vec::new();
    for name in left.tables.keys().chain(right.tables.keys().filter(|name| !left.tables.contains_key(*name))) {
        match (left.tables.get(name), right.tables.get(name)) {
            (Some(left), Some(right)) => table_differences(name, left, right, &mut found),
            (Some(_), None) => found.push(format!("table {name} only left")),
            _ => found.push(format!("table {name} only right")),
        }
    }
    found
}

fn table_differences(table: &str, left: &Rows, right: &Rows, found: &mut Vec<String>) {
    for (key, row) in left {
        match right.get(key) {
            None => found.push(format!("{table} {key:?}: only left: {row:?}")),
            Some(other) if other != row => found.push(format!("{table} {key:?}:\n    {row:?}\n    {other:?}")),
            Some(_) => {}
        }
    }
    for (key, row) in right.iter().filter(|(key, _)| !left.contains_key(*key)) {
        found.push(format!("{table} {key:?}: only right: {row:?}"));
    }
}

/// Checks that all files hold the same rows, and returns them.
///
/// # Errors
/// They differ, or cannot be read.
#[track_caller]
pub fn same_contents(files: &[&Path]) -> Result<Contents> {
    same_contents_but(files, &[])
}

/// Checks that all files hold the same rows, some tables left out, and returns them.
///
/// # Errors
/// They differ, or cannot be read.
#[track_caller]
pub(crate) fn same_contents_but(files: &[&Path], left_out: &[String]) -> Result<Contents> {
    let Some((first, others)) = files.split_first() else { fail!("no files to compare") };
    let read = |file: &Path| -> Result<Contents> {
        let mut contents = contents(file)?;
        contents.tables.retain(|table, _| !left_out.contains(table));
        Ok(contents)
    };
    let expected = read(first)?;
    for other in others {
        let found = differences(&expected, &read(other)?);
        if !found.is_empty() {
            let named = found[..found.len().min(NAMED_DIFFERENCES)].join("\n  ");
            fail!("{} and {}: {} differences\n  {named}", first.display(), other.display(), found.len());
        }
    }
    Ok(expected)
}

/// Checks a file with SQLite's own check.
///
/// # Errors
/// It is damaged.
#[track_caller]
pub fn check_integrity(file: &Path) -> Result {
    let found = query_text(file, "PRAGMA integrity_check")?;
    if found != "ok" {
        fail!("{}: {found}", file.display());
    }
    Ok(())
}

/// Checks that nothing waits in the change log of a file.
///
/// # Errors
/// Something waits, or the file is not attached.
pub fn log_is_drained(file: &Path) -> Result {
    let waiting = query(file, "SELECT count(*) FROM _sync_log")?;
    if waiting != [[Cell::Integer(0)]] {
        fail!("{}: {waiting:?} changes wait in _sync_log", file.display());
    }
    Ok(())
}

/// The rows of a query.
///
/// # Errors
/// It fails.
pub fn query(file: &Path, sql: &str) -> Result<Vec<Vec<Cell>>> {
    let connection = open(file)?;
    let mut select = connection.prepare(sql).map_err(|error| Failure::new(format!("{}: {error}", file.display())))?;
    let columns = select.column_count();
    let mut found = select.query([])?;
    let mut rows = Vec::new();
    while let Some(row) = found.next()? {
        rows.push((0..columns).map(|index| row.get_ref(index).map(Cell::of)).collect::<rusqlite::Result<_>>()?);
    }
    Ok(rows)
}

/// The rows of a query as text: columns by `|`, rows by line, NULL as nothing.
///
/// # Errors
/// It fails.
pub fn query_text(file: &Path, sql: &str) -> Result<String> {
    let text = |cell: &Cell| match cell {
        Cell::Null => String::new(),
        Cell::Integer(integer) => integer.to_string(),
        Cell::Real(bits) => format!("{:?}", f64::from_bits(*bits)),
        Cell::Text(bytes) => String::from_utf8_lossy(bytes).into_owned(),
        Cell::Blob(bytes) => bytes.escape_ascii().to_string(),
    };
    let lines: Vec<String> =
        query(file, sql)?.iter().map(|row| row.iter().map(text).collect::<Vec<_>>().join("|")).collect();
    Ok(lines.join("\n"))
}
