//! Deletions are forgotten when all nodes know of them, or when they are old. What they deleted does not come back.

use std::time::Duration;

use replication::{KnownNode, KnownNodes};
use tempfile::TempDir;

use crate::replica::{Replica, Setup};
use crate::{Random, SCHEMA, seeds, settle, write};

const TABLE: &str = "CREATE TABLE t (id INTEGER PRIMARY KEY, v, w);";

/// Rows 1 to 200.
const FILL: &str = "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 200) \
                    INSERT INTO t SELECT i, i, 0 FROM n";

const BURIED: &str = "SELECT count(*) || '' FROM _sync_clock_t WHERE flags & 2";

fn often(schema: &'static str) -> Setup {
    Setup { upkeep_interval: Duration::from_millis(10), ..Setup::of(schema) }
}

/// What a session would tell one of the other.
async fn meet(one: &Replica, other: &Replica, seen: i64) {
    let state = other.database.state().borrow().clone();
    let name = other.path.file_stem().unwrap().to_string_lossy().into_owned();
    let mut nodes = KnownNodes::default();
    let node = KnownNode { origin: state.origin.unwrap(), have: state.have.clone(), seen, forgotten: 0 };
    nodes.learn(&name, node);
    one.database.learn_nodes(nodes).await;
}

fn now() -> i64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    i64::try_from(since.as_millis()).unwrap()
}

#[tokio::test]
async fn a_tombstone_goes_when_every_expected_node_knows_of_the_deletion() {
    let folder = TempDir::new().unwrap();
    let a = Replica::create(folder.path(), "a", often(TABLE)).await;
    let b = Replica::create(folder.path(), "b", often(TABLE)).await;
    a.write(FILL);
    let replicas = [a, b];
    settle(&replicas, || 500).await;
    let [a, b] = &replicas;
    meet(a, b, now()).await;
    a.write("DELETE FROM t WHERE id <= 150");
    a.until(|state| state.tombstones == 150 && state.tombstones_wait_for.contains("b")).await;
    settle(&replicas, || 500).await;
    meet(a, b, now() + 1).await;
    a.until(|state| state.tombstones == 0 && !state.dropped.is_empty()).await;
    assert_eq!((a.text(BURIED), b.text(BURIED)), ("0".to_owned(), "150".to_owned()));
    // The other one still has them, and nothing comes back.
    b.write("UPDATE t SET v = 'later' WHERE id = 151; INSERT INTO t VALUES (7, 'again', 1)");
    settle(&replicas, || 500).await;
    assert_eq!(a.dump(), b.dump());
    assert_eq!(a.text("SELECT count(*) || '' FROM t"), "51");
}

#[tokio::test]
async fn a_node_that_is_forgotten_holds_no_tombstone_back() {
    let folder = TempDir::new().unwrap();
    let a = Replica::create(folder.path(), "a", often(TABLE)).await;
    let b = Replica::create(folder.path(), "b", often(TABLE)).await;
    let c = Replica::create(folder.path(), "c", often(TABLE)).await;
    a.write(FILL);
    let replicas = [a, b, c];
    settle(&replicas, || 500).await;
    let [a, b, c] = &replicas;
    meet(a, b, now()).await;
    meet(a, c, now()).await;
    a.write("DELETE FROM t WHERE id <= 3");
    b.pull(a, 500).await;
    meet(a, b, now() + 1).await;
    a.until(|state| state.tombstones == 3 && state.tombstones_wait_for.iter().eq(["c"])).await;
    assert!(!a.database.forget_node("nobody".to_owned()).await.unwrap());
    assert!(a.database.forget_node("c".to_owned()).await.unwrap());
    a.until(|state| state.tombstones == 0).await;
    // It comes back all the same.
    settle(&replicas, || 500).await;
    for replica in &replicas {
        assert_eq!(replica.text("SELECT count(*) || '' FROM t"), "197");
    }
}

#[tokio::test]
async fn who_was_away_beyond_the_horizon_brings_nothing_back_and_its_own_changes_arrive() {
    let folder = TempDir::new().unwrap();
    let old = Setup { tombstone_horizon: Duration::from_millis(1), ..often(TABLE) };
    let a = Replica::create(folder.path(), "a", old).await;
    let b = Replica::create(folder.path(), "b", Setup::of(TABLE)).await;
    a.write(FILL);
    let replicas = [a, b];
    settle(&replicas, || 500).await;
    let [a, b] = &replicas;
    a.write("DELETE FROM t WHERE id BETWEEN 10 AND 120");
    b.write("UPDATE t SET v = 'updated' WHERE id IN (50, 150); INSERT INTO t VALUES (1000, 'new', 1)");
    a.until(|state| state.tombstones == 0 && !state.dropped.is_empty()).await;
    assert_eq!(a.text(BURIED), "0");
    settle(&replicas, || 500).await;
    assert_eq!(a.dump(), b.dump());
    assert_eq!(a.text("SELECT count(*) || '' FROM t"), "90");
    assert_eq!(a.text("SELECT group_concat(id) FROM t WHERE v IN ('updated', 'new')"), "150,1000");
    assert_eq!(b.conflicts(), 1, "the update of a deleted row is recorded");
}

async fn forget(seed: u64) {
    let folder = TempDir::new().unwrap();
    let mut random = Random(seed);
    let mut replicas = Vec::new();
    for name in ["a", "b", "c"] {
        let horizon = if random.below(2) == 0 { Duration::from_millis(1) } else { Duration::from_secs(86_400) };
        let max_rows = 1 + usize::try_from(random.below(10)).unwrap();
        let setup = Setup { max_rows, tombstone_horizon: horizon, ..often(SCHEMA) };
        replicas.push(Replica::create(folder.path(), name, setup).await);
    }
    for _ in 0..16 {
        let one = usize::try_from(random.below(3)).unwrap();
        let two = usize::try_from(random.below(3)).unwrap();
        let conn = replicas[one].application();
        (0..1 + random.below(8)).for_each(|_| write(&conn, &mut random));
        if one != two {
            let rows = 1 + usize::try_from(random.below(30)).unwrap();
            match random.below(3) {
                0 => replicas[one].pull(&replicas[two], rows).await,
                1 => {
                    let batch = replicas[one].next_from(&replicas[two], rows).await;
                    replicas[one].apply(batch, None).await;
                }
                _ => meet(&replicas[one], &replicas[two], now()).await,
            }
        }
    }
    settle(&replicas, || 1 + usize::try_from(random.below(40)).unwrap()).await;
    for replica in &replicas {
        assert_eq!(replica.dump(), replicas[0].dump(), "seed {seed}: {} differs", replica.path.display());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_that_forget_deletions_end_equal() {
    for seed in seeds(30) {
        forget(seed).await;
    }
}
