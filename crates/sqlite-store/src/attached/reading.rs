//! Reading what peers lack.

use replication::{Batch, VersionVector};

use super::{Attachment, transaction};
use crate::batch_read::{BatchLimits, read_batch};
use crate::capture::has_log;
use crate::error::StoreError;

/// Snapshots tried without the write lock before one is taken with it.
const SNAPSHOT_TRIES: u32 = 4;

impl Attachment {
    /// What a peer at `from` lacks, from one snapshot in which the log is empty.
    pub(crate) fn read(&mut self, from: &VersionVector, limits: BatchLimits) -> Result<Batch, StoreError> {
        self.check_not_migrating(&[])?;
        self.finish_interrupted()?;
        self.merge_waiting()?;
        for _ in 0..SNAPSHOT_TRIES {
            self.conn.execute_batch("BEGIN")?;
            let clean = self.is_clean();
            let batch = match clean {
                Ok(true) => Some(read_batch(&self.conn, &self.replica, from, limits)),
                Ok(false) => None,
                Err(error) => Some(Err(error)),
            };
            self.conn.execute_batch("ROLLBACK")?;
            if let Some(batch) = batch {
                return batch;
            }
            let looked = self.look()?;
            self.events.extend(looked.events);
            self.check_not_migrating(&[])?;
        }
        if !self.migrated.is_done() {
            return Err(StoreError::Migrating);
        }
        // Somebody writes all the time: keep them out for one batch. Not a smaller one: a batch that is not complete has to be
        // staged, and the next would be no nearer to the end.
        let schema = self.replica.schema_version;
        self.write(|conn, replica| {
            if replica.schema_version != schema {
                // What came with the change is in no clock yet.
                return Err(StoreError::Migrating);
            }
            read_batch(conn, replica, from, limits).map(|batch| (batch, true))
        })
    }

    /// Whether the replica is what the file holds, and nothing waits for capture or is left of a migration.
    fn is_clean(&self) -> Result<bool, StoreError> {
        Ok(self.migrated.is_done()
            && !has_log(&self.conn)?
            && self.schema_version()? == self.replica.schema_version
            && transaction::generation(&self.conn)? == self.generation)
    }
}
