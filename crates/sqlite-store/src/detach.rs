//! Detaching: everything of ours leaves the database, and nothing else does.
//!
//! Goes by what the file holds, not by the registry, so that it works on a half-attached or damaged file too.

use rusqlite::{Connection, TransactionBehavior};

use crate::attach::bookkeeping::{has_table, is_own_table};
use crate::error::StoreError;
use crate::fail_point::fail_point;
use crate::identifier::quote;
use crate::triggers::parse_name;

/// What was removed. All zero: the database was not attached.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Detached {
    /// Triggers.
    pub triggers: usize,
    /// Tables, with their indexes.
    pub tables: usize,
}

/// Removes our triggers, tables, indexes and statistics. Rows of the application are not touched; the pages that become
/// free stay in the file until a VACUUM.
///
/// # Errors
/// SQLite's own; the file is as it was.
pub fn detach(conn: &mut Connection) -> Result<Detached, StoreError> {
    let transaction = conn.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let detached = remove(&transaction)?;
    fail_point("detach-before-commit");
    transaction.commit()?;
    Ok(detached)
}

fn remove(conn: &Connection) -> Result<Detached, StoreError> {
    let mut detached = Detached::default();
    for name in names(conn, "trigger")?.iter().filter(|name| parse_name(name).is_some()) {
        conn.execute_batch(&format!("DROP TRIGGER main.{}", quote(name)))?;
        detached.triggers += 1;
    }
    let mut statistics = Vec::new();
    for name in ["sqlite_stat1", "sqlite_stat3", "sqlite_stat4"] {
        if has_table(conn, name)? {
            statistics.push(name);
        }
    }
    for name in names(conn, "table")? {
        if !is_own_table(conn, &name)? {
            continue;
        }
        conn.execute_batch(&format!("DROP TABLE main.{}", quote(&name)))?;
        for statistics in &statistics {
            conn.execute(&format!("DELETE FROM main.{statistics} WHERE tbl = ?1"), [&name])?;
        }
        detached.tables += 1;
    }
    Ok(detached)
}

fn names(conn: &Connection, kind: &str) -> Result<Vec<String>, StoreError> {
    let mut statement = conn.prepare("SELECT name FROM main.sqlite_schema WHERE type = ?1")?;
    let names = statement.query_map([kind], |row| row.get(0))?;
    Ok(names.collect::<Result<_, _>>()?)
}
