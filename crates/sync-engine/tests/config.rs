//! The configuration: what loads, what is refused and with which words. The module `sources`: how the sources lie over each
//! other; `databases`: what is said of databases, tables and columns; `security`: who is let in.

#![allow(clippy::unwrap_used, reason = "a failure here is a failure of the test")]

use std::path::Path;
use std::time::Duration;

use sync_engine::config::{ConfigErrors, Environment, LogFormat, Overrides, Place, Policy, Rotation, Settings, load};
use sync_engine::{Granularity, KeyRanges, TriggerRule};

#[path = "config/databases.rs"]
mod databases;
#[path = "config/security.rs"]
mod security;
#[path = "config/sources.rs"]
mod sources;

/// Loads a text as the file of `--config`.
fn load_text(text: &str, environment: &[(&str, &str)], overrides: &Overrides) -> Result<Settings, ConfigErrors> {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("sync-engine.toml");
    std::fs::write(&file, text).unwrap();
    load(Some(&file), overrides, &variables(environment))
}

fn variables(environment: &[(&str, &str)]) -> Environment {
    environment.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

fn settings(text: &str) -> Settings {
    load_text(text, &[], &Overrides::default()).unwrap()
}

/// Each error as `line:column key: kind`, or with the variable or flag instead of the line.
fn errors_of<T: std::fmt::Debug>(result: Result<T, ConfigErrors>) -> Vec<String> {
    let errors = result.unwrap_err();
    let place = |place: &Place| match place {
        Place::File { line, column, .. } => format!("{line}:{column}"),
        Place::Variable(name) => format!("${name}"),
        Place::Argument(name) => (*name).to_owned(),
        Place::Unset => "-".to_owned(),
    };
    errors.errors().iter().map(|error| format!("{} {}: {:?}", place(&error.place), error.key, error.kind)).collect()
}

fn errors(text: &str) -> Vec<String> {
    errors_of(load_text(text, &[], &Overrides::default()))
}

/// The only error of a text, in words, without the file's name.
fn message(text: &str) -> String {
    let errors = load_text(text, &[], &Overrides::default()).unwrap_err();
    let [error] = errors.errors() else { panic!("{errors}") };
    let Place::File { line, column, .. } = &error.place else { panic!("{error}") };
    assert!(error.to_string().contains(&format!("sync-engine.toml:{line}:{column}: ")), "{error}");
    format!("{line}:{column} {}: {}; {}", error.key, error.what, error.remedy)
}

#[test]
fn nothing_but_defaults() {
    let settings = settings("");
    assert!(!settings.node.is_empty());
    assert_eq!(settings.listen.to_string(), "127.0.0.1:7420");
    assert_eq!(settings.peers, [""; 0]);
    assert_eq!(settings.cluster, "default");
    assert_eq!(settings.state_dir, Path::new(".sync-engine"));
    assert_eq!(settings.poll_interval, Duration::from_secs(1));
    assert_eq!(settings.max_clock_skew, Duration::from_secs(60));
    assert_eq!(settings.shutdown_grace, Duration::from_secs(10));
    assert_eq!(settings.max_batch_rows, 50_000);
    assert_eq!(settings.log.directory, Path::new("logs"));
    assert_eq!(settings.log.level, "info");
    assert_eq!((settings.log.format, settings.log.rotation, settings.log.keep), (LogFormat::Text, Rotation::Daily, 14));
    assert_eq!((settings.backup.root.as_ref(), settings.backup.keep), (None, 7));
    assert_eq!((settings.conflicts.keep, settings.conflicts.keep_days), (10_000, 90));
    assert!(settings.databases.is_empty());
    assert!(settings.require_databases().unwrap_err().to_string().contains("sync-engine run inventory.db"));
}

const FULL: &str = r#"
node = "berlin"
listen = "[::1]:0"
peers = ["ws://oslo:7420", "ws://127.0.0.1:7421/v1/sync"]
cluster = "shop"
state_dir = "/var/lib/x"
poll_interval = "200ms"
max_clock_skew = "2m"
shutdown_grace = "3s"
max_batch_rows = 50
[log]
directory = "l"
level = "DEBUG"
format = "json"
rotation = "hourly"
keep = 3
[auth]
token_file = "t"
others = "refuse"
peer = [{ name = "oslo", role = "read", databases = ["inventory"] }]
[tls]
certificate = "c"
key = "k"
client_ca = "a"
[backup]
root = "b"
keep = 2
[conflicts]
keep = 500
keep_days = 30
[[database]]
name = "inventory"
path = "/srv/a.db"
policy = "origin-priority"
priority = ["berlin", "oslo"]
granularity = "row"
include = ["s*", "note"]
exclude = ["session_*"]
key_ranges = 3
triggers.stock_audit = "run"
triggers."Odd, name" = "skip"
[[database.table]]
name = "stock"
timestamp_column = "updated_at"
granularity = "column"
exclude_columns = ["local_note", "Seen at"]
columns.qty = { policy = "counter" }
columns."unit price" = { policy = "sql", merge = "max(local.\"unit price\", remote.\"unit price\")" }
columns.label = { policy = "origin-priority", priority = ["oslo"], remote_name = "title" }
columns."old name" = { remote_name = "new name" }
remote_name = "inventory_stock"
[[database.table]]
name = "note"
columns.tags.policy = "union"
[[database]]
path = "sub/b.db"
policy = "first-write-wins"
"#;

#[test]
fn every_key_is_read() {
    let settings = settings(FULL);
    assert_eq!(settings.node, "berlin");
    assert_eq!(settings.listen.to_string(), "[::1]:0");
    assert_eq!(settings.peers, ["ws://oslo:7420", "ws://127.0.0.1:7421/v1/sync"]);
    assert_eq!(settings.cluster, "shop");
    assert_eq!(settings.state_dir, Path::new("/var/lib/x"));
    assert_eq!(settings.poll_interval, Duration::from_millis(200));
    assert_eq!(settings.max_clock_skew, Duration::from_secs(120));
    assert_eq!(settings.shutdown_grace, Duration::from_secs(3));
    assert_eq!(settings.max_batch_rows, 50);
    assert_eq!(settings.log.directory, Path::new("l"));
    assert_eq!(settings.log.level, "debug");
    assert_eq!((settings.log.format, settings.log.rotation, settings.log.keep), (LogFormat::Json, Rotation::Hourly, 3));
    assert_eq!((settings.backup.root.as_deref(), settings.backup.keep), (Some(Path::new("b")), 2));
    assert_eq!((settings.conflicts.keep, settings.conflicts.keep_days), (500, 30));
    let [first, second] = settings.databases.as_slice() else { panic!("{settings:?}") };
    assert_eq!((first.name.as_str(), first.path.as_path()), ("inventory", Path::new("/srv/a.db")));
    assert_eq!(first.granularity, Granularity::Row);
    assert_eq!((first.key_ranges, second.key_ranges), (KeyRanges::of_node(3), None));
    let selection = &first.selection;
    assert!(selection.exclusion("STOCK").is_none() && selection.exclusion("session_1").is_some());
    assert_eq!(
        (selection.excluded_columns("stock"), second.selection.is_everything()),
        (["local_note", "Seen at"].map(str::to_owned).as_slice(), true)
    );
    let triggers: Vec<(&str, TriggerRule)> = first.triggers.iter().collect();
    assert_eq!(triggers, [("Odd, name", TriggerRule::Skip), ("stock_audit", TriggerRule::Run)]);
    assert_eq!((first.tables[0].name.as_str(), first.tables[0].granularity), ("stock", Some(Granularity::Column)));
    assert_eq!(first.policy, Policy::OriginPriority(vec!["berlin".to_owned(), "oslo".to_owned()]));
    assert_eq!(first.tables[0].policy, Some(Policy::TimestampColumn("updated_at".to_owned())));
    let columns: Vec<_> = first.tables[0].columns.iter().map(|(name, policy)| (name.as_str(), policy.name())).collect();
    assert_eq!(columns, [("label", "origin-priority"), ("qty", "counter"), ("unit price", "sql")]);
    let remote_columns: Vec<_> =
        first.tables[0].remote_columns.iter().map(|(name, remote)| (name.as_str(), remote.as_str())).collect();
    assert_eq!(remote_columns, [("label", "title"), ("old name", "new name")]);
    assert_eq!(first.tables[0].remote_name.as_deref(), Some("inventory_stock"));
    assert_eq!((&first.tables[1].policy, &first.tables[1].columns["tags"]), (&None, &Policy::Union));
    assert_eq!(second.policy, Policy::FirstWriteWins);
    assert_eq!((second.name.as_str(), second.path.as_path()), ("b", Path::new("sub/b.db")));
    assert_eq!((second.granularity, second.tables.len()), (Granularity::Column, 0));
    settings.require_databases().unwrap();
}

#[test]
fn what_is_shown_loads_as_the_same() {
    let shown = settings(FULL).to_toml();
    assert!(shown.contains("poll_interval = \"200ms\"  # "), "{shown}");
    assert!(shown.contains("sync-engine.toml:7\n"), "{shown}");
    assert!(shown.contains("[[database.table]]"), "{shown}");
    let again = settings(&shown);
    assert_eq!(again.databases, settings(FULL).databases);
    let values = |text: String| -> Vec<String> {
        text.lines().map(|line| line.split("  # ").next().unwrap_or_default().to_owned()).collect()
    };
    assert_eq!(values(again.to_toml()), values(shown));
    let json: serde_json::Value = serde_json::from_str(&again.to_json()).unwrap();
    assert_eq!(json["listen"], "[::1]:0");
    assert_eq!(json["database"][0]["table"][0]["name"], "stock");
    assert_eq!(json["conflicts"], serde_json::json!({"keep": 500, "keep_days": 30}));
    assert!(json["sources"]["node"].as_str().unwrap().ends_with("sync-engine.toml:1"), "{json}");
}

#[test]
fn defaults_are_marked_when_shown() {
    let shown = load_text("", &[("SYNC_ENGINE__NODE", "n")], &Overrides::default()).unwrap().to_toml();
    assert!(shown.contains("node = \"n\"  # $SYNC_ENGINE__NODE\n"), "{shown}");
    assert!(shown.contains("cluster = \"default\"  # default\n"), "{shown}");
}

#[test]
fn every_file_in_the_folder_config_loads() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../config");
    let mut count = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        let file = entry.unwrap().path();
        load(Some(&file), &Overrides::default(), &Environment::new()).unwrap_or_else(|error| panic!("{error}"));
        count += 1;
    }
    assert!(count > 0);
}

#[test]
fn comments_of_the_example_show_the_defaults() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../config/sync-engine.example.toml");
    let text = std::fs::read_to_string(file).unwrap();
    let is_key = |line: &str| {
        line.strip_prefix("# ").and_then(|rest| rest.split_once(" = ")).is_some_and(|(key, _)| !key.contains(' '))
    };
    let lines: Vec<&str> = text.lines().map(|line| if is_key(line) { &line[2..] } else { line }).collect();
    let value = |text: &str| serde_json::from_str::<serde_json::Value>(&settings(text).to_json()).unwrap();
    let (given, mut complete) = (value(&text), value(&lines.join("\n")));
    // There is none by default; the example shows how one looks.
    assert_eq!(complete["log"]["hook"], serde_json::json!(["/usr/local/bin/on-sync-event"]));
    complete["log"]["hook"] = serde_json::json!([]);
    let keys =
        ["listen", "cluster", "state_dir", "poll_interval", "max_clock_skew", "shutdown_grace", "max_batch_rows"];
    for key in keys.into_iter().chain(["log", "conflicts", "database"]) {
        assert_eq!(given[key], complete[key], "{key}");
    }
    assert_eq!(complete["backup"], serde_json::json!({"root": "/var/backups/sync-engine", "keep": 7}));
    for key in complete["sources"].as_object().unwrap().keys() {
        assert!(!key.is_empty());
    }
    assert!(complete["sources"].as_object().unwrap().len() > given["sources"].as_object().unwrap().len() + 12);
}

#[test]
fn all_errors_come_at_once_in_the_order_of_lines() {
    let text = r#"nodee = "x"
pol_interval = "1s"
shutdown_grace = "soon"
listen = 7420
peers = ["ws://a:1", 3, "http://b"]

[tls]
certificate = "c"
[log]
level = "inof"
keep = "many"
[[database]]
path = "/srv/a.db"
granularity = "cell"
[[database]]
path = "/other/a.db"
[[database]]
name = 5
"#;
    let environment = [("SYNC_ENGINE__CLUSTR", "x"), ("SYNC_ENGINE__MAX_BATCH_ROWS", "lots")];
    let overrides = Overrides { node: Some(String::new()), ..Overrides::default() };
    assert_eq!(
        errors_of(load_text(text, &environment, &overrides)),
        [
            "1:1 nodee: UnknownKey",
            "2:1 pol_interval: UnknownKey",
            "3:18 shutdown_grace: BadValue",
            "4:10 listen: WrongType",
            "5:22 peers[1]: WrongType",
            "5:25 peers[2]: BadValue",
            "8:15 tls.certificate: Missing",
            "10:9 log.level: BadValue",
            "11:8 log.keep: WrongType",
            "14:15 database[0].granularity: BadValue",
            "15:1 database[1].name: Duplicate",
            "17:1 database[2].path: Missing",
            "18:8 database[2].name: WrongType",
            "$SYNC_ENGINE__CLUSTR clustr: UnknownKey",
            "$SYNC_ENGINE__MAX_BATCH_ROWS max_batch_rows: WrongType",
            "--node node: BadValue",
        ]
    );
}

#[test]
fn errors_say_what_and_what_to_do() {
    let cases = [
        ("\n  pol_interval = \"1s\"", "2:3 pol_interval: there is no such key; did you mean \"poll_interval\"?"),
        ("level = \"info\"", "1:1 level: there is no such key; that key belongs to [log]"),
        (
            "poll_interval = 5",
            "1:17 poll_interval: a text in quotes is expected, not a whole number; write it with its unit, as \"5s\"",
        ),
        (
            "poll_interval = \"1w\"",
            "1:17 poll_interval: \"1w\" is no duration; write a whole number with its unit ms, s, m, h or d, as \"500ms\" or \"2m\"",
        ),
        ("poll_interval = \"2h\"", "1:17 poll_interval: \"2h\" is out of range; choose from 10ms to 1h"),
        ("max_batch_rows = 0", "1:18 max_batch_rows: 0 is out of range; choose from 1 to 1000000"),
        ("conflicts.keep = 0", "1:18 conflicts.keep: 0 is out of range; choose from 1 to 1000000"),
        ("conflicts.keep_days = 0", "1:23 conflicts.keep_days: 0 is out of range; choose from 1 to 36500"),
        ("max_batch_rows = \"9\"", "1:18 max_batch_rows: a whole number is expected, not a text; leave the quotes out"),
        ("peers = \"ws://a\"", "1:9 peers: a list of texts is expected, not a text; write [\"ws://a\"]"),
        ("peers = [\"ws://a\", \"ws://a\"]", "1:20 peers[1]: \"ws://a\" stands there twice; remove one"),
        (
            "peers = [\"wss://a:x\"]",
            "1:10 peers[0]: \"wss://a:x\" is not a peer's URL: its port is no port; write it as \"ws://host:7420\" or \"wss://host:7420\"",
        ),
        (
            "listen = \"7420\"",
            "1:10 listen: \"7420\" is no address to listen on; write an IP address and a port, as \"127.0.0.1:7420\" or \"[::1]:7420\"",
        ),
        (
            "log.format = \"jsn\"",
            "1:14 log.format: \"jsn\" is not one of the values it can have; did you mean \"json\"?",
        ),
        (
            "log.rotation = \"weekly\"",
            "1:16 log.rotation: \"weekly\" is not one of the values it can have; use \"daily\" or \"hourly\" or \"never\"",
        ),
        (
            "log.level = \"loud\"",
            "1:13 log.level: \"loud\" is no level; use error, warn, info, debug, trace or off, or directives such as \"info,peer_link=debug\"",
        ),
        ("cluster = \" \"", "1:11 cluster: it is empty; give it a short name"),
        ("state_dir = \"\"", "1:13 state_dir: it is empty; write the path of a folder, or remove the key"),
        (
            "[database]\npath = \"a\"",
            "1:1 database: a list of tables is expected, not a table; write [[database]] with two brackets",
        ),
        ("[[database]]\npath = \"/\"", "2:8 database[0].path: / is a folder; write the path of the database file"),
    ];
    for (text, expected) in cases {
        assert_eq!(message(text), expected, "{text}");
    }
}

#[test]
fn columns_are_counted_in_characters() {
    assert_eq!(errors("log = { level = \"info\", keepp = 1 }"), ["1:25 log.keepp: UnknownKey"]);
    assert_eq!(errors("cluster = \"ä\" \nlog = { directory = \"äöü\", keepp = 1 }"), ["2:28 log.keepp: UnknownKey"]);
}

#[test]
fn syntax_errors_have_their_line() {
    assert_eq!(errors("node = \"a\"\nlisten = \n"), ["2:10 : Syntax"]);
    assert_eq!(errors("node = \"a\"\nnode = \"b\"\n"), ["2:1 : Syntax"]);
    let several = errors("a = \nb = [1\n");
    assert!(several.len() >= 2 && several[0].starts_with("1:"), "{several:?}");
}
