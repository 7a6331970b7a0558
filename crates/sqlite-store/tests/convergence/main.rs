//! Databases that exchange batches directly, without sessions or links, end equal whatever applications write.
#![allow(clippy::unwrap_used, reason = "a failure here is a failure of the test")]

mod capture;
mod catch_up;
mod clock_ahead;
mod columns_apart;
mod constraints;
mod counters;
mod counters_apart;
mod dot_index;
mod ending;
mod foreign_keys;
mod fresh;
mod gone;
mod identity;
mod key_ranges;
mod naming;
mod pages;
mod policies;
mod reconcile;
mod records;
mod replica;
mod restore;
mod schemas;
mod selection;
mod selection_changes;
mod sleeping;
mod together;
mod tombstones;
mod unique;
mod verify;
mod waiting;

use std::ops::Range;

use replication::{Granularity, VersionVector};
use rusqlite::Connection;
use sqlite_store::DatabaseEvent;
use tempfile::TempDir;

use replica::{Replica, Setup};

const SCHEMA: &str = "
    CREATE TABLE item (id INTEGER PRIMARY KEY, name TEXT, qty, note BLOB);
    CREATE TABLE word (word TEXT PRIMARY KEY COLLATE NOCASE, n INTEGER, r REAL) WITHOUT ROWID;
    CREATE TABLE pair (a INTEGER, b TEXT, value NUMERIC, PRIMARY KEY (a, b));
    CREATE TABLE parent (id INTEGER PRIMARY KEY, name TEXT);
    CREATE TABLE child (id INTEGER PRIMARY KEY, parent REFERENCES parent (id) ON DELETE CASCADE, label TEXT);
    CREATE INDEX child_parent ON child (parent);
    CREATE TABLE account (id TEXT PRIMARY KEY, email TEXT UNIQUE, slot INTEGER);
";

/// A seeded generator (splitmix64), so that a failing seed replays.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }
}

/// The seeds to try: that in `SEED`, or as many as `SEEDS` says, or so many.
fn seeds(otherwise: u64) -> Range<u64> {
    let number = |name| std::env::var(name).ok().map(|text: String| text.parse::<u64>().unwrap());
    match number("SEED") {
        Some(seed) => seed..seed + 1,
        None => 1..1 + number("SEEDS").unwrap_or(otherwise),
    }
}

/// What an application does to its stock at random: one to three statements.
fn write_stock(conn: &Connection, pick: &mut impl FnMut(u64) -> usize) {
    for _ in 0..1 + pick(3) {
        let (id, value) = (pick(5), pick(1000));
        let sql = match pick(6) {
            0 | 1 => format!("INSERT OR IGNORE INTO item (id, name) VALUES ({id}, 'n{value}')"),
            2 => format!("UPDATE item SET name = 'n{value}' WHERE id = {id}"),
            3 => format!("UPDATE item SET note = 'n{value}' WHERE id = {id}"),
            4 => format!("UPDATE item SET qty = qty + 1 WHERE id = {id}"),
            _ => format!("DELETE FROM item WHERE id = {id}"),
        };
        conn.execute_batch(&sql).unwrap();
    }
}

/// One random statement of an application; constraint failures are the application's business.
fn write(conn: &Connection, random: &mut Random) {
    let id = random.below(12);
    let text = format!("'t{}'", random.below(6));
    let number = random.below(9);
    let sql = match random.below(16) {
        0 => format!("INSERT OR IGNORE INTO item VALUES ({id}, {text}, {number}, x'0{}')", random.below(9)),
        1 => format!("UPDATE item SET name = {text} WHERE id = {id}"),
        2 => format!("UPDATE item SET qty = {number}.0, note = NULL WHERE id = {id}"),
        3 => format!("DELETE FROM item WHERE id = {id}"),
        4 => format!("INSERT OR REPLACE INTO word VALUES ('W{number}', {id}, 0.5)"),
        5 => format!("UPDATE word SET word = upper(word), n = n + 1 WHERE word = 'w{number}'"),
        6 => format!("DELETE FROM word WHERE word = 'w{number}'"),
        7 => format!("INSERT OR REPLACE INTO pair VALUES ({number}, {text}, '{id}')"),
        8 => format!("UPDATE OR REPLACE pair SET a = a + 1 WHERE b = {text}"),
        9 => format!("INSERT OR IGNORE INTO parent VALUES ({number}, {text})"),
        10 => format!("INSERT OR REPLACE INTO child VALUES ({id}, (SELECT max(id) FROM parent), {text})"),
        11 => format!("DELETE FROM parent WHERE id = {number}"),
        12 => format!("INSERT OR REPLACE INTO account VALUES ('a{id}', 'e{number}', {id})"),
        13 => format!("UPDATE OR IGNORE account SET email = 'e{}' WHERE id = 'a{id}'", random.below(9)),
        14 => format!("UPDATE account SET slot = slot + 1 WHERE id = 'a{id}'"),
        _ => format!("DELETE FROM account WHERE id = 'a{id}'"),
    };
    conn.execute_batch(&sql).unwrap_or_else(|error| panic!("{sql}: {error}"));
}

/// All take from all, in batches of any size, until they know the same.
async fn settle(replicas: &[Replica], mut rows: impl FnMut() -> usize) {
    for _ in 0..20 {
        for to in replicas {
            for from in replicas {
                if to.path != from.path {
                    to.pull(from, rows()).await;
                }
            }
        }
        let vectors: Vec<VersionVector> =
            replicas.iter().map(|replica| replica.database.state().borrow().have.clone()).collect();
        if vectors.iter().all(|vector| *vector == vectors[0]) {
            return;
        }
    }
    panic!("not quiet after 20 rounds");
}

async fn converge(seed: u64) {
    let folder = TempDir::new().unwrap();
    let mut random = Random(seed);
    let mut replicas = Vec::new();
    let granularity = if seed.is_multiple_of(4) { Granularity::Row } else { Granularity::Column };
    for name in ["a", "b", "c"] {
        let journal = ["WAL", "WAL", "DELETE", "TRUNCATE"][usize::try_from(random.below(4)).unwrap()];
        let max_rows = 1 + usize::try_from(random.below(10)).unwrap();
        let setup = Setup { journal, granularity, max_rows, ..Setup::of(SCHEMA) };
        replicas.push(Replica::create(folder.path(), name, setup).await);
    }
    for replica in &replicas {
        let conn = replica.application();
        // Half of the rows are there before anybody asks for baselines.
        (0..random.below(20)).for_each(|_| write(&conn, &mut random));
        replica.database.publish().await;
    }
    for _ in 0..12 {
        let writer = &replicas[usize::try_from(random.below(3)).unwrap()];
        let conn = writer.application();
        (0..1 + random.below(8)).for_each(|_| write(&conn, &mut random));
        let to = &replicas[usize::try_from(random.below(3)).unwrap()];
        let from = &replicas[usize::try_from(random.below(3)).unwrap()];
        if to.path != from.path {
            to.pull(from, 1 + usize::try_from(random.below(30)).unwrap()).await;
        }
    }
    settle(&replicas, || 1 + usize::try_from(random.below(40)).unwrap()).await;
    let first = replicas[0].dump();
    for replica in &replicas {
        assert_eq!(replica.dump(), first, "seed {seed}: {} differs", replica.path.display());
        let conn = replica.application();
        let check: String = conn.query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap();
        assert_eq!(check, "ok", "seed {seed}");
        let log: i64 = conn.query_row("SELECT count(*) FROM _sync_log", [], |row| row.get(0)).unwrap();
        assert_eq!(log, 0, "seed {seed}");
        // Applications enforce foreign keys: whatever breaks one came from another replica.
        let broken: i64 =
            conn.query_row("SELECT count(*) FROM pragma_foreign_key_check", [], |row| row.get(0)).unwrap();
        replica.until(|state| state.orphans.count == broken.cast_unsigned()).await;
        assert_eq!(replica.text(foreign_keys::NOTED), replica.text(foreign_keys::BROKEN), "seed {seed}");
    }
    for replica in &mut replicas {
        replica.database.close().await;
        while let Ok((_, event)) = replica.events.try_recv() {
            assert!(!matches!(event, DatabaseEvent::Failed { .. }), "seed {seed}: {event:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replicas_converge_whatever_applications_write() {
    for seed in seeds(40) {
        converge(seed).await;
    }
}
