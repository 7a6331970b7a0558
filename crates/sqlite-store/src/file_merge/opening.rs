//! Opening both files on one connection: TARGET to be written, SOURCE beside it to be read.

use std::path::Path;

use replication::Selection;
use rusqlite::{Connection, OpenFlags};

use super::FileMergeError;
use crate::connection;
use crate::error::StoreError;
use crate::file_comparison::read_only;
use crate::schema::introspection::{Found, read_tables};
use crate::state::FileIdentity;

/// Both files.
pub(super) struct Opened {
    /// TARGET, with SOURCE attached as `source`.
    pub(super) conn: Connection,
    /// The tables of SOURCE.
    pub(super) source_tables: Vec<Found>,
}

pub(super) fn open(source: &Path, target: &Path) -> Result<Opened, FileMergeError> {
    let identity =
        |path: &Path| FileIdentity::of(path).map_err(|source| StoreError::Absent { path: path.to_owned(), source });
    if identity(source)? == identity(target)? {
        return Err(FileMergeError::SameFile { source_file: source.to_owned(), target: target.to_owned() });
    }
    let there = read_only(source)?;
    let source_tables = read_tables(&there, &Selection::default())?;
    let source_encoding = encoding(&there)?;
    drop(there);
    // A relative name that begins with "file:" is none of SQLite's URIs.
    let absolute =
        |path: &Path| std::path::absolute(path).map_err(|source| StoreError::Absent { path: path.to_owned(), source });
    let conn = connection::open_with(&absolute(target)?, OpenFlags::SQLITE_OPEN_URI)?;
    let target_encoding = encoding(&conn)?;
    // A file without a table takes the encoding of the first that it gets, and there is nothing to merge into.
    let empty: bool = conn.query_row("SELECT NOT EXISTS (SELECT 1 FROM main.sqlite_schema)", [], |row| row.get(0))?;
    if source_encoding != target_encoding && !empty && !source_tables.is_empty() {
        let (source_file, target) = (source.to_owned(), target.to_owned());
        return Err(FileMergeError::Encoding { source_file, target, source_encoding, target_encoding });
    }
    if source_encoding == target_encoding {
        conn.execute("ATTACH ?1 AS source", [connection::uri(absolute(source)?.as_os_str(), "mode=ro")])
            .map_err(|error| StoreError::Open { path: source.to_owned(), source: error })?;
    } else {
        conn.execute_batch("ATTACH ':memory:' AS source")?;
    }
    Ok(Opened { conn, source_tables })
}

fn encoding(conn: &Connection) -> Result<String, StoreError> {
    Ok(conn.query_row("PRAGMA main.encoding", [], |row| row.get(0))?)
}
