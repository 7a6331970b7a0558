//! Constraints of the application's tables, and rows that meet them only when they are applied.

use replication::Granularity;
use tempfile::TempDir;

use crate::replica::{Replica, Setup};
use crate::settle;

async fn pair(folder: &TempDir, schema: &'static str) -> [Replica; 2] {
    let setup = Setup { granularity: Granularity::Column, ..Setup::of(schema) };
    [Replica::create(folder.path(), "a", setup).await, Replica::create(folder.path(), "b", setup).await]
}

/// What a constraint says ON CONFLICT is for the application's statements, not for what peers send.
#[tokio::test]
async fn conflict_clauses_of_the_schema_neither_drop_nor_displace_applied_rows() {
    for schema in [
        "CREATE TABLE t (id INTEGER PRIMARY KEY, u UNIQUE ON CONFLICT REPLACE)",
        "CREATE TABLE t (id INTEGER PRIMARY KEY, u UNIQUE ON CONFLICT IGNORE)",
        "CREATE TABLE t (id INTEGER PRIMARY KEY, u UNIQUE ON CONFLICT ROLLBACK)",
        "CREATE TABLE t (id INTEGER PRIMARY KEY, u UNIQUE ON CONFLICT FAIL)",
    ] {
        let folder = TempDir::new().unwrap();
        let replicas = pair(&folder, schema).await;
        replicas[0].write("INSERT INTO t VALUES (1, 'a'), (5, 'm'), (6, 'n')");
        replicas[1].write("INSERT INTO t VALUES (2, 'a')");
        settle(&replicas, || 100).await;
        assert_eq!(replicas[0].dump(), replicas[1].dump(), "{schema}");
        let sum = replicas.iter().map(Replica::conflicts).sum::<u64>();
        let records: i64 = replicas
            .iter()
            .map(|replica| {
                let count = "SELECT count(*) FROM _sync_conflict";
                replica.application().query_row(count, [], |row| row.get::<_, i64>(0)).unwrap()
            })
            .sum();
        assert_eq!(records.cast_unsigned(), sum, "{schema}");
        assert!(sum > 0, "{schema}");
        replicas[0].write(
            "BEGIN; UPDATE t SET u = NULL WHERE id = 5; UPDATE t SET u = 'm' WHERE id = 6; \
                           UPDATE t SET u = 'n' WHERE id = 5; COMMIT",
        );
        settle(&replicas, || 100).await;
        assert_eq!(replicas[1].text("SELECT group_concat(u, '') FROM t WHERE id > 4"), "nm", "{schema}");
    }
}

/// What a statement says is to be done on a conflict holds for the statements of triggers too: none is said where rows are
/// applied, or INSERT OR REPLACE in a trigger would fail there and not in the application.
#[tokio::test]
async fn triggers_that_replace_in_unsynced_tables_do_so_when_rows_are_applied() {
    let folder = TempDir::new().unwrap();
    let schema = "CREATE TABLE t (id INTEGER PRIMARY KEY, v); CREATE TABLE cache (id UNIQUE, v NOT NULL); \
                  CREATE TRIGGER fills AFTER INSERT ON t BEGIN \
                    INSERT OR REPLACE INTO cache VALUES (NEW.id, NEW.v); INSERT OR IGNORE INTO cache VALUES (0, NULL); END; \
                  CREATE TRIGGER refills AFTER UPDATE ON t BEGIN INSERT OR REPLACE INTO cache VALUES (NEW.id, NEW.v); END";
    let replicas = pair(&folder, schema).await;
    replicas[1].write("INSERT INTO cache VALUES (1, 'stale'), (2, 'stale')");
    replicas[0].write("INSERT INTO t VALUES (1, 'a'), (2, 'b')");
    settle(&replicas, || 100).await;
    replicas[0].write("UPDATE t SET v = 'c' WHERE id = 2");
    settle(&replicas, || 100).await;
    for replica in &replicas {
        assert_eq!(replica.text("SELECT group_concat(id || v) FROM (SELECT * FROM cache ORDER BY id)"), "1a,2c");
        assert_eq!(replica.database.state().borrow().parked, 0);
    }
}

/// Each side's update is in order; together they are not.
#[tokio::test]
async fn columns_that_do_not_go_together_come_from_one_side() {
    let folder = TempDir::new().unwrap();
    let schema = "CREATE TABLE t (id INTEGER PRIMARY KEY, lo, hi, CHECK (lo <= hi)); CREATE TABLE o (k PRIMARY KEY, v); \
                  INSERT INTO t VALUES (1, 1, 10)";
    let replicas = pair(&folder, schema).await;
    for replica in &replicas {
        replica.database.publish().await;
    }
    settle(&replicas, || 100).await;
    replicas[0].write("UPDATE t SET lo = 9; INSERT INTO o VALUES ('a', 0)");
    replicas[1].write("UPDATE t SET hi = 5; INSERT INTO o VALUES ('b', 0)");
    settle(&replicas, || 100).await;
    assert_eq!(replicas[0].dump(), replicas[1].dump());
    let row = replicas[0].text("SELECT lo || ' ' || hi FROM t");
    assert!(["9 10", "1 5"].contains(&row.as_str()), "{row}");
    assert_eq!(replicas[0].text("SELECT group_concat(k, '') FROM (SELECT k FROM o ORDER BY k)"), "ab");
    assert!(replicas.iter().map(Replica::conflicts).sum::<u64>() > 0);
}
