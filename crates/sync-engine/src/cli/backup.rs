//! What `backup` and `restore` are told.

use std::num::NonZeroUsize;
use std::path::PathBuf;

use clap::Args;

#[derive(Debug, Args)]
pub(crate) struct Backup {
    /// Databases, by their names in the configuration or by path [default: all of the configuration; with --list, all there are]
    #[arg(value_name = "DB")]
    pub(crate) databases: Vec<PathBuf>,
    /// List the backups, the newest first
    #[arg(long)]
    pub(crate) list: bool,
    /// Read the listed backups and compare their checksums
    #[arg(long, requires = "list")]
    pub(crate) check: bool,
    /// How many backups of a database are kept, this one among them [default: from the configuration, else 7]
    #[arg(long, value_name = "N", conflicts_with = "list")]
    pub(crate) keep: Option<NonZeroUsize>,
    #[command(flatten)]
    pub(crate) place: Root,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Restore {
    /// The database, by its name in the configuration or by path; it need not exist
    #[arg(value_name = "DB")]
    pub(crate) database: PathBuf,
    /// A file; or, of those that backup --list shows: latest, a file's name, or a time
    #[arg(value_name = "BACKUP")]
    pub(crate) backup: PathBuf,
    #[command(flatten)]
    pub(crate) place: Root,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// Where the backups are.
#[derive(Debug, Args)]
pub(crate) struct Root {
    /// The folder of the backups [default: from the configuration, else $GH_COPILOT_BACKUP_ROOT, else $SYNC_ENGINE_BACKUP_ROOT]
    #[arg(long, value_name = "DIR")]
    pub(crate) root: Option<PathBuf>,
    /// Configuration file [default: as for run]
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
}
