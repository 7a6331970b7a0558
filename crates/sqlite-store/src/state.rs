//! The daemon's own state: one small SQLite file in the state folder, reached through sqlx.
//!
//! It remembers under which origin, in which file (device, inode) and how far each database was last seen, so that a copied,
//! replaced or restored file is told from the file that it came from.

mod followed;

use std::path::{Path, PathBuf};

use replication::Origin;
use sqlx::migrate::{Migration, MigrationType, Migrator};
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteSynchronous};
use sqlx::{Row as _, SqlStr};
use uuid::Uuid;

use crate::error::StoreError;

pub use followed::{FOLLOWERS_RETURN, FollowedChange, FollowedDatabase, FollowedStep};

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

/// The machine that a daemon runs on.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Machine {
    /// What tells it from others; none where it has no such number.
    pub id: Option<Uuid>,
    /// What tells the time since it was started from those before; none where that cannot be told.
    pub boot: Option<Uuid>,
}

impl Machine {
    /// The one that this process runs on.
    pub fn this() -> Self {
        let read = |path| Uuid::try_parse(std::fs::read_to_string(path).ok()?.trim()).ok();
        Self { id: read("/etc/machine-id"), boot: read("/proc/sys/kernel/random/boot_id") }
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
    /// The sequence up to which its changes were given to some peer; none where that was not noted.
    pub shown: Option<u64>,
    /// The boot of the machine in which it may have issued what is not on the disk yet; none after a stop that saw to that.
    pub boot: Option<Uuid>,
}

/// How the state folder's database came about, in order. What was released is not changed any more.
const MIGRATIONS: [(i64, &str, &str); 5] = [
    (1, "state", include_str!("../migrations/0001_state.sql")),
    (2, "sequence", include_str!("../migrations/0002_sequence.sql")),
    (3, "power", include_str!("../migrations/0003_power.sql")),
    (4, "shown", include_str!("../migrations/0004_shown.sql")),
    (5, "followed", include_str!("../migrations/0005_followed.sql")),
];

/// Made here rather than by the macro of sqlx, for which SQLite and tokio would be compiled a second time.
fn migrations() -> Migrator {
    let migration = |(version, description, sql): (i64, &'static str, &'static str)| {
        Migration::new(version, description.into(), MigrationType::Simple, SqlStr::from_static(sql), false)
    };
    Migrator::with_migrations(MIGRATIONS.map(migration).to_vec())
}

/// The state folder's database.
#[derive(Debug, Clone)]
pub struct StateDatabase {
    folder: PathBuf,
    pool: SqlitePool,
    machine: Machine,
}

impl StateDatabase {
    /// Opens or creates `state.db` in `folder`, which is created if it is missing. What another node or machine remembered in
    /// it, of which this is a copy, is forgotten: its files may be in use there.
    ///
    /// # Errors
    /// The folder cannot be created, or the file cannot be opened or migrated. Nothing else is changed.
    pub async fn open(folder: &Path, machine: Machine, node: &str) -> Result<Self, StoreError> {
        std::fs::create_dir_all(folder)
            .map_err(|source| StoreError::StateFolder { folder: folder.to_owned(), source })?;
        // Durable at each commit: that a file may lose commits to a power cut must not be lost to the same.
        let options = SqliteConnectOptions::new()
            .filename(folder.join("state.db"))
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full);
        // Nothing is gained by opening it anew; and the task that a pool has for that can come to spin
        // for ever, because the count of idle connections falls below 0 for a moment (sqlx 0.9.0).
        let pool = SqlitePoolOptions::new()
            .max_connections(1)
            .idle_timeout(None)
            .max_lifetime(None)
            .connect_with(options)
            .await?;
        migrations().run(&pool).await?;
        let state = Self { folder: folder.to_owned(), pool, machine };
        state.take_over(node).await?;
        Ok(state)
    }

    async fn take_over(&self, node: &str) -> Result<(), StoreError> {
        let machine = self.machine.id.map(|id| id.to_string());
        let mut transaction = self.pool.begin().await?;
        let sql = "SELECT NOT (machine IS ?1 AND node = ?2) FROM owner";
        let foreign: Option<bool> =
            sqlx::query_scalar(sql).bind(&machine).bind(node).fetch_optional(&mut *transaction).await?;
        if foreign == Some(true) {
            sqlx::query("DELETE FROM database").execute(&mut *transaction).await?;
            // Whoever was shown changes was shown them by the other node.
            sqlx::query("DELETE FROM followed_step").execute(&mut *transaction).await?;
            sqlx::query("DELETE FROM followed").execute(&mut *transaction).await?;
            sqlx::query("DELETE FROM owner").execute(&mut *transaction).await?;
        }
        if foreign != Some(false) {
            let sql = "INSERT INTO owner (machine, node) VALUES (?1, ?2)";
            sqlx::query(sql).bind(&machine).bind(node).execute(&mut *transaction).await?;
        }
        Ok(transaction.commit().await?)
    }

    /// The machine that the folder belongs to.
    pub(crate) fn machine(&self) -> Machine {
        self.machine
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
        let row = sqlx::query("SELECT origin, device, inode, sequence, boot, shown FROM database WHERE path = ?1")
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
            // What cannot be read counts as a boot before this one.
            let boot = row.get::<Option<String>, _>(4).map(|text| Uuid::try_parse(&text).unwrap_or_default());
            let shown = row.get::<Option<i64>, _>(5).map(i64::cast_unsigned);
            Some(Remembered { origin: Origin::from_bytes(origin), file: identity, sequence, shown, boot })
        }))
    }

    /// Remembers what the database at `path` is now.
    ///
    /// # Errors
    /// The state file cannot be written; what was remembered stands.
    pub async fn remember(&self, path: &str, now: &Remembered) -> Result<(), StoreError> {
        sqlx::query(
            "INSERT INTO database (path, origin, device, inode, sequence, boot, shown) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7) \
             ON CONFLICT DO UPDATE SET origin = excluded.origin, device = excluded.device, inode = excluded.inode, \
             sequence = excluded.sequence, boot = excluded.boot, shown = excluded.shown",
        )
        .bind(path)
        .bind(now.origin.as_bytes().to_vec())
        .bind(now.file.device.cast_signed())
        .bind(now.file.inode.cast_signed())
        .bind(now.sequence.cast_signed())
        .bind(now.boot.map(|boot| boot.to_string()))
        .bind(now.shown.map(u64::cast_signed))
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
