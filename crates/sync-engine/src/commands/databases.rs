//! `sync-engine attach` and `sync-engine detach`.

use std::path::Path;
use std::process::ExitCode;

use anyhow::Context as _;
use serde_json::{Value as Json, json};
use sqlite_store::app_triggers::TriggerClass;
use sqlite_store::attach::Attached;
use sqlite_store::{attach, connection, detach};

use crate::cli::Databases;
use crate::commands::say;

/// Attaches each database and says what will be synced.
pub(crate) fn attach(arguments: &Databases) -> anyhow::Result<ExitCode> {
    let mut reports = Vec::new();
    for path in &arguments.databases {
        let attached = attach_one(path)?;
        if arguments.json {
            reports.push(report(path, &attached));
        } else {
            show(path, &attached);
        }
    }
    if arguments.json {
        say(&Json::Array(reports).to_string());
    }
    Ok(ExitCode::SUCCESS)
}

fn attach_one(path: &Path) -> anyhow::Result<Attached> {
    let mut conn = connection::open(path)?;
    let node = sync_engine::config::host_name();
    attach::attach(&mut conn, sqlite_store::new_origin(), &node)
        .with_context(|| format!("cannot attach {}", path.display()))
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
            })
        })
        .collect();
    let unsynced: Vec<Json> = attached
        .schema
        .unsynced
        .iter()
        .map(|table| json!({ "table": table.table, "reason": table.reason, "remedy": table.remedy }))
        .collect();
    let triggers: Vec<Json> = attached
        .app_triggers
        .iter()
        .map(|trigger| json!({ "trigger": trigger.name, "table": trigger.table, "on_apply": class(&trigger.class) }))
        .collect();
    json!({
        "path": path.display().to_string(),
        "origin": attached.origin.to_string(),
        "created": attached.created,
        "tables": synced,
        "unsynced": unsynced,
        "triggers": triggers,
    })
}

fn show(path: &Path, attached: &Attached) {
    let state = if attached.created { "attached" } else { "attached before, checked" };
    say(&format!("{}: {state}, origin {}", path.display(), attached.origin));
    for table in &attached.schema.tables {
        let key: Vec<&str> = table.key_columns().map(|column| column.name.as_str()).collect();
        say(&format!("  synced      {} (key {})", table.name, key.join(", ")));
    }
    for table in &attached.schema.unsynced {
        say(&format!("  not synced  {}: {}; {}", table.table, table.reason, table.remedy));
    }
    for trigger in &attached.app_triggers {
        say(&format!("  trigger     {} on {}: {}", trigger.name, trigger.table, class(&trigger.class)));
    }
}

fn class(class: &TriggerClass) -> String {
    match class {
        TriggerClass::Silent => "does not run on applied changes; its effects arrive as changes".to_owned(),
        TriggerClass::Copied => "runs on applied changes too: it writes only what is not synced".to_owned(),
        TriggerClass::Mixed => {
            "does not run on applied changes; it also writes what is not synced, which will lag: split it in two"
                .to_owned()
        }
        TriggerClass::Unusable { reason } => format!("does not run on applied changes: {reason}"),
    }
}

/// Detaches each database.
pub(crate) fn detach(arguments: &Databases) -> anyhow::Result<ExitCode> {
    let mut reports = Vec::new();
    for path in &arguments.databases {
        let mut conn = connection::open(path)?;
        let detached = detach::detach(&mut conn).with_context(|| format!("cannot detach {}", path.display()))?;
        if arguments.json {
            reports.push(json!({
                "path": path.display().to_string(),
                "triggers": detached.triggers,
                "tables": detached.tables,
            }));
        } else if detached.tables == 0 {
            say(&format!("{}: was not attached", path.display()));
        } else {
            let (triggers, tables) = (detached.triggers, detached.tables);
            say(&format!("{}: detached; {triggers} triggers and {tables} tables removed", path.display()));
        }
    }
    if arguments.json {
        say(&Json::Array(reports).to_string());
    }
    Ok(ExitCode::SUCCESS)
}
