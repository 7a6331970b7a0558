//! Lifting the triggers for a migration, and putting them back.
//!
//! Some migrations cannot run over triggers: `ALTER TABLE … DROP COLUMN` fails while one names the column, and a rename
//! under `legacy_alter_table` breaks those that name the table in their bodies. While they are lifted nothing is logged,
//! so what the tables hold is summed up before, and compared when the triggers come back: a table whose columns hold what
//! they held needs nothing; all others are marked as rebuilt ones are, and their rows become changes.
//!
//! The state is in the file (`lifted` in `_sync_meta`) and lasts for as long as somebody holds the lock beside it. Whoever
//! attaches while the lock is held is refused; whoever finds the state without its lock puts the triggers back, so that a
//! killed migration is made good by the next attach. In place of its triggers each table bears an empty one, which names
//! no column and follows the table when that is renamed.

mod contents;
mod lock;

use std::os::fd::BorrowedFd;
use std::path::{Path, PathBuf};

use rusqlite::Connection;

use crate::attach::bookkeeping::{is_attached, own_node};
use crate::attach::registry::stored_triggers;
use crate::attach::{self, AttachRules, Attached};
use crate::attached::new_origin;
use crate::connection;
use crate::error::StoreError;
use crate::fail_point::fail_point;
use crate::identifier::quote;
use crate::schema::Table;
use crate::triggers;
use crate::write_lock;
pub(crate) use contents::BeforeLift;
pub(crate) use lock::MigrationLock;

/// The part of its name that tells the empty trigger from the others.
pub(crate) const ROLE: &str = "lifted";

/// The triggers of a database are lifted for as long as this lives and until [`Lifted::restore`]. When the process ends
/// without it, whoever attaches next puts them back.
#[derive(Debug)]
pub struct Lifted {
    path: PathBuf,
    lock: MigrationLock,
}

/// Lifts the triggers of the database at `path`, so that a migration can run. None if there is no such file, or it is not
/// attached: there is nothing to lift.
///
/// # Errors
/// [`StoreError::Lifted`] if a migration runs on the file already, [`StoreError::MigrationLock`] if the lock file beside
/// it cannot be made, and those of [`attach::attach`]. The triggers are as they were.
pub fn lift(path: &Path) -> Result<Option<Lifted>, StoreError> {
    if !path.exists() {
        return Ok(None);
    }
    let mut conn = connection::open(path)?;
    if !is_attached(&conn)? {
        return Ok(None);
    }
    let lock = MigrationLock::take(path)?;
    let transaction = write_lock::transaction(&mut conn, None)?;
    // What migrations did before this one is marked first: what the tables hold now is what they are compared with.
    let attached = attach_whatever_is_lifted(&transaction)?;
    for trigger in stored_triggers(&transaction)? {
        transaction.execute_batch(&format!("DROP TRIGGER main.{}", quote(&trigger.name)))?;
    }
    for table in &attached.schema.tables {
        transaction.execute_batch(&placeholder(table))?;
    }
    BeforeLift::note(&transaction, &attached.schema.tables)?;
    fail_point("lift-before-commit");
    transaction.commit()?;
    fail_point("lift-committed");
    Ok(Some(Lifted { path: path.to_owned(), lock }))
}

impl Lifted {
    /// Puts the triggers back, and marks what the migration wrote. None if the migration detached the database.
    ///
    /// # Errors
    /// Those of [`attach::attach`]. The triggers are not back: it can be tried again, and once this value is gone the next
    /// attach does it, a running daemon's too.
    pub fn restore(&self) -> Result<Option<Attached>, StoreError> {
        let mut conn = connection::open(&self.path)?;
        let transaction = write_lock::transaction(&mut conn, None)?;
        if !is_attached(&transaction)? {
            return Ok(None);
        }
        let attached = attach_whatever_is_lifted(&transaction)?;
        fail_point("unlift-before-commit");
        transaction.commit()?;
        fail_point("unlift-committed");
        Ok(Some(attached))
    }

    /// The open file that holds the lock. A process that inherits it keeps the triggers lifted for as long as it runs,
    /// also when this one is killed.
    pub fn as_inheritable(&self) -> BorrowedFd<'_> {
        self.lock.as_fd()
    }
}

/// Whether a migration holds the lock of the file at `path`. Does not touch the file. What cannot be told counts as no:
/// attaching looks again, and says what stands in the way.
pub(crate) fn is_running(path: &Path) -> bool {
    lock::is_held(path).unwrap_or(false)
}

/// Attaches by the one who holds the lock.
fn attach_whatever_is_lifted(conn: &Connection) -> Result<Attached, StoreError> {
    conn.execute("DELETE FROM main._sync_meta WHERE key = 'lifted'", [])?;
    let node = own_node(conn)?;
    attach::attach_within(conn, new_origin(), &node, None, &AttachRules::default())
}

/// What keeps a table's number with it while its triggers are lifted.
fn placeholder(table: &Table) -> String {
    let name = quote(&triggers::name(table.number, ROLE));
    format!("CREATE TRIGGER {name} AFTER INSERT ON {} WHEN 0 BEGIN SELECT 1; END", quote(&table.name))
}
