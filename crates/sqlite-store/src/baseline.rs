//! Baseline rows: rows that no change since attach has touched. They have no clock entry until a peer needs them.
//!
//! On first contact each gets a row entry with a dot of this database and the stamp 0, in short transactions in key
//! order. From then on baseline rows are ordinary changes, older than every other: they are streamed, resumed, forwarded
//! and merged by the same rules, and two nodes that publish the same key decide by (0, origin), equal content without a
//! conflict. A separate exchange of baselines, and a mark for it in the version vector, are not needed.

use replication::Value;
use rusqlite::{Connection, params};

use crate::bind::{bind_from, values_from};
use crate::counting;
use crate::error::StoreError;
use crate::fail_point::fail_point;
use crate::replica::Replica;

/// Where publishing stands.
#[derive(Debug, Default)]
pub(crate) struct Publishing {
    /// Number of the table at work, and the last key that was given an entry.
    at: Option<(i64, Vec<Value>)>,
    /// Rows given an entry in this table.
    rows: u64,
}

/// What one step of publishing did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PublishStep {
    /// The table; none if all tables are published.
    pub(crate) table: Option<String>,
    /// Rows of the table given an entry so far.
    pub(crate) rows: u64,
    /// Whether the table is finished.
    pub(crate) finished: bool,
}

impl Publishing {
    /// Gives up to `limit` rows of one table their entries.
    pub(crate) fn step(
        &mut self,
        conn: &Connection,
        replica: &mut Replica,
        limit: usize,
    ) -> Result<PublishStep, StoreError> {
        let Some(index) = next_table(replica) else {
            return Ok(PublishStep { table: None, rows: 0, finished: true });
        };
        let number = replica.tables[index].table.number;
        if self.at.as_ref().is_none_or(|(table, _)| *table != number) {
            self.rows = 0;
            self.at = None;
        }
        let before = replica.have.clone();
        let after = self.at.as_ref().map(|(_, key)| key.as_slice());
        let (rows, last) = publish(conn, replica, index, after, limit)?;
        self.rows += rows as u64;
        let finished = rows < limit;
        if finished {
            conn.execute("UPDATE main._sync_table SET baseline = 1 WHERE id = ?1", [number])?;
            replica.tables[index].table.baseline_published = true;
        }
        self.at = last.map(|key| (number, key));
        replica.save(conn, &before)?;
        fail_point("publish-before-commit");
        Ok(PublishStep { table: Some(replica.tables[index].shape.name.clone()), rows: self.rows, finished })
    }
}

/// The table at work, or the next. Peers receive what is published so far, and would miss the parents of its rows.
fn next_table(replica: &Replica) -> Option<usize> {
    replica.parents_first.iter().copied().find(|index| !replica.tables[*index].table.baseline_published)
}

/// Gives the next rows of a table their entries; how many they are, and the key of the last.
fn publish(
    conn: &Connection,
    replica: &mut Replica,
    index: usize,
    after: Option<&[Value]>,
    limit: usize,
) -> Result<(usize, Option<Vec<Value>>), StoreError> {
    let own = replica.origin_id(conn, replica.own)?;
    let issued = replica.have.get(replica.own);
    let table = &replica.tables[index];
    let mut statement = match after {
        None => conn.prepare_cached(&table.many.publish)?,
        Some(_) => conn.prepare_cached(&table.many.publish_after)?,
    };
    let key = after.unwrap_or_default();
    bind_from(&mut statement, 1, key)?;
    statement.raw_bind_parameter(key.len() + 1, i64::try_from(limit).unwrap_or(i64::MAX))?;
    statement.raw_bind_parameter(key.len() + 2, own)?;
    statement.raw_bind_parameter(key.len() + 3, issued.cast_signed())?;
    let rows = statement.raw_execute()?;
    drop(statement);
    if rows == 0 {
        return Ok((0, None));
    }
    let last = replica.next_dots(rows as u64) + rows as u64;
    replica.tables[index].high.raise(replica.own, last);
    let counted = replica.tables[index].table.counters().next().is_some();
    let keys = keys_of(conn, replica, index, (if counted { issued } else { last - 1 }, last))?;
    if counted {
        for key in &keys {
            counting::note_as_it_stands(conn, replica, (index, key), &Vec::new())?;
        }
    }
    Ok((rows, keys.into_iter().next_back()))
}

/// The keys of the rows with these of this database's dots.
fn keys_of(
    conn: &Connection,
    replica: &Replica,
    index: usize,
    (after, until): (u64, u64),
) -> Result<Vec<Vec<Value>>, StoreError> {
    let table = &replica.tables[index];
    let own = replica.known_id(replica.own);
    let mut statement = conn.prepare_cached(&table.sql.clock_since)?;
    let mut rows = statement.query(params![own, after.cast_signed(), until.cast_signed()])?;
    let mut keys = Vec::new();
    while let Some(row) = rows.next()? {
        keys.push(values_from(row, 1, table.table.key.len())?);
    }
    Ok(keys)
}
