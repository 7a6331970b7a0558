//! Who keeps a unique value that several rows claim.

use replication::Granularity;
use tempfile::TempDir;

use crate::replica::{Replica, Setup};
use crate::settle;

const PLAIN: &str = "CREATE TABLE t (id TEXT PRIMARY KEY, slug TEXT UNIQUE, note);";
const EXPRESSION: &str =
    "CREATE TABLE t (id TEXT PRIMARY KEY, slug TEXT, note); CREATE UNIQUE INDEX i ON t (lower(slug));";
const ROWS: &str = "SELECT group_concat(id || '=' || slug, ' ') FROM (SELECT * FROM t ORDER BY id)";

async fn replicas(folder: &TempDir, count: usize, schema: &'static str, granularity: Granularity) -> Vec<Replica> {
    let mut replicas = Vec::new();
    for name in ["a", "b", "c", "d"].into_iter().take(count) {
        let setup = Setup { granularity, ..Setup::of(schema) };
        replicas.push(Replica::create(folder.path(), name, setup).await);
    }
    replicas
}

/// Both take what the other has.
async fn meet(replicas: &[Replica], one: usize, other: usize) {
    for _ in 0..3 {
        replicas[one].pull(&replicas[other], 100).await;
        replicas[other].pull(&replicas[one], 100).await;
    }
}

/// Two groups decide apart, of which one knows an update that has nothing to do with the value.
#[tokio::test]
async fn an_update_of_another_column_does_not_cost_both_rows() {
    for schema in [PLAIN, EXPRESSION] {
        for granularity in [Granularity::Column, Granularity::Row] {
            let folder = TempDir::new().unwrap();
            let replicas = replicas(&folder, 4, schema, granularity).await;
            replicas[0].write("INSERT INTO t VALUES ('row1', 'v', 0)");
            replicas[1].pull(&replicas[0], 100).await;
            replicas[2].write("INSERT INTO t VALUES ('row2', 'v', 0)");
            replicas[3].pull(&replicas[2], 100).await;
            replicas[0].write("UPDATE t SET note = 1 WHERE id = 'row1'");
            meet(&replicas, 0, 3).await;
            meet(&replicas, 1, 2).await;
            settle(&replicas, || 100).await;
            for replica in &replicas {
                assert_eq!(replica.text(ROWS), "row2=v", "{granularity:?} {schema}");
            }
        }
    }
}

#[tokio::test]
async fn a_row_that_is_revived_does_not_take_back_its_value() {
    for granularity in [Granularity::Column, Granularity::Row] {
        let folder = TempDir::new().unwrap();
        let replicas = replicas(&folder, 3, PLAIN, granularity).await;
        replicas[0].write("INSERT INTO t VALUES ('row1', 'v', 0)");
        replicas[1].pull(&replicas[0], 100).await;
        replicas[2].write("INSERT INTO t VALUES ('row2', 'v', 0)");
        meet(&replicas, 1, 2).await;
        assert_eq!(replicas[1].text(ROWS), "row2=v");
        // Its node does not know yet that the row has gone.
        replicas[0].write("UPDATE t SET note = 1 WHERE id = 'row1'");
        settle(&replicas, || 100).await;
        for replica in &replicas {
            assert_eq!(replica.text(ROWS), "row2=v", "{granularity:?}");
        }
        let kept = replicas.iter().map(Replica::conflicts).sum::<u64>();
        assert!(kept >= 2, "the row that lost, and the update of it, are in records");
    }
}

#[tokio::test]
async fn a_long_chain_of_values_comes_free_from_its_end() {
    let folder = TempDir::new().unwrap();
    let schema = "CREATE TABLE t (id INTEGER PRIMARY KEY, pos INTEGER UNIQUE)";
    let replicas = replicas(&folder, 2, schema, Granularity::Column).await;
    replicas[0].write(
        "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 20000) INSERT INTO t SELECT i, i FROM n",
    );
    settle(&replicas, || 100_000).await;
    replicas[0].write("BEGIN; UPDATE t SET pos = -pos; UPDATE t SET pos = 1 - pos; COMMIT");
    settle(&replicas, || 100_000).await;
    assert_eq!(replicas[1].text("SELECT count(*) || ' ' || sum(pos - id) FROM t"), "20000 20000");
    assert_eq!(replicas[1].conflicts(), 0);
}

#[tokio::test]
async fn a_row_that_cannot_be_named_gives_way() {
    let folder = TempDir::new().unwrap();
    let schema = "CREATE TABLE t (id TEXT PRIMARY KEY, slug TEXT UNIQUE); CREATE TABLE other (k PRIMARY KEY)";
    let replicas = replicas(&folder, 2, schema, Granularity::Column).await;
    replicas[1].write("INSERT INTO t VALUES (NULL, 'v')");
    replicas[0].write("INSERT INTO t VALUES ('x', 'v'); INSERT INTO other VALUES (1)");
    replicas[1].pull(&replicas[0], 100).await;
    assert_eq!(replicas[1].text(ROWS), "x=v");
    let record = "SELECT json_extract(record, '$.loser.row.slug') FROM _sync_conflict WHERE tbl = 't'";
    assert_eq!(replicas[1].text(record), "v");
    assert_eq!(replicas[1].text("SELECT count(*) || '' FROM other"), "1");
}
