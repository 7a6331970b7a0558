//! Our own tables: what they look like, that they are there, and the database's own origin in them.

use replication::Origin;
use rusqlite::{Connection, OptionalExtension, params};

use crate::error::StoreError;

/// The form of our tables. A file with a later one is not touched.
const FORMAT: i64 = 1;

/// One of our tables.
struct OwnTable {
    name: &'static str,
    columns: &'static str,
    /// What follows the name in its CREATE TABLE statement.
    definition: &'static str,
}

/// All our tables except the clock tables, of which each synced table has one.
const TABLES: [OwnTable; 8] = [
    OwnTable { name: "_sync_meta", columns: "key, value", definition: "(key TEXT PRIMARY KEY, value) WITHOUT ROWID" },
    OwnTable {
        name: "_sync_origin",
        columns: "id, origin, node, seq",
        definition: "(id INTEGER PRIMARY KEY, origin BLOB NOT NULL UNIQUE, node TEXT, seq INTEGER NOT NULL)",
    },
    OwnTable {
        name: "_sync_table",
        columns: "id, name, clock, baseline",
        definition: "(id INTEGER PRIMARY KEY, name TEXT NOT NULL, clock TEXT NOT NULL, baseline INTEGER NOT NULL DEFAULT 0)",
    },
    OwnTable {
        name: "_sync_column",
        columns: "tbl, id, name",
        definition: "(tbl INTEGER, id INTEGER, name TEXT, PRIMARY KEY (tbl, id)) WITHOUT ROWID",
    },
    OwnTable {
        name: "_sync_log",
        columns: "seq, tbl, op, mask, ts, k0",
        // Key columns without a type: no affinity changes what a trigger logs.
        definition: "(seq INTEGER PRIMARY KEY, tbl INTEGER, op INTEGER, mask INTEGER, ts INTEGER, k0)",
    },
    OwnTable {
        name: "_sync_conflict",
        columns: "id, tbl, key, kind, policy, outcome, at, record, state",
        definition: "(id INTEGER PRIMARY KEY, tbl TEXT, key TEXT, kind TEXT, policy TEXT, outcome TEXT, at INTEGER, \
                     record TEXT, state TEXT)",
    },
    OwnTable {
        name: "_sync_parked",
        columns: "id, tbl, key, reason, at, change",
        definition: "(id INTEGER PRIMARY KEY, tbl TEXT, key BLOB, reason TEXT, at INTEGER, change BLOB)",
    },
    OwnTable {
        name: "_sync_received",
        columns: "source, position",
        definition: "(source BLOB PRIMARY KEY, position TEXT) WITHOUT ROWID",
    },
];

/// Whether a table of this name is one of ours.
pub(crate) fn is_own_table(name: &str) -> bool {
    name.starts_with("_sync_clock_") || TABLES.iter().any(|table| table.name == name)
}

/// Whether the database is attached.
pub(crate) fn is_attached(conn: &Connection) -> Result<bool, StoreError> {
    has_table(conn, "_sync_meta")
}

/// Whether the file has a table of this name.
pub(crate) fn has_table(conn: &Connection, name: &str) -> Result<bool, StoreError> {
    let sql = "SELECT 1 FROM main.sqlite_schema WHERE type = 'table' AND name = ?1";
    Ok(conn.prepare_cached(sql)?.exists([name])?)
}

/// Makes those of our tables that are missing. True if the database was not attached before.
pub(super) fn ensure(conn: &Connection) -> Result<bool, StoreError> {
    let created = !is_attached(conn)?;
    if !created {
        check_format(conn)?;
    }
    for table in &TABLES {
        if !has_table(conn, table.name)? {
            conn.execute_batch(&format!("CREATE TABLE {}{}", table.name, table.definition))?;
        }
        // A table of the same name that is not ours, or that somebody has altered.
        let readable = conn.prepare(&format!("SELECT {} FROM main.{}", table.columns, table.name));
        readable.map_err(|error| StoreError::Damaged { what: error.to_string() })?;
    }
    conn.execute(
        "INSERT INTO main._sync_meta (key, value) SELECT 'format', ?1 \
         WHERE NOT EXISTS (SELECT 1 FROM main._sync_meta WHERE key = 'format')",
        [FORMAT],
    )?;
    Ok(created)
}

fn check_format(conn: &Connection) -> Result<(), StoreError> {
    let found: Option<i64> =
        conn.query_row("SELECT value FROM main._sync_meta WHERE key = 'format'", [], |row| row.get(0)).optional()?;
    match found {
        Some(found) if found > FORMAT => Err(StoreError::Format { found, known: FORMAT }),
        _ => Ok(()),
    }
}

/// The origin of this database; `new` from now on where it has none.
pub(super) fn own_origin(conn: &Connection, new: Origin, node: &str) -> Result<Origin, StoreError> {
    if let Some((id, origin, name)) = read_own_origin(conn)? {
        if name.as_deref() != Some(node) {
            conn.execute("UPDATE main._sync_origin SET node = ?2 WHERE id = ?1", params![id, node])?;
        }
        return Ok(origin);
    }
    conn.execute(
        "INSERT INTO main._sync_origin (origin, node, seq) VALUES (?1, ?2, 0)",
        params![new.as_bytes(), node],
    )?;
    conn.execute(
        "INSERT OR REPLACE INTO main._sync_meta (key, value) VALUES ('origin_id', ?1)",
        [conn.last_insert_rowid()],
    )?;
    Ok(new)
}

fn read_own_origin(conn: &Connection) -> Result<Option<(i64, Origin, Option<String>)>, StoreError> {
    let sql = "SELECT o.id, o.origin, o.node FROM main._sync_meta AS m JOIN main._sync_origin AS o ON o.id = m.value \
               WHERE m.key = 'origin_id'";
    let read = |row: &rusqlite::Row<'_>| Ok((row.get(0)?, Origin::from_bytes(row.get(1)?), row.get(2)?));
    Ok(conn.query_row(sql, [], read).optional()?)
}

/// Sees to it that the log has a column for each of `width` key columns.
pub(super) fn widen_log(conn: &Connection, width: usize) -> Result<(), StoreError> {
    let sql = "SELECT name FROM pragma_table_info('_sync_log', 'main')";
    let names = conn.prepare(sql)?.query_map([], |row| row.get(0))?.collect::<Result<Vec<String>, _>>()?;
    for column in (0..width).map(|place| format!("k{place}")).filter(|column| !names.contains(column)) {
        conn.execute_batch(&format!("ALTER TABLE main._sync_log ADD COLUMN {column}"))?;
    }
    Ok(())
}
