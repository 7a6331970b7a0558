//! One attached database file: its connection, its replica, and the transactions on them.
//!
//! Used by the database's thread only, but for the folding of a log. Every write goes through one place: the write lock, schema unchanged, log
//! captured, then the work; the replica in memory is loaded again whenever a transaction does not commit.

mod folding;
mod fresh;
mod identity;
mod incoming;
mod learning;
mod migrating;
mod opening;
mod outrun;
mod publishing;
mod reading;
mod records;
mod restamp;
mod resting;
mod settling;
mod sweeping;
mod tidying;
mod told;
mod tombstones;
mod transaction;
mod verifying;
mod waiting;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use replication::Selection;
use rusqlite::Connection;
use rusqlite::config::DbConfig;

use folding::Folder;
use fresh::{Found, Fresh};
use identity::Memory;
pub use identity::new_origin;
use migrating::Migration;
use records::Pruning;
pub(crate) use resting::Before;
use tidying::DotTidying;
use tombstones::Tombstones;
pub(crate) use tombstones::lately;

use crate::app_triggers::AppTrigger;
use crate::apply::RowCounts;
use crate::baseline::Publishing;
use crate::capture::{Captured, Gathered, capture, has_log, log_rows};
use crate::database::{DatabaseEvent, DatabaseOptions, TableNames};
use crate::error::StoreError;
use crate::fail_point::fail_point;
use crate::foreign_keys::ForeignKeys;
use crate::migration::Migrated;
use crate::parked::Progress;
use crate::pulse;
use crate::replica::{Replica, wall_millis};
use crate::schema::Unsynced;
use crate::state::FileIdentity;
use crate::warning::Warning;
use crate::write_lock::{self, Turns};

/// Log rows captured in one transaction of their own, where what was captured is not gathered for peers. Applications wait for as long
/// as it takes.
const CAPTURE_ROWS: usize = 5_000;

/// The pause between lines about publishing.
const PROGRESS: Duration = Duration::from_secs(2);

/// What a look found.
#[derive(Debug, Default)]
pub(crate) struct Looked {
    /// Whether applications had changed anything.
    pub(crate) found: bool,
    /// How many entries of the log were captured since the look before, by whatever was done meanwhile.
    pub(crate) log_rows: usize,
    /// How long the lock was held to capture them.
    pub(crate) captured_in: Option<Duration>,
    /// Whether the daemon has written something of its own: a log that is to be folded, and what is at hand of it.
    pub(crate) wrote: bool,
    /// Whether nothing was there to do, and nothing done.
    pub(crate) quiet: bool,
    pub(crate) events: Vec<DatabaseEvent>,
}

/// An open, attached database.
pub(crate) struct Attachment {
    options: DatabaseOptions,
    /// Before the connection, which then is the last one to be closed wherever this is dropped.
    folder: Folder,
    conn: Connection,
    replica: Replica,
    file: FileIdentity,
    memory: Option<Memory>,
    /// The sequence up to which its own changes are older than this run, and were given to peers.
    opened_at: u64,
    /// Set when the replica may not be what the file holds: nothing of it may be told any more.
    broken: bool,
    /// What happened in a transaction and is still to be told.
    events: Vec<DatabaseEvent>,
    /// Raised when the thread is to end.
    closing: Arc<AtomicBool>,
    turns: Turns,
    told_ahead: bool,
    data_version: i64,
    /// The log was not drained by the last capture.
    more: bool,
    /// How long the last capture held the lock.
    captured_in: Option<Duration>,
    /// Entries of the log captured since the last look.
    log_rows: usize,
    publishing: Option<Publishing>,
    /// When what is published was last read for a peer, and up to where.
    last_read: Option<(Instant, u64)>,
    /// The sequence of its own changes from which on rows are published.
    published_from: u64,
    migrated: Migrated,
    /// The pass over the rows that wait, if one is due.
    retry: Option<Progress>,
    migration: Migration,
    /// When the last one ended.
    retried: Instant,
    /// Whether the last one came to no end.
    cut_off: bool,
    /// What was forgotten by table, while it is being looked for what has no place any more.
    forgetting: Option<BTreeMap<String, u64>>,
    tables: Arc<BTreeMap<String, u64>>,
    policies: Arc<BTreeMap<String, String>>,
    names: Arc<Vec<TableNames>>,
    retired: Arc<BTreeSet<String>>,
    unsynced: Arc<Vec<Unsynced>>,
    selection: Arc<Selection>,
    excluded_columns: Arc<BTreeMap<String, Vec<String>>>,
    triggers: Arc<Vec<AppTrigger>>,
    warnings: Arc<Vec<Warning>>,
    foreign_keys: ForeignKeys,
    /// Open conflict records.
    conflicts: u64,
    pruning: Pruning,
    tombstones: Tombstones,
    tidying: DotTidying,
    /// Counts the daemon's transactions on this file, as the file has it: another daemon on the same file, which the
    /// replica must follow, moves it too.
    generation: i64,
    /// How often migrations had lifted the triggers when the file was looked at.
    lifts: i64,
    last_progress: Instant,
    /// Rows staged of the catch-up that comes in.
    staged: u64,
    /// What peers' changes wrote since it was last asked for.
    written: RowCounts,
    fresh: Fresh,
    /// The generation, and the sequence of its own changes, up to which all is known to be on the disk.
    put_down: Option<(i64, u64)>,
}

impl Attachment {
    pub(crate) fn file(&self) -> FileIdentity {
        self.file
    }

    pub(crate) fn replica(&self) -> &Replica {
        &self.replica
    }

    /// Whether there is something to do without being asked.
    pub(crate) fn has_work(&self) -> bool {
        let rest = || {
            !self.migrated.is_done()
                || self.may_publish()
                || self.retry.is_some()
                || self.forgetting.is_some()
                || self.pruning.has_work()
                || self.tombstones.has_work()
                || self.tidying.has_work()
                || self.foreign_keys.has_work(wall_millis())
        };
        self.more || (self.migrating().is_none() && rest())
    }

    /// Whether the last capture left something of the log.
    pub(crate) const fn is_behind(&self) -> bool {
        self.more
    }

    /// Looks whether applications changed anything; nothing more where they have not and there is nothing else to do.
    pub(crate) fn glance(&mut self) -> Result<Looked, StoreError> {
        let quiet = self.events.is_empty() && !self.has_work() && self.data_version()? == self.data_version;
        if !quiet {
            return self.look();
        }
        Ok(Looked { quiet, log_rows: std::mem::take(&mut self.log_rows), ..Looked::default() })
    }

    /// Another number whenever another connection has changed the file, its schema too.
    fn data_version(&self) -> Result<i64, StoreError> {
        Ok(self.conn.prepare_cached("PRAGMA main.data_version")?.query_row([], |row| row.get(0))?)
    }

    /// Looks whether applications changed anything, and does one step of whatever there is to do.
    pub(crate) fn look(&mut self) -> Result<Looked, StoreError> {
        let mut looked = Looked { events: self.take_events(), ..Looked::default() };
        if self.schema_version()? != self.replica.schema_version {
            self.reattach(&mut looked.events)?;
            looked.found = true;
        }
        let data_version = self.data_version()?;
        if data_version != self.data_version || self.more {
            let captured = self.capture_step()?;
            self.data_version = data_version;
            self.foreign_keys.note_written();
            looked.found |= captured.log_rows > 0;
            looked.captured_in = self.captured_in.take();
            if captured.null_keys > 0 {
                looked.events.push(DatabaseEvent::NullKeys { rows: captured.null_keys });
            }
        }
        looked.log_rows = std::mem::take(&mut self.log_rows);
        self.tell_if_ahead();
        if self.migrating().is_none() {
            self.merge_waiting()?;
            self.forget_gone()?;
            self.step(&mut looked)?;
        }
        looked.events.append(&mut self.events);
        Ok(looked)
    }

    /// Tells once, while it lasts, that changes are stamped later than peers take them.
    fn tell_if_ahead(&mut self) {
        let ahead = self.replica.clock.last().millis().saturating_sub(wall_millis());
        let too_far = ahead > self.max_skew();
        if too_far && !self.told_ahead {
            self.events.push(DatabaseEvent::ClockBehind { millis: ahead });
        }
        self.told_ahead = too_far;
    }

    /// One step of whatever there is to do.
    fn step(&mut self, looked: &mut Looked) -> Result<(), StoreError> {
        self.retry_undecided();
        if !self.migrated.is_done() {
            self.migration_step()?;
            if self.migrated.is_done() {
                self.retry_all();
            }
        } else if self.may_publish() {
            self.publish_step(&mut looked.events)?;
            looked.wrote = true;
        } else {
            self.look_for_parents()?;
            self.prune_step()?;
            self.forget_deletions()?;
            self.tidy_dots()?;
        }
        Ok(())
    }

    fn capture_step(&mut self) -> Result<Captured, StoreError> {
        if !has_log(&self.conn)? {
            self.more = false;
            // What was captured before was all there is.
            self.finish_gathering()?;
            return Ok(Captured::default());
        }
        let (begun_before, wanted, usual) = (self.fresh.go_on(), self.wants_fresh(), self.fresh.usual);
        let (captured, gathered, begun, time) = self.in_write(|conn, replica| {
            let begun = Instant::now();
            let goes_on = begun_before.filter(|gathered| gathered.goes_on(replica));
            let mut gathered = goes_on.or_else(|| wanted.then(|| Gathered::new(replica)));
            let rows = match &gathered {
                Some(gathered) => gathered.step(log_rows(conn)?, CAPTURE_ROWS, &usual),
                None => CAPTURE_ROWS,
            };
            let captured = capture(conn, replica, wall_millis(), rows, gathered.as_mut())?;
            Ok(((captured, gathered, begun, begun.elapsed()), true))
        })?;
        self.captured_in = Some(begun.elapsed());
        self.log_rows += captured.log_rows;
        self.more = !captured.drained;
        self.fresh.usual.note(captured.log_rows, time, gathered.as_ref());
        // Applications do not wait for that.
        self.keep_fresh(match gathered {
            None => Found::Nothing,
            Some(gathered) if captured.drained => Found::of(gathered.batch(&self.replica)),
            // Rows of which the log says more are not what their clocks say.
            Some(gathered) => gathered.pause(&self.replica).map_or(Found::Nothing, Found::Part),
        });
        Ok(captured)
    }

    fn migration_step(&mut self) -> Result<(), StoreError> {
        let (migrated, schema) = (self.migrated.clone(), self.replica.schema_version);
        let step = self.write(|conn, replica| {
            // A schema that moved once more is looked at afresh, with all that is not settled: it may read as it did, and what
            // was looked at may have been rebuilt again.
            let same = replica.schema_version == schema;
            let step = if same { Some(migrated.step(conn, replica)?) } else { None };
            fail_point("migration-before-commit");
            Ok((step, same))
        })?;
        fail_point("migration-committed");
        if let Some(step) = step {
            self.migrated.advance(step);
        }
        Ok(())
    }

    /// What happened and is still to be told.
    pub(crate) fn take_events(&mut self) -> Vec<DatabaseEvent> {
        std::mem::take(&mut self.events)
    }

    /// What peers' changes wrote since this was last asked.
    pub(crate) fn take_written(&mut self) -> RowCounts {
        std::mem::take(&mut self.written)
    }

    /// Whether the replica may not be what the file holds.
    pub(crate) fn is_broken(&self) -> bool {
        self.broken
    }

    /// Takes note in the state folder of how far the file has come.
    pub(crate) fn remember(&mut self) -> Result<(), StoreError> {
        let own = self.replica.own;
        let sequence = self.replica.have.get(own);
        self.memory.as_mut().map_or(Ok(()), |memory| memory.remember(own, self.file, sequence))
    }

    /// Sees to it that a power cut takes nothing of what was issued, and takes note of that: a last transaction goes to the
    /// disk as a whole, and with it all before it.
    pub(crate) fn rest(&mut self) -> Result<(), StoreError> {
        if self.memory.is_none() || self.schema_version()? != self.replica.schema_version {
            return Ok(());
        }
        self.write_through()?;
        fail_point("rest-committed");
        self.note_rest()
    }

    /// A transaction that goes to the disk as a whole, and with it all before it.
    fn write_through(&mut self) -> Result<(), StoreError> {
        let usual: i64 = self.conn.query_row("PRAGMA main.synchronous", [], |row| row.get(0))?;
        self.conn.execute_batch("PRAGMA main.synchronous = EXTRA")?;
        let written = self.in_write(|_, _| Ok(((), true)));
        self.conn.execute_batch(&format!("PRAGMA main.synchronous = {usual}"))?;
        written
    }

    /// Whether another program holds the write lock.
    pub(crate) fn is_locked(&self) -> bool {
        write_lock::is_held(&self.conn)
    }

    /// Whether the file has a write-ahead log: whoever reads is in nobody's way then.
    pub(crate) fn is_write_ahead(&mut self) -> bool {
        self.turns.is_write_ahead(&self.conn)
    }

    /// Lets go of a file that is no longer at its path, or is not to be written: what is there now is not touched.
    pub(crate) fn abandon(self) {
        // SQLite would fold the write-ahead log into the old file, and delete it by name.
        let _ = self.conn.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true);
    }

    /// Closes the connection; where it is the file's last, SQLite folds the WAL into it.
    pub(crate) fn close(mut self) {
        self.end_folding();
        close(&self.options.path, self.conn);
    }
}

fn close(path: &Path, conn: Connection) {
    // A failure to close loses nothing: what was committed is in the file or its journal.
    pulse::on_disk(path, || drop(conn.close()));
}
