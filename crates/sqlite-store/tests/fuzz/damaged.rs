//! Somebody wrote into the daemon's tables. It may say that it cannot go on, or take what is there for what it is not; it does not
//! panic, does not hang, and the application goes on.

use std::path::{Path, PathBuf};
use std::sync::LazyLock;
use std::time::Duration;

use bolero::check;
use rusqlite::Connection;
use rusqlite::types::Value;
use tempfile::TempDir;

use crate::choices::{Choices, bytes, each_seed};
use crate::replica::{Replica, application, tables};

/// Two files whose tables hold something of each kind: clocks of rows, of columns and of deletions, conflicts, rows that wait.
struct Model {
    folder: TempDir,
}

static MODEL: LazyLock<Model> = LazyLock::new(|| {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(Model::make())
});

fn files(folder: &Path) -> [PathBuf; 2] {
    ["a.db", "b.db"].map(|name| folder.join(name))
}

impl Model {
    async fn make() -> Self {
        let folder = TempDir::new().unwrap();
        let schema = "CREATE TABLE item (id INTEGER PRIMARY KEY, name TEXT UNIQUE, qty); \
                      CREATE TABLE part (a TEXT COLLATE NOCASE, b BLOB, c, PRIMARY KEY (a, b)) WITHOUT ROWID;";
        let conns = files(folder.path()).map(|file| application(&file));
        for conn in &conns {
            conn.execute_batch(schema).unwrap();
        }
        conns[0]
            .execute_batch("INSERT INTO item VALUES (1, 'baseline', 1); CREATE TABLE alone (id INTEGER PRIMARY KEY, v)")
            .unwrap();
        let replicas = {
            let [a, b] = files(folder.path());
            [Replica::start(a).await.unwrap(), Replica::start(b).await.unwrap()]
        };
        let exchange = async || {
            for (to, from) in [(0, 1), (1, 0), (0, 1), (1, 0)] {
                replicas[to].pull(&replicas[from]).await.unwrap();
            }
        };
        replicas[0].database.publish().await;
        conns[0]
            .execute_batch(
                "INSERT INTO item VALUES (2, 'a', 1), (3, 'gone', 1); INSERT INTO part VALUES ('x', x'01', 1); \
                 INSERT INTO alone VALUES (1, 'nobody else has it'); DELETE FROM item WHERE id = 3",
            )
            .unwrap();
        conns[1]
            .execute_batch("INSERT INTO item VALUES (4, 'b', 1); INSERT INTO part VALUES ('y', x'', NULL)")
            .unwrap();
        exchange().await;
        conns[0]
            .execute_batch("UPDATE item SET qty = 2 WHERE id = 4; UPDATE item SET name = 'here' WHERE id = 2")
            .unwrap();
        conns[1]
            .execute_batch("UPDATE item SET qty = 3 WHERE id = 4; UPDATE item SET name = 'there' WHERE id = 2")
            .unwrap();
        exchange().await;
        for replica in replicas {
            replica.close().await.unwrap();
        }
        let count = |place: usize, what: &str| -> i64 {
            conns[place].query_row(&format!("SELECT count(*) FROM {what}"), [], |row| row.get(0)).unwrap()
        };
        assert!(count(0, "_sync_clock_item WHERE col > 0") > 0, "columns");
        assert!(count(0, "_sync_clock_item WHERE flags & 2") > 0, "deletions");
        assert!(count(0, "_sync_conflict") + count(1, "_sync_conflict") > 0, "conflicts");
        assert!(count(1, "_sync_parked") > 0, "rows that wait");
        Self { folder }
    }
}

/// Values that stand for much, and some that stand for nothing.
fn value(choices: &mut Choices<'_>, now: &Value) -> Value {
    match choices.below(14) {
        0 => Value::Null,
        1 => Value::Integer(-1),
        2 => Value::Integer(i64::from(choices.byte())),
        3 => Value::Integer(i64::MAX),
        4 => Value::Integer(i64::MIN),
        5 => Value::Real(1.5e300),
        6 => Value::Text(String::new()),
        7 => Value::Text("{\"a\":[1,null,{}]}".to_owned()),
        8 => Value::Text("[[[[".to_owned()),
        9 => Value::Blob(Vec::new()),
        10 => Value::Blob(vec![choices.byte(); 16]),
        11 => Value::Blob((0..choices.below(40)).map(|_| choices.byte()).collect()),
        _ => altered(choices, now),
    }
}

/// What is there, with a little of it changed.
fn altered(choices: &mut Choices<'_>, now: &Value) -> Value {
    let mut flip = |bytes: &mut Vec<u8>| {
        if !bytes.is_empty() {
            let place = choices.below(bytes.len());
            bytes[place] ^= 1 << choices.below(8);
        }
    };
    match now {
        Value::Blob(bytes) => {
            let mut bytes = bytes.clone();
            flip(&mut bytes);
            Value::Blob(bytes)
        }
        Value::Text(text) => {
            let mut bytes = text.clone().into_bytes();
            flip(&mut bytes);
            Value::Text(String::from_utf8_lossy(&bytes).into_owned())
        }
        Value::Integer(number) => Value::Integer(number ^ (1 << choices.below(63))),
        other => other.clone(),
    }
}

/// Changes or deletes a row of one of the daemon's tables; tells what it did.
fn damage(conn: &Connection, choices: &mut Choices<'_>) -> String {
    let ours: Vec<String> = tables(conn).into_iter().filter(|name| name.starts_with("_sync_")).collect();
    let table = &ours[choices.below(ours.len())];
    let columns = conn.prepare(&format!("SELECT * FROM {table}")).unwrap();
    let columns: Vec<String> = columns.column_names().into_iter().map(str::to_owned).collect();
    let column = &columns[choices.below(columns.len())];
    let count: i64 = conn.query_row(&format!("SELECT count(*) FROM {table}"), [], |row| row.get(0)).unwrap();
    if count == 0 {
        return format!("-- {table} is empty");
    }
    let place = i64::from(choices.byte()) % count;
    let sql = format!("SELECT {column} FROM {table} LIMIT 1 OFFSET {place}");
    let now: Value = conn.query_row(&sql, [], |row| row.get(0)).unwrap();
    if choices.one_in(8) {
        conn.execute(&format!("DELETE FROM {table} WHERE {column} IS ?1"), [&now]).unwrap();
        return format!("DELETE FROM {table} WHERE {column} IS {now:?}");
    }
    let new = value(choices, &now);
    // What breaks a constraint of the table cannot come about.
    let changed =
        conn.execute(&format!("UPDATE OR IGNORE {table} SET {column} = ?2 WHERE {column} IS ?1"), [&now, &new]);
    format!("UPDATE {table} SET {column} = {new:?} WHERE {column} IS {now:?}; -- {changed:?}")
}

async fn run(choices: &mut Choices<'_>) {
    let folder = TempDir::new().unwrap();
    for (from, to) in files(MODEL.folder.path()).iter().zip(files(folder.path())) {
        std::fs::copy(from, to).unwrap();
    }
    let mut both = files(folder.path());
    both.rotate_left(choices.below(2));
    let [damaged, sound] = both;
    let conn = application(&damaged);
    let done: Vec<String> = (0..1 + choices.below(4)).map(|_| damage(&conn, choices)).collect();
    let told = done.join("\n");
    let other = Replica::start(sound.clone()).await.unwrap();
    let replica = match Replica::start(damaged.clone()).await {
        Ok(replica) => Some(replica),
        Err(reason) if reason.starts_with("not reached") || reason.contains("thread") => {
            panic!("{reason} after\n{told}")
        }
        // It said why it does not go on.
        Err(_) => None,
    };
    for number in 0..3 {
        conn.execute_batch(&format!(
            "INSERT INTO item VALUES ({}, NULL, 1); UPDATE item SET qty = {number} WHERE id = 2; \
             DELETE FROM part WHERE a = 'x'; INSERT OR REPLACE INTO item VALUES (4, 'b {number}', 7)",
            100 + number
        ))
        .unwrap_or_else(|error| panic!("the application is told {error} after\n{told}"));
        application(&sound).execute_batch(&format!("UPDATE item SET qty = qty || '{number}' WHERE id = 1")).unwrap();
        if let Some(replica) = &replica {
            // Either may refuse what the other says.
            let _ = replica.pull(&other).await;
            let _ = other.pull(replica).await;
            assert!(replica.database.state().has_changed().is_ok(), "its thread has panicked after\n{told}");
            assert!(other.database.state().has_changed().is_ok(), "the other's thread has panicked after\n{told}");
        }
    }
    for replica in replica.into_iter().chain([other]) {
        let _ = replica.close().await;
    }
    for conn in [&conn, &application(&sound)] {
        let answer: String = conn.query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap();
        assert_eq!(answer, "ok", "after\n{told}");
    }
}

fn run_bytes(bytes: &[u8]) {
    LazyLock::force(&MODEL);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let ended = tokio::time::timeout(Duration::from_secs(60), run(&mut Choices(bytes))).await;
        ended.expect("it does not come to an end");
    });
}

#[test]
fn damaged_bookkeeping_neither_stops_the_application_nor_makes_anybody_panic() {
    each_seed(150, run_bytes);
}

/// The same for inputs that a search led by coverage comes upon, and those that were kept of them.
#[test]
fn damaged_bookkeeping_whatever_is_searched_for() {
    let target = check!().with_shrink_time(Duration::ZERO).with_iterations(0);
    target.with_generator(bytes(100)).for_each(|bytes| run_bytes(bytes));
}
