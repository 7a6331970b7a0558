//! Restoring: a backup takes the place of a database, as a whole or not at all.
//!
//! Owns: the order of the steps, so that whoever is killed at any of them leaves the old file or the new one, and neither with the other's
//! journal. Never touches: a database that somebody has open.
//!
//! The backup is copied beside the database, checked there and flushed. Then the old file's write-ahead log is folded into it,
//! so that nothing is left beside it that could be read into the new one, and the file is locked. It gets a second name, under which it
//! is kept, and one rename puts the new one in its place. A restored file takes a new origin when it is attached next: what it
//! issued since the backup was made stays the old one's.

pub(crate) mod openers;
mod placing;
mod preparing;

use std::ffi::OsString;
use std::path::{Path, PathBuf};

pub use openers::Opener;

use crate::attach::bookkeeping::is_own_table;
use crate::backup::{BackupError, Tell};
use crate::error::StoreError;
use crate::fail_point::fail_point;
use crate::lift::MigrationLock;
use rusqlite::{Connection, OptionalExtension as _};

/// A backup that took a database's place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Restored {
    /// The database: where a symbolic link led, if it was one.
    pub database: PathBuf,
    /// Its size in bytes.
    pub bytes: u64,
    /// Where the file is that was there before, if one was.
    pub kept: Option<PathBuf>,
    /// Whether it is attached, so that it takes a new origin.
    pub attached: bool,
    /// Processes of other users that could not be looked at: that they do not have the file open, only locks tell.
    pub unseen: usize,
}

/// Puts a copy of `backup` in the place of `database`, which need not exist. `checksum` is what the backup's was when it was made, if that
/// is known; `moment` tells the file that is kept from others, as in `shop.db.before-restore-MOMENT`.
///
/// # Errors
/// Those of [`BackupError`]. The database is as it was.
pub fn restore(
    database: &Path,
    backup: &Path,
    checksum: Option<&str>,
    moment: &str,
    tell: &mut Tell<'_>,
) -> Result<Restored, BackupError> {
    let database = resolve(database)?;
    preparing::refuse_unfinished(backup, &database)?;
    // A daemon that is started meanwhile leaves the file alone.
    let _lock = MigrationLock::take(&database).map_err(|error| match error {
        StoreError::Lifted => BackupError::Busy { path: database.clone() },
        other => other.into(),
    })?;
    placing::remove_leftovers(&database)?;
    // Before the work, and once more before its end.
    openers::refuse(&database)?;
    let copy = preparing::Copy::of(&database);
    let prepared = copy.fill(backup, checksum, &database, tell)?;
    fail_point("file-restore-prepared");
    let placed = placing::replace(&database, copy.path(), moment)?;
    Ok(Restored {
        database,
        bytes: prepared.bytes,
        kept: placed.kept,
        attached: prepared.attached,
        unseen: placed.unseen,
    })
}

/// The file that a path leads to, whether it exists or not.
fn resolve(database: &Path) -> Result<PathBuf, BackupError> {
    match std::fs::canonicalize(database) {
        Ok(path) if path.is_file() => Ok(path),
        Ok(path) => {
            let source = std::io::Error::from(std::io::ErrorKind::IsADirectory);
            Err(BackupError::File { what: "replace", path, source })
        }
        Err(_) if database.is_symlink() => Err(BackupError::Dangling { path: database.to_owned() }),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            // The folder must be there.
            let absolute = std::path::absolute(database).map_err(BackupError::file("find", database))?;
            let folder = absolute.parent().unwrap_or(Path::new("/"));
            let folder = folder.canonicalize().map_err(BackupError::file("find the folder", folder))?;
            Ok(folder.join(absolute.file_name().unwrap_or_default()))
        }
        Err(error) => Err(BackupError::file("find", database)(error)),
    }
}

/// What SQLite keeps beside a database.
pub(crate) const SIDES: [&str; 3] = ["-wal", "-journal", "-shm"];

/// The file of a database's name and something after it.
pub(crate) fn beside(database: &Path, suffix: &str) -> PathBuf {
    let mut path = OsString::from(database);
    path.push(suffix);
    path.into()
}

/// The key in `_sync_meta` under which a restored file bears that it is one.
const MARK: &str = "restored";

/// Notes in an attached database that it was restored from a backup. False where it is not attached.
pub(crate) fn mark(conn: &Connection) -> Result<bool, StoreError> {
    if !is_own_table(conn, "_sync_meta")? {
        return Ok(false);
    }
    conn.execute("INSERT OR REPLACE INTO main._sync_meta (key, value) VALUES (?1, 1)", [MARK])?;
    Ok(true)
}

/// Whether the database was restored and has not taken a new origin since.
pub(crate) fn is_marked(conn: &Connection) -> Result<bool, StoreError> {
    let sql = "SELECT 1 FROM main._sync_meta WHERE key = ?1";
    Ok(conn.query_row(sql, [MARK], |_| Ok(())).optional()?.is_some())
}

/// Notes that the database has taken a new origin.
pub(crate) fn unmark(conn: &Connection) -> Result<(), StoreError> {
    conn.execute("DELETE FROM main._sync_meta WHERE key = ?1", [MARK])?;
    Ok(())
}
