//! What can be wrong with a configuration, and how that reads. Owns the wording around an error, not the errors' causes.

use std::fmt;
use std::path::PathBuf;

/// Where a value was given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// In the configuration file.
    File {
        /// The file.
        file: PathBuf,
        /// The line, from 1.
        line: usize,
        /// The column in characters, from 1.
        column: usize,
    },
    /// In an environment variable of this name.
    Variable(String),
    /// On the command line, by this flag or argument.
    Argument(&'static str),
    /// Nowhere: it is missing, or concerns the whole.
    Unset,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File { file, line, column } => write!(f, "{}:{line}:{column}", file.display()),
            Self::Variable(name) => write!(f, "environment variable {name}"),
            Self::Argument(name) => write!(f, "command line, {name}"),
            Self::Unset => f.write_str("configuration"),
        }
    }
}

/// The kinds of errors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The file is missing or cannot be read.
    Unreadable,
    /// The file is not TOML.
    Syntax,
    /// There is no such key.
    UnknownKey,
    /// A value of another type belongs here.
    WrongType,
    /// The type is right, the value is not.
    BadValue,
    /// Something that must be said is not.
    Missing,
    /// Two entries that must differ do not.
    Duplicate,
}

/// One error of a configuration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{place}: {}{what}; {remedy}", key_prefix(.key))]
pub struct ConfigError {
    /// Where.
    pub place: Place,
    /// The key's path, such as `database[0].granularity`; empty when the whole file is meant.
    pub key: String,
    /// Of what kind.
    pub kind: ErrorKind,
    /// What is wrong.
    pub what: String,
    /// What to do about it.
    pub remedy: String,
}

fn key_prefix(key: &str) -> String {
    if key.is_empty() { String::new() } else { format!("{key}: ") }
}

/// Everything that is wrong with a configuration. Nothing was changed; trying again helps only after a correction.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the configuration cannot be used:{}", list(.errors))]
pub struct ConfigErrors {
    errors: Vec<ConfigError>,
}

fn list(errors: &[ConfigError]) -> String {
    errors.iter().map(|error| format!("\n  {error}")).collect()
}

impl ConfigErrors {
    /// The exit code that stands for an error of configuration (`EX_CONFIG` of sysexits.h).
    pub const EXIT_CODE: u8 = 78;

    /// The errors: those of the file by line, then the others.
    pub fn errors(&self) -> &[ConfigError] {
        &self.errors
    }
}

/// Sorts errors for a reader who goes through the file.
pub(super) fn collected(mut errors: Vec<ConfigError>) -> ConfigErrors {
    errors.sort_by_key(|error| match error.place {
        Place::File { line, column, .. } => (0, line, column),
        Place::Variable(_) => (1, 0, 0),
        Place::Argument(_) => (2, 0, 0),
        Place::Unset => (3, 0, 0),
    });
    ConfigErrors { errors }
}

/// The only error there is.
pub(super) fn one_error(
    place: Place,
    key: &str,
    kind: ErrorKind,
    what: impl Into<String>,
    remedy: impl Into<String>,
) -> ConfigErrors {
    let error = ConfigError { place, key: key.to_owned(), kind, what: what.into(), remedy: remedy.into() };
    ConfigErrors { errors: vec![error] }
}
