//! Whether a copy is a database that SQLite can work with. Writes nothing, not even beside it.

use std::path::Path;

use rusqlite::{Connection, ErrorCode, OpenFlags};

use super::{BackupError, Progress, Stage, Tell};
use crate::connection::uri;
use crate::error::{StoreError, code_of};
use crate::identifier::quote;

/// A table of which not all could be checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unchecked {
    /// Its name.
    pub table: String,
    /// What SQLite lacks.
    pub reason: String,
}

/// A database that is sound.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Checked {
    /// Its pages.
    pub(crate) pages: u32,
    /// Tables that could not be checked.
    pub(crate) unchecked: Vec<Unchecked>,
}

/// Runs `PRAGMA integrity_check` on a file that nobody writes.
pub(crate) fn check(path: &Path, tell: &mut Tell<'_>) -> Result<Checked, BackupError> {
    let total = std::fs::metadata(path).map_err(BackupError::file("read", path))?.len();
    if total == 0 {
        return Err(BackupError::Empty { path: path.to_owned() });
    }
    tell(Progress { stage: Stage::Checking, done: 0, total });
    let failed = |error: rusqlite::Error| match code_of(&error) {
        Some(ErrorCode::NotADatabase) => BackupError::NotADatabase { path: path.to_owned() },
        Some(ErrorCode::DatabaseCorrupt) => unsound(path, error.to_string()),
        _ => BackupError::Store(StoreError::Open { path: path.to_owned(), source: error }),
    };
    let conn = open(path).map_err(failed)?;
    let pages: u32 = conn.query_row("PRAGMA page_count", [], |row| row.get(0)).map_err(failed)?;
    let unchecked = match findings(&conn, "PRAGMA main.integrity_check(1)") {
        Ok(findings) => sound(path, findings).map(|()| Vec::new())?,
        // A collation or function that only the application has: it stands in the way of a few tables.
        Err(error) if is_unknown(&error) => check_tables(&conn, path).map_err(failed)??,
        Err(error) => return Err(failed(error)),
    };
    Ok(Checked { pages, unchecked })
}

/// Nobody writes the file: without locks, and without the files that a write-ahead log would need beside it.
fn open(path: &Path) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX | OpenFlags::SQLITE_OPEN_URI;
    let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let conn = Connection::open_with_flags(uri(absolute.as_os_str(), "immutable=1"), flags)?;
    // A row that breaks a rule of the application is no damage, and the rule may call what only the application defines.
    conn.execute_batch("PRAGMA ignore_check_constraints = ON")?;
    // The first read tells whether this is a database.
    conn.query_row("SELECT count(*) FROM main.sqlite_schema", [], |_| Ok(()))?;
    Ok(conn)
}

fn findings(conn: &Connection, pragma: &str) -> rusqlite::Result<Vec<String>> {
    conn.prepare(pragma)?.query_map([], |row| row.get(0))?.collect()
}

fn is_unknown(error: &rusqlite::Error) -> bool {
    code_of(error) == Some(ErrorCode::Unknown)
}

fn sound(path: &Path, findings: Vec<String>) -> Result<(), BackupError> {
    match findings.into_iter().find(|finding| finding != "ok") {
        Some(finding) => Err(unsound(path, finding)),
        None => Ok(()),
    }
}

fn unsound(path: &Path, finding: String) -> BackupError {
    BackupError::Unsound { path: path.to_owned(), finding: finding.split_whitespace().collect::<Vec<_>>().join(" ") }
}

/// Checks table by table, and notes those that cannot be.
fn check_tables(conn: &Connection, path: &Path) -> rusqlite::Result<Result<Vec<Unchecked>, BackupError>> {
    let mut unchecked = Vec::new();
    for table in findings(conn, "SELECT name FROM main.sqlite_schema WHERE type = 'table' AND rootpage > 0")? {
        match findings(conn, &format!("PRAGMA main.integrity_check({})", quote(&table))) {
            Ok(findings) => {
                if let Err(error) = sound(path, findings) {
                    return Ok(Err(error));
                }
            }
            Err(error) if is_unknown(&error) => {
                let reason = match &error {
                    rusqlite::Error::SqlInputError { msg, .. } => msg.clone(),
                    other => other.to_string(),
                };
                unchecked.push(Unchecked { table, reason });
            }
            Err(error) => return Err(error),
        }
    }
    Ok(Ok(unchecked))
}
