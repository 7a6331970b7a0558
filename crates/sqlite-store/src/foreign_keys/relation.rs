//! The foreign keys of the synced tables, and the SQL that tells whether a row's parents are here.
//!
//! A row's parent is looked for as SQLite does it: by the parent key's affinity and collation, and not at all where one
//! of the columns is NULL. What refers to a key that is not unique is left out: SQLite itself takes no row of such a
//! table while it enforces foreign keys.

use std::collections::BTreeMap;

use replication::Value;
use rusqlite::Connection;
use serde_json::{Map, Value as Json};

use crate::error::StoreError;
use crate::identifier::quote;
use crate::json::value_json;
use crate::schema::{Schema, Table};

/// A synced table with foreign keys.
#[derive(Debug, Clone)]
pub(super) struct Child {
    pub(super) table: Table,
    pub(super) keys: Vec<ForeignKey>,
}

/// One foreign key of a table.
#[derive(Debug, Clone)]
pub(super) struct ForeignKey {
    /// The table that it refers to, as the reference spells it.
    pub(super) parent: String,
    /// Whether that table is there.
    present: bool,
    /// The columns that refer, and those that they refer to.
    columns: Vec<(String, String)>,
    /// Whether the rows that refer to a parent are found through an index.
    pub(super) indexed: bool,
}

/// A foreign key as the pragma lists it: a column without a counterpart refers to the parent's primary key.
struct Listed {
    parent: String,
    columns: Vec<(String, Option<String>)>,
}

/// The foreign keys of all synced tables.
pub(super) fn read(conn: &Connection, schema: &Schema) -> Result<Vec<Child>, StoreError> {
    let mut children = Vec::new();
    for table in &schema.tables {
        let mut keys = Vec::new();
        for listed in list(conn, &table.name)? {
            // Whether the parent of a row is in a table that is not synced is its application's business.
            let excluded = |(from, _): &(String, _)| table.excluded.iter().any(|name| name.eq_ignore_ascii_case(from));
            if schema.selection.exclusion(&listed.parent).is_some() || listed.columns.iter().any(excluded) {
                continue;
            }
            keys.extend(ForeignKey::resolve(conn, table, listed)?);
        }
        if !keys.is_empty() {
            children.push(Child { table: table.clone(), keys });
        }
    }
    Ok(children)
}

/// The indices of tables, each after those that it refers to; where these run in circles, the first of them first.
pub(crate) fn parents_first(conn: &Connection, tables: &[Table]) -> Result<Vec<usize>, StoreError> {
    let mut left = Vec::new();
    for (index, table) in tables.iter().enumerate() {
        let names = names(conn, "SELECT DISTINCT \"table\" FROM pragma_foreign_key_list(?1, 'main')", &table.name)?;
        let parent = |name: &String| tables.iter().position(|other| other.name.eq_ignore_ascii_case(name));
        let parents: Vec<usize> = names.iter().filter_map(parent).filter(|parent| *parent != index).collect();
        left.push((index, parents));
    }
    let mut order = Vec::new();
    while !left.is_empty() {
        let free = |(_, parents): &(usize, Vec<usize>)| {
            !parents.iter().any(|parent| left.iter().any(|(table, _)| table == parent))
        };
        let next = left.iter().position(free).unwrap_or(0);
        order.push(left.remove(next).0);
    }
    Ok(order)
}

fn list(conn: &Connection, table: &str) -> Result<Vec<Listed>, StoreError> {
    let sql = "SELECT id, \"table\", \"from\", \"to\" FROM pragma_foreign_key_list(?1, 'main') ORDER BY id, seq";
    let mut statement = conn.prepare(sql)?;
    let mut rows = statement.query([table])?;
    let mut listed: BTreeMap<i64, Listed> = BTreeMap::new();
    while let Some(row) = rows.next()? {
        let parent: String = row.get(1)?;
        let key = listed.entry(row.get(0)?).or_insert_with(|| Listed { parent, columns: Vec::new() });
        key.columns.push((row.get(2)?, row.get(3)?));
    }
    Ok(listed.into_values().collect())
}

impl ForeignKey {
    /// None where SQLite would not know what it refers to, or this SQLite cannot look it up.
    fn resolve(conn: &Connection, child: &Table, listed: Listed) -> Result<Option<Self>, StoreError> {
        let unique = unique_keys(conn, &listed.parent)?;
        let present = is_table(conn, &listed.parent)?;
        let primary = unique.first().filter(|key| key.len() == listed.columns.len());
        let columns = listed.columns.into_iter().enumerate().map(|(place, (from, to))| {
            let named = to.or_else(|| primary.map(|key| key[place].clone()));
            // A parent that is not there has no key, and lacks every row whatever it is called.
            Some((from, named.or_else(|| (!present).then(String::new))?))
        });
        let Some(columns) = columns.collect::<Option<Vec<_>>>() else { return Ok(None) };
        let refers_to = |key: &Vec<String>| {
            key.len() == columns.len()
                && key.iter().all(|name| columns.iter().any(|(_, to)| to.eq_ignore_ascii_case(name)))
        };
        if present && !unique.iter().any(refers_to) {
            return Ok(None);
        }
        let mut key = Self { parent: listed.parent, present, columns, indexed: false };
        // What cannot be compiled must not get into a trigger: no row of the table could be written then. Nor must a lookup
        // that reads the whole parent for each row, as where the index compares otherwise than the column.
        let lookup = format!("SELECT 1 FROM main.{} AS c WHERE {}", quote(&child.name), key.missing("c"));
        if conn.prepare(&lookup).is_err() || (present && !is_search(conn, &key.lookup("?1")).unwrap_or(false)) {
            return Ok(None);
        }
        key.indexed = present && key.has_index(conn, child)?;
        Ok(Some(key))
    }

    /// Whether an index of the child begins with the columns that refer.
    fn has_index(&self, conn: &Connection, child: &Table) -> Result<bool, StoreError> {
        if let (Some(rowid), [(from, _)]) = (child.rowid_alias, self.columns.as_slice())
            && child.columns[rowid].name.eq_ignore_ascii_case(from)
        {
            return Ok(true);
        }
        let lists = names(conn, "SELECT name FROM pragma_index_list(?1, 'main') WHERE NOT partial", &child.name)?;
        for index in lists {
            let indexed = names(conn, INDEX_COLUMNS, &index)?;
            let leading = indexed.get(..self.columns.len()).unwrap_or_default();
            if !leading.is_empty() && leading.iter().all(|name| self.from().any(|from| from.eq_ignore_ascii_case(name)))
            {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// One line if the parent is here; its columns are those of `child`, or all the parameter.
    fn lookup(&self, child: &str) -> String {
        // The plus takes the child's affinity away, so that the parent's alone counts.
        let same = self.columns.iter().map(|(from, to)| {
            let value = if child.starts_with('?') { child.to_owned() } else { format!("{child}.{}", quote(from)) };
            format!("p.{} = +{value}", quote(to))
        });
        let same: Vec<String> = same.collect();
        format!("SELECT 1 FROM main.{} AS p WHERE {}", quote(&self.parent), same.join(" AND "))
    }

    /// "The row `row` has a parent by this key, and it is not here."
    pub(super) fn missing(&self, row: &str) -> String {
        let mut terms: Vec<String> =
            self.columns.iter().map(|(from, _)| format!("{row}.{} IS NOT NULL", quote(from))).collect();
        if self.present {
            terms.push(format!("NOT EXISTS ({})", self.lookup(row)));
        }
        format!("({})", terms.join(" AND "))
    }

    /// The keys of the rows that refer to the parent `parent`.
    pub(super) fn children_of(&self, child: &Table, parent: &str) -> String {
        let same: Vec<String> =
            self.columns.iter().map(|(from, to)| format!("c.{} = +{parent}.{}", quote(from), quote(to))).collect();
        let keys = key_list(child, "c");
        format!("SELECT {}, {keys} FROM main.{} AS c WHERE {}", child.number, quote(&child.name), same.join(" AND "))
    }

    /// The columns of the table itself.
    pub(super) fn from(&self) -> impl Iterator<Item = &str> {
        self.columns.iter().map(|(from, _)| from.as_str())
    }

    /// The columns of the parent.
    pub(super) fn to(&self) -> impl Iterator<Item = &str> {
        self.columns.iter().map(|(_, to)| to.as_str())
    }

    /// The parent for people: `{"table": {"column": value}}`.
    pub(super) fn parent_json(&self, values: &[Value]) -> Json {
        let name = |(from, to): &(String, String)| if to.is_empty() { from.clone() } else { to.clone() };
        let key: Map<String, Json> = self.columns.iter().map(name).zip(values.iter().map(value_json)).collect();
        let mut parent = Map::new();
        parent.insert(self.parent.clone(), Json::Object(key));
        Json::Object(parent)
    }
}

/// The key columns of a row, in the key's order.
pub(super) fn key_list(table: &Table, row: &str) -> String {
    table.key_columns().map(|column| format!("{row}.{}", quote(&column.name))).collect::<Vec<_>>().join(", ")
}

fn is_table(conn: &Connection, name: &str) -> Result<bool, StoreError> {
    let sql = "SELECT 1 FROM main.sqlite_schema WHERE type = 'table' AND name = ?1 COLLATE NOCASE";
    Ok(conn.prepare_cached(sql)?.exists([name])?)
}

const INDEX_COLUMNS: &str = "SELECT coalesce(name, '') FROM pragma_index_info(?1, 'main') ORDER BY seqno";

/// The columns of the primary key, in its order, then those of each unique index.
fn unique_keys(conn: &Connection, table: &str) -> Result<Vec<Vec<String>>, StoreError> {
    let mut keys = vec![names(conn, "SELECT name FROM pragma_table_info(?1, 'main') WHERE pk > 0 ORDER BY pk", table)?];
    let unique = "SELECT name FROM pragma_index_list(?1, 'main') WHERE \"unique\" AND NOT partial";
    for index in names(conn, unique, table)? {
        keys.push(names(conn, INDEX_COLUMNS, &index)?);
    }
    Ok(keys)
}

fn names(conn: &Connection, sql: &str, of: &str) -> Result<Vec<String>, StoreError> {
    let mut statement = conn.prepare_cached(sql)?;
    let names = statement.query_map([of], |row| row.get(0))?.collect::<Result<_, _>>()?;
    Ok(names)
}

/// Whether SQLite finds the rows of a query through an index.
fn is_search(conn: &Connection, sql: &str) -> rusqlite::Result<bool> {
    let mut plan = conn.prepare(&format!("EXPLAIN QUERY PLAN {sql}"))?;
    let mut steps = plan.raw_query();
    while let Some(step) = steps.next()? {
        if !step.get_ref(3)?.as_str().unwrap_or_default().starts_with("SEARCH") {
            return Ok(false);
        }
    }
    Ok(true)
}
