//! `sync-engine sync`.

use std::path::PathBuf;

use clap::Args;

/// What `sync` is told.
#[derive(Debug, Args)]
pub(crate) struct Sync {
    /// The file to read
    #[arg(value_name = "SOURCE")]
    pub(crate) source: PathBuf,
    /// The file to write
    #[arg(value_name = "TARGET")]
    pub(crate) target: PathBuf,
    /// Make TARGET equal: delete what only TARGET has; of rows that differ SOURCE's stands
    #[arg(long)]
    pub(crate) mirror: bool,
    /// Who decides over rows that differ: last-write-wins, first-write-wins (TARGET's stands), origin-priority (SOURCE's stands),
    /// max, min or union
    #[arg(long, value_name = "POLICY", default_value = "last-write-wins", conflicts_with = "mirror")]
    pub(crate) policy: String,
    /// The column that last-write-wins goes by [default: updated_at, or modified_at, where a table has it]
    #[arg(long, value_name = "COLUMN", conflicts_with = "mirror")]
    pub(crate) timestamp_column: Option<String>,
    /// Only tell what would be done
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// List the rows that are not taken over
    #[arg(long, short)]
    pub(crate) verbose: bool,
    /// Rows to list of each table at most
    #[arg(long, value_name = "N", default_value = "100")]
    pub(crate) limit: usize,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}
