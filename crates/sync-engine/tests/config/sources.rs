//! The sources: files, the environment, the command line, and how they lie over each other.

use std::path::{Path, PathBuf};

use sync_engine::config::{Environment, ErrorKind, Overrides, Place, load};
use sync_engine::{Granularity, KeyRanges, TriggerRule};

use super::{errors_of, load_text, variables};

#[test]
fn files_that_cannot_be_read() {
    let folder = tempfile::tempdir().unwrap();
    let nowhere = folder.path().join("nowhere.toml");
    let (none, no_flags) = (Environment::new(), Overrides::default());
    let error = load(Some(&nowhere), &no_flags, &none).unwrap_err();
    assert_eq!(error.errors()[0].kind, ErrorKind::Unreadable);
    assert_eq!(error.errors()[0].place, Place::Argument("--config"));
    assert!(error.to_string().contains("nowhere.toml does not exist"), "{error}");
    let error = load(Some(folder.path()), &no_flags, &none).unwrap_err();
    assert!(error.to_string().contains("is not a file"), "{error}");
    let named = variables(&[("SYNC_ENGINE_CONFIG", nowhere.to_str().unwrap())]);
    assert_eq!(errors_of(load(None, &no_flags, &named)), ["$SYNC_ENGINE_CONFIG : Unreadable"]);
    std::fs::write(&nowhere, [0xff, 0xfe]).unwrap();
    assert!(load(Some(&nowhere), &no_flags, &none).unwrap_err().to_string().contains("UTF-8"));
}

#[test]
fn the_environment_overrides_the_file() {
    let file = "node = \"a\"\npeers = [\"ws://x\"]\nlog.level = \"warn\"\n[[database]]\npath = \"a.db\"\n";
    let environment = [
        ("SYNC_ENGINE__NODE", "007"),
        ("SYNC_ENGINE__PEERS", "ws://y:1, ws://z:2,"),
        ("SYNC_ENGINE__LOG__LEVEL", "debug"),
        ("SYNC_ENGINE__LOG__KEEP", "5"),
        ("SYNC_ENGINE__CLUSTER", ""),
        ("SYNC_ENGINE__DATABASE__0__GRANULARITY", "row"),
        ("SYNC_ENGINE__DATABASE__0__KEY_RANGES", "12"),
        ("SYNC_ENGINE__DATABASE__0__TRIGGERS__STOCK_AUDIT", "skip"),
        ("SYNC_ENGINE__DATABASE__1__PATH", "b.db"),
        ("SYNC_ENGINE__DATABASE__1__TABLE__0__NAME", "stock"),
        ("SYNC_ENGINE_CONFIG", "ignored, since --config is given"),
        ("SYNC_ENGINE_WS_URL", "ws://ignored"),
        ("SYNC_ENGINE_ANYTHING", "of another program"),
    ];
    let settings = load_text(file, &environment, &Overrides::default()).unwrap();
    assert_eq!(settings.node, "007");
    assert_eq!(settings.peers, ["ws://y:1", "ws://z:2"]);
    assert_eq!((settings.log.level.as_str(), settings.log.keep), ("debug", 5));
    assert_eq!(settings.cluster, "default");
    let [first, second] = settings.databases.as_slice() else { panic!("{settings:?}") };
    assert_eq!((first.name.as_str(), first.granularity), ("a", Granularity::Row));
    assert_eq!(first.key_ranges, KeyRanges::of_node(12));
    assert_eq!(first.triggers.iter().collect::<Vec<_>>(), [("stock_audit", TriggerRule::Skip)]);
    assert_eq!((second.name.as_str(), second.tables[0].name.as_str()), ("b", "stock"));
}

#[test]
fn more_than_ten_databases_fit_into_the_environment() {
    let names: Vec<(String, String)> =
        (0..12).map(|n| (format!("SYNC_ENGINE__DATABASE__{n}__PATH"), format!("{n}.db"))).collect();
    let environment: Vec<(&str, &str)> = names.iter().map(|(name, path)| (name.as_str(), path.as_str())).collect();
    let settings = load_text("", &environment, &Overrides::default()).unwrap();
    assert_eq!(settings.databases.len(), 12);
    assert_eq!(settings.databases[11].name, "11");
}

#[test]
fn errors_of_the_environment_name_the_variable() {
    let environment = [
        ("SYNC_ENGINE__LISTEN", "0.0.0.0:7420"),
        ("SYNC_ENGINE__LOG", "x"),
        ("SYNC_ENGINE__LOG__LEVLE", "info"),
        ("SYNC_ENGINE__NODE__NAME", "x"),
        ("SYNC_ENGINE__PEERS", "ws://ok,nonsense"),
        ("SYNC_ENGINE__DATABASE__PATH", "a.db"),
        ("SYNC_ENGINE__DATABASE__3__PATH", "a.db"),
        ("SYNC_ENGINE__TLS__KEY", "k"),
        ("SYNC_ENGINE__DATABASE__0__INCLUDE", " , "),
    ];
    let mut found = errors_of(load_text("[[database]]\npath = \"x.db\"", &environment, &Overrides::default()));
    found.sort();
    assert_eq!(
        found,
        [
            "$SYNC_ENGINE__DATABASE__0__INCLUDE database[0].include: BadValue",
            "$SYNC_ENGINE__DATABASE__3__PATH database[3].path: BadValue",
            "$SYNC_ENGINE__DATABASE__PATH database: UnknownKey",
            "$SYNC_ENGINE__LISTEN listen: BadValue",
            "$SYNC_ENGINE__LOG log: WrongType",
            "$SYNC_ENGINE__LOG__LEVLE log.levle: UnknownKey",
            "$SYNC_ENGINE__NODE__NAME node.name: UnknownKey",
            "$SYNC_ENGINE__PEERS peers[1]: BadValue",
            "$SYNC_ENGINE__TLS__KEY tls.key: Missing",
        ]
    );
    let error = load_text("", &environment[..1], &Overrides::default()).unwrap_err().to_string();
    assert!(error.contains("environment variable SYNC_ENGINE__LISTEN: listen: ") && error.contains("token"), "{error}");
}

#[test]
fn the_command_line_overrides_everything() {
    let overrides = Overrides {
        node: Some("flag".to_owned()),
        listen: Some("localhost:9".to_owned()),
        peers: vec!["ws://flag:1".to_owned()],
        ..Overrides::default()
    };
    let environment = [("SYNC_ENGINE__NODE", "variable"), ("SYNC_ENGINE__PEERS", "ws://variable,not a URL")];
    let settings = load_text("node = \"file\"\nlisten = \"junk\"", &environment, &overrides).unwrap();
    assert_eq!(settings.node, "flag");
    assert_eq!(settings.listen.to_string(), "127.0.0.1:9");
    assert_eq!(settings.peers, ["ws://flag:1"]);
    let bad = Overrides { listen: Some("x".to_owned()), peers: vec!["y".to_owned()], ..Overrides::default() };
    assert_eq!(errors_of(load_text("", &[], &bad)), ["--listen listen: BadValue", "--peer peers[0]: BadValue"]);
}

#[test]
fn peers_fall_back_to_the_variable() {
    let variable = [("SYNC_ENGINE_WS_URL", "ws://a:1, ws://b:2")];
    let peers = |text: &str, environment: &[(&str, &str)], overrides: &Overrides| {
        load_text(text, environment, overrides).unwrap().peers
    };
    let none = Overrides::default();
    assert_eq!(peers("", &variable, &none), ["ws://a:1", "ws://b:2"]);
    assert_eq!(peers("peers = []", &variable, &none), ["ws://a:1", "ws://b:2"]);
    assert_eq!(peers("peers = [\"ws://c\"]", &variable, &none), ["ws://c"]);
    assert_eq!(peers("", &[variable[0], ("SYNC_ENGINE__PEERS", "ws://d")], &none), ["ws://d"]);
    let flags = Overrides { peers: vec!["ws://e".to_owned()], ..Overrides::default() };
    assert_eq!(peers("", &variable, &flags), ["ws://e"]);
    assert_eq!(peers("", &[("SYNC_ENGINE_WS_URL", " ")], &none), [""; 0]);
    let wrong = load_text("", &[("SYNC_ENGINE_WS_URL", "ws://a,b")], &none);
    assert_eq!(errors_of(wrong), ["$SYNC_ENGINE_WS_URL peers[1]: BadValue"]);
}

#[test]
fn a_peer_of_the_wrong_type_does_not_let_the_variable_in() {
    let found = load_text("peers = [1]", &[("SYNC_ENGINE_WS_URL", "nonsense")], &Overrides::default());
    assert_eq!(errors_of(found), ["1:10 peers[0]: WrongType"]);
    let found = load_text("peers = \"ws://a\"", &[("SYNC_ENGINE_WS_URL", "nonsense")], &Overrides::default());
    assert_eq!(errors_of(found), ["1:9 peers: WrongType"]);
}

#[test]
fn errors_of_a_list_are_placed_where_the_list_that_holds_is() {
    let file = "peers = [\"ws://a\", \"ws://b\"]";
    let found = load_text(file, &[("SYNC_ENGINE__PEERS", "ws://c,nonsense")], &Overrides::default());
    assert_eq!(errors_of(found), ["$SYNC_ENGINE__PEERS peers[1]: BadValue"]);
}

#[test]
fn folders_come_from_the_service_manager() {
    let environment = [
        ("STATE_DIRECTORY", "/var/lib/sync-engine:/var/lib/other"),
        ("LOGS_DIRECTORY", "/var/log/sync-engine"),
        ("GH_COPILOT_BACKUP_ROOT", "/b1"),
        ("SYNC_ENGINE_BACKUP_ROOT", "/b2"),
    ];
    let settings = load_text("", &environment, &Overrides::default()).unwrap();
    assert_eq!(settings.state_dir, Path::new("/var/lib/sync-engine"));
    assert_eq!(settings.log.directory, Path::new("/var/log/sync-engine"));
    assert_eq!(settings.backup.root.as_deref(), Some(Path::new("/b1")));
    let second = load_text("", &environment[3..], &Overrides::default()).unwrap();
    assert_eq!(second.backup.root.as_deref(), Some(Path::new("/b2")));
    let file = "state_dir = \"s\"\nlog.directory = \"l\"\nbackup.root = \"b\"";
    let settings = load_text(file, &environment, &Overrides::default()).unwrap();
    assert_eq!((settings.state_dir, settings.log.directory), (PathBuf::from("s"), PathBuf::from("l")));
    assert_eq!(settings.backup.root.as_deref(), Some(Path::new("b")));
}

#[test]
fn databases_of_the_command_line() {
    let run = |text: &str, paths: &[&str]| {
        let overrides = Overrides { databases: paths.iter().map(PathBuf::from).collect(), ..Overrides::default() };
        load_text(text, &[], &overrides)
    };
    let plain = run("", &["x/shop.db", "y/till.sqlite3"]).unwrap();
    assert_eq!(plain.databases.iter().map(|database| database.name.as_str()).collect::<Vec<_>>(), ["shop", "till"]);
    assert_eq!(plain.databases[0].path, Path::new("x/shop.db"));

    let file =
        "[[database]]\npath = \"x/shop.db\"\nname = \"store\"\ngranularity = \"row\"\n[[database]]\npath = \"z.db\"";
    let chosen = run(file, &["./x/shop.db", "other.db"]).unwrap();
    let [first, second] = chosen.databases.as_slice() else { panic!("{chosen:?}") };
    assert_eq!((first.name.as_str(), first.granularity), ("store", Granularity::Row));
    assert_eq!((second.name.as_str(), second.granularity), ("other", Granularity::Column));

    assert_eq!(errors_of(run("", &["a/shop.db", "b/shop.db"])), ["DB b/shop.db: Duplicate"]);
    assert_eq!(errors_of(run("", &["a.db", "./a.db"])), ["DB ./a.db: Duplicate"]);
    assert_eq!(errors_of(run("", &["/"])), ["DB /: BadValue"]);
}

#[test]
fn databases_that_the_command_line_leaves_out_are_checked_too() {
    let run = |text: &str, path: &str| {
        load_text(text, &[], &Overrides { databases: vec![path.into()], ..Overrides::default() })
    };
    let text = "[[database]]\npath = \"z.db\"\ngranularity = \"cell\"\n[[database]]\nname = \"a\"\n";
    let expected = ["3:15 database[0].granularity: BadValue", "4:1 database[1].path: Missing"];
    assert_eq!(errors_of(run(text, "mine.db")), expected);
    let left_out = run("[[database]]\npath = \"z.db\"\nname = \"mine\"", "mine.db").unwrap();
    let [only] = left_out.databases.as_slice() else { panic!("{left_out:?}") };
    assert_eq!((only.name.as_str(), only.path.as_path()), ("mine", Path::new("mine.db")));
    let twice = "[[database]]\npath = \"z.db\"\n[[database]]\npath = \"./z.db\"\nname = \"y\"\n";
    assert_eq!(errors_of(run(twice, "mine.db")), ["4:8 database[1].path: Duplicate"]);
}

#[test]
fn variables_name_columns() {
    let environment = [
        ("SYNC_ENGINE__DATABASE__0__PATH", "a.db"),
        ("SYNC_ENGINE__DATABASE__0__TABLE__0__NAME", "stock"),
        ("SYNC_ENGINE__DATABASE__0__TABLE__0__COLUMNS__QTY__POLICY", "counter"),
    ];
    let settings = load_text("", &environment, &Overrides::default()).unwrap();
    assert_eq!(settings.databases[0].tables[0].columns["qty"].name(), "counter");
    let nameless = [("SYNC_ENGINE__DATABASE__0__TABLE__0__COLUMNS", "qty")];
    let errors = errors_of(load_text("", &nameless, &Overrides::default()));
    assert_eq!(errors, ["$SYNC_ENGINE__DATABASE__0__TABLE__0__COLUMNS database[0].table[0].columns: UnknownKey"]);
}

#[test]
fn variables_name_only_what_a_path_of_keys_can_hold() {
    for name in ["TRIGGERS__", "TRIGGERS__A B", "TABLE__0__COLUMNS__A.B__POLICY", "TABLE__0__COLUMNS__GRÖSSE__POLICY"]
    {
        let variable = format!("SYNC_ENGINE__DATABASE__0__{name}");
        let errors =
            load_text("[[database]]\npath = \"a.db\"", &[(&variable, "skip")], &Overrides::default()).unwrap_err();
        let error = errors.to_string();
        assert!(error.contains("a variable cannot name") && error.contains("configuration file"), "{error}");
    }
}
