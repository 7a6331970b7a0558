//! `sync-engine sync`: one pass from one file to another.

use std::process::ExitCode;

use serde_json::{Map, Value as Json, json};
use sqlite_store::file_comparison::NotCompared;
use sqlite_store::file_merge::{
    FileMerge, FileMergeError, FileMergeOptions, FileMergeProgress, FileMergeStep, MissingParents, SOURCE, SkipKind,
    TARGET, TableMerge, merge_files,
};
use sync_engine::config::Policy;

use crate::cli::Sync;
use crate::commands::databases::OneShot;
use crate::commands::progress::Progress;
use crate::commands::{Misuse, NO, say};

/// Merges, and prints what was done.
pub(crate) fn run(arguments: &Sync) -> anyhow::Result<ExitCode> {
    let options = options(arguments)?;
    let (source, target) = (arguments.source.as_path(), arguments.target.as_path());
    let mut progress = Progress::new();
    let merged = merge_files(source, target, &options, &mut |now| show(&mut progress, now));
    drop(progress);
    let merged = merged.map_err(|error| told(error, arguments))?;
    let done = is_done(&merged, arguments);
    if arguments.json {
        say(&report(&merged, arguments, done).to_string());
    } else {
        print(&merged, arguments);
    }
    Ok(if done { ExitCode::SUCCESS } else { NO.into() })
}

fn options(arguments: &Sync) -> anyhow::Result<FileMergeOptions> {
    let mut options = FileMergeOptions {
        mirror: arguments.mirror,
        dry_run: arguments.dry_run,
        limit: arguments.limit,
        ..FileMergeOptions::default()
    };
    let priority = [SOURCE, TARGET].map(str::to_owned);
    let policy = Policy::of_database(&arguments.policy, &priority, arguments.timestamp_column.as_deref());
    let policy = policy.map_err(Misuse)?;
    match &arguments.timestamp_column {
        Some(column) => options.timestamp_columns = vec![column.clone()],
        // By default it goes by the columns that have the usual names.
        None if policy == Policy::LastWriteWins => {}
        None => options.policy = Some(policy.policy()),
    }
    Ok(options)
}

fn told(error: FileMergeError, arguments: &Sync) -> anyhow::Error {
    let (source, target) = (arguments.source.display(), arguments.target.display());
    match error {
        FileMergeError::SameFile { .. } => Misuse(format!("{error}; name two files")).into(),
        FileMergeError::Store(error) if !arguments.target.exists() && arguments.source.exists() => {
            let remedy = format!("to begin with a copy: sqlite3 {source} \".backup {target}\"");
            anyhow::Error::new(OneShot(error)).context(format!("there is no TARGET {target}; {remedy}"))
        }
        FileMergeError::Store(error) => {
            anyhow::Error::new(OneShot(error)).context(format!("cannot sync {source} into {target}"))
        }
        error @ FileMergeError::Encoding { .. } => error.into(),
    }
}

fn show(progress: &mut Progress, now: FileMergeProgress<'_>) {
    let FileMergeProgress { table, step, rows, done } = now;
    let what = match step {
        FileMergeStep::Compare => "comparing",
        FileMergeStep::Delete => "deleting",
        FileMergeStep::Update => "updating",
        FileMergeStep::Insert => "inserting",
    };
    match step {
        FileMergeStep::Compare => progress.tell(|| format!("table {table}: {what}")),
        _ => progress.tell_share(done, rows, || format!("table {table}: {what} ({done} of {rows})")),
    }
}

/// Whether TARGET holds what it was to hold.
fn is_done(merged: &FileMerge, arguments: &Sync) -> bool {
    let skips: u64 = merged.tables.iter().map(|table| table.conflict_skips).sum();
    let refused: u64 = merged.tables.iter().map(|table| table.refused).sum();
    let equal = || skips == 0 && !merged.left_out.iter().any(|table| table.differs);
    refused == 0 && merged.missing_parents.is_empty() && !merged.tables.is_empty() && (!arguments.mirror || equal())
}

/// The sums of all tables: inserts, updates, deletes, conflict_skips, refused.
fn sums(merged: &FileMerge) -> [(&'static str, u64); 5] {
    let sum = |count: fn(&TableMerge) -> u64| merged.tables.iter().map(count).sum();
    [
        ("inserts", sum(|table| table.inserts)),
        ("updates", sum(|table| table.updates)),
        ("deletes", sum(|table| table.deletes)),
        ("conflict_skips", sum(|table| table.conflict_skips)),
        ("refused", sum(|table| table.refused)),
    ]
}

fn report(merged: &FileMerge, arguments: &Sync, done: bool) -> Json {
    let mut report = Map::new();
    report.insert("ok".to_owned(), json!(done));
    report.insert("source".to_owned(), json!(arguments.source.display().to_string()));
    report.insert("target".to_owned(), json!(arguments.target.display().to_string()));
    report.insert("mirror".to_owned(), json!(arguments.mirror));
    report.insert("dry_run".to_owned(), json!(arguments.dry_run));
    report.extend(sums(merged).map(|(name, count)| (name.to_owned(), json!(count))));
    let tables: Vec<Json> = merged.tables.iter().map(table_report).collect();
    report.insert("tables".to_owned(), Json::Array(tables));
    let left_out = merged
        .left_out
        .iter()
        .map(|NotCompared { table, reason, differs }| json!({ "table": table, "reason": reason, "differs": differs }));
    report.insert("not_synced".to_owned(), left_out.collect());
    let missing = merged
        .missing_parents
        .iter()
        .map(|MissingParents { table, parent, rows }| json!({ "table": table, "parent": parent, "rows": rows }));
    report.insert("foreign_key_missing".to_owned(), missing.collect());
    let triggers = merged.triggers.iter().map(|(trigger, why)| json!({ "trigger": trigger, "why": why }));
    report.insert("triggers".to_owned(), triggers.collect());
    report.insert("captured".to_owned(), json!(merged.captured));
    Json::Object(report)
}

fn table_report(table: &TableMerge) -> Json {
    let skipped: Vec<Json> = table
        .skipped
        .iter()
        .map(|row| {
            let mut told = json!({ "key": named_key(table, &row.key), "kind": row.kind.as_str() });
            if let Some(reason) = &row.reason {
                told["reason"] = json!(reason);
            }
            told
        })
        .collect();
    json!({
        "table": table.table,
        "inserts": table.inserts,
        "updates": table.updates,
        "deletes": table.deletes,
        "conflict_skips": table.conflict_skips,
        "refused": table.refused,
        "nameless": table.nameless,
        "skipped": skipped,
    })
}

fn named_key(table: &TableMerge, key: &[Json]) -> Json {
    Json::Object(table.key.iter().cloned().zip(key.iter().cloned()).collect())
}

fn print(merged: &FileMerge, arguments: &Sync) {
    for table in &merged.tables {
        print_table(table, arguments);
    }
    for NotCompared { table, reason, .. } in &merged.left_out {
        say(&format!("table {table}: not synced: {reason}"));
    }
    for MissingParents { table, parent, rows } in &merged.missing_parents {
        say(&format!("table {table}: {rows} rows lack their parents in table {parent} now"));
    }
    for (trigger, why) in &merged.triggers {
        say(&format!("trigger {trigger}: did not run: {why}"));
    }
    if merged.tables.is_empty() {
        say("the files have no table in common that can be synced");
    }
    let sums: Vec<String> = sums(merged)
        .iter()
        .filter(|(name, count)| *name != "refused" || *count > 0)
        .map(|(name, count)| format!("{count} {name}"))
        .collect();
    let (source, target) = (arguments.source.display(), arguments.target.display());
    let would = if arguments.dry_run { "; nothing is changed: this was a dry run" } else { "" };
    say(&format!("{source} -> {target}: {}{would}", sums.join(", ")));
}

fn print_table(table: &TableMerge, arguments: &Sync) {
    let TableMerge { inserts, updates, deletes, conflict_skips, refused, nameless, .. } = table;
    let counts = [
        (*inserts, "inserts"),
        (*updates, "updates"),
        (*deletes, "deletes"),
        (*conflict_skips, "conflict_skips"),
        (*refused, "refused"),
    ];
    let counts: Vec<String> =
        counts.iter().filter(|(count, _)| *count > 0).map(|(count, what)| format!("{count} {what}")).collect();
    let counts = if counts.is_empty() { "nothing to do".to_owned() } else { counts.join(", ") };
    say(&format!("table {}: {counts}", table.table));
    let [theirs, ours] = nameless;
    if theirs + ours > 0 {
        say(&format!("  {theirs} rows of SOURCE and {ours} of TARGET have NULL in their key and are left as they are"));
    }
    // What is refused is always told: nothing else says what to do about it.
    let listed = table
        .skipped
        .iter()
        .filter(|row| arguments.verbose || matches!(row.kind, SkipKind::Constraint | SkipKind::Policy));
    let mut lines = 0;
    for row in listed {
        let reason = row.reason.as_ref().map(|reason| format!(": {reason}")).unwrap_or_default();
        say(&format!("  {} {}{reason}", named_key(table, &row.key), row.kind.as_str()));
        lines += 1;
    }
    let told = if arguments.verbose { conflict_skips + refused } else { *refused };
    if told > lines {
        say(&format!("  and {} more; --limit lists more of them", told - lines));
    }
}
