//! Rows of a catch-up that are staged many at a time: each is merged once and in its newest state, whatever comes between.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use replication::Value;
use sqlite_store::{ApplyOutcome, IncomingRow, RowObserver, RowVerdict, StoreError};
use tempfile::TempDir;

use crate::replica::{Replica, Setup};
use crate::settle;

/// Nothing in it is looked for but by its key.
const SCHEMA: &str = "CREATE TABLE t (id INTEGER PRIMARY KEY, pos INTEGER, v INTEGER);";

/// Fills a table with rows 1 to 40.
const FILL: &str = "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 40) \
                    INSERT INTO t SELECT i, i, 0 FROM n";

/// The rows of the table as they are written here, and the end of the merge after so many.
struct Seen {
    rows: Mutex<BTreeMap<i64, Vec<Option<Vec<Value>>>>>,
    most: usize,
}

impl Seen {
    fn new(most: usize) -> Arc<Self> {
        Arc::new(Self { rows: Mutex::default(), most })
    }
}

impl RowObserver for Seen {
    fn observe(&self, row: &IncomingRow<'_>) -> RowVerdict {
        let [Value::Integer(key)] = row.key else { return RowVerdict::Fail("another key".to_owned()) };
        let mut rows = self.rows.lock().unwrap();
        if rows.len() >= self.most {
            return RowVerdict::Fail("no more of them".to_owned());
        }
        rows.entry(*key).or_default().push(row.new.map(<[Value]>::to_vec));
        RowVerdict::Apply
    }
}

async fn replica(folder: &TempDir, name: &str, max_rows: usize) -> Replica {
    Replica::create(folder.path(), name, Setup { max_rows, ..Setup::of(SCHEMA) }).await
}

/// How many rows are staged in pages, and how many by their keys.
fn staged(replica: &Replica) -> (i64, i64) {
    let sql = "SELECT (SELECT coalesce(sum(count), 0) FROM _sync_page), (SELECT count(*) FROM _sync_staged)";
    replica.stage().query_row(sql, [], |row| Ok((row.get(0)?, row.get(1)?))).unwrap()
}

async fn stage(replica: &Replica, other: &Replica, rows: usize) {
    let part = replica.next_from(other, rows).await;
    assert!(!part.is_complete());
    assert!(matches!(replica.apply(part, None).await, ApplyOutcome::Applied(_)));
}

#[tokio::test]
async fn a_row_that_changes_between_two_batches_is_merged_in_its_newest_state_only() {
    for (max_rows, shown) in [(20_000, true), (20_000, false), (7, true), (7, false)] {
        let folder = TempDir::new().unwrap();
        let (a, b) = (replica(&folder, "a", max_rows).await, replica(&folder, "b", max_rows).await);
        // Neither knows of the other's row.
        b.write("INSERT INTO t VALUES (3, -3, -3)");
        a.write(FILL);
        stage(&b, &a, 20).await;
        assert_eq!(staged(&b), (20, 0));
        a.write("UPDATE t SET v = 1 WHERE id IN (1, 3, 39)");
        a.write("UPDATE t SET pos = -1, v = 2 WHERE id = 5; DELETE FROM t WHERE id = 7");
        a.write("DELETE FROM t WHERE id = 9; INSERT INTO t VALUES (9, 9, 3)");
        let seen = Seen::new(usize::MAX);
        let observer: Arc<dyn RowObserver> = Arc::clone(&seen) as Arc<dyn RowObserver>;
        b.pull_shown(&a, 10, Some(&observer).filter(|_| shown)).await;
        assert_eq!((b.dump(), staged(&b)), (a.dump(), (0, 0)), "{max_rows}");
        assert_eq!(b.conflicts(), 1, "{max_rows}");
        if shown {
            let rows = seen.rows.lock().unwrap();
            let written: Vec<_> = rows.iter().filter(|(_, states)| states.len() != 1).collect();
            assert!(written.is_empty(), "{max_rows}: more than one state of {written:?}");
            assert!(!rows.contains_key(&7), "{max_rows}: a row that is deleted");
            assert_eq!(rows[&5], [Some([5, -1, 2].map(Value::Integer).to_vec())], "{max_rows}");
        }
        settle(&[a, b], || 10).await;
    }
}

#[tokio::test]
async fn a_batch_that_comes_again_in_part_or_whole_is_merged_once() {
    for again in [20, 25] {
        let folder = TempDir::new().unwrap();
        let (a, b) = (replica(&folder, "a", 20_000).await, replica(&folder, "b", 20_000).await);
        a.write(FILL);
        // It is newer, and stays.
        b.write("INSERT INTO t VALUES (3, -3, -3)");
        let [first, more] = [b.next_from(&a, 20).await, b.next_from(&a, again).await];
        for part in [first, more] {
            assert!(matches!(b.apply(part, None).await, ApplyOutcome::Applied(_)));
        }
        b.pull(&a, 100).await;
        assert_eq!((b.conflicts(), staged(&b)), (1, (0, 0)), "{again}");
        assert_eq!(b.text("SELECT pos || '' FROM t WHERE id = 3"), "-3");
        settle(&[a, b], || 100).await;
    }
}

#[tokio::test]
async fn a_merge_that_is_cut_off_between_pages_or_within_one_goes_on_there() {
    let folder = TempDir::new().unwrap();
    let (a, b) = (replica(&folder, "a", 15).await, replica(&folder, "b", 15).await);
    a.write(FILL);
    stage(&b, &a, 20).await;
    let rest = b.next_from(&a, 100).await;
    let outcome = b.apply(rest, Some(Seen::new(32))).await;
    assert!(matches!(outcome, ApplyOutcome::Failed { .. }), "{outcome:?}");
    // Two transactions of 15 rows, with pages of 15 and 5 in the first batch.
    assert_eq!(b.text("SELECT count(*) || '' FROM t"), "30");
    assert_eq!(staged(&b), (10, 0));
    let b = b.restart(|_| ()).await;
    let third = replica(&folder, "c", 15).await;
    third.pull(&b, 100).await;
    assert_eq!((third.dump(), b.dump(), staged(&b)), (a.dump(), a.dump(), (0, 0)));
}

#[tokio::test]
async fn unique_values_that_move_are_no_conflict_where_the_index_came_after_the_rows() {
    for max_rows in [3, 20_000] {
        let folder = TempDir::new().unwrap();
        let (a, b) = (replica(&folder, "a", max_rows).await, replica(&folder, "b", max_rows).await);
        a.write(FILL);
        b.pull(&a, 100).await;
        a.write("UPDATE t SET pos = 41 - pos, v = 1");
        stage(&b, &a, 15).await;
        assert_eq!(staged(&b), (15, 0));
        let [a, b] = [a, b]
            .map(|replica| replica.restart(|conn| conn.execute_batch("CREATE UNIQUE INDEX t_pos ON t (pos)").unwrap()));
        let (a, b) = (a.await, b.await);
        assert_eq!(staged(&b), (15, 0));
        let rest = b.next_from(&a, 100).await;
        assert_eq!(rest.row_count(), 25, "what is staged is not sent again");
        b.apply(rest, None).await;
        assert_eq!((b.dump(), staged(&b)), (a.dump(), (0, 0)));
        assert_eq!((a.conflicts(), b.conflicts()), (0, 0));
    }
}

#[tokio::test]
async fn nothing_is_merged_of_a_page_that_is_damaged() {
    let folder = TempDir::new().unwrap();
    let (a, b) = (replica(&folder, "a", 20_000).await, replica(&folder, "b", 20_000).await);
    a.write(FILL);
    stage(&b, &a, 20).await;
    b.stage().execute("UPDATE _sync_page SET rows = substr(rows, 1, length(rows) - 1)", []).unwrap();
    let rest = b.next_from(&a, 100).await;
    let error = b.database.apply(rest, None).await.unwrap_err();
    assert!(matches!(error, StoreError::Damaged { .. }), "{error:?}");
    assert_eq!(b.text("SELECT count(*) || '' FROM t"), "0");
}

/// A version that does not know of pages would merge the rest without them.
#[tokio::test]
async fn pages_of_what_an_older_version_forgot_are_forgotten() {
    let folder = TempDir::new().unwrap();
    let (a, b) = (replica(&folder, "a", 20_000).await, replica(&folder, "b", 20_000).await);
    a.write(FILL);
    stage(&b, &a, 20).await;
    b.database.close().await;
    b.stage().execute_batch("DELETE FROM _sync_received; DELETE FROM _sync_batch").unwrap();
    let b = b.restart(|_| ()).await;
    assert_eq!(staged(&b), (0, 0));
    b.pull(&a, 10).await;
    assert_eq!(b.dump(), a.dump());
}

#[tokio::test]
async fn a_catch_up_that_an_older_version_began_goes_on() {
    let folder = TempDir::new().unwrap();
    let (a, b) = (replica(&folder, "a", 20_000).await, replica(&folder, "b", 20_000).await);
    a.write(FILL);
    b.pull(&a, 100).await;
    // Entries of columns: nothing goes into a page.
    a.write("UPDATE t SET v = 1");
    stage(&b, &a, 10).await;
    assert_eq!(staged(&b), (0, 10));
    b.database.close().await;
    let sql = "UPDATE _sync_received SET shapes = (shapes | ?1) - (shapes & ?1)";
    b.stage().execute(sql, [i64::MIN]).unwrap();
    b.stage().execute_batch("DROP TABLE _sync_page").unwrap();
    let b = b.restart(|_| ()).await;
    let rest = b.next_from(&a, 100).await;
    assert_eq!(rest.row_count(), 30, "what is staged is not sent again");
    b.apply(rest, None).await;
    assert_eq!((b.dump(), staged(&b)), (a.dump(), (0, 0)));
}
