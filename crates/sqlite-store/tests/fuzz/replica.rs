//! A database under sync, and one that is not, to compare it with.

use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use rusqlite::Connection;
use rusqlite::types::Value;
use sqlite_store::attach::AttachRules;
use sqlite_store::{
    ApplyOutcome, BatchLimits, ConflictRetention, Database, DatabaseEvent, DatabaseOptions, DatabaseRules,
    DatabaseState, FileWatch, Phase,
};
use tokio::sync::mpsc;

static WATCH: LazyLock<Arc<FileWatch>> = LazyLock::new(|| Arc::new(FileWatch::new().unwrap()));

/// How long nothing must have happened for nothing more to be expected.
const QUIET: Duration = Duration::from_secs(3);

/// An application's connection.
pub(crate) fn application(path: &Path) -> Connection {
    let conn = Connection::open(path).unwrap();
    conn.busy_timeout(Duration::from_secs(20)).unwrap();
    // A crash of the machine is not what is looked for here.
    conn.execute_batch("PRAGMA synchronous = OFF; PRAGMA foreign_keys = ON").unwrap();
    conn
}

/// What a statement did, as the application sees it: the rows that it returned, and how many it changed. Not the last rowid: after
/// statements that failed, and in tables without rowids, it is that of a row which is not there.
type Done = (Vec<Vec<Value>>, u64);

/// Runs a statement. What it did, or how it failed.
pub(crate) fn execute(conn: &Connection, sql: &str) -> Result<Done, String> {
    let run = || {
        let mut statement = conn.prepare(sql)?;
        let width = statement.column_count();
        let mut rows = statement.query([])?;
        let mut found = Vec::new();
        while let Some(row) = rows.next()? {
            found.push((0..width).map(|place| row.get(place)).collect::<rusqlite::Result<Vec<Value>>>()?);
        }
        let writes = ["INSERT", "UPDATE", "DELETE"].iter().any(|verb| sql.starts_with(verb));
        let changes = if writes { conn.changes() } else { 0 };
        Ok((found, changes))
    };
    run().map_err(|error: rusqlite::Error| error.to_string())
}

/// The text of the whole schema.
pub(crate) fn schema_text(conn: &Connection) -> Vec<(String, String, String, Option<String>)> {
    let mut statement = conn.prepare("SELECT type, name, tbl_name, sql FROM sqlite_schema ORDER BY 1, 2").unwrap();
    let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?))).unwrap();
    rows.map(Result::unwrap).collect()
}

/// The rows of a table, each with the bits of its values, in an order of their own.
pub(crate) fn rows(conn: &Connection, table: &str) -> Vec<String> {
    rows_where(conn, table, "1")
}

/// Those that can be synced: a row with NULL in its key has no name.
pub(crate) fn named_rows(conn: &Connection, table: &str) -> Vec<String> {
    let mut key = conn.prepare("SELECT name FROM pragma_table_info(?1) WHERE pk > 0").unwrap();
    let key = key.query_map([table], |row| row.get::<_, String>(0)).unwrap();
    let named = key.map(|name| format!(" AND {} IS NOT NULL", quoted(&name.unwrap())));
    rows_where(conn, table, &named.fold("1".to_owned(), |all, condition| all + &condition))
}

fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

fn rows_where(conn: &Connection, table: &str, condition: &str) -> Vec<String> {
    let sql = format!("SELECT * FROM {} WHERE {condition}", quoted(table));
    let mut statement = conn.prepare(&sql).unwrap();
    let width = statement.column_count();
    let mut rows = statement.query([]).unwrap();
    let mut found = Vec::new();
    while let Some(row) = rows.next().unwrap() {
        found.push((0..width).map(|place| format!("{:?} ", row.get_ref(place).unwrap())).collect());
    }
    found.sort();
    found
}

pub(crate) fn tables(conn: &Connection) -> Vec<String> {
    let sql = "SELECT name FROM pragma_table_list WHERE schema = 'main' AND type = 'table' AND name NOT GLOB 'sqlite_s*' \
               ORDER BY name";
    let mut statement = conn.prepare(sql).unwrap();
    statement.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect()
}

/// A database under sync.
pub(crate) struct Replica {
    pub(crate) database: Database,
    events: mpsc::Receiver<(Arc<str>, DatabaseEvent)>,
}

impl Replica {
    /// Starts on a file. How it fails, if it does.
    pub(crate) async fn start(path: PathBuf) -> Result<Self, String> {
        let (sender, events) = mpsc::channel(4_096);
        let options = DatabaseOptions {
            name: "test".to_owned(),
            node: path.file_stem().unwrap().to_string_lossy().into_owned(),
            path,
            rules: DatabaseRules::default(),
            attach: AttachRules::default(),
            poll_interval: Duration::from_secs(1),
            max_clock_skew: Duration::from_secs(60),
            schema_quiet: Duration::ZERO,
            max_rows: 1_000,
            tombstone_horizon: Duration::from_secs(86_400),
            upkeep_interval: Duration::from_secs(60),
            close_after: Duration::from_secs(60),
            retention: ConflictRetention::default(),
            observer: None,
            state: None,
        };
        let database = Database::start(options, Arc::clone(&WATCH), sender).unwrap();
        let replica = Self { database, events };
        let state = replica.until(|state| matches!(state.phase, Phase::Attached | Phase::Failed { .. })).await?;
        match &state.phase {
            Phase::Failed { reason, .. } => Err(reason.clone()),
            _ => Ok(replica),
        }
    }

    pub(crate) async fn until(
        &self,
        mut reached: impl FnMut(&DatabaseState) -> bool,
    ) -> Result<Arc<DatabaseState>, String> {
        let mut state = self.database.state();
        let waited = tokio::time::timeout(Duration::from_secs(60), state.wait_for(|state| reached(state))).await;
        match waited {
            Ok(Ok(state)) => Ok(state.clone()),
            Ok(Err(_)) => Err("its thread has ended".to_owned()),
            Err(_) => Err(format!("not reached: {:?}", self.database.state().borrow())),
        }
    }

    /// Takes what `other` has and this one lacks.
    pub(crate) async fn pull(&self, other: &Self) -> Result<(), String> {
        for _ in 0..100 {
            let have = self.database.state().borrow().have.clone();
            let batch = other
                .database
                .read(have, std::sync::Arc::default(), BatchLimits { rows: 1_000, bytes: 1 << 20, passed_on: true })
                .await;
            let batch = batch.map_err(|error| format!("read: {error}"))?;
            let schemas = other.database.state().borrow().schemas.clone();
            self.database.learn_schemas((*schemas).clone()).await;
            let complete = batch.is_complete();
            let reply = self.database.apply(batch, None).await.map_err(|error| format!("apply: {error}"))?;
            match reply.outcome {
                ApplyOutcome::Applied(_) | ApplyOutcome::Known if complete => return Ok(()),
                ApplyOutcome::Applied(_) | ApplyOutcome::Known => {}
                other => return Err(format!("{other:?}")),
            }
        }
        Err("its batches do not come to an end".to_owned())
    }

    /// Takes what `other` has until `reached`; false if that has not come about after as much news as a few rows make, or where
    /// there is none.
    pub(crate) async fn follow(&self, other: &Self, reached: impl Fn() -> bool) -> Result<bool, String> {
        let mut news = other.database.state();
        for _ in 0..10 {
            news.mark_unchanged();
            self.pull(other).await?;
            if reached() {
                return Ok(true);
            }
            // What was there before attach is made known bit by bit.
            if tokio::time::timeout(QUIET, news.changed()).await.is_err() {
                break;
            }
        }
        Ok(false)
    }

    /// Ends its thread. What it said that should not have been.
    pub(crate) async fn close(mut self) -> Result<(), String> {
        self.database.close().await;
        while let Ok((_, event)) = self.events.try_recv() {
            if let DatabaseEvent::Failed { reason, .. } = event {
                return Err(reason);
            }
        }
        Ok(())
    }
}
