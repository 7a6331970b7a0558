//! What a capture found, as a batch for peers that have all before it.

use replication::{Batch, RowImage, TableRows, VersionVector};

use crate::replica::Replica;

/// Bytes of rows that are kept at hand; more is read again by those who want it.
const BYTES: usize = 4 << 20;

/// Rows as they stand after a capture, by table.
#[derive(Debug)]
pub(crate) struct Gathered {
    before: VersionVector,
    tables: Vec<Vec<RowImage>>,
    bytes: usize,
}

impl Gathered {
    /// Nothing yet.
    pub(crate) fn new(replica: &Replica) -> Self {
        Self { before: replica.have.clone(), tables: replica.tables.iter().map(|_| Vec::new()).collect(), bytes: 0 }
    }

    /// Whether there is no room for more. What is gathered is of no use then.
    pub(super) const fn is_too_much(&self) -> bool {
        self.bytes > BYTES
    }

    pub(super) fn add(&mut self, table: usize, image: RowImage) {
        self.bytes += image.wire_size();
        self.tables[table].push(image);
    }

    /// The batch that leads from what was known before to what is known now; none if not all of it is here. It is what a peer
    /// that has just that would be sent, had it been read inside the transaction of the capture.
    pub(crate) fn batch(self, replica: &Replica) -> Option<Batch> {
        if self.is_too_much() || replica.waiting.rows > 0 {
            return None;
        }
        let tables = self.tables.into_iter().zip(&replica.tables).filter(|(rows, _)| !rows.is_empty());
        let tables = tables
            .map(|(rows, table)| TableRows { limited: table.is_limited(), ..TableRows::new(table.wire.clone(), rows) });
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
