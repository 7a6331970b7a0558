//! Rest: when nothing is due.

use std::sync::Arc;
use std::time::Duration;

use replication::Origin;

use super::tombstones::{Tombstones, horizon_part};
use super::{Attachment, close};
use crate::database::{DatabaseEvent, DatabaseOptions};
use crate::error::StoreError;
use crate::fresh::FreshChanges;
use crate::generation;
use crate::schema::Unsynced;
use crate::state::FileIdentity;
use crate::warning::Warning;
use crate::write_lock;

/// How long a file stays closed at most. What is done now and then comes so much later.
const LONGEST: Duration = Duration::from_secs(86_400);

/// What is known of a file that is closed for as long as nothing happens to it.
#[derive(Debug)]
pub(crate) struct Before {
    file: FileIdentity,
    own: Origin,
    opened_at: u64,
    put_down: Option<(i64, u64)>,
    schema_hash: u64,
    lifts: i64,
    unsynced: Arc<Vec<Unsynced>>,
    warnings: Arc<Vec<Warning>>,
    tombstones: Tombstones,
    /// Peers look into it.
    fresh: Arc<FreshChanges>,
}

impl Before {
    /// Whether it is that file.
    pub(crate) fn is_of(&self, file: FileIdentity) -> bool {
        self.file == file
    }

    /// For how long it may be closed.
    pub(crate) fn lasts(options: &DatabaseOptions) -> Duration {
        LONGEST.min(horizon_part(options))
    }

    /// Leaves of the events of opening the file again what is new.
    pub(crate) fn filter(&self, events: &mut Vec<DatabaseEvent>) {
        events.retain(|event| match event {
            DatabaseEvent::Attached { created, unsynced, .. } => *created || *unsynced != *self.unsynced,
            DatabaseEvent::Warned(warning) => !self.warnings.contains(warning),
            _ => true,
        });
    }
}

impl Attachment {
    /// Whether nothing is to be done soon unless somebody writes to the file or asks for something. What is done now and then can wait.
    pub(crate) fn rests(&self) -> bool {
        let waits = self.replica.waiting.undecided > 0 && !self.replica.touched.is_empty();
        !self.has_work()
            && !self.broken
            && !self.told_ahead
            && !self.cut_off
            && !waits
            && !self.is_publishing()
            && self.quiet_left().is_none()
            && self.replica.merging().is_none()
            && self.foreign_keys.orphans().count == 0
            && self.events.is_empty()
    }

    /// Lets go of the statements that were run so far, for when most of them are not run again, and of the memory beside them. With many
    /// databases it is much.
    pub(crate) fn forget_statements(&self) {
        self.conn.flush_prepared_statement_cache();
        // It cannot fail.
        let _ = self.conn.execute_batch("PRAGMA shrink_memory");
    }

    /// Sees to it that a power cut takes nothing of what was issued so far, and writes what is only in memory.
    pub(crate) fn put_down(&mut self) -> Result<(), StoreError> {
        self.save_nodes()?;
        self.write_through()?;
        self.put_down = Some((self.generation, self.replica.have.get(self.replica.own)));
        Ok(())
    }

    /// Whether nothing was issued, learned of nodes, or written by a daemon since that was done.
    pub(crate) fn is_put_down(&self) -> Result<bool, StoreError> {
        let now = (generation::read(&self.conn)?, self.replica.have.get(self.replica.own));
        Ok(self.put_down == Some(now) && self.tombstones.is_saved())
    }

    /// Takes note in the state folder that all that was issued is on the disk. Before it issues more the file is
    /// [opened](Self::open) again.
    pub(crate) fn note_rest(&mut self) -> Result<(), StoreError> {
        let (own, sequence) = (self.replica.own, self.replica.have.get(self.replica.own));
        self.memory.as_mut().map_or(Ok(()), |memory| memory.rest(own, self.file, sequence))
    }

    /// The file is open again: what is not in it is taken over.
    pub(super) fn go_on(&mut self, before: &Before, events: &mut Vec<DatabaseEvent>) -> Result<(), StoreError> {
        self.tombstones.go_on(before.tombstones.clone());
        self.fresh.go_on_in(Arc::clone(&before.fresh));
        self.put_down = before.put_down;
        if self.replica.own == before.own {
            self.opened_at = before.opened_at;
        }
        if (self.replica.schema_hash, self.lifts) != (before.schema_hash, before.lifts) {
            self.note_migration()?;
            let rebuilt = self.migrated.rebuilt_names(&self.replica);
            events.push(DatabaseEvent::SchemaChanged { rebuilt });
        }
        Ok(())
    }

    /// Whether another program is at work on the file.
    pub(crate) fn is_in_use(&self) -> bool {
        write_lock::is_in_use(&self.conn)
    }

    /// Closes the file, to be opened again.
    pub(crate) fn close_for_now(mut self) -> Before {
        self.end_folding();
        let fresh = self.fresh();
        let before = Before {
            file: self.file,
            own: self.replica.own,
            opened_at: self.opened_at,
            put_down: self.put_down,
            schema_hash: self.replica.schema_hash,
            lifts: self.lifts,
            unsynced: Arc::clone(&self.unsynced),
            warnings: Arc::clone(&self.warnings),
            tombstones: self.tombstones,
            fresh,
        };
        close(&self.options.path, self.conn);
        before
    }
}
