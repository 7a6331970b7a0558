//! What can go wrong in the store, which state it leaves, and what helps.

use std::path::PathBuf;

use rusqlite::ErrorCode;

/// An error of the store.
///
/// Every write is one transaction: unless a variant says otherwise, nothing of it is in the file.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// SQLite refused something. The transaction is rolled back. Whether a retry helps: [`StoreError::is_busy`].
    #[error("{0}")]
    Sqlite(#[from] rusqlite::Error),
    /// The database file cannot be opened. Nothing was touched; a retry helps once the file is there and accessible.
    #[error("cannot open {}: {source}", path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// SQLite's reason.
        source: rusqlite::Error,
    },
    /// There is no file at the path. Nothing was touched; a retry helps once it is there.
    #[error("cannot find {}: {source}", path.display())]
    Absent {
        /// The path.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// The disk does not give what is in the database file, which SQLite takes for a malformed one. Nothing was written; a retry helps
    /// once the disk works.
    #[error("cannot read {}: {source}", path.display())]
    Disk {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// The database file cannot be read beside its thread. Nothing was touched; a retry may help.
    #[error("cannot read {}: {source}", path.display())]
    Reading {
        /// The file.
        path: PathBuf,
        /// The reason.
        source: sqlx::Error,
    },
    /// The SQLite library did not take a setting that we rely on. Nothing was touched; a retry does not help.
    #[error("SQLite did not take the setting {setting}")]
    Setting {
        /// The setting.
        setting: &'static str,
    },
    /// The database was attached by a newer version. Nothing was touched; a retry does not help.
    #[error("the database has format {found} of sync-engine's tables; this version knows {known}")]
    Format {
        /// The format in the file.
        found: i64,
        /// The newest format that this version knows.
        known: i64,
    },
    /// The database is not attached. Nothing was touched; attaching helps.
    #[error("the database is not attached")]
    NotAttached,
    /// A clock entry names an origin that `_sync_origin` lacks: our tables were tampered with. Nothing was touched; a
    /// retry does not help.
    #[error("the row clocks name origin number {id}, which is not in _sync_origin")]
    UnknownOrigin {
        /// The number.
        id: i64,
    },
    /// A table of ours lacks what attach writes into it. Nothing was touched; a retry does not help.
    #[error("sync-engine's tables in this file are damaged: {what}")]
    Damaged {
        /// What is missing or wrong.
        what: String,
    },
    /// A record cannot be put into text. The transaction is rolled back; a retry does not help.
    #[error("cannot encode a record: {reason}")]
    Encoding {
        /// Why.
        reason: String,
    },
    /// The database's thread cannot be started. Nothing was touched; a retry helps once the system has threads again.
    #[error("cannot start the database's thread: {source}")]
    Thread {
        /// The system's reason.
        source: std::io::Error,
    },
    /// The database's thread has ended. What it had committed stands; a retry does not help.
    #[error("the database's thread has ended")]
    Closed,
    /// Somebody detached the file while it was in sync. It is left alone until it is attached again.
    #[error("the database was detached while it was in sync")]
    Detached,
    /// The file holds less than this node has issued: somebody put an older state in its place. Nothing was touched; it is
    /// opened again, under a new origin.
    #[error("the file was put back to an older state")]
    Replaced,
    /// A catch-up is merged in part and cannot go on. What is left of it is staged; a retry helps once the cause is gone.
    #[error("a catch-up is merged in part and cannot go on: {reason}")]
    Unmerged {
        /// Why.
        reason: String,
    },
    /// The schema has just changed and may change again: rows are not taken or given in the middle of a migration. Nothing was
    /// touched; a retry helps.
    #[error("the schema has just changed")]
    Migrating,
    /// A migration runs on the file with the triggers lifted. Nothing was touched; a retry helps once it is over.
    #[error("a migration runs on the file, with sync-engine's triggers lifted")]
    Lifted,
    /// The file that keeps migrations apart cannot be made, opened or locked. Nothing was touched; a retry helps once it can
    /// be.
    #[error("cannot lock {}: {source}", path.display())]
    MigrationLock {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// The state folder cannot be made. Nothing was touched; a retry helps once the folder is writable.
    #[error("cannot create the state folder {}: {source}; set state_dir to a folder that this user may write", folder.display())]
    StateFolder {
        /// The folder.
        folder: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// The daemon's own state file cannot be read or written. It is as it was; a retry may help.
    #[error("the state file: {0}")]
    State(#[from] sqlx::Error),
    /// The daemon's own state file cannot be brought to this version's form. It is as it was; a retry does not help.
    #[error("the state file: {0}")]
    StateMigration(#[from] sqlx::migrate::MigrateError),
    /// The system cannot watch a folder. Nothing was touched; a retry may help, and polling works without.
    #[error("cannot watch for changes: {0}")]
    Watch(#[from] notify::Error),
}

impl StoreError {
    /// Whether another connection holds a lock: waiting helps, and nothing is wrong.
    pub fn is_busy(&self) -> bool {
        matches!(self.code(), Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked))
    }

    /// Whether the file is malformed: nothing is to be written to it.
    pub fn is_damage(&self) -> bool {
        matches!(self.code(), Some(ErrorCode::DatabaseCorrupt))
    }

    /// A word for the kind, for the log and the status.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Sqlite(_) | Self::Open { .. } => self.sqlite_kind(),
            Self::Absent { .. } => "missing",
            Self::Reading { .. } | Self::Disk { .. } => "io",
            Self::Setting { .. } | Self::Encoding { .. } => "internal",
            Self::Format { .. } => "format",
            Self::NotAttached => "not_attached",
            Self::UnknownOrigin { .. } | Self::Damaged { .. } => "damaged",
            Self::Thread { .. } | Self::Watch(_) => "resources",
            Self::Closed => "closed",
            Self::Unmerged { .. } => "unmerged",
            Self::Replaced => "replaced",
            Self::Detached => "detached",
            Self::Lifted | Self::Migrating => "migrating",
            Self::MigrationLock { .. } => "migration_lock",
            Self::StateFolder { .. } | Self::State(_) | Self::StateMigration(_) => "state",
        }
    }

    /// What to do about it.
    pub fn remedy(&self) -> &'static str {
        match self.kind() {
            "busy" => "nothing: it is tried again when the application lets go of the lock",
            "full" => "free space on the disk",
            "read_only" | "permission" => "let the daemon's user write the file and its folder",
            "missing" => "check the path; the daemon needs to read and write the file and its folder",
            "corrupt" => "restore the file from a backup; it is not written until then",
            "not_a_database" => "check the path: the file is not an SQLite database, or it is encrypted",
            "io" => "check the disk and the file system",
            "format" => "run the version of sync-engine that attached the file, or a newer one",
            "not_attached" => "run sync-engine attach on the file",
            "damaged" => "run sync-engine detach on the file, and attach it again",
            "resources" => "raise the system's limits (threads, open files, inotify watches)",
            "closed" => "restart the daemon",
            "detached" => {
                "attach it again, or restart the daemon, to have it synced; remove it from the configuration if not"
            }
            "migrating" => "nothing: it goes on when the migration is over",
            "migration_lock" => {
                "let this user read and write that file and its folder, or remove it if no migration runs"
            }
            "replaced" => "nothing: it is opened again, and peers give back what it lacks",
            "unmerged" => "see the error before it in the log; it goes on when that is settled",
            "state" => "check the state folder and its permissions",
            "schema" => "look at the application's schema: SQLite does not accept it",
            _ => "report it, with the message",
        }
    }

    fn code(&self) -> Option<ErrorCode> {
        match self {
            Self::Sqlite(error) | Self::Open { source: error, .. } => code_of(error),
            _ => None,
        }
    }

    fn sqlite_kind(&self) -> &'static str {
        match self.code() {
            Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => "busy",
            Some(ErrorCode::DiskFull) => "full",
            Some(ErrorCode::ReadOnly) => "read_only",
            Some(ErrorCode::PermissionDenied | ErrorCode::AuthorizationForStatementDenied) => "permission",
            Some(ErrorCode::CannotOpen) => "missing",
            Some(ErrorCode::DatabaseCorrupt) => "corrupt",
            Some(ErrorCode::NotADatabase) => "not_a_database",
            Some(ErrorCode::SystemIoFailure | ErrorCode::FileLockingProtocolFailed) => "io",
            Some(ErrorCode::SchemaChanged | ErrorCode::Unknown) => "schema",
            _ => "internal",
        }
    }
}

/// SQLite's code of an error, also where the error points into a statement's text.
pub(crate) fn code_of(error: &rusqlite::Error) -> Option<ErrorCode> {
    match error {
        rusqlite::Error::SqlInputError { error, .. } => Some(error.code),
        other => other.sqlite_error_code(),
    }
}
