//! Comparing two files row by row, whether they are attached or not. Both are only read, each as of one moment.
//!
//! Rows are the same if they have the same key, as the key's collations compare, and hold the same values of the same types in all
//! columns that are not generated. Tables that could not be synced are not compared: their rows cannot be told apart.

use std::path::Path;

use replication::Selection;
use rusqlite::{Connection, OpenFlags, Row, params};
use serde_json::Value as Json;

use crate::bind::values_from;
use crate::connection::{self, BUSY_TIMEOUT};
use crate::error::StoreError;
use crate::identifier::quote;
use crate::json::value_json;
use crate::schema::introspection::read_tables;
use crate::schema::{Table, Unsynced};

/// What differs between two files.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct FileComparison {
    /// The tables that both have.
    pub tables: Vec<TableComparison>,
    /// Tables that were not compared, and why.
    pub not_compared: Vec<NotCompared>,
}

/// A table that was not compared.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NotCompared {
    /// Its name.
    pub table: String,
    /// Why not.
    pub reason: String,
    /// Whether this is a difference in itself: the files do not have the same tables.
    pub differs: bool,
}

/// What differs in one table.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct TableComparison {
    /// Its name in the first file.
    pub table: String,
    /// The columns of its key.
    pub key: Vec<String>,
    /// How many rows both have.
    pub rows: [u64; 2],
    /// How many of these have NULL in their key: they cannot be named, and are not compared.
    pub nameless: [u64; 2],
    /// How many rows only the first has.
    pub only_first: u64,
    /// How many rows only the second has.
    pub only_second: u64,
    /// How many rows both have with other content.
    pub differ: u64,
    /// The first of these, by their keys.
    pub differing: Vec<(Vec<Json>, RowDifference)>,
}

/// How a row differs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RowDifference {
    /// Only the first file has it.
    OnlyFirst,
    /// Only the second file has it.
    OnlySecond,
    /// Both have it, with other content.
    Differs,
}

/// Compares two files. Of each table at most `limit` keys are listed of each kind.
///
/// # Errors
/// A file is missing, cannot be read, or is no database.
pub fn compare_files(first: &Path, second: &Path, limit: usize) -> Result<FileComparison, StoreError> {
    let there = read_only(second)?;
    let theirs = read_tables(&there, &Selection::default())?;
    drop(there);
    let conn = read_only(first)?;
    conn.execute("ATTACH ?1 AS other", params![second.to_string_lossy()])?;
    conn.execute_batch("BEGIN")?;
    let (mut tables, mut not_compared) = (Vec::new(), Vec::new());
    let mut leave_out = |table: &str, reason: &str, differs| {
        let (table, reason) = (table.to_owned(), reason.to_owned());
        not_compared.push(NotCompared { table, reason, differs });
    };
    let named = |name: &str| theirs.iter().find(|found| name_of(found).eq_ignore_ascii_case(name));
    let ours = read_tables(&conn, &Selection::default())?;
    for found in &ours {
        match found {
            Err(unsynced) => leave_out(&unsynced.table, &unsynced.reason, false),
            Ok(table) => match named(&table.name) {
                Some(Ok(other)) => match unlike(table, other) {
                    Some(reason) => leave_out(&table.name, &reason, true),
                    None => tables.push(compare_table(&conn, table, limit)?),
                },
                Some(Err(unsynced)) => {
                    leave_out(&table.name, &format!("in the second file it {}", unsynced.reason), true)
                }
                None => leave_out(&table.name, "the second file has no such table", true),
            },
        }
    }
    for found in &theirs {
        let name = name_of(found);
        if !ours.iter().any(|ours| name_of(ours).eq_ignore_ascii_case(name)) {
            leave_out(name, "the first file has no such table", true);
        }
    }
    Ok(FileComparison { tables, not_compared })
}

fn name_of(found: &Result<Table, Unsynced>) -> &str {
    found.as_ref().map_or_else(|unsynced| &unsynced.table, |table| &table.name)
}

pub(crate) fn read_only(path: &Path) -> Result<Connection, StoreError> {
    let open = |source| connection::not_opened(path, source);
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let conn = Connection::open_with_flags(path, flags).map_err(open)?;
    conn.busy_timeout(BUSY_TIMEOUT)?;
    // SQLite opens lazily: the first read tells whether this is a database.
    conn.query_row("SELECT count(*) FROM sqlite_schema", [], |_| Ok(())).map_err(open)?;
    Ok(conn)
}

/// Why the rows of two tables cannot be compared.
fn unlike(table: &Table, other: &Table) -> Option<String> {
    let key =
        |table: &Table| -> Vec<String> { table.key_columns().map(|column| column.name.to_ascii_lowercase()).collect() };
    if key(table) != key(other) {
        return Some(format!("its key in the second file is {}", key(other).join(", ")));
    }
    let lacks = |table: &Table, other: &Table| -> Vec<String> {
        let known = |name: &str| table.columns.iter().any(|column| column.name.eq_ignore_ascii_case(name));
        other.columns.iter().map(|column| column.name.clone()).filter(|name| !known(name)).collect()
    };
    match (lacks(table, other), lacks(other, table)) {
        (first, second) if first.is_empty() && second.is_empty() => None,
        (first, second) if second.is_empty() => Some(format!("only the second file has column {}", first.join(", "))),
        (_, second) => Some(format!("only the first file has column {}", second.join(", "))),
    }
}

fn compare_table(conn: &Connection, table: &Table, limit: usize) -> Result<TableComparison, StoreError> {
    let name = quote(&table.name);
    let names: Vec<String> = table.key_columns().map(|column| quote(&column.name)).collect();
    let key = |side: &str| names.iter().map(|name| format!("{side}.{name}")).collect::<Vec<_>>().join(", ");
    let same = names.iter().map(|name| format!("a.{name} = b.{name}")).collect::<Vec<_>>().join(" AND ");
    let named =
        |side: &str| names.iter().map(|name| format!("{side}.{name} IS NOT NULL")).collect::<Vec<_>>().join(" AND ");
    let differs = |column: &str| {
        format!("a.{column} IS NOT b.{column} COLLATE BINARY OR typeof(a.{column}) <> typeof(b.{column})")
    };
    let differs: Vec<String> = table.columns.iter().map(|column| differs(&quote(&column.name))).collect();
    let count = |schema: &str| -> Result<u64, StoreError> {
        let sql = format!("SELECT count(*) FROM {schema}.{name}");
        Ok(conn.query_row(&sql, [], |row| row.get::<_, i64>(0))?.unsigned_abs())
    };
    let missing = |side: &str, schema: &str, other: &str, there: &str| {
        format!(
            "SELECT {keys} FROM {schema}.{name} AS {side} \
             WHERE {} AND NOT EXISTS (SELECT 1 FROM {there}.{name} AS {other} WHERE {same}) ORDER BY {keys}",
            named(side),
            keys = key(side)
        )
    };
    let nameless = |schema: &str| -> Result<u64, StoreError> {
        let sql = format!("SELECT count(*) FROM {schema}.{name} AS a WHERE NOT ({})", named("a"));
        Ok(conn.query_row(&sql, [], |row| row.get::<_, i64>(0))?.unsigned_abs())
    };
    let mut found = TableComparison {
        table: table.name.clone(),
        key: table.key_columns().map(|column| column.name.clone()).collect(),
        rows: [count("main")?, count("other")?],
        nameless: [nameless("main")?, nameless("other")?],
        ..TableComparison::default()
    };
    let mut list = |sql: &str, difference| -> Result<u64, StoreError> {
        let mut statement = conn.prepare(sql)?;
        let mut rows = statement.query([])?;
        let mut counted = 0;
        while let Some(row) = rows.next()? {
            if counted < limit as u64 {
                found.differing.push((key_of(row, names.len())?, difference));
            }
            counted += 1;
        }
        Ok(counted)
    };
    let only_first = list(&missing("a", "main", "b", "other"), RowDifference::OnlyFirst)?;
    let only_second = list(&missing("b", "other", "a", "main"), RowDifference::OnlySecond)?;
    let both = format!(
        "SELECT {keys} FROM main.{name} AS a JOIN other.{name} AS b ON {same} WHERE {} ORDER BY {keys}",
        differs.join(" OR "),
        keys = key("a")
    );
    let differ = list(&both, RowDifference::Differs)?;
    Ok(TableComparison { only_first, only_second, differ, ..found })
}

fn key_of(row: &Row<'_>, width: usize) -> rusqlite::Result<Vec<Json>> {
    Ok(values_from(row, 0, width)?.iter().map(value_json).collect())
}
