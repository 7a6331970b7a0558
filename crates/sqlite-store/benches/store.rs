//! Capture of an application's rows, reading them as batches, and applying batches to another database.
#![allow(clippy::unwrap_used, reason = "a failure here is a failure of the test")]

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use replication::{Batch, VersionVector};
use rusqlite::Connection;
use sqlite_store::{
    ApplyOutcome, BatchLimits, ConflictRetention, Database, DatabaseOptions, DatabaseRules, FileWatch, Phase,
};
use tempfile::TempDir;
use tokio::runtime::Runtime;
use tokio::sync::mpsc;

const ROWS: u64 = 5_000;

struct Node {
    database: Database,
    path: PathBuf,
}

const ITEM: &str = "CREATE TABLE item (id INTEGER PRIMARY KEY, name TEXT, qty INTEGER, note TEXT)";

/// Rows that refer to one of a thousand parents, with and without a foreign key that says so; and tables that were made, and
/// therefore come, in the other order.
const UNRELATED: &str = "CREATE TABLE shop (id INTEGER PRIMARY KEY, name TEXT);
    CREATE TABLE sale (id INTEGER PRIMARY KEY, shop INTEGER, name TEXT, qty INTEGER);
    CREATE INDEX sale_shop ON sale (shop)";
const RELATED: &str = "CREATE TABLE shop (id INTEGER PRIMARY KEY, name TEXT);
    CREATE TABLE sale (id INTEGER PRIMARY KEY, shop INTEGER REFERENCES shop, name TEXT, qty INTEGER);
    CREATE INDEX sale_shop ON sale (shop)";
const REVERSED: &str =
    "CREATE TABLE sale (id INTEGER PRIMARY KEY, shop INTEGER REFERENCES shop, name TEXT, qty INTEGER);
    CREATE TABLE shop (id INTEGER PRIMARY KEY, name TEXT);
    CREATE INDEX sale_shop ON sale (shop)";

/// Rows of a first contact.
const SALES: u64 = 200_000;

fn start(runtime: &Runtime, folder: &Path, name: &str, schema: &str) -> Node {
    let path = folder.join(format!("{name}.db"));
    Connection::open(&path).unwrap().execute_batch(&format!("PRAGMA journal_mode = WAL; {schema}")).unwrap();
    let (events, mut heard) = mpsc::channel(64);
    runtime.spawn(async move { while heard.recv().await.is_some() {} });
    let options = DatabaseOptions {
        name: "bench".to_owned(),
        path: path.clone(),
        node: name.to_owned(),
        rules: DatabaseRules::default(),
        attach: Default::default(),
        poll_interval: Duration::from_secs(1),
        max_clock_skew: Duration::from_secs(60),
        schema_quiet: Duration::ZERO,
        max_rows: 20_000,
        tombstone_horizon: Duration::from_secs(86_400),
        upkeep_interval: Duration::from_secs(60),
        close_after: Duration::from_secs(60),
        retention: ConflictRetention::default(),
        observer: None,
        state: None,
    };
    runtime.block_on(async {
        let database = Database::start(options, Arc::new(FileWatch::new().unwrap()), events).unwrap();
        database.state().wait_for(|state| state.phase == Phase::Attached).await.unwrap();
        Node { database, path }
    })
}

fn insert(conn: &mut Connection, first: u64) {
    let transaction = conn.transaction().unwrap();
    for id in first..first + ROWS {
        transaction
            .prepare_cached("INSERT INTO item VALUES (?1, ?2, ?3, 'a note of some length')")
            .unwrap()
            .execute(rusqlite::params![id.cast_signed(), format!("item {id}"), 7])
            .unwrap();
    }
    transaction.commit().unwrap();
}

/// Waits until the database has captured `rows` in all.
fn captured(runtime: &Runtime, node: &Node, rows: u64) {
    runtime.block_on(async {
        let mut state = node.database.state();
        state.wait_for(|state| state.origin.is_some_and(|own| state.have.get(own) >= rows)).await.unwrap();
    });
}

fn read_all(runtime: &Runtime, node: &Node) -> Batch {
    let limits = BatchLimits { rows: usize::MAX, bytes: usize::MAX, passed_on: true };
    let batch = runtime.block_on(node.database.read(VersionVector::new(), Arc::default(), limits)).unwrap();
    assert_eq!(batch.tables.iter().map(|table| table.rows.len() as u64).sum::<u64>(), ROWS);
    batch
}

/// Everything that the source has, in the batches of a first contact.
fn first_batches(runtime: &Runtime, source: &Node) -> Vec<Batch> {
    let (mut position, mut batches) = (VersionVector::new(), Vec::new());
    loop {
        let limits = BatchLimits::default();
        let batch = runtime.block_on(source.database.read(position.clone(), Arc::default(), limits)).unwrap();
        position.join(&batch.to);
        let complete = batch.is_complete();
        batches.push(batch);
        if complete {
            return batches;
        }
    }
}

/// What foreign keys cost: the same rows for tables with and without one.
fn first_contact(c: &mut Criterion) {
    let runtime = Runtime::new().unwrap();
    let folder = TempDir::new().unwrap();
    let mut group = c.benchmark_group("first_contact");
    group.sample_size(10).throughput(Throughput::Elements(SALES));
    for (name, schema) in [("unrelated", UNRELATED), ("parents_first", RELATED), ("parents_last", REVERSED)] {
        let source = start(&runtime, folder.path(), &format!("{name}_source"), schema);
        let conn = Connection::open(&source.path).unwrap();
        conn.execute_batch(&format!(
            "BEGIN;
             WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 1000)
             INSERT INTO shop SELECT i, 'shop ' || i FROM n;
             WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {SALES})
             INSERT INTO sale SELECT i, 1 + i * 7919 % 1000, 'sale ' || i, i % 9 FROM n;
             COMMIT"
        ))
        .unwrap();
        captured(&runtime, &source, SALES + 1000);
        let batches = first_batches(&runtime, &source);
        let mut number = 0;
        group.bench_function(name, |b| {
            b.iter_custom(|times| {
                let mut spent = Duration::ZERO;
                for _ in 0..times {
                    number += 1;
                    let target = start(&runtime, folder.path(), &format!("{name}{number}"), schema);
                    for batch in batches.clone() {
                        let begun = Instant::now();
                        let reply = runtime.block_on(target.database.apply(batch, None)).unwrap();
                        spent += begun.elapsed();
                        assert!(matches!(reply.outcome, ApplyOutcome::Applied(_)));
                    }
                    assert_eq!(target.database.state().borrow().orphans.count, 0);
                    runtime.block_on(target.database.close());
                    std::fs::remove_file(&target.path).unwrap();
                }
                spent
            });
        });
        runtime.block_on(source.database.close());
    }
    group.finish();
}

fn bench(c: &mut Criterion) {
    let runtime = Runtime::new().unwrap();
    let folder = TempDir::new().unwrap();
    let mut group = c.benchmark_group("store");
    group.sample_size(10).throughput(Throughput::Elements(ROWS));

    let node = start(&runtime, folder.path(), "capture", ITEM);
    let mut conn = Connection::open(&node.path).unwrap();
    conn.busy_timeout(Duration::from_secs(10)).unwrap();
    let mut rows = 0;
    group.bench_function("capture", |b| {
        b.iter_custom(|times| {
            let mut spent = Duration::ZERO;
            for _ in 0..times {
                insert(&mut conn, rows);
                rows += ROWS;
                let begun = Instant::now();
                captured(&runtime, &node, rows);
                spent += begun.elapsed();
            }
            spent
        });
    });

    let source = start(&runtime, folder.path(), "source", ITEM);
    insert(&mut Connection::open(&source.path).unwrap(), 0);
    captured(&runtime, &source, ROWS);
    group.bench_function("read", |b| b.iter(|| read_all(&runtime, &source)));

    let batch = read_all(&runtime, &source);
    let mut number = 0;
    group.bench_function("apply", |b| {
        b.iter_custom(|times| {
            let mut spent = Duration::ZERO;
            for _ in 0..times {
                number += 1;
                let target = start(&runtime, folder.path(), &format!("target{number}"), ITEM);
                let batch = batch.clone();
                let begun = Instant::now();
                let reply = runtime.block_on(target.database.apply(batch, None)).unwrap();
                spent += begun.elapsed();
                assert!(matches!(&reply.outcome, ApplyOutcome::Applied(applied) if applied.rows as u64 == ROWS));
                runtime.block_on(target.database.close());
            }
            spent
        });
    });
    group.finish();
}

criterion_group!(benches, bench, first_contact);
criterion_main!(benches);
