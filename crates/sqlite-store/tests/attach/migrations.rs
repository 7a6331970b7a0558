//! Attached databases whose schema changes, and databases that are detached.

use replication::Origin;
use sqlite_store::attach::{attach, schema_hash, schema_version, settle_rebuilt, settle_rewritten, settle_unwatched};
use sqlite_store::detach::Detached;
use sqlite_store::error::StoreError;

use crate::support::{Sample, Writer, with_both};

const SCHEMA: &str = "CREATE TABLE t(id INTEGER PRIMARY KEY, a, b TEXT UNIQUE); CREATE TABLE o(k TEXT PRIMARY KEY); \
                      INSERT INTO t VALUES (1, 1, 'x'), (2, 2, 'y')";

fn numbers(db: &Sample, table: &str) -> Vec<(u16, String)> {
    db.table(table).columns.into_iter().map(|column| (column.number, column.name)).collect()
}

#[test]
fn attaching_again_changes_nothing() {
    with_both(SCHEMA, |db| {
        let first = db.attach();
        let (version, hash) = (schema_version(&db.conn).unwrap(), schema_hash(&db.conn).unwrap());
        let changes = db.conn.total_changes();
        let again = attach(&mut db.conn, Origin::from_bytes([9; 16]), "here").unwrap();
        assert_eq!((again.created, again.origin), (false, Origin::from_bytes([7; 16])));
        assert_eq!((schema_version(&db.conn).unwrap(), schema_hash(&db.conn).unwrap()), (version, hash));
        assert_eq!(db.conn.total_changes(), changes);
        assert_eq!(again.schema, first.schema);
        assert_eq!((again.schema.hash, again.schema.version), (hash, version));
        assert_eq!(db.schema(), again.schema);
        assert!(again.rebuilt.is_empty());
    });
}

#[test]
fn vacuum_and_analyze_move_the_version_and_not_the_hash() {
    with_both(SCHEMA, |db| {
        let (version, hash) = (schema_version(&db.conn).unwrap(), schema_hash(&db.conn).unwrap());
        db.write("VACUUM; ANALYZE");
        assert_ne!(schema_version(&db.conn).unwrap(), version);
        assert_eq!(schema_hash(&db.conn).unwrap(), hash);
        db.write("CREATE INDEX i ON t(a)");
        assert_ne!(schema_hash(&db.conn).unwrap(), hash);
    });
}

#[test]
fn a_new_table_and_a_table_that_is_gone() {
    with_both(SCHEMA, |db| {
        db.write("CREATE TABLE fresh(id INTEGER PRIMARY KEY); INSERT INTO o VALUES ('left'); DROP TABLE o");
        db.attach();
        assert_eq!(db.rows("SELECT id, name FROM _sync_table"), ["1 't'", "3 'fresh'"]);
        assert_eq!(
            db.rows("SELECT name FROM sqlite_schema WHERE name GLOB '_sync_clock*' ORDER BY 1"),
            ["'_sync_clock_fresh'", "'_sync_clock_t'"]
        );
        assert_eq!(db.logged("INSERT INTO fresh VALUES (1)"), ["insert fresh 1"]);
        db.write("DROP TABLE fresh; CREATE TABLE later(id INTEGER PRIMARY KEY)");
        db.attach();
        assert_eq!(db.table("later").number, 4);
    });
}

#[test]
fn a_table_that_comes_back_goes_on_with_its_entries() {
    with_both(SCHEMA, |db| {
        db.conn.execute("INSERT INTO _sync_clock_t VALUES (1, 0, 5, 1, 1, 0, NULL)", []).unwrap();
        db.write("DROP TABLE t");
        let attached = db.attach();
        assert_eq!((attached.retired.iter().map(String::as_str).collect(), attached.rebuilt), (vec!["t"], vec![]));
        assert_eq!(db.attach().retired.len(), 1);
        db.write("CREATE TABLE t(id INTEGER PRIMARY KEY, a, b TEXT UNIQUE); INSERT INTO t VALUES (2, 2, 'y')");
        let attached = db.attach();
        assert!(attached.retired.is_empty());
        assert_eq!((attached.rebuilt, attached.rewritten, db.table("t").number), (vec![1], vec![1], 1));
        assert_eq!(db.rows("SELECT k0, ts FROM _sync_clock_t"), ["1 5"]);
        assert_eq!(db.logged("DELETE FROM t WHERE id = 2"), ["delete t 2"]);
        assert_eq!(db.detach().tables, 12);
        assert!(db.rows("SELECT name FROM sqlite_schema WHERE name GLOB '_sync_*'").is_empty());
    });
}

#[test]
fn a_table_rebuilt_step_by_step_is_the_one_that_it_was() {
    with_both(SCHEMA, |db| {
        db.conn.execute("INSERT INTO _sync_clock_t VALUES (1, 0, 5, 1, 1, 0, NULL)", []).unwrap();
        db.write("CREATE TABLE t_new(id INTEGER PRIMARY KEY, a, b TEXT UNIQUE, c)");
        db.attach();
        db.write("INSERT INTO t_new SELECT *, 1 FROM t");
        db.conn.execute("INSERT INTO _sync_clock_t_new VALUES (1, 0, 6, 1, 2, 0, NULL)", []).unwrap();
        db.write("DROP TABLE t");
        assert_eq!(db.attach().retired.len(), 1);
        db.write("ALTER TABLE t_new RENAME TO t");
        let attached = db.attach();
        assert!(attached.retired.is_empty());
        assert_eq!((attached.rebuilt, attached.rewritten), (vec![1], vec![1]));
        assert_eq!(db.rows("SELECT id, name FROM _sync_table"), ["1 't'", "2 'o'"]);
        assert_eq!(db.rows("SELECT k0, ts FROM _sync_clock_t"), ["1 5"]);
        db.take_log();
        assert_eq!(db.logged("UPDATE t SET c = 2 WHERE id = 1"), ["update t 1 [c]"]);
    });
}

#[test]
fn a_renamed_table_keeps_its_number_and_clock() {
    with_both(SCHEMA, |db| {
        db.conn.execute("INSERT INTO _sync_clock_t VALUES (1, 0, 5, 1, 1, 0, NULL)", []).unwrap();
        db.write("CREATE VIEW broken AS SELECT * FROM nowhere; PRAGMA legacy_alter_table = ON; DROP VIEW broken; \
                  PRAGMA legacy_alter_table = OFF; ALTER TABLE t RENAME TO \"t 2\"; INSERT INTO \"t 2\" VALUES (3, 3, 'z'); \
                  CREATE VIEW broken AS SELECT * FROM nowhere");
        let attached = db.attach();
        assert!(attached.rebuilt.is_empty());
        let table = db.table("t 2");
        assert_eq!((table.number, table.clock.as_str()), (1, "_sync_clock_t 2"));
        assert_eq!(db.rows("SELECT k0, ts FROM \"_sync_clock_t 2\""), ["1 5"]);
        assert_eq!(db.take_log(), ["insert t 2 3"]);
        db.write("CREATE TABLE t(id INTEGER PRIMARY KEY)");
        db.attach();
        assert_eq!(
            db.logged("INSERT INTO t VALUES (1); UPDATE \"t 2\" SET a = 0 WHERE id = 3"),
            ["insert t 1", "update t 2 3 [a]"]
        );
    });
}

#[test]
fn columns_that_are_renamed_added_dropped_and_brought_back() {
    with_both("CREATE TABLE t(id INTEGER PRIMARY KEY, a, b, c); INSERT INTO t VALUES (1, 1, 1, 1)", |db| {
        db.write("ALTER TABLE t RENAME COLUMN a TO \"größe 1\"; ALTER TABLE t RENAME COLUMN b TO a; ALTER TABLE t ADD COLUMN d");
        assert!(db.attach().rebuilt.is_empty());
        let named = |pairs: &[(u16, &str)]| pairs.iter().map(|(n, name)| (*n, (*name).to_owned())).collect::<Vec<_>>();
        assert_eq!(numbers(db, "t"), named(&[(1, "id"), (2, "größe 1"), (3, "a"), (4, "c"), (5, "d")]));
        assert_eq!(db.logged("UPDATE t SET a = 9, d = 9"), ["update t 1 [a d]"]);
        assert!(db.try_write("ALTER TABLE t DROP COLUMN c").is_err());
        let drop = "DROP TRIGGER _sync_1_update; ALTER TABLE t DROP COLUMN c; ALTER TABLE t ADD COLUMN e";
        db.write(drop);
        assert_eq!(db.attach().rebuilt, [1]);
        assert_eq!(numbers(db, "t"), named(&[(1, "id"), (2, "größe 1"), (3, "a"), (5, "d"), (6, "e")]));
        db.write("ALTER TABLE t ADD COLUMN c");
        db.attach();
        assert_eq!(numbers(db, "t").last().unwrap(), &(4, "c".to_owned()));
        assert_eq!(db.logged("UPDATE t SET c = 9"), ["update t 1 [c]"]);
    });
}

#[test]
fn a_renamed_key_column_is_followed() {
    with_both("CREATE TABLE t(id INTEGER PRIMARY KEY, a)", |db| {
        db.write("ALTER TABLE t RENAME COLUMN id TO \"key\"");
        db.attach();
        assert_eq!(numbers(db, "t")[0], (1, "key".to_owned()));
        assert_eq!(db.logged("INSERT INTO t VALUES (4, 1)"), ["insert t 4"]);
    });
}

#[test]
fn new_columns_are_named_until_they_are_settled() {
    with_both("CREATE TABLE t(id INTEGER PRIMARY KEY, a)", |db| {
        assert_eq!(db.attach().unwatched, []);
        db.write("ALTER TABLE t ADD COLUMN b; ALTER TABLE t ADD COLUMN c");
        assert_eq!(db.attach().unwatched, [(1, 3), (1, 4)]);
        settle_unwatched(&db.conn, 1, 3).unwrap();
        assert_eq!(db.attach().unwatched, [(1, 4)]);
        // A column that comes back under its old number is as new to the triggers.
        db.write("DROP TRIGGER _sync_1_update; ALTER TABLE t DROP COLUMN b");
        db.attach();
        db.write("ALTER TABLE t ADD COLUMN b");
        assert_eq!(db.attach().unwatched, [(1, 4), (1, 3)]);
    });
}

#[test]
fn a_unique_index_that_is_new_may_have_taken_rows_out() {
    with_both("CREATE TABLE t(id INTEGER PRIMARY KEY, a)", |db| {
        db.write(
            "CREATE UNIQUE INDEX t_a ON t (a); INSERT INTO t VALUES (1, 1); INSERT OR REPLACE INTO t VALUES (2, 1)",
        );
        let attached = db.attach();
        assert_eq!((attached.rebuilt, attached.rewritten), (vec![1], vec![]));
        settle_rebuilt(&db.conn, 1).unwrap();
        db.write("CREATE INDEX plain ON t (a)");
        assert!(db.attach().rebuilt.is_empty());
    });
}

#[test]
fn a_rebuilt_table_is_named_until_it_is_settled() {
    with_both(SCHEMA, |db| {
        db.conn.execute("UPDATE _sync_table SET baseline = 1", []).unwrap();
        let hash = schema_hash(&db.conn).unwrap();
        db.write(
            "BEGIN; CREATE TABLE t_new(id INTEGER PRIMARY KEY, a, b TEXT UNIQUE); INSERT INTO t_new SELECT * FROM t; \
             DROP TABLE t; ALTER TABLE t_new RENAME TO t; COMMIT",
        );
        assert_ne!(schema_hash(&db.conn).unwrap(), hash);
        let attached = db.attach();
        assert_eq!(attached.rebuilt, [1]);
        let published: Vec<bool> = attached.schema.tables.iter().map(|table| table.baseline_published).collect();
        assert_eq!(published, [false, true]);
        assert_eq!(db.schema(), attached.schema);
        assert_eq!((db.attach().rebuilt, db.attach().rewritten), (vec![1], vec![1]));
        settle_rebuilt(&db.conn, 1).unwrap();
        settle_rewritten(&db.conn, 1).unwrap();
        assert_eq!((db.attach().rebuilt, db.attach().rewritten), (vec![], vec![]));
        assert_eq!(db.logged("DELETE FROM t WHERE id = 2"), ["delete t 2"]);
    });
}

#[test]
fn a_table_that_took_the_place_of_one_renamed_away_has_its_number() {
    with_both(SCHEMA, |db| {
        db.write(
            "BEGIN; ALTER TABLE t RENAME TO t_old; CREATE TABLE t(id INTEGER PRIMARY KEY, a, b, c); \
             INSERT INTO t SELECT *, 1 FROM t_old; COMMIT",
        );
        let attached = db.attach();
        assert_eq!((attached.rebuilt, db.table("t").number, db.table("t_old").number), (vec![1], 1, 3));
        assert_eq!(
            db.logged("DELETE FROM t WHERE id = 1; DELETE FROM t_old WHERE id = 2"),
            ["delete t 1", "delete t_old 2"]
        );
        db.write("DROP TABLE t_old");
        db.attach();
        assert_eq!(db.logged("DELETE FROM t WHERE id = 2"), ["delete t 2"]);
    });
}

#[test]
fn a_table_with_another_key_gets_another_clock() {
    with_both("CREATE TABLE t(id INTEGER PRIMARY KEY, a TEXT)", |db| {
        db.conn
            .execute_batch(
                "INSERT INTO _sync_clock_t VALUES (1, 0, 5, 1, 1, 0, NULL); UPDATE _sync_table SET baseline = 1",
            )
            .unwrap();
        db.write("DROP TABLE t; CREATE TABLE t(id INTEGER, a TEXT COLLATE NOCASE, PRIMARY KEY (a, id))");
        let attached = db.attach();
        assert!(!attached.schema.tables[0].baseline_published);
        assert!(db.rows("SELECT k0, k1 FROM _sync_clock_t").is_empty());
        assert_eq!(db.logged("INSERT INTO t VALUES (1, 'x')"), ["insert t 'x' 1"]);
    });
}

#[test]
fn a_table_that_loses_its_key_is_let_go() {
    with_both(SCHEMA, |db| {
        db.write("DROP TABLE t; CREATE TABLE t(a, b)");
        let attached = db.attach();
        assert_eq!(attached.schema.unsynced[0].table, "t");
        assert!(
            db.rows("SELECT name FROM sqlite_schema WHERE name = '_sync_clock_t' OR name GLOB '_sync_1_*'").is_empty()
        );
        db.write("INSERT INTO t VALUES (1, 2)");
        assert!(db.take_log().is_empty());
    });
}

fn everything(db: &Sample) -> Vec<String> {
    db.rows("SELECT type, name, tbl_name, sql FROM sqlite_schema")
}

#[test]
fn detached_as_if_it_had_never_been_attached() {
    let schema = "CREATE TABLE t(id INTEGER PRIMARY KEY AUTOINCREMENT, a UNIQUE); CREATE TABLE \"q \"\"r\"(k TEXT PRIMARY KEY); \
                  CREATE VIEW v AS SELECT a FROM t; CREATE TABLE _sync_other(x); \
                  CREATE TRIGGER _sync_own AFTER INSERT ON t BEGIN INSERT INTO _sync_other VALUES (1); END; \
                  INSERT INTO t VALUES (1, 'a'); ANALYZE";
    for writer in [Writer::Python, Writer::Shell] {
        let mut db = Sample::new(writer, schema);
        let before = (everything(&db), db.rows("SELECT * FROM sqlite_stat1"), db.rows("SELECT * FROM sqlite_sequence"));
        db.attach();
        assert_ne!(everything(&db), before.0);
        db.write("INSERT INTO t VALUES (2, 'b'); DELETE FROM t WHERE id = 2; ANALYZE");
        let detached = db.detach();
        assert_eq!((detached.triggers, detached.tables), (8, 12));
        assert_eq!(everything(&db), before.0);
        assert!(db.rows("SELECT tbl FROM sqlite_stat1 WHERE tbl GLOB '_sync_[^o]*'").is_empty());
        assert!(db.rows("SELECT * FROM pragma_integrity_check").contains(&"'ok'".to_owned()));
        assert_eq!(db.detach(), Detached::default());
        db.write("INSERT INTO t VALUES (3, 'c')");
        assert!(db.attach().created);
    }
}

#[test]
fn a_lost_trigger_and_a_lost_clock_table_are_put_back() {
    let mut db = Sample::new(Writer::Shell, SCHEMA);
    db.attach();
    db.write("DROP TABLE _sync_clock_t; DROP TRIGGER _sync_2_insert");
    assert_eq!(db.attach().rebuilt, [2]);
    assert_eq!(db.logged("DELETE FROM t WHERE id = 1; INSERT INTO o VALUES ('k')"), ["delete t 1", "insert o 'k'"]);
}

#[test]
fn a_half_broken_attachment_is_reported_and_can_be_detached() {
    let mut db = Sample::new(Writer::Shell, SCHEMA);
    let before = everything(&db);
    let breaks = [
        "DROP TABLE _sync_column",
        "DELETE FROM _sync_origin",
        "DROP TABLE _sync_meta",
        "DROP TABLE _sync_clock_t; DROP TRIGGER _sync_2_update; DROP TABLE _sync_meta; DROP TABLE _sync_table; DROP TABLE _sync_log",
    ];
    for broken in breaks {
        db.attach();
        db.write(broken);
        let refused = attach(&mut db.conn, Origin::from_bytes([1; 16]), "n").unwrap_err();
        assert!(matches!(refused, StoreError::Damaged { .. }), "{refused}");
        db.detach();
        assert_eq!(everything(&db), before);
    }
}

#[test]
fn a_later_format_and_foreign_tables_are_left_alone() {
    let mut db = Sample::new(Writer::Shell, SCHEMA);
    db.attach();
    db.write("UPDATE _sync_meta SET value = 5 WHERE key = 'format'");
    let refused = attach(&mut db.conn, Origin::from_bytes([1; 16]), "n").unwrap_err();
    assert!(matches!(refused, StoreError::Format { found: 5, known: 4 }));
    let mut db = Sample::new(Writer::Shell, "CREATE TABLE _sync_log(message)");
    let before = everything(&db);
    let refused = attach(&mut db.conn, Origin::from_bytes([1; 16]), "n").unwrap_err();
    assert!(matches!(refused, StoreError::Damaged { .. }), "{refused}");
    assert_eq!((db.detach(), everything(&db)), (Detached::default(), before));
}

#[test]
fn a_file_of_the_first_form_is_brought_up_to_the_present_one() {
    let mut db = Sample::new(Writer::Shell, SCHEMA);
    db.attach();
    let fresh = everything(&db);
    db.conn.execute("INSERT INTO _sync_clock_t VALUES (1, 0, 5, 0, 1, 0, NULL)", []).unwrap();
    // As the first form was.
    db.conn
        .execute_batch(
            "CREATE TABLE old(k0 INTEGER NOT NULL, col INTEGER NOT NULL, ts INTEGER NOT NULL, origin INTEGER NOT NULL, \
             seq INTEGER NOT NULL, flags INTEGER NOT NULL, PRIMARY KEY (k0, col)) WITHOUT ROWID; \
             INSERT INTO old SELECT k0, col, ts, origin, seq, flags FROM _sync_clock_t; DROP TABLE _sync_clock_t; \
             CREATE TABLE _sync_clock_t (k0 INTEGER NOT NULL, col INTEGER NOT NULL, ts INTEGER NOT NULL, \
             origin INTEGER NOT NULL, seq INTEGER NOT NULL, flags INTEGER NOT NULL, PRIMARY KEY (k0, col)) WITHOUT ROWID; \
             INSERT INTO _sync_clock_t SELECT * FROM old; DROP TABLE old; DROP TABLE _sync_orphan; \
             DROP TABLE _sync_parked_dot; DROP TABLE _sync_dot; \
             CREATE INDEX _sync_dot_1 ON _sync_clock_t (origin, seq); UPDATE _sync_meta SET value = 1 WHERE key = 'format'",
        )
        .unwrap();
    let attached = db.attach();
    assert!(!attached.created && attached.rebuilt.is_empty() && attached.rewritten.is_empty());
    assert_eq!(db.rows("SELECT * FROM _sync_clock_t"), ["1 0 5 0 1 0 NULL"]);
    assert_eq!(db.rows("SELECT value FROM _sync_meta WHERE key = 'format'"), ["4"]);
    assert_eq!(db.rows("SELECT origin, first, last, hex(dots) FROM _sync_dot"), ["0 1 1 '04020202'"]);
    assert_eq!(everything(&db).len(), fresh.len());
}

#[test]
fn what_the_triggers_of_the_second_form_logged_is_not_lost_with_them() {
    let mut db = Sample::new(Writer::Shell, "CREATE TABLE t(id INTEGER PRIMARY KEY, a)");
    db.attach();
    let fresh = everything(&db);
    // As the second form was.
    db.write(
        "DROP TRIGGER _sync_1_update; ALTER TABLE _sync_log DROP COLUMN p0; \
         CREATE TRIGGER _sync_1_update AFTER UPDATE ON t WHEN OLD.id IS NEW.id/*1*/ AND OLD.a IS NOT NEW.a BEGIN \
         INSERT INTO _sync_log (tbl, op, mask, ts, k0) VALUES (1, 3, (OLD.a IS NOT NEW.a/*2*/) << 1, 0, NEW.id); END; \
         CREATE TRIGGER _sync_1_key AFTER UPDATE ON t WHEN NOT (OLD.id IS NEW.id) BEGIN \
         INSERT INTO _sync_log (tbl, op, ts, k0) VALUES (1, 2, 0, OLD.id); \
         INSERT INTO _sync_log (tbl, op, ts, k0) VALUES (1, 1, 0, NEW.id); END; \
         UPDATE _sync_meta SET value = 2 WHERE key = 'format'",
    );
    db.write("INSERT INTO t VALUES (1, 'x'); UPDATE t SET id = 2");
    let attached = db.attach();
    assert!(!attached.created && attached.rebuilt.is_empty() && attached.rewritten.is_empty());
    assert_eq!(db.rows("SELECT op, k0 FROM _sync_log ORDER BY seq"), ["1 1", "2 1", "1 2"]);
    let now = everything(&db);
    assert_eq!(now.len(), fresh.len());
    assert!(!now.iter().any(|line| line.contains("_sync_1_key")), "{now:?}");
    db.write("DELETE FROM _sync_log");
    assert_eq!(db.logged("UPDATE t SET id = 3, a = 'y'"), ["delete t 2", "insert t 3"]);
}
