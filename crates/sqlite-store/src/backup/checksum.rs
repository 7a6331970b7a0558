//! Files as bytes: made private, flushed, summed up.

use std::fs::{File, OpenOptions};
use std::io::Read as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use super::{BackupError, Progress, Stage, Tell};

/// Bytes that are read and written at a time.
pub(crate) const CHUNK: usize = 1 << 20;

/// BLAKE3 of a file, in hexadecimal digits, and its size. It finds what SQLite's own check does not look at: a byte within a value.
///
/// # Errors
/// [`BackupError::File`].
pub fn checksum(path: &Path, tell: &mut Tell<'_>) -> Result<(String, u64), BackupError> {
    let mut file = File::open(path).map_err(BackupError::file("read", path))?;
    let total = file.metadata().map_err(BackupError::file("read", path))?.len();
    let (mut hasher, mut done) = (blake3::Hasher::new(), 0);
    let mut chunk = vec![0; CHUNK];
    loop {
        let read = file.read(&mut chunk).map_err(BackupError::file("read", path))?;
        if read == 0 {
            return Ok((hasher.finalize().to_hex().to_string(), done));
        }
        hasher.update(&chunk[..read]);
        done += read as u64;
        tell(Progress { stage: Stage::Summing, done, total });
    }
}

/// Makes an empty file that its owner alone may use.
pub(crate) fn create_private(path: &Path) -> Result<File, BackupError> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create_new(true).mode(0o600);
    options.open(path).map_err(BackupError::file("create", path))
}

/// Has the disk hold what a file, or a folder, holds.
pub(crate) fn flush(path: &Path) -> Result<(), BackupError> {
    File::open(path).and_then(|file| file.sync_all()).map_err(BackupError::file("flush", path))
}
