//! Configuration: where it comes from, what is wrong with it, and what it says in the end.
//!
//! Sources, the later ones winning: defaults, the file, the environment (`SYNC_ENGINE__A__B`), the command line. All errors
//! are reported at once, each with its key, its place and its remedy. Owns the names of keys and their limits. Must not
//! touch: the process's environment (it is an argument), the databases, the network.

mod backups;
mod changes;
mod check;
mod databases;
mod document;
mod environment;
mod error;
mod layers;
mod policies;
mod raw;
mod resolve;
mod schema;
mod security;
mod selection;
mod show;
mod values;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use replication::{Granularity, Selection};
use sqlite_store::app_triggers::TriggerRules;
use sqlite_store::attach::naming::WireNames;
use sqlite_store::key_ranges::KeyRanges;

pub use error::{ConfigError, ConfigErrors, ErrorKind, Place};
pub use policies::Policy;
pub use security::{AuthSettings, PeerSettings, TlsSettings};
pub(crate) use values::duration_text;

use error::one_error;

use crate::access::Access;

/// The variable that names the configuration file.
const FILE_VARIABLE: &str = "SYNC_ENGINE_CONFIG";

/// Where a configuration file is looked for when nobody names one.
const USUAL_PLACES: [&str; 2] = ["sync-engine.toml", "/etc/sync-engine/sync-engine.toml"];

/// The environment as data: name to value.
pub type Environment = BTreeMap<String, String>;

/// What the command line says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Overrides {
    /// Database files. When there are any, they alone are synced; a file that the configuration knows keeps its settings.
    pub databases: Vec<PathBuf>,
    /// The node's name.
    pub node: Option<String>,
    /// The address to listen on.
    pub listen: Option<String>,
    /// The peers' URLs; when there are any, they replace the configured ones.
    pub peers: Vec<String>,
    /// The file with the shared secret.
    pub token_file: Option<PathBuf>,
}

/// The configuration as it takes effect. Paths are as they were given: absolute, or relative to the current directory.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Settings {
    /// The file that was read, if any.
    pub file: Option<PathBuf>,
    /// This node's name.
    pub node: String,
    /// The one address for peers and HTTP.
    pub listen: SocketAddr,
    /// URLs of peers to dial.
    pub peers: Vec<String>,
    /// Nodes of different clusters refuse each other.
    pub cluster: String,
    /// The folder of the node's own state.
    pub state_dir: PathBuf,
    /// The pause between looks at a database when no file event comes.
    pub poll_interval: Duration,
    /// How far ahead of this machine's clock a peer's stamps may be.
    pub max_clock_skew: Duration,
    /// For how long a deletion is remembered at most for nodes that do not know of it.
    pub tombstone_horizon: Duration,
    /// The pause between looks for deletions that need not be remembered any more.
    pub upkeep_interval: Duration,
    /// How long nothing must have happened in a database until its file is closed, for as long as nothing does.
    pub close_after: Duration,
    /// How long stopping may take.
    pub shutdown_grace: Duration,
    /// How many rows are applied in one transaction at most.
    pub max_batch_rows: usize,
    /// Who is let in.
    pub auth: AuthSettings,
    /// How this node is known, and whom it believes.
    pub tls: TlsSettings,
    /// The log.
    pub log: LogSettings,
    /// Backups.
    pub backup: BackupSettings,
    /// Conflict records.
    pub conflicts: ConflictSettings,
    /// From when on the node counts as not healthy.
    pub health: HealthSettings,
    /// The databases to keep in sync.
    pub databases: Vec<DatabaseSettings>,
    /// Where each value comes from that is no default.
    sources: BTreeMap<String, String>,
}

/// `[log]`.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct LogSettings {
    /// The folder of `synchronization.log`.
    pub directory: PathBuf,
    /// A level in lower case, or directives of an env-filter.
    pub level: String,
    /// How a line looks.
    pub format: LogFormat,
    /// When a new file is begun.
    pub rotation: Rotation,
    /// How many files are kept.
    pub keep: usize,
    /// A program and its arguments, run with each event on its standard input; empty: none.
    pub hook: Vec<String>,
}

impl LogSettings {
    /// A log in this folder, and defaults for all else.
    pub fn in_folder(directory: impl Into<PathBuf>) -> Self {
        let (level, format, rotation) = ("info".to_owned(), LogFormat::Text, Rotation::Daily);
        Self { directory: directory.into(), level, format, rotation, keep: 14, hook: Vec::new() }
    }
}

/// How a line of the log looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// Time, level, event, then `key=value`.
    Text,
    /// One JSON object a line.
    Json,
}

/// When a new log file is begun.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rotation {
    /// At midnight, UTC.
    Daily,
    /// At each full hour.
    Hourly,
    /// Not at all.
    Never,
}

/// `[backup]`.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct BackupSettings {
    /// The folder of the backups; none: nobody said where.
    pub root: Option<PathBuf>,
    /// How many backups of a database are kept.
    pub keep: usize,
}

/// `[conflicts]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct ConflictSettings {
    /// How many conflict records of a database are kept.
    pub keep: usize,
    /// For how many days they are kept.
    pub keep_days: usize,
}

/// `[health]`: from when on the node counts as not healthy, beside a database that does not work. Unless it is said, never.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct HealthSettings {
    /// For how long a connected peer may lack a change.
    pub max_lag: Option<Duration>,
    /// How many changes of applications may wait for capture in a database.
    pub max_backlog: Option<u64>,
    /// How many peers must be connected.
    pub min_peers: usize,
}

/// `[[database]]`.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct DatabaseSettings {
    /// The name that peers know the database by.
    pub name: String,
    /// The file.
    pub path: PathBuf,
    /// Who decides conflicts.
    pub policy: Policy,
    /// How finely rows are merged.
    pub granularity: Granularity,
    /// Which tables are synced, and which of their columns are not.
    pub selection: Selection,
    /// This node's number among those that give out AUTOINCREMENT keys; none: SQLite gives them out alone.
    pub key_ranges: Option<KeyRanges>,
    /// Which of the application's triggers run when changes are applied, other than those that would.
    pub triggers: TriggerRules,
    /// Tables with rules of their own.
    pub tables: Vec<TableSettings>,
}

/// `[[database.table]]`.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct TableSettings {
    /// The table.
    pub name: String,
    /// Who decides conflicts, where not as in the database.
    pub policy: Option<Policy>,
    /// How finely rows are merged, where that differs from the database's.
    pub granularity: Option<Granularity>,
    /// Columns with a policy of their own, by name.
    pub columns: BTreeMap<String, Policy>,
    /// The table's name on the wire, if that is another.
    pub remote_name: Option<String>,
    /// Columns with other names on the wire, by name.
    pub remote_columns: BTreeMap<String, String>,
}

impl DatabaseSettings {
    /// Which tables and columns bear other names on the wire.
    pub fn wire_names(&self) -> WireNames {
        let mut names = WireNames::default();
        for table in &self.tables {
            if let Some(remote_name) = &table.remote_name {
                names.name_table(&table.name, remote_name);
            }
            for (column, remote_name) in &table.remote_columns {
                names.name_column(&table.name, column, remote_name);
            }
        }
        names
    }
}

/// Loads the configuration from all its sources. `config_path` is the file that the command line names; without it the
/// file is looked for at `$SYNC_ENGINE_CONFIG` and at the usual places, and having none is no error.
///
/// # Errors
/// Everything that is wrong, at once; only errors of TOML syntax hide the others. Nothing was changed, and trying again
/// without a change does not help.
pub fn load(
    config_path: Option<&Path>,
    overrides: &Overrides,
    environment: &Environment,
) -> Result<Settings, ConfigErrors> {
    let (mut settings, check) = read(config_path, overrides, environment)?;
    settings.sources = show::sources(check.finish()?);
    Ok(settings)
}

/// The same, with the secrets and certificates that the configuration names.
///
/// # Errors
/// As for [`load`]; what is wrong with these files among it.
pub fn load_with_access(
    config_path: Option<&Path>,
    overrides: &Overrides,
    environment: &Environment,
) -> Result<(Settings, Access), ConfigErrors> {
    let (mut settings, mut check) = read(config_path, overrides, environment)?;
    let access = security::open(&settings.auth, &settings.tls, &mut check);
    settings.sources = show::sources(check.finish()?);
    Ok((settings, access))
}

fn read(
    config_path: Option<&Path>,
    overrides: &Overrides,
    environment: &Environment,
) -> Result<(Settings, check::Check), ConfigErrors> {
    let file = locate(config_path, environment, &USUAL_PLACES.map(Path::new))?;
    let document = match &file {
        Some(file) => document::read(file)?,
        None => document::Document::default(),
    };
    let layers = layers::stack(document, environment, overrides)?;
    Ok(resolve::settings(file, layers, overrides, environment))
}

impl Settings {
    /// What `run` needs beyond a configuration without errors: something to sync.
    ///
    /// # Errors
    /// There is no database.
    pub fn require_databases(&self) -> Result<(), ConfigErrors> {
        if !self.databases.is_empty() {
            return Ok(());
        }
        let what = match &self.file {
            Some(file) => format!("{} names no database to sync", file.display()),
            None => "there is neither a configuration file nor a database to sync".to_owned(),
        };
        let remedy = "name database files on the command line (sync-engine run inventory.db), or write a [[database]] \
                      with its path into sync-engine.toml";
        Err(one_error(Place::Unset, "database", ErrorKind::Missing, what, remedy))
    }
}

/// This machine's name, for nodes that have none of their own; `localhost` where nothing tells it.
pub fn host_name() -> String {
    known_host_name().unwrap_or_else(|| "localhost".to_owned())
}

fn known_host_name() -> Option<String> {
    let linux = std::fs::read_to_string("/proc/sys/kernel/hostname").ok();
    // Elsewhere the command of this name tells, which spares a system call that would need `unsafe`.
    let name = linux.or_else(|| {
        let output = std::process::Command::new("hostname").output().ok()?;
        String::from_utf8(output.stdout).ok()
    })?;
    let name = name.trim();
    (!name.is_empty()).then(|| name.to_owned())
}

/// The file to read. One that somebody named must be there; the usual places may be empty.
fn locate(named: Option<&Path>, environment: &Environment, usual: &[&Path]) -> Result<Option<PathBuf>, ConfigErrors> {
    let by_variable = environment.get(FILE_VARIABLE).filter(|file| !file.is_empty());
    let (file, place) = match (named, by_variable) {
        (Some(file), _) => (file.to_owned(), Place::Argument("--config")),
        (None, Some(file)) => (PathBuf::from(file), Place::Variable(FILE_VARIABLE.to_owned())),
        (None, None) => return Ok(usual.iter().find(|file| file.is_file()).map(|file| file.to_path_buf())),
    };
    if file.is_file() {
        return Ok(Some(file));
    }
    let state = if file.exists() { "is not a file" } else { "does not exist" };
    let what = format!("the configuration file {} {state}", file.display());
    let remedy = "correct the path, or leave it out to use ./sync-engine.toml or /etc/sync-engine/sync-engine.toml";
    Err(one_error(place, "", ErrorKind::Unreadable, what, remedy))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::{Environment, FILE_VARIABLE, locate};

    #[test]
    fn the_command_line_goes_before_the_variable_and_that_before_the_usual_places() {
        let folder = tempfile::tempdir().unwrap();
        let files = ["named", "variable", "first", "second"].map(|name| folder.path().join(name));
        let usual: [&Path; 2] = [&files[2], &files[3]];
        let none = Environment::new();
        assert_eq!(locate(None, &none, &usual).unwrap(), None);
        std::fs::write(&files[3], "").unwrap();
        assert_eq!(locate(None, &none, &usual).unwrap().as_ref(), Some(&files[3]));
        std::fs::write(&files[2], "").unwrap();
        assert_eq!(locate(None, &none, &usual).unwrap().as_ref(), Some(&files[2]));
        let environment = Environment::from([(FILE_VARIABLE.to_owned(), files[1].display().to_string())]);
        assert!(locate(None, &environment, &usual).is_err(), "a file that is named must be there");
        std::fs::write(&files[1], "").unwrap();
        assert_eq!(locate(None, &environment, &usual).unwrap().as_ref(), Some(&files[1]));
        std::fs::write(&files[0], "").unwrap();
        assert_eq!(locate(Some(&files[0]), &environment, &usual).unwrap().as_ref(), Some(&files[0]));
    }
}
