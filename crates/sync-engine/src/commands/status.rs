//! `sync-engine status`: asks the running daemon.

use std::process::ExitCode;

use anyhow::Context as _;
use sync_engine::status::{DatabaseStatus, Status as Report, TriggerStatus};

use crate::cli::Status;
use crate::commands::daemon::Daemon;
use crate::commands::{NO, say};

/// Prints what the daemon says of itself.
pub(crate) fn run(arguments: &Status) -> anyhow::Result<ExitCode> {
    let answer = Daemon::find(&arguments.place)?.get("/v1/status")?.expect_done()?;
    let report: Report = serde_json::from_str(&answer).context("the daemon's answer is of another version")?;
    if arguments.json {
        say(answer.trim_end());
    } else {
        show(&report);
    }
    Ok(if report.healthy { ExitCode::SUCCESS } else { NO.into() })
}

/// Triggers, warnings and rows without parents.
fn show_rules(database: &DatabaseStatus) {
    for TriggerStatus { trigger, table, on_apply, why } in &database.triggers {
        let runs = if on_apply == "run" { "runs" } else { "does not run" };
        say(&format!("  trigger {trigger} on {table}: {runs} on applied changes: {why}"));
    }
    for warning in &database.warnings {
        let table = warning.table.as_deref().map(|table| format!("{table}: ")).unwrap_or_default();
        say(&format!("  warning: {table}{}; {}", warning.reason, warning.remedy));
    }
    let missing = &database.foreign_key_missing;
    if missing.count > 0 {
        say(&format!("  rows whose parents are not here: {}", missing.count));
    }
    for row in &missing.first {
        say(&format!("    {} {} lacks {}", row.table, row.key, row.parent));
    }
}

fn show(report: &Report) {
    say(&format!("node {}, version {}, up {} s", report.node, report.version, report.uptime_seconds));
    for database in &report.databases {
        say(&format!(
            "database {} ({}): {}, sequence {}, {} tables, backlog {}, parked {}, passed on {}, conflicts {}",
            database.name,
            database.path,
            database.state,
            database.sequence,
            database.tables.len(),
            database.backlog,
            database.parked,
            database.passed_on,
            database.conflicts
        ));
        for error in &database.errors {
            say(&format!("  error: {error}"));
        }
        for names in &database.remote_names {
            say(&format!("  table {} is {names}", names.table));
        }
        for table in &database.unsynced {
            say(&format!("  not synced: {} ({})", table.table, table.reason));
        }
        for (table, columns) in &database.excluded_columns {
            say(&format!("  not synced: {} of {table} (excluded by configuration)", columns.join(", ")));
        }
        if database.tombstones.kept > 0 {
            let waiting_for = match database.tombstones.waiting_for.as_slice() {
                [] => String::new(),
                nodes => format!(", waiting for {}", nodes.join(", ")),
            };
            say(&format!("  deletions remembered: {}{waiting_for}", database.tombstones.kept));
        }
        show_rules(database);
    }
    for peer in &report.peers {
        let name = peer.node.as_deref().unwrap_or("?");
        say(&format!("peer {name} ({}): {}, in {} B, out {} B", peer.url, peer.state, peer.bytes_in, peer.bytes_out));
        for database in &peer.databases {
            say(&format!("  {}: behind {}, for {} ms", database.name, database.behind, database.lag_ms));
        }
        if let Some(error) = &peer.last_error {
            say(&format!("  last error: {error}"));
        }
    }
}
