//! `sync-engine restore`: puts a backup in the place of a database that nobody has open.

use std::io::Write as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Instant, SystemTime};

use anyhow::{Context as _, bail};
use serde_json::json;
use sqlite_store::restore::{self, Restored};
use sync_engine::config::Settings;
use sync_engine::conflicts;

use crate::cli::Restore;
use crate::commands::backup::folder::{Folder, Stored, noted_sum};
use crate::commands::backup::making::tell_stage;
use crate::commands::backup::name::{Moment, told_by};
use crate::commands::backup::subject::{Subject, absolute};
use crate::commands::backup::told::told;
use crate::commands::backup::{settings, size};
use crate::commands::progress::Progress;
use crate::commands::say;

/// Restores, and says where the file is that was there before.
pub(crate) fn run(arguments: &Restore) -> anyhow::Result<ExitCode> {
    let settings = settings(&arguments.place)?;
    let subject = Subject::find(&arguments.database, &settings)?;
    let not_restored = || format!("{} is not restored", subject.path.display());
    let backup = find(&arguments.backup, &subject, &settings).with_context(not_restored)?;
    warn_of_names(&backup, &subject);
    let checksum = noted_sum(&backup).with_context(not_restored)?;
    if checksum.is_none() {
        remark(&format!("{} has no checksum beside it: only SQLite's own check vouches for it", backup.display()));
    }
    let begun = Instant::now();
    let mut progress = Progress::new();
    let mut tell = |done| tell_stage(&mut progress, &subject.name, done);
    let moment = Moment::of(SystemTime::now()).to_string();
    let restored = restore::restore(&subject.path, &backup, checksum.as_deref(), &moment, &mut tell);
    let restored = restored.map_err(told).with_context(not_restored)?;
    drop(progress);
    report(arguments.json, &subject, &backup, &restored, begun.elapsed().as_secs_f64());
    Ok(ExitCode::SUCCESS)
}

/// The backup that is meant: a file, or one of those that are listed.
fn find(given: &Path, subject: &Subject, settings: &Settings) -> anyhow::Result<PathBuf> {
    let word = given.to_str().filter(|word| !word.contains('/'));
    if given.is_file() && word != Some("latest") {
        return Ok(given.to_owned());
    }
    let Some(word) = word else { bail!("there is no file {}", given.display()) };
    let root = settings.require_backup_root()?;
    let folder = Folder::of(root, &subject.name)?;
    let stored = folder.list()?;
    let Some(newest) = stored.first() else {
        bail!("there is no backup of {} under {}, and no file {word}", subject.name, root.display())
    };
    if word == "latest" {
        warn_of_source(&folder, subject);
        return Ok(newest.path.clone());
    }
    let time = conflicts::moment(word).ok().map(Moment::of);
    let is_meant = |stored: &&Stored| {
        stored.path.file_name().is_some_and(|file| file == word)
            || stored.moment.to_string() == word
            || time.as_ref().is_some_and(|time| stored.moment.is_within_second_of(time))
    };
    let meant: Vec<&Stored> = stored.iter().filter(is_meant).collect();
    match meant.as_slice() {
        [one] => {
            warn_of_source(&folder, subject);
            Ok(one.path.clone())
        }
        [] => bail!("there is no backup {word:?} of {}; there are:{}", subject.name, lines(&stored)),
        several => bail!("{word:?} may be any of these; name one of them:{}", lines(several.iter().copied())),
    }
}

/// The names of backups in lines of their own.
fn lines<'s>(stored: impl IntoIterator<Item = &'s Stored>) -> String {
    let name = |stored: &Stored| stored.path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    stored.into_iter().map(|stored| format!("\n  {}", name(stored))).collect()
}

/// Tells that a backup is named after another database. What it holds decides nothing: a database may have been renamed.
fn warn_of_names(backup: &Path, subject: &Subject) {
    let named = backup.file_name().and_then(|file| told_by(&file.to_string_lossy()));
    if let Some((name, _)) = named.filter(|(name, _)| *name != subject.name) {
        remark(&format!("{} is by its name a backup of {name}, not of {}", backup.display(), subject.name));
    }
}

/// Tells that a listed backup is of a file at another path, as after a move to another machine.
fn warn_of_source(folder: &Folder, subject: &Subject) {
    if let Some(source) = folder.source().filter(|source| *source != absolute(&subject.path)) {
        remark(&format!("the backups of {} are of {}", subject.name, source.display()));
    }
}

/// A file that was not there before belongs to whoever restored it, which may be root.
fn warn_of_owner(database: &Path) {
    let owner = |path: &Path| std::fs::metadata(path).map(|found| found.uid()).ok();
    if let (Some(user), Some(other)) = (owner(database), database.parent().and_then(owner))
        && user != other
        && user == 0
    {
        remark(&format!(
            "{} belongs to root, its folder to user {other}: see that the daemon and the application may write it",
            database.display()
        ));
    }
}

fn report(json: bool, subject: &Subject, backup: &Path, restored: &Restored, seconds: f64) {
    let Restored { database, bytes, kept, attached, unseen } = restored;
    if json {
        let object = json!({
            "database": subject.name,
            "path": database.display().to_string(),
            "backup": backup.display().to_string(),
            "bytes": bytes,
            "kept": kept.as_ref().map(|kept| kept.display().to_string()),
            "new_origin": attached,
            "unseen_processes": unseen,
            "seconds": (seconds * 1_000.0).round() / 1_000.0,
        });
        say(&object.to_string());
    } else {
        say(&format!("{}: {} restored from {}, {}", subject.name, database.display(), backup.display(), size(*bytes)));
        if let Some(kept) = kept {
            say(&format!("  what was there is {}", kept.display()));
        }
        if *attached {
            say("  it takes a new origin when the daemon runs again, and peers give back what it lacks");
        }
    }
    warn_of_owner(database);
    if *unseen > 0 {
        remark(&format!(
            "{unseen} processes of other users could not be looked at; none of them has a lock on the file"
        ));
    }
}

/// Where standard error is gone there is nobody to tell.
fn remark(line: &str) {
    let _ = writeln!(std::io::stderr(), "sync-engine: {line}");
}
