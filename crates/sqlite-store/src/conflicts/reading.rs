//! Reading records beside the database's thread: by connections of their own, which read and never write, so that a list
//! comes while a long merge is at work or an application holds the lock.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection, SqliteRow};
use sqlx::{ConnectOptions as _, Connection as _, QueryBuilder, Row as _, Sqlite};
use tokio::sync::{Semaphore, SemaphorePermit};

use crate::conflicts::StoredConflict;
use crate::error::StoreError;

/// Connections to one file that read at once.
const CONNECTIONS: usize = 2;

/// How long to wait for a lock.
const PATIENCE: Duration = Duration::from_secs(5);

/// The columns of a record, in the order in which [`record`] takes them.
const SELECT: &str = "SELECT id, tbl, key, kind, policy, outcome, at, record, state FROM _sync_conflict WHERE true";

/// Which records are asked for. What is none is not asked about.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ConflictQuery {
    /// Of this table, whatever the case of its letters.
    pub table: Option<String>,
    /// Of this kind.
    pub kind: Option<String>,
    /// In this state.
    pub state: Option<String>,
    /// With a side that this node wrote.
    pub node: Option<String>,
    /// Decided then or later, in milliseconds since 1970.
    pub since: Option<i64>,
    /// Decided before this time, in milliseconds since 1970, or at it and with a smaller number.
    pub before: Option<(i64, i64)>,
    /// Not more than so many, the newest.
    pub limit: u32,
}

/// Reads the records of one file.
#[derive(Debug, Clone)]
pub(crate) struct ConflictReader {
    path: PathBuf,
    turns: Arc<Semaphore>,
}

/// A connection for one answer: a thread and a cache are not kept for questions that may never come, and a file that takes
/// the place of another is not missed.
struct Reading<'a> {
    conn: SqliteConnection,
    _turn: SemaphorePermit<'a>,
}

impl ConflictReader {
    pub(crate) fn new(path: &Path) -> Self {
        Self { path: path.to_owned(), turns: Arc::new(Semaphore::new(CONNECTIONS)) }
    }

    /// Records, the newest first.
    pub(crate) async fn list(&self, query: &ConflictQuery) -> Result<Vec<StoredConflict>, StoreError> {
        let mut sql = QueryBuilder::<Sqlite>::new(SELECT);
        if let Some(table) = &query.table {
            sql.push(" AND tbl = ").push_bind(table).push(" COLLATE NOCASE");
        }
        if let Some(kind) = &query.kind {
            sql.push(" AND kind = ").push_bind(kind);
        }
        if let Some(state) = &query.state {
            sql.push(" AND state = ").push_bind(state);
        }
        if let Some(node) = &query.node {
            sql.push(" AND ").push_bind(node);
            sql.push(" IN (json_extract(record, '$.winner.node'), json_extract(record, '$.loser.node'))");
        }
        if let Some(since) = query.since {
            sql.push(" AND at >= ").push_bind(since);
        }
        if let Some((at, number)) = query.before {
            sql.push(" AND (at, id) < (").push_bind(at).push(", ").push_bind(number).push(")");
        }
        sql.push(" ORDER BY at DESC, id DESC LIMIT ").push_bind(query.limit);
        self.read(sql).await
    }

    /// The record of this number.
    pub(crate) async fn get(&self, number: i64) -> Result<Option<StoredConflict>, StoreError> {
        let mut sql = QueryBuilder::<Sqlite>::new(SELECT);
        sql.push(" AND id = ").push_bind(number);
        Ok(self.read(sql).await?.pop())
    }

    /// The records that a query asks for.
    async fn read(&self, mut sql: QueryBuilder<Sqlite>) -> Result<Vec<StoredConflict>, StoreError> {
        let mut reading = self.begin().await?;
        let rows = sql.build().fetch_all(&mut reading.conn).await;
        let Reading { conn, _turn } = reading;
        let closed = conn.close().await;
        let rows = rows.and_then(|rows| closed.map(|()| rows)).map_err(|error| self.failed(error))?;
        rows.iter().map(|row| record(row).map_err(|error| self.failed(error))).collect()
    }

    /// Opens the file that is at the path now, when it is this reader's turn.
    async fn begin(&self) -> Result<Reading<'_>, StoreError> {
        let Ok(turn) = self.turns.acquire().await else { return Err(StoreError::Closed) };
        if let Err(source) = tokio::fs::metadata(&self.path).await {
            return Err(StoreError::Absent { path: self.path.clone(), source });
        }
        let options = SqliteConnectOptions::new()
            .filename(&self.path)
            .create_if_missing(false)
            .read_only(true)
            .busy_timeout(PATIENCE);
        let conn = options.connect().await.map_err(|error| self.failed(error))?;
        Ok(Reading { conn, _turn: turn })
    }

    /// Waits for those who read, and lets nobody else: the last connection that goes folds the write-ahead log into the file, and
    /// that is to be the database's own one.
    pub(crate) async fn close(&self) {
        let all = u32::try_from(CONNECTIONS).unwrap_or(u32::MAX);
        // Who waits for a turn is told that there will be none.
        if let Ok(_turns) = self.turns.acquire_many(all).await {
            self.turns.close();
        }
    }

    fn failed(&self, error: sqlx::Error) -> StoreError {
        match &error {
            sqlx::Error::Database(refused) if refused.message().starts_with("no such table: _sync_conflict") => {
                StoreError::NotAttached
            }
            _ => StoreError::Reading { path: self.path.clone(), source: error },
        }
    }
}

fn record(row: &SqliteRow) -> Result<StoredConflict, sqlx::Error> {
    Ok(StoredConflict {
        number: row.try_get(0)?,
        table: row.try_get(1)?,
        key: serde_json::from_str(row.try_get(2)?).unwrap_or_default(),
        kind: row.try_get(3)?,
        policy: row.try_get(4)?,
        outcome: row.try_get(5)?,
        at: row.try_get(6)?,
        sides: serde_json::from_str(row.try_get(7)?).unwrap_or_default(),
        state: row.try_get(8)?,
    })
}
