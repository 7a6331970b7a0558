//! A file that is left alone is closed, and the database is what it was when something happens to it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use replication::{KnownNode, KnownNodes, VersionVector};
use rusqlite::Connection;
use rusqlite::backup::Backup;
use sqlite_store::{BatchLimits, DatabaseEvent, Machine, NodeNames, Phase, new_origin};
use tempfile::TempDir;

use crate::identity::{issued, origin, rebooted};
use crate::replica::{Replica, Setup};
use crate::{Random, SCHEMA, seeds, settle, write};

const ITEM: &str = "CREATE TABLE item (id INTEGER PRIMARY KEY, name TEXT)";

/// Closed as soon as may be.
fn setup(journal: &'static str, schema: &'static str) -> Setup {
    Setup { journal, close_after: Duration::ZERO, ..Setup::of(schema) }
}

/// Events that tell of an opening.
fn openings(replica: &mut Replica) -> Vec<DatabaseEvent> {
    let events = std::iter::from_fn(|| replica.events.try_recv().ok());
    let tells = |event: &DatabaseEvent| {
        use DatabaseEvent::{Attached, Failed, Missing, NewOrigin, Recovered, SchemaChanged, Warned};
        matches!(
            event,
            Attached { .. } | Failed { .. } | Missing | NewOrigin { .. } | Recovered | SchemaChanged { .. } | Warned(_)
        )
    };
    events.map(|(_, event)| event).filter(tells).collect()
}

async fn come_and_go(journal: &'static str) {
    let folder = TempDir::new().unwrap();
    let mut a = Replica::create(folder.path(), "a", setup(journal, ITEM)).await;
    let b = Replica::create(folder.path(), "b", setup(journal, ITEM)).await;
    a.write("INSERT INTO item VALUES (1, 'before')");
    issued(&a, 1).await;
    let before = origin(&a);
    tokio::join!(a.until_closed(), b.until_closed());
    assert!(!openings(&mut a).is_empty());
    assert!(!beside(&a.path, "-wal").exists(), "the last to close it removes the log");
    // A peer comes for it, and another one brings it.
    b.pull(&a, 100).await;
    tokio::join!(a.until_closed(), b.until_closed());
    // An application.
    b.write("INSERT INTO item VALUES (2, 'meanwhile')");
    issued(&b, 1).await;
    a.write("UPDATE item SET name = 'again' WHERE id = 1");
    issued(&a, 2).await;
    let replicas = [a, b];
    settle(&replicas, || 100).await;
    let [mut a, b] = replicas;
    assert_eq!(a.dump(), b.dump(), "{journal}");
    assert_eq!(origin(&a), before);
    assert_eq!(openings(&mut a).len(), 0, "nothing of it is told again");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_is_left_alone_is_closed_and_opened_for_whoever_comes() {
    tokio::join!(come_and_go("WAL"), come_and_go("DELETE"));
}

#[tokio::test(flavor = "multi_thread")]
async fn while_it_is_closed_a_power_cut_takes_nothing_of_what_it_has_issued() {
    let folder = TempDir::new().unwrap();
    let a = Replica::create(folder.path(), "a", setup("WAL", ITEM)).await;
    a.write("INSERT INTO item VALUES (1, 'kept')");
    issued(&a, 1).await;
    let before = origin(&a);
    a.until_closed().await;
    let disk = a.disk();
    let a = a.power_cut(disk, rebooted()).await;
    assert_eq!(origin(&a), before);
    a.until_closed().await;
    // It is in use again.
    a.write("INSERT INTO item VALUES (2, 'kept')");
    issued(&a, 2).await;
    let disk = a.disk();
    let a = a.power_cut(disk, Machine { boot: None, ..Machine::this() }).await;
    assert_ne!(origin(&a), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_is_detached_while_it_is_closed_is_not_attached_again() {
    let folder = TempDir::new().unwrap();
    let a = Replica::create(folder.path(), "a", setup("WAL", ITEM)).await;
    a.until_closed().await;
    sqlite_store::detach::detach(&mut a.application()).unwrap();
    a.until(|state| matches!(state.phase, Phase::Failed { kind: "detached", .. })).await;
    assert_eq!(a.text("SELECT count(*) || '' FROM sqlite_schema WHERE name GLOB '_sync_*'"), "0");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_is_gone_while_it_is_closed_is_missed_and_taken_up_when_it_is_back() {
    let folder = TempDir::new().unwrap();
    let a = Replica::create(folder.path(), "a", setup("WAL", ITEM)).await;
    let before = origin(&a);
    a.until_closed().await;
    let aside = folder.path().join("aside");
    std::fs::rename(&a.path, &aside).unwrap();
    a.until(|state| state.phase == Phase::Missing).await;
    std::fs::rename(&aside, &a.path).unwrap();
    a.until(|state| state.phase == Phase::Attached).await;
    assert_eq!(origin(&a), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn that_a_node_is_still_there_wakes_nobody_and_what_is_new_of_it_is_kept() {
    let folder = TempDir::new().unwrap();
    let a = Replica::create(folder.path(), "a", setup("WAL", ITEM)).await;
    let (peer, now) = (new_origin(), wall_millis());
    let knows = |sequence, seen| {
        let mut nodes = KnownNodes::default();
        let mut have = VersionVector::new();
        have.raise(peer, sequence);
        nodes.learn("b", KnownNode { origin: peer, have, seen, forgotten: 0 });
        nodes
    };
    let known = |sequence| a.until(move |state| state.known.get("b").is_some_and(|b| b.have.get(peer) == sequence));
    a.database.learn_nodes(knows(1, now)).await;
    known(1).await;
    let names = NodeNames { own: BTreeMap::from([(peer, "b".to_owned())]), heard: BTreeMap::default() };
    a.database.learn_names(names.clone()).await;
    a.until(|state| state.nodes.contains_key(&peer)).await;
    a.until_closed().await;
    let beats = a.database.pulse().beats();
    a.database.learn_names(names).await;
    a.database.learn_nodes(knows(1, now + 1_000)).await;
    while a.database.pulse().beats() < beats + 3 {
        tokio::task::yield_now().await;
    }
    assert!(a.is_closed(), "there is nothing new");
    a.database.learn_nodes(knows(2, now + 2_000)).await;
    known(2).await;
    a.until_closed().await;
    let a = a.restart(|_| {}).await;
    assert!(a.database.state().borrow().known.get("b").is_some_and(|b| b.have.get(peer) == 2));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_schema_that_changes_while_the_file_is_closed_has_changed_and_readers_wake_nobody() {
    let folder = TempDir::new().unwrap();
    let mut a = Replica::create(folder.path(), "a", setup("WAL", ITEM)).await;
    a.until_closed().await;
    openings(&mut a);
    let reader = a.application();
    let rows: i64 = reader.query_row("SELECT count(*) FROM item", [], |row| row.get(0)).unwrap();
    assert_eq!(rows, 0);
    let beats = a.database.pulse().beats();
    while a.database.pulse().beats() < beats + 3 {
        tokio::task::yield_now().await;
    }
    drop(reader);
    assert!(a.is_closed());
    a.write("ALTER TABLE item ADD COLUMN price REAL; INSERT INTO item VALUES (1, 'new', 9.5)");
    let own = origin(&a);
    a.until(|state| state.have.get(own) > 0).await;
    a.until_closed().await;
    let told = openings(&mut a);
    assert!(matches!(told.as_slice(), [DatabaseEvent::SchemaChanged { .. }]), "{told:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_woken_while_an_application_holds_the_lock_goes_on_when_that_lets_go() {
    let folder = TempDir::new().unwrap();
    let a = Replica::create(folder.path(), "a", setup("WAL", ITEM)).await;
    a.until_closed().await;
    let writer = a.application();
    writer.execute_batch("BEGIN IMMEDIATE; INSERT INTO item VALUES (1, 'late')").unwrap();
    let refused = a.database.read(VersionVector::new(), Arc::default(), BatchLimits::default()).await;
    assert!(refused.is_err(), "it cannot be opened");
    writer.execute_batch("COMMIT").unwrap();
    issued(&a, 1).await;
}

/// An older state is written over the file, which is open, and nobody writes afterwards.
#[tokio::test(flavor = "multi_thread")]
async fn an_older_state_is_found_out_before_the_file_is_closed() {
    let folder = TempDir::new().unwrap();
    let a = Replica::create(folder.path(), "a", setup("WAL", ITEM)).await;
    let before = origin(&a);
    a.until_closed().await;
    let older = folder.path().join("older");
    std::fs::copy(&a.path, &older).unwrap();
    a.write("INSERT INTO item VALUES (1, 'lost')");
    issued(&a, 1).await;
    let (from, mut into) = (Connection::open(&older).unwrap(), a.application());
    Backup::new(&from, &mut into).unwrap().run_to_completion(100, Duration::ZERO, None).unwrap();
    drop(into);
    a.until(|state| state.phase == Phase::Attached && state.origin.is_some_and(|now| now != before)).await;
}

fn wall_millis() -> i64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    i64::try_from(since.as_millis()).unwrap()
}

fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut path = path.as_os_str().to_owned();
    path.push(suffix);
    path.into()
}

/// Applications write, peers come, and older copies are put in the place of files, to files that are open or closed.
async fn converge(seed: u64) {
    let folder = TempDir::new().unwrap();
    let mut random = Random(seed);
    let journal = ["WAL", "DELETE"][usize::try_from(random.below(2)).unwrap()];
    let a = Replica::create(folder.path(), "a", setup(journal, SCHEMA)).await;
    let b = Replica::create(folder.path(), "b", setup(journal, SCHEMA)).await;
    let replicas = [a, b];
    let mut copy: Option<Vec<u8>> = None;
    for _ in 0..10 {
        let (one, other) = if random.below(2) == 0 { (0, 1) } else { (1, 0) };
        let [one, other] = [&replicas[one], &replicas[other]];
        match random.below(12) {
            0 | 1 => one.until_closed().await,
            2 | 3 => one.pull(other, 50).await,
            4 => {
                let first = &replicas[0];
                first.until_closed().await;
                match copy.take() {
                    None => copy = Some(std::fs::read(&first.path).unwrap()),
                    Some(older) if random.below(2) == 0 => std::fs::write(&first.path, older).unwrap(),
                    Some(older) => {
                        let aside = folder.path().join("aside");
                        std::fs::write(&aside, older).unwrap();
                        std::fs::rename(&aside, &first.path).unwrap();
                    }
                }
            }
            _ => {
                let conn = one.application();
                (0..1 + random.below(3)).for_each(|_| write(&conn, &mut random));
            }
        }
    }
    // What was replaced or written last is seen by everybody when a look after that has ended.
    tokio::join!(replicas[0].until_closed(), replicas[1].until_closed());
    settle(&replicas, || 50).await;
    assert_eq!(replicas[0].dump(), replicas[1].dump(), "SEED={seed}");
}

#[tokio::test(flavor = "multi_thread")]
async fn databases_that_are_closed_now_and_then_converge() {
    let running: Vec<_> = seeds(8).map(|seed| tokio::spawn(converge(seed))).collect();
    for run in running {
        run.await.unwrap();
    }
}
