//! The arguments of `sync-engine man`.

use std::path::PathBuf;

use clap::Args;

#[derive(Debug, Args)]
pub(crate) struct Man {
    /// Folder to write the pages of all commands to, which is made if it is not there [default: print the first page]
    #[arg(long, value_name = "DIR")]
    pub(crate) dir: Option<PathBuf>,
}
