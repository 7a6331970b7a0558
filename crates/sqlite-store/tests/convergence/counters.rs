//! Counters where triggers do not tell what was counted, and values that are no numbers, on real files.

use std::collections::HashMap;

use replication::{ColumnRule, Granularity};
use sqlite_store::{ConflictQuery, DatabaseRules, MergeRules, StoredConflict};
use tempfile::TempDir;

use crate::replica::{Replica, Setup};
use crate::{Random, seeds, settle};

const SCHEMA: &str = "CREATE TABLE t (id INTEGER PRIMARY KEY, n, note TEXT)";

/// What tools do to change a table.
const REBUILD: &str = "BEGIN IMMEDIATE; CREATE TABLE t_new (id INTEGER PRIMARY KEY, n, note TEXT); \
                       INSERT INTO t_new SELECT * FROM t; DROP TABLE t; ALTER TABLE t_new RENAME TO t; COMMIT;";

fn counting() -> DatabaseRules {
    let columns = HashMap::from([("n".to_owned(), ColumnRule::Counter)]);
    let t = MergeRules { columns, ..MergeRules::default() };
    DatabaseRules { tables: HashMap::from([("t".to_owned(), t)]), ..DatabaseRules::default() }
}

/// Replicas that all have the rows that the first was given by `sql`.
async fn knowing<const N: usize>(folder: &TempDir, granularity: Granularity, sql: &str) -> Vec<Replica> {
    let mut replicas = Vec::new();
    for name in ["a", "b", "c", "d"].into_iter().take(N) {
        let setup = Setup { granularity, rules: counting, ..Setup::of(SCHEMA) };
        replicas.push(Replica::create(folder.path(), name, setup).await);
        replicas.last().unwrap().database.publish().await;
    }
    replicas[0].write(sql);
    settle(&replicas, || 100).await;
    replicas
}

/// What every replica holds in `n`, row by row.
fn held(replicas: &[Replica]) -> String {
    let sql = "SELECT group_concat(coalesce(n, 'NULL'), ' ') FROM (SELECT n FROM t ORDER BY id)";
    let held = replicas[0].text(sql);
    for replica in replicas {
        assert_eq!(replica.dump(), replicas[0].dump());
    }
    held
}

async fn records(replica: &Replica) -> Vec<StoredConflict> {
    replica.database.conflicts(&ConflictQuery { limit: 100, ..ConflictQuery::default() }).await.unwrap()
}

/// The same migration on all nodes while the daemons are down, each of which counts before its daemon is back: also in rows
/// in which nothing was ever counted, and in rows that the nodes had from before they met.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_counted_in_a_rebuilt_table_before_its_triggers_are_back_adds_up() {
    for granularity in [Granularity::Column, Granularity::Row] {
        let folder = TempDir::new().unwrap();
        let insert = "INSERT INTO t VALUES (1, 100, 'never counted'), (2, 100, 'counted'), (3, 100, 'not touched')";
        let mut replicas = knowing::<3>(&folder, granularity, insert).await;
        replicas[1].write("UPDATE t SET n = n + 1 WHERE id = 2");
        settle(&replicas, || 100).await;
        let mut back = Vec::new();
        for (replica, by) in replicas.drain(..).zip([5, 7, 0]) {
            let count = format!("UPDATE t SET n = n + {by} WHERE id < 3");
            let rebuild = if by > 0 { REBUILD } else { "" };
            back.push(replica.restart(|conn| conn.execute_batch(&format!("{rebuild}{count}")).unwrap()).await);
        }
        settle(&back, || 100).await;
        assert_eq!(held(&back), "112 113 100", "{granularity:?}");
        for replica in &back {
            assert_eq!(replica.conflicts(), 0, "{granularity:?}: nothing is lost");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rebuild_that_changes_what_counters_hold_counts_the_difference() {
    let folder = TempDir::new().unwrap();
    let mut replicas =
        knowing::<2>(&folder, Granularity::Column, "INSERT INTO t VALUES (1, 100, ''), (2, 8, '')").await;
    replicas[1].write("UPDATE t SET n = n + 1 WHERE id = 1");
    let doubled = REBUILD.replace("SELECT * FROM t", "SELECT id, n * 2, note FROM t");
    let first = replicas.remove(0).restart(|conn| conn.execute_batch(&doubled).unwrap()).await;
    replicas.insert(0, first);
    settle(&replicas, || 100).await;
    assert_eq!(held(&replicas), "201 16");
    // A row that it deletes and inserts is an updated one, one that it adds is new, and one that it leaves out is deleted.
    let other = "BEGIN IMMEDIATE; CREATE TABLE t_new (id INTEGER PRIMARY KEY, n, note TEXT); \
                 INSERT INTO t_new VALUES (1, 1, 'again'), (3, 30, 'new'); DROP TABLE t; \
                 ALTER TABLE t_new RENAME TO t; COMMIT";
    let first = replicas.remove(0).restart(|conn| conn.execute_batch(other).unwrap()).await;
    replicas.insert(0, first);
    replicas[1].write("UPDATE t SET n = n + 4 WHERE id = 1");
    settle(&replicas, || 100).await;
    assert_eq!(held(&replicas), "5 30");
}

/// Random counts, seen and unseen, with rebuilds while the daemon runs and while it does not.
#[tokio::test(flavor = "multi_thread")]
async fn counters_add_up_exactly_whoever_rebuilds_the_table_when() {
    for seed in seeds(6) {
        let folder = TempDir::new().unwrap();
        let mut random = Random(seed);
        let granularity = if seed % 2 == 0 { Granularity::Column } else { Granularity::Row };
        let mut replicas = knowing::<3>(&folder, granularity, "INSERT INTO t VALUES (0, 100, ''), (1, 7, '')").await;
        let mut total = [100, 7];
        for step in 0..40_u32 {
            let node = usize::try_from(random.below(3)).unwrap();
            let (row, by) = (usize::try_from(random.below(2)).unwrap(), random.below(9).cast_signed() - 4);
            let count = format!("UPDATE t SET n = n + {by} WHERE id = {row};");
            match random.below(6) {
                0 => {
                    let from = usize::try_from(random.below(3)).unwrap();
                    if from != node {
                        replicas[node].pull(&replicas[from], 1).await;
                    }
                    continue;
                }
                1 => {
                    let replica = replicas.swap_remove(node);
                    replicas
                        .push(replica.restart(|conn| conn.execute_batch(&format!("{REBUILD}{count}")).unwrap()).await);
                }
                // Whether the daemon sees the rebuild before or after the count is open.
                2 => {
                    replicas[node].write(&format!("{count}{REBUILD}{count}"));
                    total[row] += by;
                }
                3 => replicas[node].write(&format!("{REBUILD}UPDATE t SET note = 's{step}' WHERE id = {row}; {count}")),
                _ => replicas[node].write(&count),
            }
            total[row] += by;
        }
        settle(&replicas, || 3).await;
        assert_eq!(held(&replicas), format!("{} {}", total[0], total[1]), "seed {seed}, {granularity:?}");
    }
}

/// A text, NULL or blob that meets a count counts as 0, and the record of each node that met it shows it.
#[tokio::test(flavor = "multi_thread")]
async fn a_value_that_is_no_number_is_in_the_record_when_somebody_counts_who_did_not_know_it() {
    for (value, shown) in [("'hello'", "\"hello\""), ("NULL", "null"), ("x'01'", "{\"$blob\":\"01\"}")] {
        for counted in [false, true] {
            let folder = TempDir::new().unwrap();
            let replicas = knowing::<3>(&folder, Granularity::Column, "INSERT INTO t VALUES (1, 100, '')").await;
            if counted {
                replicas[2].write("UPDATE t SET n = n + 1");
                settle(&replicas, || 100).await;
            }
            replicas[0].write(&format!("UPDATE t SET n = {value}"));
            replicas[1].write("UPDATE t SET n = n + 7");
            settle(&replicas, || 100).await;
            assert_eq!(held(&replicas), "7", "{value}");
            let mut found = 0;
            for replica in &replicas {
                for record in records(replica).await {
                    found += 1;
                    assert_eq!((record.kind.as_str(), record.policy.as_str()), ("update_origin_differs", "counter"));
                    assert_eq!(record.sides.columns, ["n"]);
                    let lost = record.sides.loser.unwrap().row.unwrap();
                    assert_eq!(lost["n"].to_string(), shown, "{value}");
                }
            }
            assert!(found > 0, "{value}, counted before: {counted}: nothing is recorded");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn infinities_and_overflows_end_as_one_value_everywhere() {
    let folder = TempDir::new().unwrap();
    let rows = "INSERT INTO t VALUES (1, 100, ''), (2, 9223372036854775800, ''), (3, 9223372036854775800, '')";
    let replicas = knowing::<3>(&folder, Granularity::Column, rows).await;
    replicas[0].write("UPDATE t SET n = n + 9e999 WHERE id = 1; UPDATE t SET n = n + 5 WHERE id = 2");
    replicas[1].write("UPDATE t SET n = n - 9e999 WHERE id = 1; UPDATE t SET n = n + 5 WHERE id = 2");
    // SQLite's own overflow.
    replicas[2].write("UPDATE t SET n = n + 5000 WHERE id = 3");
    replicas[1].write("UPDATE t SET n = n - 3 WHERE id = 3");
    settle(&replicas, || 100).await;
    assert_eq!(held(&replicas), "-Inf 9.22337203685478e+18 9.22337203685478e+18");
    let recorded: usize = {
        let mut count = 0;
        for replica in &replicas {
            count += records(replica).await.iter().filter(|record| record.policy == "counter").count();
        }
        count
    };
    assert!(recorded > 0, "the infinity that lost is recorded");
    // They go on from there.
    replicas[2].write("UPDATE t SET n = 5 WHERE id = 1; UPDATE t SET n = n - 1e18 WHERE id = 2");
    settle(&replicas, || 100).await;
    replicas[0].write("UPDATE t SET n = n + 1 WHERE id = 1");
    replicas[1].write("UPDATE t SET n = n + 1 WHERE id = 1");
    settle(&replicas, || 100).await;
    assert_eq!(held(&replicas), "7 8.22337203685478e+18 9.22337203685478e+18");
}

/// What a column holds that becomes a counter when its rows are known to all is noted before anything is rebuilt.
#[tokio::test(flavor = "multi_thread")]
async fn a_column_that_becomes_a_counter_later_adds_up_over_a_rebuild() {
    let folder = TempDir::new().unwrap();
    let mut replicas = Vec::new();
    for name in ["a", "b"] {
        replicas.push(Replica::create(folder.path(), name, Setup::of(SCHEMA)).await);
        replicas.last().unwrap().database.publish().await;
    }
    replicas[0].write("INSERT INTO t VALUES (1, 100, '')");
    settle(&replicas, || 100).await;
    let mut counting_now = Vec::new();
    for mut replica in replicas {
        replica.setup.rules = counting;
        counting_now.push(replica.restart(|_| ()).await);
    }
    settle(&counting_now, || 100).await;
    let mut back = Vec::new();
    for (replica, by) in counting_now.into_iter().zip([5, 7]) {
        let count = format!("UPDATE t SET n = n + {by}");
        back.push(replica.restart(|conn| conn.execute_batch(&format!("{REBUILD}{count}")).unwrap()).await);
    }
    settle(&back, || 100).await;
    assert_eq!(held(&back), "112");
}
