//! What can go wrong with a backup or a restore.

use std::io;
use std::path::{Path, PathBuf};

use crate::error::StoreError;
use crate::restore::openers::{Opener, list};

/// An error of a backup or a restore. Neither the database nor any finished backup is changed.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// SQLite or the store refused something. Whether a retry helps: [`StoreError::is_busy`].
    #[error("{0}")]
    Store(#[from] StoreError),
    /// A file or a folder cannot be used. A retry helps once the cause is gone.
    #[error("cannot {what} {}: {source}", path.display())]
    File {
        /// What was to be done.
        what: &'static str,
        /// With which file.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// There is nothing in the file. A retry helps once an application has made its tables.
    #[error("{} holds no database: it is empty", path.display())]
    Empty {
        /// The file.
        path: PathBuf,
    },
    /// The file is no SQLite database, or an encrypted one. A retry does not help.
    #[error("{} is no SQLite database, or it is encrypted", path.display())]
    NotADatabase {
        /// The file.
        path: PathBuf,
    },
    /// The database is damaged. A retry does not help.
    #[error("{} is damaged: {finding}", path.display())]
    Unsound {
        /// The file.
        path: PathBuf,
        /// What SQLite found first.
        finding: String,
    },
    /// The backup is not what was written when it was made. A retry does not help.
    #[error("{} is damaged: its checksum is {found}, and was {expected} when it was made", path.display())]
    Checksum {
        /// The backup.
        path: PathBuf,
        /// BLAKE3 of what it holds.
        found: String,
        /// BLAKE3 of what was written.
        expected: String,
    },
    /// What is to be restored is in use, or was left by a program that was killed. A retry does not help.
    #[error(
        "{} is no finished backup: {} lies beside it, so that it is in use or was; take a backup of it first",
        path.display(), beside.display()
    )]
    Unfinished {
        /// The file.
        path: PathBuf,
        /// Its journal or write-ahead log.
        beside: PathBuf,
    },
    /// The backup is the database. A retry does not help.
    #[error("{} is the database itself, and no backup of it", path.display())]
    Itself {
        /// The file.
        path: PathBuf,
    },
    /// The path of the database leads nowhere. A retry helps once it does.
    #[error("{} is a symbolic link to a file that does not exist; name the file itself", path.display())]
    Dangling {
        /// The link.
        path: PathBuf,
    },
    /// A migration or another restore is at it. A retry helps once it is over.
    #[error("a migration, or another restore, runs on {}; try again when it is over", path.display())]
    Busy {
        /// The database.
        path: PathBuf,
    },
    /// Programs have the database open. A retry helps once they have ended.
    #[error("{} is in use:{}\nstop that first, and try again", path.display(), list(openers))]
    InUse {
        /// The database.
        path: PathBuf,
        /// The programs.
        openers: Vec<Opener>,
    },
    /// The restored file is in its place, and programs have the old one open. Once they have ended all is well.
    #[error(
        "{} is restored, but programs opened the old file meanwhile:{}\nend them before anything else uses it: they would write into the log of the new one",
        path.display(), list(openers)
    )]
    OpenedMeanwhile {
        /// The database.
        path: PathBuf,
        /// The programs.
        openers: Vec<Opener>,
    },
    /// A program that cannot be seen has a lock on the database. A retry helps once it has ended.
    #[error("{} is in use: a program that cannot be seen from here has a lock on it{}; stop it first, and try again", path.display(), of_others(*unseen))]
    Locked {
        /// The database.
        path: PathBuf,
        /// Processes that could not be looked at.
        unseen: usize,
    },
    /// The file's owner cannot be kept. A retry does not help.
    #[error(
        "{} belongs to user {user} and group {group}, which the restored file cannot be given: {source}; run this as that user, or as root",
        path.display()
    )]
    Owner {
        /// The database.
        path: PathBuf,
        /// Its owner's number.
        user: u32,
        /// Its group's number.
        group: u32,
        /// The system's reason.
        source: io::Error,
    },
}

fn of_others(unseen: usize) -> String {
    match unseen {
        0 => String::new(),
        count => format!(" ({count} processes of other users could not be looked at)"),
    }
}

impl BackupError {
    pub(crate) fn file(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::File { what, path, source }
    }

    pub(crate) fn sqlite(path: &Path, source: rusqlite::Error) -> Self {
        Self::Store(StoreError::Open { path: path.to_owned(), source })
    }
}
