//! `sync-engine verify`: compares two files, or a database with a peer's, and makes what differs equal.

mod comparing;
mod files;
mod judging;
mod repairing;
mod report;
mod side;

use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context as _, bail};
use sync_engine::status::Status;

use crate::cli::Verify;
use crate::commands::daemon::Daemon;
use crate::commands::progress::Progress;
use crate::commands::{NO, asynchronously};
use comparing::Comparison;
use report::Report;
use side::Side;

/// Compares, repairs if that is wanted, and prints what differs.
pub(crate) fn run(arguments: &Verify) -> anyhow::Result<ExitCode> {
    let mut report = match (&arguments.peer, &arguments.second) {
        (Some(peer), _) => with_peer(arguments, peer)?,
        (None, Some(second)) => two_files(arguments, Path::new(&arguments.first), second)?,
        (None, None) => bail!("name the other file, or a peer with --peer"),
    };
    report.print(arguments.json);
    Ok(if report.is_equal() { ExitCode::SUCCESS } else { NO.into() })
}

fn with_peer(arguments: &Verify, peer: &str) -> anyhow::Result<Report> {
    let other = Daemon::of_peer(peer, &arguments.place)?;
    let daemon = Daemon::find(&arguments.place)?;
    let status = daemon.get("/v1/status")?.expect_done()?;
    let status: Status = serde_json::from_str(&status).context("the daemon's answer is of another version")?;
    let name = database_of(&status, &arguments.first)?;
    let sides = [Side::new(daemon, &name), Side::new(other, &name)];
    compare_sides(&sides, arguments)
}

/// The database that is meant, by its name or its path.
fn database_of(status: &Status, given: &str) -> anyhow::Result<String> {
    let path = Path::new(given).canonicalize().ok();
    let is_meant = |path_there: &str| path.is_some() && Path::new(path_there).canonicalize().ok() == path;
    let mut databases = status.databases.iter();
    let found = databases.find(|database| database.name == given || is_meant(&database.path));
    let Some(found) = found else {
        let names: Vec<&str> = status.databases.iter().map(|database| database.name.as_str()).collect();
        bail!("the daemon of node {} has no database {given:?}; it has: {}", status.node, names.join(", "));
    };
    Ok(found.name.clone())
}

/// Compares two databases that are asked, and repairs what differs if that is wanted.
fn compare_sides(sides: &[Side; 2], arguments: &Verify) -> anyhow::Result<Report> {
    let mut progress = Progress::new();
    let mut comparison = Comparison::new(sides, arguments.limit, arguments.repair);
    comparison.run(&mut progress)
}

fn two_files(arguments: &Verify, first: &Path, second: &Path) -> anyhow::Result<Report> {
    let report = files::compare(first, second, arguments.limit, arguments.repair)?;
    if report.is_equal() || !arguments.repair {
        return Ok(report);
    }
    asynchronously(repairing::repair(first, second, arguments))?;
    // What is told is what the files hold in the end.
    Ok(files::compare(first, second, arguments.limit, arguments.repair)?.after(report))
}
