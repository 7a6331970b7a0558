//! Foreign keys: rows whose parents are not here are noted once all of a batch is in, told of once, and forgotten.

use std::sync::Arc;
use std::time::Duration;

use replication::Value;
use rusqlite::Connection;
use sqlite_store::foreign_keys::{NewOrphans, Orphan, Orphans};
use sqlite_store::{ApplyOutcome, DatabaseEvent, IncomingRow, RowObserver, RowVerdict};
use tempfile::TempDir;

use crate::replica::{Replica, Setup};

/// What is noted of the table `child`.
pub(crate) const NOTED: &str = "SELECT coalesce(group_concat(key || parent, ' '), '') FROM \
    (SELECT * FROM _sync_orphan WHERE tbl = 'child' ORDER BY key)";

/// The same by SQLite's own check.
pub(crate) const BROKEN: &str = "SELECT coalesce(group_concat(line, ' '), '') FROM \
    (SELECT printf('{\"id\":%d}{\"parent\":{\"id\":%d}}', c.id, c.parent) AS line \
    FROM pragma_foreign_key_check AS f JOIN child AS c ON f.\"table\" = 'child' AND c.rowid = f.rowid ORDER BY line)";

const FAMILY: &str = "
    CREATE TABLE parent (id INTEGER PRIMARY KEY, name TEXT);
    CREATE TABLE child (id INTEGER PRIMARY KEY, parent INTEGER REFERENCES parent (id), label TEXT);
    CREATE INDEX child_parent ON child (parent);";

async fn replicas(folder: &TempDir, schema: &'static str) -> [Replica; 2] {
    let create = |name| Replica::create(folder.path(), name, Setup::of(schema));
    [create("a").await, create("b").await]
}

/// Writes as an application that does not enforce foreign keys.
fn write_freely(replica: &Replica, sql: &str) {
    let conn = replica.application();
    conn.pragma_update(None, "foreign_keys", false).unwrap();
    conn.execute_batch(sql).unwrap_or_else(|error| panic!("{sql}: {error}"));
}

/// The next thing that is told of parents: the new rows without them, or that none is left.
async fn told(replica: &mut Replica) -> Option<NewOrphans> {
    loop {
        let event = tokio::time::timeout(Duration::from_secs(30), replica.events.recv()).await.unwrap().unwrap();
        match event.1 {
            DatabaseEvent::ParentsMissing(news) => return Some(news),
            DatabaseEvent::ParentsComplete => return None,
            _ => {}
        }
    }
}

fn lines(first: &[Orphan]) -> Vec<String> {
    first.iter().map(|row| format!("{} {} {}", row.table, row.key, row.parent)).collect()
}

async fn noted(replica: &Replica, count: u64) -> Orphans {
    replica.until(|state| state.orphans.count == count).await.orphans.as_ref().clone()
}

#[tokio::test]
async fn a_row_without_its_parent_is_told_of_once_and_forgotten_when_the_parent_comes() {
    let folder = TempDir::new().unwrap();
    let [a, mut b] = replicas(&folder, FAMILY).await;
    write_freely(&a, "INSERT INTO child VALUES (1, 7, 'x'), (2, NULL, 'y')");
    b.pull(&a, 100).await;
    let news = told(&mut b).await.unwrap();
    assert_eq!(lines(&news.first), [r#"child {"id":1} {"parent":{"id":7}}"#]);
    assert_eq!(noted(&b, 1).await.first, news.first);
    assert_eq!(b.text(NOTED), b.text(BROKEN));
    // The same row again is no news; nor is it after a restart.
    write_freely(&a, "UPDATE child SET label = 'z'");
    b.pull(&a, 100).await;
    let mut b = b.restart(|_| ()).await;
    assert_eq!(noted(&b, 1).await.first, news.first);
    write_freely(&a, "INSERT INTO parent VALUES (7, 'seven')");
    b.pull(&a, 100).await;
    assert_eq!(told(&mut b).await, None);
    assert_eq!(noted(&b, 0).await, Orphans::default());
    assert_eq!(b.text(NOTED), "");
}

#[tokio::test]
async fn a_row_whose_parent_comes_soon_is_not_told_of() {
    let folder = TempDir::new().unwrap();
    let [a, mut b] = replicas(&folder, FAMILY).await;
    write_freely(&a, "INSERT INTO child VALUES (1, 7, 'x')");
    b.pull(&a, 100).await;
    noted(&b, 1).await;
    write_freely(&a, "INSERT INTO parent VALUES (7, 'soon')");
    b.pull(&a, 100).await;
    noted(&b, 0).await;
    write_freely(&a, "INSERT INTO child VALUES (2, 8, 'y')");
    b.pull(&a, 100).await;
    assert_eq!(lines(&told(&mut b).await.unwrap().first), [r#"child {"id":2} {"parent":{"id":8}}"#]);
}

#[tokio::test]
async fn rows_of_the_time_before_the_first_contact_come_after_their_parents() {
    const BACKWARDS: &str = "
        CREATE TABLE line (id INTEGER PRIMARY KEY, invoice INTEGER REFERENCES invoice, up INTEGER REFERENCES line);
        CREATE TABLE invoice (id INTEGER PRIMARY KEY, customer INTEGER REFERENCES Customer);
        CREATE TABLE customer (id INTEGER PRIMARY KEY);
        CREATE TABLE egg (id INTEGER PRIMARY KEY, hen REFERENCES hen); CREATE TABLE hen (id INTEGER PRIMARY KEY, egg REFERENCES egg);
        INSERT INTO customer VALUES (1); INSERT INTO invoice VALUES (1, 1); INSERT INTO line VALUES (1, 1, 1);
        INSERT INTO hen VALUES (1, NULL); INSERT INTO egg VALUES (1, 1);";
    let folder = TempDir::new().unwrap();
    let [mut a, _b] = replicas(&folder, BACKWARDS).await;
    a.database.publish().await;
    let mut published = Vec::new();
    while published.len() < 5 {
        let event = tokio::time::timeout(Duration::from_secs(30), a.events.recv()).await.unwrap().unwrap();
        if let DatabaseEvent::Publishing { table, finished: true, .. } = event.1 {
            published.push(table);
        }
    }
    assert_eq!(published, ["customer", "invoice", "line", "egg", "hen"]);
}

#[tokio::test]
async fn a_row_is_forgotten_when_it_goes_or_is_repaired_here() {
    let folder = TempDir::new().unwrap();
    let [a, mut b] = replicas(&folder, FAMILY).await;
    write_freely(&a, "INSERT INTO child VALUES (1, 7, 'x'), (2, 8, 'y'), (3, 9, 'z'), (4, 10, 'w')");
    b.pull(&a, 100).await;
    assert_eq!(told(&mut b).await.unwrap().count, 4);
    b.write("DELETE FROM child WHERE id = 1; INSERT INTO parent VALUES (8, 'eight')");
    assert_eq!(noted(&b, 2).await.first[0].key, serde_json::json!({"id": 3}));
    write_freely(&b, "UPDATE child SET parent = 8 WHERE id = 3");
    noted(&b, 1).await;
    // While nobody looks.
    let mut b = b.restart(|conn| conn.execute_batch("UPDATE child SET parent = NULL").unwrap()).await;
    assert_eq!(told(&mut b).await, None);
    assert_eq!(noted(&b, 0).await, Orphans::default());
}

#[tokio::test]
async fn a_parent_may_come_after_its_rows_in_one_batch_and_in_several() {
    const REVERSED: &str = "
        CREATE TABLE child (id INTEGER PRIMARY KEY, parent INTEGER REFERENCES parent (id) DEFERRABLE INITIALLY DEFERRED);
        CREATE TABLE parent (id INTEGER PRIMARY KEY, name TEXT);";
    for (max_rows, batch) in [(20_000, 100), (20_000, 7), (5, 7)] {
        let folder = TempDir::new().unwrap();
        let setup = Setup { max_rows, ..Setup::of(REVERSED) };
        let a = Replica::create(folder.path(), "a", setup).await;
        let b = Replica::create(folder.path(), "b", setup).await;
        a.write(
            "BEGIN; WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 20) \
             INSERT INTO child SELECT i, i FROM n; \
             INSERT INTO parent SELECT id, 'p' FROM child; COMMIT",
        );
        // One that has none tells when the rest has been judged.
        write_freely(&a, "INSERT INTO child VALUES (99, 98)");
        b.pull(&a, batch).await;
        assert_eq!(lines(&noted(&b, 1).await.first), [r#"child {"id":99} {"parent":{"id":98}}"#], "{max_rows} {batch}");
        assert_eq!(b.text(NOTED), b.text(BROKEN));
        assert_eq!(b.dump(), a.dump());
    }
}

/// Refuses the row with a key.
struct Refusal(i64);

impl RowObserver for Refusal {
    fn observe(&self, row: &IncomingRow<'_>) -> RowVerdict {
        if row.key == [Value::Integer(self.0)] { RowVerdict::Fail("refused".to_owned()) } else { RowVerdict::Apply }
    }
}

#[tokio::test]
async fn a_merge_that_is_cut_off_judges_its_rows_all_the_same() {
    const REVERSED: &str = "
        CREATE TABLE child (id INTEGER PRIMARY KEY, parent INTEGER REFERENCES parent (id));
        CREATE TABLE parent (id INTEGER PRIMARY KEY, name TEXT);";
    let folder = TempDir::new().unwrap();
    let setup = Setup { max_rows: 5, ..Setup::of(REVERSED) };
    let a = Replica::create(folder.path(), "a", setup).await;
    let b = Replica::create(folder.path(), "b", setup).await;
    write_freely(
        &a,
        "BEGIN; WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 20) \
         INSERT INTO child SELECT i, i FROM n; \
         INSERT INTO parent SELECT id, 'p' FROM child WHERE id <> 3; INSERT INTO parent VALUES (60, 'p'); \
         INSERT INTO child VALUES (50, 60); COMMIT",
    );
    // The last row is not taken: the merge stands still with the parents and the children of its first transactions.
    let outcome = loop {
        let batch = b.next_from(&a, 7).await;
        let complete = batch.is_complete();
        let outcome = b.apply(batch, Some(Arc::new(Refusal(50)))).await;
        if complete {
            break outcome;
        }
    };
    assert!(matches!(outcome, ApplyOutcome::Failed { .. }), "{outcome:?}");
    assert_eq!(b.text("SELECT count(*) || '' FROM child"), "20");
    assert_eq!(b.text("SELECT count(*) || '' FROM _sync_meta WHERE key = 'parents_due'"), "1");
    assert_eq!(b.text(NOTED), "", "nothing is said of a merge that is not done");
    let b = b.restart(|_| ()).await;
    b.pull(&a, 7).await;
    assert_eq!(b.dump(), a.dump());
    assert_eq!(lines(&noted(&b, 1).await.first), [r#"child {"id":3} {"parent":{"id":3}}"#]);
    assert_eq!(b.text(NOTED), b.text(BROKEN));
    assert_eq!(b.text("SELECT count(*) || '' FROM _sync_meta WHERE key = 'parents_due'"), "0");
}

#[tokio::test]
async fn rows_of_a_deleted_parent_are_noted_where_an_index_finds_them() {
    const TWO: &str = "
        CREATE TABLE parent (id INTEGER PRIMARY KEY, code TEXT UNIQUE COLLATE NOCASE);
        CREATE TABLE child (id INTEGER PRIMARY KEY, parent INTEGER REFERENCES parent (id), label TEXT);
        CREATE INDEX child_parent ON child (parent);
        CREATE TABLE plain (id INTEGER PRIMARY KEY, parent INTEGER REFERENCES parent (id));
        CREATE TABLE coded (id INTEGER PRIMARY KEY, code TEXT COLLATE NOCASE REFERENCES parent (code));
        CREATE INDEX coded_code ON coded (code);
        INSERT INTO parent VALUES (1, 'Abc'), (2, 'def'), (3, 'ghi');";
    let folder = TempDir::new().unwrap();
    let [a, b] = replicas(&folder, TWO).await;
    a.database.publish().await;
    b.pull(&a, 100).await;
    b.write(
        "INSERT INTO child VALUES (1, 1, 'x'), (2, 2, 'y'); INSERT INTO plain VALUES (1, 1); \
         INSERT INTO coded VALUES (1, 'abc'), (2, 'DEF'), (3, 'ghi')",
    );
    // The other node knows nothing of these rows.
    a.write("DELETE FROM parent WHERE id = 1; UPDATE parent SET code = 'new' WHERE id = 2; UPDATE parent SET code = 'GHI' WHERE id = 3");
    b.pull(&a, 100).await;
    assert_eq!(
        lines(&noted(&b, 3).await.first),
        [
            r#"child {"id":1} {"parent":{"id":1}}"#,
            r#"coded {"id":1} {"parent":{"code":"abc"}}"#,
            r#"coded {"id":2} {"parent":{"code":"DEF"}}"#,
        ]
    );
    a.pull(&b, 100).await;
    let rows = a.until(|state| state.orphans.count == 4).await;
    assert_eq!(rows.orphans.first[3].table, "plain", "the node that lost the parent first is sent its rows");
}

#[tokio::test]
async fn every_kind_of_foreign_key_is_understood() {
    const KINDS: &str = "
        CREATE TABLE node (id INTEGER PRIMARY KEY, up INTEGER REFERENCES node);
        CREATE TABLE spot (x INTEGER, y TEXT, PRIMARY KEY (x, y)) WITHOUT ROWID;
        CREATE TABLE visit (id TEXT PRIMARY KEY, x, y, FOREIGN KEY (y, x) REFERENCES spot (y, x));
        CREATE TABLE person (id INTEGER PRIMARY KEY, mail TEXT UNIQUE);
        CREATE TABLE letter (id INTEGER PRIMARY KEY, mail INTEGER REFERENCES person (mail), \"from\" REFERENCES person);
        CREATE TABLE lost (id INTEGER PRIMARY KEY, a REFERENCES nowhere (b), c REFERENCES person (none));
        CREATE TABLE logged (line TEXT);";
    let folder = TempDir::new().unwrap();
    let [a, b] = replicas(&folder, KINDS).await;
    write_freely(
        &a,
        "INSERT INTO node VALUES (1, 1), (2, 1), (3, NULL), (4, 40);
         INSERT INTO spot VALUES (1, 'a');
         INSERT INTO visit VALUES ('here', 1, 'a'), ('half', 5, NULL), ('away', 1, 'b');
         INSERT INTO person VALUES (1, '007'), (2, '8');
         INSERT INTO letter VALUES (1, 8, 2), (2, '7', 1), (3, NULL, 9);
         INSERT INTO lost VALUES (1, NULL, 5), (2, 'x', NULL);",
    );
    b.pull(&a, 100).await;
    assert_eq!(
        lines(&noted(&b, 5).await.first),
        [
            r#"letter {"id":2} {"person":{"mail":7}}"#,
            r#"letter {"id":3} {"person":{"id":9}}"#,
            r#"lost {"id":2} {"nowhere":{"b":"x"}}"#,
            r#"node {"id":4} {"node":{"id":40}}"#,
            r#"visit {"id":"away"} {"spot":{"y":"b","x":1}}"#,
        ]
    );
    // A table that is made now has no row, and one that has the row makes up for it.
    b.write("CREATE TABLE nowhere (b PRIMARY KEY)");
    write_freely(&b, "INSERT INTO nowhere VALUES ('x')");
    noted(&b, 4).await;
}

#[tokio::test]
async fn cascades_that_ran_at_the_origin_are_not_run_again() {
    const CASCADES: &str = "
        CREATE TABLE parent (id INTEGER PRIMARY KEY, name TEXT);
        CREATE TABLE child (id INTEGER PRIMARY KEY, parent INTEGER REFERENCES parent (id) ON DELETE CASCADE ON UPDATE CASCADE);
        CREATE TABLE loose (id INTEGER PRIMARY KEY, parent INTEGER REFERENCES parent (id) ON DELETE SET NULL);
        CREATE INDEX child_parent ON child (parent); CREATE INDEX loose_parent ON loose (parent);
        INSERT INTO parent VALUES (1, 'one'), (2, 'two'), (3, 'three');
        INSERT INTO child VALUES (1, 1), (2, 2), (3, 3); INSERT INTO loose VALUES (1, 1), (2, 2);";
    let folder = TempDir::new().unwrap();
    let [a, b] = replicas(&folder, CASCADES).await;
    a.database.publish().await;
    b.pull(&a, 100).await;
    // These two rows are the other node's alone: a cascade here would take the one and change the other.
    b.write("INSERT INTO child VALUES (10, 1); INSERT INTO loose VALUES (10, 1)");
    a.write("DELETE FROM parent WHERE id = 1; UPDATE parent SET id = 30 WHERE id = 3");
    b.pull(&a, 2).await;
    assert_eq!(b.text("SELECT group_concat(id || '-' || parent) FROM child"), "2-2,3-30,10-1");
    assert_eq!(b.text("SELECT group_concat(id || '-' || coalesce(parent, 'NULL')) FROM loose"), "1-NULL,2-2,10-1");
    assert_eq!(
        lines(&noted(&b, 2).await.first),
        [r#"child {"id":10} {"parent":{"id":1}}"#, r#"loose {"id":10} {"parent":{"id":1}}"#]
    );
}

#[tokio::test]
async fn many_rows_without_parents_are_one_piece_of_news() {
    let folder = TempDir::new().unwrap();
    let [a, mut b] = replicas(&folder, FAMILY).await;
    write_freely(
        &a,
        "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 3000) \
         INSERT INTO child SELECT i, i, 'x' FROM n",
    );
    b.pull(&a, 10_000).await;
    let news = told(&mut b).await.unwrap();
    assert_eq!((news.count, news.first.len()), (3000, 5));
    assert_eq!(noted(&b, 3000).await.first.len(), 5);
    let other: Connection = b.application();
    other.execute_batch("INSERT INTO parent SELECT id, 'late' FROM child WHERE id <= 2990").unwrap();
    assert_eq!(noted(&b, 10).await.first[0].key, serde_json::json!({"id": 2991}));
    other.execute_batch("DELETE FROM child WHERE id > 2990").unwrap();
    assert_eq!(told(&mut b).await, None);
}
