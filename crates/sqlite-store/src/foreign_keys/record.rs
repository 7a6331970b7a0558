//! The rows without parents that the file remembers, in `_sync_orphan`.

use std::collections::BTreeMap;

use replication::{TableShape, Value};
use rusqlite::{Connection, params};
use serde_json::Value as Json;

use super::relation::{Child, key_list};
use super::{NewOrphans, Orphan, Orphans, missing};
use crate::bind::{bind_from, values_from};
use crate::error::StoreError;
use crate::identifier::quote;
use crate::json::{key_json, value_from_json};

/// Rows that are named where there are many.
const NAMED: usize = 5;

/// A line of `_sync_orphan`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Place {
    table: String,
    key: String,
    parent: String,
}

/// How many there are, and the first few.
pub(crate) fn read(conn: &Connection) -> Result<Orphans, StoreError> {
    let count: i64 = conn.prepare_cached("SELECT count(*) FROM main._sync_orphan")?.query_row([], |row| row.get(0))?;
    let first = places(conn, &Place::default(), NAMED)?;
    Ok(Orphans { count: count.cast_unsigned(), first: first.into_iter().map(Orphan::from).collect() })
}

impl From<Place> for Orphan {
    fn from(place: Place) -> Self {
        let json = |text: String| serde_json::from_str(&text).unwrap_or(Json::String(text));
        Self { table: place.table, key: json(place.key), parent: json(place.parent) }
    }
}

/// The lines after one, in their order.
fn places(conn: &Connection, after: &Place, limit: usize) -> Result<Vec<Place>, StoreError> {
    let sql = "SELECT tbl, key, parent FROM main._sync_orphan WHERE (tbl, key, parent) > (?1, ?2, ?3) \
               ORDER BY tbl, key, parent LIMIT ?4";
    let mut statement = conn.prepare_cached(sql)?;
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    let lines = statement.query_map(params![after.table, after.key, after.parent, limit], place)?;
    Ok(lines.collect::<Result<_, _>>()?)
}

/// Notes the rows in doubt of one table that lack a parent; returns how many were not noted before.
pub(super) fn note(conn: &Connection, child: &Child, at: i64) -> Result<usize, StoreError> {
    let table = &child.table;
    let same: Vec<String> = table
        .key_columns()
        .enumerate()
        .map(|(place, column)| format!("c.{} = d.k{place}", quote(&column.name)))
        .collect();
    // CROSS JOIN: the rows in doubt are few, and SQLite does not know.
    let sql = format!(
        "SELECT DISTINCT {}, {} FROM temp._sync_in_doubt AS d CROSS JOIN main.{} AS c ON {} WHERE d.tbl = {} AND ({})",
        key_list(table, "c"),
        judgement(child),
        quote(&table.name),
        same.join(" AND "),
        table.number,
        missing(child, "c")
    );
    let mut statement = conn.prepare_cached(&sql)?;
    let mut insert = conn.prepare_cached(
        "INSERT INTO main._sync_orphan (tbl, key, parent, at) VALUES (?1, ?2, ?3, ?4) ON CONFLICT DO NOTHING",
    )?;
    let shape = table.shape();
    let mut noted = 0;
    let mut rows = statement.raw_query();
    while let Some(row) = rows.next()? {
        let key = key_json(&shape, &values_from(row, 0, table.key.len())?).to_string();
        for parent in missing_parents(child, row, table.key.len())? {
            noted += insert.execute(params![table.name, key, parent.to_string(), at])?;
        }
    }
    Ok(noted)
}

/// When the first line was noted after those that were noted up to `told`.
pub(super) fn first_untold(conn: &Connection, told: i64) -> Result<Option<i64>, StoreError> {
    let sql = "SELECT min(at) FROM main._sync_orphan WHERE at > ?1";
    Ok(conn.prepare_cached(sql)?.query_row([told], |row| row.get(0))?)
}

/// Whether there is a line that was noted up to `told`.
pub(super) fn has_told(conn: &Connection, told: i64) -> Result<bool, StoreError> {
    Ok(conn.prepare_cached("SELECT 1 FROM main._sync_orphan WHERE at <= ?1")?.exists([told])?)
}

/// What was noted after `told` and up to `limit`, by table.
pub(super) fn untold(conn: &Connection, told: i64, limit: i64) -> Result<Vec<NewOrphans>, StoreError> {
    let mut count = conn.prepare_cached(
        "SELECT tbl, count(*) FROM main._sync_orphan WHERE at > ?1 AND at <= ?2 GROUP BY tbl ORDER BY tbl",
    )?;
    let mut first = conn.prepare_cached(
        "SELECT tbl, key, parent FROM main._sync_orphan WHERE tbl = ?1 AND at > ?2 AND at <= ?3 ORDER BY key, parent LIMIT ?4",
    )?;
    let tables = count.query_map([told, limit], |row| Ok((row.get::<_, String>(0)?, row.get::<_, i64>(1)?)))?;
    tables
        .map(|table| {
            let (table, count) = table?;
            let named = i64::try_from(NAMED).unwrap_or(i64::MAX);
            let places = first.query_map(params![table, told, limit, named], place)?;
            let first = places.map(|place| place.map(Orphan::from)).collect::<Result<_, _>>()?;
            Ok(NewOrphans { table, count: count.cast_unsigned(), first })
        })
        .collect()
}

fn place(row: &rusqlite::Row<'_>) -> rusqlite::Result<Place> {
    Ok(Place { table: row.get(0)?, key: row.get(1)?, parent: row.get(2)? })
}

/// For each foreign key whether its parent is missing, then its columns.
fn judgement(child: &Child) -> String {
    let of_key = |key: &super::relation::ForeignKey| {
        let columns = key.from().map(|column| format!(", c.{}", quote(column)));
        format!("{}{}", key.missing("c"), columns.collect::<String>())
    };
    child.keys.iter().map(of_key).collect::<Vec<_>>().join(", ")
}

/// The parents that a row lacks, from a result row in which the judgement begins at `place`.
fn missing_parents(child: &Child, row: &rusqlite::Row<'_>, mut place: usize) -> Result<Vec<Json>, StoreError> {
    let mut parents = Vec::new();
    for key in &child.keys {
        let count = key.from().count();
        if row.get(place)? {
            parents.push(key.parent_json(&values_from(row, place + 1, count)?));
        }
        place += 1 + count;
    }
    Ok(parents)
}

/// Of the lines after one, at most `limit`: those that lack nothing any more; and the last that was looked at, unless it was
/// the end.
pub(super) fn settled(
    conn: &Connection,
    children: &[Child],
    after: &Place,
    limit: usize,
) -> Result<(Vec<Place>, Option<Place>), StoreError> {
    let lines = places(conn, after, limit)?;
    let last = lines.last().filter(|_| lines.len() == limit).cloned();
    let mut looks: BTreeMap<String, Look<'_>> = BTreeMap::new();
    let mut settled = Vec::new();
    for line in lines {
        let child = children.iter().find(|child| child.table.name == line.table);
        let lacking = match child {
            Some(child) => looks.entry(line.table.clone()).or_insert_with(|| Look::of(child)).lacks(conn, &line)?,
            // Nothing is known of a table that is gone or is not synced any more.
            None => false,
        };
        if !lacking {
            settled.push(line);
        }
    }
    Ok((settled, last))
}

/// How one table's rows are looked at again.
struct Look<'a> {
    child: &'a Child,
    shape: TableShape,
    sql: String,
}

impl<'a> Look<'a> {
    fn of(child: &'a Child) -> Self {
        let table = &child.table;
        let same: Vec<String> = table
            .key_columns()
            .enumerate()
            .map(|(place, column)| format!("c.{} = ?{}", quote(&column.name), place + 1))
            .collect();
        let from = format!("FROM main.{} AS c WHERE {}", quote(&table.name), same.join(" AND "));
        Self { child, shape: table.shape(), sql: format!("SELECT {} {from}", judgement(child)) }
    }

    /// Whether the row is there and lacks the parent that it is noted for.
    fn lacks(&self, conn: &Connection, line: &Place) -> Result<bool, StoreError> {
        let Some(key) = self.key(&line.key) else { return Ok(false) };
        let mut statement = conn.prepare_cached(&self.sql)?;
        bind_from(&mut statement, 1, &key)?;
        let mut rows = statement.raw_query();
        let Some(row) = rows.next()? else { return Ok(false) };
        let noted: Option<Json> = serde_json::from_str(&line.parent).ok();
        Ok(missing_parents(self.child, row, 0)?.into_iter().any(|parent| Some(parent) == noted))
    }

    /// The key that a text stands for; none where the table has another key by now.
    fn key(&self, text: &str) -> Option<Vec<Value>> {
        let json: Json = serde_json::from_str(text).ok()?;
        let object = json.as_object()?;
        let columns = self.shape.key.iter().map(|index| self.shape.columns.get(usize::from(*index)));
        columns.map(|column| value_from_json(object.get(column?)?)).collect()
    }
}

/// Forgets lines.
pub(super) fn forget(conn: &Connection, settled: &[Place]) -> Result<(), StoreError> {
    let mut statement =
        conn.prepare_cached("DELETE FROM main._sync_orphan WHERE tbl = ?1 AND key = ?2 AND parent = ?3")?;
    for line in settled {
        statement.execute(params![line.table, line.key, line.parent])?;
    }
    Ok(())
}
