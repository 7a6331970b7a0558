//! The application's own triggers: which run when changes are applied.

use std::collections::BTreeMap;

use sqlite_store::app_triggers::{AppTrigger, TriggerClass, TriggerRule, TriggerRules, install_temp_copies};
use sqlite_store::attach::AttachRules;
use sqlite_store::connection;
use sqlite_store::warning::WarningKind;

use crate::support::{Sample, Writer};

fn classes(db: &Sample) -> BTreeMap<String, TriggerClass> {
    classes_under(db, &TriggerRules::default())
}

fn classes_under(db: &Sample, rules: &TriggerRules) -> BTreeMap<String, TriggerClass> {
    let triggers = install_temp_copies(&db.conn, &db.schema(), rules).unwrap();
    triggers.into_iter().map(|trigger| (trigger.name, trigger.class)).collect()
}

const CLASSES: &str = "
    CREATE TABLE t(id INTEGER PRIMARY KEY, a, b); CREATE TABLE other(id INTEGER PRIMARY KEY, n);
    CREATE TABLE cache(x); CREATE TABLE far(x);
    CREATE VIEW caches AS SELECT x FROM cache; CREATE VIEW others AS SELECT n FROM other;
    CREATE TRIGGER touches_synced AFTER INSERT ON t BEGIN UPDATE other SET n = n + 1; END;
    CREATE TRIGGER checks BEFORE INSERT ON t WHEN NEW.a < 0 BEGIN SELECT RAISE(ABORT, 'negative'); END;
    CREATE TRIGGER checks_and_writes BEFORE DELETE ON t BEGIN INSERT INTO far VALUES (1);
      SELECT RAISE(IGNORE) WHERE OLD.a = 1; END;
    CREATE TRIGGER caches_it AFTER UPDATE OF a ON t WHEN NEW.a > 0 BEGIN INSERT INTO cache VALUES (NEW.a); END;
    CREATE TRIGGER goes_on AFTER INSERT ON cache BEGIN INSERT INTO far SELECT NEW.x; END;
    CREATE TRIGGER writes_both AFTER DELETE ON t BEGIN DELETE FROM cache WHERE x = OLD.a; DELETE FROM other; END;
    CREATE TRIGGER through_a_view AFTER INSERT ON other BEGIN INSERT INTO caches VALUES (NEW.n); END;
    CREATE TRIGGER instead INSTEAD OF INSERT ON caches BEGIN INSERT INTO cache VALUES (NEW.x + 100); END;
    CREATE TRIGGER to_synced_view AFTER UPDATE ON other BEGIN INSERT INTO others VALUES (1); END;
    CREATE TRIGGER instead_synced INSTEAD OF INSERT ON others BEGIN DELETE FROM t; END;
    CREATE TRIGGER after_synced AFTER UPDATE ON t BEGIN UPDATE other SET n = 0; END;
    CREATE TRIGGER not_reached AFTER DELETE ON far BEGIN DELETE FROM cache; END;
";

#[test]
fn classes_of_triggers() {
    let mut db = Sample::new(Writer::Shell, CLASSES);
    let attached = db.attach();
    let unsynced: Vec<_> = attached.schema.unsynced.iter().map(|table| table.table.as_str()).collect();
    assert_eq!(unsynced, ["cache", "far"]);
    let found = classes(&db);
    let of = |class: &TriggerClass| -> Vec<&str> {
        found.iter().filter(|(_, found)| *found == class).map(|(name, _)| name.as_str()).collect()
    };
    assert_eq!(of(&TriggerClass::Copied), ["caches_it", "goes_on", "instead", "through_a_view"]);
    assert_eq!(of(&TriggerClass::Mixed), ["writes_both"]);
    let silent = ["after_synced", "checks", "checks_and_writes", "instead_synced", "to_synced_view", "touches_synced"];
    assert_eq!(of(&TriggerClass::Silent), silent);
    assert_eq!(found.len(), 11);
    let reported: BTreeMap<_, _> = attached.app_triggers.into_iter().map(|t| (t.name, t.class)).collect();
    assert_eq!(reported, found);
}

#[test]
fn copies_run_and_nothing_else_does() {
    let mut db = Sample::new(Writer::Python, CLASSES);
    db.attach();
    classes(&db);
    classes(&db);
    db.conn
        .execute_batch(
            "INSERT INTO t VALUES (1, -1, 0); UPDATE t SET a = 7; UPDATE t SET b = 1; INSERT INTO other VALUES (1, 5)",
        )
        .unwrap();
    assert_eq!(db.rows("SELECT x FROM cache"), ["7", "105"]);
    assert_eq!(db.rows("SELECT x FROM far"), ["7", "105"]);
    assert_eq!(db.rows("SELECT id, n FROM other"), ["1 5"]);
    assert!(db.take_log().is_empty());
    assert_eq!(db.rows("SELECT count(*) FROM temp.sqlite_schema"), ["4"]);
}

#[test]
fn external_content_full_text_index_stays_right() {
    let schema = "CREATE TABLE note(id INTEGER PRIMARY KEY, title TEXT, body TEXT);
        CREATE VIRTUAL TABLE note_fts USING fts5(title, body, content='note', content_rowid='id');
        CREATE TRIGGER note_ai AFTER INSERT ON note BEGIN
          INSERT INTO note_fts(rowid, title, body) VALUES (new.id, new.title, new.body); END;
        CREATE TRIGGER note_ad AFTER DELETE ON note BEGIN
          INSERT INTO note_fts(note_fts, rowid, title, body) VALUES ('delete', old.id, old.title, old.body); END;
        CREATE TRIGGER note_au AFTER UPDATE ON note BEGIN
          INSERT INTO note_fts(note_fts, rowid, title, body) VALUES ('delete', old.id, old.title, old.body);
          INSERT INTO note_fts(rowid, title, body) VALUES (new.id, new.title, new.body); END;
        INSERT INTO note VALUES (1, 'first', 'red apple'), (2, 'second', 'green pear');";
    let mut db = Sample::new(Writer::Python, schema);
    db.attach();
    assert!(classes(&db).values().all(|class| *class == TriggerClass::Copied));
    db.conn
        .execute_batch(
            "INSERT INTO note VALUES (3, 'third', 'blue plum');
             UPDATE note SET body = 'yellow plum' WHERE id = 1; DELETE FROM note WHERE id = 2;
             INSERT INTO note VALUES (1, 'x', 'white plum') ON CONFLICT DO UPDATE SET body = excluded.body;",
        )
        .unwrap();
    assert_eq!(db.rows("SELECT rowid FROM note_fts WHERE note_fts MATCH 'plum' ORDER BY rowid"), ["1", "3"]);
    assert!(db.rows("SELECT rowid FROM note_fts WHERE note_fts MATCH 'apple OR pear OR yellow'").is_empty());
    db.conn.execute("INSERT INTO note_fts(note_fts, rank) VALUES ('integrity-check', 1)", []).unwrap();
    assert!(db.take_log().is_empty());
    let log = db.logged("INSERT INTO note VALUES (9, 'by', 'application'); UPDATE note SET body = 'b' WHERE id = 3");
    assert_eq!(log, ["insert note 9", "update note 3 [body]"]);
    db.conn.execute("INSERT INTO note_fts(note_fts, rank) VALUES ('integrity-check', 1)", []).unwrap();
}

#[test]
fn a_trigger_that_cannot_be_compiled_does_not_stop_apply() {
    let schema = "CREATE TABLE t(id INTEGER PRIMARY KEY, a); CREATE TABLE log_of(x); \
                  CREATE TRIGGER calls AFTER INSERT ON t BEGIN INSERT INTO log_of VALUES (mine(NEW.a)); END; \
                  CREATE TRIGGER fine AFTER DELETE ON t BEGIN INSERT INTO log_of VALUES (OLD.id); END;
                  CREATE VIEW v AS SELECT id FROM t; \
                  CREATE TRIGGER into_view AFTER UPDATE ON t BEGIN INSERT INTO v VALUES (1); INSERT INTO log_of VALUES (1); END; \
                  CREATE TRIGGER refuse INSTEAD OF INSERT ON v BEGIN SELECT RAISE(ABORT, 'no'); END";
    let mut db = Sample::new(Writer::Shell, schema);
    db.attach();
    let found = classes(&db);
    assert!(matches!(&found["calls"], TriggerClass::Unusable { reason } if reason.contains("mine")));
    assert!(matches!(&found["into_view"], TriggerClass::Unusable { reason } if reason.contains("view")));
    assert_eq!(found["refuse"], TriggerClass::Silent);
    db.conn.execute_batch("INSERT INTO t VALUES (1, 2); UPDATE t SET a = 3; DELETE FROM t").unwrap();
}

#[test]
fn a_fresh_connection_follows_a_changed_schema() {
    let mut db = Sample::new(Writer::Shell, CLASSES);
    db.attach();
    classes(&db);
    db.write("ALTER TABLE t RENAME COLUMN a TO renamed");
    db.conn = connection::open(&db.path()).unwrap();
    db.attach();
    assert_eq!(classes(&db)["caches_it"], TriggerClass::Copied);
    db.conn.execute_batch("INSERT INTO t VALUES (1, 0, 0); UPDATE t SET renamed = 3").unwrap();
    assert_eq!(db.rows("SELECT x FROM cache"), ["3"]);
}

fn rules(decided: &[(&str, TriggerRule)]) -> TriggerRules {
    let mut rules = TriggerRules::default();
    decided.iter().for_each(|(trigger, rule)| rules.insert(trigger, *rule));
    rules
}

#[test]
fn a_trigger_is_told_to_run_or_not_to() {
    let mut db = Sample::new(Writer::Python, CLASSES);
    db.attach();
    let told = rules(&[
        ("CHECKS", TriggerRule::Run),
        ("caches_it", TriggerRule::Skip),
        ("goes_on", TriggerRule::Skip),
        ("through_a_view", TriggerRule::Run),
    ]);
    classes_under(&db, &told);
    let refused = db.conn.execute_batch("INSERT INTO t VALUES (1, -1, 0)").unwrap_err();
    assert!(refused.to_string().contains("negative"), "{refused}");
    db.conn
        .execute_batch("INSERT INTO t VALUES (1, 1, 0); UPDATE t SET a = 7; INSERT INTO other VALUES (1, 5)")
        .unwrap();
    assert_eq!(db.rows("SELECT x FROM cache"), ["105"]);
    assert!(db.rows("SELECT x FROM far").is_empty());
}

#[test]
fn a_trigger_that_writes_synced_tables_cannot_be_told_to_run() {
    let mut db = Sample::new(Writer::Shell, CLASSES);
    let told = rules(&[
        ("writes_both", TriggerRule::Run),
        ("touches_synced", TriggerRule::Run),
        ("checks_and_writes", TriggerRule::Run),
        ("checks", TriggerRule::Run),
    ]);
    let attached = db.attach_under(&AttachRules { triggers: told.clone(), ..AttachRules::default() });
    let problems = attached.warnings.iter().filter(|warning| warning.kind == WarningKind::TriggerRule);
    let problems: Vec<&str> = problems.map(|warning| warning.reason.as_str()).collect();
    let about = |trigger: &str, reason: &str| problems.iter().any(|p| p.contains(trigger) && p.contains(reason));
    assert!(about("\"writes_both\"", "the synced other"), "{problems:?}");
    assert!(about("\"touches_synced\"", "the synced other"), "{problems:?}");
    assert!(about("\"checks_and_writes\"", "RAISE(IGNORE)"), "{problems:?}");
    assert_eq!(problems.len(), 3);
    let of = |name: &str| -> &AppTrigger { attached.app_triggers.iter().find(|t| t.name == name).unwrap() };
    assert!(of("checks").runs());
    assert_eq!(of("checks").why(), "it is told to run");
    assert!(!of("writes_both").runs());
    assert!(of("writes_both").why().starts_with("it is told to run, but it writes the synced other"));
    classes_under(&db, &told);
    db.conn.execute_batch("INSERT INTO other VALUES (1, 5); INSERT INTO t VALUES (1, 2, 0); DELETE FROM t").unwrap();
    assert_eq!(db.rows("SELECT id, n FROM other"), ["1 5"], "what is written there arrives as changes");
}

#[test]
fn a_rule_that_no_trigger_is_meant_by_names_the_nearest() {
    let mut db = Sample::new(Writer::Shell, CLASSES);
    let told =
        rules(&[("cache_it", TriggerRule::Skip), ("nonsense", TriggerRule::Run), ("not_reached", TriggerRule::Skip)]);
    let attached = db.attach_under(&AttachRules { triggers: told, ..AttachRules::default() });
    let unknown = attached.warnings.iter().filter(|warning| warning.kind == WarningKind::UnknownTrigger);
    let unknown: Vec<(&str, &str)> = unknown.map(|w| (w.reason.as_str(), w.remedy.as_str())).collect();
    assert_eq!(
        unknown,
        [
            ("a rule is for trigger \"cache_it\", and there is no such trigger", "did you mean \"caches_it\"?"),
            ("a rule is for trigger \"nonsense\", and there is no such trigger", "correct or remove the rule"),
            ("a rule is for trigger \"not_reached\", which changes of synced tables do not set off", "remove the rule"),
        ]
    );
}
