//! Rows that wait for something to change: they are tried again when that has, and one that is refused holds up no other.

use sqlite_store::DatabaseEvent;
use tempfile::TempDir;

use crate::replica::{Replica, Setup};
use crate::schemas::numbers_only;
use crate::settle;

async fn replicas(folder: &TempDir, setups: &[Setup]) -> Vec<Replica> {
    let mut replicas = Vec::new();
    for (name, setup) in ["a", "b", "c"].into_iter().zip(setups) {
        replicas.push(Replica::create(folder.path(), name, *setup).await);
    }
    replicas
}

fn parked(replica: &Replica) -> u64 {
    replica.database.state().borrow().parked
}

/// Whoever corrects its row: neither of two sides can decide, and each has the other's row waiting.
#[tokio::test]
async fn a_correction_on_either_side_of_an_undecided_conflict_decides_it_everywhere() {
    let setup = Setup { rules: numbers_only, ..Setup::of("CREATE TABLE t (k INTEGER PRIMARY KEY, n, m)") };
    for (nodes, corrected, at_once) in
        [(2, 0, false), (2, 1, false), (2, 0, true), (2, 1, true), (3, 0, false), (3, 1, true), (3, 2, false)]
    {
        let what = format!("{nodes} nodes, corrected on {corrected}, told at once: {at_once}");
        let folder = TempDir::new().unwrap();
        let nodes = replicas(&folder, &[setup; 3][..nodes]).await;
        nodes[0].write("INSERT INTO t VALUES (1, 1, 1)");
        settle(&nodes, || 100).await;
        nodes[0].write("UPDATE t SET n = 'uno' WHERE k = 1");
        nodes[0].until(|state| state.backlog == 0).await;
        nodes[1].write("UPDATE t SET n = 'two', m = 9 WHERE k = 1");
        settle(&nodes, || 100).await;
        assert_eq!((parked(&nodes[0]), parked(&nodes[1])), (1, 1), "{what}");
        nodes[corrected].write("UPDATE t SET n = 7 WHERE k = 1");
        if at_once {
            // Before the row here is tried again.
            settle(&nodes, || 100).await;
        }
        nodes[corrected].until(|state| state.parked == 0).await;
        settle(&nodes, || 100).await;
        for node in &nodes {
            node.until(|state| state.parked == 0).await;
            let row = node.text("SELECT group_concat(n || ' ' || m) FROM t");
            assert_eq!(row, nodes[0].text("SELECT group_concat(n || ' ' || m) FROM t"), "{what}");
            // What waited with the row that is corrected has waited for that.
            assert!(row == "7 9" || (row == "7 1" && corrected != 1), "{what}: {row}");
        }
    }
}

/// A row that waits as a whole, and a value that waits for a column of it.
#[tokio::test]
async fn a_column_value_waiting_for_a_row_that_itself_waits_on_a_constraint_is_kept() {
    let folder = TempDir::new().unwrap();
    let schemas =
        ["CREATE TABLE t (k INTEGER PRIMARY KEY, n, c)", "CREATE TABLE t (k INTEGER PRIMARY KEY, n CHECK (n < 10))"];
    let nodes = replicas(&folder, &schemas.map(Setup::of)).await;
    nodes[0].write("INSERT INTO t VALUES (1, 50, 'one'), (2, 2, 'two')");
    settle(&nodes, || 100).await;
    assert_eq!(parked(&nodes[1]), 3, "a row, and the column of two");
    nodes[1].write("ALTER TABLE t ADD COLUMN c");
    nodes[1].until(|state| state.parked == 2).await;
    assert_eq!(nodes[1].text("SELECT group_concat(k || c) FROM t"), "2two");
    nodes[1].write(
        "BEGIN; CREATE TABLE t_new (k INTEGER PRIMARY KEY, n, c); INSERT INTO t_new SELECT * FROM t; DROP TABLE t; \
         ALTER TABLE t_new RENAME TO t; COMMIT",
    );
    nodes[1].until(|state| state.parked == 0).await;
    settle(&nodes, || 100).await;
    assert_eq!(nodes[1].text("SELECT group_concat(k || n || c, ' ') FROM t"), "150one 22two");
    assert_eq!(nodes[0].dump(), nodes[1].dump());
}

/// A row that can be written only once another is out of its way, and that the table refuses then.
#[tokio::test]
async fn a_row_that_is_refused_in_the_end_holds_up_no_other() {
    let folder = TempDir::new().unwrap();
    let schemas = [
        "CREATE TABLE t (k INTEGER PRIMARY KEY, n, c); CREATE TABLE o (k INTEGER PRIMARY KEY, v)",
        "CREATE TABLE t (k INTEGER PRIMARY KEY, n CHECK (n < 10)); CREATE TABLE o (k INTEGER PRIMARY KEY, v)",
    ];
    let mut nodes = replicas(&folder, &schemas.map(Setup::of)).await;
    // A row that its table would not take again.
    nodes[1].write("PRAGMA ignore_check_constraints = ON; INSERT INTO t VALUES (1, 50), (2, 2), (3, 3), (4, 4)");
    settle(&nodes, || 100).await;
    nodes[0]
        .write("UPDATE t SET c = 'x' WHERE k = 1; UPDATE t SET c = 'y' WHERE k = 2; UPDATE t SET c = 'z' WHERE k = 4");
    settle(&nodes, || 100).await;
    assert_eq!(parked(&nodes[1]), 3);
    nodes[1].write(
        "BEGIN; ALTER TABLE t ADD COLUMN c; CREATE UNIQUE INDEX tc ON t (c); UPDATE t SET c = 'x' WHERE k = 3; COMMIT",
    );
    nodes[1].until(|state| state.parked == 1).await;
    let waits = "SELECT kind || ' ' || id FROM _sync_parked";
    let refused = nodes[1].text(waits);
    assert!(refused.starts_with("constraint "), "{refused}");
    assert_eq!(nodes[1].text("SELECT group_concat(k || c, ' ') FROM t WHERE k <> 3"), "2y 4z");
    // Rows of other tables change nothing for it; one of its own does.
    nodes[1].write("INSERT INTO o VALUES (1, 1)");
    settle(&nodes, || 100).await;
    nodes[1].write("UPDATE t SET n = 5 WHERE k = 1");
    nodes[1].until(|state| state.parked == 0).await;
    settle(&nodes, || 100).await;
    assert_eq!(nodes[0].dump(), nodes[1].dump());
    nodes[1].database.close().await;
    let mut told = Vec::new();
    while let Some((_, event)) = nodes[1].events.recv().await {
        match event {
            DatabaseEvent::Parked(note) => told.push(note.kind.as_str()),
            DatabaseEvent::Failed { reason, .. } => panic!("{reason}"),
            _ => {}
        }
    }
    assert_eq!(told, ["schema_mismatch", "constraint"]);
}

/// The row that is corrected has a column that is not here, and another that was written together with what could not be decided.
#[tokio::test]
async fn what_waited_with_a_row_is_merged_when_that_is_corrected_also_where_a_column_of_it_waits() {
    let folder = TempDir::new().unwrap();
    let schemas = ["CREATE TABLE t (k INTEGER PRIMARY KEY, n, m, c)", "CREATE TABLE t (k INTEGER PRIMARY KEY, n, m)"];
    let nodes = replicas(&folder, &schemas.map(|schema| Setup { rules: numbers_only, ..Setup::of(schema) })).await;
    nodes[0].write("INSERT INTO t VALUES (1, 1, 1, 'c')");
    settle(&nodes, || 100).await;
    nodes[1].write("UPDATE t SET n = 'two' WHERE k = 1");
    nodes[1].until(|state| state.backlog == 0).await;
    nodes[0].write("UPDATE t SET n = 'uno', m = 5 WHERE k = 1");
    settle(&nodes, || 100).await;
    assert_eq!((parked(&nodes[0]), parked(&nodes[1])), (1, 2), "the rows, and the column of one");
    nodes[0].write("UPDATE t SET n = 7 WHERE k = 1");
    settle(&nodes, || 100).await;
    nodes[0].until(|state| state.parked == 0).await;
    settle(&nodes, || 100).await;
    for node in &nodes {
        assert_eq!(node.text("SELECT group_concat(n || ' ' || m) FROM t"), "7 5");
    }
}
