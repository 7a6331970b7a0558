//! What the log says of rows, and when.

use std::time::{Duration, SystemTime};

use tempfile::TempDir;

use crate::replica::{Replica, Setup};
use crate::settle;

/// Lets the clock by which changes are ordered move on.
pub(crate) fn later() {
    let now = SystemTime::now();
    while now.elapsed().unwrap_or_default() < Duration::from_millis(3) {
        std::thread::yield_now();
    }
}

#[tokio::test]
async fn a_backlog_is_stamped_as_it_was_written() {
    let folder = TempDir::new().unwrap();
    let setup = Setup::of("CREATE TABLE t (id INTEGER PRIMARY KEY, v); INSERT INTO t VALUES (1, 0), (2, 0)");
    let a = Replica::create(folder.path(), "a", setup).await;
    let b = Replica::create(folder.path(), "b", setup).await;
    let a = a
        .restart(|application| {
            application
                .execute_batch("UPDATE t SET v = 1 WHERE id = 1; UPDATE t SET v = 'early' WHERE id = 2")
                .unwrap();
            later();
            b.write("UPDATE t SET v = 'late' WHERE id = 2");
            later();
            // A row that is written before and after does not make what lies between later than it is.
            application.execute_batch("UPDATE t SET v = 2 WHERE id = 1").unwrap();
        })
        .await;
    let replicas = [a, b];
    settle(&replicas, || 10).await;
    for replica in &replicas {
        assert_eq!(replica.text("SELECT v FROM t WHERE id = 2"), "late");
    }
}
