//! The entries of one origin that a peer lacks, and where their rows are.

use std::collections::HashSet;

use replication::codec::encode_values;
use replication::{RowImage, Value};
use rusqlite::Connection;

use super::BatchLimits;
use crate::bind::values_from;
use crate::capture::canonical_key;
use crate::dot_index::{self, DotRow};
use crate::error::StoreError;
use crate::replica::Replica;

/// An entry that the peer lacks, unless it has been overwritten.
pub(super) struct LackingEntry {
    pub(super) sequence: u64,
    pub(super) place: Place,
}

/// Where its row is.
pub(super) enum Place {
    /// In a table, by its index, under this key.
    Table(usize, Vec<Value>),
    /// The same; this is the row, if it is there.
    Found(usize, Vec<Value>, Option<Box<RowImage>>),
    /// Among the rows that could not be taken in, under this number.
    Parked(i64),
}

impl Place {
    /// The key of its row; empty if that could not be taken in.
    pub(super) fn key(&self) -> &[Value] {
        match self {
            Self::Table(_, key) | Self::Found(_, key, _) => key,
            Self::Parked(_) => &[],
        }
    }
}

/// The first entries of one origin after a sequence.
pub(super) struct Lacking {
    pub(super) entries: Vec<LackingEntry>,
    /// The sequence up to which they are complete; some may lie beyond it.
    pub(super) upto: u64,
}

/// How many are looked for at a time: where much has been overwritten a few would be none, and the rows of many may be large.
const LEAST: usize = 256;
const MOST: usize = 8_192;

/// Finds the first entries of an origin, which has this number, with sequences above `after` up to `until`, in all tables, in their
/// order: some of them, if there are many.
pub(super) fn find(
    conn: &Connection,
    replica: &Replica,
    id: i64,
    (after, until): (u64, u64),
    room: BatchLimits,
) -> Result<Lacking, StoreError> {
    debug_assert!(!replica.dots.is_dirty(), "what is not written would not be found");
    let found = dot_index::find(conn, id, (after, until), room.rows.clamp(LEAST, MOST))?;
    debug_assert!(
        tells_all(conn, replica, id, (after, found.upto), &found.rows)?,
        "a row bears a dot that the index does not tell of"
    );
    let mut entries = Vec::with_capacity(found.rows.len());
    for DotRow { sequence, table, key } in found.rows {
        // The table may be gone, or have another key by now.
        let index = replica.table_by_number(table);
        if let Some(index) = index.filter(|index| replica.tables[*index].table.key.len() == key.len()) {
            entries.push(LackingEntry { sequence, place: Place::Table(index, key) });
        }
    }
    let mut lacking = Lacking { entries, upto: found.upto };
    if room.passed_on && replica.waiting.rows > 0 {
        lacking.add_parked(conn, id, (after, room.rows))?;
    }
    Ok(lacking)
}

/// Whether all that bear dots of an origin in the clock tables are among the rows.
fn tells_all(
    conn: &Connection,
    replica: &Replica,
    id: i64,
    (after, upto): (u64, u64),
    rows: &[DotRow],
) -> Result<bool, StoreError> {
    let told: HashSet<(u64, i64, Vec<u8>)> = rows
        .iter()
        .filter_map(|row| {
            let table = &replica.tables[replica.table_by_number(row.table)?];
            Some((row.sequence, row.table, encode_values(&canonical_key(table, &row.key)).ok()?))
        })
        .collect();
    for table in &replica.tables {
        let mut statement = conn.prepare_cached(&table.sql.clock_dots)?;
        let mut lines = statement.query([])?;
        while let Some(line) = lines.next()? {
            let sequence = line.get::<_, i64>(1)?.cast_unsigned();
            if line.get::<_, i64>(0)? != id || sequence <= after || sequence > upto {
                continue;
            }
            let key = canonical_key(table, &values_from(line, 2, table.table.key.len())?);
            if !told.contains(&(sequence, table.table.number, encode_values(&key).unwrap_or_default())) {
                return Ok(false);
            }
        }
    }
    Ok(true)
}

impl Lacking {
    /// Adds those of rows that could not be taken in: they are as much this database's to pass on.
    fn add_parked(&mut self, conn: &Connection, id: i64, (after, limit): (u64, usize)) -> Result<(), StoreError> {
        let sql =
            "SELECT seq, parked FROM main._sync_parked_dot WHERE origin = ?1 AND seq > ?2 AND seq <= ?3 ORDER BY seq";
        let mut statement = conn.prepare_cached(sql)?;
        let mut lines = statement.query([id, after.cast_signed(), self.upto.cast_signed()])?;
        let (mut found, mut last) = (0, after);
        while let Some(line) = lines.next()? {
            let sequence = line.get::<_, i64>(0)?.cast_unsigned();
            // Entries of one dot go together.
            if found > limit && sequence != last {
                self.upto = last;
                break;
            }
            self.entries.push(LackingEntry { sequence, place: Place::Parked(line.get(1)?) });
            (found, last) = (found + 1, sequence);
        }
        self.entries.sort_by_key(|entry| entry.sequence);
        Ok(())
    }
}
