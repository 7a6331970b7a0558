//! Opens database files of applications, with the settings that the daemon relies on.
//!
//! Never creates a file, never changes the journal mode.

use std::ffi::OsStr;
use std::fmt::Write as _;
use std::io::ErrorKind;
use std::path::Path;
use std::time::Duration;

use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags};

use crate::error::StoreError;
use crate::pulse;

/// How long a statement waits for a lock that another connection holds.
pub(crate) const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// Bytes that SQLite uses in this process before it takes pages from the caches of all databases, the least recently used first.
/// Without it each database may keep some megabytes of pages.
const SOFT_HEAP_LIMIT: usize = 48 << 20;

/// Opens an existing database file for the daemon's own reads and writes.
///
/// Triggers in the file do not fire for this connection, neither the application's (their effects on synced tables
/// arrive as changes) nor our own (what is applied is no local change); TEMP triggers do. Foreign keys are not enforced:
/// they would cascade twice.
///
/// # Errors
/// [`StoreError::Absent`] if the file is missing; [`StoreError::Open`] if it is inaccessible or no database; [`StoreError::Setting`] if SQLite does not
/// take a setting. Nothing is changed either way.
pub fn open(path: &Path) -> Result<Connection, StoreError> {
    open_with(path, OpenFlags::empty())
}

/// The same with more flags.
pub(crate) fn open_with(path: &Path, more: OpenFlags) -> Result<Connection, StoreError> {
    let open = |source| not_opened(path, source);
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX | more;
    let conn = Connection::open_with_flags(path, flags).map_err(open)?;
    conn.busy_timeout(BUSY_TIMEOUT)?;
    pulse::watch(&conn)?;
    conn.query_row(&format!("PRAGMA soft_heap_limit = {SOFT_HEAP_LIMIT}"), [], |_| Ok(()))?;
    // SQLite opens lazily: the first read tells whether this is a database.
    let journal =
        pulse::on_disk(path, || conn.query_row("PRAGMA main.journal_mode", [], |row| row.get::<_, String>(0)));
    let journal = journal.map_err(open)?;
    // In WAL mode a power failure then loses no more than the last commits, which peers are asked for again.
    let synchronous = if journal.eq_ignore_ascii_case("wal") { "NORMAL" } else { "FULL" };
    conn.execute_batch(&format!("PRAGMA foreign_keys = OFF; PRAGMA main.synchronous = {synchronous}"))?;
    // The pragma does nothing, silently, where it may not be set.
    if conn.query_row("PRAGMA foreign_keys", [], |row| row.get(0))? {
        return Err(StoreError::Setting { setting: "foreign_keys = OFF" });
    }
    if conn.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_TRIGGER, false)? {
        return Err(StoreError::Setting { setting: "triggers disabled" });
    }
    // Without it SQLite prepares a statement anew each time when a parameter might change its plan.
    if !conn.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)? {
        return Err(StoreError::Setting { setting: "stable query plans" });
    }
    Ok(conn)
}

/// Why a file cannot be opened: SQLite does not say that there is none.
pub(crate) fn not_opened(path: &Path, source: rusqlite::Error) -> StoreError {
    match std::fs::metadata(path) {
        Err(absent) if absent.kind() == ErrorKind::NotFound => {
            StoreError::Absent { path: path.to_owned(), source: absent }
        }
        _ => StoreError::Open { path: path.to_owned(), source },
    }
}

/// Does something under another setting of the connection, and puts the setting back.
pub(crate) fn with_setting<T>(
    conn: &Connection,
    setting: DbConfig,
    value: bool,
    act: impl FnOnce() -> Result<T, StoreError>,
) -> Result<T, StoreError> {
    let before = conn.db_config(setting)?;
    conn.set_db_config(setting, value)?;
    let result = act();
    conn.set_db_config(setting, before)?;
    result
}

/// A file as a URI with a parameter that says how SQLite is to open it.
pub(crate) fn uri(path: &OsStr, parameter: &str) -> String {
    let mut uri = "file:".to_owned();
    for byte in path.as_encoded_bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'/' | b'-' | b'.' | b'_' | b'~' => uri.push(char::from(*byte)),
            // Writing to a String cannot fail.
            other => drop(write!(uri, "%{other:02X}")),
        }
    }
    format!("{uri}?{parameter}")
}

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;

    use super::{open, uri};

    /// What has to be taken back is more than stays in memory.
    #[test]
    fn a_large_statement_that_fails_late_is_taken_back() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("large.db");
        let numbers = "WITH RECURSIVE n(id) AS (VALUES (1) UNION ALL SELECT id + 1 FROM n WHERE id < 10000)";
        let schema = format!(
            "CREATE TABLE t (id INTEGER PRIMARY KEY, n INTEGER CHECK (n < 10001), note TEXT);
             {numbers} INSERT INTO t SELECT id, id, 'a note that fills pages, as there are hundreds of them' FROM n"
        );
        rusqlite::Connection::open(&path).unwrap().execute_batch(&schema).unwrap();
        let conn = open(&path).unwrap();
        conn.execute_batch("BEGIN IMMEDIATE; UPDATE t SET note = 'kept' WHERE id = 1").unwrap();
        let error = conn.execute("UPDATE t SET n = n + 1, note = 'taken back'", []).unwrap_err();
        assert_eq!(error.sqlite_error_code(), Some(rusqlite::ErrorCode::ConstraintViolation), "{error}");
        conn.execute_batch("COMMIT").unwrap();
        let sums =
            "SELECT sum(n), count(*) FILTER (WHERE note = 'taken back'), count(*) FILTER (WHERE note = 'kept') FROM t";
        let sums: (i64, i64, i64) =
            conn.query_row(sums, [], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?))).unwrap();
        assert_eq!(sums, (50_005_000, 0, 1));
    }

    #[test]
    fn a_uri_names_any_file() {
        assert_eq!(uri(OsStr::new("/a b/50%?#ä.db"), "mode=ro"), "file:/a%20b/50%25%3F%23%C3%A4.db?mode=ro");
    }
}
