//! Counters in a column that some nodes do not have: they delete rows and put others in their place without a word on it.

use std::collections::HashMap;

use replication::{ColumnRule, Granularity, Selection};
use sqlite_store::{DatabaseRules, MergeRules};
use tempfile::TempDir;

use crate::replica::{Replica, Setup};
use crate::selection::{line, settle_line};
use crate::{Random, seeds, settle};

const SCHEMA: &str = "CREATE TABLE stock (sku TEXT PRIMARY KEY, qty INTEGER, n INTEGER DEFAULT 100, ean UNIQUE, \
    m INTEGER DEFAULT 0)";
const WITHOUT_COUNTER: &str = "CREATE TABLE stock (sku TEXT PRIMARY KEY, qty INTEGER, ean UNIQUE, m INTEGER DEFAULT 0)";
const COUNTS: &str = "SELECT coalesce(group_concat(sku || qty || ':' || coalesce(n, '-'), ' '), '') FROM \
    (SELECT * FROM stock ORDER BY sku)";
const SHARED: &str = "SELECT coalesce(group_concat(sku || quote(qty) || quote(ean) || quote(m), ' '), '') FROM \
    (SELECT * FROM stock ORDER BY sku)";
const GRANULARITIES: [Granularity; 2] = [Granularity::Column, Granularity::Row];

fn counting() -> DatabaseRules {
    let columns: HashMap<String, ColumnRule> = ["n", "m"].map(|name| (name.to_owned(), ColumnRule::Counter)).into();
    let stock = MergeRules { columns, ..MergeRules::default() };
    DatabaseRules { tables: HashMap::from([("stock".to_owned(), stock)]), ..DatabaseRules::default() }
}

fn without_counter() -> Selection {
    let mut selection = Selection::default();
    selection.set_excluded_columns("stock", ["n".to_owned()]);
    selection
}

fn setup(granularity: Granularity) -> Setup {
    Setup { granularity, rules: counting, ..Setup::of(SCHEMA) }
}

/// A node without the counter between two that have counted in it.
async fn counted(folder: &TempDir, granularity: Granularity) -> [Replica; 3] {
    let nodes = line(folder, without_counter, setup(granularity)).await;
    nodes[0].write("INSERT INTO stock VALUES ('A', 1, 0, 1, 0)");
    settle_line(&nodes).await;
    nodes[0].write("UPDATE stock SET n = n + 5");
    nodes[2].write("UPDATE stock SET n = n + 3");
    settle_line(&nodes).await;
    assert_eq!(ends(&nodes), "A1:8");
    nodes
}

/// What the nodes with the counter hold.
fn ends(nodes: &[Replica; 3]) -> String {
    let ends = nodes[0].text(COUNTS);
    assert_eq!(nodes[2].text(COUNTS), ends);
    ends
}

#[tokio::test]
async fn a_row_in_the_place_of_another_has_nothing_of_what_was_counted_there() {
    for granularity in GRANULARITIES {
        for steps in [
            vec!["INSERT OR REPLACE INTO stock (sku, qty) VALUES ('A', 2)"],
            vec!["DELETE FROM stock", "INSERT INTO stock (sku, qty) VALUES ('A', 2)"],
            vec!["DELETE FROM stock; INSERT INTO stock (sku, qty) VALUES ('A', 2)"],
        ] {
            let folder = TempDir::new().unwrap();
            let nodes = counted(&folder, granularity).await;
            for step in &steps {
                nodes[1].write(step);
                settle_line(&nodes).await;
            }
            assert_eq!(ends(&nodes), "A2:100", "{granularity:?} {steps:?}");
            nodes[0].write("UPDATE stock SET n = n + 1");
            nodes[2].write("UPDATE stock SET n = n - 2");
            settle_line(&nodes).await;
            assert_eq!(ends(&nodes), "A2:99", "{granularity:?} {steps:?}");
            for node in &nodes {
                assert_eq!(node.conflicts(), 0, "{granularity:?} {steps:?}");
            }
        }
    }
}

/// What is counted while a row takes the place of the one that it is counted in goes with that one, or stays; it is the same
/// everywhere, and what goes is recorded.
#[tokio::test]
async fn what_is_counted_in_a_row_that_makes_way_meanwhile_is_recorded() {
    for granularity in GRANULARITIES {
        for replaced_first in [true, false] {
            let folder = TempDir::new().unwrap();
            let nodes = counted(&folder, granularity).await;
            let mut steps =
                [(1, "INSERT OR REPLACE INTO stock (sku, qty) VALUES ('A', 2)"), (0, "UPDATE stock SET n = n + 7")];
            if !replaced_first {
                steps.reverse();
            }
            for (node, sql) in steps {
                nodes[node].write(sql);
                nodes[node].until(|state| state.backlog == 0).await;
            }
            settle_line(&nodes).await;
            let ends = ends(&nodes);
            let records =
                [0, 2].map(|node| nodes[node].text("SELECT coalesce(group_concat(record), '') FROM _sync_conflict"));
            let recorded = records.iter().any(|record| record.contains("15"));
            assert!(
                ends == "A2:107" || ends == "A2:100" && recorded,
                "{granularity:?} {replaced_first}: {ends} {records:?}"
            );
        }
    }
}

/// A row is deleted, and then counted in on a node whose neighbour does not have the counter.
#[tokio::test]
async fn what_is_counted_after_a_deletion_brings_its_row_back() {
    for granularity in GRANULARITIES {
        let folder = TempDir::new().unwrap();
        let nodes = counted(&folder, granularity).await;
        nodes[2].write("DELETE FROM stock");
        nodes[2].until(|state| state.backlog == 0).await;
        nodes[0].write("UPDATE stock SET n = n + 7");
        for (to, from) in [(1, 2), (1, 0), (2, 1), (0, 2)] {
            nodes[to].pull(&nodes[from], 100).await;
        }
        settle_line(&nodes).await;
        assert_eq!(ends(&nodes), "A1:15", "{granularity:?}");
    }
}

/// A row is counted in and deleted, and another one takes its place at the same time. What was counted has passed through a node
/// that did not have the column then.
#[tokio::test]
async fn what_was_counted_in_a_deleted_row_waits_for_its_column() {
    for granularity in GRANULARITIES {
        let folder = TempDir::new().unwrap();
        let full = setup(granularity);
        let nodes = [
            Replica::create(folder.path(), "a", full).await,
            Replica::create(folder.path(), "late", Setup { schema: WITHOUT_COUNTER, ..full }).await,
            Replica::create(folder.path(), "c", full).await,
        ];
        nodes[0].write("INSERT INTO stock VALUES ('A', 1, 0, 1, 0)");
        settle_line(&nodes).await;
        for step in ["UPDATE stock SET n = n + 5", "DELETE FROM stock"] {
            // Each is a change of its own: what is captured together is one.
            let before = nodes[0].database.state().borrow().have.clone();
            nodes[0].write(step);
            nodes[0].until(|state| state.have != before).await;
        }
        nodes[2].write("INSERT OR REPLACE INTO stock (sku, qty, n) VALUES ('A', 2, 20)");
        for from in [0, 2] {
            nodes[1].pull(&nodes[from], 100).await;
        }
        settle_line(&nodes).await;
        nodes[1].write("ALTER TABLE stock ADD COLUMN n INTEGER DEFAULT 100");
        settle_line(&nodes).await;
        assert_eq!(ends(&nodes), "A2:25", "{granularity:?}");
        assert_eq!(nodes[1].text(COUNTS), "A2:25", "{granularity:?}");
    }
}

/// Applications count, set, delete and replace at random; of the nodes some leave the counter out, and some get it late.
async fn converge(seed: u64) {
    let folder = TempDir::new().unwrap();
    let mut random = Random(seed);
    let full = Setup { max_rows: 5, ..setup(GRANULARITIES[usize::from(seed.is_multiple_of(3))]) };
    let steps = 15;
    // Where all write one row, more of what they do meets.
    let keys = [1, 4][usize::from(seed.is_multiple_of(4))];
    // When each has the counter, if ever.
    let mut comes = vec![Some(0)];
    let mut nodes = vec![Replica::create(folder.path(), "a", full).await];
    for name in ["b", "c", "d", "e"] {
        let (comes_here, setup) = match random.below(4) {
            0 => (Some(0), full),
            1 => (None, Setup { selection: without_counter, ..full }),
            _ => (Some(1 + random.below(steps)), Setup { schema: WITHOUT_COUNTER, ..full }),
        };
        comes.push(comes_here);
        nodes.push(Replica::create(folder.path(), name, setup).await);
    }
    for node in &nodes {
        node.database.publish().await;
    }
    for step in 0..=steps {
        for (node, _) in nodes.iter().zip(&comes).filter(|(_, comes)| step > 0 && **comes == Some(step)) {
            node.write("ALTER TABLE stock ADD COLUMN n INTEGER DEFAULT 100");
        }
        let pick = |random: &mut Random| usize::try_from(random.below(5)).unwrap();
        let writer = pick(&mut random);
        let conn = nodes[writer].application();
        let has_counter = comes[writer].is_none_or(|comes| comes <= step);
        (0..1 + random.below(4)).for_each(|_| write(&conn, has_counter, keys, &mut random));
        let (to, from) = (pick(&mut random), pick(&mut random));
        if to != from {
            nodes[to].pull(&nodes[from], 1 + usize::try_from(random.below(20)).unwrap()).await;
        }
    }
    settle(&nodes, || 1 + usize::try_from(random.below(30)).unwrap()).await;
    for node in &nodes[1..] {
        assert_eq!(node.text(SHARED), nodes[0].text(SHARED), "seed {seed}: {}", node.path.display());
    }
    for (node, _) in nodes.iter().zip(&comes).filter(|(_, comes)| comes.is_some()) {
        assert_eq!(node.text(COUNTS), nodes[0].text(COUNTS), "seed {seed}: {}", node.path.display());
    }
}

fn write(conn: &rusqlite::Connection, has_counter: bool, keys: u64, random: &mut Random) {
    let (key, number) = (random.below(keys), random.below(9));
    let sql = match random.below(if has_counter { 13 } else { 8 }) {
        0 => format!("INSERT OR IGNORE INTO stock (sku, qty) VALUES ('k{key}', {number})"),
        1 => format!("UPDATE stock SET qty = {number} WHERE sku = 'k{key}'"),
        2 => format!("DELETE FROM stock WHERE sku = 'k{key}'"),
        3 => format!("INSERT OR REPLACE INTO stock (sku, qty) VALUES ('k{key}', {number})"),
        4 => {
            format!("DELETE FROM stock WHERE sku = 'k{key}'; INSERT INTO stock (sku, qty) VALUES ('k{key}', {number})")
        }
        5 => format!("UPDATE OR IGNORE stock SET ean = {number} WHERE sku = 'k{key}'"),
        6 | 7 => format!("UPDATE stock SET m = m + {number} WHERE sku = 'k{key}'"),
        8 => format!("INSERT OR REPLACE INTO stock (sku, qty, n) VALUES ('k{key}', {number}, {number})"),
        9 => format!("UPDATE stock SET n = n + {number}, qty = qty + 1 WHERE sku = 'k{key}'"),
        10 => format!("UPDATE stock SET n = NULL WHERE sku = 'k{key}' AND {number} = 0"),
        _ => format!("UPDATE stock SET n = n + {number} WHERE sku = 'k{key}'"),
    };
    conn.execute_batch(&sql).unwrap_or_else(|error| panic!("{sql}: {error}"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_end_equal_in_counters_that_others_do_not_have() {
    for seed in seeds(15) {
        converge(seed).await;
    }
}
