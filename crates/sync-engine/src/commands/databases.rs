//! `sync-engine attach` and `sync-engine detach`.

use std::path::Path;
use std::process::ExitCode;

use anyhow::Context as _;
use serde_json::{Value as Json, json};
use sqlite_store::attach::{AttachRules, Attached};
use sqlite_store::detach::Detached;
use sqlite_store::{StoreError, TableNames, attach, connection, detach};
use sync_engine::Database;
use sync_engine::config::{self, Overrides, Settings};
use sync_engine::status::{RemoteNames, TriggerStatus, WarningStatus};

use crate::cli::{Attach, Databases};
use crate::commands::{complain, environment, say};

/// Attaches each database and says what will be synced. What the configuration says of a database holds for it here too.
pub(crate) fn attach(arguments: &Attach) -> anyhow::Result<ExitCode> {
    let settings = config::load(arguments.config.as_deref(), &Overrides::default(), &environment())?;
    each(&arguments.databases, |path| attach_one(path, &settings), report, show)
}

/// Does something with every database, also after one that fails; the last failure is the command's.
fn each<T>(
    arguments: &Databases,
    act: impl Fn(&Path) -> anyhow::Result<T>,
    report: impl Fn(&Path, &T) -> Json,
    show: impl Fn(&Path, &T),
) -> anyhow::Result<ExitCode> {
    let mut reports = Vec::new();
    let mut failed: Option<anyhow::Error> = None;
    for path in &arguments.databases {
        match act(path) {
            Ok(done) if arguments.json => reports.push(report(path, &done)),
            Ok(done) => show(path, &done),
            Err(error) => {
                if let Some(before) = failed.replace(error) {
                    complain(&before);
                }
            }
        }
    }
    if arguments.json {
        say(&Json::Array(reports).to_string());
    }
    failed.map_or(Ok(ExitCode::SUCCESS), Err)
}

fn attach_one(path: &Path, settings: &Settings) -> anyhow::Result<Attached> {
    let mut conn = connection::open(path).map_err(OneShot)?;
    let described =
        settings.databases.iter().find(|database| database.path.canonicalize().ok() == path.canonicalize().ok());
    let rules = described.map_or_else(AttachRules::default, |database| AttachRules {
        key_ranges: database.key_ranges,
        triggers: database.triggers.clone(),
        names: Some(database.wire_names()),
        selection: Some(database.selection.clone()),
    });
    let merge = described.map(|database| Database::configured(database).rules());
    attach::attach_with(&mut conn, sqlite_store::new_origin(), &settings.node, merge.as_ref(), &rules)
        .map_err(OneShot)
        .with_context(|| format!("cannot attach {}", path.display()))
}

/// An error of a command that does not try again.
#[derive(Debug, thiserror::Error)]
#[error("{}; {}", .0, remedy(.0))]
pub(crate) struct OneShot(pub(super) StoreError);

/// What to do about it where there is no daemon.
fn remedy(error: &StoreError) -> &'static str {
    match error.kind() {
        "busy" => "try again when the program that holds the lock has let go",
        "migrating" => "try again when the migration is over",
        "read_only" | "permission" => "let this user write the file and its folder",
        "missing" => "check the path; this user needs to read and write the file and its folder",
        _ => error.remedy(),
    }
}

fn report(path: &Path, attached: &Attached) -> Json {
    let synced: Vec<Json> = attached
        .schema
        .tables
        .iter()
        .map(|table| {
            json!({
                "table": table.name,
                "key": table.key_columns().map(|column| column.name.as_str()).collect::<Vec<_>>(),
                "excluded_columns": table.excluded,
            })
        })
        .collect();
    let remote_names: Vec<RemoteNames> = TableNames::of(&attached.schema).iter().filter_map(RemoteNames::of).collect();
    let unsynced: Vec<Json> = attached
        .schema
        .unsynced
        .iter()
        .map(|table| json!({ "table": table.table, "reason": table.reason, "remedy": table.remedy }))
        .collect();
    let triggers: Vec<TriggerStatus> = attached.app_triggers.iter().map(TriggerStatus::from).collect();
    let warnings: Vec<WarningStatus> = attached.warnings.iter().map(WarningStatus::from).collect();
    json!({
        "path": path.display().to_string(),
        "origin": attached.origin.to_string(),
        "created": attached.created,
        "tables": synced,
        "remote_names": remote_names,
        "unsynced": unsynced,
        "triggers": triggers,
        "warnings": warnings,
    })
}

fn show(path: &Path, attached: &Attached) {
    let state = if attached.created { "attached" } else { "attached before, checked" };
    say(&format!("{}: {state}, origin {}", path.display(), attached.origin));
    let remote_names: Vec<RemoteNames> = TableNames::of(&attached.schema).iter().filter_map(RemoteNames::of).collect();
    for table in &attached.schema.tables {
        let key: Vec<&str> = table.key_columns().map(|column| column.name.as_str()).collect();
        let without = match table.excluded.as_slice() {
            [] => String::new(),
            columns => format!("; without {}", columns.join(", ")),
        };
        say(&format!("  synced      {} (key {}{without})", table.name, key.join(", ")));
        if let Some(names) = remote_names.iter().find(|names| names.table == table.name) {
            say(&format!("    named     {names}"));
        }
        for warning in attached.warnings.iter().filter(|warning| warning.table.as_deref() == Some(&table.name)) {
            say(&format!("    warning   {}; {}", warning.reason, warning.remedy));
        }
    }
    for table in &attached.schema.unsynced {
        say(&format!("  not synced  {}: {}; {}", table.table, table.reason, table.remedy));
    }
    for trigger in &attached.app_triggers {
        let runs = if trigger.runs() { "runs on applied changes too" } else { "does not run on applied changes" };
        say(&format!("  trigger     {} on {}: {runs}: {}", trigger.name, trigger.table, trigger.why()));
    }
    let of_table = |name: &String| attached.schema.tables.iter().any(|table| table.name == *name);
    for warning in attached.warnings.iter().filter(|warning| !warning.table.as_ref().is_some_and(of_table)) {
        say(&format!("  warning     {}; {}", warning.reason, warning.remedy));
    }
}

/// Detaches each database.
pub(crate) fn detach(arguments: &Databases) -> anyhow::Result<ExitCode> {
    let report = |path: &Path, detached: &Detached| {
        json!({
            "path": path.display().to_string(),
            "triggers": detached.triggers,
            "tables": detached.tables,
        })
    };
    let show = |path: &Path, detached: &Detached| {
        let (triggers, tables) = (detached.triggers, detached.tables);
        if tables == 0 {
            say(&format!("{}: was not attached", path.display()));
        } else {
            say(&format!("{}: detached; {triggers} triggers and {tables} tables removed", path.display()));
        }
    };
    each(arguments, detach_one, report, show)
}

pub(super) fn detach_one(path: &Path) -> anyhow::Result<Detached> {
    let mut conn = connection::open(path).map_err(OneShot)?;
    detach::detach(&mut conn).map_err(OneShot).with_context(|| format!("cannot detach {}", path.display()))
}
