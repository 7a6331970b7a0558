//! No sequence of an origin is used twice, whatever happened to the file: what a power cut may have taken comes back from
//! peers under the old origin, and what is written since goes out under a new one.

use replication::Origin;
use sqlite_store::Machine;
use tempfile::TempDir;
use uuid::Uuid;

use crate::replica::{Replica, Setup};
use crate::settle;

const ITEM: &str = "CREATE TABLE item (id INTEGER PRIMARY KEY, name TEXT)";

/// The machine after it was started again.
fn rebooted() -> Machine {
    Machine { boot: Some(Uuid::from_u128(2)), ..Machine::this() }
}

fn origin(replica: &Replica) -> Origin {
    replica.database.state().borrow().origin.unwrap()
}

async fn issued(replica: &Replica, rows: u64) {
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
