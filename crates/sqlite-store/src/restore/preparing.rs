//! The backup's copy beside the database: filled, checked against its checksum and by SQLite, marked, and given the old file's owner.

use std::fs::{File, OpenOptions, Permissions};
use std::io::{Read as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use rusqlite::{Connection, OpenFlags};

use super::{SIDES, beside, mark};
use crate::backup::{BackupError, CHUNK, Progress, Stage, Tell, check, create_private, flush};
use crate::state::FileIdentity;

/// What the copy is named after the database.
pub(super) const SUFFIX: &str = ".restoring";

/// The copy; it goes with this value unless it was renamed.
pub(super) struct Copy {
    path: PathBuf,
}

/// A copy that is ready.
pub(super) struct Prepared {
    pub(super) bytes: u64,
    pub(super) attached: bool,
}

/// Refuses what a program writes or has left in the middle of something, and the database itself.
pub(super) fn refuse_unfinished(backup: &Path, database: &Path) -> Result<(), BackupError> {
    let identity = FileIdentity::of(backup).map_err(BackupError::file("read", backup))?;
    if FileIdentity::of(database).is_ok_and(|database| database == identity) {
        return Err(BackupError::Itself { path: backup.to_owned() });
    }
    let journal = ["-wal", "-journal"].map(|suffix| beside(backup, suffix));
    match journal.into_iter().find(|path| std::fs::metadata(path).is_ok_and(|found| found.len() > 0)) {
        Some(beside) => Err(BackupError::Unfinished { path: backup.to_owned(), beside }),
        None => Ok(()),
    }
}

impl Copy {
    /// The copy for a database.
    pub(super) fn of(database: &Path) -> Self {
        Self { path: beside(database, SUFFIX) }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Fills it, and sees to it that it can take the database's place as it is.
    pub(super) fn fill(
        &self,
        backup: &Path,
        checksum: Option<&str>,
        database: &Path,
        tell: &mut Tell<'_>,
    ) -> Result<Prepared, BackupError> {
        let (found, bytes) = self.copy(backup, tell)?;
        if let Some(expected) = checksum.filter(|expected| !found.eq_ignore_ascii_case(expected)) {
            let (path, expected) = (backup.to_owned(), expected.to_owned());
            return Err(BackupError::Checksum { path, found, expected });
        }
        if bytes == 0 {
            return Err(BackupError::Empty { path: backup.to_owned() });
        }
        // What is wrong with the copy is wrong with the backup.
        let of_backup = |error| match error {
            BackupError::Unsound { finding, .. } => BackupError::Unsound { path: backup.to_owned(), finding },
            BackupError::NotADatabase { .. } => BackupError::NotADatabase { path: backup.to_owned() },
            other => other,
        };
        check(&self.path, tell).map_err(of_backup)?;
        let attached = self.mark()?;
        self.adopt_owner(database)?;
        flush(&self.path)?;
        Ok(Prepared { bytes, attached })
    }

    /// Copies the backup; its checksum and size.
    fn copy(&self, backup: &Path, tell: &mut Tell<'_>) -> Result<(String, u64), BackupError> {
        let mut source = File::open(backup).map_err(BackupError::file("read", backup))?;
        let total = source.metadata().map_err(BackupError::file("read", backup))?.len();
        let mut target = create_private(&self.path)?;
        let (mut hasher, mut done) = (blake3::Hasher::new(), 0);
        let mut chunk = vec![0; CHUNK];
        loop {
            let read = source.read(&mut chunk).map_err(BackupError::file("read", backup))?;
            if read == 0 {
                return Ok((hasher.finalize().to_hex().to_string(), done));
            }
            hasher.update(&chunk[..read]);
            target.write_all(&chunk[..read]).map_err(BackupError::file("write", &self.path))?;
            done += read as u64;
            tell(Progress { stage: Stage::Copying, done, total: total.max(done) });
        }
    }

    /// Marks an attached database as restored. True if it is attached.
    fn mark(&self) -> Result<bool, BackupError> {
        let failed = |error| BackupError::sqlite(&self.path, error);
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let conn = Connection::open_with_flags(&self.path, flags).map_err(failed)?;
        // Without shared memory, where there is a write-ahead log; that goes when the connection is closed.
        conn.execute_batch("PRAGMA locking_mode = EXCLUSIVE; PRAGMA synchronous = FULL").map_err(failed)?;
        let attached = mark(&conn)?;
        // Closing would not tell that it could not be written into the file itself.
        conn.query_row("PRAGMA main.wal_checkpoint(TRUNCATE)", [], |_| Ok(())).map_err(failed)?;
        conn.close().map_err(|(_, error)| failed(error))?;
        Ok(attached)
    }

    /// Gives it the old file's owner and permissions; where there is none, those that a program's new file would have.
    fn adopt_owner(&self, database: &Path) -> Result<(), BackupError> {
        let set = |permissions| {
            std::fs::set_permissions(&self.path, permissions)
                .map_err(BackupError::file("set the permissions of", &self.path))
        };
        let Ok(old) = std::fs::metadata(database) else {
            return set(new_file_permissions(database)?);
        };
        let new = std::fs::metadata(&self.path).map_err(BackupError::file("read", &self.path))?;
        let (user, group) = (old.uid(), old.gid());
        if (user, group) != (new.uid(), new.gid()) {
            std::os::unix::fs::chown(&self.path, Some(user), Some(group)).map_err(|source| BackupError::Owner {
                path: database.to_owned(),
                user,
                group,
                source,
            })?;
        }
        set(Permissions::from_mode(old.mode() & 0o7777))
    }
}

/// What the process's mask makes of a new file's permissions: the mask itself cannot be read without setting it.
fn new_file_permissions(database: &Path) -> Result<Permissions, BackupError> {
    let probe = beside(database, ".restoring-mode");
    let made = OpenOptions::new().create(true).truncate(false).write(true).open(&probe);
    let permissions = made.and_then(|file| file.metadata()).map(|found| found.permissions());
    let _ = std::fs::remove_file(&probe);
    permissions.map_err(BackupError::file("create", &probe))
}

impl Drop for Copy {
    fn drop(&mut self) {
        // What stays is removed by the next restore.
        let _ = std::fs::remove_file(&self.path);
        for suffix in SIDES {
            let _ = std::fs::remove_file(beside(&self.path, suffix));
        }
    }
}
