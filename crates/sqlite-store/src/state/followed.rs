//! What the state folder knows of those who follow changes: in which order they were shown them. Owns its form there; must not know
//! what follows from it.

use replication::{Origin, VersionVector};
use sqlx::Row as _;

use super::StateDatabase;
use crate::error::StoreError;

/// For how long a client that was shown changes may come back, in milliseconds, and is shown the deletions that it missed: seven days.
pub const FOLLOWERS_RETURN: i64 = 7 * 86_400_000;

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
    /// When somebody last began to follow it, in milliseconds since 1970.
    pub at: i64,
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
        let rows = sqlx::query("SELECT database, first, based, lost, source, at FROM followed")
            .fetch_all(&mut *transaction)
            .await?;
        let database = |row: &sqlx::sqlite::SqliteRow| {
            Some(FollowedDatabase {
                name: row.get(0),
                first: vector(row.get(1))?,
                based: vector(row.get(2))?,
                lost: vector(row.get(3))?,
                source: Origin::from_bytes(row.get::<Vec<u8>, _>(4).try_into().ok()?),
                at: row.get(5),
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

    /// What everybody has seen of a database who follows changes and may still come back: who was shown something since `oldest`,
    /// in milliseconds since 1970. None where nobody was.
    ///
    /// # Errors
    /// The state file cannot be read.
    pub(crate) async fn seen_by_followers(
        &self,
        database: &str,
        oldest: i64,
    ) -> Result<Option<VersionVector>, StoreError> {
        let sql = "SELECT based, raised, max(at, coalesce((SELECT max(at) FROM followed_step AS s WHERE s.database = f.database), 0)) \
                   FROM followed AS f LEFT JOIN (SELECT database AS owner, raised, number FROM followed_step WHERE at < ?2) \
                   ON owner = f.database WHERE f.database = ?1 ORDER BY number";
        let rows = sqlx::query(sql).bind(database).bind(oldest).fetch_all(&self.pool).await?;
        let mut seen = None;
        for row in rows.iter().filter(|row| row.get::<i64, _>(2) >= oldest) {
            // What cannot be read covers nothing.
            let vectors = [0, 1].into_iter().filter_map(|place| vector(row.get::<Option<&str>, _>(place)?));
            vectors.for_each(|vector| seen.get_or_insert_with(VersionVector::new).join(&vector));
        }
        Ok(seen)
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
        for FollowedDatabase { name, first, based, lost, source, at } in &change.databases {
            let sql = "INSERT OR REPLACE INTO followed (database, first, based, lost, source, at) VALUES (?1, ?2, ?3, ?4, ?5, ?6)";
            sqlx::query(sql)
                .bind(name)
                .bind(text(first)?)
                .bind(text(based)?)
                .bind(text(lost)?)
                .bind(source.as_bytes().to_vec())
                .bind(at)
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
