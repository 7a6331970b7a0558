//! Conflict records: how they are counted, found and forgotten.

use std::time::Duration;

use sqlite_store::{ConflictAction, ConflictQuery, ConflictRetention, StoreError};
use tempfile::TempDir;

use crate::replica::{Replica, Setup};
use crate::settle;

const SCHEMA: &str = "CREATE TABLE t (id INTEGER PRIMARY KEY, v); CREATE TABLE \"ůther\" (k PRIMARY KEY, v);";

/// Two replicas of which the first has a record for each of so many rows.
async fn conflicts(folder: &TempDir, setup: Setup, rows: u32) -> [Replica; 2] {
    let replicas = [Replica::create(folder.path(), "a", setup).await, Replica::create(folder.path(), "b", setup).await];
    more_conflicts(&replicas, 1, rows).await;
    replicas
}

async fn more_conflicts(replicas: &[Replica; 2], first: u32, rows: u32) {
    for (replica, value) in replicas.iter().zip(["first", "second"]) {
        replica.write(&format!(
            "WITH RECURSIVE n (i) AS (SELECT {first} UNION ALL SELECT i + 1 FROM n WHERE i + 1 < {first} + {rows}) \
             INSERT INTO t SELECT i, '{value}' FROM n"
        ));
    }
    settle(replicas, || 100_000).await;
}

async fn numbers(replica: &Replica, query: ConflictQuery) -> Vec<i64> {
    let query = ConflictQuery { limit: if query.limit == 0 { 1_000 } else { query.limit }, ..query };
    replica.database.conflicts(&query).await.unwrap().into_iter().map(|record| record.number).collect()
}

async fn all(replica: &Replica) -> Vec<i64> {
    numbers(replica, ConflictQuery::default()).await
}

async fn act(replica: &Replica, number: i64, action: ConflictAction) {
    replica.database.act(number, action).await.unwrap().unwrap();
}

#[tokio::test]
async fn open_records_are_counted_whatever_becomes_of_them() {
    let folder = TempDir::new().unwrap();
    let [a, _b] = conflicts(&folder, Setup::of(SCHEMA), 5).await;
    assert_eq!(a.conflicts(), 5);
    act(&a, 1, ConflictAction::Restore).await;
    assert_eq!(a.conflicts(), 4);
    act(&a, 2, ConflictAction::Dismiss).await;
    assert_eq!(a.conflicts(), 3);
    let mut a = a.restart(|_| ()).await;
    assert_eq!(a.conflicts(), 3);
    a.setup.retention.records = 2;
    let a = a.restart(|_| ()).await;
    a.until(|state| state.conflicts == 2).await;
    assert_eq!(all(&a).await, [5, 4]);
}

#[tokio::test]
async fn records_are_found_by_what_they_say() {
    let folder = TempDir::new().unwrap();
    let replicas = conflicts(&folder, Setup::of(SCHEMA), 3).await;
    replicas[0].write("INSERT INTO \"ůther\" VALUES ('k', 1)");
    replicas[1].write("INSERT INTO \"ůther\" VALUES ('k', 2)");
    settle(&replicas, || 100).await;
    let a = &replicas[0];
    act(a, 2, ConflictAction::Dismiss).await;
    let text = |text: &str| Some(text.to_owned());
    let query = ConflictQuery::default;
    assert_eq!(all(a).await, [4, 3, 2, 1]);
    assert_eq!(numbers(a, ConflictQuery { limit: 2, ..query() }).await, [4, 3]);
    assert_eq!(numbers(a, ConflictQuery { table: text("T"), ..query() }).await, [3, 2, 1]);
    assert_eq!(numbers(a, ConflictQuery { table: text("ůther"), ..query() }).await, [4]);
    assert_eq!(numbers(a, ConflictQuery { table: text("t' OR 1"), ..query() }).await, [0; 0]);
    assert_eq!(numbers(a, ConflictQuery { state: text("dismissed"), ..query() }).await, [2]);
    assert_eq!(numbers(a, ConflictQuery { kind: text("insert_exists"), ..query() }).await.len(), 4);
    assert_eq!(numbers(a, ConflictQuery { kind: text("unique_exists"), ..query() }).await, [0; 0]);
    for node in ["a", "b"] {
        // Names are learned in sessions; here the other node is known by its origin.
        let origin = replicas[usize::from(node == "b")].database.state().borrow().origin.unwrap();
        let name = if node == "a" { node.to_owned() } else { origin.to_string() };
        assert_eq!(numbers(a, ConflictQuery { node: Some(name), ..query() }).await.len(), 4, "{node}");
    }
    assert_eq!(numbers(a, ConflictQuery { node: text("c"), ..query() }).await, [0; 0]);
    let at = a.database.conflict(4).await.unwrap().unwrap().at;
    assert_eq!(numbers(a, ConflictQuery { since: Some(at), table: text("ůther"), ..query() }).await, [4]);
    assert_eq!(numbers(a, ConflictQuery { since: Some(at + 1), ..query() }).await, [0; 0]);
    assert_eq!(a.database.conflict(5).await.unwrap(), None);
}

#[tokio::test]
async fn of_too_many_records_the_closed_ones_go_first_then_the_oldest() {
    let folder = TempDir::new().unwrap();
    let setup =
        Setup { retention: ConflictRetention { records: 4, ..ConflictRetention::default() }, ..Setup::of(SCHEMA) };
    let replicas = conflicts(&folder, setup, 4).await;
    act(&replicas[0], 2, ConflictAction::Dismiss).await;
    act(&replicas[0], 4, ConflictAction::Restore).await;
    assert_eq!(all(&replicas[0]).await, [4, 3, 2, 1]);
    more_conflicts(&replicas, 100, 3).await;
    // Three more than fit: both closed ones, and the oldest open one.
    replicas[0].until(|state| state.conflicts == 4).await;
    assert_eq!(all(&replicas[0]).await, [7, 6, 5, 3]);
}

#[tokio::test]
async fn a_flood_of_records_goes_in_several_transactions() {
    let folder = TempDir::new().unwrap();
    let setup =
        Setup { retention: ConflictRetention { records: 10, ..ConflictRetention::default() }, ..Setup::of(SCHEMA) };
    let replicas = conflicts(&folder, setup, 5_000).await;
    replicas[0].until(|state| state.conflicts == 10).await;
    assert_eq!(all(&replicas[0]).await, (4_991..=5_000).rev().collect::<Vec<_>>());
}

#[tokio::test]
async fn old_records_go_in_whatever_state_they_are() {
    let folder = TempDir::new().unwrap();
    let [a, _b] = conflicts(&folder, Setup::of(SCHEMA), 4).await;
    act(&a, 1, ConflictAction::Dismiss).await;
    let day = 86_400_000;
    let aged = format!("UPDATE _sync_conflict SET at = at - 91 * {day} WHERE id IN (1, 2, 4)");
    let a = a.restart(|conn| conn.execute_batch(&aged).unwrap()).await;
    a.until(|state| state.conflicts == 1).await;
    assert_eq!(all(&a).await, [3]);
}

#[tokio::test]
async fn the_number_of_a_record_that_is_gone_is_not_given_again() {
    let folder = TempDir::new().unwrap();
    let age = Duration::from_secs(90 * 86_400);
    let setup = Setup { retention: ConflictRetention { records: 1_000, age }, ..Setup::of(SCHEMA) };
    let [a, b] = conflicts(&folder, setup, 3).await;
    let a = a.restart(|conn| conn.execute_batch("UPDATE _sync_conflict SET at = 0").unwrap()).await;
    a.until(|state| state.conflicts == 0).await;
    let replicas = [a, b];
    more_conflicts(&replicas, 100, 1).await;
    assert_eq!(all(&replicas[0]).await, [4]);
}

#[tokio::test]
async fn records_are_read_from_the_file_that_is_there_now() {
    let folder = TempDir::new().unwrap();
    let [a, _b] = conflicts(&folder, Setup::of(SCHEMA), 2).await;
    assert_eq!(all(&a).await.len(), 2);
    let other = folder.path().join("other.db");
    rusqlite::Connection::open(&other).unwrap().execute_batch(SCHEMA).unwrap();
    let before = a.database.state().borrow().origin;
    // Who has read does not keep the write-ahead log from being folded into the file.
    let fold = |row: &rusqlite::Row<'_>| row.get::<_, i64>(0);
    assert_eq!(a.application().query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], fold).unwrap(), 0);
    std::fs::rename(&other, &a.path).unwrap();
    a.until(|state| state.origin != before && state.conflicts == 0).await;
    assert_eq!(all(&a).await, [0; 0]);
    std::fs::remove_file(&a.path).unwrap();
    let query = ConflictQuery { limit: 1, ..ConflictQuery::default() };
    let error = a.database.conflicts(&query).await.unwrap_err();
    assert!(matches!(error, StoreError::Absent { .. }) && error.to_string().contains("a.db"), "{error}");
}

/// A list does not wait for whoever writes.
#[tokio::test]
async fn records_are_read_while_an_application_holds_the_lock() {
    let folder = TempDir::new().unwrap();
    let [a, _b] = conflicts(&folder, Setup::of(SCHEMA), 2).await;
    let conn = a.application();
    conn.execute_batch("BEGIN IMMEDIATE; INSERT INTO t VALUES (1000, 'held')").unwrap();
    let query = ConflictQuery { limit: 10, ..ConflictQuery::default() };
    let (found, acted) = tokio::join!(a.database.conflicts(&query), async {
        let acting = a.database.act(1, ConflictAction::Dismiss);
        let mut acting = std::pin::pin!(acting);
        // It waits its turn until the list is there.
        tokio::select! {
            acted = acting.as_mut() => return acted,
            listed = a.database.conflicts(&query) => assert_eq!(listed.unwrap().len(), 2),
        }
        conn.execute_batch("COMMIT").unwrap();
        acting.await
    });
    assert_eq!(found.unwrap().len(), 2);
    assert_eq!(acted.unwrap().unwrap().state, "dismissed");
}
