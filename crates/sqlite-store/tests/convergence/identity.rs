//! No sequence of an origin is used twice, whatever happened to the file: what a power cut may have taken comes back from
//! peers under the old origin, and what is written since goes out under a new one.

use std::collections::HashMap;

use replication::{ColumnRule, Granularity, Origin};
use sqlite_store::{DatabaseRules, Machine, MergeRules, Phase};
use tempfile::TempDir;
use uuid::Uuid;

use crate::replica::{Replica, Setup};
use crate::{Random, seeds, settle, write_stock};

const ITEM: &str = "CREATE TABLE item (id INTEGER PRIMARY KEY, name TEXT)";

/// The machine after it was started again.
pub(crate) fn rebooted() -> Machine {
    Machine { boot: Some(Uuid::from_u128(2)), ..Machine::this() }
}

pub(crate) fn origin(replica: &Replica) -> Origin {
    replica.database.state().borrow().origin.unwrap()
}

pub(crate) async fn issued(replica: &Replica, rows: u64) {
    replica.until(|state| state.origin.is_some_and(|own| state.have.get(own) == rows)).await;
}

#[tokio::test]
async fn after_a_power_cut_peers_give_back_what_was_lost_and_no_sequence_is_used_twice() {
    for journal in ["WAL", "DELETE"] {
        let folder = TempDir::new().unwrap();
        let setup = Setup { journal, ..Setup::of(ITEM) };
        let a = Replica::create(folder.path(), "a", setup).await;
        let b = Replica::create(folder.path(), "b", setup).await;
        a.write("INSERT INTO item VALUES (1, 'kept')");
        issued(&a, 1).await;
        let (before, disk) = (origin(&a), a.disk());
        a.write("INSERT INTO item VALUES (2, 'lost with the power')");
        b.pull(&a, 100).await;
        let a = a.power_cut(disk, rebooted()).await;
        assert_ne!(origin(&a), before, "{journal}");
        assert_eq!(a.text("SELECT group_concat(id) FROM item"), "1", "{journal}");
        a.write("INSERT INTO item VALUES (3, 'written since')");
        settle(&[a, b], || 100).await;
    }
}

#[tokio::test]
async fn a_database_that_was_at_rest_keeps_its_origin_over_a_boot() {
    for journal in ["WAL", "DELETE"] {
        let folder = TempDir::new().unwrap();
        let mut a = Replica::create(folder.path(), "a", Setup { journal, ..Setup::of(ITEM) }).await;
        a.write("INSERT INTO item VALUES (1, 'kept')");
        issued(&a, 1).await;
        let before = origin(&a);
        a.setup.machine = rebooted();
        let a = a.restart(|_| ()).await;
        assert_eq!(origin(&a), before, "{journal}");
        // The same boot, after the daemon alone went down.
        let disk = a.disk();
        let a = a.power_cut(disk, rebooted()).await;
        assert_eq!(origin(&a), before, "{journal}");
    }
}

#[tokio::test]
async fn a_clone_of_the_whole_machine_has_an_origin_of_its_own() {
    let folder = TempDir::new().unwrap();
    let a = Replica::create(folder.path(), "a", Setup::of(ITEM)).await;
    let (before, disk) = (origin(&a), a.disk());
    let clone = Machine { id: Some(Uuid::from_u128(3)), ..Machine::this() };
    let a = a.power_cut(disk, clone).await;
    assert_ne!(origin(&a), before);
}

/// A snapshot of the whole machine, the state folder in it, is brought back while peers know more of its origin, and applications
/// write before a peer is met.
#[tokio::test]
async fn what_is_written_after_a_snapshot_came_back_goes_out_under_a_new_origin() {
    for journal in ["WAL", "DELETE"] {
        let folder = TempDir::new().unwrap();
        let setup = Setup { journal, ..Setup::of(ITEM) };
        let a = Replica::create(folder.path(), "a", setup).await;
        let b = Replica::create(folder.path(), "b", setup).await;
        a.write("INSERT INTO item VALUES (1, 'kept'), (2, 'kept'), (3, 'kept')");
        issued(&a, 3).await;
        b.pull(&a, 100).await;
        let (a, disk) = a.snapshot().await;
        let before = origin(&a);
        a.write("INSERT INTO item VALUES (4, 'given back'); UPDATE item SET name = 'given back' WHERE id = 1; DELETE FROM item WHERE id = 2");
        issued(&a, 6).await;
        b.pull(&a, 100).await;
        let a = a.power_cut(disk, Machine::this()).await;
        assert_eq!(origin(&a), before, "{journal}: nothing tells yet");
        a.write("INSERT INTO item VALUES (5, 'since'); UPDATE item SET name = 'since' WHERE id = 3");
        issued(&a, 5).await;
        let nodes = [a, b];
        settle(&nodes, || 100).await;
        for node in &nodes {
            let rows = node.text("SELECT group_concat(id || name) FROM (SELECT * FROM item ORDER BY id)");
            assert_eq!(rows, "1given back,3since,4given back,5since", "{journal}");
            assert_eq!(node.conflicts(), 0, "{journal}");
        }
        assert_ne!(origin(&nodes[0]), before, "{journal}");
        nodes[0].write("DELETE FROM item WHERE id IN (4, 5)");
        settle(&nodes, || 100).await;
        assert_eq!(nodes[1].text("SELECT group_concat(id) FROM item"), "1,3", "{journal}");
    }
}

pub(crate) fn stock() -> DatabaseRules {
    let columns = HashMap::from([("qty".to_owned(), ColumnRule::Counter)]);
    let item = MergeRules { columns, ..MergeRules::default() };
    DatabaseRules { tables: HashMap::from([("item".to_owned(), item)]), ..DatabaseRules::default() }
}

/// Applications write at random, and one machine is brought back from a snapshot; what is written there before it meets a peer is
/// less than what was lost.
async fn snapshot_returns(seed: u64) {
    let folder = TempDir::new().unwrap();
    let mut random = Random(seed);
    let granularity = if seed.is_multiple_of(3) { Granularity::Row } else { Granularity::Column };
    let schema = "CREATE TABLE item (id INTEGER PRIMARY KEY, name TEXT, qty INTEGER DEFAULT 0, note TEXT)";
    let setup = Setup { granularity, rules: stock, max_rows: 4, ..Setup::of(schema) };
    let mut nodes = Vec::new();
    for name in ["a", "b", "c"] {
        nodes.push(Replica::create(folder.path(), name, setup).await);
    }
    let mut pick = |below| usize::try_from(random.below(below)).unwrap();
    let steps = 12;
    let taken = pick(6);
    let returns = taken + 1 + pick(6);
    let mut disk = None;
    for step in 0..steps {
        if step == taken {
            let (node, copy) = nodes.remove(0).snapshot().await;
            nodes.insert(0, node);
            disk = Some(copy);
        }
        if step == returns {
            let node = nodes.remove(0).power_cut(disk.take().unwrap(), Machine::this()).await;
            let has = node.until(|state| state.phase == Phase::Attached && state.backlog == 0).await;
            let own = has.origin.unwrap();
            let knows = |peer: &Replica| peer.database.state().borrow().have.get(own);
            let (peer, known) = nodes.iter().map(knows).enumerate().max_by_key(|(_, known)| *known).unwrap();
            let restored = has.have.get(own);
            if known > restored + 1 {
                node.write("INSERT INTO item (id, name) VALUES (100, 'since')");
                issued(&node, restored + 1).await;
            }
            if known > restored {
                node.pull(&nodes[peer], 100).await;
                assert_ne!(origin(&node), own, "seed {seed}");
            }
            nodes.insert(0, node);
        }
        write_stock(&nodes[pick(3)].application(), &mut pick);
        let (to, from) = (pick(3), pick(3));
        if to != from {
            nodes[to].pull(&nodes[from], 1 + pick(20)).await;
        }
    }
    settle(&nodes, || 1 + pick(30)).await;
    for node in &nodes[1..] {
        assert_eq!(node.dump(), nodes[0].dump(), "seed {seed}: {}", node.path.display());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_end_equal_when_a_snapshot_of_one_comes_back() {
    for seed in seeds(15) {
        snapshot_returns(seed).await;
    }
}
