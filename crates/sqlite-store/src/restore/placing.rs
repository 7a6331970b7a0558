//! The end of a restore: the old file is brought to rest and locked, kept under another name, and replaced by a rename.

use std::fs::{File, OpenOptions};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rusqlite::config::DbConfig;
use rusqlite::{Connection, ErrorCode, OpenFlags};
use rustix::fs::{FlockOperation, fcntl_lock};

use super::preparing::SUFFIX;
use super::{SIDES, beside, openers};
use crate::backup::{BackupError, create_private, flush};
use crate::error::code_of;
use crate::fail_point::fail_point;
use crate::state::FileIdentity;

/// How long a program that has just the file in use may take to let go of it.
const PATIENCE: Duration = Duration::from_secs(2);

/// How long programs that opened the file while it was replaced may take to give up.
const LATECOMERS: Duration = Duration::from_secs(10);

/// The pause between two looks for them.
const LOOK: Duration = Duration::from_millis(10);

/// What the name of a kept file has after the database's.
const KEPT: &str = ".before-restore-";

/// A file that was put in its place.
pub(super) struct Placed {
    pub(super) kept: Option<PathBuf>,
    pub(super) unseen: usize,
}

/// Puts `copy` in the place of `database`.
pub(super) fn replace(database: &Path, copy: &Path, moment: &str) -> Result<Placed, BackupError> {
    settle(database)?;
    fail_point("file-restore-settled");
    // Nobody begins to use the old file from here on. SQLite let go of its own lock when it closed the file.
    let lock = lock(database)?;
    let unseen = openers::refuse(database)?;
    let name = free_name(database, moment);
    let mut kept = None;
    if database.exists() {
        keep(lock.as_ref(), database, &name)?;
        kept = Some(name.clone());
        fail_point("file-restore-kept");
    }
    let folder = database.parent().unwrap_or(Path::new("."));
    let replaced = set_aside(database, &name).and_then(|()| flush(folder)).and_then(|()| {
        fail_point("file-restore-set-aside");
        std::fs::rename(copy, database).map_err(BackupError::file("replace", database))
    });
    if let Err(error) = replaced {
        put_back(database, &name, kept.is_some());
        return Err(error);
    }
    fail_point("file-restore-replaced");
    flush(folder)?;
    if let Some(kept) = &kept {
        await_nobody(database, kept)?;
    }
    // Whoever waited for the old file has given up.
    drop(lock);
    Ok(Placed { kept, unseen })
}

/// What was set aside belongs to a file that stays.
fn put_back(database: &Path, name: &Path, kept: bool) {
    // What cannot be put back lies under the kept file's name, which then stays too.
    let put = |suffix: &&str| match std::fs::rename(beside(name, suffix), beside(database, suffix)) {
        Err(error) => error.kind() == ErrorKind::NotFound,
        Ok(()) => true,
    };
    if ["-wal", "-journal"].iter().all(put) && kept {
        let _ = std::fs::remove_file(name);
    }
}

/// Waits for programs that opened the old file before it was replaced: they wait for its lock, and would look for its log by the name
/// that the new file has now.
fn await_nobody(database: &Path, kept: &Path) -> Result<(), BackupError> {
    let begun = Instant::now();
    loop {
        let openers = openers::find(kept).openers;
        if openers.is_empty() {
            return Ok(());
        }
        if begun.elapsed() >= LATECOMERS {
            return Err(BackupError::OpenedMeanwhile { path: database.to_owned(), openers });
        }
        std::thread::sleep(LOOK);
    }
}

/// Folds a write-ahead log into its file, or rolls back what a killed program left, so that the file is whole by itself. What is damaged
/// stays as it is: it is kept with all that lies beside it.
fn settle(database: &Path) -> Result<(), BackupError> {
    if !database.exists() {
        return Ok(());
    }
    let settled = fold(database);
    match settled.as_ref().err().and_then(code_of) {
        None => Ok(()),
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => Err(in_use(database)),
        Some(
            ErrorCode::NotADatabase
            | ErrorCode::DatabaseCorrupt
            | ErrorCode::SystemIoFailure
            | ErrorCode::DiskFull
            | ErrorCode::Unknown,
        ) => Ok(()),
        Some(_) => settled.map_err(|error| BackupError::sqlite(database, error)),
    }
}

fn fold(database: &Path) -> rusqlite::Result<()> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let conn = Connection::open_with_flags(database, flags)?;
    conn.busy_timeout(PATIENCE)?;
    // The log of a file that turns out to be damaged stays.
    conn.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
    // Whoever has it open with a write-ahead log has a lock that this one does not get.
    conn.execute_batch("PRAGMA locking_mode = EXCLUSIVE; BEGIN EXCLUSIVE; COMMIT")?;
    conn.query_row("SELECT count(*) FROM main.sqlite_schema", [], |_| Ok(()))?;
    conn.query_row("PRAGMA main.wal_checkpoint(TRUNCATE)", [], |_| Ok(()))?;
    // With the connection goes the log, which is empty.
    conn.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, false)?;
    conn.close().map_err(|(_, error)| error)
}

/// A program has a lock: which, if that can be told.
fn in_use(database: &Path) -> BackupError {
    let found = openers::find(database);
    let path = database.to_owned();
    if found.openers.is_empty() {
        BackupError::Locked { path, unseen: found.unseen }
    } else {
        BackupError::InUse { path, openers: found.openers }
    }
}

/// Locks all of a file the way SQLite locks parts of it; let go of when it is dropped. None where there is no file.
fn lock(database: &Path) -> Result<Option<File>, BackupError> {
    let file = match OpenOptions::new().read(true).write(true).open(database) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(BackupError::file("open", database)(error)),
    };
    match fcntl_lock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(Some(file)),
        Err(rustix::io::Errno::AGAIN | rustix::io::Errno::ACCESS) => Err(in_use(database)),
        Err(error) => Err(BackupError::file("lock", database)(error.into())),
    }
}

/// A name under which nothing is yet, nor anything beside it.
fn free_name(database: &Path, moment: &str) -> PathBuf {
    let first = beside(database, &format!("{KEPT}{moment}"));
    let others = (2..u32::MAX).map(|number| beside(&first, &format!("-{number}")));
    let is_free = |name: &PathBuf| !name.exists() && !SIDES.iter().any(|suffix| beside(name, suffix).exists());
    std::iter::once(first.clone()).chain(others).find(is_free).unwrap_or(first)
}

/// Gives a file a second name; where the file system has none, copies it.
fn keep(locked: Option<&File>, database: &Path, name: &Path) -> Result<(), BackupError> {
    let failed = || BackupError::file("keep the present file as", name);
    match std::fs::hard_link(database, name) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == ErrorKind::AlreadyExists => Err(failed()(error)),
        // Through the file that holds the lock: another one would take the lock with it when it is closed.
        Err(_) => {
            let (Some(mut from), mut to) = (locked, create_private(name)?) else { return Ok(()) };
            let permissions = from.metadata().map_err(failed())?.permissions();
            let copied = std::io::copy(&mut from, &mut to).and_then(|_| to.set_permissions(permissions));
            copied.and_then(|()| to.sync_all()).map_err(failed())
        }
    }
}

/// Moves what lies beside the database to the kept file's name, so that it is not read into another file. After a fold there is nothing
/// that matters to the old one.
fn set_aside(database: &Path, name: &Path) -> Result<(), BackupError> {
    for suffix in ["-wal", "-journal"] {
        let side = beside(database, suffix);
        match std::fs::rename(&side, beside(name, suffix)) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(BackupError::file("move", &side)(error)),
            _ => {}
        }
    }
    let memory = beside(database, "-shm");
    match std::fs::remove_file(&memory) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(BackupError::file("remove", &memory)(error)),
        _ => Ok(()),
    }
}

/// Removes what a restore that was killed has left: its copy, and a second name of the file that is still in place.
pub(super) fn remove_leftovers(database: &Path) -> Result<(), BackupError> {
    let remove = |path: &Path| match std::fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(BackupError::file("remove", path)(error)),
        _ => Ok(()),
    };
    let copy = beside(database, SUFFIX);
    remove(&copy)?;
    SIDES.iter().try_for_each(|suffix| remove(&beside(&copy, suffix)))?;
    let folder = database.parent().unwrap_or(Path::new("."));
    let (Some(name), Ok(present)) = (database.file_name(), FileIdentity::of(database)) else { return Ok(()) };
    let mut prefix = name.to_owned();
    prefix.push(KEPT);
    for entry in std::fs::read_dir(folder).map_err(BackupError::file("read", folder))? {
        let entry = entry.map_err(BackupError::file("read", folder))?;
        let is_kept = entry.file_name().as_encoded_bytes().starts_with(prefix.as_encoded_bytes());
        // One that has a log beside it is that log's file.
        let alone = !SIDES.iter().any(|suffix| beside(&entry.path(), suffix).exists());
        if is_kept && alone && FileIdentity::of(&entry.path()).is_ok_and(|it| it == present) {
            remove(&entry.path())?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead as _, BufReader, Write as _};
    use std::process::{Child, Command, Stdio};

    use super::*;

    /// A program that has a file open until its standard input ends.
    fn opener(file: &Path, code: &str) -> Child {
        let program = format!(
            "import sqlite3, sys\ndb = sqlite3.connect(sys.argv[1], isolation_level=None)\n{code}\nprint('ready', flush=True)\nsys.stdin.read()"
        );
        let mut python = Command::new("python3");
        let python = python.args(["-B", "-c", &program]).arg(file).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = python.spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, "ready\n");
        child
    }

    /// Processes of other users, containers and machines are not seen; their locks are.
    #[test]
    fn locks_tell_of_programs_that_cannot_be_seen() {
        let folder = tempfile::tempdir().unwrap();
        let busy = [Some(ErrorCode::DatabaseBusy), Some(ErrorCode::DatabaseLocked)];
        for (journal, code) in [
            ("WAL", "db.execute('SELECT count(*) FROM t').fetchone()"),
            ("WAL", "db.execute('BEGIN IMMEDIATE')"),
            ("DELETE", "db.execute('BEGIN')\ndb.execute('SELECT * FROM t').fetchone()"),
            ("DELETE", "db.execute('BEGIN EXCLUSIVE')"),
        ] {
            let file = folder.path().join(format!("{journal}{}.db", code.len()));
            let conn = Connection::open(&file).unwrap();
            let sql = format!("PRAGMA journal_mode = {journal}; CREATE TABLE t (v); INSERT INTO t VALUES (1), (2)");
            conn.execute_batch(&sql).unwrap();
            drop(conn);
            let mut child = opener(&file, code);
            assert!(busy.contains(&fold(&file).as_ref().err().and_then(code_of)), "{journal} {code}");
            assert!(lock(&file).is_err(), "{journal} {code}");
            child.stdin.take().unwrap().flush().unwrap();
            child.wait().unwrap();
            fold(&file).unwrap();
            assert!(lock(&file).unwrap().is_some());
        }
    }

    /// What is folded has nothing beside it any more.
    #[test]
    fn a_write_ahead_log_is_folded_and_one_of_a_damaged_file_is_kept() {
        let folder = tempfile::tempdir().unwrap();
        let [file, wal] = ["a.db", "a.db-wal"].map(|name| folder.path().join(name));
        let leave = "db.execute('PRAGMA journal_mode = WAL')\ndb.execute('CREATE TABLE IF NOT EXISTS t (v)')\n\
                     db.execute('PRAGMA wal_checkpoint')\ndb.execute('INSERT INTO t VALUES (1)')\nprint('ready', flush=True)\nimport os; os._exit(0)";
        opener(&file, leave).wait().unwrap();
        assert!(wal.metadata().unwrap().len() > 0);
        settle(&file).unwrap();
        assert!(!wal.exists());
        opener(&file, leave).wait().unwrap();
        let log = std::fs::read(&wal).unwrap();
        std::fs::write(&file, vec![0x42; 8192]).unwrap();
        settle(&file).unwrap();
        assert_eq!(std::fs::read(&wal).unwrap(), log);
        assert_eq!(std::fs::read(&file).unwrap(), vec![0x42; 8192]);
    }
}
