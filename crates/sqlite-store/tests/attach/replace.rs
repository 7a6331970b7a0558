//! REPLACE displaces rows through unique indexes without firing a DELETE trigger: the guards name them.

use rusqlite::config::DbConfig;

use crate::support::{Sample, Writer, with_both};

#[test]
fn through_a_plain_index() {
    with_both(
        "CREATE TABLE t(id INTEGER PRIMARY KEY, u UNIQUE, v); INSERT INTO t VALUES (1, 'a', 0), (2, 'b', 0)",
        |db| {
            assert_eq!(db.logged("REPLACE INTO t VALUES (3, 'a', 0)"), ["candidate t 1", "insert t 3"]);
            assert_eq!(db.logged("REPLACE INTO t VALUES (3, 'a', 1)"), ["insert t 3"]);
            assert_eq!(db.logged("INSERT INTO t VALUES (4, NULL, 0), (5, NULL, 0)"), ["insert t 4", "insert t 5"]);
            assert_eq!(db.logged("UPDATE OR REPLACE t SET u = 'b' WHERE id = 3"), ["candidate t 2", "update t 3 [u]"]);
            assert_eq!(db.logged("UPDATE t SET v = 9 WHERE id = 3"), ["update t 3 [v]"]);
            assert_eq!(db.rows("SELECT id FROM t ORDER BY id"), ["3", "4", "5"]);
        },
    );
}

#[test]
fn an_automatic_key_does_not_hide_row_minus_one() {
    with_both("CREATE TABLE t(id INTEGER PRIMARY KEY, u UNIQUE); INSERT INTO t VALUES (-1, 'a'), (5, 'b')", |db| {
        assert_eq!(db.logged("REPLACE INTO t(u) VALUES ('a')"), ["candidate t -1", "insert t 6"]);
        assert_eq!(db.logged("REPLACE INTO t VALUES (NULL, 'b')"), ["candidate t 5", "insert t 7"]);
        assert_eq!(db.rows("SELECT id FROM t ORDER BY id"), ["6", "7"]);
    });
}

#[test]
fn through_a_composite_index() {
    with_both("CREATE TABLE t(k TEXT PRIMARY KEY, a INT, b TEXT, UNIQUE (a, b)) WITHOUT ROWID", |db| {
        db.logged("INSERT INTO t VALUES ('x', 1, 1), ('y', 1, 2)");
        assert_eq!(db.logged("REPLACE INTO t VALUES ('z', '1', 1)"), ["candidate t 'x'", "insert t 'z'"]);
        assert_eq!(db.logged("REPLACE INTO t VALUES ('w', 1, 3)"), ["insert t 'w'"]);
    });
}

#[test]
fn through_a_partial_index() {
    let schema = "CREATE TABLE t(id INTEGER PRIMARY KEY, u, p INT NOT NULL DEFAULT 1); \
                  CREATE UNIQUE INDEX i ON t(u) WHERE p > 0 -- live rows\n AND u <> 'free'; \
                  INSERT INTO t VALUES (1, 'a', 1), (2, 'a', 0), (3, 'free', 1)";
    with_both(schema, |db| {
        assert_eq!(db.logged("REPLACE INTO t VALUES (4, 'a', 0)"), ["insert t 4"]);
        assert_eq!(db.logged("REPLACE INTO t VALUES (5, 'a', 1)"), ["candidate t 1", "insert t 5"]);
        assert_eq!(db.logged("REPLACE INTO t VALUES (6, 'free', 1)"), ["insert t 6"]);
        assert_eq!(db.logged("REPLACE INTO t VALUES (7, 'a', NULL)"), ["candidate t 5", "insert t 7"]);
        assert_eq!(db.logged("UPDATE OR REPLACE t SET p = 1 WHERE id = 2"), ["candidate t 7", "update t 2 [p]"]);
    });
}

#[test]
fn through_an_index_on_expressions() {
    let schema = "CREATE TABLE t(id INTEGER PRIMARY KEY, u TEXT, w INT); \
                  CREATE UNIQUE INDEX i ON t(lower(u) DESC, w + 1) WHERE coalesce(w, 0) < 10; \
                  INSERT INTO t VALUES (1, 'A', 1), (2, 'b', 1)";
    with_both(schema, |db| {
        assert_eq!(db.logged("REPLACE INTO t VALUES (3, 'a', 1)"), ["candidate t 1", "insert t 3"]);
        assert_eq!(db.logged("REPLACE INTO t VALUES (4, 'a', 11), (5, 'a', 11)"), ["insert t 4", "insert t 5"]);
        assert_eq!(
            db.logged("UPDATE OR REPLACE t SET w = 1, u = 'B' WHERE id = 4"),
            ["candidate t 2", "update t 4 [u w]"]
        );
    });
}

#[test]
fn through_a_nocase_index() {
    let schema = "CREATE TABLE t(id INTEGER PRIMARY KEY, u TEXT, v TEXT COLLATE NOCASE); \
                  CREATE UNIQUE INDEX i ON t(u COLLATE NOCASE); CREATE UNIQUE INDEX j ON t(v COLLATE BINARY); \
                  INSERT INTO t VALUES (1, 'Abc', 'x')";
    with_both(schema, |db| {
        assert_eq!(db.logged("REPLACE INTO t VALUES (2, 'other', 'X')"), ["insert t 2"]);
        assert_eq!(db.logged("REPLACE INTO t VALUES (3, 'aBC', 'y')"), ["candidate t 1", "insert t 3"]);
    });
}

#[test]
fn a_default_that_takes_the_place_of_null() {
    let schema = "CREATE TABLE t(id INTEGER PRIMARY KEY, u TEXT NOT NULL DEFAULT word UNIQUE, \
                  n INT NOT NULL DEFAULT (1 + 1) UNIQUE); INSERT INTO t VALUES (1, 'word', 7), (2, 'x', 2)";
    with_both(schema, |db| {
        assert_eq!(db.logged("REPLACE INTO t VALUES (3, NULL, 8)"), ["candidate t 1", "insert t 3"]);
        assert_eq!(db.logged("REPLACE INTO t VALUES (4, 'y', NULL)"), ["candidate t 2", "insert t 4"]);
        assert_eq!(
            db.logged("INSERT INTO t VALUES (5, 'z', 9); UPDATE OR REPLACE t SET u = NULL WHERE id = 5"),
            ["insert t 5", "candidate t 3", "update t 5 [u]"]
        );
    });
}

#[test]
fn through_an_index_on_generated_columns() {
    let schema = "CREATE TABLE t(id INTEGER PRIMARY KEY, a, b AS (a * 2) UNIQUE, c AS (a + 1) STORED UNIQUE); \
                  INSERT INTO t(id, a) VALUES (1, 5), (2, 6)";
    with_both(schema, |db| {
        let log = db.logged("REPLACE INTO t(id, a) VALUES (3, 5)");
        assert!(log.contains(&"candidate t 1".to_owned()) && log.last().unwrap() == "insert t 3", "{log:?}");
        let log = db.logged("UPDATE OR REPLACE t SET a = 6 WHERE id = 3");
        assert!(log.contains(&"candidate t 2".to_owned()) && log.last().unwrap() == "update t 3 [a]", "{log:?}");
    });
}

#[test]
fn replace_that_the_schema_asks_for() {
    let schema = "CREATE TABLE t(id INTEGER PRIMARY KEY, u UNIQUE ON CONFLICT REPLACE); INSERT INTO t VALUES (1, 'a')";
    with_both(schema, |db| {
        assert_eq!(db.logged("INSERT INTO t VALUES (2, 'a')"), ["candidate t 1", "insert t 2"]);
    });
}

#[test]
fn an_index_that_holds_the_key_needs_no_guard() {
    let mut db = Sample::new(Writer::Shell, "CREATE TABLE t(id INTEGER PRIMARY KEY UNIQUE, a, UNIQUE (a, id))");
    db.attach();
    assert!(db.table("t").unique.is_empty());
    assert_eq!(db.rows("SELECT count(*) FROM sqlite_schema WHERE name GLOB '*replace*'"), ["0"]);
}

#[test]
fn guards_are_answered_from_the_index() {
    let schema = "CREATE TABLE t(id INTEGER PRIMARY KEY, a INT NOT NULL DEFAULT 1 UNIQUE, b TEXT, c, d, UNIQUE (c, d)); \
                  CREATE UNIQUE INDEX i ON t(b COLLATE NOCASE) WHERE d > 1; CREATE UNIQUE INDEX j ON t(lower(b), d)";
    let mut db = Sample::new(Writer::Shell, schema);
    db.attach();
    db.conn.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_TRIGGER, true).unwrap();
    db.conn.set_db_config(DbConfig::SQLITE_DBCONFIG_TRIGGER_EQP, true).unwrap();
    for write in ["INSERT INTO t VALUES (1, 2, 3, 4, 5)", "UPDATE t SET a = 1, b = 2, c = 3, d = 4 WHERE id = 1"] {
        let plan = db.rows(&format!("EXPLAIN QUERY PLAN {write}"));
        let searches = plan.iter().filter(|line| line.contains("SEARCH t USING")).count();
        assert_eq!(searches, if write.starts_with("UPDATE") { 5 } else { 4 }, "{plan:#?}");
        // The empty SELECT that gives the new row the table's affinities reads nothing.
        let guard = if write.starts_with("UPDATE") { "replace_update" } else { "replace_insert" };
        let text = db.rows(&format!("SELECT sql FROM sqlite_schema WHERE name GLOB '*{guard}'")).concat();
        let scans = plan.iter().filter(|line| line.contains("SCAN t")).count();
        assert_eq!(scans, text.matches(" WHERE 0 ").count(), "{plan:#?}");
    }
}

/// A generator of small numbers that repeats itself in every run.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % sides
    }

    fn value(&mut self) -> &'static str {
        const VALUES: [&str; 12] =
            ["NULL", "1", "'1'", "1.0", "'a'", "'A'", "'a '", "'free'", "2", "'2'", "x'61'", "-1"];
        VALUES[usize::try_from(self.roll(12)).unwrap()]
    }
}

#[test]
fn no_displaced_row_escapes() {
    let schema = "CREATE TABLE t(id INTEGER PRIMARY KEY, a TEXT NOT NULL DEFAULT 'a' UNIQUE, b, c TEXT COLLATE NOCASE, \
                  d INT NOT NULL DEFAULT 2, g AS (b || c), UNIQUE (b, c)); \
                  CREATE UNIQUE INDEX i ON t(lower(c), d) WHERE d > 1; CREATE UNIQUE INDEX j ON t(g COLLATE RTRIM, a); \
                  CREATE TABLE w(a COLLATE NOCASE, b, c COLLATE RTRIM UNIQUE, d TEXT, PRIMARY KEY (b, a)) WITHOUT ROWID; \
                  CREATE UNIQUE INDEX k ON w(d) WHERE a IS NOT 'free'; \
                  CREATE TABLE s(a TEXT PRIMARY KEY, b UNIQUE, c NOT NULL DEFAULT 1, d UNIQUE)";
    let mut db = Sample::new(Writer::Shell, schema);
    db.attach();
    db.conn.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_TRIGGER, true).unwrap();
    db.conn.execute_batch("PRAGMA synchronous = OFF; PRAGMA journal_mode = MEMORY").unwrap();
    let mut dice = Dice(1);
    for _ in 0..1_500 {
        let (table, key) = [("t", "id"), ("w", "b, a"), ("s", "a")][usize::try_from(dice.roll(3)).unwrap()];
        let [a, b, c, d] = [(); 4].map(|()| dice.value());
        let column = ["a", "b", "c", "d"][usize::try_from(dice.roll(4)).unwrap()];
        let sql = match dice.roll(3) {
            0 => format!("UPDATE OR REPLACE {table} SET {column} = {a}, d = {d} WHERE {column} IS {b}"),
            1 if table == "t" => format!("REPLACE INTO t VALUES ({}, {a}, {b}, {c}, {d})", dice.roll(9)),
            _ => format!("REPLACE INTO {table}(a, b, c, d) VALUES ({a}, {b}, {c}, {d})"),
        };
        let keys = format!("SELECT {key} FROM {table}");
        let before = db.rows(&keys);
        // Refused statements change nothing.
        let _ = db.conn.execute_batch(&sql);
        // Keys that SQLite holds equal name the same row.
        let folded = |rows: Vec<String>| -> Vec<String> {
            rows.iter().map(|row| row.to_ascii_lowercase().replace("1.0", "1")).collect()
        };
        let (before, after, log) = (folded(before), folded(db.rows(&keys)), folded(db.take_log()));
        for gone in before.iter().filter(|key| !after.contains(key)) {
            let named =
                log.iter().any(|line| line.split_once(&format!(" {table} ")).is_some_and(|(_, key)| key == gone));
            assert!(named, "{sql}: {gone} is gone, logged: {log:?}");
        }
    }
}
