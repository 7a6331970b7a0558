//! Backups: a copy of a database as it stands at one moment, made while programs write it, and checked.
//!
//! Owns: how a file is copied and what makes a copy sound. Never touches: where backups lie, how they are named, which are kept.
//!
//! A copy is one page for one: rowids stay, and so do our own tables, without which a restored file could not take part in sync again.
//! `VACUUM INTO` would give rows new rowids where a table has no INTEGER PRIMARY KEY.

mod captured;
mod checksum;
mod copying;
mod error;
mod soundness;

use std::path::Path;

pub use checksum::checksum;
pub(crate) use checksum::{CHUNK, create_private, flush};
pub use error::BackupError;
pub use soundness::Unchecked;
pub(crate) use soundness::check;

use crate::fail_point::fail_point;

/// How far a backup or a restore has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// What it does.
    pub stage: Stage,
    /// Bytes that are done.
    pub done: u64,
    /// Bytes that are to be done in this stage; they can become more while programs write.
    pub total: u64,
}

/// What a backup or a restore does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// The file is copied.
    Copying,
    /// What was copied while programs wrote is compared with the file; only with a rollback journal.
    Comparing,
    /// The copy's structure is checked. How far that is, SQLite does not tell.
    Checking,
    /// The copy's checksum is taken.
    Summing,
}

/// Who is told how far it is.
pub type Tell<'t> = dyn FnMut(Progress) + 't;

/// A finished copy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Copied {
    /// Its size in bytes.
    pub bytes: u64,
    /// Its pages.
    pub pages: u32,
    /// BLAKE3 of the file, in hexadecimal digits.
    pub checksum: String,
    /// Changes in it that wait for capture: no daemon ran, or it did not come to it between two writes.
    pub waiting: u64,
    /// Tables of which not all could be checked: what they need is defined in the application alone.
    pub unchecked: Vec<Unchecked>,
}

/// Copies the database at `source` to `target`, which must not exist, and checks the copy. Programs may write meanwhile: the copy is what was
/// committed at one moment. The copy is on the disk, its name in the folder need not be.
///
/// With a write-ahead log nobody waits. With a rollback journal programs cannot commit while the copy is compared with the
/// file, which is read once.
///
/// # Errors
/// Those of [`BackupError`]. What there is of the copy stays at `target`, for the caller to remove.
pub fn copy(source: &Path, target: &Path, tell: &mut Tell<'_>) -> Result<Copied, BackupError> {
    create_private(target)?;
    let waiting = copying::copy(source, target, tell)?;
    fail_point("backup-copied");
    let checked = match check(target, tell) {
        Err(BackupError::Unsound { finding, .. }) => {
            return Err(BackupError::Unsound { path: source.to_owned(), finding });
        }
        Err(BackupError::NotADatabase { .. }) => return Err(BackupError::NotADatabase { path: source.to_owned() }),
        other => other?,
    };
    let (checksum, bytes) = checksum(target, tell)?;
    flush(target)?;
    Ok(Copied { bytes, pages: checked.pages, checksum, waiting, unchecked: checked.unchecked })
}
