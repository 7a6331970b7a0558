//! The index of dots tells of all that a peer lacks, however often rows are written again and the index is tidied.

use std::time::Duration;

use rusqlite::Connection;
use tempfile::TempDir;

use crate::replica::{Replica, Setup};
use crate::{Random, seeds, settle};

/// Keys so long that each transaction fills a line of the index.
const TABLE: &str = "CREATE TABLE t (k TEXT PRIMARY KEY COLLATE NOCASE, a, b); CREATE TABLE u (k TEXT PRIMARY KEY, a)";

/// Transactions of one seed, each of which adds a line or more.
const ROUNDS: u64 = 600;

/// Lines that may be there without a reason to tidy them: those that a pass leaves, and as many as are few.
const UNTIDIED: u64 = 2 * ROWS + 256;

/// Rows that are written again and again.
const ROWS: u64 = 12;

const LINES: &str = "SELECT count(*) || '' FROM _sync_dot";

fn write(conn: &Connection, random: &mut Random, round: u64) {
    let id = random.below(ROWS);
    let letter = if random.below(2) == 0 { "x" } else { "X" };
    let key = format!("'{id}' || replace(hex(zeroblob(700)), '0', '{letter}')");
    let sql = match random.below(8) {
        0 | 1 => format!("INSERT INTO t VALUES ({key}, {round}, 0) ON CONFLICT DO UPDATE SET a = excluded.a, b = NULL"),
        2 | 3 => format!("UPDATE t SET a = {round} WHERE k = {key}"),
        4 => format!("UPDATE t SET b = {round} WHERE k = {key}"),
        5 => format!("UPDATE t SET k = {key}, b = {round} WHERE k = {key}"),
        6 => format!("DELETE FROM t WHERE k = {key}"),
        _ => format!("INSERT OR REPLACE INTO u VALUES ({key}, {round})"),
    };
    // Something is written, whatever was there.
    let always = format!("INSERT OR REPLACE INTO u VALUES ({ROWS} || replace(hex(zeroblob(700)), '0', 'x'), {round})");
    conn.execute_batch(&format!("BEGIN IMMEDIATE; {sql}; {always}; COMMIT")).unwrap();
}

async fn written_again_and_again(seed: u64) {
    let folder = TempDir::new().unwrap();
    let mut random = Random(seed);
    let a = Replica::create(folder.path(), "a", Setup::of(TABLE)).await;
    let b = Replica::create(folder.path(), "b", Setup::of(TABLE)).await;
    let (on_a, on_b) = (a.application(), b.application());
    for round in 0..ROUNDS {
        let (replica, conn) = if random.below(4) == 0 { (&b, &on_b) } else { (&a, &on_a) };
        let before = replica.database.state().borrow().have.clone();
        write(conn, &mut random, round);
        replica.until(|state| state.have != before).await;
        if random.below(60) == 0 {
            b.pull(&a, 1 + usize::try_from(random.below(30)).unwrap()).await;
        }
    }
    let replicas = [a, b];
    settle(&replicas, || 1 + usize::try_from(random.below(20)).unwrap()).await;
    let [a, b] = replicas;
    assert_eq!(a.dump(), b.dump(), "SEED={seed}");
    let tidied = async {
        while a.text(LINES).parse::<u64>().unwrap() > UNTIDIED {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let waited = tokio::time::timeout(Duration::from_secs(60), tidied).await;
    assert!(waited.is_ok(), "SEED={seed}: {} lines", a.text(LINES));
    // A peer that has nothing is sent all that there is, by either.
    let c = Replica::create(folder.path(), "c", Setup::of(TABLE)).await;
    c.pull(&a, 7).await;
    let d = Replica::create(folder.path(), "d", Setup::of(TABLE)).await;
    d.pull(&b, 5).await;
    assert_eq!((a.dump(), b.dump()), (c.dump(), d.dump()), "SEED={seed}");
    for replica in [a, b, c, d] {
        replica.database.close().await;
    }
}

#[tokio::test]
async fn what_is_written_again_and_again_is_found_and_leaves_few_lines() {
    for seed in seeds(3) {
        written_again_and_again(seed).await;
    }
}

/// Rows that come one by one are written with their whole clocks.
#[tokio::test]
async fn what_a_row_bears_already_is_not_told_again() {
    const TABLE: &str = "CREATE TABLE t (id INTEGER PRIMARY KEY, a, b, c)";
    const BYTES: &str = "SELECT sum(length(dots)) || '' FROM _sync_dot";
    let folder = TempDir::new().unwrap();
    let a = Replica::create(folder.path(), "a", Setup::of(TABLE)).await;
    let b = Replica::create(folder.path(), "b", Setup::of(TABLE)).await;
    a.write("WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 20) INSERT INTO t (id) SELECT i FROM n");
    b.pull(&a, 50).await;
    let mut random = Random(1);
    for round in 0..200 {
        let column = ["a", "b", "c"][usize::try_from(random.below(3)).unwrap()];
        a.write(&format!("UPDATE t SET {column} = {round} WHERE id = {}", 1 + random.below(20)));
        b.pull(&a, 50).await;
    }
    let [told, received]: [u64; 2] = [&a, &b].map(|replica| replica.text(BYTES).parse().unwrap());
    assert!(received <= told + told / 10, "{told} bytes tell of what was written, {received} of what was received");
    assert_eq!(a.dump(), b.dump());
}
