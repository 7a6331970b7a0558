//! `sync-engine pair`.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

/// What `pair` is told.
#[derive(Debug, Args)]
pub(crate) struct Pair {
    /// Two files to keep in step; a colon in a path is written \:
    #[arg(value_name = "A:B", required = true)]
    pub(crate) pairs: Vec<OsString>,
    /// The longest pause between two looks for commits, fractions too; where the system tells of a commit, it is seen at once
    #[arg(long, value_name = "SECONDS", default_value = "1", value_parser = seconds, conflicts_with = "once")]
    pub(crate) interval: Duration,
    /// Exchange what was committed until now, and end
    #[arg(long)]
    pub(crate) once: bool,
    /// Who decides conflicts: last-write-wins, first-write-wins, origin-priority (the file that is named first), max, min or union
    #[arg(long, value_name = "POLICY", default_value = "last-write-wins")]
    pub(crate) policy: String,
    /// A column that last-write-wins goes by, such as updated_at, before the time of the commit
    #[arg(long, value_name = "COLUMN")]
    pub(crate) timestamp_column: Option<String>,
    /// Where it is remembered which files these are [default: $STATE_DIRECTORY, else $XDG_STATE_HOME/sync-engine/pair, else
    /// ~/.local/state/sync-engine/pair]
    #[arg(long, value_name = "DIR")]
    pub(crate) state_dir: Option<PathBuf>,
    /// Write synchronization.log in this folder; without it conflicts and errors are told on standard error
    #[arg(long, value_name = "DIR")]
    pub(crate) log_dir: Option<PathBuf>,
    /// Take capture out of the files in the end, if they are equal then: what is written after that is compared as at the first run, and deletions are not
    /// seen
    #[arg(long, requires = "once")]
    pub(crate) detach: bool,
    /// Say nothing of pairs without errors
    #[arg(long, short, conflicts_with = "json")]
    pub(crate) quiet: bool,
    /// Print JSON: one object a line, for each pair and pass
    #[arg(long)]
    pub(crate) json: bool,
}

/// Seconds with fractions.
fn seconds(text: &str) -> Result<Duration, String> {
    let range = 0.01..=86_400.0;
    let seconds = text.parse::<f64>().ok().filter(|seconds| range.contains(seconds));
    seconds.map(Duration::from_secs_f64).ok_or_else(|| "write seconds from 0.01 to 86400".to_owned())
}
