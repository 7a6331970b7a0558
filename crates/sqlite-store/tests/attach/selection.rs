//! Tables and columns that were chosen not to be synced, and what is said of them.

use replication::Selection;
use sqlite_store::attach::{AttachRules, Attached};
use sqlite_store::lift;
use sqlite_store::warning::WarningKind;

use crate::support::{Sample, Writer, with_both};

pub(crate) const SCHEMA: &str = "CREATE TABLE stock (sku TEXT PRIMARY KEY, qty INTEGER, local_note TEXT DEFAULT 'none', place); \
    CREATE TABLE session_data (id INTEGER PRIMARY KEY, v); CREATE TABLE page_cache (k TEXT PRIMARY KEY, v)";

fn texts(texts: &[&str]) -> Vec<String> {
    texts.iter().map(|text| (*text).to_owned()).collect()
}

pub(crate) fn without(exclude: &[&str], columns: &[(&str, &[&str])]) -> AttachRules {
    let mut selection = Selection::default();
    selection.set_exclude(texts(exclude));
    columns.iter().for_each(|(table, columns)| selection.set_excluded_columns(*table, texts(columns)));
    AttachRules { selection: Some(selection), ..AttachRules::default() }
}

pub(crate) fn unknown_names(attached: &Attached) -> Vec<(String, String)> {
    let unknown = attached.warnings.iter().filter(|warning| warning.kind == WarningKind::UnknownName);
    unknown.map(|warning| (warning.reason.clone(), warning.remedy.clone())).collect()
}

/// Names of our triggers and clock tables.
fn ours(db: &Sample) -> Vec<String> {
    db.rows(
        "SELECT DISTINCT tbl_name FROM sqlite_schema WHERE name GLOB '_sync_[0-9]*' OR name GLOB '_sync_clock_*' \
         ORDER BY tbl_name",
    )
}

#[test]
fn an_excluded_table_has_no_triggers_and_no_clock_and_is_named_with_the_pattern() {
    with_both(SCHEMA, |db| {
        let attached = db.attach_under(&without(&["SESSION_*", "page_?ache"], &[]));
        let unsynced: Vec<(&str, &str, bool)> = attached
            .schema
            .unsynced
            .iter()
            .map(|table| (table.table.as_str(), table.reason.as_str(), table.intended))
            .collect();
        assert_eq!(
            unsynced,
            [
                ("page_cache", "excluded by configuration: pattern \"page_?ache\"", true),
                ("session_data", "excluded by configuration: pattern \"SESSION_*\"", true)
            ]
        );
        assert_eq!(ours(db), ["'_sync_clock_stock'", "'stock'"]);
        let log = db.logged("INSERT INTO session_data VALUES (1, 2); INSERT INTO stock (sku) VALUES ('a')");
        assert_eq!(log, ["insert stock 'a'"]);
        assert_eq!(db.schema(), attached.schema, "who only reads the schema sees the same");
    });
}

#[test]
fn what_no_pattern_includes_is_excluded() {
    let mut db = Sample::new(Writer::Shell, SCHEMA);
    let mut selection = Selection::default();
    selection.set_include(texts(&["stock"]));
    let attached = db.attach_under(&AttachRules { selection: Some(selection), ..AttachRules::default() });
    assert_eq!(attached.schema.tables.len(), 1);
    let reasons: Vec<&str> = attached.schema.unsynced.iter().map(|table| table.reason.as_str()).collect();
    assert_eq!(reasons, ["excluded by configuration: no pattern of include matches it"; 2]);
}

#[test]
fn an_update_of_an_excluded_column_alone_is_not_logged() {
    with_both(SCHEMA, |db| {
        let attached = db.attach_under(&without(&[], &[("STOCK", &["Local_Note"])]));
        let stock = attached.schema.tables.iter().find(|table| table.name == "stock").unwrap();
        assert_eq!((stock.shape().columns.len(), stock.excluded.as_slice()), (3, texts(&["local_note"]).as_slice()));
        db.logged("INSERT INTO stock VALUES ('a', 1, 'mine', 'x')");
        assert!(db.logged("UPDATE stock SET local_note = 'other'").is_empty());
        assert_eq!(db.logged("UPDATE stock SET local_note = 'third', qty = 2"), ["update stock 'a' [qty]"]);
        assert_eq!(unknown_names(&attached), []);
    });
}

#[test]
fn a_column_that_a_row_cannot_be_without_is_refused_by_name() {
    let schema = "CREATE TABLE keyed (a INTEGER, b TEXT, c, PRIMARY KEY (a, b)); \
                  CREATE TABLE needed (k INTEGER PRIMARY KEY, v TEXT NOT NULL, w TEXT NOT NULL DEFAULT ''); \
                  CREATE TABLE other (k INTEGER PRIMARY KEY, v TEXT NOT NULL, w TEXT NOT NULL DEFAULT '')";
    let mut db = Sample::new(Writer::Shell, schema);
    let rules = without(&[], &[("keyed", &["b"]), ("needed", &["v"]), ("other", &["w"])]);
    let attached = db.attach_under(&rules);
    let refused: Vec<(&str, &str, &str, bool)> = attached
        .schema
        .unsynced
        .iter()
        .map(|table| (table.table.as_str(), table.reason.as_str(), table.remedy.as_str(), table.intended))
        .collect();
    assert_eq!(
        refused,
        [
            (
                "keyed",
                "its column \"b\" cannot be excluded: it is part of the key",
                "remove the column from exclude_columns, or exclude the table",
                false
            ),
            (
                "needed",
                "its column \"v\" cannot be excluded: it is NOT NULL and has no default, so that rows of peers could not be \
                 inserted",
                "give it a DEFAULT or let it be NULL, or remove it from exclude_columns",
                false
            ),
        ]
    );
}

#[test]
fn who_attaches_without_a_choice_keeps_the_one_in_force() {
    let mut db = Sample::new(Writer::Shell, SCHEMA);
    let first = db.attach_under(&without(&["session_*"], &[("stock", &["local_note"])]));
    let again = db.attach();
    assert_eq!(again.schema.tables, first.schema.tables);
    // A migration that lifts the triggers, and rebuilds a table.
    let lifted = lift::lift(&db.path()).unwrap().unwrap();
    db.write(
        "ALTER TABLE stock DROP COLUMN place; CREATE TABLE new_data (id INTEGER PRIMARY KEY, v, w); \
         DROP TABLE session_data; ALTER TABLE new_data RENAME TO session_data",
    );
    let back = lifted.restore().unwrap().unwrap();
    let names: Vec<&str> = back.schema.tables.iter().map(|table| table.name.as_str()).collect();
    assert_eq!(names, ["stock", "page_cache"]);
    assert_eq!(back.schema.tables[0].excluded, ["local_note"]);
    drop(lifted);
    assert!(db.logged("UPDATE stock SET local_note = 'x'; INSERT INTO session_data VALUES (1, 2, 3)").is_empty());
}

#[test]
fn a_trigger_that_writes_an_excluded_table_runs_on_applied_changes() {
    let schema = "CREATE TABLE t (id INTEGER PRIMARY KEY, a); CREATE TABLE session_log (n INTEGER PRIMARY KEY, what); \
                  CREATE TRIGGER note AFTER INSERT ON t BEGIN INSERT INTO session_log (what) VALUES (NEW.a); END";
    for (exclude, runs) in [(&["session_*"][..], true), (&[], false)] {
        let mut db = Sample::new(Writer::Shell, schema);
        let attached = db.attach_under(&without(exclude, &[]));
        let note = attached.app_triggers.iter().find(|trigger| trigger.name == "note").unwrap();
        assert_eq!(note.runs(), runs, "{exclude:?}");
    }
}
