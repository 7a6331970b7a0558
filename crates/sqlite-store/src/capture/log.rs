//! Reading the log: what it says of each row, joined.

use std::collections::{BTreeSet, HashMap, hash_map};

use replication::Value;
use rusqlite::Connection;

use super::Captured;
use super::canonical::CanonicalKey;
use crate::bind::{value_at, values_from};
use crate::counting::Before;
use crate::error::StoreError;
use crate::replica::{Replica, ReplicaTable};
use crate::triggers::{before, mask_bit, op, previous};

/// What the log says of one row.
pub(super) struct Touched {
    /// The place in the log of the last that is said of it.
    pub(super) last: i64,
    pub(super) table: usize,
    pub(super) key: Vec<Value>,
    pub(super) inserted: bool,
    pub(super) deleted: bool,
    /// A deletion was logged, and an insert after it.
    pub(super) again: bool,
    /// Something other than an update of single columns, or a mere candidate, was logged.
    pub(super) whole: bool,
    /// Only the guards named the row.
    pub(super) candidate: bool,
    pub(super) mask: i64,
    pub(super) millis: i64,
    /// What counters held before they were first updated.
    pub(super) before: Before,
}

impl Touched {
    /// Whether it cannot be named.
    pub(super) fn is_nameless(&self) -> bool {
        self.key.iter().any(Value::is_null)
    }
}

/// Reads and deletes log rows, joining those of one row, in the order in which rows were touched last.
pub(super) fn read(conn: &Connection, replica: &Replica, limit: usize) -> Result<(Vec<Touched>, Captured), StoreError> {
    // Where no table is synced the log may have columns for none.
    let width = replica.tables.iter().map(|table| table.table.key.len()).max().unwrap_or(0);
    let keys: String = (0..width).map(|n| format!(", k{n}")).collect();
    let counters: BTreeSet<u16> =
        replica.tables.iter().flat_map(|table| table.table.counters()).map(|column| column.number).collect();
    let previous: String = (0..width).map(|place| format!(", {}", previous(place))).collect();
    let befores: String = counters.iter().map(|number| format!(", {}", before(*number))).collect();
    let mut statement = conn.prepare_cached(&format!(
        "SELECT seq, tbl, op, mask, ts{keys}{previous}{befores} FROM main._sync_log ORDER BY seq LIMIT ?1"
    ))?;
    let mut rows = statement.query([i64::try_from(limit).unwrap_or(i64::MAX)])?;
    let mut log = LogReader::default();
    let mut last = None;
    let mut captured = Captured::default();
    while let Some(row) = rows.next()? {
        last = Some(row.get::<_, i64>(0)?);
        captured.log_rows += 1;
        // A table that is gone or no longer synced: its changes have nowhere to go.
        let Some(index) = replica.table_by_number(row.get(1)?) else { continue };
        let table = &replica.tables[index];
        let key = values_from(row, 5, table.table.key.len())?;
        let (place, millis) = (row.get(0)?, row.get(4)?);
        let said = Said { op: row.get(2)?, mask: row.get::<_, Option<i64>>(3)?.unwrap_or(0), millis };
        if said.op == op::MOVE {
            let before = values_from(row, 5 + width, table.table.key.len())?;
            log.note(place, index, table, before, &Said { op: op::DELETE, mask: 0, millis });
            log.note(place, index, table, key, &Said { op: op::INSERT, mask: 0, millis });
            continue;
        }
        let touched = log.note(place, index, table, key, &said);
        if said.op == op::UPDATE {
            for column in table.table.counters().filter(|column| said.mask & mask_bit(column.number) != 0) {
                let place = counters.iter().position(|number| *number == column.number).unwrap_or(0);
                if let hash_map::Entry::Vacant(first) = touched.before.entry(column.number) {
                    first.insert(value_at(row, 5 + 2 * width + place)?);
                }
            }
        }
    }
    drop(rows);
    // Stamps rise with each row: one that was written early and late comes late, or all that were written between would
    // be stamped after it.
    log.touched.sort_by_key(|row| row.last);
    captured.drained = captured.log_rows < limit;
    match last {
        // Without a condition SQLite drops the pages whole.
        Some(_) if captured.drained => conn.prepare_cached("DELETE FROM main._sync_log")?.execute([])?,
        Some(last) => conn.prepare_cached("DELETE FROM main._sync_log WHERE seq <= ?1")?.execute([last])?,
        None => 0,
    };
    Ok((log.touched, captured))
}

#[derive(Default)]
struct LogReader {
    touched: Vec<Touched>,
    places: HashMap<(usize, CanonicalKey), usize>,
}

/// What one log row says.
struct Said {
    op: i64,
    mask: i64,
    millis: i64,
}

impl LogReader {
    fn note(&mut self, place: i64, index: usize, table: &ReplicaTable, key: Vec<Value>, said: &Said) -> &mut Touched {
        let touched = *self.places.entry((index, CanonicalKey::of(table, &key))).or_insert_with(|| {
            self.touched.push(Touched {
                last: place,
                table: index,
                key: Vec::new(),
                inserted: false,
                deleted: false,
                again: false,
                whole: false,
                candidate: true,
                mask: 0,
                millis: said.millis,
                before: Before::new(),
            });
            self.touched.len() - 1
        });
        let row = &mut self.touched[touched];
        (row.last, row.key, row.millis) = (place, key, said.millis);
        match said.op {
            op::UPDATE => row.mask |= said.mask,
            op::CANDIDATE => return row,
            op::INSERT => (row.again, row.inserted, row.whole) = (row.again || row.deleted, true, true),
            // A deletion: the row itself tells whether it is still gone.
            _ => (row.deleted, row.whole) = (true, true),
        }
        row.candidate = false;
        row
    }
}
