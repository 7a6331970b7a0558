//! Finds out by preparing whether the daemon's SQLite can work with a table at all: collations and functions that only
//! the application defines show nowhere else.

use rusqlite::config::DbConfig;
use rusqlite::{Connection, Error, ErrorCode};

use crate::connection::with_setting;
use crate::error::{StoreError, code_of};
use crate::identifier::quote;
use crate::schema::{Table, Unsynced};
use crate::triggers::Trigger;

/// SQLite's message, if one of the statements that capture and apply use cannot be prepared for this table.
pub(super) fn refusal(conn: &Connection, table: &Table, triggers: &[Trigger]) -> Result<Option<Unsynced>, StoreError> {
    let message = match first_refused(conn, &statements(table))? {
        Some(message) => Some(message),
        None => refused_triggers(conn, table, triggers)?,
    };
    Ok(message.map(|reason| Unsynced {
        table: table.name.clone(),
        reason,
        remedy: "keep functions and collations that only the application defines out of this table's indexes, \
                 checks and generated columns"
            .to_owned(),
        intended: false,
    }))
}

/// The same for an attached database that is only read.
pub(super) fn refusal_of_writes(conn: &Connection, table: &Table) -> Result<Option<String>, StoreError> {
    first_refused(conn, &writes(table))
}

/// The message, if our own triggers do not compile. They contain expressions of the application's indexes.
fn refused_triggers(conn: &Connection, table: &Table, ours: &[Trigger]) -> Result<Option<String>, StoreError> {
    with_setting(conn, DbConfig::SQLITE_DBCONFIG_ENABLE_TRIGGER, true, || {
        let Some(message) = first_refused(conn, &writes(table))? else { return Ok(None) };
        // The application's own triggers may use functions of its own: they run on its connections only.
        conn.execute_batch("SAVEPOINT _sync_without")?;
        for trigger in ours {
            conn.execute_batch(&format!("DROP TRIGGER main.{}", quote(&trigger.name)))?;
        }
        let without = first_refused(conn, &writes(table));
        conn.execute_batch("ROLLBACK TO _sync_without; RELEASE _sync_without")?;
        Ok(if without?.is_some() { None } else { Some(message) })
    })
}

fn first_refused(conn: &Connection, statements: &[String]) -> Result<Option<String>, StoreError> {
    for sql in statements {
        if let Err(error) = conn.prepare(sql) {
            return refusal_message(error).map(Some);
        }
    }
    Ok(None)
}

/// The message of an error that lies in the schema; any other error is passed on.
pub(crate) fn refusal_message(error: Error) -> Result<String, StoreError> {
    match (code_of(&error), &error) {
        (Some(ErrorCode::Unknown), Error::SqliteFailure(_, Some(message))) => Ok(message.clone()),
        (Some(ErrorCode::Unknown), Error::SqlInputError { msg, .. }) => Ok(msg.clone()),
        _ => Err(error.into()),
    }
}

/// One INSERT, one DELETE and one UPDATE that name all columns.
pub(crate) fn writes(table: &Table) -> Vec<String> {
    let name = format!("main.{}", quote(&table.name));
    let columns: Vec<String> = table.columns.iter().map(|column| quote(&column.name)).collect();
    let parameters = vec!["?"; columns.len()].join(", ");
    let sets: Vec<String> = columns.iter().map(|column| format!("{column} = ?")).collect();
    vec![
        format!("INSERT INTO {name} ({}) VALUES ({parameters})", columns.join(", ")),
        format!("DELETE FROM {name} WHERE {}", key_match(table)),
        format!("UPDATE {name} SET {} WHERE {}", sets.join(", "), key_match(table)),
    ]
}

fn statements(table: &Table) -> Vec<String> {
    let columns: Vec<String> = table.columns.iter().map(|column| format!("t.{}", quote(&column.name))).collect();
    let joined: Vec<String> = table
        .key_columns()
        .enumerate()
        .map(|(place, column)| format!("c.k{place} = t.{}", quote(&column.name)))
        .collect();
    let (name, clock) = (quote(&table.name), quote(&table.clock));
    let mut all = writes(table);
    all.push(format!("SELECT {} FROM main.{name} AS t WHERE {}", columns.join(", "), key_match(table)));
    all.push(format!("SELECT c.ts FROM main.{name} AS t LEFT JOIN main.{clock} AS c ON {}", joined.join(" AND ")));
    all
}

fn key_match(table: &Table) -> String {
    let parts: Vec<String> = table.key_columns().map(|column| format!("{} = ?", quote(&column.name))).collect();
    parts.join(" AND ")
}
