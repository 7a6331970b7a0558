//! What else applications do: cascades, settings of their connections, conflict clauses, UPSERT.

use crate::support::with_both;

#[test]
fn foreign_key_actions_are_logged() {
    let schema = "CREATE TABLE p(id INTEGER PRIMARY KEY); \
                  CREATE TABLE c(id INTEGER PRIMARY KEY, p REFERENCES p ON DELETE CASCADE ON UPDATE CASCADE); \
                  CREATE TABLE n(id INTEGER PRIMARY KEY, p REFERENCES p ON DELETE SET NULL); \
                  INSERT INTO p VALUES (1), (2); INSERT INTO c VALUES (10, 1), (11, 2); INSERT INTO n VALUES (20, 1)";
    with_both(schema, |db| {
        let mut log = db.logged("PRAGMA foreign_keys = ON; DELETE FROM p WHERE id = 1");
        log.sort();
        assert_eq!(log, ["delete c 10", "delete p 1", "update n 20 [p]"]);
        let mut log = db.logged("PRAGMA foreign_keys = ON; UPDATE p SET id = 3");
        log.sort();
        assert_eq!(log, ["delete p 2", "insert p 3", "update c 11 [p]"]);
        let mut log = db.logged("PRAGMA foreign_keys = ON; REPLACE INTO p VALUES (3)");
        log.sort();
        assert_eq!(log, ["delete c 11", "insert p 3"]);
    });
}

#[test]
fn untrusted_schema() {
    let schema = "CREATE TABLE t(id INTEGER PRIMARY KEY, u UNIQUE, v); CREATE UNIQUE INDEX i ON t(lower(v))";
    with_both(schema, |db| {
        let log =
            db.logged("PRAGMA trusted_schema = OFF; INSERT INTO t VALUES (1, 2, 3); UPDATE t SET u = 5; DELETE FROM t");
        assert_eq!(log, ["insert t 1", "update t 1 [u]", "delete t 1"]);
    });
}

#[test]
fn recursive_triggers() {
    with_both("CREATE TABLE t(id INTEGER PRIMARY KEY, u UNIQUE); INSERT INTO t VALUES (1, 'a'), (2, 'b')", |db| {
        let mut log = db.logged("PRAGMA recursive_triggers = ON; REPLACE INTO t VALUES (2, 'a')");
        assert_eq!(log.pop().unwrap(), "insert t 2");
        log.sort();
        assert_eq!(log, ["candidate t 1", "delete t 1", "delete t 2"]);
    });
}

#[test]
fn conflict_clauses_that_do_nothing_leave_no_change() {
    with_both("CREATE TABLE t(id INTEGER PRIMARY KEY, v); INSERT INTO t VALUES (1, 'a')", |db| {
        assert!(db.logged("INSERT OR IGNORE INTO t VALUES (1, 'b')").is_empty());
        assert!(db.logged("INSERT INTO t VALUES (1, 'b') ON CONFLICT DO NOTHING").is_empty());
        assert_eq!(
            db.logged("INSERT INTO t VALUES (1, 'c'), (2, 'd') ON CONFLICT (id) DO UPDATE SET v = excluded.v"),
            ["update t 1 [v]", "insert t 2"]
        );
        assert!(db.logged("INSERT INTO t VALUES (1, 'c') ON CONFLICT (id) DO UPDATE SET v = excluded.v").is_empty());
        assert_eq!(db.logged("UPDATE t SET v = 'e' FROM (SELECT 2 AS n) WHERE id = n"), ["update t 2 [v]"]);
    });
}

#[test]
fn what_is_rolled_back_is_not_logged() {
    with_both("CREATE TABLE t(id INTEGER PRIMARY KEY, u UNIQUE)", |db| {
        assert!(db.logged("BEGIN; INSERT INTO t VALUES (1, 1); ROLLBACK").is_empty());
        let log = db.logged(
            "BEGIN; INSERT INTO t VALUES (1, 1); SAVEPOINT s; INSERT INTO t VALUES (2, 2); ROLLBACK TO s; \
             INSERT INTO t VALUES (3, 3); COMMIT",
        );
        assert_eq!(log, ["insert t 1", "insert t 3"]);
        assert!(db.try_write("INSERT INTO t VALUES (4, 1)").is_err());
        assert!(db.take_log().is_empty());
    });
}

#[test]
fn a_journal_in_wal_mode_is_left_as_it_is() {
    with_both("PRAGMA journal_mode = WAL; CREATE TABLE t(id INTEGER PRIMARY KEY)", |db| {
        assert_eq!(db.logged("INSERT INTO t VALUES (1)"), ["insert t 1"]);
        let conn = sqlite_store::connection::open(&db.path()).unwrap();
        let settings: (String, i64, i64) = conn
            .query_row("SELECT * FROM pragma_journal_mode, pragma_synchronous, pragma_foreign_keys", [], |row| {
                Ok((row.get(0)?, row.get(1)?, row.get(2)?))
            })
            .unwrap();
        assert_eq!(settings, ("wal".to_owned(), 1, 0));
    });
}
