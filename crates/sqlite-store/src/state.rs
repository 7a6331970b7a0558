//! The daemon's own state: one small SQLite file in the state folder, reached through sqlx.
//!
//! It remembers under which origin, in which file (device, inode) and how far each database was last seen, so that a copied,
//! replaced or restored file is told from the file that it came from.

use std::path::{Path, PathBuf};

use replication::Origin;
use sqlx::Row as _;
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions};

use crate::error::StoreError;

/// Which file a path was: the file system's number and the file's number in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileIdentity {
    /// The device.
    pub device: u64,
    /// The inode.
    pub inode: u64,
}

impl FileIdentity {
    /// The identity of the file at `path` now, by `stat` alone: opening and closing a database file here would drop
    /// SQLite's locks on it.
    ///
    /// # Errors
    /// There is no such file, or it cannot be seen.
    pub fn of(path: &Path) -> std::io::Result<Self> {
        use std::os::unix::fs::MetadataExt as _;
        let metadata = std::fs::metadata(path)?;
        Ok(Self { device: metadata.dev(), inode: metadata.ino() })
    }
}

/// What a database was when it was last seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Remembered {
    /// The origin under which it issued changes.
    pub origin: Origin,
    /// The file.
    pub file: FileIdentity,
    /// The last sequence that it was seen to have issued; it may have issued more.
    pub sequence: u64,
}

/// The state folder's database.
#[derive(Debug, Clone)]
pub struct StateDatabase {
    folder: PathBuf,
    pool: SqlitePool,
}

impl StateDatabase {
    /// Opens or creates `state.db` in `folder`, which is created if it is missing.
    ///
    /// # Errors
    /// The folder cannot be created, or the file cannot be opened or migrated. Nothing else is changed.
    pub async fn open(folder: &Path) -> Result<Self, StoreError> {
        std::fs::create_dir_all(folder)
            .map_err(|source| StoreError::StateFolder { folder: folder.to_owned(), source })?;
        let options = SqliteConnectOptions::new()
            .filename(folder.join("state.db"))
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal);
        let pool = SqlitePoolOptions::new().max_connections(1).connect_with(options).await?;
        sqlx::migrate!("./migrations").run(&pool).await?;
        Ok(Self { folder: folder.to_owned(), pool })
    }

    /// The file in which rows for the database at `path` are staged: named after the path, with a number that tells files of
    /// one name apart (FNV-1a).
    pub(crate) fn stage(&self, path: &Path) -> PathBuf {
        let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
        let bytes = path.as_os_str().as_encoded_bytes();
        let hash = bytes
            .iter()
            .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3));
        let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        self.folder.join(format!("staged-{name}-{hash:016x}.db"))
    }

    /// What is remembered of the database at `path`.
    ///
    /// # Errors
    /// The state file cannot be read.
    pub async fn recall(&self, path: &str) -> Result<Option<Remembered>, StoreError> {
        let row = sqlx::query("SELECT origin, device, inode, sequence FROM database WHERE path = ?1")
            .bind(path)
            .fetch_optional(&self.pool)
            .await?;
        Ok(row.and_then(|row| {
            let origin: [u8; 16] = row.get::<Vec<u8>, _>(0).try_into().ok()?;
            let identity = FileIdentity {
                device: row.get::<i64, _>(1).cast_unsigned(),
                inode: row.get::<i64, _>(2).cast_unsigned(),
            };
            let sequence = row.get::<i64, _>(3).cast_unsigned();
            Some(Remembered { origin: Origin::from_bytes(origin), file: identity, sequence })
        }))
    }

    /// Remembers what the database at `path` is now.
    ///
    /// # Errors
    /// The state file cannot be written; what was remembered stands.
    pub async fn remember(&self, path: &str, now: &Remembered) -> Result<(), StoreError> {
        sqlx::query(
            "INSERT INTO database (path, origin, device, inode, sequence) VALUES (?1, ?2, ?3, ?4, ?5) \
             ON CONFLICT DO UPDATE SET origin = excluded.origin, device = excluded.device, inode = excluded.inode, \
             sequence = excluded.sequence",
        )
        .bind(path)
        .bind(now.origin.as_bytes().to_vec())
        .bind(now.file.device.cast_signed())
        .bind(now.file.inode.cast_signed())
        .bind(now.sequence.cast_signed())
        .execute(&self.pool)
        .await?;
        Ok(())
    }

    /// How far a subscriber has come with a database of its peers, as text that only it understands.
    ///
    /// # Errors
    /// The state file cannot be read.
    pub async fn progress(&self, database: &str) -> Result<Option<String>, StoreError> {
        let row = sqlx::query("SELECT position FROM progress WHERE database = ?1")
            .bind(database)
            .fetch_optional(&self.pool)
            .await?;
        Ok(row.map(|row| row.get(0)))
    }

    /// Remembers how far a subscriber has come.
    ///
    /// # Errors
    /// The state file cannot be written; what was remembered stands.
    pub async fn save_progress(&self, database: &str, position: &str) -> Result<(), StoreError> {
        sqlx::query(
            "INSERT INTO progress (database, position) VALUES (?1, ?2) \
             ON CONFLICT DO UPDATE SET position = excluded.position",
        )
        .bind(database)
        .bind(position)
        .execute(&self.pool)
        .await?;
        Ok(())
    }

    /// Closes the file.
    pub async fn close(self) {
        self.pool.close().await;
    }
}
