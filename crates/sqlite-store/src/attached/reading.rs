//! Reading what peers lack.

use std::time::Instant;

use replication::reconcile::{Answer, Compared, Question};
use replication::{Batch, DotSet, Origin, VersionVector};
use rusqlite::Connection;

use super::Attachment;
use crate::batch_read::{BatchLimits, read_batch};
use crate::capture::has_log;
use crate::error::StoreError;
use crate::fail_point::fail_point;
use crate::fingerprints;
use crate::generation;
use crate::replica::Replica;

/// Snapshots tried without the write lock before one is taken with it.
const SNAPSHOT_TRIES: u32 = 4;

impl Attachment {
    /// What a peer at `from` lacks without the dots of `omit`, from one snapshot in which the log is empty.
    pub(crate) fn read(
        &mut self,
        (from, omit): (&VersionVector, &DotSet),
        limits: BatchLimits,
    ) -> Result<Batch, StoreError> {
        // Whoever is only shown what is in the tables is not sent what was captured.
        if limits.passed_on {
            self.expect_readers();
        }
        let batch = self.snapshot((from, omit), limits)?;
        self.last_read = Some((Instant::now(), batch.to.get(self.replica.own)));
        let shown = batch.to.get(self.replica.own).min(self.replica.have.get(self.replica.own));
        self.memory.iter_mut().for_each(|memory| memory.show(shown));
        Ok(batch)
    }

    fn snapshot(&mut self, (from, omit): (&VersionVector, &DotSet), limits: BatchLimits) -> Result<Batch, StoreError> {
        self.check_not_migrating(&[])?;
        self.finish_interrupted()?;
        self.merge_waiting()?;
        for _ in 0..SNAPSHOT_TRIES {
            self.conn.execute_batch("BEGIN")?;
            let clean = self.is_clean();
            let batch = match clean {
                Ok(true) => Some(read_batch(&self.conn, &self.replica, (from, omit), limits)),
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
            read_batch(conn, replica, (from, omit), limits).map(|batch| (batch, true))
        })
    }

    /// What there is in some ranges of tables. Content that is newer than its clock is alike where it is, whatever comes of it.
    pub(crate) fn answer(&mut self, question: &Question) -> Result<Answer, StoreError> {
        self.in_snapshot(|conn, replica| fingerprints::answer(conn, replica, question))
    }

    /// Compares what a peer has with what there is, and notes what is alike.
    pub(crate) fn compare(&mut self, source: Origin, answer: &Answer) -> Result<Compared, StoreError> {
        self.in_snapshot(|conn, replica| fingerprints::compare(conn, replica, source, answer))
    }

    /// One transaction that reads the file; what it writes goes into the stage.
    pub(super) fn in_snapshot<T>(
        &mut self,
        work: impl FnOnce(&Connection, &mut Replica) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        self.check_not_migrating(&[])?;
        self.finish_interrupted()?;
        self.conn.execute_batch("BEGIN")?;
        let done = match self.knows_file() {
            Ok(true) => work(&self.conn, &mut self.replica),
            Ok(false) => Err(StoreError::Migrating),
            Err(error) => Err(error),
        };
        let done = done.and_then(|done| self.conn.execute_batch("COMMIT").map(|()| done).map_err(StoreError::from));
        fail_point("snapshot-ended");
        if done.is_err() {
            if !self.conn.is_autocommit() {
                self.conn.execute_batch("ROLLBACK")?;
            }
            self.broken = true;
            self.reload()?;
            self.broken = false;
        }
        done
    }

    /// One transaction that reads the file as the replica knows it; none if another program has changed it.
    pub(super) fn in_known_state<T>(
        &self,
        work: impl FnOnce(&Connection, &Replica) -> Result<T, StoreError>,
    ) -> Result<Option<T>, StoreError> {
        self.conn.execute_batch("BEGIN")?;
        let done = match self.knows_file() {
            Ok(true) => work(&self.conn, &self.replica).map(Some),
            Ok(false) => Ok(None),
            Err(error) => Err(error),
        };
        self.conn.execute_batch("ROLLBACK")?;
        done
    }

    /// Whether the replica is what the file holds, and nothing waits for capture or is left of a migration.
    fn is_clean(&self) -> Result<bool, StoreError> {
        Ok(self.migrated.is_done() && !has_log(&self.conn)? && self.knows_file()?)
    }

    /// Whether the replica is what the file holds.
    fn knows_file(&self) -> Result<bool, StoreError> {
        Ok(self.schema_version()? == self.replica.schema_version && generation::read(&self.conn)? == self.generation)
    }
}
