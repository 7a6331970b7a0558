//! Which programs have a database open. Linux tells it for the processes of this user, and root is told all.

use std::fmt::Write as _;
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use super::{SIDES, beside};
use crate::backup::BackupError;

/// How many bytes of a command line are shown.
const SHOWN: usize = 160;

/// A program that has a file open.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Opener {
    /// Its process's number.
    pub pid: u32,
    /// Its command line.
    pub command: String,
    /// Whether it is a daemon of ours.
    pub daemon: bool,
}

/// What was found.
#[derive(Debug, Default)]
pub(crate) struct Found {
    pub(crate) openers: Vec<Opener>,
    /// Processes that could not be looked at.
    pub(crate) unseen: usize,
}

/// In lines of their own.
pub(crate) fn list(openers: &[Opener]) -> String {
    openers.iter().fold(String::new(), |mut text, opener| {
        let what = if opener.daemon { "a sync-engine daemon: " } else { "" };
        // Writing to a String cannot fail.
        let _ = write!(text, "\n  pid {}, {what}{}", opener.pid, opener.command);
        text
    })
}

/// Refuses where a program has the database open, or what belongs to it. The number of processes that could not be looked at.
pub(crate) fn refuse(database: &Path) -> Result<usize, BackupError> {
    let Found { openers, unseen } = find(database);
    if openers.is_empty() { Ok(unseen) } else { Err(BackupError::InUse { path: database.to_owned(), openers }) }
}

/// All other processes that have it open. None where the system does not tell.
pub(crate) fn find(database: &Path) -> Found {
    let names = SIDES.map(|suffix| beside(database, suffix));
    let identity = |path: &Path| std::fs::metadata(path).map(|found| (found.dev(), found.ino())).ok();
    let files: Vec<(u64, u64)> =
        names.iter().map(std::path::PathBuf::as_path).chain([database]).filter_map(identity).collect();
    let mut found = Found::default();
    for process in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
        let name = process.file_name();
        let Some(pid) = name.to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
        if pid == std::process::id() {
            continue;
        }
        match std::fs::read_dir(process.path().join("fd")) {
            Ok(open) => {
                let has = open.flatten().filter_map(|file| identity(&file.path())).any(|file| files.contains(&file));
                if has {
                    let (command, daemon) = command(&process.path());
                    found.openers.push(Opener { pid, command, daemon });
                }
            }
            // Threads of the kernel have no command line and no files.
            Err(error) if error.kind() == ErrorKind::PermissionDenied => {
                found.unseen +=
                    usize::from(!std::fs::read(process.path().join("cmdline")).is_ok_and(|it| it.is_empty()));
            }
            // It has ended.
            Err(_) => {}
        }
    }
    found
}

/// A process's command line, and whether it is a daemon of ours.
fn command(process: &Path) -> (String, bool) {
    let bytes = std::fs::read(process.join("cmdline")).unwrap_or_default();
    let words: Vec<String> = bytes
        .split(|byte| *byte == 0)
        .filter(|word| !word.is_empty())
        .map(|word| String::from_utf8_lossy(word).replace(char::is_control, " "))
        .collect();
    let is_ours = words.first().is_some_and(|program| program.rsplit('/').next() == Some("sync-engine"));
    let daemon = is_ours && words.get(1).is_some_and(|word| word == "run");
    let mut command = words.join(" ");
    if command.len() > SHOWN {
        command.truncate(command.floor_char_boundary(SHOWN));
        command.push('…');
    }
    (command, daemon)
}
