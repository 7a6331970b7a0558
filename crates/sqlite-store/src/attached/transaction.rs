//! The transactions of an attached database: the write lock, with a count that other daemons on the same file see, on the schema and the
//! state that the replica knows; COMMIT, and the way back after anything else.

use std::sync::Arc;

use rusqlite::Connection;

use super::{Attachment, settling};
use crate::attach;
use crate::baseline::Publishing;
use crate::capture::{capture, has_log};
use crate::conflicts::closing::count_open;
use crate::connection;
use crate::database::DatabaseEvent;
use crate::error::StoreError;
use crate::fail_point::fail_point;
use crate::generation;
use crate::lift::BeforeLift;
use crate::migration::Migrated;
use crate::pulse;
use crate::replica::{Replica, wall_millis};
use crate::schema::Schema;
use crate::warning::{Warning, WarningKind};

impl Attachment {
    /// One write transaction of its own: everything that applications committed is captured first, in it. The work
    /// says whether to commit.
    pub(crate) fn write<T>(
        &mut self,
        work: impl FnOnce(&Connection, &mut Replica) -> Result<(T, bool), StoreError>,
    ) -> Result<T, StoreError> {
        // A long log is captured in short transactions, so that what is left for the last one is little.
        while has_log(&self.conn)? {
            if self.capture_step()?.drained {
                break;
            }
        }
        let (value, log_rows) = self.in_write(|conn, replica| {
            let captured = capture(conn, replica, wall_millis(), usize::MAX, None)?;
            let (value, keep) = work(conn, replica)?;
            Ok(((value, captured.log_rows), keep))
        })?;
        self.log_rows += log_rows;
        Ok(value)
    }

    pub(super) fn in_write<T>(
        &mut self,
        work: impl FnOnce(&Connection, &mut Replica) -> Result<(T, bool), StoreError>,
    ) -> Result<T, StoreError> {
        let begun = self.begin();
        let result = begun.and_then(|()| self.finish(work));
        self.turns.end();
        result
    }

    /// Does the work of a transaction that has begun, and ends it.
    fn finish<T>(
        &mut self,
        work: impl FnOnce(&Connection, &mut Replica) -> Result<(T, bool), StoreError>,
    ) -> Result<T, StoreError> {
        let result = work(&self.conn, &mut self.replica);
        let result = match result {
            Ok((value, true)) => match self.commit() {
                Ok(()) => return Ok(value),
                Err(error) => Err(error),
            },
            Ok((value, false)) => Ok(value),
            Err(error) => Err(error),
        };
        // Until the replica is what the file holds again, nothing of it may be told.
        self.broken = true;
        if !self.conn.is_autocommit() {
            self.conn.execute_batch("ROLLBACK")?;
        }
        self.reload()?;
        self.broken = false;
        result
    }

    fn commit(&mut self) -> Result<(), StoreError> {
        let settled = self.settle()?;
        self.replica.save_dots(&self.conn)?;
        fail_point("transaction-before-commit");
        // Without a write-ahead log it waits for the disk.
        pulse::on_disk(&self.options.path, || self.conn.prepare_cached("COMMIT")?.execute([]))?;
        fail_point("transaction-committed");
        self.generation += 1;
        self.settled(settled);
        self.fold_ahead();
        Ok(())
    }

    /// The write lock, with the schema and the state that the replica knows.
    fn begin(&mut self) -> Result<(), StoreError> {
        loop {
            let begun = self.turns.begin(&self.conn, &self.closing, generation::begin);
            if begun.as_ref().is_err_and(StoreError::is_busy) {
                // Whoever is in the way is not waited for a second time.
                return begun.map(drop);
            }
            let same = self.schema_version().map(|version| version == self.replica.schema_version);
            match (begun, same) {
                (Ok(generation), Ok(true)) => return self.follow(generation - 1),
                (Err(error), Ok(true) | Err(_)) => return Err(error),
                // It may be the schema that has no place for it.
                (Err(_), Ok(false)) => {}
                (Ok(_), other) => {
                    self.conn.execute_batch("ROLLBACK")?;
                    self.turns.end();
                    other?;
                }
            }
            let mut events = std::mem::take(&mut self.events);
            let reattached = self.reattach(&mut events);
            self.events.append(&mut events);
            reattached?;
        }
    }

    /// Loads the replica again if another daemon wrote to the file, which has left that generation behind.
    fn follow(&mut self, generation: i64) -> Result<(), StoreError> {
        let followed = (|| {
            if generation != self.generation {
                let (own, issued) = (self.replica.own, self.replica.have.get(self.replica.own));
                self.broken = true;
                self.reload()?;
                if self.replica.have.get(own) < issued {
                    self.memory.as_mut().map_or(Ok(()), |memory| memory.remember(own, self.file, issued))?;
                    return Err(StoreError::Replaced);
                }
                self.conflicts = count_open(&self.conn)?;
                self.generation = generation;
                self.broken = false;
            }
            Ok(())
        })();
        if followed.is_err() {
            self.conn.execute_batch("ROLLBACK")?;
        }
        followed
    }

    pub(super) fn schema_version(&self) -> Result<i64, StoreError> {
        Ok(self.conn.prepare_cached("PRAGMA main.schema_version")?.query_row([], |row| row.get(0))?)
    }

    /// Follows a changed schema: triggers are put right on a fresh connection, whose TEMP triggers are made anew.
    pub(super) fn reattach(&mut self, events: &mut Vec<DatabaseEvent>) -> Result<(), StoreError> {
        let before = (self.schema_version()?, attach::schema_hash(&self.conn)?);
        if before.1 == self.replica.schema_hash && BeforeLift::count(&self.conn)? == self.lifts {
            // VACUUM and ANALYZE move the version too.
            self.replica.schema_version = before.0;
            return Ok(());
        }
        fail_point("reattach-begun");
        let mut conn = connection::open(&self.options.path)?;
        let attached = settling::attach(&mut conn, &self.options, true, &self.closing)?;
        fail_point("reattach-attached");
        let publishing = self.publishing.take();
        let known = Arc::clone(&self.warnings);
        let fresh = Self::over(self.options.clone(), conn, &attached, self.file, Arc::clone(&self.closing))?;
        let (memory, opened_at) = (self.memory.take(), self.opened_at);
        let (turns, told_ahead) = (std::mem::take(&mut self.turns), self.told_ahead);
        self.end_folding();
        *self = fresh;
        (self.memory, self.opened_at, self.turns, self.told_ahead) = (memory, opened_at, turns, told_ahead);
        self.publishing = publishing.map(|_| Publishing::default());
        self.migrated = Migrated::of(&attached);
        self.retry_all();
        self.note_migration()?;
        let rebuilt = self.migrated.rebuilt_names(&self.replica);
        events.push(DatabaseEvent::SchemaChanged { rebuilt });
        let told = |warning: &Warning| match warning.kind {
            WarningKind::KeyRange => true,
            WarningKind::UnknownName => !known.contains(warning),
            _ => false,
        };
        events.extend(attached.warnings.into_iter().filter(told).map(DatabaseEvent::Warned));
        Ok(())
    }

    pub(super) fn reload(&mut self) -> Result<(), StoreError> {
        let schema = Schema {
            tables: self.replica.tables.iter().map(|table| table.table.clone()).collect(),
            unsynced: self.unsynced.to_vec(),
            selection: self.replica.selection.clone(),
            wire_selection: self.replica.wire_selection.clone(),
            hash: self.replica.schema_hash,
            version: self.replica.schema_version,
        };
        let touched = std::mem::take(&mut self.replica.touched);
        self.replica = Replica::load(&self.conn, &schema, &self.options.rules)?;
        self.replica.touched = touched;
        Ok(())
    }
}
