//! What the state folder knows of those who follow changes: in which order they were shown them. Owns its form there; must not know
//! what follows from it.

use replication::{Origin, VersionVector};
use sqlx::Row as _;

use super::StateDatabase;
use crate::error::StoreError;

/// A database that is or was followed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FollowedDatabase {
    /// Its name.
    pub name: String,
    /// Its version vector when it was first followed.
    pub first: VersionVector,
    /// Its version vector before the steps that are known.
    pub based: VersionVector,
    /// Changes from which nobody can go on.
    pub lost: VersionVector,
    /// Its own origin when it was last noted.
    pub source: Origin,
}

/// One step in the order in which followers are shown changes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FollowedStep {
    /// Its place in the order.
    pub number: i64,
    /// When, in milliseconds since 1970.
    pub at: i64,
    /// The database.
    pub database: String,
    /// The origins of which more is known after it than before, and up to where.
    pub raised: VersionVector,
    /// Whether the database lost what it had: nobody who was shown something before can go on.
    pub lost: bool,
}

/// What is different from what was noted before.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FollowedChange {
    /// What these databases are now.
    pub databases: Vec<FollowedDatabase>,
    /// What these steps are now.
    pub steps: Vec<FollowedStep>,
    /// Steps with smaller numbers are forgotten.
    pub below: Option<i64>,
    /// All steps of this database are forgotten that are not named above.
    pub without: Option<String>,
}

impl FollowedChange {
    /// Whether nothing is different.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

fn text(vector: &VersionVector) -> Result<String, StoreError> {
    serde_json::to_string(vector).map_err(|error| StoreError::Encoding { reason: error.to_string() })
}

/// A vector that cannot be read names nothing: whoever would go on from there begins anew.
fn vector(text: &str) -> Option<VersionVector> {
    serde_json::from_str(text).ok()
}

impl StateDatabase {
    /// What is noted of those who follow changes. What cannot be read counts as not noted, all of it.
    ///
    /// # Errors
    /// The state file cannot be read.
    pub async fn followed(&self) -> Result<(Vec<FollowedDatabase>, Vec<FollowedStep>), StoreError> {
        let mut transaction = self.pool.begin().await?;
        let rows = sqlx::query("SELECT database, first, based, lost, source FROM followed")
            .fetch_all(&mut *transaction)
            .await?;
        let database = |row: &sqlx::sqlite::SqliteRow| {
            Some(FollowedDatabase {
                name: row.get(0),
                first: vector(row.get(1))?,
                based: vector(row.get(2))?,
                lost: vector(row.get(3))?,
                source: Origin::from_bytes(row.get::<Vec<u8>, _>(4).try_into().ok()?),
            })
        };
        let databases: Option<Vec<_>> = rows.iter().map(database).collect();
        let rows = sqlx::query("SELECT number, at, database, raised, lost FROM followed_step ORDER BY number")
            .fetch_all(&mut *transaction)
            .await?;
        let step = |row: &sqlx::sqlite::SqliteRow| {
            Some(FollowedStep {
                number: row.get(0),
                at: row.get(1),
                database: row.get(2),
                raised: vector(row.get(3))?,
                lost: row.get::<i64, _>(4) != 0,
            })
        };
        let steps: Option<Vec<_>> = rows.iter().map(step).collect();
        transaction.rollback().await?;
        Ok(databases.zip(steps).unwrap_or_default())
    }

    /// Notes what is different, in one transaction.
    ///
    /// # Errors
    /// The state file cannot be written; what was noted stands.
    pub async fn note_followed(&self, change: &FollowedChange) -> Result<(), StoreError> {
        let mut transaction = self.pool.begin().await?;
        if let Some(below) = change.below {
            sqlx::query("DELETE FROM followed_step WHERE number < ?1").bind(below).execute(&mut *transaction).await?;
        }
        if let Some(database) = &change.without {
            sqlx::query("DELETE FROM followed_step WHERE database = ?1")
                .bind(database)
                .execute(&mut *transaction)
                .await?;
        }
        for FollowedDatabase { name, first, based, lost, source } in &change.databases {
            let sql =
                "INSERT OR REPLACE INTO followed (database, first, based, lost, source) VALUES (?1, ?2, ?3, ?4, ?5)";
            sqlx::query(sql)
                .bind(name)
                .bind(text(first)?)
                .bind(text(based)?)
                .bind(text(lost)?)
                .bind(source.as_bytes().to_vec())
                .execute(&mut *transaction)
                .await?;
        }
        for FollowedStep { number, at, database, raised, lost } in &change.steps {
            let sql =
                "INSERT OR REPLACE INTO followed_step (number, at, database, raised, lost) VALUES (?1, ?2, ?3, ?4, ?5)";
            sqlx::query(sql)
                .bind(number)
                .bind(at)
                .bind(database)
                .bind(text(raised)?)
                .bind(i64::from(*lost))
                .execute(&mut *transaction)
                .await?;
        }
        Ok(transaction.commit().await?)
    }
}
