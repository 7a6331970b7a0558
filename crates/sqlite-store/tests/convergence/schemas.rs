//! Schemas that differ between nodes: what fits is applied, the rest waits and is passed on, and after the migration, in
//! whatever order, nothing is missing.

use replication::{Granularity, ResolverPolicy, Value};
use sqlite_store::{DatabaseEvent, DatabaseRules, MergeRules, ParkedKind};
use std::sync::Arc;
use tempfile::TempDir;

use crate::replica::{Replica, Setup};
use crate::{Random, seeds, settle};

const OLD: &str = "CREATE TABLE stock (sku TEXT PRIMARY KEY, qty INTEGER); CREATE TABLE other (k PRIMARY KEY, v)";
const NEW: &str = "CREATE TABLE stock (sku TEXT PRIMARY KEY, place TEXT DEFAULT 'yard', qty INTEGER); \
                   CREATE TABLE other (k PRIMARY KEY, v); CREATE TABLE extra (id INTEGER PRIMARY KEY, w)";

async fn replicas<const N: usize>(folder: &TempDir, schemas: [&'static str; N]) -> Vec<Replica> {
    replicas_merged(folder, Granularity::Column, schemas).await
}

async fn replicas_merged<const N: usize>(
    folder: &TempDir,
    granularity: Granularity,
    schemas: [&'static str; N],
) -> Vec<Replica> {
    let mut replicas = Vec::new();
    for (name, schema) in ["a", "f", "c", "d"].into_iter().zip(schemas) {
        let setup = Setup { granularity, ..Setup::of(schema) };
        let replica = Replica::create(folder.path(), name, setup).await;
        replica.database.publish().await;
        replicas.push(replica);
    }
    replicas
}

fn parked(replica: &Replica) -> u64 {
    replica.database.state().borrow().parked
}

/// Why rows came to wait, as it was told; the database is closed for it.
async fn notes(replica: &mut Replica) -> Vec<(ParkedKind, String)> {
    replica.database.close().await;
    let mut told = Vec::new();
    while let Some((_, event)) = replica.events.recv().await {
        if let DatabaseEvent::Parked(note) = event {
            told.push((note.kind, note.reason));
        }
    }
    told
}

const STOCK: &str =
    "SELECT coalesce(group_concat(sku || ':' || place || ':' || qty, ' '), '') FROM (SELECT * FROM stock ORDER BY sku)";
const OLD_STOCK: &str =
    "SELECT coalesce(group_concat(sku || ':' || qty, ' '), '') FROM (SELECT * FROM stock ORDER BY sku)";

/// A node that lacks a column and a table in the middle of a line.
#[tokio::test]
async fn what_has_no_place_waits_is_passed_on_and_merges_after_the_migration() {
    let folder = TempDir::new().unwrap();
    let mut nodes = replicas(&folder, [NEW, OLD, NEW]).await;
    nodes[0].write("INSERT INTO stock VALUES ('cup', 'shelf', 1); INSERT INTO extra VALUES (1, 'w'); INSERT INTO other VALUES (1, 1)");
    nodes[1].pull(&nodes[0], 100).await;
    assert_eq!(nodes[1].text(OLD_STOCK), "cup:1", "what fits is applied");
    assert_eq!(nodes[1].text("SELECT count(*) || '' FROM other"), "1", "other tables go on");
    assert_eq!(parked(&nodes[1]), 2);
    // Each reason is told once, whatever waits for it; the row's older state waits no more.
    nodes[0].write("UPDATE stock SET place = 'cellar'; INSERT INTO stock VALUES ('pot', 'attic', 2)");
    nodes[1].pull(&nodes[0], 100).await;
    assert_eq!(parked(&nodes[1]), 3);

    nodes[2].pull(&nodes[1], 100).await;
    assert_eq!(nodes[2].text(STOCK), "cup:cellar:1 pot:attic:2", "the middle passes on what it has no place for");
    assert_eq!(nodes[2].text("SELECT w FROM extra"), "w");

    nodes[1].write("UPDATE stock SET qty = 9 WHERE sku = 'cup'");
    nodes[1].write(
        "ALTER TABLE stock ADD COLUMN place TEXT DEFAULT 'yard'; CREATE TABLE extra (id INTEGER PRIMARY KEY, w)",
    );
    nodes[1].until(|state| state.parked == 0).await;
    settle(&nodes, || 100).await;
    for node in &nodes {
        assert_eq!(node.text(STOCK), "cup:cellar:9 pot:attic:2");
        assert_eq!(node.text("SELECT w FROM extra"), "w");
    }
    let mut told = notes(&mut nodes[1]).await;
    told.sort();
    assert_eq!(
        told,
        [
            (ParkedKind::Schema, "table \"extra\" is not synced here".to_owned()),
            (ParkedKind::Schema, "table \"stock\" has no column \"place\" here".to_owned())
        ]
    );
}

#[tokio::test]
async fn rows_of_a_node_with_fewer_columns_leave_the_other_columns_alone() {
    for granularity in [Granularity::Column, Granularity::Row] {
        let folder = TempDir::new().unwrap();
        let mut nodes = Vec::new();
        for (name, schema) in [("a", NEW), ("f", OLD), ("c", NEW)] {
            nodes.push(Replica::create(folder.path(), name, Setup { granularity, ..Setup::of(schema) }).await);
        }
        nodes[0].write("INSERT INTO stock VALUES ('cup', 'shelf', 1), ('pot', 'attic', 1)");
        settle(&nodes, || 100).await;
        nodes[1].write("UPDATE stock SET qty = 2; INSERT INTO stock VALUES ('jar', 3)");
        nodes[1].write("DELETE FROM stock WHERE sku = 'pot'; INSERT INTO stock VALUES ('pot', 7)");
        settle(&nodes, || 100).await;
        for node in [&nodes[0], &nodes[2]] {
            // A row that was deleted and inserted again is another one.
            assert_eq!(node.text(STOCK), "cup:shelf:2 jar:yard:3 pot:yard:7", "{granularity:?}");
        }
    }
}

/// Two nodes insert a row, one of them before it has a column and later than the other.
#[tokio::test]
async fn a_row_of_before_a_migration_says_nothing_of_the_new_column() {
    for granularity in [Granularity::Column, Granularity::Row] {
        let folder = TempDir::new().unwrap();
        let nodes = replicas_merged(&folder, granularity, [NEW, OLD, NEW]).await;
        nodes[0].write("INSERT INTO stock VALUES ('cup', 'shelf', 1)");
        nodes[0].until(|state| state.backlog == 0).await;
        nodes[1].write("INSERT INTO stock VALUES ('cup', 2)");
        nodes[1].until(|state| state.backlog == 0).await;
        nodes[2].pull(&nodes[1], 100).await;
        nodes[2].pull(&nodes[0], 100).await;
        nodes[1].write("ALTER TABLE stock ADD COLUMN place TEXT DEFAULT 'yard'");
        nodes[1].write("INSERT INTO stock (sku, place, qty) VALUES ('pot', 'attic', 3)");
        settle(&nodes, || 100).await;
        for node in &nodes {
            assert_eq!(node.text(STOCK), "cup:shelf:2 pot:attic:3", "{granularity:?} {}", node.path.display());
        }
    }
}

/// A migration fills the new column of a row for which a value of a peer waits.
#[tokio::test]
async fn what_a_migration_fills_in_is_later_than_what_waited() {
    for granularity in [Granularity::Column, Granularity::Row] {
        let folder = TempDir::new().unwrap();
        let nodes = replicas_merged(&folder, granularity, [NEW, OLD]).await;
        nodes[0].write("INSERT INTO stock VALUES ('cup', 'shelf', 1)");
        settle(&nodes, || 100).await;
        assert_eq!(parked(&nodes[1]), 1);
        nodes[1].write(
            "BEGIN; ALTER TABLE stock ADD COLUMN place TEXT DEFAULT 'yard'; UPDATE stock SET place = 'attic'; COMMIT",
        );
        nodes[1].until(|state| state.parked == 0).await;
        settle(&nodes, || 100).await;
        for node in &nodes {
            assert_eq!(node.text(STOCK), "cup:attic:1", "{granularity:?}");
        }
        let record: String = nodes[1].text("SELECT record FROM _sync_conflict");
        assert!(record.contains("shelf"), "{granularity:?}: {record}");
    }
}

#[tokio::test]
async fn a_type_that_would_change_values_keeps_them_waiting() {
    let folder = TempDir::new().unwrap();
    let schemas =
        ["CREATE TABLE t (k TEXT PRIMARY KEY, code TEXT)", "CREATE TABLE t (k TEXT PRIMARY KEY, code INTEGER)"];
    let nodes = replicas(&folder, schemas).await;
    nodes[0].write("INSERT INTO t VALUES ('a', '007'), ('b', 'x')");
    settle(&nodes, || 100).await;
    assert_eq!((nodes[1].text("SELECT group_concat(k) FROM t"), parked(&nodes[1])), ("b".to_owned(), 1));
    nodes[1].write(
        "BEGIN; CREATE TABLE t_new (k TEXT PRIMARY KEY, code TEXT); INSERT INTO t_new SELECT * FROM t; DROP TABLE t; \
         ALTER TABLE t_new RENAME TO t; COMMIT",
    );
    nodes[1].until(|state| state.parked == 0).await;
    settle(&nodes, || 100).await;
    for node in &nodes {
        assert_eq!(node.text("SELECT group_concat(k || code, ' ') FROM (SELECT * FROM t ORDER BY k)"), "a007 bx");
    }
}

#[tokio::test]
async fn a_row_that_a_constraint_refuses_waits_and_the_rest_goes_on() {
    let folder = TempDir::new().unwrap();
    let schemas = [
        "CREATE TABLE t (k INTEGER PRIMARY KEY, n, m)",
        "CREATE TABLE t (k INTEGER PRIMARY KEY, n CHECK (n < 10), m NOT NULL DEFAULT 0)",
    ];
    let mut nodes = replicas(&folder, schemas).await;
    nodes[0].write("INSERT INTO t VALUES (1, 5, 1), (2, 50, 1), (3, 3, NULL), (4, 4, 4)");
    settle(&nodes, || 100).await;
    assert_eq!(nodes[1].text("SELECT group_concat(k) FROM t"), "1,4");
    assert_eq!(parked(&nodes[1]), 2);
    // An update of a row that waits takes its place, and one that fits ends the waiting.
    nodes[0].write("UPDATE t SET n = 60 WHERE k = 2");
    nodes[0].write("UPDATE t SET m = 3 WHERE k = 3");
    settle(&nodes, || 100).await;
    assert_eq!((nodes[1].text("SELECT group_concat(k) FROM t"), parked(&nodes[1])), ("1,3,4".to_owned(), 1));
    nodes[0].write("UPDATE t SET n = 6 WHERE k = 2");
    settle(&nodes, || 100).await;
    assert_eq!(nodes[0].dump(), nodes[1].dump());
    assert_eq!(parked(&nodes[1]), 0);
    let told = notes(&mut nodes[1]).await;
    assert!(told.iter().all(|(kind, _)| *kind == ParkedKind::Constraint), "{told:?}");
    assert!(
        told.iter().any(|(_, reason)| reason.contains("CHECK"))
            && told.iter().any(|(_, reason)| reason.contains("NOT NULL")),
        "{told:?}"
    );
}

pub(crate) fn numbers_only() -> DatabaseRules {
    let policy = ResolverPolicy::new(|conflict| {
        conflict.with_values(|ours, theirs| match (ours, theirs) {
            (Value::Integer(a), Value::Integer(b)) => Ok(Value::Integer(*a.max(b))),
            (Value::Text(_), other) | (other, _) => Err(format!("{ours} or {other} is no number")),
        })
    });
    let default = MergeRules { policy: Arc::new(policy.named("numbers")), ..MergeRules::default() };
    DatabaseRules { default, ..DatabaseRules::default() }
}

#[tokio::test]
async fn a_conflict_that_a_policy_cannot_decide_waits_until_a_row_is_corrected() {
    let folder = TempDir::new().unwrap();
    let mut nodes = Vec::new();
    for name in ["a", "b"] {
        let setup = Setup { rules: numbers_only, ..Setup::of("CREATE TABLE t (k INTEGER PRIMARY KEY, n)") };
        nodes.push(Replica::create(folder.path(), name, setup).await);
    }
    nodes[0].write("INSERT INTO t VALUES (1, 'one'), (2, 2)");
    settle(&nodes, || 100).await;
    nodes[0].write("UPDATE t SET n = 'uno' WHERE k = 1");
    nodes[1].write("UPDATE t SET n = 'due' WHERE k = 1; INSERT INTO t VALUES (3, 3)");
    settle(&nodes, || 100).await;
    assert_eq!((parked(&nodes[0]), parked(&nodes[1])), (1, 1));
    assert_eq!(nodes[0].text("SELECT group_concat(k) FROM t"), "1,2,3", "the rest goes on");
    nodes[0].write("UPDATE t SET n = 1 WHERE k = 1");
    nodes[1].write("UPDATE t SET n = 11 WHERE k = 1");
    settle(&nodes, || 100).await;
    assert_eq!(nodes[0].dump(), nodes[1].dump());
    assert_eq!(nodes[0].text("SELECT group_concat(n) FROM t"), "11,2,3");
    for node in &nodes {
        node.until(|state| state.parked == 0).await;
    }
    let (kind, reason) = notes(&mut nodes[1]).await.remove(0);
    assert_eq!(kind, ParkedKind::Policy);
    assert!(reason.contains("\"numbers\" cannot decide") && reason.contains("is no number"), "{reason}");
}

/// What waits is asked about again when the row here has changed.
#[tokio::test]
async fn a_conflict_is_decided_as_soon_as_the_row_here_is_corrected() {
    let folder = TempDir::new().unwrap();
    let mut nodes = Vec::new();
    for name in ["a", "b"] {
        let setup = Setup { rules: numbers_only, ..Setup::of("CREATE TABLE t (k INTEGER PRIMARY KEY, n)") };
        nodes.push(Replica::create(folder.path(), name, setup).await);
    }
    nodes[0].write("INSERT INTO t VALUES (1, 1)");
    settle(&nodes, || 100).await;
    nodes[0].write("UPDATE t SET n = 'uno' WHERE k = 1");
    nodes[1].write("UPDATE t SET n = 22 WHERE k = 1");
    nodes[0].pull(&nodes[1], 100).await;
    assert_eq!((nodes[0].text("SELECT n FROM t"), parked(&nodes[0])), ("uno".to_owned(), 1));
    nodes[0].write("UPDATE t SET n = 11 WHERE k = 1");
    nodes[0].until(|state| state.parked == 0).await;
    assert_eq!(nodes[0].text("SELECT CAST(n AS TEXT) FROM t"), "22");
    settle(&nodes, || 100).await;
    assert_eq!(nodes[0].dump(), nodes[1].dump());
}

/// One random statement that fits the schema as the node has it.
fn write(replica: &Replica, random: &mut Random, step: u32) {
    let conn = replica.application();
    let has = |sql: &str| conn.prepare(sql).is_ok();
    let sku = random.below(5);
    let sql = match random.below(8) {
        0 | 1 => format!("INSERT OR IGNORE INTO stock (sku, qty) VALUES ('s{sku}', {step})"),
        2 => format!("UPDATE stock SET qty = {step} WHERE sku = 's{sku}'"),
        3 => format!("DELETE FROM stock WHERE sku = 's{sku}'"),
        4 | 5 if has("SELECT place FROM stock") => format!("UPDATE stock SET place = 'p{step}' WHERE sku = 's{sku}'"),
        6 if has("SELECT place FROM stock") => {
            format!("INSERT OR REPLACE INTO stock (sku, place, qty) VALUES ('s{sku}', 'i{step}', {step})")
        }
        7 if has("SELECT w FROM extra") => format!("INSERT OR REPLACE INTO extra VALUES ({sku}, 'w{step}')"),
        _ => format!("INSERT OR REPLACE INTO other VALUES ({sku}, {step})"),
    };
    conn.execute_batch(&sql).unwrap_or_else(|error| panic!("{sql}: {error}"));
}

/// Four nodes in a line migrate one after the other, in any order and by any way, while all write.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rolling_migration_under_load_loses_nothing() {
    for seed in seeds(8) {
        let folder = TempDir::new().unwrap();
        let granularity = if seed.is_multiple_of(3) { Granularity::Row } else { Granularity::Column };
        let nodes = replicas_merged(&folder, granularity, [OLD; 4]).await;
        let mut random = Random(seed);
        let mut left: Vec<usize> = (0..4).collect();
        for step in 0..100_u32 {
            let node = usize::try_from(random.below(4)).unwrap();
            match random.below(5) {
                0..=2 => write(&nodes[node], &mut random, step),
                3 if step > 20 && random.below(4) == 0 && !left.is_empty() => {
                    let place = usize::try_from(random.below(left.len() as u64)).unwrap();
                    migrate(&nodes[left.remove(place)], random.below(2) == 0).await;
                }
                _ => {
                    let from = if random.below(2) == 0 { node.saturating_sub(1) } else { (node + 1).min(3) };
                    if from != node {
                        nodes[node].pull(&nodes[from], 1 + usize::try_from(random.below(6)).unwrap()).await;
                    }
                }
            }
        }
        for node in left {
            migrate(&nodes[node], random.below(2) == 0).await;
        }
        settle(&nodes, || 1 + usize::try_from(random.below(9)).unwrap()).await;
        let rows = |replica: &Replica| {
            let stock = replica.text(
                "SELECT coalesce(group_concat(sku || place || qty, ' '), '') FROM (SELECT * FROM stock ORDER BY sku)",
            );
            let extra =
                replica.text("SELECT coalesce(group_concat(id || w, ' '), '') FROM (SELECT * FROM extra ORDER BY id)");
            (stock, extra)
        };
        for node in &nodes {
            assert_eq!(rows(node), rows(&nodes[0]), "seed {seed}: {}", node.path.display());
            assert_eq!(parked(node), 0, "seed {seed}: {}", node.path.display());
        }
    }
}

async fn migrate(replica: &Replica, rebuild: bool) {
    if rebuild {
        replica.write(
            "BEGIN; CREATE TABLE stock_new (sku TEXT PRIMARY KEY, place TEXT DEFAULT 'yard', qty INTEGER); \
             INSERT INTO stock_new (sku, qty) SELECT sku, qty FROM stock; DROP TABLE stock; \
             ALTER TABLE stock_new RENAME TO stock; COMMIT",
        );
    } else {
        replica.write("ALTER TABLE stock ADD COLUMN place TEXT DEFAULT 'yard'");
    }
    replica.write("CREATE TABLE extra (id INTEGER PRIMARY KEY, w)");
    replica.until(|state| state.tables.contains_key("extra")).await;
}

/// Names that change on one node after the other: what was written under the old ones is not lost.
#[tokio::test]
async fn what_was_written_under_an_old_name_arrives_under_the_new_one() {
    let renames = [
        (
            "ALTER TABLE t RENAME COLUMN note TO remark",
            "SELECT group_concat(k || remark, ' ') FROM (SELECT * FROM t ORDER BY k)",
        ),
        ("ALTER TABLE t RENAME TO u", "SELECT group_concat(k || note, ' ') FROM (SELECT * FROM u ORDER BY k)"),
        (
            "ALTER TABLE t RENAME COLUMN k TO id",
            "SELECT group_concat(id || note, ' ') FROM (SELECT * FROM t ORDER BY id)",
        ),
    ];
    for (rename, rows) in renames {
        let folder = TempDir::new().unwrap();
        let nodes = replicas(&folder, ["CREATE TABLE t (k INTEGER PRIMARY KEY, note TEXT, n)"; 2]).await;
        nodes[0].write("INSERT INTO t VALUES (1, 'one', 1)");
        settle(&nodes, || 100).await;
        nodes[0].write(rename);
        nodes[1].write("INSERT INTO t VALUES (2, 'two', 2); UPDATE t SET note = 'uno' WHERE k = 1");
        settle(&nodes, || 100).await;
        nodes[1].write(rename);
        for _ in 0..3 {
            settle(&nodes, || 100).await;
            for node in &nodes {
                // What a migration did is made known step by step.
                node.until(|state| state.backlog == 0).await;
            }
        }
        for node in &nodes {
            assert_eq!(node.text(rows), "1uno 2two", "{rename}");
        }
    }
}
