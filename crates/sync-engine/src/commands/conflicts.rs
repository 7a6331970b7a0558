//! `sync-engine conflicts`: looks at the running daemon's conflict records, and acts on them.

use std::process::ExitCode;

use anyhow::Context as _;
use serde_json::Value as Json;
use sync_engine::conflicts;
use sync_engine::{ConflictFilter, ConflictRecord, RecordSide};

use crate::cli::{ConflictId, ConflictList, Conflicts};
use crate::commands::daemon::Daemon;
use crate::commands::say;

/// How wide a value is shown next to another.
const WIDTH: usize = 40;

/// Runs one of the commands.
pub(crate) fn run(command: &Conflicts) -> anyhow::Result<ExitCode> {
    match command {
        Conflicts::List(arguments) => list(arguments)?,
        Conflicts::Show(arguments) => {
            let record = one(arguments, |daemon, path| daemon.get(path), "")?;
            record.iter().flat_map(shown).for_each(|line| say(&line));
        }
        Conflicts::Restore(arguments) => {
            let record = one(arguments, |daemon, path| daemon.post(path), "/restore")?;
            record.iter().flat_map(restored).for_each(|line| say(&line));
        }
        Conflicts::Dismiss(arguments) => {
            let record = one(arguments, |daemon, path| daemon.post(path), "/dismiss")?;
            record.iter().for_each(|record| say(&format!("dismissed {}", plain(&record.id))));
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn list(arguments: &ConflictList) -> anyhow::Result<()> {
    let filter = ConflictFilter {
        database: arguments.database.clone(),
        table: arguments.table.clone(),
        kind: arguments.kind.clone(),
        state: conflicts::state(&arguments.state).map_err(anyhow::Error::msg)?,
        node: arguments.node.clone(),
        since: arguments.since,
        before: arguments.before.clone(),
        limit: arguments.limit,
    };
    let daemon = Daemon::find(&arguments.place)?;
    let body = daemon.get(&format!("/v1/conflicts?{}", filter.to_query()))?.expect_done()?;
    if arguments.json {
        say(body.trim_end());
        return Ok(());
    }
    let records: Vec<ConflictRecord> =
        serde_json::from_str(&body).context("the daemon's answer is of another version")?;
    if records.is_empty() {
        say(&format!("no conflict records ({})", arguments.state));
    }
    records.iter().for_each(|record| say(&line(record)));
    let full = usize::try_from(arguments.limit).is_ok_and(|limit| records.len() >= limit);
    if let Some(last) = records.last().filter(|_| full) {
        say(&format!("there may be more: add --before {}", plain(&last.id)));
    }
    Ok(())
}

/// Asks about one record. The answer as the daemon gave it is printed where JSON is wanted; else the record is returned.
fn one(
    arguments: &ConflictId,
    ask: impl FnOnce(&Daemon, &str) -> Result<super::daemon::Answer, super::daemon::Unreachable>,
    what: &str,
) -> anyhow::Result<Option<ConflictRecord>> {
    let daemon = Daemon::find(&arguments.place)?;
    let path = format!("/v1/conflicts/{}{what}", conflicts::path_segment(&arguments.id));
    let body = ask(&daemon, &path)?.expect_done()?;
    if arguments.json {
        say(body.trim_end());
        return Ok(None);
    }
    serde_json::from_str(&body).map(Some).context("the daemon's answer is of another version")
}

/// A record in a line.
fn line(record: &ConflictRecord) -> String {
    let node = |side: &Option<RecordSide>| side.as_ref().map_or("?".to_owned(), |side| plain(&side.node));
    format!(
        "{}  {}  {}  {}  {} {}  {} over {}  {}",
        plain(&record.id),
        record.at,
        record.state,
        record.kind,
        plain(&record.table),
        record.key,
        node(&record.winner),
        node(&record.loser),
        record.outcome
    )
}

/// What a restore did, for people.
fn restored(record: &ConflictRecord) -> Vec<String> {
    let what = match &record.loser {
        Some(RecordSide { row: None, .. }) => "is deleted again",
        _ => "is written back",
    };
    let mut lines = vec![format!(
        "restored {}: the row {} of table {} {what}, as a new change of this node",
        plain(&record.id),
        record.key,
        plain(&record.table)
    )];
    if record.replaced.as_ref().is_some_and(|side| side.row.is_some()) {
        lines.push(format!("the row that it replaced is kept: sync-engine conflicts show {}", plain(&record.id)));
    }
    if !record.left_out.is_empty() {
        lines.push(format!("left out, because the table no longer has them: {}", plain(&record.left_out.join(", "))));
    }
    lines
}

/// A record with its sides next to each other.
fn shown(record: &ConflictRecord) -> Vec<String> {
    let mut lines = vec![
        format!("conflict {}, {}", plain(&record.id), record.state),
        format!("table {}, key {}", plain(&record.table), record.key),
        format!("{}, decided {} by {}: {}", record.kind, record.at, plain(&record.policy), record.outcome),
    ];
    if !record.columns.is_empty() {
        lines.push(format!("columns in conflict: {}", plain(&record.columns.join(", "))));
    }
    lines.push(String::new());
    let mut sides = vec![("winner", &record.winner), ("loser", &record.loser)];
    if record.replaced.is_some() {
        sides.push(("replaced", &record.replaced));
    }
    lines.extend(aligned(&table(&sides)));
    if !record.left_out.is_empty() {
        let names = plain(&record.left_out.join(", "));
        lines.push(String::new());
        lines.push(format!("left out when it was restored, because the table no longer has them: {names}"));
    }
    lines
}

/// The cells: a name, then a value for each side. A star marks columns in which winner and loser differ.
fn table(sides: &[(&str, &Option<RecordSide>)]) -> Vec<Vec<String>> {
    let about = |name: &str, tell: &dyn Fn(&RecordSide) -> String| -> Vec<String> {
        let cells = sides.iter().map(|(_, side)| side.as_ref().map_or_else(String::new, tell));
        std::iter::once(name.to_owned()).chain(cells).collect()
    };
    let head = sides.iter().map(|(name, _)| (*name).to_owned());
    let mut rows = vec![std::iter::once(String::new()).chain(head).collect()];
    rows.push(about("  node", &|side| plain(&side.node)));
    rows.push(about("  written", &|side| side.timestamp.clone()));
    rows.push(about("  change", &|side| side.dot.clone()));
    if sides.iter().any(|(_, side)| side.as_ref().is_some_and(|side| side.row.is_none())) {
        rows.push(about("  row", &|side| if side.row.is_some() { String::new() } else { "deleted".to_owned() }));
    }
    for column in columns(sides) {
        let value = |side: &Option<RecordSide>| -> Option<Json> { side.as_ref()?.row.as_ref()?.get(&column).cloned() };
        let differs = sides.len() > 1 && value(sides[0].1) != value(sides[1].1);
        let cells = sides.iter().map(|(_, side)| value(side).map_or_else(String::new, |value| short(&value)));
        let name = format!("{} {}", if differs { "*" } else { " " }, plain(&column));
        rows.push(std::iter::once(name).chain(cells).collect());
    }
    rows
}

/// The columns of all sides, in their order.
fn columns(sides: &[(&str, &Option<RecordSide>)]) -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    let rows = sides.iter().filter_map(|(_, side)| side.as_ref()?.row.as_ref());
    for name in rows.flat_map(|row| row.keys()) {
        if !names.contains(name) {
            names.push(name.clone());
        }
    }
    names
}

/// Lines in which the cells stand below each other.
fn aligned(rows: &[Vec<String>]) -> Vec<String> {
    let count = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |place: usize| rows.iter().filter_map(|row| row.get(place)).map(|cell| cell.chars().count()).max();
    let widths: Vec<usize> = (0..count).map(|place| width(place).unwrap_or(0)).collect();
    let line = |row: &Vec<String>| {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}"));
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    rows.iter().map(line).collect()
}

/// A value as JSON, shortened. What could steer a terminal is escaped.
fn short(value: &Json) -> String {
    let text = plain(&value.to_string());
    if text.chars().count() <= WIDTH {
        return text;
    }
    text.chars().take(WIDTH - 1).chain("…".chars()).collect()
}

/// A text without characters that could steer a terminal.
fn plain(text: &str) -> String {
    let escaped = |c: char| if c.is_control() { c.escape_default().collect() } else { c.to_string() };
    text.chars().map(escaped).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use sync_engine::ConflictRecord;

    use super::{line, shown};

    fn record() -> ConflictRecord {
        let side = |node: &str, sequence: u32, qty: u32| {
            json!({
                "node": node, "dot": format!("0191:{sequence}"), "timestamp": "2026-11-23T10:00:00.123Z",
                "row": { "sku": "A-1", "qty": qty, "note": "x".repeat(50) },
            })
        };
        serde_json::from_value(json!({
            "id": "shop:12", "database": "shop", "table": "st\u{1b}ock", "key": { "sku": "A-1" },
            "kind": "update_origin_differs", "policy": "last-write-wins", "outcome": "skip",
            "at": "2026-11-23T10:00:01.000Z", "columns": ["qty"], "winner": side("berlin", 7, 5),
            "loser": side("oslo", 12, 40), "state": "open",
        }))
        .unwrap()
    }

    #[test]
    fn both_sides_stand_next_to_each_other_with_what_differs_marked() {
        let lines = shown(&record());
        assert_eq!(
            lines[3..],
            [
                "columns in conflict: qty",
                "",
                "           winner                                    loser",
                "  node     berlin                                    oslo",
                "  written  2026-11-23T10:00:00.123Z                  2026-11-23T10:00:00.123Z",
                "  change   0191:7                                    0191:12",
                "  sku      \"A-1\"                                     \"A-1\"",
                "* qty      5                                         40",
                "  note     \"xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx…  \"xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx…",
            ]
        );
    }

    #[test]
    fn a_side_that_deleted_the_row_says_so() {
        let mut record = record();
        if let Some(loser) = &mut record.loser {
            loser.row = None;
        }
        let lines = shown(&record);
        assert!(lines.iter().any(|line| line.starts_with("  row") && line.ends_with("deleted")), "{lines:#?}");
        assert!(lines.iter().any(|line| line.starts_with("* sku")), "{lines:#?}");
    }

    #[test]
    fn a_line_holds_nothing_that_steers_a_terminal() {
        let line = line(&record());
        assert!(!line.contains('\u{1b}') && line.contains("st\\u{1b}ock"), "{line}");
        assert!(line.starts_with("shop:12  2026-11-23T10:00:01.000Z  open  update_origin_differs  "), "{line}");
        assert!(line.ends_with("{\"sku\":\"A-1\"}  berlin over oslo  skip"), "{line}");
    }
}
