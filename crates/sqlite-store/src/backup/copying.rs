//! Copies a file's pages as they stand at one moment.
//!
//! With a write-ahead log, a read transaction sees one moment for as long as it lasts and is in nobody's way; SQLite's backup reads under it, so
//! that it never has to begin again. With a rollback journal a read transaction keeps everybody from committing, and without one a backup
//! begins again with each commit. So the file is first copied as it is, which may be torn, with a hash of each chunk; then,
//! under a read transaction, it is read again, and only chunks that changed are written again. What takes long, the
//! disk's writing and its first reading, happens while nobody waits.

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::path::Path;
use std::time::Duration;

use rusqlite::backup::{Backup, StepResult};
use rusqlite::config::DbConfig;
use rusqlite::{Connection, ErrorCode, OpenFlags};

use super::{BackupError, CHUNK, Progress, Stage, Tell, captured};
use crate::error::{StoreError, code_of};
use crate::restore::beside;

/// How long programs may keep everybody from reading.
const PATIENCE: Duration = Duration::from_secs(60);

/// Pages of one step.
const STEP: i32 = 256;

/// Copies the database at `source` over the empty file at `target`. How many changes in it wait for capture.
pub(super) fn copy(source: &Path, target: &Path, tell: &mut Tell<'_>) -> Result<u64, BackupError> {
    // Opened before SQLite has the file, and closed after it: to close it between would drop SQLite's locks on it.
    let mut file = File::open(source).map_err(BackupError::file("read", source))?;
    if is_empty(&file, source)? {
        return Err(BackupError::Empty { path: source.to_owned() });
    }
    let conn = open(source)?;
    let failed = |error: rusqlite::Error| unreadable(source, error);
    let mut hashes = Vec::new();
    if !has_log(&conn).map_err(failed)? {
        hashes = copy_torn(&mut file, source, target, tell)?;
    }
    let waiting = captured::begin(&conn).map_err(|error| match error {
        StoreError::Sqlite(error) => unreadable(source, error),
        other => other.into(),
    })?;
    // It may have got another journal meanwhile; now it cannot any more.
    if has_log(&conn).map_err(failed)? {
        empty(target)?;
        copy_snapshot(&conn, source, target, tell)?;
    } else {
        amend(&mut file, source, target, &hashes, tell)?;
    }
    Ok(waiting)
}

/// The file itself may be empty while all there is stands in the write-ahead log.
fn is_empty(file: &File, source: &Path) -> Result<bool, BackupError> {
    let length = file.metadata().map_err(BackupError::file("read", source))?.len();
    let log = std::fs::metadata(beside(source, "-wal")).map_or(0, |found| found.len());
    Ok(length == 0 && log == 0)
}

/// A connection that writes nothing but what is needed to read: a journal that a killed program left is rolled back.
fn open(source: &Path) -> Result<Connection, BackupError> {
    let write = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    // SQLite itself falls back to reading where it may not write.
    let conn = Connection::open_with_flags(source, write).map_err(|error| unreadable(source, error))?;
    // A log that is there stays as it is, also where this is the file's last connection; one that reading makes goes again.
    let kept = beside(source, "-wal").exists();
    let settled = conn
        .busy_timeout(PATIENCE)
        .and_then(|()| conn.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, kept).map(drop));
    settled.map_err(|error| unreadable(source, error))?;
    Ok(conn)
}

fn has_log(conn: &Connection) -> rusqlite::Result<bool> {
    let journal: String = conn.query_row("PRAGMA main.journal_mode", [], |row| row.get(0))?;
    Ok(journal.eq_ignore_ascii_case("wal"))
}

/// What it means that SQLite cannot read the file.
fn unreadable(source: &Path, error: rusqlite::Error) -> BackupError {
    let path = source.to_owned();
    match code_of(&error) {
        Some(ErrorCode::NotADatabase) => BackupError::NotADatabase { path },
        Some(ErrorCode::DatabaseCorrupt) => BackupError::Unsound { path, finding: error.to_string() },
        _ => BackupError::Store(StoreError::Open { path, source: error }),
    }
}

fn empty(target: &Path) -> Result<(), BackupError> {
    let file = OpenOptions::new().write(true).open(target).map_err(BackupError::file("write", target))?;
    file.set_len(0).map_err(BackupError::file("write", target))
}

/// Copies what a read transaction sees.
fn copy_snapshot(conn: &Connection, source: &Path, target: &Path, tell: &mut Tell<'_>) -> Result<(), BackupError> {
    let written = |error| BackupError::sqlite(target, error);
    let page: u32 =
        conn.query_row("PRAGMA main.page_size", [], |row| row.get(0)).map_err(|error| unreadable(source, error))?;
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let mut copy = Connection::open_with_flags(target, flags).map_err(written)?;
    // The file is flushed once, at the end; until then nobody needs it.
    copy.execute_batch("PRAGMA synchronous = OFF; PRAGMA journal_mode = OFF").map_err(written)?;
    let backup = Backup::new(conn, &mut copy).map_err(written)?;
    loop {
        match backup.step(STEP).map_err(|error| copied_not(source, target, error))? {
            StepResult::Done => break,
            StepResult::More => {}
            // Nobody else has the copy, and the transaction has what it needs of the source.
            _ => return Err(BackupError::Locked { path: source.to_owned(), unseen: 0 }),
        }
        let progress = backup.progress();
        let bytes = |pages: i32| u64::try_from(pages).unwrap_or(0) * u64::from(page);
        let (done, total) = (progress.pagecount - progress.remaining, progress.pagecount);
        tell(Progress { stage: Stage::Copying, done: bytes(done), total: bytes(total) });
    }
    drop(backup);
    copy.close().map_err(|(_, error)| written(error))
}

/// A step tells of both files with one error: what is full is the copy's disk, what is malformed the source.
fn copied_not(source: &Path, target: &Path, error: rusqlite::Error) -> BackupError {
    match code_of(&error) {
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => unreadable(source, error),
        Some(ErrorCode::DiskFull) => {
            let source = rustix::io::Errno::NOSPC.into();
            BackupError::File { what: "write", path: target.to_owned(), source }
        }
        _ => BackupError::sqlite(target, error),
    }
}

/// Copies the bytes of a file that programs may write meanwhile, and has them on the disk. A hash for each chunk.
fn copy_torn(
    file: &mut File,
    source: &Path,
    target: &Path,
    tell: &mut Tell<'_>,
) -> Result<Vec<blake3::Hash>, BackupError> {
    let mut copy = OpenOptions::new().write(true).open(target).map_err(BackupError::file("write", target))?;
    let total = file.metadata().map_err(BackupError::file("read", source))?.len();
    let (mut hashes, mut done) = (Vec::new(), 0);
    let mut chunk = Vec::with_capacity(CHUNK);
    // No further than it was at the start: programs may write faster than this reads.
    while done < total && read_chunk(file, &mut chunk).map_err(BackupError::file("read", source))? {
        copy.write_all(&chunk).map_err(BackupError::file("write", target))?;
        hashes.push(blake3::hash(&chunk));
        done += chunk.len() as u64;
        tell(Progress { stage: Stage::Copying, done, total: total.max(done) });
    }
    copy.sync_data().map_err(BackupError::file("flush", target))?;
    Ok(hashes)
}

/// Makes the copy what the file holds now, while nobody can write it.
fn amend(
    file: &mut File,
    source: &Path,
    target: &Path,
    hashes: &[blake3::Hash],
    tell: &mut Tell<'_>,
) -> Result<(), BackupError> {
    let (read, write) = (|| BackupError::file("read", source), || BackupError::file("write", target));
    let mut copy = OpenOptions::new().write(true).open(target).map_err(write())?;
    let total = file.metadata().map_err(read())?.len();
    file.seek(SeekFrom::Start(0)).map_err(read())?;
    let mut known = hashes.iter();
    let mut done = 0;
    let mut chunk = Vec::with_capacity(CHUNK);
    while read_chunk(file, &mut chunk).map_err(read())? {
        if known.next() != Some(&blake3::hash(&chunk)) {
            copy.seek(SeekFrom::Start(done)).and_then(|_| copy.write_all(&chunk)).map_err(write())?;
        }
        done += chunk.len() as u64;
        tell(Progress { stage: Stage::Comparing, done, total });
    }
    copy.set_len(done).map_err(write())
}

/// Reads a whole chunk, or what is left. False at the end.
fn read_chunk(file: &File, chunk: &mut Vec<u8>) -> io::Result<bool> {
    chunk.clear();
    Ok(file.take(CHUNK as u64).read_to_end(chunk)? > 0)
}
