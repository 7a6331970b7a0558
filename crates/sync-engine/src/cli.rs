//! The command line.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

/// Keeps SQLite files on several machines at the same rows, while unmodified applications write them.
#[derive(Debug, Parser)]
#[command(
    name = "sync-engine",
    version,
    max_term_width = 100,
    after_help = "First steps:\n  sync-engine demo                  see it work\n  sync-engine run inventory.db      sync a file of yours\n\n\
                  Exit codes: 0 done; 1 the answer is no; 2 command line; 74 input or output; 78 configuration"
)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run the daemon, with a configuration file or with nothing but database paths
    #[command(
        after_help = "Example:\n  sync-engine run inventory.db --node oslo --listen 127.0.0.1:7421 --peer ws://127.0.0.1:7420"
    )]
    Run(Run),
    /// Watch two nodes keep two sample databases in step; nothing to set up
    Demo(Demo),
    /// Install capture in databases without running, and say what will be synced
    Attach(Databases),
    /// Remove everything that attach put into databases
    Detach(Databases),
    /// Show what a running daemon is doing
    Status(Status),
    /// Check or show the configuration
    #[command(subcommand)]
    Config(Config),
}

#[derive(Debug, Args)]
pub(crate) struct Run {
    /// Database files to keep in sync
    #[arg(value_name = "DB")]
    pub(crate) databases: Vec<PathBuf>,
    /// Configuration file [default: $SYNC_ENGINE_CONFIG, ./sync-engine.toml, /etc/sync-engine/sync-engine.toml]
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// This node's name, unique among its peers [default: the host name]
    #[arg(long, value_name = "NAME")]
    pub(crate) node: Option<String>,
    /// Address for peers and HTTP [default: 127.0.0.1:7420]
    #[arg(long, value_name = "ADDR")]
    pub(crate) listen: Option<String>,
    /// A peer, as ws://host:port; may be repeated [default: $SYNC_ENGINE_WS_URL, comma-separated]
    #[arg(long = "peer", value_name = "URL")]
    pub(crate) peers: Vec<String>,
    /// File with the secret that peers share; refused by this version, which checks none
    #[arg(long, value_name = "FILE")]
    pub(crate) token_file: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct Demo {
    /// Folder for the two databases
    #[arg(long, value_name = "DIR", default_value = "demo")]
    pub(crate) dir: PathBuf,
    /// Address of the first node [default: a free port]
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:0")]
    pub(crate) listen: String,
}

#[derive(Debug, Args)]
pub(crate) struct Databases {
    /// Database files
    #[arg(value_name = "DB", required = true)]
    pub(crate) databases: Vec<PathBuf>,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Status {
    /// Where the daemon listens [default: from the configuration, else http://127.0.0.1:7420]
    #[arg(long, value_name = "URL")]
    pub(crate) url: Option<String>,
    /// Configuration file that names the listen address
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Config {
    /// Report everything that is wrong with the configuration
    Check(ConfigFile),
    /// Print the configuration as it takes effect
    Show(ConfigFile),
}

#[derive(Debug, Args)]
pub(crate) struct ConfigFile {
    /// Configuration file
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}
