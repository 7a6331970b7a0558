//! Triggers that are lifted for a migration, and put back by it or by whoever attaches next.

use std::path::Path;

use replication::Origin;
use sqlite_store::attach::attach;
use sqlite_store::error::StoreError;
use sqlite_store::lift::{Lifted, lift};

use crate::support::{Sample, Writer, with_both};

const SCHEMA: &str = "CREATE TABLE t(id INTEGER PRIMARY KEY, a, b TEXT UNIQUE); CREATE TABLE o(k TEXT PRIMARY KEY, v); \
                      INSERT INTO t VALUES (1, 10, 'x'), (2, 20, 'y'); INSERT INTO o VALUES ('k', 1)";

const TRIGGERS: &str = "SELECT name FROM sqlite_schema WHERE type = 'trigger' ORDER BY name";

const LIFTED_KEYS: &str = "SELECT key FROM _sync_meta WHERE key GLOB 'lifted*'";

fn lifted(db: &Sample) -> Lifted {
    lift(&db.path()).unwrap().unwrap()
}

/// The marks that a migration under lifted triggers leaves: rebuilt, rewritten, unwatched.
type Marks = (Vec<i64>, Vec<i64>, Vec<(i64, u16)>);

/// What is marked once a migration has run with the triggers lifted.
fn migrated(db: &Sample, sql: &str) -> Marks {
    let lifted = lifted(db);
    db.write(sql);
    let attached = lifted.restore().unwrap().unwrap();
    assert!(db.rows(LIFTED_KEYS).is_empty());
    (attached.rebuilt, attached.rewritten, attached.unwatched)
}

fn lock_file(db: &Sample) -> std::path::PathBuf {
    format!("{}-sync-migrate", db.path().display()).into()
}

#[test]
fn what_triggers_stand_in_the_way_of_runs_while_they_are_lifted() {
    with_both(SCHEMA, |db| {
        let before = db.rows(TRIGGERS);
        let drop = "ALTER TABLE t DROP COLUMN a";
        assert!(db.try_write(drop).unwrap_err().contains("error in trigger"));
        assert_eq!(migrated(db, drop), (vec![], vec![], vec![]));
        assert_eq!(db.rows(TRIGGERS), before);
        assert_eq!(db.logged("UPDATE t SET b = 'z' WHERE id = 1"), ["update t 1 [b]"]);
        assert!(!lock_file(db).exists());
    });
}

#[test]
fn a_rename_under_legacy_alter_table_keeps_the_number_and_the_clock() {
    with_both(SCHEMA, |db| {
        db.conn.execute("INSERT INTO _sync_clock_t VALUES (1, 0, 5, 1, 1, 0, NULL)", []).unwrap();
        let marks = migrated(db, "PRAGMA legacy_alter_table = ON; ALTER TABLE t RENAME TO t2");
        // What it holds is said anew under its name.
        assert_eq!(marks, (vec![], vec![1], vec![]));
        assert_eq!((db.table("t2").number, db.table("t2").clock), (1, "_sync_clock_t2".to_owned()));
        assert_eq!(db.rows("SELECT k0, ts FROM _sync_clock_t2"), ["1 5"]);
        assert_eq!(db.logged("INSERT INTO t2 VALUES (3, 3, 'z')"), ["insert t2 3"]);
    });
}

#[test]
fn only_tables_that_a_migration_wrote_are_marked() {
    with_both(SCHEMA, |db| {
        assert_eq!(migrated(db, "UPDATE o SET v = 1.0"), (vec![2], vec![2], vec![]));
    });
    with_both(SCHEMA, |db| {
        // The same rows again, in a table that was made anew.
        let rebuild = "CREATE TABLE t_new(id INTEGER PRIMARY KEY, b TEXT UNIQUE, a, c DEFAULT 7); \
                       INSERT INTO t_new (id, a, b) SELECT id, a, b FROM t ORDER BY id DESC; DROP TABLE t; \
                       ALTER TABLE t_new RENAME TO t";
        assert_eq!(migrated(db, rebuild), (vec![], vec![], vec![(1, 4)]));
        assert_eq!(db.logged("DELETE FROM t WHERE id = 2"), ["delete t 2"]);
    });
    for write in ["DELETE FROM t WHERE id = 2", "INSERT INTO t VALUES (3, 3, 'z')", "UPDATE t SET id = 9 WHERE id = 1"]
    {
        with_both(SCHEMA, |db| assert_eq!(migrated(db, write), (vec![1], vec![1], vec![]), "{write}"));
    }
}

#[test]
fn a_renamed_column_is_known_by_what_it_holds() {
    with_both(SCHEMA, |db| {
        let renames = "ALTER TABLE t RENAME COLUMN a TO c; ALTER TABLE t RENAME COLUMN id TO key; \
                       ALTER TABLE t ADD COLUMN fresh DEFAULT 5";
        // What they hold is said anew under their names; the key is every row's.
        assert_eq!(migrated(db, renames), (vec![], vec![1], vec![(1, 1), (1, 2), (1, 4)]));
        let numbers: Vec<(u16, String)> =
            db.table("t").columns.into_iter().map(|column| (column.number, column.name)).collect();
        assert_eq!(numbers, [(1, "key".into()), (2, "c".into()), (3, "b".into()), (4, "fresh".into())]);
    });
    // Two that hold the same are not told apart: they count as new.
    with_both("CREATE TABLE t(id INTEGER PRIMARY KEY, a, b); INSERT INTO t VALUES (1, 7, 7)", |db| {
        let renames = "ALTER TABLE t RENAME COLUMN a TO c; ALTER TABLE t RENAME COLUMN b TO d";
        assert_eq!(migrated(db, renames), (vec![], vec![], vec![(1, 4), (1, 5)]));
    });
}

#[test]
fn what_was_marked_before_the_lift_stays_marked() {
    with_both(SCHEMA, |db| {
        db.write("CREATE TABLE n(k TEXT PRIMARY KEY, v); INSERT INTO n VALUES ('n', 1); DROP TABLE o; ALTER TABLE n RENAME TO o");
        assert_eq!(migrated(db, "ALTER TABLE t DROP COLUMN a"), (vec![2], vec![2], vec![]));
    });
}

#[test]
fn nobody_attaches_while_a_migration_runs() {
    let mut db = Sample::new(Writer::Shell, SCHEMA);
    db.attach();
    let running = lifted(&db);
    let during = db.rows(TRIGGERS);
    assert_eq!(during, ["'_sync_1_lifted'", "'_sync_2_lifted'"]);
    let refused = attach(&mut db.conn, Origin::from_bytes([1; 16]), "n").unwrap_err();
    assert!(matches!(refused, StoreError::Lifted), "{refused}");
    assert!(matches!(lift(&db.path()).unwrap_err(), StoreError::Lifted));
    assert_eq!(db.rows(TRIGGERS), during);
    running.restore().unwrap();
    drop(running);
    assert!(db.attach().rebuilt.is_empty());
}

#[test]
fn the_next_attach_makes_good_a_migration_that_was_killed() {
    with_both(SCHEMA, |db| {
        let before = db.rows(TRIGGERS);
        // The end of the process lets go of the lock, and nothing else happens.
        drop(lifted(db));
        db.write("INSERT INTO o VALUES ('late', 2); ALTER TABLE t DROP COLUMN a");
        let attached = db.attach();
        assert_eq!((attached.rebuilt, attached.rewritten, attached.unwatched), (vec![2], vec![2], vec![]));
        assert_eq!(db.rows(TRIGGERS), before);
        assert!(db.rows(LIFTED_KEYS).is_empty());
        assert_eq!(db.logged("DELETE FROM o WHERE k = 'k'"), ["delete o 'k'"]);
    });
}

#[test]
fn another_migration_makes_good_one_that_was_killed() {
    with_both(SCHEMA, |db| {
        drop(lifted(db));
        db.write("UPDATE o SET v = 2");
        assert_eq!(migrated(db, "ALTER TABLE t DROP COLUMN a"), (vec![2], vec![2], vec![]));
    });
}

#[test]
fn the_lock_holds_through_a_link_and_its_file_may_be_left_over() {
    let mut db = Sample::new(Writer::Shell, SCHEMA);
    db.attach();
    std::fs::write(lock_file(&db), "").unwrap();
    let link = db.path().with_file_name("link.db");
    std::os::unix::fs::symlink(db.path(), &link).unwrap();
    let running = lift(&link).unwrap().unwrap();
    assert!(matches!(lift(&db.path()).unwrap_err(), StoreError::Lifted));
    running.restore().unwrap();
    drop(running);
    assert!(!lock_file(&db).exists());
    lifted(&db).restore().unwrap();
}

#[test]
fn a_file_that_is_not_attached_has_nothing_to_lift() {
    let mut db = Sample::new(Writer::Shell, SCHEMA);
    assert!(lift(&db.path()).unwrap().is_none());
    assert!(lift(Path::new("/nowhere/at/all.db")).unwrap().is_none());
    db.attach();
    let running = lifted(&db);
    db.detach();
    assert!(running.restore().unwrap().is_none());
    assert!(db.rows("SELECT name FROM sqlite_schema WHERE name GLOB '_sync_*'").is_empty());
}
