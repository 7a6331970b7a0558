//! A file that SQLite found malformed: whatever is written to it may make it worse, so that it is not opened for writing until
//! another one is in its place or it was put right.

use std::io::{ErrorKind, Read as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags};

use super::Worker;
use crate::error::StoreError;
use crate::pulse;
use crate::state::FileIdentity;

/// The pause between looks at a file that is malformed, by `stat` alone.
const LOOK: Duration = Duration::from_secs(1);

/// The longest pause between checks of a malformed file that programs still write to: each reads all of it.
const CHECK_CAP: Duration = Duration::from_secs(300);

/// What tells whether a file was written since.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Traces {
    file: FileIdentity,
    size: u64,
    modified: Option<SystemTime>,
    log: Option<(u64, Option<SystemTime>)>,
}

impl Traces {
    fn of(path: &Path) -> Option<Self> {
        let file = FileIdentity::of(path).ok()?;
        let metadata = std::fs::metadata(path).ok()?;
        let log = std::fs::metadata(log_of(path)).ok().map(|log| (log.len(), log.modified().ok()));
        Some(Self { file, size: metadata.len(), modified: metadata.modified().ok(), log })
    }
}

/// The write-ahead log of a database file.
fn log_of(path: &Path) -> PathBuf {
    let mut log = path.as_os_str().to_owned();
    log.push("-wal");
    log.into()
}

/// Reads a file to its end. Closing it takes the locks of this process on it, so none of its connections may be open.
fn read_through(path: &Path) -> std::io::Result<()> {
    let (mut file, mut piece) = (std::fs::File::open(path)?, vec![0; 1 << 20]);
    while file.read(&mut piece)? > 0 {
        pulse::beat();
    }
    Ok(())
}

impl Worker {
    /// Takes note that the file is malformed; or returns the error of the disk, if that is why it seems so.
    pub(super) fn note_damage(&mut self) -> Option<StoreError> {
        let path = &self.options.path;
        let unread = [path.clone(), log_of(path)].into_iter().find_map(|path| {
            let source = read_through(&path).err()?;
            (source.kind() != ErrorKind::NotFound).then_some(StoreError::Disk { path, source })
        });
        self.damaged = if unread.is_some() { None } else { Traces::of(path) };
        unread
    }

    /// Whether the file is still the malformed one. Then it is looked at again after a pause.
    pub(super) fn is_still_damaged(&mut self) -> bool {
        let Some(found) = self.damaged else { return false };
        let now = Traces::of(&self.options.path);
        let pause = if now == Some(found) {
            LOOK
        } else {
            if is_sound(&self.options.path).is_ok_and(|sound| sound) {
                self.damaged = None;
                return false;
            }
            self.damaged = now.or(self.damaged);
            self.failures = self.failures.saturating_add(1);
            LOOK.saturating_mul(1 << self.failures.min(10)).min(CHECK_CAP)
        };
        self.retry_at = Some(Instant::now() + pause);
        true
    }
}

/// Whether every page of a file is what it is taken for, and every index what its table says. Writes nothing to it.
fn is_sound(path: &Path) -> Result<bool, StoreError> {
    let conn = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
    pulse::watch(&conn)?;
    conn.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
    let answer: String = conn.query_row("PRAGMA main.integrity_check(1)", [], |row| row.get(0))?;
    Ok(answer == "ok")
}
