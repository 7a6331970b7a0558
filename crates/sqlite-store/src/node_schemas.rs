//! What the tables of each node look like, as the file remembers it: one value in `_sync_meta`.

use replication::{NodeSchema, NodeSchemas, Origin};
use rusqlite::{Connection, OptionalExtension, params};

use crate::error::StoreError;
use crate::schema::Table;

/// Reads what is known.
pub(crate) fn load(conn: &Connection) -> Result<NodeSchemas, StoreError> {
    let sql = "SELECT value FROM main._sync_meta WHERE key = 'schemas'";
    let text: Option<String> = conn.prepare_cached(sql)?.query_row([], |row| row.get(0)).optional()?;
    let Some(text) = text else { return Ok(NodeSchemas::default()) };
    serde_json::from_str(&text)
        .map_err(|error| StoreError::Damaged { what: format!("what nodes' tables are: {error}") })
}

/// Writes what is known.
pub(crate) fn save(conn: &Connection, schemas: &NodeSchemas) -> Result<(), StoreError> {
    let text = serde_json::to_string(schemas).map_err(|error| StoreError::Encoding { reason: error.to_string() })?;
    conn.execute("INSERT OR REPLACE INTO main._sync_meta (key, value) VALUES ('schemas', ?1)", [text])?;
    Ok(())
}

/// Takes note of what this node's tables are, those too that are not synced by choice, under a new version if that is news: a version of this node's own that no
/// origin of it has used.
pub(crate) fn announce(
    conn: &Connection,
    (own, node): (Origin, &str),
    tables: &[Table],
    now: i64,
) -> Result<(), StoreError> {
    let mut schemas = load(conn)?;
    let mut shapes: Vec<_> = tables.iter().map(Table::wire_shape).collect();
    shapes.sort_unstable();
    let mut schema = NodeSchema::new(0, shapes);
    if schema.tables.is_some() && schemas.get(own).is_some_and(|known| known.tables == schema.tables) {
        return Ok(());
    }
    let mut former = conn.prepare_cached("SELECT 1 FROM main._sync_origin WHERE origin = ?1 AND node = ?2")?;
    let mut version = now.max(0).cast_unsigned();
    for (origin, known) in schemas.iter() {
        if origin == own || former.exists(params![origin.as_bytes(), node])? {
            version = version.max(known.version.saturating_add(1));
        }
    }
    schema.version = version;
    schemas.learn(own, schema);
    save(conn, &schemas)
}
