//! What a conflict discarded is written back, and reaches all nodes.

use replication::Granularity;
use sqlite_store::{ConflictAction, ConflictQuery, Refusal, RefusalKind, StoredConflict};
use tempfile::TempDir;

use crate::capture::later;
use crate::replica::{Replica, Setup};
use crate::settle;

const STOCK: &str = "CREATE TABLE stock (sku TEXT PRIMARY KEY, qty INTEGER, note TEXT, CHECK (qty < 1000));
                     INSERT INTO stock VALUES ('A', 1, 'old'), ('B', 2, 'old');";
const ACCOUNT: &str = "CREATE TABLE account (id INTEGER PRIMARY KEY, email TEXT UNIQUE, name TEXT)";
const ROW_A: &str = "SELECT coalesce(max(sku || ' ' || coalesce(qty, '-') || ' ' || coalesce(note, '-')), 'gone') \
                     FROM stock WHERE sku = 'A'";

/// Two replicas in step that then write apart, the first before the second, and meet again.
async fn apart(folder: &TempDir, setup: Setup, first: &str, second: &str) -> [Replica; 2] {
    let replicas = [Replica::create(folder.path(), "a", setup).await, Replica::create(folder.path(), "b", setup).await];
    for replica in &replicas {
        replica.database.publish().await;
    }
    settle(&replicas, || 100).await;
    replicas[0].write(first);
    replicas[1].write(second);
    settle(&replicas, || 100).await;
    replicas
}

/// Records in any state, the newest first.
async fn records(replica: &Replica) -> Vec<StoredConflict> {
    replica.database.conflicts(&ConflictQuery { limit: 100, ..ConflictQuery::default() }).await.unwrap()
}

/// The one record of a conflict; the first replica decides it.
async fn only_record(replicas: &[Replica]) -> StoredConflict {
    assert!(records(&replicas[1]).await.is_empty());
    let mut found = records(&replicas[0]).await;
    assert_eq!(found.len(), 1, "{found:?}");
    found.remove(0)
}

async fn act(replica: &Replica, number: i64, action: ConflictAction) -> Result<StoredConflict, Refusal> {
    replica.database.act(number, action).await.unwrap()
}

/// The refusal to restore a record, which changes nothing.
async fn refused(replica: &Replica, number: i64) -> Refusal {
    let before = (replica.dump(), replica.conflicts());
    let refusal = act(replica, number, ConflictAction::Restore).await.unwrap_err();
    assert_eq!(before, (replica.dump(), replica.conflicts()));
    refusal
}

/// Restores the one record, lets all hear of it, and compares what they have then.
async fn restored(replicas: &[Replica]) -> StoredConflict {
    let record = restored_somehow(replicas).await;
    assert_eq!(replicas[0].dump(), replicas[1].dump());
    record
}

async fn restored_somehow(replicas: &[Replica]) -> StoredConflict {
    let record = only_record(replicas).await;
    let record = act(&replicas[0], record.number, ConflictAction::Restore).await.unwrap();
    assert_eq!(record.state, "restored");
    assert_eq!(records(&replicas[0]).await, std::slice::from_ref(&record));
    assert_eq!(replicas[0].conflicts(), 0);
    settle(replicas, || 100).await;
    record
}

#[tokio::test]
async fn a_lost_update_comes_back_in_the_columns_that_were_lost() {
    let folder = TempDir::new().unwrap();
    let first = "UPDATE stock SET qty = 10, note = 'first' WHERE sku = 'A'";
    let replicas = apart(&folder, Setup::of(STOCK), first, "UPDATE stock SET qty = 20 WHERE sku = 'A'").await;
    assert_eq!(only_record(&replicas).await.sides.columns, ["qty"]);
    // What was written since stands.
    replicas[1].write("UPDATE stock SET note = 'since' WHERE sku = 'A'");
    settle(&replicas, || 100).await;
    let record = restored(&replicas).await;
    for replica in &replicas {
        assert_eq!(replica.text(ROW_A), "A 10 since");
    }
    let replaced = record.sides.replaced.unwrap().row.unwrap();
    assert_eq!((&replaced["qty"], &replaced["note"]), (&20.into(), &"since".into()));
}

#[tokio::test]
async fn a_restored_column_leaves_the_others_to_whoever_writes_them_meanwhile() {
    let folder = TempDir::new().unwrap();
    let (first, second) = ("UPDATE stock SET qty = 10 WHERE sku = 'A'", "UPDATE stock SET qty = 20 WHERE sku = 'A'");
    let replicas = apart(&folder, Setup::of(STOCK), first, second).await;
    let number = only_record(&replicas).await.number;
    // The other node has not heard of the restore when it writes.
    replicas[1].write("UPDATE stock SET note = 'meanwhile' WHERE sku = 'A'");
    later();
    act(&replicas[0], number, ConflictAction::Restore).await.unwrap();
    settle(&replicas, || 100).await;
    for replica in &replicas {
        assert_eq!((replica.text(ROW_A).as_str(), replica.conflicts()), ("A 10 meanwhile", 0));
    }
}

#[tokio::test]
async fn where_rows_are_merged_as_wholes_they_come_back_as_wholes() {
    let folder = TempDir::new().unwrap();
    let setup = Setup { granularity: Granularity::Row, ..Setup::of(STOCK) };
    let first = "UPDATE stock SET qty = 10, note = 'first' WHERE sku = 'A'";
    let replicas = apart(&folder, setup, first, "UPDATE stock SET qty = 20 WHERE sku = 'A'").await;
    replicas[1].write("UPDATE stock SET note = 'since' WHERE sku = 'A'");
    settle(&replicas, || 100).await;
    restored(&replicas).await;
    assert_eq!(replicas[1].text(ROW_A), "A 10 first");
}

#[tokio::test]
async fn a_lost_deletion_takes_place_after_all() {
    for granularity in [Granularity::Column, Granularity::Row] {
        let folder = TempDir::new().unwrap();
        let setup = Setup { granularity, ..Setup::of(STOCK) };
        let second = "UPDATE stock SET qty = 20 WHERE sku = 'A'";
        let replicas = apart(&folder, setup, "DELETE FROM stock WHERE sku = 'A'", second).await;
        assert_eq!(replicas[0].text(ROW_A), "A 20 old");
        let record = restored(&replicas).await;
        assert_eq!(replicas[1].text(ROW_A), "gone", "{granularity:?}");
        assert_eq!(record.sides.replaced.unwrap().row.unwrap()["qty"], 20);
    }
}

#[tokio::test]
async fn an_update_that_a_deletion_beat_brings_the_row_back() {
    let folder = TempDir::new().unwrap();
    let first = "UPDATE stock SET qty = 10 WHERE sku = 'A'";
    let replicas = apart(&folder, Setup::of(STOCK), first, "DELETE FROM stock WHERE sku = 'A'").await;
    assert_eq!(replicas[0].text(ROW_A), "gone");
    let record = restored(&replicas).await;
    assert_eq!(replicas[1].text(ROW_A), "A 10 old");
    // What was replaced is the deletion.
    assert_eq!(record.sides.replaced.unwrap().row, None);
}

#[tokio::test]
async fn the_row_of_a_lost_insert_comes_back_value_by_value() {
    let folder = TempDir::new().unwrap();
    let schema = "CREATE TABLE t (id INTEGER PRIMARY KEY, i, r, s TEXT, b BLOB, n)";
    let first = "INSERT INTO t VALUES (1, 9223372036854775807, 2.0, CAST(x'ff00' AS TEXT), x'00ff', NULL)";
    let second = "INSERT INTO t VALUES (1, 0, -9e999, 'there', x'', 'x')";
    let replicas = apart(&folder, Setup::of(schema), first, second).await;
    assert_eq!(only_record(&replicas).await.kind, "insert_exists");
    // Not every text in it can be compared as text.
    restored_somehow(&replicas).await;
    let row =
        "SELECT typeof(i) || i || typeof(r) || r || hex(s) || typeof(s) || hex(b) || typeof(b) || typeof(n) FROM t";
    assert_eq!(replicas[1].text(row), "integer9223372036854775807real2.0FF00text00FFblobnull");
}

/// Two rows with one unique value of which the later one kept it: id 2 of two.
async fn displaced(folder: &TempDir) -> [Replica; 2] {
    let first = "INSERT INTO account VALUES (1, 'same', 'first')";
    let second = "INSERT INTO account VALUES (2, 'same', 'second')";
    let replicas = apart(folder, Setup::of(ACCOUNT), first, second).await;
    assert_eq!(replicas[0].text("SELECT group_concat(id) FROM account"), "2");
    replicas
}

#[tokio::test]
async fn a_row_that_lost_its_unique_value_comes_back_once_the_value_is_free() {
    let folder = TempDir::new().unwrap();
    let replicas = displaced(&folder).await;
    let number = only_record(&replicas).await.number;
    let before = replicas[0].database.state().borrow().have.clone();
    let refusal = refused(&replicas[0], number).await;
    assert_eq!(refusal.kind, RefusalKind::InTheWay);
    assert_eq!(replicas[0].database.state().borrow().have, before, "no change was issued");
    let said = refusal.to_string();
    assert!(said.contains(r#"row {"id":2} of table "account""#) && said.contains("account.email"), "{said}");
    assert!(said.contains("give that row another value or delete it"), "{said}");
    assert_eq!(only_record(&replicas).await.state, "open");
    replicas[1].write("UPDATE account SET email = 'other' WHERE id = 2");
    settle(&replicas, || 100).await;
    restored(&replicas).await;
    let rows = "SELECT group_concat(id || email || name) FROM (SELECT * FROM account ORDER BY id)";
    assert_eq!(replicas[1].text(rows), "1samefirst,2othersecond");
}

/// What an index is made of is not told by its columns.
#[tokio::test]
async fn the_row_in_the_way_is_found_whatever_the_index_is_made_of() {
    let folder = TempDir::new().unwrap();
    let schema = "CREATE TABLE account (id TEXT PRIMARY KEY COLLATE NOCASE, email TEXT);
                  CREATE UNIQUE INDEX account_email ON account (lower(email)) WHERE email <> ''";
    let first = "INSERT INTO account VALUES ('One', 'same')";
    let second = "INSERT INTO account VALUES ('Two', 'SAME')";
    let replicas = apart(&folder, Setup::of(schema), first, second).await;
    // A row of the same key is not in the way: it is replaced.
    replicas[1].write("INSERT INTO account VALUES ('ONE', 'new')");
    settle(&replicas, || 100).await;
    let number = only_record(&replicas).await.number;
    let said = refused(&replicas[0], number).await.to_string();
    assert!(said.starts_with(r#"row {"id":"Two"} of table"#), "{said}");
    replicas[0].write("DELETE FROM account WHERE id = 'two'");
    restored(&replicas).await;
    assert_eq!(replicas[1].text("SELECT group_concat(id || email) FROM account"), "Onesame");
}

#[tokio::test]
async fn a_constraint_that_refuses_the_row_is_told_and_nothing_is_changed() {
    let folder = TempDir::new().unwrap();
    let strict = "CREATE TABLE stock (sku TEXT PRIMARY KEY, qty INTEGER, note TEXT);
                  INSERT INTO stock VALUES ('A', 1, 'old'), ('B', 2, 'old')";
    let first = "UPDATE stock SET qty = 999 WHERE sku = 'A'";
    let replicas = apart(&folder, Setup::of(strict), first, "UPDATE stock SET qty = 20 WHERE sku = 'A'").await;
    let number = only_record(&replicas).await.number;
    for replica in &replicas {
        replica.write(
            "BEGIN; CREATE TABLE fresh (sku TEXT PRIMARY KEY, qty INTEGER CHECK (qty < 100), note TEXT);
             INSERT INTO fresh SELECT * FROM stock; DROP TABLE stock; ALTER TABLE fresh RENAME TO stock; COMMIT",
        );
    }
    settle(&replicas, || 100).await;
    let said = refused(&replicas[0], number).await.to_string();
    assert!(said.contains(r#"table "stock" does not take"#) && said.contains("qty < 100"), "{said}");
    // Nothing of the failed try is left in the way.
    replicas[0].write("UPDATE stock SET qty = 30 WHERE sku = 'A'");
    settle(&replicas, || 100).await;
    assert_eq!(replicas[1].text(ROW_A), "A 30 old");
}

#[tokio::test]
async fn columns_are_found_by_their_names_after_a_migration() {
    let folder = TempDir::new().unwrap();
    let second = "DELETE FROM stock WHERE sku = 'A'";
    let schema = "CREATE TABLE stock (sku TEXT PRIMARY KEY, qty INTEGER, note TEXT);
                  INSERT INTO stock VALUES ('A', 1, 'old')";
    let first = "UPDATE stock SET qty = 10, note = 'lost' WHERE sku = 'A'";
    let replicas = apart(&folder, Setup::of(schema), first, second).await;
    for replica in &replicas {
        let before = replica.database.state().borrow().tables.clone();
        replica.write(
            "BEGIN; CREATE TABLE fresh (added TEXT NOT NULL DEFAULT 'by default', qty INTEGER, sku TEXT PRIMARY KEY);
             INSERT INTO fresh (sku, qty) SELECT sku, qty FROM stock; DROP TABLE stock;
             ALTER TABLE fresh RENAME TO stock; COMMIT",
        );
        replica.until(|state| state.tables != before).await;
    }
    let record = restored(&replicas).await;
    assert_eq!(record.sides.left_out, ["note"]);
    assert_eq!(record.sides.loser.unwrap().row.unwrap()["note"], "lost");
    assert_eq!(replicas[1].text("SELECT added || ' ' || qty || ' ' || sku FROM stock"), "by default 10 A");
}

#[tokio::test]
async fn a_table_or_columns_that_are_gone_are_told() {
    let folder = TempDir::new().unwrap();
    let schema =
        "CREATE TABLE stock (sku TEXT PRIMARY KEY, qty INTEGER, note TEXT); CREATE TABLE other (k PRIMARY KEY, v);
                  INSERT INTO stock VALUES ('A', 1, 'old')";
    let (first, second) = ("UPDATE stock SET note = 'x'", "UPDATE stock SET note = 'y'");
    let replicas = apart(&folder, Setup::of(schema), first, second).await;
    let number = only_record(&replicas).await.number;
    let replica = &replicas[0];
    replica.write(
        "BEGIN; CREATE TABLE fresh (sku TEXT PRIMARY KEY, qty INTEGER);
         INSERT INTO fresh SELECT sku, qty FROM stock; DROP TABLE stock; ALTER TABLE fresh RENAME TO stock; COMMIT",
    );
    let said = refused(replica, number).await.to_string();
    assert!(said.contains(r#"table "stock" no longer has the columns that were lost: ["note"]"#), "{said}");
    replica.write("ALTER TABLE stock RENAME TO shelf");
    let said = refused(replica, number).await.to_string();
    assert!(said.contains(r#"table "stock" is not synced here any more"#), "{said}");
    act(replica, number, ConflictAction::Dismiss).await.unwrap();
    assert_eq!(replica.conflicts(), 0);
}

#[tokio::test]
async fn a_row_without_a_name_cannot_come_back() {
    let folder = TempDir::new().unwrap();
    let schema = "CREATE TABLE t (id TEXT PRIMARY KEY, slug TEXT UNIQUE)";
    let replicas = [
        Replica::create(folder.path(), "a", Setup::of(schema)).await,
        Replica::create(folder.path(), "b", Setup::of(schema)).await,
    ];
    replicas[0].write("INSERT INTO t VALUES (NULL, 'v')");
    replicas[1].write("INSERT INTO t VALUES ('x', 'v')");
    replicas[0].pull(&replicas[1], 100).await;
    let number = only_record(&replicas).await.number;
    let said = refused(&replicas[0], number).await.to_string();
    assert!(said.contains("has NULL in its key"), "{said}");
}

#[tokio::test]
async fn a_record_is_acted_on_once() {
    let folder = TempDir::new().unwrap();
    let (first, second) = ("UPDATE stock SET qty = 10", "UPDATE stock SET qty = 20");
    let replicas = apart(&folder, Setup::of(STOCK), first, second).await;
    let [newer, older] = records(&replicas[0]).await.try_into().unwrap();
    act(&replicas[0], newer.number, ConflictAction::Restore).await.unwrap();
    act(&replicas[0], older.number, ConflictAction::Dismiss).await.unwrap();
    for (number, state) in [(newer.number, "restored"), (older.number, "dismissed")] {
        for action in [ConflictAction::Restore, ConflictAction::Dismiss] {
            let refusal = act(&replicas[0], number, action).await.unwrap_err();
            assert_eq!(refusal.kind, RefusalKind::Closed);
            assert!(refusal.reason.ends_with(&format!("it is {state} already")), "{refusal}");
        }
    }
    let unknown = act(&replicas[0], 999, ConflictAction::Restore).await.unwrap_err();
    assert_eq!(unknown.kind, RefusalKind::Unknown);
}

/// Of a merge, the side is called the loser whose write of the column in conflict does not stand, whichever side came in.
#[tokio::test]
async fn of_rows_that_are_merged_the_older_write_of_the_column_in_conflict_is_restored() {
    let schema = "CREATE TABLE stock (sku TEXT PRIMARY KEY, qty INTEGER, note TEXT, place TEXT);
                  INSERT INTO stock VALUES ('A', 1, 'old', 'old')";
    for decider in [0, 1] {
        let folder = TempDir::new().unwrap();
        let replicas = apart(&folder, Setup::of(schema), "SELECT 1", "SELECT 1").await;
        replicas[0].write("UPDATE stock SET qty = 10, note = 'new'");
        replicas[1].write("UPDATE stock SET qty = 20, place = 'new'");
        replicas[decider].pull(&replicas[1 - decider], 100).await;
        settle(&replicas, || 100).await;
        let record = records(&replicas[decider]).await.remove(0);
        let loser = record.sides.loser.as_ref().unwrap();
        let origin = replicas[0].database.state().borrow().origin.unwrap().to_string();
        assert!(loser.dot.starts_with(&origin) && record.outcome == ["apply", "skip"][decider], "{record:?}");
        act(&replicas[decider], record.number, ConflictAction::Restore).await.unwrap();
        settle(&replicas, || 100).await;
        assert_eq!(replicas[1 - decider].text("SELECT qty || ' ' || note || ' ' || place FROM stock"), "10 new new");
    }
}
