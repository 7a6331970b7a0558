//! What is measured of a batch of a peer's: its rows, what it took, and how long after their commits they were applied.

use std::time::Instant;

use replication::{Batch, EntryFlags, Timestamp, VersionVector};
use sqlite_store::{ApplyOutcome, ApplyReply, RowOperation, StoreError};

use crate::engine::changes::operation;
use crate::engine::shared::wall_millis;
use crate::metrics::Metrics;

/// A batch that is on its way into a database.
pub(super) struct Measured {
    begun: Instant,
    rows: [(RowOperation, u64); 3],
    /// When what is new in it was committed, in milliseconds since 1970.
    commits: Vec<i64>,
}

impl Measured {
    /// Measures a batch for a database that knows `have`.
    pub(super) fn of(batch: &Batch, have: &VersionVector) -> Self {
        let mut rows = [RowOperation::Insert, RowOperation::Update, RowOperation::Delete].map(|it| (it, 0));
        let mut commits = Vec::new();
        for row in batch.tables.iter().flat_map(|table| &table.rows) {
            let new = row.clock.entries().filter(|entry| !have.covers(entry.dot));
            let Some(newest) = new.max_by_key(|entry| entry.order()) else { continue };
            let first = row.clock.row;
            let appears = !have.covers(first.dot) && first.flags.contains(EntryFlags::INSERTED);
            let done = operation(&row.clock, appears);
            rows.iter_mut().filter(|(operation, _)| *operation == done).for_each(|(_, count)| *count += 1);
            // Nobody knows when rows were written that were there before.
            if newest.timestamp != Timestamp::BASELINE {
                commits.push(newest.timestamp.millis());
            }
        }
        Self { begun: Instant::now(), rows, commits }
    }

    /// The database has answered.
    pub(super) fn done(self, metrics: &Metrics, node: &str, database: &str, reply: &Result<ApplyReply, StoreError>) {
        let Ok(ApplyReply { outcome: ApplyOutcome::Applied(applied), .. }) = reply else { return };
        metrics.applied(database, self.begun.elapsed());
        for (operation, count) in self.rows.into_iter().filter(|(_, count)| *count > 0) {
            metrics.rows(database, operation, count);
        }
        // What is staged is not applied yet.
        if applied.staged == 0 {
            let now = wall_millis();
            metrics.lags(node, database, self.commits.into_iter().map(|commit| now.saturating_sub(commit)));
        }
    }
}
