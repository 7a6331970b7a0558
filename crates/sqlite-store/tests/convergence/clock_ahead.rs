//! A machine's clock was far ahead for a while: what was written then is refused by peers until it is stamped anew, and then it is
//! a change like others.

use std::time::SystemTime;

use replication::{KnownNode, KnownNodes, Origin};
use rusqlite::Connection;
use sqlite_store::{ApplyOutcome, HeldKind};
use tempfile::TempDir;

use crate::identity::{issued, origin, stock};
use crate::replica::{Replica, Setup};
use crate::{Random, seeds, settle, write_stock};

const ITEM: &str = "CREATE TABLE item (id INTEGER PRIMARY KEY, name TEXT, qty INTEGER DEFAULT 0, note TEXT)";
const HOURS: i64 = 9 * 3_600_000;

fn now() -> i64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
    i64::try_from(now.as_millis()).unwrap()
}

fn sequence(replica: &Replica) -> u64 {
    let state = replica.database.state().borrow().clone();
    state.have.get(state.origin.unwrap())
}

/// What was issued after a sequence gets the stamps that a clock far ahead would have given.
fn lift(conn: &Connection, since: u64) {
    conn.execute_batch(&format!(
        "UPDATE _sync_clock_item SET ts = ts + ({HOURS} << 16)
         WHERE seq > {since} AND ts > 0 AND origin = (SELECT value FROM _sync_meta WHERE key = 'origin_id');
         UPDATE _sync_meta SET value = value + ({HOURS} << 16) WHERE key = 'clock';"
    ))
    .unwrap();
}

/// Awaits that all is captured: nothing is read for a peer before.
async fn captured(replica: &Replica, by: &Replica) {
    by.next_from(replica, 1).await;
}

async fn is_refused(from: &Replica, by: &Replica) {
    let batch = by.next_from(from, 100).await;
    let outcome = by.apply(batch, None).await;
    assert!(matches!(&outcome, ApplyOutcome::Held(held) if held.kind == HeldKind::ClockSkew), "{outcome:?}");
}

#[tokio::test]
async fn it_is_stamped_anew_only_where_a_peer_shows_the_same_time() {
    let folder = TempDir::new().unwrap();
    let a = Replica::create(folder.path(), "a", Setup::of(ITEM)).await;
    let b = Replica::create(folder.path(), "b", Setup::of(ITEM)).await;
    a.write("INSERT INTO item (id, name) VALUES (1, 'before'), (2, 'before')");
    issued(&a, 2).await;
    b.pull(&a, 100).await;
    a.write(
        "UPDATE item SET name = 'ahead' WHERE id = 1; DELETE FROM item WHERE id = 2; INSERT INTO item (id) VALUES (3)",
    );
    issued(&a, 5).await;
    let a = a.restart(|conn| lift(conn, 2)).await;
    let before = origin(&a);
    is_refused(&a, &b).await;
    a.database.restamp(now() + HOURS).await;
    is_refused(&a, &b).await;
    assert_eq!(origin(&a), before, "which of the two is right nobody knows");
    a.database.restamp(now() + 1_000).await;
    a.until(|state| state.origin != Some(before)).await;
    b.write("INSERT INTO item (id, name) VALUES (4, 'later')");
    settle(&[a, b], || 100).await;
}

#[tokio::test]
async fn what_another_node_has_taken_keeps_its_stamp() {
    let folder = TempDir::new().unwrap();
    let a = Replica::create(folder.path(), "a", Setup::of(ITEM)).await;
    a.write("INSERT INTO item (id, name) VALUES (1, 'from a clock as far ahead')");
    issued(&a, 1).await;
    let a = a.restart(|conn| lift(conn, 0)).await;
    let before = origin(&a);
    let mut nodes = KnownNodes::default();
    let have = [(before, 1)].into_iter().collect();
    nodes.learn("b", KnownNode { origin: Origin::from_bytes([7; 16]), have, seen: now(), forgotten: 0 });
    a.database.learn_nodes(nodes).await;
    a.database.restamp(now()).await;
    // What is asked afterwards is answered afterwards.
    assert!(!a.database.forget_node("unknown".to_owned()).await.unwrap());
    assert_eq!(origin(&a), before);
}

/// Applications write at random, one of them for a while under a clock far ahead.
async fn clock_was_ahead(seed: u64) {
    let folder = TempDir::new().unwrap();
    let mut random = Random(seed);
    let setup = Setup { rules: stock, max_rows: 4, ..Setup::of(ITEM) };
    let mut nodes = Vec::new();
    for name in ["a", "b", "c"] {
        nodes.push(Replica::create(folder.path(), name, setup).await);
    }
    let mut pick = |below| usize::try_from(random.below(below)).unwrap();
    let (ahead, right) = (3 + pick(3), 7 + pick(3));
    let mut since = 0;
    for step in 0..12 {
        if step == ahead {
            captured(&nodes[0], &nodes[1]).await;
            nodes[1].pull(&nodes[0], 100).await;
            since = sequence(&nodes[0]);
        }
        if step == right {
            nodes[0].write(&format!("INSERT OR REPLACE INTO item (id, name) VALUES ({}, 'ahead')", pick(5)));
            captured(&nodes[0], &nodes[1]).await;
            let node = nodes.remove(0).restart(|conn| lift(conn, since)).await;
            is_refused(&node, &nodes[0]).await;
            let before = origin(&node);
            node.database.restamp(now()).await;
            node.until(|state| state.origin != Some(before)).await;
            nodes.insert(0, node);
        }
        write_stock(&nodes[pick(3)].application(), &mut pick);
        let (to, from) = (pick(3), pick(3));
        // Nobody takes anything from the node whose clock is ahead.
        if to != from && (from != 0 || !(ahead..right).contains(&step)) {
            nodes[to].pull(&nodes[from], 1 + pick(20)).await;
        }
    }
    settle(&nodes, || 1 + pick(30)).await;
    for node in &nodes[1..] {
        assert_eq!(node.dump(), nodes[0].dump(), "seed {seed}: {}", node.path.display());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_end_equal_when_the_clock_of_one_was_far_ahead() {
    for seed in seeds(15) {
        clock_was_ahead(seed).await;
    }
}
