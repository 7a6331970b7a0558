//! The arguments of `sync-engine tail`.

use clap::Args;

use super::Where;

#[derive(Debug, Args)]
pub(crate) struct Tail {
    /// Only of this database
    #[arg(long = "db", value_name = "NAME")]
    pub(crate) database: Option<String>,
    /// Only of this table
    #[arg(long, value_name = "TABLE")]
    pub(crate) table: Option<String>,
    /// After this change, by its id; or begin, for everything as it stands now and what comes then
    #[arg(long, value_name = "DOT")]
    pub(crate) since: Option<String>,
    #[command(flatten)]
    pub(crate) place: Where,
}
