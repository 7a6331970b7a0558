//! Two files of many rows that meet for the first time: equal, different in a few rows, and one of them empty. Each as a ratio to
//! copying the same rows with one INSERT … SELECT, in the same run. `ROWS=n` sets how many there are, `CASE=empty` which of the three is run.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "it is a program that prints what it measures")]

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rusqlite::Connection;
use sync_engine::{Database, SyncEngine};
use tempfile::TempDir;
use tokio::runtime::Runtime;

const SCHEMA: &str = "PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL;
    CREATE TABLE item (id INTEGER PRIMARY KEY, name TEXT, qty INTEGER, note TEXT)";

/// The rows that one of the files has otherwise.
const DIFFERING: i64 = 100;

fn create(file: &Path, rows: i64) -> Connection {
    let conn = Connection::open(file).unwrap();
    conn.busy_timeout(Duration::from_secs(60)).unwrap();
    conn.execute_batch(SCHEMA).unwrap();
    conn.execute(
        "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ?1)
         INSERT INTO item SELECT i, 'item number ' || i, i % 97, 'a note of some length, as there may be one' FROM n
         WHERE ?1 > 0",
        [rows],
    )
    .unwrap();
    conn
}

/// How long one statement takes to copy all rows into an empty file.
fn copied(folder: &Path, rows: i64) -> Duration {
    drop(create(&folder.join("source.db"), rows));
    let conn = create(&folder.join("copy.db"), 0);
    conn.execute("ATTACH ?1 AS source", [folder.join("source.db").to_str().unwrap()]).unwrap();
    let begun = Instant::now();
    conn.execute("INSERT INTO item SELECT * FROM source.item", []).unwrap();
    begun.elapsed()
}

async fn engine(name: &str, file: &Path, folder: &Path) -> SyncEngine {
    let database = Database::open(file).name("bench");
    SyncEngine::builder()
        .node(name)
        .state_dir(folder.join(format!("{name}-state")))
        .database(database)
        .build()
        .await
        .unwrap()
}

/// From the first word to equal vectors on both sides: the time, and the bytes over the link.
fn met(runtime: &Runtime, folder: &Path, files: &[PathBuf; 2]) -> (Duration, u64) {
    runtime.block_on(async {
        let engines = [engine("a", &files[0], folder).await, engine("b", &files[1], folder).await];
        let address = engines[0].listen("127.0.0.1:0").await.unwrap();
        let begun = Instant::now();
        engines[1].connect(&format!("ws://{address}")).await.unwrap();
        let (spent, bytes) = loop {
            tokio::time::sleep(Duration::from_millis(10)).await;
            let (a, b) = (engines[0].status(), engines[1].status());
            let have = |status: &sync_engine::status::Status| status.databases[0].have.clone();
            let behind = |status: &sync_engine::status::Status| {
                status.peers.iter().flat_map(|peer| &peer.databases).map(|database| database.behind).sum::<u64>()
            };
            let met = a.peers.iter().any(|peer| !peer.databases.is_empty()) && !have(&a).is_empty();
            if met && have(&a) == have(&b) && behind(&a) + behind(&b) == 0 {
                break (begun.elapsed(), a.peers.iter().map(|peer| peer.bytes_in + peer.bytes_out).sum());
            }
        };
        for engine in engines {
            engine.stop_realtime_sync().await.unwrap();
        }
        (spent, bytes)
    })
}

fn main() {
    let rows: i64 = std::env::var("ROWS").ok().map_or(1_000_000, |text| text.parse().unwrap());
    let runtime = Runtime::new().unwrap();
    let folder = TempDir::new().unwrap();
    let floor = copied(folder.path(), rows);
    println!("{rows} rows; INSERT … SELECT takes {:.2} s", floor.as_secs_f64());
    let cases = [("equal", rows, ""), ("100 rows differ", rows, "qty = -1"), ("one is empty", 0, "")];
    let chosen = std::env::var("CASE").unwrap_or_default();
    for (name, other, change) in cases.into_iter().filter(|(name, ..)| name.contains(&chosen)) {
        let folder = TempDir::new().unwrap();
        let files = ["a", "b"].map(|name| folder.path().join(format!("{name}.db")));
        drop(create(&files[0], rows));
        let conn = create(&files[1], other);
        if !change.is_empty() {
            let step = (rows / DIFFERING).max(1);
            conn.execute(&format!("UPDATE item SET {change} WHERE id % ?1 = 7"), [step]).unwrap();
        }
        drop(conn);
        let (spent, bytes) = met(&runtime, folder.path(), &files);
        println!(
            "{name}: {:.2} s, {:.3} of it; {bytes} bytes, {:.2} a row",
            spent.as_secs_f64(),
            floor.as_secs_f64() / spent.as_secs_f64(),
            f64::from(u32::try_from(bytes).unwrap_or(u32::MAX)) / f64::from(u32::try_from(rows).unwrap())
        );
    }
}
