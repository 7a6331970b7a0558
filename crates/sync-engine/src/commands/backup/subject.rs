//! Which database is meant: by its name in the configuration, or by its path.

use std::path::{Path, PathBuf};

use anyhow::bail;
use sync_engine::config::{DatabaseSettings, Settings};

/// A database of which backups are made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Subject {
    /// Its name.
    pub(crate) name: String,
    /// Its file.
    pub(crate) path: PathBuf,
}

impl Subject {
    fn configured(database: &DatabaseSettings) -> Self {
        Self { name: database.name.clone(), path: database.path.clone() }
    }

    /// The one that is meant. What is no name of the configuration is a path, and its name is that of the file.
    pub(crate) fn find(given: &Path, settings: &Settings) -> anyhow::Result<Self> {
        let mut databases = settings.databases.iter();
        let is_meant =
            |database: &&DatabaseSettings| given.to_str() == Some(&database.name) || is_same(given, &database.path);
        if let Some(database) = databases.find(is_meant) {
            return Ok(Self::configured(database));
        }
        let stem = given.file_stem().and_then(|stem| stem.to_str());
        let Some(name) = stem.filter(|stem| !stem.chars().any(char::is_control)) else {
            bail!("no name can be made of {}: give the database a name in sync-engine.toml", given.display())
        };
        Ok(Self { name: name.to_owned(), path: given.to_owned() })
    }

    /// Those that are meant, each once; all of the configuration where none is named.
    pub(super) fn all(given: &[PathBuf], settings: &Settings) -> anyhow::Result<Vec<Self>> {
        if given.is_empty() {
            return Ok(settings.require_configured()?.iter().map(Self::configured).collect());
        }
        let mut subjects: Vec<Self> = Vec::with_capacity(given.len());
        for path in given {
            let subject = Self::find(path, settings)?;
            if !subjects.iter().any(|known| is_same(&known.path, &subject.path)) {
                subjects.push(subject);
            }
        }
        Ok(subjects)
    }
}

/// Why a word that is no file may have been meant for a name.
pub(super) fn not_configured(subject: &Subject, settings: &Settings) -> String {
    let names: Vec<&str> = settings.databases.iter().map(|database| database.name.as_str()).collect();
    let has = if names.is_empty() { "none".to_owned() } else { names.join(", ") };
    format!("there is no file {}, and no such database in the configuration, which has: {has}", subject.path.display())
}

/// The same file under several spellings of one path is one file.
fn is_same(one: &Path, other: &Path) -> bool {
    absolute(one) == absolute(other)
}

/// The path by which a file is known, whether it exists or not.
pub(crate) fn absolute(path: &Path) -> PathBuf {
    path.canonicalize().or_else(|_| std::path::absolute(path)).unwrap_or_else(|_| path.to_owned())
}
