//! The lock of a migration: an empty file beside the database, locked for as long as the migration runs. The system lets go
//! of it when its holders end, however they end.

use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use crate::error::StoreError;

/// A held lock; let go of, with its file, when this is dropped.
#[derive(Debug)]
pub(crate) struct MigrationLock {
    file: File,
    path: PathBuf,
}

impl MigrationLock {
    /// Takes the lock of a database.
    pub(crate) fn take(database: &Path) -> Result<Self, StoreError> {
        let path = lock_file(database);
        let failed = |source| StoreError::MigrationLock { path: path.clone(), source };
        loop {
            let file = OpenOptions::new().create(true).truncate(false).write(true).open(&path).map_err(failed)?;
            match file.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => return Err(StoreError::Lifted),
                Err(TryLockError::Error(source)) => return Err(failed(source)),
            }
            // Whoever had it before may have removed the file since it was opened here.
            let named = std::fs::metadata(&path).map(|named| (named.dev(), named.ino()));
            let held = file.metadata().map(|held| (held.dev(), held.ino())).map_err(failed)?;
            if named.is_ok_and(|named| named == held) {
                return Ok(Self { file, path });
            }
        }
    }

    pub(super) fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl Drop for MigrationLock {
    fn drop(&mut self) {
        // A file that stays is taken by the next migration; a lock that stays ends with its holders.
        let _ = std::fs::remove_file(&self.path);
        // By name, not by closing: a process that inherited the file may live on.
        let _ = self.file.unlock();
    }
}

/// Whether somebody holds the lock of a database.
///
/// # Errors
/// The lock file is there and cannot be looked at.
pub(super) fn is_held(database: &Path) -> Result<bool, StoreError> {
    let path = lock_file(database);
    let looked = match File::open(&path) {
        Ok(file) => match file.try_lock_shared() {
            Ok(()) => Ok(false),
            Err(TryLockError::WouldBlock) => Ok(true),
            Err(TryLockError::Error(source)) => Err(source),
        },
        Err(missing) if missing.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(source) => Err(source),
    };
    looked.map_err(|source| StoreError::MigrationLock { path, source })
}

/// The lock file of a database, also where that is reached through a symbolic link.
fn lock_file(database: &Path) -> PathBuf {
    let mut path = std::fs::canonicalize(database).unwrap_or_else(|_| database.to_owned()).into_os_string();
    path.push("-sync-migrate");
    path.into()
}
