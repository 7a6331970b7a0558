//! Forgetting what has no place on any node: the column or table that it waits for was dropped or renamed everywhere.
//!
//! What waits is forgotten only if the tables of every node that is known are known, and none of them has the place. So it
//! is kept while a node has the column, however long that is away; and a column of that name that is added later begins
//! empty. A node's tables are known no later than what it writes in them: it tells them first.

use std::collections::BTreeMap;
use std::sync::Arc;

use replication::TableShape;
use rusqlite::{Connection, params};

use super::{Waiting, from_text, text};
use crate::error::StoreError;
use crate::replica::Replica;

/// Rows forgotten in one transaction.
const STEP_ROWS: i64 = 5_000;

/// The tables of all nodes. None: those of some node are not known, and may be any.
#[derive(Debug)]
pub(crate) struct Places(Option<Vec<Arc<Vec<TableShape>>>>);

impl Places {
    /// What is known now.
    pub(crate) fn of(replica: &Replica) -> Self {
        let origins = replica.have.iter().map(|(origin, _)| origin);
        Self(replica.schemas.of_all(origins, replica.names()))
    }

    fn any(&self, fits: impl Fn(&TableShape) -> bool) -> bool {
        let Some(nodes) = &self.0 else { return true };
        nodes.iter().flat_map(|tables| tables.iter()).any(fits)
    }

    /// Whether a node has, or may have, a table in which rows of this shape can be.
    pub(crate) fn has_table(&self, shape: &TableShape) -> bool {
        let key = key_names(shape);
        self.any(|table| table.name.eq_ignore_ascii_case(&shape.name) && key_names(table) == key)
    }

    /// Whether a node has, or may have, this column.
    pub(crate) fn has_column(&self, table: &str, column: &str) -> bool {
        let named = |name: &String| name.eq_ignore_ascii_case(column);
        self.any(|shape| shape.name.eq_ignore_ascii_case(table) && shape.columns.iter().any(named))
    }
}

fn key_names(shape: &TableShape) -> Vec<String> {
    let name = |index: &u16| shape.columns.get(usize::from(*index)).map(|name| name.to_ascii_lowercase());
    let mut names: Vec<String> = shape.key.iter().filter_map(name).collect();
    names.sort_unstable();
    names
}

/// Rows that wait for the same.
struct Alike {
    table: String,
    shape: String,
    missing: String,
}

/// Forgets the next of what has no place any more, in the caller's write transaction; counts the rows by table. True if it
/// was the last.
pub(crate) fn forget_gone(
    conn: &Connection,
    replica: &mut Replica,
    forgotten: &mut BTreeMap<String, u64>,
) -> Result<bool, StoreError> {
    let places = replica.places();
    if replica.waiting.rows == 0 || places.0.is_none() {
        return Ok(true);
    }
    let mut left = STEP_ROWS;
    for alike in groups(conn)? {
        let shape: TableShape = from_text(&alike.shape)?;
        let missing: Vec<String> = from_text(&alike.missing)?;
        let still: Vec<&String> = missing.iter().filter(|column| places.has_column(&alike.table, column)).collect();
        let stays = if missing.is_empty() { places.has_table(&shape) } else { !still.is_empty() };
        if !stays {
            let count = forget(conn, &alike, left)?;
            left -= count;
            *forgotten.entry(alike.table).or_default() += count.cast_unsigned();
            if left == 0 {
                break;
            }
        } else if still.len() < missing.len() {
            let sql = "UPDATE main._sync_parked SET missing = ?4 WHERE tbl = ?1 AND shape = ?2 AND missing = ?3";
            conn.execute(sql, params![alike.table, alike.shape, alike.missing, text(&still)?])?;
        }
    }
    replica.waiting = Waiting::load(conn)?;
    Ok(left > 0)
}

fn groups(conn: &Connection) -> Result<Vec<Alike>, StoreError> {
    let mut statement = conn.prepare_cached("SELECT DISTINCT tbl, shape, missing FROM main._sync_parked")?;
    let read = |row: &rusqlite::Row<'_>| Ok(Alike { table: row.get(0)?, shape: row.get(1)?, missing: row.get(2)? });
    Ok(statement.query_map([], read)?.collect::<Result<_, _>>()?)
}

/// Forgets at most `limit` rows that wait for the same; tells how many.
fn forget(conn: &Connection, alike: &Alike, limit: i64) -> Result<i64, StoreError> {
    let first = "SELECT id FROM main._sync_parked WHERE tbl = ?1 AND shape = ?2 AND missing = ?3 ORDER BY id LIMIT ?4";
    let parameters = params![alike.table, alike.shape, alike.missing, limit];
    conn.prepare_cached(&format!("DELETE FROM main._sync_parked_dot WHERE parked IN ({first})"))?
        .execute(parameters)?;
    let sql = format!("DELETE FROM main._sync_parked WHERE id IN ({first})");
    let gone = conn.prepare_cached(&sql)?.execute(parameters)?;
    Ok(i64::try_from(gone).unwrap_or(i64::MAX))
}
