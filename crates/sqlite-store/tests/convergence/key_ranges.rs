//! Automatic keys: no two nodes ever give out the same, whatever has arrived from others.

use sqlite_store::DatabaseEvent;
use sqlite_store::key_ranges::KeyRanges;
use sqlite_store::warning::WarningKind;
use tempfile::TempDir;

use crate::replica::{Replica, Setup};
use crate::settle;

const SCHEMA: &str = "
    CREATE TABLE note (id INTEGER PRIMARY KEY AUTOINCREMENT, body TEXT);
    CREATE TABLE plain (id INTEGER PRIMARY KEY, body TEXT);
    INSERT INTO note (body) VALUES ('before'), ('before');";

const BLOCK: i64 = 1 << 20;

async fn node(folder: &TempDir, name: &str, number: u16) -> Replica {
    let setup = Setup { key_ranges: KeyRanges::of_node(number), ..Setup::of(SCHEMA) };
    assert!(setup.key_ranges.is_some());
    Replica::create(folder.path(), name, setup).await
}

/// Inserts a row and returns the key that SQLite gave it.
fn insert(replica: &Replica, body: &str) -> i64 {
    let conn = replica.application();
    conn.execute("INSERT INTO note (body) VALUES (?1)", [body]).unwrap();
    conn.last_insert_rowid()
}

#[tokio::test]
async fn two_nodes_that_insert_by_turns_and_at_once_never_give_out_the_same_key() {
    let folder = TempDir::new().unwrap();
    let replicas = [node(&folder, "a", 1).await, node(&folder, "b", 2).await, node(&folder, "c", 9).await];
    let mut given = Vec::new();
    for round in 0..6 {
        for replica in &replicas {
            given.extend((0..3).map(|n| insert(replica, &format!("{round} {n}"))));
        }
        if round % 2 == 1 {
            settle(&replicas, || 100).await;
        } else {
            replicas[0].pull(&replicas[1], 100).await;
            replicas[2].pull(&replicas[0], 100).await;
        }
    }
    given.push(insert(&replicas[0], "last"));
    let count = given.len();
    given.sort_unstable();
    given.dedup();
    assert_eq!(given.len(), count, "a key was given out twice");
    settle(&replicas, || 100).await;
    assert_eq!(replicas[0].text("SELECT count(*) || '' FROM note"), (count + 2).to_string());
    let rows =
        |replica: &Replica| replica.text("SELECT group_concat(id || body) FROM (SELECT * FROM note ORDER BY id)");
    for replica in &replicas {
        assert_eq!((replica.conflicts(), rows(replica)), (0, rows(&replicas[0])));
    }
}

#[tokio::test]
async fn the_first_key_after_attach_is_this_nodes_and_so_is_the_first_after_a_row_from_elsewhere() {
    let folder = TempDir::new().unwrap();
    let a = node(&folder, "a", 1).await;
    let b = node(&folder, "b", 3).await;
    assert_eq!(insert(&a, "x"), 2 * BLOCK + 1);
    let first = insert(&b, "y");
    assert_eq!(first, 6 * BLOCK + 1);
    a.pull(&b, 100).await;
    assert_eq!(insert(&a, "z"), 18 * BLOCK + 1, "the next block of node 1 above the row of node 3");
    b.pull(&a, 100).await;
    assert_eq!(insert(&b, "w"), 22 * BLOCK + 1);
    // A lower row changes nothing.
    let low = b.application();
    low.execute("INSERT INTO note VALUES (77, 'chosen')", []).unwrap();
    a.pull(&b, 100).await;
    assert_eq!(insert(&a, "v"), 34 * BLOCK + 1);
    assert_eq!(a.text("SELECT max(id) || '' FROM plain UNION SELECT '-' ORDER BY 1 DESC LIMIT 1"), "-");
}

#[tokio::test]
async fn keys_stay_this_nodes_after_vacuum_a_restart_and_a_rebuilt_table() {
    let folder = TempDir::new().unwrap();
    let a = node(&folder, "a", 1).await;
    let b = node(&folder, "b", 2).await;
    insert(&b, "x");
    a.pull(&b, 100).await;
    a.write("DELETE FROM note WHERE id > 1000; VACUUM");
    let a = a.restart(|_| ()).await;
    assert_eq!(insert(&a, "y"), 18 * BLOCK + 1);
    // The copy has lost the sequence and has the highest row of the other node.
    insert(&b, "z");
    a.pull(&b, 100).await;
    let a = a
        .restart(|conn| {
            conn.execute_batch(
                "CREATE TABLE copy (id INTEGER PRIMARY KEY AUTOINCREMENT, body TEXT); INSERT INTO copy SELECT * FROM note; \
                 DROP TABLE note; ALTER TABLE copy RENAME TO note",
            )
            .unwrap();
        })
        .await;
    let key = insert(&a, "w");
    assert_eq!((key - 1) / BLOCK % 16, 2, "{key} is not of node 1");
}

#[tokio::test]
async fn a_block_is_left_in_time_and_running_out_of_one_is_told() {
    let folder = TempDir::new().unwrap();
    let mut a = node(&folder, "a", 1).await;
    // What is captured and what the sequence becomes are one transaction.
    async fn sequence(a: &Replica, written: u64) -> i64 {
        a.until(|state| state.origin.is_some_and(|own| state.have.get(own) >= written)).await;
        let sql = "SELECT seq FROM sqlite_sequence WHERE name = 'note'";
        a.application().query_row(sql, [], |row| row.get(0)).unwrap()
    }
    // More than half of the block is gone: the next key is of the next block.
    a.write(&format!("INSERT INTO note VALUES ({}, 'far')", 2 * BLOCK + BLOCK / 2 + 1));
    assert_eq!(sequence(&a, 1).await, 18 * BLOCK);
    // A program that goes on beyond the end of a block while nobody looks.
    a.write(&format!("INSERT INTO note VALUES ({}, 'last'), ({}, 'beyond')", 19 * BLOCK, 19 * BLOCK + 1));
    assert_eq!(sequence(&a, 3).await, 34 * BLOCK);
    let told = loop {
        match a.events.recv().await.unwrap().1 {
            DatabaseEvent::Warned(warning) if warning.kind == WarningKind::KeyRange => break warning,
            _ => {}
        }
    };
    assert_eq!(told.table.as_deref(), Some("note"));
    assert!(told.reason.contains(&format!("keys from {} on", 19 * BLOCK + 1)), "{}", told.reason);
    let shown = a.until(|state| state.warnings.contains(&told)).await;
    assert!(shown.warnings.iter().any(|warning| warning.kind == WarningKind::KeyClash), "{:?}", shown.warnings);
    // Beyond what a real holds exactly, and at the end of all numbers.
    a.write(&format!("INSERT INTO note VALUES ({}, 'js')", (1_i64 << 53) - 5));
    a.until(|state| state.warnings.iter().any(|warning| warning.reason.contains("beyond 2^53"))).await;
    a.write(&format!("INSERT INTO note VALUES ({}, 'end')", i64::MAX - 3));
    a.until(|state| state.warnings.iter().any(|warning| warning.reason.contains("no automatic keys are left"))).await;
}
