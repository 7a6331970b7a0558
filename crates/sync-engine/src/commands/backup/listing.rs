//! Listing backups, and checking that they are what was written.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use serde_json::{Value as Json, json};
use sqlite_store::backup::checksum;
use sync_engine::config::Settings;

use super::folder::{Folder, Stored, noted_sum};
use super::making::tell_stage;
use super::subject::Subject;
use super::told::told;
use super::{root, size};
use crate::cli::Backup;
use crate::commands::progress::Progress;
use crate::commands::{NO, message, say};

/// What is known of a backup's checksum.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Sum {
    /// Nobody asked.
    Unread,
    Right,
    Wrong,
    /// There is none to compare with.
    Missing,
    Unreadable(String),
}

impl Sum {
    const fn word(&self) -> &'static str {
        match self {
            Self::Unread => "unread",
            Self::Right => "right",
            Self::Wrong => "wrong",
            Self::Missing => "missing",
            Self::Unreadable(_) => "unreadable",
        }
    }
}

struct Listed {
    database: String,
    source: Option<PathBuf>,
    stored: Stored,
    sum: Sum,
}

/// Lists those of the databases that are named, or all under the root. The answer is no where a checksum is not right.
pub(super) fn run(arguments: &Backup, settings: &Settings) -> anyhow::Result<ExitCode> {
    let root = root(settings)?;
    let folders = if arguments.databases.is_empty() {
        Folder::all(&root)?
    } else {
        let subjects = Subject::all(&arguments.databases, settings)?;
        let folder = |subject: Subject| Folder::of(&root, &subject.name).map(|folder| (subject.name, folder));
        subjects.into_iter().map(folder).collect::<anyhow::Result<_>>()?
    };
    let mut all = Vec::new();
    for (database, folder) in folders {
        let source = folder.source();
        for stored in folder.list()? {
            let sum = if arguments.check { read(&database, &stored) } else { Sum::Unread };
            all.push(Listed { database: database.clone(), source: source.clone(), stored, sum });
        }
    }
    all.sort_by(|one, other| other.stored.moment.cmp(&one.stored.moment));
    if arguments.json {
        say(&Json::Array(all.iter().map(Listed::json).collect()).to_string());
    } else {
        print(&all, &root);
    }
    let is_right = |listed: &Listed| matches!(listed.sum, Sum::Unread | Sum::Right);
    Ok(if all.iter().all(is_right) { ExitCode::SUCCESS } else { NO.into() })
}

/// Reads a backup and compares its checksum.
fn read(database: &str, stored: &Stored) -> Sum {
    let expected = match noted_sum(&stored.path) {
        Ok(Some(expected)) => expected,
        Ok(None) => return Sum::Missing,
        Err(error) => return Sum::Unreadable(message(&error)),
    };
    let mut progress = Progress::new();
    match checksum(&stored.path, &mut |done| tell_stage(&mut progress, database, done)) {
        Ok((found, _)) if found == expected => Sum::Right,
        Ok(_) => Sum::Wrong,
        Err(error) => Sum::Unreadable(message(&told(error))),
    }
}

impl Listed {
    fn json(&self) -> Json {
        let mut json = json!({
            "database": self.database,
            "path": self.source.as_ref().map(|path| path.display().to_string()),
            "backup": self.stored.path.display().to_string(),
            "time": self.stored.moment.rfc3339(),
            "bytes": self.stored.bytes,
            "checksum": self.sum.word(),
        });
        if let Sum::Unreadable(reason) = &self.sum {
            json["reason"] = reason.as_str().into();
        }
        json
    }
}

fn print(all: &[Listed], root: &Path) {
    if all.is_empty() {
        say(&format!("no backups under {}", root.display()));
    }
    let width = all.iter().map(|listed| listed.database.chars().count()).max().unwrap_or(0);
    for Listed { database, stored, sum, .. } in all {
        let sum = match sum {
            Sum::Unread => String::new(),
            Sum::Unreadable(reason) => format!("  cannot be checked: {reason}"),
            sum => format!("  checksum {}", sum.word()),
        };
        let (time, size, path) = (stored.moment.rfc3339(), size(stored.bytes), stored.path.display());
        say(&format!("{database:width$}  {time}  {size:>8}  {path}{sum}"));
    }
}
