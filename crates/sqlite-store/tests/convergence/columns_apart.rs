//! Nodes that have different columns of one table: each column is the same wherever it is.

use replication::{Granularity, Selection};
use tempfile::TempDir;

use crate::replica::{Replica, Setup};
use crate::{Random, seeds, settle};

/// Nodes by name, and what each has in the table beside its key.
async fn having<const N: usize>(
    folder: &TempDir,
    granularity: Granularity,
    columns: [(&str, &str); N],
) -> Vec<Replica> {
    let mut nodes = Vec::new();
    for (name, columns) in columns {
        let schema = format!("CREATE TABLE t (k INTEGER PRIMARY KEY, {columns})").leak();
        nodes.push(Replica::create(folder.path(), name, Setup { granularity, ..Setup::of(schema) }).await);
        nodes.last().unwrap().database.publish().await;
    }
    nodes
}

/// Nodes take from others: the first of each pair from the second.
async fn pull(nodes: &[Replica], pairs: &[(usize, usize)]) {
    for (to, from) in pairs {
        nodes[*to].pull(&nodes[*from], 100).await;
    }
}

/// A row is known to come after a deletion, and part of it through a node that has neither what its writer has nor all that the
/// last node has.
#[tokio::test]
async fn what_waits_of_a_row_says_nothing_of_columns_that_its_bearer_has() {
    for granularity in [Granularity::Column, Granularity::Row] {
        let folder = TempDir::new().unwrap();
        let nodes =
            having(&folder, granularity, [("writer", "qty, b"), ("other", "qty, x"), ("full", "qty, b, x")]).await;
        nodes[0].write("INSERT INTO t VALUES (1, 1, 'old')");
        settle(&nodes, || 100).await;
        nodes[0].write("INSERT OR REPLACE INTO t VALUES (1, 2, 'new')");
        nodes[1].pull(&nodes[0], 100).await;
        nodes[1].write("UPDATE t SET x = 'x'");
        nodes[0].pull(&nodes[1], 100).await;
        // All of it from the node that has only part of it.
        nodes[2].pull(&nodes[0], 100).await;
        let full = "SELECT qty || b || x FROM t";
        assert_eq!(nodes[2].text(full), "2newx", "{granularity:?}");
        settle(&nodes, || 100).await;
        assert_eq!(nodes[2].text(full), "2newx", "{granularity:?}");
        assert_eq!(nodes[0].text("SELECT qty || b FROM t"), "2new", "{granularity:?}");
    }
}

/// A row is deleted on one node while another one updates it in a column that the node between them does not have.
#[tokio::test]
async fn what_a_deletion_takes_of_a_column_that_its_bearer_does_not_have_is_recorded() {
    for granularity in [Granularity::Column, Granularity::Row] {
        let folder = TempDir::new().unwrap();
        let nodes = having(&folder, granularity, [("a", "qty, x"), ("b", "qty"), ("c", "qty, x")]).await;
        nodes[0].write("INSERT INTO t VALUES (1, 1, 'old')");
        settle(&nodes, || 100).await;
        nodes[0].write("UPDATE t SET qty = 2, x = 'news'");
        nodes[0].until(|state| state.backlog == 0).await;
        nodes[2].write("DELETE FROM t");
        nodes[1].pull(&nodes[0], 100).await;
        nodes[2].pull(&nodes[1], 100).await;
        nodes[1].pull(&nodes[2], 100).await;
        nodes[0].pull(&nodes[1], 100).await;
        settle(&nodes, || 100).await;
        for node in &nodes {
            assert_eq!(node.text("SELECT count(*) || '' FROM t"), "0", "{granularity:?}");
        }
        let records = "SELECT coalesce(group_concat(record, ' '), '') FROM _sync_conflict";
        let records: Vec<String> = nodes.iter().map(|node| node.text(records)).collect();
        assert!(records.iter().any(|records| records.contains("news")), "{granularity:?}: {records:?}");
    }
}

/// A row is deleted while a node without one of its columns writes all the others, and a node that has them all hears of both.
#[tokio::test]
async fn what_a_row_that_outlives_its_deletion_holds_in_a_column_is_the_same_everywhere() {
    for granularity in [Granularity::Column, Granularity::Row] {
        let folder = TempDir::new().unwrap();
        let nodes = having(&folder, granularity, [("hears", "qty, x"), ("writes", "qty"), ("deletes", "qty, x")]).await;
        nodes[0].write("INSERT INTO t VALUES (1, 1, 'old')");
        settle(&nodes, || 100).await;
        nodes[2].write("DELETE FROM t");
        nodes[2].until(|state| state.backlog == 0).await;
        nodes[1].write("UPDATE t SET qty = 2");
        pull(&nodes, &[(0, 1), (0, 2), (1, 2), (2, 1)]).await;
        settle(&nodes, || 100).await;
        let ends = [0, 2].map(|node| nodes[node].text("SELECT qty || ' ' || coalesce(x, '-') FROM t"));
        assert_eq!(ends, ["2 old", "2 old"], "{granularity:?}");
    }
}

/// A row that its bearer has without a column, and that cannot be without it where it goes.
#[tokio::test]
async fn a_row_that_waits_for_one_of_its_columns_gets_it() {
    let folder = TempDir::new().unwrap();
    let nodes = having(
        &folder,
        Granularity::Column,
        [("full", "qty INTEGER, x TEXT NOT NULL"), ("bearer", "qty INTEGER"), ("last", "qty INTEGER, x TEXT NOT NULL")],
    )
    .await;
    nodes[0].write("INSERT INTO t VALUES (1, 1, 'v')");
    pull(&nodes, &[(1, 0), (2, 1)]).await;
    assert_eq!(nodes[2].text("SELECT k || ' ' || qty || ' ' || x FROM t"), "1 1 v");
    assert_eq!(nodes[2].database.state().borrow().parked, 0);
}

/// A row comes back from its deletion, and the column that came for it is one that this node does not take.
#[tokio::test]
async fn a_column_that_a_constraint_refuses_holds_up_no_row_that_comes_back() {
    let folder = TempDir::new().unwrap();
    let nodes = having(
        &folder,
        Granularity::Column,
        [
            ("full", "qty INTEGER, x TEXT"),
            ("bearer", "qty INTEGER"),
            ("strict", "qty INTEGER, x TEXT NOT NULL DEFAULT ''"),
        ],
    )
    .await;
    nodes[0].write("INSERT INTO t VALUES (1, 1, 'v')");
    settle(&nodes, || 100).await;
    nodes[2].write("DELETE FROM t");
    nodes[2].until(|state| state.backlog == 0).await;
    nodes[0].write("UPDATE t SET x = NULL");
    nodes[1].pull(&nodes[0], 100).await;
    nodes[1].write("UPDATE t SET qty = 2");
    nodes[2].pull(&nodes[1], 100).await;
    assert_eq!(nodes[2].text("SELECT qty || '' FROM t"), "2");
}

/// A row and one of its columns come to a node that does not have the table yet, by way of one without the column.
#[tokio::test]
async fn a_column_whose_row_waits_for_its_table_is_merged_with_it() {
    let folder = TempDir::new().unwrap();
    let schemas = [("full", "qty INTEGER, x TEXT DEFAULT 'none'"), ("bearer", "qty INTEGER")];
    let mut nodes = having(&folder, Granularity::Column, schemas).await;
    nodes.push(Replica::create(folder.path(), "late", Setup::of("CREATE TABLE u (k INTEGER PRIMARY KEY)")).await);
    nodes[2].database.publish().await;
    nodes[0].write("INSERT INTO t VALUES (1, 1, 'old')");
    settle(&nodes, || 100).await;
    nodes[0].write("INSERT OR REPLACE INTO t VALUES (1, 2, 'new')");
    pull(&nodes, &[(1, 0), (2, 1)]).await;
    nodes[2].write("CREATE TABLE t (k INTEGER PRIMARY KEY, qty INTEGER, x TEXT DEFAULT 'none')");
    nodes[2].until(|state| state.parked == 0).await;
    assert_eq!(nodes[2].text("SELECT qty || x FROM t"), "2new");
}

/// A row that a constraint refuses waits with all of its columns, and a later state of it comes from a node without one.
#[tokio::test]
async fn what_a_waiting_row_holds_in_a_column_outlives_a_state_without_it() {
    let folder = TempDir::new().unwrap();
    let nodes = having(
        &folder,
        Granularity::Column,
        [("full", "qty INTEGER, x"), ("bearer", "qty INTEGER"), ("strict", "qty INTEGER CHECK (qty < 100), x")],
    )
    .await;
    nodes[0].write("INSERT INTO t VALUES (1, 500, 'v')");
    pull(&nodes, &[(2, 0), (1, 0)]).await;
    nodes[1].write("UPDATE t SET qty = 50");
    nodes[2].pull(&nodes[1], 100).await;
    nodes[2].until(|state| state.parked == 0).await;
    settle(&nodes, || 100).await;
    for node in [&nodes[0], &nodes[2]] {
        assert_eq!(node.text("SELECT qty || coalesce(x, '-') FROM t"), "50v");
    }
}

/// Of a deletion and a later update that come together the update stands, whichever way its column comes.
#[tokio::test]
async fn a_column_that_was_written_after_a_deletion_brings_its_row_back() {
    let folder = TempDir::new().unwrap();
    let nodes =
        having(&folder, Granularity::Column, [("updates", "qty, x"), ("bearer", "qty"), ("deletes", "qty, x")]).await;
    nodes[0].write("INSERT INTO t VALUES (1, 1, 'old')");
    settle(&nodes, || 100).await;
    nodes[2].write("DELETE FROM t");
    nodes[2].until(|state| state.backlog == 0).await;
    nodes[0].write("UPDATE t SET x = 'news'");
    pull(&nodes, &[(1, 2), (1, 0), (2, 1), (0, 2)]).await;
    settle(&nodes, || 100).await;
    for node in [&nodes[0], &nodes[2]] {
        assert_eq!(node.text("SELECT coalesce(group_concat(qty || x), '') FROM t"), "1news");
    }
}

const COLUMNS: [&str; 3] = ["x", "y", "z"];

/// What one node makes of a column.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Has {
    From(u64),
    LeftOut,
}

fn left_out(which: usize) -> Selection {
    let mut selection = Selection::default();
    let out = (0..3).filter(|column| which & (1 << column) != 0).map(|column| COLUMNS[column].to_owned());
    selection.set_excluded_columns("t", out.collect::<Vec<_>>());
    selection
}

const LEFT_OUT: [fn() -> Selection; 8] = [
    || left_out(0),
    || left_out(1),
    || left_out(2),
    || left_out(3),
    || left_out(4),
    || left_out(5),
    || left_out(6),
    || left_out(7),
];

const STEPS: u64 = 18;

/// Applications write at random while of three columns each node has some, gets some late, and leaves some out.
async fn converge(seed: u64) {
    let folder = TempDir::new().unwrap();
    let mut random = Random(seed);
    let granularity = if seed.is_multiple_of(3) { Granularity::Row } else { Granularity::Column };
    let mut nodes = Vec::new();
    let mut has = Vec::new();
    for name in ["a", "b", "c", "d"] {
        let columns: Vec<Has> = (0..3)
            .map(|_| match random.below(4) {
                0 | 1 => Has::From(0),
                2 => Has::From(random.below(STEPS)),
                _ => Has::LeftOut,
            })
            .collect();
        let defined = |column: &usize| columns[*column] == Has::LeftOut || columns[*column] == Has::From(0);
        let defined: String = (0..3).filter(defined).map(|column| format!(", {} DEFAULT 0", COLUMNS[column])).collect();
        let schema = format!("CREATE TABLE t (k INTEGER PRIMARY KEY, qty INTEGER{defined})").leak();
        let out = (0..3).filter(|column| columns[*column] == Has::LeftOut).fold(0, |out, column| out | 1 << column);
        let setup = Setup { granularity, selection: LEFT_OUT[out], max_rows: 5, ..Setup::of(schema) };
        let node = Replica::create(folder.path(), name, setup).await;
        node.database.publish().await;
        nodes.push(node);
        has.push(columns);
    }
    for step in 1..=STEPS {
        let pick = |random: &mut Random| usize::try_from(random.below(4)).unwrap();
        for (node, columns) in nodes.iter().zip(&has) {
            for (name, _) in COLUMNS.iter().zip(columns).filter(|(_, has)| **has == Has::From(step)) {
                node.write(&format!("ALTER TABLE t ADD COLUMN {name} DEFAULT 0"));
            }
        }
        let writer = pick(&mut random);
        let there = |column: &usize| !matches!(has[writer][*column], Has::From(from) if from > step);
        let there: Vec<usize> = (0..3).filter(there).collect();
        let conn = nodes[writer].application();
        for change in 0..1 + random.below(4) {
            write(&conn, &there, seed * 1_000 + step * 10 + change, &mut random);
        }
        drop(conn);
        let (to, from) = (pick(&mut random), pick(&mut random));
        if to != from {
            nodes[to].pull(&nodes[from], 1 + usize::try_from(random.below(20)).unwrap()).await;
        }
    }
    settle(&nodes, || 1 + usize::try_from(random.below(30)).unwrap()).await;
    for column in 0..3 {
        let sql = format!(
            "SELECT coalesce(group_concat(k || '=' || quote(qty) || quote({}), ' '), '') FROM (SELECT * FROM t ORDER BY k)",
            COLUMNS[column]
        );
        let mut with = nodes.iter().zip(&has).filter(|(_, has)| has[column] != Has::LeftOut).map(|(node, _)| node);
        let Some(first) = with.next() else { continue };
        let expected = first.text(&sql);
        for node in with {
            assert_eq!(node.text(&sql), expected, "seed {seed}: {} {}", COLUMNS[column], node.path.display());
        }
    }
}

fn write(conn: &rusqlite::Connection, there: &[usize], value: u64, random: &mut Random) {
    let key = random.below(3);
    let mut columns = vec!["qty"];
    columns.extend(there.iter().filter(|_| random.below(2) == 0).map(|column| COLUMNS[*column]));
    let names = columns.join(", ");
    let values = vec![value.to_string(); columns.len()].join(", ");
    let sql = match random.below(8) {
        0 | 1 => format!("INSERT OR IGNORE INTO t (k, {names}) VALUES ({key}, {values})"),
        2 | 3 => format!("INSERT OR REPLACE INTO t (k, {names}) VALUES ({key}, {values})"),
        4 => format!("DELETE FROM t WHERE k = {key}"),
        _ => format!("UPDATE t SET ({names}) = ({values}) WHERE k = {key}"),
    };
    conn.execute_batch(&sql).unwrap_or_else(|error| panic!("{sql}: {error}"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_end_equal_in_the_columns_that_they_share() {
    for seed in seeds(15) {
        converge(seed).await;
    }
}
