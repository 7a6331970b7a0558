//! The arguments of `sync-engine completions`.

use clap::Args;
use clap_complete::Shell;

#[derive(Debug, Args)]
pub(crate) struct Completions {
    /// The shell to complete commands in
    #[arg(value_name = "SHELL")]
    pub(crate) shell: Shell,
}
