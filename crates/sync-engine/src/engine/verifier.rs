//! Asking a database of this engine what it holds, for whoever compares it with another one.

use std::sync::Arc;

use sqlite_store::StoreError;

use crate::engine::shared::Shared;
use crate::event::{Event, EventName};
use crate::verification::{Ask, Reissue, Told, key_of};

/// Why a question has no answer. Nothing was changed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum VerifyError {
    /// The engine has no such database; in words. Trying again does not help.
    #[error("{0}")]
    NoDatabase(String),
    /// A key holds what SQLite has no value for. Trying again does not help.
    #[error("a key holds what SQLite has no value for")]
    NoKey,
    /// The database syncs no such table, or its key has another number of columns. Trying again does not help.
    #[error(
        "database {database:?} syncs no such table, or its key has another number of columns; {{\"ask\": \"tables\"}} tells which it has"
    )]
    NoTable {
        /// The database.
        database: String,
    },
    /// The database cannot be asked now. Trying again may help.
    #[error("{}; {}", .0, .0.remedy())]
    Store(#[from] StoreError),
}

/// A database of a running engine, to be asked. It keeps no engine running: once that has stopped there are no answers.
#[derive(Clone)]
pub struct Verifier {
    shared: Arc<Shared>,
    database: String,
}

impl std::fmt::Debug for Verifier {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Verifier").field("database", &self.database).finish_non_exhaustive()
    }
}

impl Verifier {
    pub(crate) fn new(shared: Arc<Shared>, database: String) -> Self {
        Self { shared, database }
    }

    /// Asks about the database as of one snapshot. [`Told::captured`] tells whether all is known that was committed before it.
    ///
    /// # Errors
    /// There is no such database, or table; or the database cannot be read now.
    pub async fn ask(&self, ask: Ask) -> Result<Told, VerifyError> {
        let database = self.database()?;
        let question = ask.question().ok_or(VerifyError::NoKey)?;
        let answer = database.verify(question).await?;
        Told::new(&self.shared.node, answer).ok_or_else(|| VerifyError::NoTable { database: self.database.clone() })
    }

    /// Issues rows anew as they are, as a change that all nodes receive; how many they were. It is done and told in the log even if
    /// nobody waits for it.
    ///
    /// # Errors
    /// There is no such database, or table; or the database cannot be written now.
    pub async fn reissue(&self, rows: Reissue) -> Result<usize, VerifyError> {
        let database = self.database()?;
        let Reissue { table, keys } = rows;
        let keys = keys.iter().map(key_of).collect::<Option<Vec<_>>>().ok_or(VerifyError::NoKey)?;
        let rows = keys.len();
        let (shared, name) = (Arc::clone(&self.shared), self.database.clone());
        let task = async move {
            let issued = database.reissue(table.clone(), keys).await;
            if matches!(issued, Ok(true)) {
                let event = Event::new(EventName::Reissue).field("database", name).field("table", table);
                shared.events.emit(event.field("rows", rows as u64));
            }
            issued
        };
        match self.shared.tracker.spawn(task).await {
            Ok(Ok(true)) => Ok(rows),
            Ok(Ok(false)) => Err(VerifyError::NoTable { database: self.database.clone() }),
            Ok(Err(error)) => Err(error.into()),
            // The task does not panic, nor is it aborted but with the whole runtime.
            Err(_) => Err(StoreError::Closed.into()),
        }
    }

    fn database(&self) -> Result<sqlite_store::Database, VerifyError> {
        self.shared.file(&self.database).map_err(|error| VerifyError::NoDatabase(error.to_string()))
    }
}
