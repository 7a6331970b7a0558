//! Columns: which differ, generated ones, many of them, and names of every kind.

use crate::support::{Sample, Writer, with_both};

#[test]
fn an_update_that_changes_nothing_logs_nothing() {
    with_both(
        "CREATE TABLE t(id INTEGER PRIMARY KEY, a, b TEXT, c REAL); INSERT INTO t VALUES (1, NULL, 'x', 1)",
        |db| {
            assert!(db.logged("UPDATE t SET a = a, b = 'x', c = 1.0, id = 1").is_empty());
            assert_eq!(db.logged("UPDATE t SET a = 0"), ["update t 1 [a]"]);
            assert_eq!(db.logged("UPDATE t SET a = NULL, b = 'x'"), ["update t 1 [a]"]);
        },
    );
}

#[test]
fn a_difference_is_one_of_bytes() {
    let schema = "CREATE TABLE t(id INTEGER PRIMARY KEY, a TEXT COLLATE NOCASE, b TEXT COLLATE RTRIM, c, d BLOB); \
                  INSERT INTO t VALUES (1, 'Abc', 'x', 1, 2.0)";
    with_both(schema, |db| {
        assert_eq!(db.logged("UPDATE t SET a = 'ABC'"), ["update t 1 [a]"]);
        assert_eq!(db.logged("UPDATE t SET b = 'x '"), ["update t 1 [b]"]);
        assert_eq!(db.logged("UPDATE t SET c = 1.0"), ["update t 1 [c]"]);
        assert_eq!(db.logged("UPDATE t SET d = 2"), ["update t 1 [d]"]);
        assert_eq!(db.logged("UPDATE t SET d = x'32'"), ["update t 1 [d]"]);
        assert_eq!(db.logged("UPDATE t SET d = '2'"), ["update t 1 [d]"]);
    });
}

#[test]
fn generated_columns_are_no_columns_of_ours() {
    let schema = "CREATE TABLE t(v AS (a + 1), id INTEGER PRIMARY KEY, a, s AS (a * 2) STORED, b)";
    with_both(schema, |db| {
        assert_eq!(db.logged("INSERT INTO t(a, b) VALUES (1, 2)"), ["insert t 1"]);
        assert_eq!(db.logged("UPDATE t SET a = 5"), ["update t 1 [a]"]);
        assert_eq!(db.logged("UPDATE t SET b = 5"), ["update t 1 [b]"]);
        let table = db.table("t");
        assert_eq!(table.shape().columns, ["id", "a", "b"]);
        assert_eq!((table.generated, table.key), (vec!["v".to_owned(), "s".to_owned()], vec![0]));
    });
}

#[test]
fn names_of_every_kind() {
    let schema = r#"
        CREATE TABLE "order"("select" INTEGER PRIMARY KEY, "from" TEXT UNIQUE, "a b" TEXT, [c"d] TEXT, `e'f` TEXT);
        CREATE TABLE "größe ""q"" 'x'"("schlüssel größe" TEXT PRIMARY KEY, "OLD" TEXT, "new" TEXT, "rowid" TEXT);
        CREATE TABLE new(id INTEGER PRIMARY KEY, old TEXT, u TEXT, p INT);
        CREATE UNIQUE INDEX "u ""1""" ON new(lower(u)) WHERE p > 0;
        CREATE TABLE "_t;--"("--" INTEGER PRIMARY KEY, "/*1*/" TEXT, "?" TEXT, ":x" TEXT)"#;
    with_both(schema, |db| {
        assert!(db.schema().unsynced.is_empty(), "{:?}", db.schema().unsynced);
        assert_eq!(db.logged(r#"INSERT INTO "order" VALUES (1, 'a', 'b', 'c', 'd')"#), ["insert order 1"]);
        assert_eq!(db.logged(r#"UPDATE "order" SET "a b" = 1, [c"d] = 2"#), [r#"update order 1 [a b c"d]"#]);
        assert_eq!(
            db.logged(r#"REPLACE INTO "order"("select", "from") VALUES (2, 'a')"#),
            ["candidate order 1", "insert order 2"]
        );
        let table = r#""größe ""q"" 'x'""#;
        assert_eq!(
            db.logged(&format!(
                "INSERT INTO {table} VALUES ('ü', 1, 2, 3); UPDATE {table} SET \"OLD\" = 2, \"rowid\" = 0"
            )),
            [r#"insert größe "q" 'x' 'ü'"#, r#"update größe "q" 'x' 'ü' [OLD rowid]"#]
        );
        db.logged("INSERT INTO new VALUES (1, 'x', 'A', 1)");
        assert_eq!(db.logged("REPLACE INTO new VALUES (2, 'y', 'a', 1)"), ["candidate new 1", "insert new 2"]);
        let sql = r#"INSERT INTO "_t;--" VALUES (1, 1, 1, 1); UPDATE "_t;--" SET "?" = 2"#;
        assert_eq!(db.logged(sql), ["insert _t;-- 1", "update _t;-- 1 [?]"]);
    });
}

#[test]
fn columns_from_the_62nd_on_share_a_bit() {
    let columns: Vec<String> = (1..70).map(|n| format!("c{n}")).collect();
    with_both(&format!("CREATE TABLE t(id INTEGER PRIMARY KEY, {})", columns.join(", ")), |db| {
        db.logged("INSERT INTO t(id) VALUES (1)");
        assert_eq!(db.logged("UPDATE t SET c60 = 1"), ["update t 1 [c60]"]);
        let shared: Vec<String> = (61..70).map(|n| format!("c{n}")).collect();
        assert_eq!(db.logged("UPDATE t SET c69 = 1"), [format!("update t 1 [{}]", shared.join(" "))]);
        assert_eq!(db.logged("UPDATE t SET c1 = 1, c61 = 1"), [format!("update t 1 [c1 {}]", shared.join(" "))]);
    });
}

#[test]
fn fifteen_hundred_columns() {
    let columns: Vec<String> = (1..1500).map(|n| format!("c{n}")).collect();
    with_both(&format!("CREATE TABLE t(id INTEGER PRIMARY KEY, {})", columns.join(", ")), |db| {
        assert_eq!(db.logged("INSERT INTO t(id, c1499) VALUES (1, 1)"), ["insert t 1"]);
        assert_eq!(db.logged("UPDATE t SET c7 = 1"), ["update t 1 [c7]"]);
        assert!(db.logged("UPDATE t SET c1499 = 1").is_empty());
        assert_eq!(db.logged("UPDATE t SET c1499 = 2").len(), 1);
    });
}

#[test]
fn a_key_of_all_columns_can_be_updated_only_as_a_key() {
    let mut db = Sample::new(Writer::Shell, "CREATE TABLE t(a INT, b INT, PRIMARY KEY (a, b))");
    db.attach();
    assert_eq!(db.logged("INSERT INTO t VALUES (1, 2); UPDATE t SET b = 2"), ["insert t 1 2"]);
    assert_eq!(db.logged("UPDATE t SET b = 3"), ["delete t 1 2", "insert t 1 3"]);
}
