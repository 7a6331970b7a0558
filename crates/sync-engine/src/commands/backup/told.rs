//! Errors of backups as they are told: with what to do about them, and what they mean for the exit code.

use std::io::{Error as IoError, ErrorKind};
use std::path::Path;

use sqlite_store::backup::BackupError;

use crate::commands::databases::OneShot;

/// An error that the system gave, with what to do about it.
#[derive(Debug, thiserror::Error)]
#[error("{what}: {source}; {}", remedy(.source.kind()))]
pub(crate) struct Outside {
    what: String,
    source: IoError,
}

/// Something that cannot be done with a file or folder.
pub(crate) fn outside(what: &str, path: &Path) -> impl FnOnce(IoError) -> Outside {
    let what = format!("cannot {what} {}", path.display());
    move |source| Outside { what, source }
}

/// An error of the store, for a command that does not try again.
pub(crate) fn told(error: BackupError) -> anyhow::Error {
    match error {
        BackupError::Store(error) => OneShot(error).into(),
        BackupError::File { what, path, source } => outside(what, &path)(source).into(),
        other => other.into(),
    }
}

const fn remedy(kind: ErrorKind) -> &'static str {
    match kind {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => {
            "free space there, or choose another folder for backups (--root, or root under [backup])"
        }
        ErrorKind::PermissionDenied => "run this as a user who may, or let this one",
        ErrorKind::ReadOnlyFilesystem => "choose a folder that can be written",
        ErrorKind::NotFound => "check the path",
        ErrorKind::NotADirectory | ErrorKind::IsADirectory => {
            "check the path: a file is where a folder is expected, or the other way round"
        }
        _ => "check the disk and the file system",
    }
}
