//! What was written unseen is found by looking, and after the side that wrote last has issued it anew all databases are equal again.

use std::collections::BTreeSet;

use replication::Value;
use rusqlite::Connection;
use rusqlite::config::DbConfig;
use sqlite_store::{DatabaseRules, RowState, Verified, VerifyQuestion};
use tempfile::TempDir;

use crate::identity::stock;
use crate::replica::{Replica, Setup};
use crate::{Random, seeds, settle, write_stock};

const ITEM: &str = "CREATE TABLE item (id INTEGER PRIMARY KEY, name TEXT, qty INTEGER DEFAULT 0, note TEXT)";

async fn rows(replica: &Replica, keys: &[Vec<Value>]) -> Vec<RowState> {
    let question = VerifyQuestion::Rows { table: "item".to_owned(), keys: keys.to_vec() };
    let answer = replica.database.verify(question).await.unwrap();
    match answer.found {
        Verified::Rows(rows) => rows,
        other => panic!("{other:?}"),
    }
}

fn ids(replica: &Replica) -> Vec<i64> {
    let conn = replica.application();
    let mut statement = conn.prepare("SELECT id FROM item").unwrap();
    statement.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect()
}

/// Writes as a program whose connection runs no triggers.
fn write_unseen(conn: &Connection, random: &mut Random) {
    conn.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_TRIGGER, false).unwrap();
    let (id, value) = (random.below(6), random.below(1000));
    let sql = match random.below(4) {
        0 => format!("INSERT OR IGNORE INTO item (id, name) VALUES ({id}, 'unseen{value}')"),
        1 => format!("UPDATE item SET name = 'unseen{value}' WHERE id = {id}"),
        2 => format!("UPDATE item SET qty = qty + {value} WHERE id = {id}"),
        _ => format!("DELETE FROM item WHERE id = {id}"),
    };
    conn.execute_batch(&sql).unwrap();
}

/// Has each row that differs between two databases issued anew by the one that wrote it last; how many there are.
async fn repair(replicas: &[Replica], first: usize, second: usize) -> usize {
    let keys: BTreeSet<i64> = [first, second].into_iter().flat_map(|place| ids(&replicas[place])).collect();
    let keys: Vec<Vec<Value>> = keys.into_iter().map(|id| vec![Value::Integer(id)]).collect();
    let sides = [rows(&replicas[first], &keys).await, rows(&replicas[second], &keys).await];
    let mut issued = [Vec::new(), Vec::new()];
    for (ours, theirs) in sides[0].iter().zip(&sides[1]).filter(|(ours, theirs)| ours.content != theirs.content) {
        let written = |row: &RowState| (row.newest, row.content.is_some());
        issued[usize::from(written(theirs) > written(ours))].push(ours.key.clone());
    }
    let count = issued.iter().map(Vec::len).sum();
    for (place, keys) in [first, second].into_iter().zip(issued) {
        assert!(replicas[place].database.reissue("item".to_owned(), keys).await.unwrap());
    }
    count
}

async fn repaired(seed: u64, rules: fn() -> DatabaseRules) {
    let folder = TempDir::new().unwrap();
    let mut random = Random(seed);
    let mut replicas = Vec::new();
    for name in ["a", "b", "c"] {
        replicas.push(Replica::create(folder.path(), name, Setup { rules, ..Setup::of(ITEM) }).await);
    }
    let write = |replicas: &[Replica], random: &mut Random, most: u64| {
        for _ in 0..random.below(most) {
            let at = usize::try_from(random.below(3)).unwrap();
            crate::capture::later();
            write_stock(&replicas[at].application(), &mut |bound| usize::try_from(random.below(bound)).unwrap());
        }
    };
    for _ in 0..3 {
        write(&replicas, &mut random, 6);
        settle(&replicas, || 100).await;
        for _ in 0..1 + random.below(4) {
            let at = usize::try_from(random.below(3)).unwrap();
            write_unseen(&replicas[at].application(), &mut random);
        }
        // What is on its way then is merged with what is issued anew.
        write(&replicas, &mut random, 3);
        for round in 0.. {
            assert!(round < 6, "seed {seed}: rows differ again and again");
            let mut found = 0;
            for (first, second) in [(0, 1), (2, 1), (0, 2)] {
                found += repair(&replicas, first, second).await;
                settle(&replicas, || 100).await;
            }
            if found == 0 {
                break;
            }
        }
        let dumps: Vec<_> = replicas.iter().map(Replica::dump).collect();
        assert!(dumps.iter().all(|dump| *dump == dumps[0]), "seed {seed}: {dumps:?}");
    }
}

/// A row that came back unseen does not keep out what peers write in its place.
#[tokio::test]
async fn a_row_that_came_back_unseen_gives_way() {
    let folder = TempDir::new().unwrap();
    let a = Replica::create(folder.path(), "a", Setup::of(ITEM)).await;
    let b = Replica::create(folder.path(), "b", Setup::of(ITEM)).await;
    a.write("INSERT INTO item (id, name) VALUES (1, 'first'), (2, 'first')");
    b.pull(&a, 100).await;
    a.write("DELETE FROM item");
    b.pull(&a, 100).await;
    let conn = b.application();
    conn.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_TRIGGER, false).unwrap();
    conn.execute_batch("INSERT INTO item (id, name) VALUES (1, 'unseen'), (2, 'unseen')").unwrap();
    a.write("INSERT INTO item (id, name) VALUES (1, 'again')");
    b.pull(&a, 100).await;
    assert_eq!(b.text("SELECT group_concat(id || name) FROM item"), "1again,2unseen");
}

/// What was written in a row that went unseen does not speak for the row that comes in its place.
#[tokio::test]
async fn a_row_that_went_unseen_leaves_nothing_behind() {
    let folder = TempDir::new().unwrap();
    let mut replicas = Vec::new();
    for name in ["a", "b", "c"] {
        replicas.push(Replica::create(folder.path(), name, Setup::of(ITEM)).await);
    }
    replicas[0].write("INSERT INTO item (id, name) VALUES (1, 'first')");
    settle(&replicas, || 100).await;
    replicas[0].write("UPDATE item SET name = 'second' WHERE id = 1");
    settle(&replicas, || 100).await;
    let conn = replicas[1].application();
    conn.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_TRIGGER, false).unwrap();
    conn.execute_batch("DELETE FROM item").unwrap();
    replicas[2].write("UPDATE item SET name = 'apart' WHERE id = 1");
    crate::capture::later();
    assert_eq!(repair(&replicas, 0, 1).await, 1);
    replicas[1].pull(&replicas[0], 100).await;
    // All know the same then, without a word between these two.
    replicas[1].pull(&replicas[2], 100).await;
    replicas[0].pull(&replicas[2], 100).await;
    settle(&replicas, || 100).await;
    let dumps: Vec<_> = replicas.iter().map(Replica::dump).collect();
    assert!(dumps.iter().all(|dump| *dump == dumps[0]), "{dumps:?}");
}

#[tokio::test]
async fn rows_that_were_written_unseen_are_made_equal() {
    for seed in seeds(30) {
        repaired(seed, DatabaseRules::default).await;
    }
}

#[tokio::test]
async fn counters_that_were_written_unseen_are_made_equal() {
    for seed in seeds(30) {
        repaired(seed, stock).await;
    }
}
