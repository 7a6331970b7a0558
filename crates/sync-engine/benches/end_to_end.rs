//! From an application's commit on one node to the row in the other node's file, over a real WebSocket on loopback.
#![allow(clippy::unwrap_used, reason = "a failure here is a failure of the test")]

use std::path::PathBuf;
use std::time::{Duration, Instant};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use rusqlite::{Connection, params};
use sync_engine::{Database, SyncEngine};
use tempfile::TempDir;
use tokio::runtime::Runtime;

const ROWS: i64 = 20_000;
const ROWS_A_TRANSACTION: i64 = 500;

/// Two engines on two files.
struct Pair {
    engines: [SyncEngine; 2],
    files: [PathBuf; 2],
    _folder: TempDir,
}

fn pair(runtime: &Runtime) -> Pair {
    let folder = TempDir::new().unwrap();
    let files = ["a", "b"].map(|name| folder.path().join(format!("{name}.db")));
    for file in &files {
        open(file)
            .execute_batch(
                "PRAGMA journal_mode = WAL;
                 CREATE TABLE item (id INTEGER PRIMARY KEY, name TEXT, qty INTEGER, note TEXT)",
            )
            .unwrap();
    }
    let engines = runtime.block_on(async {
        let mut engines = Vec::new();
        for (name, file) in ["a", "b"].iter().zip(&files) {
            let state = folder.path().join(format!("{name}-state"));
            let database = Database::open(file).name("bench");
            engines.push(SyncEngine::builder().node(*name).state_dir(state).database(database).build().await.unwrap());
        }
        let address = engines[0].listen("127.0.0.1:0").await.unwrap();
        engines[1].connect(&format!("ws://{address}")).await.unwrap();
        while engines[1].status().peers.iter().all(|peer| peer.databases.is_empty()) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        engines
    });
    let engines: [SyncEngine; 2] = engines.try_into().unwrap_or_else(|_| unreachable!("two were built"));
    Pair { engines, files, _folder: folder }
}

fn open(file: &std::path::Path) -> Connection {
    let conn = Connection::open(file).unwrap();
    conn.busy_timeout(Duration::from_secs(10)).unwrap();
    conn.pragma_update(None, "synchronous", "NORMAL").unwrap();
    conn
}

fn rows(conn: &Connection) -> i64 {
    conn.prepare_cached("SELECT coalesce(max(id), 0) FROM item").unwrap().query_row([], |row| row.get(0)).unwrap()
}

fn bench(c: &mut Criterion) {
    let runtime = Runtime::new().unwrap();
    let pair = pair(&runtime);
    let (mut writer, reader) = (open(&pair.files[0]), open(&pair.files[1]));
    let mut last = 0;
    let mut group = c.benchmark_group("end_to_end");
    group.sample_size(20).bench_function("single_row", |b| {
        b.iter_custom(|times| {
            let mut spent = Duration::ZERO;
            for _ in 0..times {
                last += 1;
                writer.execute("INSERT INTO item VALUES (?1, 'one', 1, 'a note')", [last]).unwrap();
                let begun = Instant::now();
                while rows(&reader) < last {
                    std::thread::sleep(Duration::from_micros(50));
                }
                spent += begun.elapsed();
            }
            spent
        });
    });
    group.sample_size(10).throughput(Throughput::Elements(ROWS.cast_unsigned()));
    group.bench_function("bulk", |b| {
        b.iter_custom(|times| {
            let begun = Instant::now();
            for _ in 0..times {
                for _ in 0..ROWS / ROWS_A_TRANSACTION {
                    let transaction = writer.transaction().unwrap();
                    for _ in 0..ROWS_A_TRANSACTION {
                        last += 1;
                        transaction
                            .prepare_cached("INSERT INTO item VALUES (?1, ?2, 1, 'a note of some length')")
                            .unwrap()
                            .execute(params![last, format!("item {last}")])
                            .unwrap();
                    }
                    transaction.commit().unwrap();
                }
                while rows(&reader) < last {
                    std::thread::sleep(Duration::from_millis(1));
                }
            }
            begun.elapsed()
        });
    });
    group.finish();
    runtime.block_on(async {
        for engine in pair.engines {
            engine.stop_realtime_sync().await.unwrap();
        }
    });
}

criterion_group!(benches, bench);
criterion_main!(benches);
