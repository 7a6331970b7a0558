//! Reads tables, columns, keys and unique indexes from SQLite, and says which tables cannot be synced and why.
//!
//! Owns no state and writes nothing. Whatever the pragmas do not tell is taken from the index's text.

use replication::Selection;
use rusqlite::{Connection, OptionalExtension, params};

use super::index_text::IndexText;
use super::migration_history;
use super::tokens::{Token, significant};
use super::{Affinity, Collation, Column, IndexPart, Table, UniqueIndex, Unsynced};
use crate::attach::bookkeeping::is_own_table;
use crate::error::StoreError;
use crate::identifier::{is_ours, is_reserved};

/// A table, or the reason why it is not synced. Numbers are 0 and the clock is unnamed until the registry fills them in.
pub(crate) type Found = Result<Table, Unsynced>;

const INDEX_REMEDY: &str = "use the collations BINARY, NOCASE or RTRIM in primary keys and unique indexes";

/// All tables of the application, in the order in which they were made. Shadow tables of virtual tables are left out.
pub(crate) fn read_tables(conn: &Connection, selection: &Selection) -> Result<Vec<Found>, StoreError> {
    let listed = list_tables(conn)?;
    let foreign: Vec<String> = listed.iter().filter(|table| table.is_foreign_virtual).map(|t| t.name.clone()).collect();
    let mut found = Vec::new();
    for table in &listed {
        if is_ours(&table.name) && table.kind == "table" {
            if !is_own_table(conn, &table.name)? {
                found.push(Err(unsynced(
                    &table.name,
                    "has a name that begins with _sync_, as sync-engine's own tables do",
                    "rename it if it is to be synced",
                )));
            }
            continue;
        }
        if is_reserved(&table.name) || table.kind == "shadow" || is_shadow_of(&table.name, &foreign) {
            continue;
        }
        match table.kind.as_str() {
            "table" => found.push(read_table(conn, table, selection)?),
            "virtual" => found.push(Err(unsynced(
                &table.name,
                "is a virtual table",
                "nothing, if its content follows from synced tables by triggers",
            ))),
            _ => {}
        }
    }
    Ok(found)
}

struct Listed {
    name: String,
    kind: String,
    without_rowid: bool,
    strict: bool,
    autoincrement: bool,
    has_conflict_clauses: bool,
    /// A virtual table of a module that this SQLite lacks: its shadow tables look like ordinary ones.
    is_foreign_virtual: bool,
}

fn list_tables(conn: &Connection) -> Result<Vec<Listed>, StoreError> {
    let mut modules = conn.prepare("SELECT name FROM pragma_module_list")?;
    let modules = modules.query_map([], |row| row.get::<_, String>(0))?.collect::<Result<Vec<_>, _>>()?;
    let mut statement = conn.prepare(
        "SELECT l.name, l.type, l.wr, l.strict, s.sql FROM pragma_table_list AS l \
         JOIN main.sqlite_schema AS s ON s.type = 'table' AND s.name = l.name \
         WHERE l.schema = 'main' ORDER BY s.rowid",
    )?;
    let rows = statement.query_map([], |row| {
        let kind: String = row.get(1)?;
        let sql: Option<String> = row.get(4)?;
        let module = sql.as_deref().filter(|_| kind == "virtual").and_then(module_of);
        let known = |module: &String| modules.iter().any(|known| known.eq_ignore_ascii_case(module));
        // AUTOINCREMENT names nothing unless it is quoted. CONFLICT may, and then does no harm.
        let says =
            |word: &str| sql.as_ref().is_some_and(|sql| significant(sql).iter().any(|token| token.is_word(word)));
        Ok(Listed {
            name: row.get(0)?,
            is_foreign_virtual: module.is_some_and(|module| !known(&module)),
            autoincrement: says("AUTOINCREMENT"),
            has_conflict_clauses: says("CONFLICT"),
            kind,
            without_rowid: row.get(2)?,
            strict: row.get(3)?,
        })
    })?;
    Ok(rows.collect::<Result<_, _>>()?)
}

/// The module of a stored `CREATE VIRTUAL TABLE name USING module(…)`.
fn module_of(sql: &str) -> Option<String> {
    let tokens = significant(sql);
    let using = tokens.iter().position(|token| token.is_word("USING"))?;
    tokens.get(using + 1).and_then(Token::identifier)
}

fn is_shadow_of(name: &str, virtual_tables: &[String]) -> bool {
    virtual_tables.iter().any(|table| {
        let prefix = name.get(..table.len()).is_some_and(|start| start.eq_ignore_ascii_case(table));
        prefix && name[table.len()..].starts_with('_')
    })
}

fn unsynced(table: &str, reason: impl Into<String>, remedy: &str) -> Unsynced {
    Unsynced { table: table.to_owned(), reason: reason.into(), remedy: remedy.to_owned(), intended: false }
}

fn read_table(conn: &Connection, listed: &Listed, selection: &Selection) -> Result<Found, StoreError> {
    if let Some(exclusion) = selection.exclusion(&listed.name) {
        let remedy = "nothing, if it is to stay on this node; else change include and exclude";
        return Ok(Err(Unsynced { intended: true, ..unsynced(&listed.name, exclusion.to_string(), remedy) }));
    }
    let raw = read_columns(conn, listed, selection)?;
    if let Some(tool) = migration_history::tool(&listed.name, raw.iter().map(|column| column.name.as_str())) {
        let reason = format!("is where {tool} notes which migrations this file has had");
        let remedy = "nothing: run the migrations on every node";
        return Ok(Err(Unsynced { intended: true, ..unsynced(&listed.name, reason, remedy) }));
    }
    let indexes = read_unique_indexes(conn, &listed.name)?;
    Ok(Shaping { listed, raw: &raw, indexes: &indexes }.table())
}

/// A column as the pragmas tell it.
struct RawColumn {
    name: String,
    affinity: Affinity,
    collation: String,
    not_null: bool,
    default: Option<String>,
    generated: bool,
    /// Whether it was chosen not to be synced.
    excluded: bool,
    /// The place in the PRIMARY KEY, from 1; 0 for none.
    key_place: i64,
}

fn read_columns(conn: &Connection, listed: &Listed, selection: &Selection) -> Result<Vec<RawColumn>, StoreError> {
    let mut statement = conn.prepare(
        "SELECT name, type, \"notnull\", dflt_value, pk, hidden FROM pragma_table_xinfo(?1, 'main') ORDER BY cid",
    )?;
    let mut rows = statement.query([&listed.name])?;
    let mut columns = Vec::new();
    while let Some(row) = rows.next()? {
        let name: String = row.get(0)?;
        let declared: String = row.get(1)?;
        let (_, collation, ..) = conn.column_metadata(Some("main"), listed.name.as_str(), name.as_str())?;
        let generated = row.get::<_, i64>(5)? >= 2;
        columns.push(RawColumn {
            affinity: affinity(&declared, listed.strict),
            collation: collation.map_or("BINARY".into(), |text| text.to_string_lossy()).into_owned(),
            not_null: row.get(2)?,
            default: row.get(3)?,
            key_place: row.get(4)?,
            generated,
            excluded: !generated && selection.excludes_column(&listed.name, &name),
            name,
        });
    }
    Ok(columns)
}

impl RawColumn {
    fn is_synced(&self) -> bool {
        !self.generated && !self.excluded
    }
}

/// The affinity of a declared type, by SQLite's rules.
fn affinity(declared: &str, strict: bool) -> Affinity {
    let declared = declared.to_ascii_uppercase();
    let has = |part: &str| declared.contains(part);
    // ANY is a type of STRICT tables; elsewhere it is a word like any other.
    if declared.is_empty() || (strict && declared == "ANY") {
        Affinity::Blob
    } else if has("INT") {
        Affinity::Integer
    } else if has("CHAR") || has("CLOB") || has("TEXT") {
        Affinity::Text
    } else if has("BLOB") {
        Affinity::Blob
    } else if has("REAL") || has("FLOA") || has("DOUB") {
        Affinity::Real
    } else {
        Affinity::Numeric
    }
}

/// A unique index as the pragmas tell it.
struct RawIndex {
    name: String,
    is_primary: bool,
    partial: bool,
    /// Column (negative: none), name, collation.
    parts: Vec<(i64, Option<String>, String)>,
    text: Option<IndexText>,
}

fn read_unique_indexes(conn: &Connection, table: &str) -> Result<Vec<RawIndex>, StoreError> {
    let mut list = conn.prepare(
        "SELECT name, origin, partial FROM pragma_index_list(?1, 'main') WHERE \"unique\" ORDER BY seq DESC",
    )?;
    let mut parts =
        conn.prepare("SELECT cid, name, coll FROM pragma_index_xinfo(?1, 'main') WHERE key ORDER BY seqno")?;
    let mut rows = list.query([table])?;
    let mut indexes = Vec::new();
    while let Some(row) = rows.next()? {
        let name: String = row.get(0)?;
        let collation = |row: &rusqlite::Row<'_>| row.get::<_, Option<String>>(2).map(Option::unwrap_or_default);
        let columns = parts.query_map([&name], |row| Ok((row.get(0)?, row.get(1)?, collation(row)?)))?;
        let columns = columns.collect::<Result<Vec<_>, _>>()?;
        let sql: Option<Option<String>> = conn
            .query_row("SELECT sql FROM main.sqlite_schema WHERE type = 'index' AND name = ?1", params![name], |row| {
                row.get(0)
            })
            .optional()?;
        indexes.push(RawIndex {
            is_primary: row.get::<_, String>(1)? == "pk",
            partial: row.get(2)?,
            parts: columns,
            text: sql.flatten().as_deref().and_then(IndexText::parse),
            name,
        });
    }
    Ok(indexes)
}

/// Works out one table from what the pragmas tell.
struct Shaping<'a> {
    listed: &'a Listed,
    raw: &'a [RawColumn],
    indexes: &'a [RawIndex],
}

impl Shaping<'_> {
    fn table(&self) -> Found {
        let refuse = |reason: &str, remedy: &str| unsynced(&self.listed.name, reason, remedy);
        let (raw_key, key_index) = self.key()?;
        if raw_key.iter().any(|cid| self.raw[*cid].generated) {
            let remedy = "make a column that is not generated the primary key";
            return Err(refuse("has a generated column in its key", remedy));
        }
        self.excludable(&raw_key)?;
        let key = raw_key.iter().filter_map(|cid| self.synced_index(*cid)).collect::<Vec<_>>();
        let columns = self.columns(&raw_key)?;
        let mut table = Table {
            number: 0,
            name: self.listed.name.clone(),
            remote_name: None,
            clock: String::new(),
            generated: self.raw.iter().filter(|column| column.generated).map(|column| column.name.clone()).collect(),
            excluded: self.raw.iter().filter(|column| column.excluded).map(|column| column.name.clone()).collect(),
            has_rowid: !self.listed.without_rowid,
            rowid_alias: key.first().copied().filter(|_| key_index.is_none()),
            autoincrement: self.listed.autoincrement,
            has_conflict_clauses: self.listed.has_conflict_clauses,
            unique: Vec::new(),
            baseline_published: false,
            columns,
            key,
        };
        for (place, index) in self.indexes.iter().enumerate() {
            if Some(place) != key_index {
                let index = self.unique_index(index)?;
                if !implies_same_key(&table, &index) {
                    table.unique.push(index);
                }
            }
        }
        Ok(table)
    }

    /// Refuses what cannot be done without: rows of peers could not be named, or not be inserted.
    fn excludable(&self, key: &[usize]) -> Result<(), Unsynced> {
        let refuse = |name: &str, why: &str, remedy: &str| {
            unsynced(&self.listed.name, format!("its column {name:?} cannot be excluded: {why}"), remedy)
        };
        for (cid, column) in self.raw.iter().enumerate().filter(|(_, column)| column.excluded) {
            if key.contains(&cid) {
                let remedy = "remove the column from exclude_columns, or exclude the table";
                return Err(refuse(&column.name, "it is part of the key", remedy));
            }
            if column.not_null && column.default.is_none() {
                let why = "it is NOT NULL and has no default, so that rows of peers could not be inserted";
                return Err(refuse(
                    &column.name,
                    why,
                    "give it a DEFAULT or let it be NULL, or remove it from exclude_columns",
                ));
            }
        }
        Ok(())
    }

    /// The key columns by their place in the table, and the index that enforces the key; none for a rowid.
    fn key(&self) -> Result<(Vec<usize>, Option<usize>), Unsynced> {
        let mut primary: Vec<usize> = (0..self.raw.len()).filter(|cid| self.raw[*cid].key_place > 0).collect();
        primary.sort_by_key(|cid| self.raw[*cid].key_place);
        if !primary.is_empty() {
            let index = self.indexes.iter().position(|index| index.is_primary);
            if let Some(found) = index
                && !self.compares_as_columns(&self.indexes[found])
            {
                return Err(unsynced(
                    &self.listed.name,
                    "has a primary key that compares by another collation than its columns",
                    "declare the collation on the columns",
                ));
            }
            return Ok((primary, index));
        }
        // Every node must choose the same index: the narrowest, then the one that comes first in the table.
        let candidates = self.indexes.iter().enumerate().filter(|(_, index)| self.serves_as_key(index));
        let best = candidates.min_by_key(|(_, index)| (index.parts.len(), column_places(index)));
        best.map(|(place, index)| (column_places(index), Some(place))).ok_or_else(|| {
            unsynced(
                &self.listed.name,
                "has no primary key",
                "give it a PRIMARY KEY, or a UNIQUE index over columns that are NOT NULL",
            )
        })
    }

    fn serves_as_key(&self, index: &RawIndex) -> bool {
        let plain = index.parts.iter().all(|(cid, ..)| usize::try_from(*cid).is_ok_and(|cid| self.raw[cid].not_null));
        let stored = column_places(index).iter().all(|cid| !self.raw[*cid].generated);
        !index.partial && plain && stored && self.compares_as_columns(index)
    }

    fn compares_as_columns(&self, index: &RawIndex) -> bool {
        index.parts.iter().all(|(cid, _, collation)| {
            usize::try_from(*cid).is_ok_and(|cid| self.raw[cid].collation.eq_ignore_ascii_case(collation))
        })
    }

    fn columns(&self, key: &[usize]) -> Result<Vec<Column>, Unsynced> {
        let synced = self.raw.iter().enumerate().filter(|(_, column)| column.is_synced());
        synced
            .map(|(cid, column)| {
                // The collation of a column outside key and unique indexes is never used by us.
                let fallback = (!key.contains(&cid)).then_some(Collation::Binary);
                Ok(Column {
                    number: 0,
                    name: column.name.clone(),
                    remote_name: None,
                    affinity: column.affinity,
                    collation: self.collation(&column.collation).or_else(|refused| fallback.ok_or(refused))?,
                    not_null: column.not_null,
                    default: column.default.clone(),
                    counter: false,
                })
            })
            .collect()
    }

    fn collation(&self, name: &str) -> Result<Collation, Unsynced> {
        Collation::named(name)
            .ok_or_else(|| unsynced(&self.listed.name, format!("no such collation sequence: {name}"), INDEX_REMEDY))
    }

    /// The place of a column among the synced ones.
    fn synced_index(&self, cid: usize) -> Option<usize> {
        let is_synced = self.raw.get(cid)?.is_synced();
        is_synced.then(|| self.raw[..cid].iter().filter(|column| column.is_synced()).count())
    }

    fn unique_index(&self, index: &RawIndex) -> Result<UniqueIndex, Unsynced> {
        let unreadable = || {
            let reason = format!("has a unique index {:?} whose text cannot be read", index.name);
            unsynced(&self.listed.name, reason, "create the index anew")
        };
        let mut columns = Vec::new();
        for (place, (cid, name, collation)) in index.parts.iter().enumerate() {
            let collation = self.collation(collation)?;
            let synced = usize::try_from(*cid).ok().and_then(|cid| self.synced_index(cid));
            columns.push(match (synced, name) {
                (Some(index), _) => IndexPart::Column { index, collation },
                (None, Some(name)) => IndexPart::Unsynced { name: name.clone(), collation },
                (None, None) => {
                    let text = index.text.as_ref().and_then(|text| text.parts.get(place));
                    IndexPart::Expression { text: text.ok_or_else(unreadable)?.clone(), collation }
                }
            });
        }
        let partial = index.text.as_ref().and_then(|text| text.predicate.clone());
        if index.partial && partial.is_none() {
            return Err(unreadable());
        }
        Ok(UniqueIndex { name: index.name.clone(), columns, partial })
    }
}

fn column_places(index: &RawIndex) -> Vec<usize> {
    index.parts.iter().filter_map(|(cid, ..)| usize::try_from(*cid).ok()).collect()
}

/// Whether two rows that clash on an index have the same key anyway, because the index holds the whole key: it can
/// displace no other row.
fn implies_same_key(table: &Table, index: &UniqueIndex) -> bool {
    table.key.iter().all(|key| {
        let same = table.columns[*key].collation;
        index.columns.contains(&IndexPart::Column { index: *key, collation: same })
    })
}
