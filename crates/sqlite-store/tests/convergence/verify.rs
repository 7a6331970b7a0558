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

async fn repaired(seed: u64, rules: fn() -> DatabaseRules) {
    let folder = TempDir::new().unwrap();
    let mut random = Random(seed);
    let mut replicas = Vec::new();
    for name in ["a", "b", "c"] {
        replicas.push(Replica::create(folder.path(), name, Setup { rules, ..Setup::of(ITEM) }).await);
    }
    for _ in 0..3 {
        for _ in 0..random.below(6) {
            let at = usize::try_from(random.below(3)).unwrap();
            crate::capture::later();
            write_stock(&replicas[at].application(), &mut |bound| usize::try_from(random.below(bound)).unwrap());
        }
        settle(&replicas, || 100).await;
        let damaged = usize::try_from(random.below(3)).unwrap();
        for _ in 0..1 + random.below(3) {
            write_unseen(&replicas[damaged].application(), &mut random);
        }
        let other = (damaged + 1 + usize::try_from(random.below(2)).unwrap()) % 3;
        let (first, second) = if random.below(2) == 0 { (damaged, other) } else { (other, damaged) };
        let keys: BTreeSet<i64> = replicas.iter().flat_map(ids).collect();
        let keys: Vec<Vec<Value>> = keys.into_iter().map(|id| vec![Value::Integer(id)]).collect();
        let sides = [rows(&replicas[first], &keys).await, rows(&replicas[second], &keys).await];
        let mut issued = [Vec::new(), Vec::new()];
        for (ours, theirs) in sides[0].iter().zip(&sides[1]).filter(|(ours, theirs)| ours.content != theirs.content) {
            let written = |row: &RowState| (row.newest, row.content.is_some());
            issued[usize::from(written(theirs) > written(ours))].push(ours.key.clone());
        }
        for (place, keys) in [first, second].into_iter().zip(issued) {
            assert!(replicas[place].database.reissue("item".to_owned(), keys).await.unwrap());
        }
        settle(&replicas, || 100).await;
        let dumps: Vec<_> = replicas.iter().map(Replica::dump).collect();
        assert!(dumps.iter().all(|dump| *dump == dumps[0]), "seed {seed}: {dumps:?}");
    }
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
