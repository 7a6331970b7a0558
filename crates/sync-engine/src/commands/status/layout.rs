//! What `status` looks like as text: a table of databases, one of peers, and below them what there is to say of each.

use std::fmt::Write as _;
use std::time::Duration;

use comfy_table::{CellAlignment, Table, presets};
use sync_engine::status::{DatabaseStatus, PeerStatus, Status, TriggerStatus};

/// The whole text; each line ends with a line feed.
pub(super) fn text(report: &Status) -> String {
    let up = duration(Duration::from_secs(report.uptime_seconds));
    let mut text = format!("node {}, version {}, up {up}\n", report.node, report.version);
    // Writing to a String cannot fail.
    for problem in &report.problems {
        let _ = writeln!(text, "not healthy: {problem}");
    }
    if !report.databases.is_empty() {
        let _ = writeln!(text, "\n{}", databases(&report.databases));
    }
    if !report.peers.is_empty() {
        let _ = writeln!(text, "\n{}", peers(&report.peers));
    }
    for database in &report.databases {
        section(&mut text, &format!("database {}", database.name), remarks(database));
    }
    for peer in &report.peers {
        let error = peer.last_error.iter().map(|error| format!("last error: {error}"));
        section(&mut text, &format!("peer {}", name(peer)), error.collect());
    }
    text
}

fn section(text: &mut String, title: &str, lines: Vec<String>) {
    if !lines.is_empty() {
        let _ = writeln!(text, "\n{title}");
        for line in lines {
            let _ = writeln!(text, "  {line}");
        }
    }
}

/// A table without lines. What may be long stands last: there it is in nobody's way.
fn table(header: &[&str], numbers: std::ops::Range<usize>) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header(header);
    for (place, column) in table.column_iter_mut().enumerate() {
        column.set_padding((0, 2));
        if numbers.contains(&place) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table
}

fn shown(table: &Table) -> String {
    table.trim_fmt()
}

fn databases(databases: &[DatabaseStatus]) -> String {
    let header = ["database", "state", "sequence", "tables", "backlog", "parked", "passed on", "conflicts", "file"];
    let mut table = table(&header, 2..8);
    for database in databases {
        let numbers = [
            database.sequence,
            database.tables.len() as u64,
            database.backlog,
            database.parked,
            database.passed_on,
            database.conflicts,
        ];
        let texts = [database.name.clone(), database.state.clone()];
        let cells = texts.into_iter().chain(numbers.map(|number| number.to_string())).chain([database.path.clone()]);
        table.add_row(cells);
    }
    shown(&table)
}

fn peers(peers: &[PeerStatus]) -> String {
    let mut table = table(&["peer", "state", "database", "behind", "for", "received", "sent", "address"], 3..7);
    for peer in peers {
        let traffic = [bytes(peer.bytes_in), bytes(peer.bytes_out)];
        let first = [name(peer).to_owned(), peer.state.clone()];
        let row = |first: [String; 2], database: [String; 3], rest: [String; 3]| {
            first.into_iter().chain(database).chain(rest).collect::<Vec<_>>()
        };
        let rest = [traffic[0].clone(), traffic[1].clone(), peer.url.clone()];
        let mut databases = peer.databases.iter().map(|database| {
            let lag = duration(Duration::from_millis(database.lag_ms));
            [database.name.clone(), database.behind.to_string(), lag]
        });
        table.add_row(row(first, databases.next().unwrap_or_default(), rest));
        for database in databases {
            table.add_row(row(Default::default(), database, Default::default()));
        }
    }
    shown(&table)
}

fn name(peer: &PeerStatus) -> &str {
    peer.node.as_deref().unwrap_or("?")
}

/// What there is to say of a database beside its numbers.
fn remarks(database: &DatabaseStatus) -> Vec<String> {
    let mut lines: Vec<String> = database.errors.iter().map(|error| format!("error: {error}")).collect();
    lines.extend(database.remote_names.iter().map(|names| format!("table {} is {names}", names.table)));
    lines.extend(database.unsynced.iter().map(|table| format!("not synced: {} ({})", table.table, table.reason)));
    let excluded = database.excluded_columns.iter();
    lines.extend(
        excluded.map(|(table, columns)| {
            format!("not synced: {} of {table} (excluded by configuration)", columns.join(", "))
        }),
    );
    if database.tombstones.kept > 0 {
        let waiting_for = match database.tombstones.waiting_for.as_slice() {
            [] => String::new(),
            nodes => format!(", waiting for {}", nodes.join(", ")),
        };
        lines.push(format!("deletions remembered: {}{waiting_for}", database.tombstones.kept));
    }
    for TriggerStatus { trigger, table, on_apply, why } in &database.triggers {
        let runs = if on_apply == "run" { "runs" } else { "does not run" };
        lines.push(format!("trigger {trigger} on {table}: {runs} on applied changes: {why}"));
    }
    for warning in &database.warnings {
        let table = warning.table.as_deref().map(|table| format!("{table}: ")).unwrap_or_default();
        lines.push(format!("warning: {table}{}; {}", warning.reason, warning.remedy));
    }
    let missing = &database.foreign_key_missing;
    if missing.count > 0 {
        lines.push(format!("rows whose parents are not here: {}", missing.count));
    }
    lines.extend(missing.first.iter().map(|row| format!("  {} {} lacks {}", row.table, row.key, row.parent)));
    lines
}

/// A duration in the two largest units that it has; below ten seconds with tenths.
fn duration(duration: Duration) -> String {
    let seconds = duration.as_secs();
    match seconds {
        0 if duration.as_millis() == 0 => "0 s".to_owned(),
        0..10 => format!("{seconds}.{} s", duration.subsec_millis() / 100),
        10..60 => format!("{seconds} s"),
        60..3_600 => format!("{} min {} s", seconds / 60, seconds % 60),
        3_600..86_400 => format!("{} h {} min", seconds / 3_600, seconds / 60 % 60),
        _ => format!("{} d {} h", seconds / 86_400, seconds / 3_600 % 24),
    }
}

/// A number of bytes in the largest unit of which it has ten.
fn bytes(count: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let place = (0..UNITS.len()).rev().find(|place| count >> (10 * place) >= 10).unwrap_or(0);
    format!("{} {}", count >> (10 * place), UNITS[place])
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{bytes, duration, text};

    #[test]
    fn it_is_laid_out_in_columns() {
        let report = serde_json::json!({
            "node": "berlin", "version": "0.1.0", "uptime_seconds": 4_000, "healthy": false, "problems": ["peers: 0 connected"],
            "databases": [
                {"name": "inventory", "path": "/srv/app with a long name/inventory.db", "state": "attached", "origin": null,
                 "sequence": 1042, "have": {}, "tables": ["a", "b"], "unsynced": [{"table": "log", "reason": "it has no key"}],
                 "backlog": 0, "conflicts": 3, "parked": 12, "errors": []},
                {"name": "s", "path": "s.db", "state": "failed", "origin": null, "sequence": 0, "have": {}, "tables": [],
                 "unsynced": [], "backlog": 0, "conflicts": 0, "parked": 0, "errors": ["io: gone"]},
            ],
            "peers": [
                {"node": "oslo", "url": "ws://oslo:1", "state": "connected", "bytes_in": 20_000, "bytes_out": 5, "last_error": null,
                 "databases": [{"name": "inventory", "behind": 7, "lag_ms": 1_250}, {"name": "s", "behind": 0, "lag_ms": 0}]},
                {"node": null, "url": "ws://x:1", "state": "waiting", "bytes_in": 0, "bytes_out": 0, "last_error": "no", "databases": []},
            ],
        });
        let expected = "\
node berlin, version 0.1.0, up 1 h 6 min
not healthy: peers: 0 connected

database   state     sequence  tables  backlog  parked  passed on  conflicts  file
inventory  attached      1042       2        0      12          0          3  /srv/app with a long name/inventory.db
s          failed           0       0        0       0          0          0  s.db

peer  state      database   behind    for  received  sent  address
oslo  connected  inventory       7  1.2 s    19 KiB   5 B  ws://oslo:1
                 s               0    0 s
?     waiting                                   0 B   0 B  ws://x:1

database inventory
  not synced: log (it has no key)

database s
  error: io: gone

peer ?
  last error: no
";
        assert_eq!(text(&serde_json::from_value(report).unwrap()), expected);
    }

    #[test]
    fn numbers_for_people() {
        let seconds = [(0, "0 s"), (59, "59 s"), (61, "1 min 1 s"), (7_300, "2 h 1 min"), (200_000, "2 d 7 h")];
        for (count, expected) in seconds {
            assert_eq!(duration(Duration::from_secs(count)), expected);
        }
        assert_eq!(duration(Duration::from_millis(90)), "0.0 s");
        for (count, expected) in [(0, "0 B"), (10_239, "10239 B"), (10_240, "10 KiB"), (u64::MAX, "16777215 TiB")] {
            assert_eq!(bytes(count), expected);
        }
    }
}
