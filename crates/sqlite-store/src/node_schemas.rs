//! What the tables of each node look like, as the file remembers it: one value in `_sync_meta`.

use std::sync::Arc;

use replication::{NodeSchema, NodeSchemas, Origin, TableShape};
use rusqlite::{Connection, params};

use crate::error::StoreError;
use crate::meta;
use crate::schema::Table;

/// The key in `_sync_meta`.
const SCHEMAS: &str = "schemas";

/// Reads what is known.
pub(crate) fn load(conn: &Connection) -> Result<NodeSchemas, StoreError> {
    Ok(meta::read(conn, SCHEMAS)?.unwrap_or_default())
}

/// Writes what is known.
pub(crate) fn save(conn: &Connection, schemas: &NodeSchemas) -> Result<(), StoreError> {
    meta::write(conn, SCHEMAS, schemas)
}

/// Takes note of what this node's tables are, those too that are not synced by choice.
pub(crate) fn announce(conn: &Connection, own: (Origin, &str), tables: &[Table], now: i64) -> Result<(), StoreError> {
    let mut shapes: Vec<_> = tables.iter().map(Table::wire_shape).collect();
    shapes.sort_unstable();
    note(conn, load(conn)?, own, NodeSchema::new(0, shapes).tables, now)
}

/// Takes note that this node's tables are under its new origin what they are known to be under the one before.
pub(crate) fn succeed(conn: &Connection, before: Origin, own: (Origin, &str), now: i64) -> Result<(), StoreError> {
    let schemas = load(conn)?;
    let tables = schemas.get(before).and_then(|known| known.tables.clone());
    note(conn, schemas, own, tables, now)
}

/// Notes this node's tables, if that is news, under a new version: one of this node's own that no origin of it has used.
fn note(
    conn: &Connection,
    mut schemas: NodeSchemas,
    (own, node): (Origin, &str),
    tables: Option<Arc<Vec<TableShape>>>,
    now: i64,
) -> Result<(), StoreError> {
    if tables.is_some() && schemas.get(own).is_some_and(|known| known.tables == tables) {
        return Ok(());
    }
    let mut former = conn.prepare_cached("SELECT 1 FROM main._sync_origin WHERE origin = ?1 AND node = ?2")?;
    let mut version = now.max(0).cast_unsigned();
    for (origin, known) in schemas.iter() {
        if origin == own || former.exists(params![origin.as_bytes(), node])? {
            version = version.max(known.version.saturating_add(1));
        }
    }
    schemas.learn(own, NodeSchema { version, tables });
    save(conn, &schemas)
}
