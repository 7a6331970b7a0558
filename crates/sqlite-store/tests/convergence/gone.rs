//! Columns and tables that are dropped or renamed on one node after the other: in the end nothing waits, and what was
//! written under the new names is the same everywhere.

use tempfile::TempDir;

use crate::replica::{Replica, Setup};
use crate::{Random, seeds};

const SCHEMA: &str = "CREATE TABLE t (k INTEGER PRIMARY KEY, a TEXT, b TEXT); \
                      CREATE TABLE w (k INTEGER PRIMARY KEY, v TEXT); CREATE TABLE d (k INTEGER PRIMARY KEY, v TEXT)";

/// What every node runs in the end, each in an order of its own.
const MIGRATIONS: [&str; 4] =
    ["ALTER TABLE t DROP COLUMN a", "ALTER TABLE t RENAME COLUMN b TO c", "ALTER TABLE w RENAME TO x", "DROP TABLE d"];

async fn line(folder: &TempDir, nodes: usize) -> Vec<Replica> {
    let mut replicas = Vec::new();
    for name in ["a", "b", "c", "d"].into_iter().take(nodes) {
        let replica = Replica::create(folder.path(), name, Setup::of(SCHEMA)).await;
        replica.database.publish().await;
        replicas.push(replica);
    }
    replicas
}

async fn migrate(replica: &Replica, sql: &str) {
    let version = || {
        let state = replica.database.state().borrow().clone();
        state.origin.and_then(|origin| state.schemas.get(origin).map(|schema| schema.version))
    };
    let before = version();
    let lifted = sqlite_store::lift::lift(&replica.path).unwrap().unwrap();
    replica.write(sql);
    lifted.restore().unwrap().unwrap();
    drop(lifted);
    replica.until(|_| version() > before).await;
}

/// Takes what the neighbour has, unless that has lost a table which is still here: a session sends nothing then.
async fn pull(to: &Replica, from: &Replica, rows: usize) {
    let (there, here) = (from.database.state().borrow().clone(), to.database.state().borrow().clone());
    if !there.retired.iter().any(|table| here.tables.contains_key(table)) {
        to.pull(from, rows).await;
    }
}

async fn pull_along(nodes: &[Replica]) {
    for _ in 0..nodes.len() {
        for pair in nodes.windows(2) {
            pull(&pair[0], &pair[1], 100).await;
            pull(&pair[1], &pair[0], 100).await;
        }
    }
}

/// Lets neighbours exchange until nothing waits and all know the same.
async fn settle(nodes: &[Replica], what: &str) {
    for _ in 0..20 {
        pull_along(nodes).await;
        let states: Vec<_> = nodes.iter().map(|node| node.database.state().borrow().clone()).collect();
        let quiet = |state: &sqlite_store::DatabaseState| state.parked == 0 && state.backlog == 0;
        if states.iter().all(|state| quiet(state) && state.have == states[0].have) {
            return;
        }
    }
    let parked: Vec<u64> = nodes.iter().map(|node| node.database.state().borrow().parked).collect();
    panic!("{what}: not quiet after 20 rounds, parked {parked:?}");
}

/// One random statement that fits the schema as the node has it.
fn write(replica: &Replica, random: &mut Random, step: u32) {
    let conn = replica.application();
    let has = |sql: &str| conn.prepare(sql).is_ok();
    let k = random.below(4);
    let column = if has("SELECT b FROM t") { "b" } else { "c" };
    let renamed = if has("SELECT 1 FROM w") { "w" } else { "x" };
    let sql = match random.below(10) {
        0 | 1 => format!("INSERT OR IGNORE INTO t (k, {column}) VALUES ({k}, 'i{step}')"),
        2 => format!("UPDATE t SET {column} = 'u{step}' WHERE k = {k}"),
        3 => format!("UPDATE t SET {column} = NULL WHERE k = {k}"),
        4 => format!("DELETE FROM t WHERE k = {k}"),
        5 if has("SELECT a FROM t") => format!("UPDATE t SET a = 'a{step}' WHERE k = {k}"),
        6 if has("SELECT 1 FROM d") => format!("INSERT OR REPLACE INTO d VALUES ({k}, 'd{step}')"),
        7 => format!("DELETE FROM {renamed} WHERE k = {k}"),
        _ => format!("INSERT OR REPLACE INTO {renamed} VALUES ({k}, 'w{step}')"),
    };
    conn.execute_batch(&sql).unwrap_or_else(|error| panic!("{sql}: {error}"));
}

/// Lines of three and four migrate, each node when and in the order it likes, while all write.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_waits_once_every_node_has_dropped_or_renamed_it() {
    for seed in seeds(8) {
        let folder = TempDir::new().unwrap();
        let mut random = Random(seed);
        let nodes = line(&folder, if seed % 2 == 0 { 3 } else { 4 }).await;
        let mut pick = |bound: usize| usize::try_from(random.below(bound as u64)).unwrap();
        let mut left: Vec<(usize, &str)> =
            (0..nodes.len()).flat_map(|node| MIGRATIONS.map(|migration| (node, migration))).collect();
        let mut order = Vec::new();
        while !left.is_empty() {
            order.push(left.remove(pick(left.len())));
        }
        for step in 0..30_u32 {
            write(&nodes[step as usize % nodes.len()], &mut random, step);
        }
        for (step, (node, migration)) in (100_u32..).step_by(10).zip(order) {
            migrate(&nodes[node], migration).await;
            for step in step..step + 4 {
                let writer = usize::try_from(random.below(nodes.len() as u64)).unwrap();
                write(&nodes[writer], &mut random, step);
                let to = usize::try_from(random.below(nodes.len() as u64 - 1)).unwrap();
                let (to, from) = if random.below(2) == 0 { (to, to + 1) } else { (to + 1, to) };
                pull(&nodes[to], &nodes[from], 1 + usize::try_from(random.below(5)).unwrap()).await;
            }
        }
        settle(&nodes, &format!("seed {seed}")).await;
        for node in &nodes {
            assert_eq!(node.dump(), nodes[0].dump(), "seed {seed}: {}", node.path.display());
        }
    }
}

/// A column of a name that was dropped everywhere begins empty, whatever was written in the old one.
#[tokio::test]
async fn a_column_that_is_added_again_holds_nothing_of_the_one_that_was_dropped() {
    let folder = TempDir::new().unwrap();
    let nodes = line(&folder, 3).await;
    nodes[0].write("INSERT INTO t VALUES (1, 'a', 'b')");
    pull_along(&nodes).await;
    migrate(&nodes[1], MIGRATIONS[0]).await;
    nodes[0].write("UPDATE t SET a = 'from a'");
    pull_along(&nodes).await;
    assert_eq!(nodes[2].text("SELECT a FROM t"), "from a", "the middle passes on what it has no place for");
    assert_eq!(nodes[1].database.state().borrow().parked, 1);
    migrate(&nodes[0], MIGRATIONS[0]).await;
    pull_along(&nodes).await;
    assert_eq!(nodes[1].database.state().borrow().parked, 1, "the last node still has the column");
    nodes[2].write("UPDATE t SET a = 'from c'");
    migrate(&nodes[2], MIGRATIONS[0]).await;
    settle(&nodes, "dropped everywhere").await;
    for node in &nodes {
        node.write("ALTER TABLE t ADD COLUMN a TEXT");
    }
    settle(&nodes, "added again").await;
    for node in &nodes {
        assert_eq!(node.text("SELECT count(*) || ' ' || count(a) || b FROM t"), "1 0b");
    }
}

/// What the last node of a line wrote under an old name, when others had renamed theirs, is there under the new one.
#[tokio::test]
async fn deletions_and_defaults_under_an_old_name_arrive_under_the_new_one() {
    let key = "ALTER TABLE w RENAME COLUMN k TO id";
    for (rename, write, rows) in [
        (MIGRATIONS[2], "DELETE FROM w WHERE k = 1", "SELECT group_concat(k || v) FROM x"),
        (key, "DELETE FROM w WHERE k = 1", "SELECT group_concat(id || v) FROM w"),
        (MIGRATIONS[1], "UPDATE t SET b = NULL WHERE k = 1", "SELECT group_concat(k || c) FROM t"),
        (MIGRATIONS[1], "INSERT OR REPLACE INTO t (k) VALUES (1)", "SELECT group_concat(k || c) FROM t"),
    ] {
        let folder = TempDir::new().unwrap();
        let nodes = line(&folder, 3).await;
        nodes[0].write(
            "INSERT INTO w VALUES (1, 'one'), (2, 'two'); INSERT INTO t VALUES (1, 'a', 'one'), (2, 'a', 'two')",
        );
        pull_along(&nodes).await;
        migrate(&nodes[0], rename).await;
        nodes[2].write(write);
        pull_along(&nodes).await;
        migrate(&nodes[2], rename).await;
        migrate(&nodes[1], rename).await;
        settle(&nodes, rename).await;
        for node in &nodes {
            assert_eq!(node.text(rows), "2two", "{rename}; {write}: {}", node.path.display());
        }
    }
}

/// A node whose tables nobody has told of may have any.
#[tokio::test]
async fn what_waits_is_kept_while_a_node_is_known_that_has_not_said_what_it_has() {
    let folder = TempDir::new().unwrap();
    let nodes = line(&folder, 3).await;
    // Its changes come by way of the middle, and nobody has told of its tables.
    nodes[2].write("INSERT INTO t VALUES (1, 'a', 'b')");
    let batch = nodes[1].next_from(&nodes[2], 100).await;
    nodes[1].apply(batch, None).await;
    migrate(&nodes[0], MIGRATIONS[0]).await;
    migrate(&nodes[1], MIGRATIONS[0]).await;
    nodes[2].write("UPDATE t SET a = 'later'");
    let batch = nodes[1].next_from(&nodes[2], 100).await;
    nodes[1].apply(batch, None).await;
    nodes[0].pull(&nodes[1], 100).await;
    nodes[1].pull(&nodes[0], 100).await;
    assert_eq!(nodes[1].database.state().borrow().parked, 1);
    migrate(&nodes[2], MIGRATIONS[0]).await;
    settle(&nodes, "told").await;
}

/// A row without a cell has no word in what the cell is: not under the old name of its column either.
#[tokio::test]
async fn a_cell_that_a_row_came_without_is_not_said_anew_under_another_name() {
    let folder = TempDir::new().unwrap();
    let nodes = line(&folder, 2).await;
    let rename = "ALTER TABLE t RENAME COLUMN b TO c";
    migrate(&nodes[0], rename).await;
    nodes[0].write("INSERT INTO t VALUES (1, 'a', 'b')");
    pull(&nodes[1], &nodes[0], 100).await;
    nodes[1].write("INSERT INTO t VALUES (2, 'a', 'other'); INSERT INTO t VALUES (3, 'a', NULL)");
    migrate(&nodes[1], rename).await;
    settle(&nodes, "renamed").await;
    for node in &nodes {
        let rows = "SELECT group_concat(k || a || coalesce(c, '-'), ' ') FROM (SELECT * FROM t ORDER BY k)";
        assert_eq!(node.text(rows), "1ab 2aother 3a-");
        assert_eq!(node.text("SELECT CAST(count(*) AS TEXT) FROM _sync_conflict"), "0");
    }
}

/// What a migration itself writes into such a cell is written: it meets what waits as a conflict.
#[tokio::test]
async fn a_cell_that_a_row_came_without_and_a_migration_fills_in_is_not_lost_without_a_record() {
    let folder = TempDir::new().unwrap();
    let nodes = line(&folder, 2).await;
    let rename = "ALTER TABLE t RENAME COLUMN b TO c";
    migrate(&nodes[0], rename).await;
    nodes[0].write("INSERT INTO t VALUES (1, 'a', 'b')");
    pull(&nodes[1], &nodes[0], 100).await;
    migrate(&nodes[1], &format!("{rename}; UPDATE t SET c = 'filled in'")).await;
    settle(&nodes, "filled in").await;
    assert_eq!(nodes[0].dump(), nodes[1].dump());
    let kept = "SELECT (SELECT c FROM t) || coalesce((SELECT group_concat(record) FROM _sync_conflict), '')";
    let kept: String = nodes.iter().map(|node| node.text(kept)).collect();
    assert!(kept.contains("filled in") && kept.contains("\"b\""), "{kept}");
}

/// The node in between lacks a column of the row, and has one that the row's writer lacks: both rest on one change.
#[tokio::test]
async fn a_value_that_is_passed_on_arrives_beside_the_row_that_was_passed_on_without_it() {
    for rows in [100, 1] {
        let folder = TempDir::new().unwrap();
        let nodes = line(&folder, 3).await;
        migrate(&nodes[0], "ALTER TABLE t DROP COLUMN a").await;
        migrate(&nodes[1], "ALTER TABLE t DROP COLUMN b").await;
        nodes[0].write("INSERT INTO t VALUES (1, 'b'), (2, 'B')");
        for _ in 0..4 {
            pull(&nodes[1], &nodes[0], rows).await;
        }
        for _ in 0..8 {
            pull(&nodes[2], &nodes[1], rows).await;
        }
        assert_eq!(nodes[2].text("SELECT group_concat(k || b, ' ') FROM (SELECT * FROM t ORDER BY k)"), "1b 2B");
    }
}
