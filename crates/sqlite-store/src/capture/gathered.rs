//! What a capture found, in one transaction or in several, as a batch for peers that have all before it.

use std::collections::HashMap;

use replication::{Batch, RowImage, TableRows, Value, VersionVector};

use super::CanonicalKey;
use crate::replica::{Replica, ReplicaTable};

/// Bytes and rows that are kept at hand, as many as a peer is sent at once; more is read again by those who want it.
const BYTES: usize = 8 << 20;
const ROWS: usize = 50_000;

/// Rows that one transaction captures at most where there is more in the log: all that there may be room for. Applications wait for as
/// long as it takes, about a fifth of a second; let in between, they would write about as much again meanwhile, for which there is none.
const AT_ONCE: usize = ROWS;

/// Bytes of a row, as long as nothing is known of that.
const ROW: usize = 256;

/// Transactions of one capture, after which peers are told of what it has found so far: the same few rows may be written without an end.
const TRANSACTIONS: u32 = 20;

/// Rows as they stand after a capture, by table.
#[derive(Debug)]
pub(crate) struct Gathered {
    transactions: u32,
    before: VersionVector,
    /// What was known after the last transaction of this capture, and under which schema, where it is to go on.
    reached: Option<(VersionVector, i64)>,
    tables: Vec<Vec<RowImage>>,
    rows: usize,
    bytes: usize,
    /// Bytes of a row, by those that were gathered before.
    about: usize,
}

impl Gathered {
    /// Nothing yet. A row may have `about` so many bytes, 0 if nothing is known of that.
    pub(crate) fn new(replica: &Replica, about: usize) -> Self {
        let tables = replica.tables.iter().map(|_| Vec::new()).collect();
        Self { transactions: 0, before: replica.have.clone(), reached: None, tables, rows: 0, bytes: 0, about }
    }

    /// Bytes of a row, about; 0 if there was none yet.
    pub(crate) fn row_bytes(&self) -> usize {
        if self.bytes == usize::MAX { self.about } else { self.bytes.checked_div(self.rows).unwrap_or(self.about) }
    }

    /// The transaction ends, and the capture goes on in another one; none if there is no use in that.
    pub(crate) fn pause(mut self, replica: &Replica) -> Option<Self> {
        self.reached = Some((replica.have.clone(), replica.schema_version));
        self.transactions += 1;
        (!self.is_too_much() && self.transactions < TRANSACTIONS).then_some(self)
    }

    /// How many rows of a log of so many its next transaction takes: all of them, if that is not for too long, or a program that
    /// writes as fast as is captured would have no capture come to an end; but what there is room for, and at least `least`.
    pub(crate) fn step(&self, log_rows: usize, least: usize) -> usize {
        let about = Some(self.row_bytes()).filter(|bytes| *bytes > 0).unwrap_or(ROW);
        let room = ROWS.saturating_sub(self.rows).min(BYTES.saturating_sub(self.bytes) / about);
        // With one more than there are it finds out that there is no more.
        (log_rows + 1).min(AT_ONCE).min(room).max(least)
    }

    /// Whether nothing came between its last transaction and this one.
    pub(crate) fn goes_on(&self, replica: &Replica) -> bool {
        self.reached.as_ref().is_some_and(|(have, schema)| *have == replica.have && *schema == replica.schema_version)
    }

    /// Whether there is no room for more. What is gathered is of no use then.
    pub(super) const fn is_too_much(&self) -> bool {
        self.bytes > BYTES || self.rows > ROWS
    }

    /// Bytes of rows for which there is room.
    pub(super) const fn room(&self) -> usize {
        BYTES.saturating_sub(self.bytes)
    }

    /// There is more than there is room for: what is gathered is let go of.
    pub(super) fn give_up(&mut self) {
        self.about = self.row_bytes();
        self.bytes = usize::MAX;
        self.tables.iter_mut().for_each(|rows| *rows = Vec::new());
    }

    /// Adds a row as it stands.
    pub(crate) fn add(&mut self, table: usize, image: RowImage) {
        if self.is_too_much() {
            return;
        }
        self.rows += 1;
        self.bytes += image.wire_size();
        if self.is_too_much() {
            self.give_up();
        } else {
            self.tables[table].push(image);
        }
    }

    /// The batch that leads from what was known before to what is known now; none if not all of it is here. It is what a peer
    /// that has just that would be sent, had it been read inside the transaction of the capture.
    pub(crate) fn batch(self, replica: &Replica) -> Option<Batch> {
        if self.is_too_much() || replica.waiting.rows > 0 {
            return None;
        }
        let tables = self.tables.into_iter().zip(&replica.tables).filter(|(rows, _)| !rows.is_empty());
        let several = self.reached.is_some();
        let tables = tables.map(|(rows, table)| {
            let rows = if several { newest(rows, table) } else { rows };
            TableRows { limited: table.is_limited(), ..TableRows::new(table.wire.clone(), rows) }
        });
        Some(Batch {
            source: replica.own,
            from: self.before,
            to: replica.have.clone(),
            context: replica.have.clone(),
            held: 0,
            dropped: replica.dropped.upto.clone(),
            tables: tables.collect(),
        })
    }
}

/// Each row once, as it was found last: it may have been written again between two transactions.
fn newest(rows: Vec<RowImage>, table: &ReplicaTable) -> Vec<RowImage> {
    let key = |row: &RowImage| {
        let key: Vec<Value> = row.key(&table.wire).into_iter().cloned().collect();
        CanonicalKey::of(table, &key)
    };
    let last: HashMap<CanonicalKey, usize> = rows.iter().enumerate().map(|(place, row)| (key(row), place)).collect();
    if last.len() == rows.len() {
        return rows;
    }
    let mut kept = vec![false; rows.len()];
    last.into_values().for_each(|place| kept[place] = true);
    rows.into_iter().zip(kept).filter_map(|(row, kept)| kept.then_some(row)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_transaction_takes_all_of_the_log_as_far_as_there_is_room_and_others_do_not_wait_for_long() {
        let step = |log_rows, rows, bytes| gathered(rows, bytes).step(log_rows, 1_000);
        assert_eq!((step(0, 0, 0), step(12_000, 0, 0), step(70_000, 0, 0)), (1_000, 12_001, BYTES / ROW));
        assert_eq!(step(70_000, 1, 10), AT_ONCE - 1, "rows");
        assert_eq!(step(70_000, 40_000, 400_000), 10_000, "rows");
        assert_eq!(step(70_000, 3_000, 6 << 20), 1_000, "bytes");
        assert_eq!(step(70_000, ROWS, BYTES), 1_000, "never nothing");
    }

    #[test]
    fn what_rows_had_before_tells_how_many_there_is_room_for_also_where_it_was_too_much() {
        let mut before = gathered(1_000, 2 << 20);
        assert_eq!(Gathered { about: before.row_bytes(), ..gathered(0, 0) }.step(70_000, 1_000), 4_000);
        before.give_up();
        assert_eq!(Gathered { about: before.row_bytes(), ..gathered(0, 0) }.step(70_000, 1_000), 4_000);
        assert_eq!(gathered(0, 0).row_bytes(), 0);
    }

    fn gathered(rows: usize, bytes: usize) -> Gathered {
        let (before, reached) = (VersionVector::new(), None);
        Gathered { transactions: 1, before, reached, tables: Vec::new(), rows, bytes, about: 0 }
    }
}
