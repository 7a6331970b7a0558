//! Making backups.

use std::io::Write as _;
use std::path::Path;
use std::process::ExitCode;
use std::time::{Instant, SystemTime};

use anyhow::{Context as _, bail};
use serde_json::{Value as Json, json};
use sqlite_store::backup::{self, Copied, Progress as Done, Stage, Unchecked};
use sync_engine::config::Settings;

use super::folder::{Folder, Stored, Taken};
use super::name::Moment;
use super::subject::{Subject, absolute, not_configured};
use super::told::{outside, told};
use super::{root, size};
use crate::cli::Backup;
use crate::commands::progress::Progress;
use crate::commands::{complain, say};

/// A backup that was made.
struct Made {
    subject: Subject,
    stored: Stored,
    copied: Copied,
    seconds: f64,
    removed: Vec<Stored>,
}

/// Makes a backup of each database, also after one that fails; the last failure is the command's.
pub(super) fn run(arguments: &Backup, settings: &Settings) -> anyhow::Result<ExitCode> {
    let root = root(settings)?;
    let keep = arguments.keep.map_or(settings.backup.keep, usize::from);
    let mut reports = Vec::new();
    let mut failed: Option<anyhow::Error> = None;
    let mut fail = |error: anyhow::Error| {
        if let Some(before) = failed.replace(error) {
            complain(&before);
        }
    };
    for subject in Subject::all(&arguments.databases, settings)? {
        let name = subject.name.clone();
        match make(subject, &root, keep, settings) {
            Ok((made, pruned)) => {
                if arguments.json {
                    reports.push(made.json())
                } else {
                    made.print()
                }
                if let Err(error) = pruned {
                    fail(error.context(format!("the backup of {name} is made, but older ones are not removed")));
                }
            }
            Err(error) => fail(error.context(format!("no backup of {name} is made"))),
        }
    }
    if arguments.json {
        say(&Json::Array(reports).to_string());
    }
    failed.map_or(Ok(ExitCode::SUCCESS), Err)
}

/// Makes one. What is wrong with older ones that were to be removed is told apart: the backup is there all the same.
fn make(subject: Subject, root: &Path, keep: usize, settings: &Settings) -> anyhow::Result<(Made, anyhow::Result<()>)> {
    let path = absolute(&subject.path);
    let found = std::fs::metadata(&path).map_err(outside("find", &path));
    let is_configured = settings.databases.iter().any(|database| database.path == subject.path);
    let is_word = !is_configured && subject.path.components().count() == 1;
    let found = if is_word { found.with_context(|| not_configured(&subject, settings))? } else { found? };
    if !found.is_file() {
        bail!("{} is no file", path.display());
    }
    let begun = Instant::now();
    let taken = Folder::of(root, &subject.name)?.take(&subject)?;
    let (stored, copied) = copy(&subject, &path, &taken).inspect_err(|_| taken.discard())?;
    let seconds = begun.elapsed().as_secs_f64();
    let (removed, pruned) = match taken.prune(&stored, keep) {
        Ok(removed) => (removed, Ok(())),
        Err(error) => (Vec::new(), Err(error.into())),
    };
    Ok((Made { subject, stored, copied, seconds, removed }, pruned))
}

fn copy(subject: &Subject, path: &Path, taken: &Taken) -> anyhow::Result<(Stored, Copied)> {
    let mut progress = Progress::new();
    let mut tell = |done| tell_stage(&mut progress, &subject.name, done);
    // All that was committed before it is in the copy.
    let moment = Moment::of(SystemTime::now());
    let copied = backup::copy(path, &taken.partial(), &mut tell).map_err(told)?;
    let stored = taken.publish(moment, &copied.checksum).context("the copy cannot be named")?;
    Ok((stored, copied))
}

/// Tells how far a backup or a restore is.
pub(crate) fn tell_stage(progress: &mut Progress, name: &str, Done { stage, done, total }: Done) {
    let what = match stage {
        Stage::Copying => "copying",
        Stage::Comparing => "comparing what was written meanwhile",
        Stage::Checking => "PRAGMA integrity_check",
        Stage::Summing => "taking the checksum",
    };
    if stage == Stage::Checking {
        progress.tell(|| format!("{name}: {what} of {}", size(total)));
    } else {
        progress.tell_share(done, total, || format!("{name}: {what}, {} of {}", size(done), size(total)));
    }
}

impl Made {
    fn json(&self) -> Json {
        let unchecked = self.copied.unchecked.iter();
        let unchecked: Vec<Json> =
            unchecked.map(|table| json!({ "table": table.table, "reason": table.reason })).collect();
        let removed: Vec<String> = self.removed.iter().map(|stored| stored.path.display().to_string()).collect();
        json!({
            "database": self.subject.name,
            "path": self.subject.path.display().to_string(),
            "backup": self.stored.path.display().to_string(),
            "time": self.stored.moment.rfc3339(),
            "bytes": self.copied.bytes,
            "pages": self.copied.pages,
            "blake3": self.copied.checksum,
            "seconds": (self.seconds * 1_000.0).round() / 1_000.0,
            "waiting_for_capture": self.copied.waiting,
            "removed": removed,
            "unchecked": unchecked,
        })
    }

    fn print(&self) {
        let Copied { bytes, pages, waiting, unchecked, .. } = &self.copied;
        let removed = match self.removed.len() {
            0 => String::new(),
            1 => ", 1 older one removed".to_owned(),
            count => format!(", {count} older ones removed"),
        };
        say(&format!(
            "{}: {}, {}, {pages} pages, in {:.1} s{removed}",
            self.subject.name,
            self.stored.path.display(),
            size(*bytes),
            self.seconds
        ));
        for Unchecked { table, reason } in unchecked {
            remark(&format!("table {table} is copied and could not be checked: {reason}"));
        }
        if *waiting > 0 {
            remark(&format!(
                "{waiting} changes in it had not been captured by a daemon; where counters are synced, back up while the daemon runs"
            ));
        }
    }
}

/// Where standard error is gone there is nobody to tell.
fn remark(line: &str) {
    let _ = writeln!(std::io::stderr(), "sync-engine: {line}");
}
