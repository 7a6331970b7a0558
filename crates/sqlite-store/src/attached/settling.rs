//! What is decided about a database is made to hold: at attach, and at the end of every write transaction, when rows without
//! parents are noted and automatic keys stay this node's.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use rusqlite::Connection;

use super::{Attachment, new_origin};
use crate::attach::{self, Attached};
use crate::database::{DatabaseEvent, DatabaseOptions};
use crate::error::StoreError;
use crate::fail_point::fail_point;
use crate::foreign_keys::{ForeignKeys, Judged};
use crate::key_ranges;
use crate::replica::wall_millis;
use crate::warning::{Warning, WarningKind};
use crate::write_lock;

/// Attaches the database as its options say; one that `was_attached` is left as it is where somebody has detached it.
pub(super) fn attach(
    conn: &mut Connection,
    options: &DatabaseOptions,
    was_attached: bool,
    closing: &Arc<AtomicBool>,
) -> Result<Attached, StoreError> {
    let transaction = write_lock::transaction(conn, Some(closing))?;
    if was_attached && !attach::bookkeeping::is_attached(&transaction)? {
        return Err(StoreError::Detached);
    }
    let (node, rules) = (&options.node, Some(&options.rules));
    let attached = attach::attach_within(&transaction, new_origin(), node, rules, &options.attach)?;
    fail_point("attach-before-commit");
    transaction.commit()?;
    fail_point("attach-committed");
    Ok(attached)
}

/// What an attach tells people: of keys that may clash at the first only, of what is not as they asked for each time.
pub(super) fn worth_telling(attached: &Attached) -> impl Iterator<Item = DatabaseEvent> {
    let told = |warning: &&Warning| attached.created || warning.kind != WarningKind::KeyClash;
    attached.warnings.iter().filter(told).cloned().map(DatabaseEvent::Warned)
}

/// What the end of a transaction found, to be told once it is committed.
pub(super) struct Settled {
    judged: Judged,
    key_ranges: Vec<Warning>,
}

impl Attachment {
    /// The last thing in a write transaction.
    pub(super) fn settle(&self) -> Result<Settled, StoreError> {
        // A merge in several transactions has children in one and their parents in a later one.
        let merging = self.replica.received.values().any(|received| received.merged);
        let judged = self.foreign_keys.judge(&self.conn, merging, wall_millis())?;
        let tables = self.replica.tables.iter().map(|table| &table.table);
        let key_ranges = match self.options.attach.key_ranges {
            Some(ranges) => key_ranges::settle(&self.conn, tables, ranges)?,
            None => Vec::new(),
        };
        Ok(Settled { judged, key_ranges })
    }

    /// Takes over what [`Self::settle`] found, after the commit.
    pub(super) fn settled(&mut self, settled: Settled) {
        self.foreign_keys.committed(settled.judged, wall_millis());
        for warning in settled.key_ranges {
            let warnings = Arc::make_mut(&mut self.warnings);
            warnings.retain(|before| (before.kind, &before.table) != (warning.kind, &warning.table));
            warnings.push(warning.clone());
            self.events.push(DatabaseEvent::Warned(warning));
        }
    }

    /// Looks whether rows without parents still lack them, some at a time, and tells of those that do for long.
    pub(super) fn look_for_parents(&mut self) -> Result<(), StoreError> {
        if !self.foreign_keys.has_work(wall_millis()) {
            return Ok(());
        }
        let looked = self.foreign_keys.look(&self.conn, wall_millis())?;
        if looked.is_empty() {
            return Ok(());
        }
        let told = self.foreign_keys.told();
        let followed = self.in_write(|conn, _| Ok((ForeignKeys::follow(conn, &looked, told)?, true)));
        if followed.is_err() {
            self.foreign_keys.note_written();
        }
        let (news, complete) = self.foreign_keys.followed(followed?);
        self.events.extend(news.into_iter().map(DatabaseEvent::ParentsMissing));
        self.events.extend(complete.then_some(DatabaseEvent::ParentsComplete));
        Ok(())
    }
}
