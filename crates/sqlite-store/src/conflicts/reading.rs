//! Reading records beside the database's thread: by connections of their own, which read and never write, so that a list
//! comes while a long merge is at work or an application holds the lock.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use sqlx::sqlite::{SqliteConnectOptions, SqlitePool, SqlitePoolOptions, SqliteRow};
use sqlx::{QueryBuilder, Row as _, Sqlite};
use tokio::sync::Mutex;

use crate::conflicts::StoredConflict;
use crate::error::StoreError;
use crate::state::FileIdentity;

/// Connections to one file that read at once.
const CONNECTIONS: u32 = 2;

/// How long a connection is kept that nobody uses.
const IDLE: Duration = Duration::from_secs(30);

/// How long to wait for a connection or a lock.
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
    /// The connections, and the file that they have open: one that takes its place is another.
    open: Arc<Mutex<Option<(FileIdentity, SqlitePool)>>>,
}

impl ConflictReader {
    pub(crate) fn new(path: &Path) -> Self {
        Self { path: path.to_owned(), open: Arc::default() }
    }

    /// Records, the newest first.
    pub(crate) async fn list(&self, query: &ConflictQuery) -> Result<Vec<StoredConflict>, StoreError> {
        let pool = self.pool().await?;
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
        let rows = sql.build().fetch_all(&pool).await.map_err(|error| self.failed(error))?;
        rows.iter().map(|row| record(row).map_err(|error| self.failed(error))).collect()
    }

    /// The record of this number.
    pub(crate) async fn get(&self, number: i64) -> Result<Option<StoredConflict>, StoreError> {
        let pool = self.pool().await?;
        let mut sql = QueryBuilder::<Sqlite>::new(SELECT);
        sql.push(" AND id = ").push_bind(number);
        let row = sql.build().fetch_optional(&pool).await.map_err(|error| self.failed(error))?;
        row.map(|row| record(&row).map_err(|error| self.failed(error))).transpose()
    }

    /// Connections to the file that is at the path now; none where that is not attached.
    async fn pool(&self) -> Result<SqlitePool, StoreError> {
        let missing = |source| StoreError::Absent { path: self.path.clone(), source };
        let now = FileIdentity::of(&self.path).map_err(missing)?;
        let mut open = self.open.lock().await;
        if let Some((file, pool)) = open.as_ref()
            && *file == now
        {
            return Ok(pool.clone());
        }
        if let Some((_, old)) = open.take() {
            old.close().await;
        }
        let options = SqliteConnectOptions::new()
            .filename(&self.path)
            .create_if_missing(false)
            .read_only(true)
            .busy_timeout(PATIENCE);
        let pool = SqlitePoolOptions::new()
            .max_connections(CONNECTIONS)
            .idle_timeout(IDLE)
            .acquire_timeout(PATIENCE)
            .connect_lazy_with(options);
        *open = Some((now, pool.clone()));
        Ok(pool)
    }

    /// Closes the connections, before the database's own one: the last to go folds the write-ahead log into the file.
    pub(crate) async fn close(&self) {
        if let Some((_, pool)) = self.open.lock().await.take() {
            pool.close().await;
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
