//! Files that mostly hold the same rows when they meet: these are not sent, and the end is as if they had been.

use std::path::Path;

use replication::{Granularity, VersionVector};
use rusqlite::Connection;
use rusqlite::types::Value;
use tempfile::TempDir;

use crate::replica::{Replica, Setup};
use crate::{Random, SCHEMA, seeds, settle, write};

/// A file with these contents, all of them there before attach, that are known to whoever asks.
async fn published(folder: &Path, name: &str, setup: Setup, rows: &str) -> Replica {
    let schema: &'static str = Box::leak(format!("{} {rows}", setup.schema).into_boxed_str());
    let replica = Replica::create(folder, name, Setup { schema, ..setup }).await;
    replica.database.publish().await;
    replica.until(|state| !state.publishing).await;
    replica
}

/// What speaks for each row.
fn row_entries(replica: &Replica) -> Vec<(String, Vec<Vec<Value>>)> {
    let conn = replica.application();
    let mut statement = conn.prepare("SELECT name, clock FROM _sync_table ORDER BY name").unwrap();
    let tables = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?))).unwrap();
    let entries = |clock: &str| {
        let sql = format!(
            "SELECT c.*, o.origin FROM {clock} AS c JOIN _sync_origin AS o ON o.id = c.origin WHERE col = 0 ORDER BY 1, 2"
        );
        let mut statement = conn.prepare(&sql).unwrap();
        let local = statement.column_index("origin").unwrap();
        let places: Vec<usize> = (0..statement.column_count()).filter(|place| *place != local).collect();
        let rows = statement.query_map([], |row| places.iter().map(|place| row.get(*place)).collect()).unwrap();
        rows.map(Result::unwrap).collect()
    };
    tables.map(|table| table.map(|(name, clock): (String, String)| (name, entries(&clock))).unwrap()).collect()
}

fn vector(replica: &Replica) -> VersionVector {
    replica.database.state().borrow().have.clone()
}

fn staged(replica: &Replica) -> String {
    let sql = "SELECT (SELECT count(*) FROM _sync_exchange) || '/' || (SELECT count(*) FROM _sync_received)";
    replica.stage().query_row(sql, [], |row| row.get(0)).unwrap()
}

/// Rows 1 to 1000 of `item`, as an application would have filled them.
const FILL: &str = "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 1000) \
                    INSERT INTO item SELECT i, 'name ' || i, i, NULL FROM n;";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn files_that_are_alike_but_for_some_rows_send_little_more_than_these() {
    let folder = TempDir::new().unwrap();
    let setup = Setup::of(SCHEMA);
    let a = published(folder.path(), "a", setup, FILL).await;
    let changed = format!("{FILL} UPDATE item SET qty = 0 WHERE id = 500; DELETE FROM item WHERE id = 900;");
    let b = published(folder.path(), "b", setup, &changed).await;
    a.compare(&b, 256).await;
    let sent = [a.next_from(&b, 10_000).await, b.next_from(&a, 10_000).await].map(|batch| batch.row_count());
    assert!(sent.iter().sum::<usize>() <= 5, "{sent:?} rows are sent");
    let replicas = [a, b];
    settle(&replicas, || 3).await;
    let [a, b] = &replicas;
    assert_eq!(a.dump(), b.dump());
    assert_eq!(row_entries(a), row_entries(b));
    assert_eq!((staged(a), staged(b)), ("0/0".to_owned(), "0/0".to_owned()));
    assert_eq!(a.text("SELECT count(*) || '' FROM item"), "1000");
    assert_eq!(a.conflicts() + b.conflicts(), 1, "of the row that differs");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_to_be_exchanged_outlives_a_restart() {
    let folder = TempDir::new().unwrap();
    let setup = Setup { max_rows: 100, ..Setup::of(SCHEMA) };
    let a = published(folder.path(), "a", setup, FILL).await;
    let b = published(folder.path(), "b", setup, &format!("{FILL} DELETE FROM item WHERE id > 990;")).await;
    a.compare(&b, 64).await;
    let a = a.restart(|application| application.execute_batch("UPDATE item SET qty = 7 WHERE id = 3").unwrap()).await;
    a.pull(&b, 4).await;
    assert_eq!(staged(&a), "0/0");
    assert_eq!(a.text("SELECT count(*) || '' FROM _sync_clock_item WHERE ts = 0 AND col = 0"), "1000");
    let replicas = [a, b];
    settle(&replicas, || 3).await;
    assert_eq!(replicas[0].dump(), replicas[1].dump());
    assert_eq!(row_entries(&replicas[0]), row_entries(&replicas[1]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_that_another_peer_changed_since_they_were_compared_are_sent_after_all() {
    let folder = TempDir::new().unwrap();
    let setup = Setup::of(SCHEMA);
    // Origins rise with time: of each key, the row of `c` is to lose to `b`'s and win over `a`'s.
    let a = published(folder.path(), "a", setup, FILL).await;
    let other = format!("{FILL} UPDATE item SET name = 'other' WHERE id % 100 = 7;");
    let c = published(folder.path(), "c", setup, &other).await;
    let b = published(folder.path(), "b", setup, FILL).await;
    a.compare(&b, 256).await;
    a.pull(&c, 10_000).await;
    assert_eq!(a.text("SELECT name FROM item WHERE id = 7"), "other");
    let replicas = [a, b, c];
    settle(&replicas, || 10_000).await;
    for replica in &replicas {
        assert_eq!(replica.text("SELECT name FROM item WHERE id = 7"), "name 7");
        assert_eq!(replica.dump(), replicas[0].dump());
        assert_eq!(row_entries(replica), row_entries(&replicas[0]));
    }
}

/// Statements that make rows, the same for the same seed.
fn rows(random: &mut Random, count: u64) -> String {
    let conn = Connection::open_in_memory().unwrap();
    conn.execute_batch(SCHEMA).unwrap();
    let mut rows = String::new();
    for number in 0..count {
        let kind = random.below(4);
        let sql = match kind {
            0 => format!("INSERT INTO item VALUES ({number}, 'n{}', {}, NULL);", random.below(9), random.below(9)),
            1 => format!("INSERT INTO word VALUES ('w{number}', {}, 0.5);", random.below(9)),
            2 => format!("INSERT INTO pair VALUES ({}, 'b{number}', {});", random.below(3), random.below(9)),
            _ => format!("INSERT INTO account VALUES ('a{number}', 'e{number}', {});", random.below(9)),
        };
        conn.execute_batch(&sql).unwrap();
        rows.push_str(&sql);
    }
    rows
}

async fn meet(seed: u64) {
    let folder = TempDir::new().unwrap();
    let mut random = Random(seed);
    let size = 5 + random.below(60);
    let common = rows(&mut random, size);
    let granularity = if seed.is_multiple_of(3) { Granularity::Row } else { Granularity::Column };
    let mut replicas = Vec::new();
    for name in ["a", "b", "c", "d"].iter().take(2 + usize::try_from(random.below(3)).unwrap()) {
        let max_rows = 1 + usize::try_from(random.below(40)).unwrap();
        let setup = Setup { granularity, max_rows, ..Setup::of(SCHEMA) };
        let mut own = common.clone();
        for _ in 0..random.below(4) {
            let id = random.below(size);
            own.push_str(&match random.below(4) {
                0 => format!("DELETE FROM item WHERE id = {id};"),
                1 => format!("INSERT OR REPLACE INTO item VALUES ({id}, 'own {}', 0, NULL);", random.below(3)),
                2 => format!("UPDATE pair SET value = 'x{name}' WHERE b = 'b{id}';"),
                _ => format!("DELETE FROM account WHERE id = 'a{id}';"),
            });
        }
        replicas.push(published(folder.path(), name, setup, &own).await);
    }
    let count = replicas.len() as u64;
    for _ in 0..6 + random.below(20) {
        let one = usize::try_from(random.below(count)).unwrap();
        let two = usize::try_from(random.below(count)).unwrap();
        match random.below(8) {
            0 => (0..1 + random.below(4)).for_each(|_| write(&replicas[one].application(), &mut random)),
            1 => {
                let replica = replicas.remove(one);
                replicas.insert(one, replica.restart(|_| ()).await);
            }
            2..5 if one != two => {
                replicas[one].compare(&replicas[two], 1 + u32::try_from(random.below(20)).unwrap()).await;
            }
            _ if one != two => {
                let rows = 1 + usize::try_from(random.below(30)).unwrap();
                let batch = replicas[one].next_from(&replicas[two], rows).await;
                replicas[one].apply(batch, None).await;
            }
            _ => {}
        }
    }
    settle(&replicas, || 1 + usize::try_from(random.below(40)).unwrap()).await;
    for replica in &replicas {
        assert_eq!(replica.dump(), replicas[0].dump(), "seed {seed}: {} differs", replica.path.display());
        assert_eq!(row_entries(replica), row_entries(&replicas[0]), "seed {seed}: {}", replica.path.display());
        assert_eq!(vector(replica), vector(&replicas[0]), "seed {seed}");
        assert_eq!(staged(replica), "0/0", "seed {seed}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn files_that_are_mostly_alike_end_equal_whatever_happens_while_they_meet() {
    for seed in seeds(40) {
        meet(seed).await;
    }
}
