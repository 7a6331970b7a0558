//! Catch-ups of several batches: nothing of them is seen, claimed or decided on before all of it is there.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use replication::Value;
use sqlite_store::{ApplyOutcome, IncomingRow, RowObserver, RowVerdict};
use tempfile::TempDir;

use crate::replica::{Replica, Setup};
use crate::settle;

const SCHEMA: &str = "CREATE TABLE t (id INTEGER PRIMARY KEY, pos INTEGER UNIQUE, v INTEGER);";

/// Fills a table with rows 1 to 40.
const FILL: &str = "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 40) \
                    INSERT INTO t SELECT i, i, 0 FROM n";

fn staged(replica: &Replica) -> i64 {
    let sql = "SELECT (SELECT count(*) FROM _sync_staged) + (SELECT count(*) FROM _sync_batch) \
               + (SELECT count(*) FROM _sync_received) + (SELECT count(*) FROM _sync_page)";
    replica.stage().query_row(sql, [], |row| row.get(0)).unwrap()
}

async fn filled(folder: &TempDir, names: &[&str], max_rows: usize) -> Vec<Replica> {
    let mut replicas = Vec::new();
    for name in names {
        let setup = Setup { max_rows, ..Setup::of(SCHEMA) };
        replicas.push(Replica::create(folder.path(), name, setup).await);
    }
    replicas[0].write(FILL);
    settle(&replicas, || 100).await;
    replicas
}

#[tokio::test]
async fn unique_values_that_move_across_batches_are_no_conflict() {
    for max_rows in [3, 20_000] {
        let folder = TempDir::new().unwrap();
        let replicas = filled(&folder, &["a", "b"], max_rows).await;
        let conn = replicas[0].application();
        conn.execute_batch("BEGIN; UPDATE t SET pos = -pos; UPDATE t SET pos = 41 + pos; COMMIT").unwrap();
        let before = replicas[0].dump();
        replicas[1].pull(&replicas[0], 7).await;
        assert_eq!(replicas[1].dump(), before);
        settle(&replicas, || 7).await;
        assert_eq!(replicas[0].dump(), before);
        assert_eq!((replicas[0].conflicts(), replicas[1].conflicts()), (0, 0));
        assert_eq!(staged(&replicas[1]), 0);
    }
}

#[tokio::test]
async fn an_older_batch_does_not_take_the_place_of_newer_states_that_are_staged() {
    let folder = TempDir::new().unwrap();
    let replicas = filled(&folder, &["a", "b"], 20_000).await;
    replicas[0].write("UPDATE t SET v = 1");
    let older = replicas[1].next_from(&replicas[0], 10).await;
    replicas[0].write("UPDATE t SET v = 2 WHERE id <= 10");
    let newer = replicas[1].next_from(&replicas[0], 35).await;
    assert!(!older.is_complete() && !newer.is_complete());
    replicas[1].apply(newer, None).await;
    assert_eq!(replicas[1].apply(older, None).await, ApplyOutcome::Gap);
    replicas[1].pull(&replicas[0], 10).await;
    assert_eq!(replicas[1].dump(), replicas[0].dump());
}

#[tokio::test]
async fn a_source_that_dies_in_the_middle_leaves_no_false_claim() {
    let folder = TempDir::new().unwrap();
    let replicas = filled(&folder, &["a", "b"], 20_000).await;
    replicas[0].write("UPDATE t SET v = 1");
    let part = replicas[1].next_from(&replicas[0], 10).await;
    assert!(!part.is_complete());
    replicas[1].apply(part, None).await;
    assert!(staged(&replicas[1]) > 0);
    // Nobody hears of the first one again.
    let third = Replica::create(folder.path(), "c", Setup::of(SCHEMA)).await;
    third.pull(&replicas[1], 15).await;
    assert_eq!(third.dump(), replicas[1].dump());
    assert_eq!(third.text("SELECT group_concat(DISTINCT v || '') || count(*) FROM t"), "040");
}

#[tokio::test]
async fn a_transaction_in_several_batches_is_seen_at_once() {
    let folder = TempDir::new().unwrap();
    let replicas = filled(&folder, &["a", "b"], 20_000).await;
    replicas[0].write("UPDATE t SET v = 1");
    for _ in 0..3 {
        let part = replicas[1].next_from(&replicas[0], 10).await;
        replicas[1].apply(part, None).await;
        assert_eq!(replicas[1].text("SELECT group_concat(DISTINCT v || '') FROM t"), "0");
    }
    replicas[1].pull(&replicas[0], 10).await;
    assert_eq!(replicas[1].text("SELECT group_concat(DISTINCT v || '') FROM t"), "1");
}

/// Refuses everything after so many rows.
struct Fuse(AtomicUsize);

impl RowObserver for Fuse {
    fn observe(&self, row: &IncomingRow<'_>) -> RowVerdict {
        assert_ne!(row.key, [Value::Null]);
        let left = self.0.load(Ordering::Relaxed);
        self.0.store(left.saturating_sub(1), Ordering::Relaxed);
        if left == 0 { RowVerdict::Fail("the fuse blew".to_owned()) } else { RowVerdict::Apply }
    }
}

#[tokio::test]
async fn a_merge_that_is_cut_off_goes_on_before_anything_else() {
    let folder = TempDir::new().unwrap();
    let mut replicas = filled(&folder, &["a", "b"], 3).await;
    replicas[0].write("UPDATE t SET v = 1; UPDATE t SET pos = 100 - pos WHERE id > 30");
    merged_in_part(&replicas).await;
    // Some of it is in the tables, and is not claimed.
    assert_eq!(replicas[1].text("SELECT (count(*) BETWEEN 1 AND 39) || '' FROM t WHERE v = 1"), "1");
    assert!(staged(&replicas[1]) > 0);
    let b = replicas.pop().unwrap().restart(|_| ()).await;
    let third = Replica::create(folder.path(), "c", Setup::of(SCHEMA)).await;
    third.pull(&b, 100).await;
    assert_eq!((third.dump(), b.dump()), (replicas[0].dump(), replicas[0].dump()));
    assert_eq!(staged(&b), 0);
}

#[tokio::test]
async fn a_catch_up_that_is_cut_off_goes_on_from_its_position() {
    let folder = TempDir::new().unwrap();
    let mut replicas = filled(&folder, &["a", "b"], 20_000).await;
    replicas[0].write("UPDATE t SET v = 1");
    for _ in 0..2 {
        let part = replicas[1].next_from(&replicas[0], 10).await;
        replicas[1].apply(part, None).await;
    }
    let before = staged(&replicas[1]);
    let b = replicas.pop().unwrap().restart(|_| ()).await;
    assert_eq!((staged(&b), b.database.state().borrow().received.len()), (before, 1));
    // With a write-ahead log it could be committed before the rows are in a file that has a rollback journal.
    let journal: String = b.stage().query_row("PRAGMA journal_mode", [], |row| row.get(0)).unwrap();
    assert_eq!(journal, "delete");
    let rest = b.next_from(&replicas[0], 100).await;
    assert_eq!(rest.row_count(), 20, "what is staged is not sent again");
    b.apply(rest, None).await;
    assert_eq!(b.dump(), replicas[0].dump());
}

/// A stage is of use only to the file that it was filled for.
#[tokio::test]
async fn what_was_staged_for_another_state_of_the_file_is_asked_for_again() {
    let folder = TempDir::new().unwrap();
    let mut replicas = filled(&folder, &["a", "b"], 20_000).await;
    let old = std::fs::read(&replicas[1].path).unwrap();
    replicas[0].write("UPDATE t SET v = 1 WHERE id <= 20");
    replicas[1].pull(&replicas[0], 100).await;
    replicas[0].write("UPDATE t SET v = 2 WHERE id > 20");
    let part = replicas[1].next_from(&replicas[0], 10).await;
    replicas[1].apply(part, None).await;
    let path = replicas[1].path.clone();
    let b = replicas.pop().unwrap();
    b.database.close().await;
    std::fs::write(&path, old).unwrap();
    let b = b.restart(|_| ()).await;
    assert_eq!(staged(&b), 0);
    b.pull(&replicas[0], 10).await;
    assert_eq!(b.dump(), replicas[0].dump());
}

#[tokio::test]
async fn a_catch_up_starts_over_when_the_schema_changes() {
    let folder = TempDir::new().unwrap();
    let replicas = filled(&folder, &["a", "b"], 20_000).await;
    replicas[0].write("UPDATE t SET v = 1");
    let part = replicas[1].next_from(&replicas[0], 10).await;
    replicas[1].apply(part, None).await;
    for replica in &replicas {
        replica.write("ALTER TABLE t ADD COLUMN w DEFAULT 7");
        replica.until(|state| state.received.is_empty()).await;
    }
    settle(&replicas, || 10).await;
    assert_eq!(replicas[1].dump(), replicas[0].dump());
    assert_eq!(replicas[1].text("SELECT count(*) || '' FROM t WHERE v = 1 AND w = 7"), "40");
    assert_eq!(staged(&replicas[1]), 0);
}

#[tokio::test]
async fn catch_ups_from_two_sources_overlap() {
    let folder = TempDir::new().unwrap();
    let replicas = filled(&folder, &["a", "b", "c"], 5).await;
    replicas[0].write("UPDATE t SET v = 1 WHERE id <= 30");
    replicas[2].write("UPDATE t SET v = 2 WHERE id > 20; UPDATE t SET pos = -pos WHERE id > 10");
    for source in [0, 2, 0, 2] {
        let part = replicas[1].next_from(&replicas[source], 9).await;
        replicas[1].apply(part, None).await;
        // Changes of both travel on their own meanwhile, and so does what is written here.
        replicas[1].write("UPDATE t SET v = 3 WHERE id = 1");
    }
    settle(&replicas, || 9).await;
    assert_eq!(replicas[1].dump(), replicas[0].dump());
    assert_eq!(replicas[2].dump(), replicas[0].dump());
    assert_eq!(replicas[1].text("SELECT group_concat(DISTINCT v || '') FROM t WHERE id > 30"), "2");
    assert!(replicas.iter().all(|replica| staged(replica) == 0));
}

/// Merges a part of what the first replica wrote, and stops.
async fn merged_in_part(replicas: &[Replica]) {
    let mut outcome = ApplyOutcome::Known;
    while !matches!(outcome, ApplyOutcome::Failed { .. }) {
        let part = replicas[1].next_from(&replicas[0], 9).await;
        outcome = replicas[1].apply(part, Some(Arc::new(Fuse(AtomicUsize::new(10))))).await;
    }
}

#[tokio::test]
async fn an_index_that_is_new_does_not_cut_off_a_merge() {
    let folder = TempDir::new().unwrap();
    let replicas = filled(&folder, &["a", "b"], 3).await;
    replicas[0].write("UPDATE t SET v = 1");
    merged_in_part(&replicas).await;
    replicas[1].write("CREATE INDEX t_v ON t (v)");
    // The source is not heard of again.
    let third = Replica::create(folder.path(), "c", Setup::of(SCHEMA)).await;
    third.pull(&replicas[1], 100).await;
    assert_eq!((third.dump(), replicas[1].dump()), (replicas[0].dump(), replicas[0].dump()));
}

#[tokio::test]
async fn a_merge_that_a_migration_cut_off_is_not_vouched_for() {
    let folder = TempDir::new().unwrap();
    let mut replicas = filled(&folder, &["a", "b"], 3).await;
    replicas[0].write("UPDATE t SET v = 1");
    merged_in_part(&replicas).await;
    for replica in &replicas {
        replica.write("ALTER TABLE t ADD COLUMN w");
        replica.until(|state| state.received.is_empty()).await;
    }
    let refused = || async {
        let position = replication::VersionVector::new();
        let limits = sqlite_store::BatchLimits::default();
        replicas[1].database.read(position, Arc::default(), limits).await.is_err()
    };
    assert!(refused().await);
    let part = replicas[1].next_from(&replicas[0], 9).await;
    replicas[1].apply(part, None).await;
    assert!(refused().await);
    let b = replicas.pop().unwrap().restart(|_| ()).await;
    let (nothing, limits) = (replication::VersionVector::new(), sqlite_store::BatchLimits::default());
    assert!(b.database.read(nothing, Arc::default(), limits).await.is_err());
    b.pull(&replicas[0], 9).await;
    assert_eq!((b.dump(), staged(&b)), (replicas[0].dump(), 0));
    replicas[0].pull(&b, 100).await;
}

#[tokio::test]
async fn a_staged_row_that_cannot_be_merged_waits_until_its_source_mends_it() {
    let folder = TempDir::new().unwrap();
    let replicas = filled(&folder, &["a"], 3).await;
    let checked = "CREATE TABLE t (id INTEGER PRIMARY KEY, pos INTEGER UNIQUE, v INTEGER CHECK (v < 100));";
    let b = Replica::create(folder.path(), "b", Setup { max_rows: 3, ..Setup::of(checked) }).await;
    replicas[0].write("UPDATE t SET v = 1; UPDATE t SET v = 100 WHERE id = 30");
    b.pull(&replicas[0], 9).await;
    let count = "SELECT count(*) || '' FROM t";
    assert_eq!((b.text(count), replicas[0].text(count), staged(&b)), ("39".to_owned(), "40".to_owned(), 0));
    replicas[0].write("UPDATE t SET v = 99 WHERE id = 30");
    b.pull(&replicas[0], 9).await;
    assert_eq!((b.dump(), staged(&b)), (replicas[0].dump(), 0));
}
