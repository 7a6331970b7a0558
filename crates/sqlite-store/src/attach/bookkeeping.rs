//! Our own tables: what they look like, that they are there, and the database's own origin in them.

use replication::Origin;
use rusqlite::{Connection, OptionalExtension, params};

use super::clock_table;
use crate::error::StoreError;
use crate::schema::Table;
use crate::triggers;

/// The form of our tables. A file with an earlier one is brought up to it; one with a later one is not touched. With the third came log
/// rows that tell of two keys, with the fourth segments of dots in place of indexes over the clock tables.
const FORMAT: i64 = 4;

/// One of our tables.
struct OwnTable {
    name: &'static str,
    columns: &'static str,
    /// What follows the name in its CREATE TABLE statement.
    definition: &'static str,
    /// The form that it came with, or that changed it when it had never been written.
    since: i64,
}

/// All our tables except the clock tables, of which each synced table has one.
const TABLES: [OwnTable; 10] = [
    OwnTable {
        name: "_sync_meta",
        columns: "key, value",
        definition: "(key TEXT PRIMARY KEY, value) WITHOUT ROWID",
        since: 1,
    },
    OwnTable {
        name: "_sync_origin",
        columns: "id, origin, node, seq",
        definition: "(id INTEGER PRIMARY KEY, origin BLOB NOT NULL UNIQUE, node TEXT, seq INTEGER NOT NULL)",
        since: 1,
    },
    OwnTable {
        name: "_sync_table",
        columns: "id, name, clock, baseline",
        definition: "(id INTEGER PRIMARY KEY, name TEXT NOT NULL, clock TEXT NOT NULL, baseline INTEGER NOT NULL DEFAULT 0)",
        since: 1,
    },
    OwnTable {
        name: "_sync_column",
        columns: "tbl, id, name",
        definition: "(tbl INTEGER, id INTEGER, name TEXT, PRIMARY KEY (tbl, id)) WITHOUT ROWID",
        since: 1,
    },
    OwnTable {
        name: "_sync_log",
        columns: "seq, tbl, op, mask, ts, k0",
        // Key columns without a type: no affinity changes what a trigger logs.
        definition: "(seq INTEGER PRIMARY KEY, tbl INTEGER, op INTEGER, mask INTEGER, ts INTEGER, k0)",
        since: 1,
    },
    OwnTable {
        name: "_sync_conflict",
        columns: "id, tbl, key, kind, policy, outcome, at, record, state",
        definition: "(id INTEGER PRIMARY KEY, tbl TEXT, key TEXT, kind TEXT, policy TEXT, outcome TEXT, at INTEGER, \
                     record TEXT, state TEXT)",
        since: 1,
    },
    OwnTable {
        // Rows of peers that could not be taken in, whole or in part.
        name: "_sync_parked",
        columns: "id, tbl, key, kind, reason, at, missing, shape, image, context, own",
        definition: "(id INTEGER PRIMARY KEY, tbl TEXT, key BLOB, kind TEXT, reason TEXT, at INTEGER, missing TEXT, \
                     shape TEXT, image BLOB, context TEXT, own TEXT)",
        since: 2,
    },
    OwnTable {
        // The dots of parked rows: peers are sent them like those of clock entries.
        name: "_sync_parked_dot",
        columns: "origin, seq, parked",
        definition: "(origin INTEGER, seq INTEGER, parked INTEGER, PRIMARY KEY (origin, seq, parked)) WITHOUT ROWID",
        since: 2,
    },
    OwnTable {
        // Which rows have entries of which dots: see the index of dots.
        name: "_sync_dot",
        columns: "id, origin, first, last, dots",
        definition: "(id INTEGER PRIMARY KEY, origin INTEGER, first INTEGER, last INTEGER, dots BLOB)",
        since: 4,
    },
    OwnTable {
        // Rows whose parents are not here.
        name: "_sync_orphan",
        columns: "tbl, key, parent, at",
        definition: "(tbl TEXT, key TEXT, parent TEXT, at INTEGER, PRIMARY KEY (tbl, key, parent)) WITHOUT ROWID",
        since: 2,
    },
];

/// The columns of a clock table that do not depend on the key.
const CLOCK_COLUMNS: &str = "k0, col, ts, origin, seq, flags";

/// Whether a table is one of ours: by its name, and by its columns, because an application may use such a name too.
pub(crate) fn is_own_table(conn: &Connection, name: &str) -> Result<bool, StoreError> {
    let columns = match TABLES.iter().find(|table| table.name == name) {
        Some(table) => table.columns,
        None if name.starts_with("_sync_clock_") => CLOCK_COLUMNS,
        None => return Ok(false),
    };
    let mut statement = conn.prepare_cached("SELECT name FROM pragma_table_info(?1, 'main')")?;
    let present = statement.query_map([name], |row| row.get(0))?.collect::<Result<Vec<String>, _>>()?;
    Ok(columns.split(", ").all(|column| present.iter().any(|present| present == column)))
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

/// Makes our tables. True if the database was not attached before.
///
/// Either all of them are there or none: what one holds means nothing without the others, so none is made up for.
pub(super) fn ensure(conn: &Connection) -> Result<bool, StoreError> {
    let created = !is_attached(conn)?;
    if !created {
        upgrade(conn)?;
    }
    for OwnTable { name, definition, .. } in &TABLES {
        let present = has_table(conn, name)?;
        if created && !present {
            conn.execute_batch(&format!("CREATE TABLE {name}{definition}"))?;
        } else if created {
            return Err(StoreError::Damaged { what: format!("{name} is there without _sync_meta") });
        } else if !present || !is_own_table(conn, name)? {
            return Err(StoreError::Damaged { what: format!("{name} is missing or is not as it was made") });
        }
    }
    conn.execute_batch("CREATE INDEX IF NOT EXISTS main._sync_parked_key ON _sync_parked (tbl, key)")?;
    // What is found by it is read without a look at the dots of others.
    conn.execute_batch("CREATE INDEX IF NOT EXISTS main._sync_dot_last ON _sync_dot (origin, last, first)")?;
    // Records are counted and removed by their state and age, without a look at the rows that they hold.
    conn.execute_batch("CREATE INDEX IF NOT EXISTS main._sync_conflict_state ON _sync_conflict (state, at)")?;
    conn.execute(
        "INSERT INTO main._sync_meta (key, value) VALUES ('format', ?1) \
         ON CONFLICT DO UPDATE SET value = excluded.value WHERE value <> excluded.value",
        [FORMAT],
    )?;
    Ok(created)
}

/// Makes the tables that came with later forms than the file's own.
fn upgrade(conn: &Connection) -> Result<(), StoreError> {
    let found: Option<i64> =
        conn.query_row("SELECT value FROM main._sync_meta WHERE key = 'format'", [], |row| row.get(0)).optional()?;
    let found = found.unwrap_or(1);
    if found > FORMAT {
        return Err(StoreError::Format { found, known: FORMAT });
    }
    for OwnTable { name, definition, .. } in TABLES.iter().filter(|table| table.since > found) {
        conn.execute_batch(&format!("DROP TABLE IF EXISTS main.{name}; CREATE TABLE main.{name}{definition}"))?;
    }
    if found < 4 {
        clock_table::note_untold(conn)?;
    }
    Ok(())
}

/// The origin of this database: `new` if it has just been attached for the first time.
pub(super) fn own_origin(conn: &Connection, created: bool, new: Origin, node: &str) -> Result<Origin, StoreError> {
    if !created {
        // A new origin in place of one that is lost would take its number, and with it all its clock entries.
        let lost = || StoreError::Damaged { what: "the database's own origin is missing".to_owned() };
        let (id, origin, name) = read_own_origin(conn)?.ok_or_else(lost)?;
        if name.as_deref() != Some(node) {
            conn.execute("UPDATE main._sync_origin SET node = ?2 WHERE id = ?1", params![id, node])?;
        }
        return Ok(origin);
    }
    // Number 0, so that the first peer's is 1: SQLite stores these two without a byte of content, in every clock entry.
    conn.execute(
        "INSERT INTO main._sync_origin (id, origin, node, seq) VALUES (0, ?1, ?2, 0)",
        params![new.as_bytes(), node],
    )?;
    conn.execute("INSERT OR REPLACE INTO main._sync_meta (key, value) VALUES ('origin_id', 0)", [])?;
    Ok(new)
}

/// The name under which this database's own origin is shown.
pub(crate) fn own_node(conn: &Connection) -> Result<String, StoreError> {
    Ok(read_own_origin(conn)?.and_then(|(_, _, node)| node).unwrap_or_default())
}

fn read_own_origin(conn: &Connection) -> Result<Option<(i64, Origin, Option<String>)>, StoreError> {
    let sql = "SELECT o.id, o.origin, o.node FROM main._sync_meta AS m JOIN main._sync_origin AS o ON o.id = m.value \
               WHERE m.key = 'origin_id'";
    let read = |row: &rusqlite::Row<'_>| Ok((row.get(0)?, Origin::from_bytes(row.get(1)?), row.get(2)?));
    Ok(conn.query_row(sql, [], read).optional()?)
}

/// Sees to it that the log has a column for each key column of a table, and for what it and each of the counters held before.
pub(super) fn widen_log(conn: &Connection, table: &Table) -> Result<(), StoreError> {
    let sql = "SELECT name FROM pragma_table_info('_sync_log', 'main')";
    let names = conn.prepare(sql)?.query_map([], |row| row.get(0))?.collect::<Result<Vec<String>, _>>()?;
    let keys = (0..table.key.len()).flat_map(|place| [format!("k{place}"), triggers::previous(place)]);
    let counters = table.counters().map(|column| triggers::before(column.number));
    for column in keys.chain(counters).filter(|column| !names.contains(column)) {
        conn.execute_batch(&format!("ALTER TABLE main._sync_log ADD COLUMN {column}"))?;
    }
    Ok(())
}
