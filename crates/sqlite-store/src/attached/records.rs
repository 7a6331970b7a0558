//! Conflict records of an attached database: acting on them, and removing those that are not to be kept.

use std::time::{Duration, Instant};

use super::Attachment;
use crate::conflict_record::ConflictNote;
use crate::conflicts::closing::{Denied, count_open, dismiss};
use crate::conflicts::restore::restore;
use crate::conflicts::{ConflictAction, Refusal, StoredConflict};
use crate::database::DatabaseEvent;
use crate::error::StoreError;
use crate::fail_point::fail_point;
use crate::replica::wall_millis;

/// The pause between looks for records that have grown old.
const LOOK_FOR_OLD: Duration = Duration::from_secs(60);

/// When records are to be looked at for some that are not to be kept.
#[derive(Debug, Default)]
pub(super) struct Pruning {
    looked: Option<Instant>,
    /// There are new ones.
    grown: bool,
    /// There is more to remove than one transaction did.
    more: bool,
}

impl Pruning {
    fn is_due(&self) -> bool {
        self.grown || self.more || self.looked.is_none_or(|at| at.elapsed() >= LOOK_FOR_OLD)
    }

    /// Whether there is something to do without being asked.
    pub(super) fn has_work(&self) -> bool {
        self.more
    }
}

impl Attachment {
    /// Acts on a record in one transaction.
    pub(crate) fn act(
        &mut self,
        number: i64,
        action: ConflictAction,
    ) -> Result<Result<StoredConflict, Refusal>, StoreError> {
        let acted = self.write(|conn, replica| {
            let acted = match action {
                ConflictAction::Restore => restore(conn, replica, number, wall_millis()),
                ConflictAction::Dismiss => dismiss(conn, number),
            };
            fail_point("restore-before-commit");
            match acted {
                Ok(record) => Ok((Ok((record, count_open(conn)?)), true)),
                Err(Denied::Refused(refusal)) => Ok((Err(refusal), false)),
                Err(Denied::Store(error)) => Err(error),
            }
        })?;
        fail_point("restore-committed");
        Ok(acted.map(|(record, open)| {
            self.conflicts = open;
            record
        }))
    }

    /// Takes note of records that a transaction wrote. They are told from here, not by whoever sent the rows: a session may
    /// be gone, or a later step of its batch may fail, when the records are in the file.
    pub(super) fn note_conflicts(&mut self, written: &[ConflictNote]) {
        self.conflicts += written.len() as u64;
        self.pruning.grown |= !written.is_empty();
        self.events.extend(written.iter().cloned().map(DatabaseEvent::Conflict));
    }

    /// Removes some of the records that are not to be kept, now and then.
    pub(super) fn prune_step(&mut self) -> Result<(), StoreError> {
        if !self.pruning.is_due() {
            return Ok(());
        }
        let (retention, now) = (self.options.retention, wall_millis());
        let more = if retention.is_due(&self.conn, now)? {
            let (done, open) = self.in_write(|conn, _| {
                let done = retention.step(conn, now)?;
                fail_point("prune-before-commit");
                Ok(((done, count_open(conn)?), true))
            })?;
            self.conflicts = open;
            !done
        } else {
            false
        };
        self.pruning = Pruning { looked: Some(Instant::now()), grown: false, more };
        Ok(())
    }
}
