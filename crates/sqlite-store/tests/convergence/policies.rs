//! Policies and counters on real files.

use std::collections::HashMap;
use std::sync::Arc;

use replication::{ColumnRule, FirstWriteWins, Granularity, Maximum, OriginPriority, TimestampColumn, Union};
use sqlite_store::{DatabaseRules, MergeRules};
use tempfile::TempDir;

use crate::Random;
use crate::replica::{Replica, Setup};

const STOCK: &str = "
    CREATE TABLE stock (sku TEXT PRIMARY KEY, title TEXT, qty INTEGER NOT NULL DEFAULT 0, weight REAL, tags TEXT, best);
    INSERT INTO stock VALUES ('cup', 'Cup', 100, 0.5, '[]', 0), ('pot', 'Pot', 7, 2.5, '[1]', 0);
";

fn counting() -> DatabaseRules {
    let columns = [("QTY", ColumnRule::Counter), ("weight", ColumnRule::Counter)];
    let columns = columns.into_iter().map(|(name, rule)| (name.to_owned(), rule)).collect();
    let stock = MergeRules { columns, ..MergeRules::default() };
    DatabaseRules { tables: HashMap::from([("Stock".to_owned(), stock)]), ..DatabaseRules::default() }
}

/// Three nodes whose files hold the same rows from before they met.
async fn three(folder: &TempDir, setup: Setup) -> Vec<Replica> {
    let mut replicas = Vec::new();
    for name in ["a", "b", "c"] {
        replicas.push(Replica::create(folder.path(), name, setup).await);
    }
    replicas
}

async fn publish(replicas: &[Replica]) {
    for replica in replicas {
        replica.database.publish().await;
    }
}

/// All take from all until nothing is new.
async fn settle(replicas: &[Replica]) {
    for _ in 0..12 {
        for to in replicas {
            for from in replicas.iter().filter(|from| from.path != to.path) {
                to.pull(from, 3).await;
            }
        }
        let have = replicas[0].database.state().borrow().have.clone();
        if replicas.iter().all(|replica| replica.database.state().borrow().have == have) {
            return;
        }
    }
    panic!("not silent");
}

fn assert_same(replicas: &[Replica], what: &str) {
    for replica in &replicas[1..] {
        assert_eq!(replicas[0].dump(), replica.dump(), "{what}");
    }
}

/// Increments of rows that were there before attach, before and after the nodes know each other, with restarts, small
/// batches and repeats: the sum is exact.
#[tokio::test(flavor = "multi_thread")]
async fn counters_add_up_over_restarts_repeats_and_catch_up() {
    for (seed, granularity) in [(1, Granularity::Column), (2, Granularity::Row), (3, Granularity::Column)] {
        let folder = TempDir::new().unwrap();
        let setup = Setup { granularity, rules: counting, ..Setup::of(STOCK) };
        let mut replicas = three(&folder, setup).await;
        let mut random = Random(seed);
        let mut total = [100_i64, 7];
        for step in 0..60_u32 {
            let node = usize::try_from(random.below(3)).unwrap();
            let (row, by) = (usize::try_from(random.below(2)).unwrap(), random.below(9).cast_signed() - 4);
            let sku = ["cup", "pot"][row];
            match random.below(7) {
                0 => replicas[node].write(&format!("UPDATE stock SET title = 't{step}' WHERE sku = '{sku}'")),
                1 => {
                    let replica = replicas.swap_remove(node);
                    replicas.push(
                        replica
                            .restart(|conn| {
                                let sql =
                                    format!("UPDATE stock SET qty = qty + {by}, tags = '[{step}]' WHERE sku = '{sku}'");
                                conn.execute_batch(&sql).unwrap();
                            })
                            .await,
                    );
                    total[row] += by;
                }
                2 => {
                    let from = usize::try_from(random.below(3)).unwrap();
                    if step > 10 && from != node {
                        replicas[node].pull(&replicas[from], 1).await;
                    }
                }
                // As programs do that read, compute and write.
                3 => {
                    let conn = replicas[node].application();
                    let sql = format!(
                        "BEGIN IMMEDIATE; UPDATE stock SET qty = (SELECT qty FROM stock WHERE sku = '{sku}') + {by}, \
                         title = 'x', weight = 1, tags = '[]', best = {step} WHERE sku = '{sku}'; COMMIT"
                    );
                    conn.execute_batch(&sql).unwrap();
                    total[row] += by;
                }
                _ => {
                    replicas[node].write(&format!("UPDATE stock SET qty = qty + {by} WHERE sku = '{sku}'"));
                    total[row] += by;
                }
            }
            if step == 10 {
                publish(&replicas).await;
            }
        }
        settle(&replicas).await;
        assert_same(&replicas, &format!("seed {seed}, {granularity:?}"));
        let held = replicas[0].text("SELECT group_concat(qty, ' ') FROM (SELECT qty FROM stock ORDER BY sku)");
        assert_eq!(held, format!("{} {}", total[0], total[1]), "seed {seed}, {granularity:?}");
    }
}

/// A row that is deleted and inserted again starts from what the insert says; what others count meanwhile is on top of it.
#[tokio::test(flavor = "multi_thread")]
async fn an_insert_begins_a_counter_anew() {
    let folder = TempDir::new().unwrap();
    let replicas = three(&folder, Setup { rules: counting, ..Setup::of(STOCK) }).await;
    publish(&replicas).await;
    settle(&replicas).await;
    replicas[0].write("UPDATE stock SET qty = qty + 10 WHERE sku = 'cup'");
    settle(&replicas).await;
    replicas[1].write("DELETE FROM stock WHERE sku = 'cup'");
    replicas[1].write("INSERT INTO stock (sku, qty) VALUES ('cup', 1)");
    replicas[2].write("INSERT OR REPLACE INTO stock (sku, qty) VALUES ('pot', 50)");
    settle(&replicas).await;
    replicas[0].write("UPDATE stock SET qty = qty + 5");
    replicas[2].write("UPDATE stock SET qty = qty - 2, weight = coalesce(weight, 0) + 0.25");
    settle(&replicas).await;
    assert_same(&replicas, "after all");
    let held =
        replicas[0].text("SELECT group_concat(qty || ' ' || weight, ', ') FROM (SELECT * FROM stock ORDER BY sku)");
    assert_eq!(held, "4 0.25, 53 0.25");
    // A value that is no number is set, not counted.
    replicas[1].write("UPDATE stock SET weight = NULL WHERE sku = 'cup'");
    settle(&replicas).await;
    replicas[0].write("UPDATE stock SET weight = 3 WHERE sku = 'cup'");
    settle(&replicas).await;
    assert_same(&replicas, "after NULL");
    assert_eq!(replicas[2].text("SELECT CAST(weight AS TEXT) FROM stock WHERE sku = 'cup'"), "3.0");
}

fn mixed() -> DatabaseRules {
    let columns: [(&str, ColumnRule); 4] = [
        ("qty", ColumnRule::Counter),
        ("tags", ColumnRule::Policy(Arc::new(Union))),
        ("best", ColumnRule::Policy(Arc::new(Maximum))),
        ("title", ColumnRule::Policy(Arc::new(OriginPriority::new(["c", "a"])))),
    ];
    let columns = columns.into_iter().map(|(name, rule)| (name.to_owned(), rule)).collect();
    let stock = MergeRules { policy: Arc::new(FirstWriteWins), columns, ..MergeRules::default() };
    DatabaseRules { tables: HashMap::from([("stock".to_owned(), stock)]), ..DatabaseRules::default() }
}

fn timestamps() -> DatabaseRules {
    let default = MergeRules { policy: Arc::new(TimestampColumn::new("best")), ..MergeRules::default() };
    DatabaseRules { default, ..DatabaseRules::default() }
}

/// Random statements on three files under several policies at once: they end equal, whoever asked whom in what order.
#[tokio::test(flavor = "multi_thread")]
async fn every_policy_ends_equal_on_real_files() {
    for seed in 0..6_u64 {
        let granularity = if seed % 2 == 0 { Granularity::Column } else { Granularity::Row };
        let rules = if seed < 4 { mixed as fn() -> DatabaseRules } else { timestamps };
        let folder = TempDir::new().unwrap();
        let replicas = three(&folder, Setup { granularity, rules, ..Setup::of(STOCK) }).await;
        publish(&replicas).await;
        for replica in &replicas {
            // Names decide under origin-priority.
            let own = replicas.iter().map(|other| {
                let name = other.path.file_stem().unwrap().to_string_lossy().into_owned();
                (other.database.state().borrow().origin.unwrap(), name)
            });
            let names = sqlite_store::NodeNames { own: own.collect(), heard: std::collections::BTreeMap::new() };
            replica.database.learn_names(names).await;
        }
        let mut random = Random(seed);
        for step in 0..80_u32 {
            let node = usize::try_from(random.below(3)).unwrap();
            let sku = ["cup", "pot", "jar"][usize::try_from(random.below(3)).unwrap()];
            let n = random.below(9);
            let sql = match random.below(9) {
                0 => format!("DELETE FROM stock WHERE sku = '{sku}'"),
                1 => format!("INSERT OR IGNORE INTO stock (sku, title, qty) VALUES ('{sku}', 'new {step}', {n})"),
                2 => format!("UPDATE stock SET qty = qty - {n} WHERE sku = '{sku}'"),
                3 => format!("UPDATE stock SET tags = json_array({n}, {step} % 5) WHERE sku = '{sku}'"),
                4 => format!("UPDATE stock SET best = {n}, title = 'b{step}' WHERE sku = '{sku}'"),
                5 => format!("UPDATE stock SET weight = {n}.5, best = {step} WHERE sku = '{sku}'"),
                _ => {
                    let from = usize::try_from(random.below(3)).unwrap();
                    if from != node {
                        replicas[node].pull(&replicas[from], 1 + usize::try_from(n).unwrap()).await;
                    }
                    continue;
                }
            };
            replicas[node].write(&sql);
        }
        settle(&replicas).await;
        assert_same(&replicas, &format!("seed {seed}, {granularity:?}"));
    }
}
