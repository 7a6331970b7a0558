//! What a capture found, in one transaction or in several, as a batch for peers that have all before it.

use std::collections::HashMap;
use std::time::Duration;

use replication::{Batch, RowImage, TableRows, Value, VersionVector};

use super::CanonicalKey;
use crate::replica::{Replica, ReplicaTable};

/// Bytes and rows that are kept at hand, as many as a peer is sent at once; more is read again by those who want it.
const BYTES: usize = 8 << 20;
const ROWS: usize = 50_000;

/// How long one transaction captures at most where there is more in the log, as far as that can be told: applications wait meanwhile. Let
/// in between two, they would write about as much again, for which there may be no room.
const HELD: Duration = Duration::from_millis(200);

/// Rows of a capture from which on it tells what one of them takes.
const TELLING: usize = 500;

/// Transactions of one capture, after which peers are told of what it has found so far: the same few rows may be written without an end.
const TRANSACTIONS: u32 = 20;

/// What a row takes, by the captures before.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Usual {
    bytes: usize,
    /// While the lock is held.
    time: Duration,
}

impl Default for Usual {
    fn default() -> Self {
        Self { bytes: 256, time: Duration::from_micros(10) }
    }
}

impl Usual {
    /// Takes note of a transaction that has captured so many entries of the log in this time, and of what is gathered since it was begun.
    pub(crate) fn note(&mut self, log_rows: usize, time: Duration, gathered: Option<&Gathered>) {
        let rows = u32::try_from(log_rows).unwrap_or(u32::MAX);
        if log_rows >= TELLING {
            self.time = time / rows;
        }
        self.bytes = gathered.and_then(Gathered::row_bytes).unwrap_or(self.bytes);
    }

    /// How many rows take no longer than applications may wait.
    fn in_time(&self) -> usize {
        usize::try_from(HELD.as_nanos() / self.time.as_nanos().max(1)).unwrap_or(usize::MAX)
    }
}

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
    given_up: bool,
}

impl Gathered {
    /// Nothing yet.
    pub(crate) fn new(replica: &Replica) -> Self {
        let (before, tables) = (replica.have.clone(), replica.tables.iter().map(|_| Vec::new()).collect());
        Self { transactions: 0, before, reached: None, tables, rows: 0, bytes: 0, given_up: false }
    }

    /// Bytes of a row, about, if there was one.
    fn row_bytes(&self) -> Option<usize> {
        self.bytes.checked_div(self.rows)
    }

    /// The transaction ends, and the capture goes on in another one; none if there is no use in that.
    pub(crate) fn pause(mut self, replica: &Replica) -> Option<Self> {
        self.reached = Some((replica.have.clone(), replica.schema_version));
        self.transactions += 1;
        (!self.is_too_much() && self.transactions < TRANSACTIONS).then_some(self)
    }

    /// How many rows of a log of so many its next transaction takes: all of them, if that is not for too long, or a program that
    /// writes as fast as is captured would have no capture come to an end; but what there is room for, and at least `least`.
    pub(crate) fn step(&self, log_rows: usize, least: usize, usual: &Usual) -> usize {
        let about = self.row_bytes().unwrap_or(usual.bytes).max(1);
        let room = ROWS.saturating_sub(self.rows).min(BYTES.saturating_sub(self.bytes) / about);
        // With one more than there are it finds out that there is no more.
        (log_rows + 1).min(usual.in_time()).min(room).max(least)
    }

    /// Whether nothing came between its last transaction and this one.
    pub(crate) fn goes_on(&self, replica: &Replica) -> bool {
        self.reached.as_ref().is_some_and(|(have, schema)| *have == replica.have && *schema == replica.schema_version)
    }

    /// Whether there is no room for more. What is gathered is of no use then.
    pub(super) const fn is_too_much(&self) -> bool {
        self.given_up || self.bytes > BYTES || self.rows > ROWS
    }

    /// Bytes of rows for which there is room.
    pub(super) const fn room(&self) -> usize {
        BYTES.saturating_sub(self.bytes)
    }

    /// There is more than there is room for: what is gathered is let go of.
    pub(super) fn give_up(&mut self) {
        self.given_up = true;
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
        let key: Vec<Value> = row.owned_key(&table.wire);
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
        let fast = Usual { bytes: 100, time: Duration::from_micros(3) };
        let step = |log_rows, rows, bytes| gathered(rows, bytes).step(log_rows, 1_000, &fast);
        assert_eq!((step(0, 0, 0), step(12_000, 0, 0), step(70_000, 0, 0)), (1_000, 12_001, ROWS));
        assert_eq!(step(70_000, 40_000, 400_000), 10_000, "rows");
        assert_eq!(step(70_000, 3_000, 6 << 20), 1_000, "bytes");
        assert_eq!(step(70_000, ROWS, BYTES), 1_000, "never nothing");
        let step =
            |time, bytes| gathered(0, 0).step(70_000, 1_000, &Usual { bytes, time: Duration::from_micros(time) });
        assert_eq!((step(50, 100), step(50_000, 100), step(0, 0)), (4_000, 1_000, ROWS), "time");
        assert_eq!(step(3, 1 << 10), 8 << 10, "bytes of those before");
    }

    #[test]
    fn what_a_row_takes_is_told_by_captures_of_many_and_by_those_that_were_too_much() {
        let (mut usual, mut large) = (Usual::default(), gathered(1_000, 4 << 20));
        large.give_up();
        usual.note(TELLING - 1, Duration::from_secs(1), None);
        assert_eq!((usual.bytes, usual.time), (Usual::default().bytes, Usual::default().time));
        usual.note(1_000, Duration::from_millis(50), Some(&large));
        assert_eq!((usual.bytes, usual.time), ((4 << 20) / 1_000, Duration::from_micros(50)));
        usual.note(1_000, Duration::from_millis(5), Some(&gathered(0, 0)));
        assert_eq!((usual.bytes, usual.time), ((4 << 20) / 1_000, Duration::from_micros(5)));
    }

    fn gathered(rows: usize, bytes: usize) -> Gathered {
        let (before, reached) = (VersionVector::new(), None);
        Gathered { transactions: 1, before, reached, tables: Vec::new(), rows, bytes, given_up: false }
    }
}
