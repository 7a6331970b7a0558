//! The command line.

mod backup;
mod completions;
mod man;
mod pair;
mod sync;
mod tail;
mod tls;

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::SystemTime;

use clap::{Args, Parser, Subcommand};
use sync_engine::conflicts;

pub(crate) use backup::{Backup, Restore, Root};
pub(crate) use completions::Completions;
pub(crate) use man::Man;
pub(crate) use pair::Pair;
pub(crate) use sync::Sync;
pub(crate) use tail::Tail;
pub(crate) use tls::{Tls, TlsCa, TlsNode};

/// What stands above the examples in the help of each command; each is a line that begins with two spaces and the program's
/// name, and may be told after two more. A blank line ends them.
pub(crate) const EXAMPLES: &str = "Examples:\n";

/// Keeps SQLite files on several machines at the same rows, while unmodified applications write them.
#[derive(Debug, Parser)]
#[command(
    name = "sync-engine",
    version,
    max_term_width = 100,
    after_help = "Examples:\n  sync-engine demo                  see it work\n  sync-engine run inventory.db      sync a file of yours\n  \
                  sync-engine status                see what the daemon does\n\n\
                  Exit codes: 0 done; 1 the answer is no; 2 command line; 74 input or output; 78 configuration"
)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run the daemon, with a configuration file or with nothing but database paths
    #[command(after_help = "Examples:\n  sync-engine run inventory.db --node berlin\n  \
                      sync-engine run inventory.db --node oslo --listen 127.0.0.1:7421 --peer ws://127.0.0.1:7420\n  \
                      sync-engine run --config /etc/sync-engine/sync-engine.toml")]
    Run(Run),
    /// Watch two nodes keep two sample databases in step; nothing to set up
    #[command(after_help = "Examples:\n  sync-engine demo\n  sync-engine demo --dir /tmp/demo --listen 127.0.0.1:7420")]
    Demo(Demo),
    /// Install capture in databases without running, and say what will be synced
    #[command(
        after_help = "Examples:\n  sync-engine attach inventory.db\n  sync-engine attach inventory.db orders.db --json"
    )]
    Attach(Attach),
    /// Remove everything that attach put into databases
    #[command(after_help = "Examples:\n  sync-engine detach inventory.db")]
    Detach(Databases),
    /// Run a command that changes a database's schema, with our triggers out of its way
    #[command(
        after_help = "Its exit code is the command's. Works with a running daemon, which leaves the file alone meanwhile, \
                      and without one.\n\nExamples:\n  sync-engine migrate shop.db -- python manage.py migrate"
    )]
    Migrate(Migrate),
    /// Show what a running daemon is doing
    #[command(after_help = "Exit code 1 if a database has failed.\n\n\
                      Examples:\n  sync-engine status\n  sync-engine status --url http://127.0.0.1:7421 --json")]
    Status(Status),
    /// Print changes of rows as they come, one JSON object a line
    #[command(
        after_help = "Goes on by itself when the daemon was away, without a gap or a repetition, and ends with Ctrl-C.\n\n\
                      Examples:\n  sync-engine tail --db inventory --table stock\n  sync-engine tail --since begin"
    )]
    Tail(Tail),
    /// Do not wait for a node any more that will not come back: deletions need not be remembered for it
    #[command(
        after_help = "The other nodes are told. If it does come back, it first deletes what was deleted meanwhile.\n\n\
                      Examples:\n  sync-engine forget old-laptop"
    )]
    Forget(Forget),
    /// Keep pairs of files on this machine in step, without any network
    #[command(
        after_help = "The files stay attached between runs, which is how deletions are seen; sync-engine detach takes all of it out again. \
                      Of rows that differ before two files have met, those of the first stand, unless a timestamp column tells; what is \
                      discarded is kept and told.\n\nExit code 1 if a pair had errors; the others go on.\n\n\
                      Examples:\n  sync-engine pair --once shop.db:/srv/mirror/shop.db      for cron\n  \
                      sync-engine pair --interval 0.5 a.db:b.db a.db:c.db"
    )]
    Pair(Pair),
    /// Merge one file into another, or make it equal, in one pass; neither need be attached
    #[command(
        after_help = "All of it is one transaction. Exit code 1 if TARGET does not take a row or rows lack their parents now; with --mirror \
                      where verify would still find a difference.\n\n\
                      Examples:\n  sync-engine sync --dry-run shop.db copy.db\n  sync-engine sync --mirror shop.db copy.db"
    )]
    Sync(Sync),
    /// Compare two files, or a database with a peer's, and list what differs
    #[command(
        after_help = "Exit code 1 if anything differs. With --peer the running daemon and the peer are asked; both go on syncing, and \
                      what is on its way is waited for.\n\n\
                      Examples:\n  sync-engine verify berlin.db oslo.db\n  sync-engine verify inventory --peer ws://oslo.example:7420\n  \
                      sync-engine verify inventory --peer ws://oslo.example:7420 --repair"
    )]
    Verify(Verify),
    /// Look at conflicts that were decided, and act on them
    #[command(
        subcommand,
        after_help = "Examples:\n  sync-engine conflicts list --table stock\n  sync-engine conflicts restore inventory:12"
    )]
    Conflicts(Conflicts),
    /// Make certificates for a private cluster
    #[command(
        subcommand,
        after_help = "Examples:\n  sync-engine tls ca --dir pki\n  sync-engine tls node oslo --dir pki --host oslo.example"
    )]
    Tls(Tls),
    /// Copy databases while programs write them, check the copies, and keep the newest
    #[command(
        after_help = "Examples:\n  sync-engine backup\n  sync-engine backup /srv/app/inventory.db --root /var/backups/sync-engine\n  \
                      sync-engine backup --list --check"
    )]
    Backup(Backup),
    /// Put a backup in the place of a database that nobody has open
    #[command(
        after_help = "Stop the daemon and the application first. What was there is kept beside it. Once the daemon runs again, peers give \
                      back what was written and deleted since.\n\nExamples:\n  sync-engine restore inventory latest\n  \
                      sync-engine restore /srv/app/inventory.db /mnt/inventory-20261129T035500Z.db"
    )]
    Restore(Restore),
    /// Check or show the configuration
    #[command(
        subcommand,
        after_help = "Examples:\n  sync-engine config check --config /etc/sync-engine/sync-engine.toml\n  sync-engine config show --json"
    )]
    Config(Config),
    /// Print a script that has a shell complete commands
    #[command(
        after_help = "Examples:\n  sync-engine completions bash   for ~/.local/share/bash-completion/completions/sync-engine\n  \
                      sync-engine completions zsh    for _sync-engine in a folder of $fpath\n  \
                      sync-engine completions fish   for ~/.config/fish/completions/sync-engine.fish"
    )]
    Completions(Completions),
    /// Print or write the pages of the manual
    #[command(after_help = "Examples:\n  sync-engine man --dir man\n  sync-engine man   pipe it into man -l -")]
    Man(Man),
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
    /// A peer, as ws://host:port or wss://host:port; may be repeated [default: $SYNC_ENGINE_WS_URL, comma-separated]
    #[arg(long = "peer", value_name = "URL")]
    pub(crate) peers: Vec<String>,
    /// File with the secret that peers and the HTTP interface ask for
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
pub(crate) struct Attach {
    #[command(flatten)]
    pub(crate) databases: Databases,
    /// Configuration file that may say more about the databases [default: as for run]
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
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
pub(crate) struct Migrate {
    /// Database file
    #[arg(value_name = "DB")]
    pub(crate) database: PathBuf,
    /// The command and its arguments
    #[arg(value_name = "COMMAND", last = true, required = true)]
    pub(crate) command: Vec<OsString>,
}

/// Where the running daemon is.
#[derive(Debug, Args)]
pub(crate) struct Where {
    /// Where the daemon listens, as http://HOST:PORT or https://HOST:PORT [default: from the configuration, else http://127.0.0.1:7420]
    #[arg(long, value_name = "URL")]
    pub(crate) url: Option<String>,
    /// Configuration file that names the listen address, the token and the certificates [default: as for run]
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// File with the token that the daemon asks for [default: from the configuration]
    #[arg(long, value_name = "FILE")]
    pub(crate) token_file: Option<PathBuf>,
    /// File with the certificate of the authority that signed the daemon's [default: from the configuration, else the system's]
    #[arg(long, value_name = "FILE")]
    pub(crate) ca: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct Status {
    #[command(flatten)]
    pub(crate) place: Where,
    /// Show it again and again, until Ctrl-C
    #[arg(long)]
    pub(crate) watch: bool,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Forget {
    /// The node's name, as `status` shows it
    #[arg(value_name = "NODE")]
    pub(crate) node: String,
    #[command(flatten)]
    pub(crate) place: Where,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Verify {
    /// A file; with --peer, a database of the running daemon, by its name or its path
    #[arg(value_name = "DB")]
    pub(crate) first: String,
    /// The file to compare it with
    #[arg(value_name = "OTHER", required_unless_present = "peer", conflicts_with = "peer")]
    pub(crate) second: Option<PathBuf>,
    /// The peer to compare with, as ws://host:port
    #[arg(long, value_name = "URL")]
    pub(crate) peer: Option<String>,
    /// Make the rows that differ equal: on both sides the one that was written last, as a new change
    #[arg(long)]
    pub(crate) repair: bool,
    /// Keys to list of each table at most
    #[arg(long, value_name = "N", default_value = "100")]
    pub(crate) limit: usize,
    #[command(flatten)]
    pub(crate) place: Where,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Conflicts {
    /// List records, the newest first
    #[command(
        after_help = "Examples:\n  sync-engine conflicts list\n  sync-engine conflicts list --table stock --since 2026-11-23 --json"
    )]
    List(ConflictList),
    /// Show both rows of a record next to each other
    #[command(after_help = "Examples:\n  sync-engine conflicts show inventory:12")]
    Show(ConflictId),
    /// Write the losing row back, as a new change that all nodes receive
    #[command(after_help = "Examples:\n  sync-engine conflicts restore inventory:12")]
    Restore(ConflictId),
    /// Close a record and leave the rows as they are
    #[command(after_help = "Examples:\n  sync-engine conflicts dismiss inventory:12")]
    Dismiss(ConflictId),
}

#[derive(Debug, Args)]
pub(crate) struct ConflictList {
    /// Only of this database
    #[arg(long, value_name = "NAME")]
    pub(crate) database: Option<String>,
    /// Only of this table
    #[arg(long, value_name = "TABLE")]
    pub(crate) table: Option<String>,
    /// Only of this kind, such as update_origin_differs
    #[arg(long, value_name = "KIND", value_parser = conflicts::kind)]
    pub(crate) kind: Option<String>,
    /// Only in this state: open, restored, dismissed or all
    #[arg(long, value_name = "STATE", default_value = "open", value_parser = word)]
    pub(crate) state: String,
    /// Only with a side that this node wrote
    #[arg(long, value_name = "NODE")]
    pub(crate) node: Option<String>,
    /// Only decided then or later: 2026-11-23T10:00:00Z or 2026-11-23
    #[arg(long, value_name = "TIME", value_parser = conflicts::moment)]
    pub(crate) since: Option<SystemTime>,
    /// Only those that come after this one in the list, which begins with the newest: the next page
    #[arg(long, value_name = "ID")]
    pub(crate) before: Option<String>,
    /// Not more than so many
    #[arg(long, value_name = "N", default_value = "100", value_parser = conflicts::limit)]
    pub(crate) limit: u32,
    #[command(flatten)]
    pub(crate) place: Where,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// A word that is a state of records.
fn word(text: &str) -> Result<String, String> {
    conflicts::state(text).map(|_| text.to_owned())
}

#[derive(Debug, Args)]
pub(crate) struct ConflictId {
    /// The record, as the list shows it: DATABASE:NUMBER; the number alone where only one database has it
    #[arg(value_name = "ID")]
    pub(crate) id: String,
    #[command(flatten)]
    pub(crate) place: Where,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Config {
    /// Report everything that is wrong with the configuration
    #[command(
        after_help = "Examples:\n  sync-engine config check\n  sync-engine config check --config new.toml   before it takes the old one's place"
    )]
    Check(ConfigFile),
    /// Print the configuration as it takes effect
    #[command(after_help = "Examples:\n  sync-engine config show\n  sync-engine config show --config new.toml --json")]
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

#[cfg(test)]
mod tests {
    use clap::{Command, CommandFactory as _, Parser as _};

    use super::{Cli, EXAMPLES};

    fn each(command: &Command, look: &mut impl FnMut(&Command)) {
        look(command);
        command.get_subcommands().for_each(|subcommand| each(subcommand, look));
    }

    fn words(example: &str) -> Vec<&str> {
        // What follows two spaces is told of the example.
        example.trim_start().split("  ").next().unwrap_or_default().split(' ').collect()
    }

    #[test]
    fn each_command_has_examples_that_are_understood() {
        let mut command = Cli::command().disable_help_subcommand(true);
        command.build();
        each(&command, &mut |command| {
            let name = command.get_display_name().unwrap_or_else(|| command.get_name());
            let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            let (_, examples) = help.split_once(EXAMPLES).unwrap_or_else(|| panic!("{name} has no {EXAMPLES:?}"));
            let examples: Vec<&str> = examples.lines().take_while(|line| line.starts_with("  ")).collect();
            assert!(!examples.is_empty(), "{name} has no example");
            for example in examples {
                let words = words(example);
                assert_eq!(words.first(), Some(&"sync-engine"), "{example}");
                assert!(words.join("-").starts_with(name), "it is not of {name}: {example}");
                Cli::try_parse_from(words).unwrap_or_else(|error| panic!("{example}: {error}"));
            }
        });
    }

    #[test]
    fn the_command_line_is_one() {
        Cli::command().debug_assert();
    }
}
