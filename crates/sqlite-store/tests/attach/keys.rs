//! Keys of every shape: what is logged for an insert, an update, a changed key and a delete.

use sqlite_store::schema::Affinity;

use crate::support::with_both;

#[test]
fn integer_key() {
    with_both("CREATE TABLE t(id INTEGER PRIMARY KEY, a, b)", |db| {
        assert_eq!(db.logged("INSERT INTO t(a) VALUES (1), (2)"), ["insert t 1", "insert t 2"]);
        assert_eq!(db.logged("UPDATE t SET a = 5, b = 6 WHERE id = 1"), ["update t 1 [a b]"]);
        assert_eq!(db.logged("UPDATE t SET id = 9 WHERE id = 1"), ["delete t 1", "insert t 9"]);
        assert_eq!(db.logged("UPDATE t SET rowid = 10 WHERE id = 9"), ["delete t 9", "insert t 10"]);
        assert_eq!(db.logged("DELETE FROM t WHERE id = 2"), ["delete t 2"]);
        assert_eq!(
            db.logged("INSERT INTO t(id) VALUES (3); DELETE FROM t"),
            ["insert t 3", "delete t 3", "delete t 10"]
        );
        assert_eq!(db.table("t").rowid_alias, Some(0));
    });
}

#[test]
fn text_and_blob_keys() {
    with_both("CREATE TABLE t(k TEXT PRIMARY KEY, a); CREATE TABLE b(a, k BLOB PRIMARY KEY)", |db| {
        assert_eq!(db.logged("INSERT INTO t VALUES ('x', 1), (5, 1)"), ["insert t 'x'", "insert t '5'"]);
        assert_eq!(db.logged("UPDATE t SET k = 'X' WHERE k = 'x'"), ["delete t 'x'", "insert t 'X'"]);
        assert_eq!(db.logged("INSERT INTO b VALUES (1, x'00ff')"), ["insert b x'00ff'"]);
        assert_eq!(db.logged("UPDATE b SET a = 2"), ["update b x'00ff' [a]"]);
        assert_eq!(db.logged("DELETE FROM b"), ["delete b x'00ff'"]);
        assert_eq!(db.logged("INSERT INTO t VALUES (NULL, 1)"), ["insert t NULL"]);
    });
}

#[test]
fn composite_keys_in_the_key_s_order() {
    let schema = "CREATE TABLE t(a INT, v, b TEXT COLLATE NOCASE, PRIMARY KEY (b, a)); \
                  CREATE TABLE w(a, b, c, v, PRIMARY KEY (c, a)) WITHOUT ROWID";
    with_both(schema, |db| {
        assert_eq!(db.logged("INSERT INTO t VALUES (1, 2, 'Q')"), ["insert t 'Q' 1"]);
        assert_eq!(db.logged("UPDATE t SET v = 3"), ["update t 'Q' 1 [v]"]);
        assert_eq!(db.logged("UPDATE t SET b = 'q'"), ["update t 'q' 1 [b]"]);
        assert_eq!(db.logged("UPDATE t SET a = 2"), ["delete t 'q' 1", "insert t 'q' 2"]);
        assert_eq!(db.logged("INSERT INTO w VALUES (1, 2, 3, 4)"), ["insert w 3 1"]);
        assert_eq!(db.logged("UPDATE w SET b = 0, v = 0"), ["update w 3 1 [b v]"]);
        assert_eq!(db.logged("DELETE FROM w"), ["delete w 3 1"]);
        assert!(!db.table("w").has_rowid);
    });
}

#[test]
fn a_nocase_key_that_changes_its_case_is_an_update_of_the_same_row() {
    with_both("CREATE TABLE t(k TEXT COLLATE NOCASE PRIMARY KEY, a); INSERT INTO t VALUES ('Abc', 1)", |db| {
        assert_eq!(db.logged("UPDATE t SET k = 'ABC'"), ["update t 'ABC' [k]"]);
        assert_eq!(db.logged("UPDATE t SET k = 'abd'"), ["delete t 'ABC'", "insert t 'abd'"]);
        db.conn.execute("INSERT INTO _sync_clock_t VALUES ('ABD', 0, 1, 1, 1, 0, NULL)", []).unwrap();
        let joined = "SELECT t.k FROM t JOIN _sync_clock_t AS c ON c.k0 = t.k";
        assert_eq!(db.rows(joined), ["'abd'"]);
    });
}

#[test]
fn a_typeless_key_tells_bytes_apart_but_not_rows() {
    with_both("CREATE TABLE t(k PRIMARY KEY, a); INSERT INTO t VALUES (1, 1), ('2', 1)", |db| {
        assert_eq!(db.logged("UPDATE t SET k = 1.0 WHERE k = 1"), ["update t 1.0 [k]"]);
        assert_eq!(db.logged("UPDATE t SET k = 2 WHERE k = '2'"), ["delete t '2'", "insert t 2"]);
    });
}

#[test]
fn strict_tables_and_their_any_keys() {
    let schema = "CREATE TABLE t(k ANY PRIMARY KEY, a INT, v ANY) STRICT; \
                  CREATE TABLE n(k ANY PRIMARY KEY, a) ; INSERT INTO t VALUES ('0', 1, 1)";
    with_both(schema, |db| {
        assert_eq!(db.logged("INSERT INTO t VALUES ('1', 1, 1), (1, 1, 1)"), ["insert t '1'", "insert t 1"]);
        assert_eq!(db.logged("UPDATE t SET v = 1.0 WHERE k = '0'"), ["update t '0' [v]"]);
        assert_eq!(db.logged("UPDATE t SET v = '1' WHERE k = '0'"), ["update t '0' [v]"]);
        assert_eq!(db.table("t").columns[0].affinity, Affinity::Blob);
        assert_eq!(db.table("n").columns[0].affinity, Affinity::Numeric);
        db.conn.execute("INSERT INTO _sync_clock_t SELECT k, 0, 1, 1, 1, 0, NULL FROM t", []).unwrap();
        assert_eq!(db.rows("SELECT k0 FROM _sync_clock_t ORDER BY typeof(k0), k0"), ["1", "'0'", "'1'"]);
    });
}

#[test]
fn a_unique_index_over_not_null_columns_serves_as_key() {
    let schema = "CREATE TABLE t(a NOT NULL, b TEXT NOT NULL UNIQUE, c NOT NULL, UNIQUE (a, c)); \
                  CREATE TABLE i(a NOT NULL, b NOT NULL); CREATE UNIQUE INDEX i_u ON i(b)";
    with_both(schema, |db| {
        assert_eq!(db.logged("INSERT INTO t VALUES (1, 'x', 2)"), ["insert t 'x'"]);
        assert_eq!(db.logged("REPLACE INTO t VALUES (1, 'y', 2)"), ["candidate t 'x'", "insert t 'y'"]);
        assert_eq!(db.logged("UPDATE t SET a = 7"), ["update t 'y' [a]"]);
        assert_eq!(db.logged("INSERT INTO i VALUES (1, 2)"), ["insert i 2"]);
    });
}

#[test]
fn the_widest_key_decides_how_wide_the_log_is() {
    with_both("CREATE TABLE t(a INTEGER PRIMARY KEY)", |db| {
        db.write("CREATE TABLE w(a, b, c, PRIMARY KEY (a, b, c))");
        db.attach();
        assert_eq!(
            db.logged("INSERT INTO w VALUES (1, 2, 3); INSERT INTO t VALUES (4)"),
            ["insert w 1 2 3", "insert t 4"]
        );
    });
}
