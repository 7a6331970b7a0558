//! Rows that are new are written many at a time, unless an observer wants to see each: the rows, their clocks, what is recorded and
//! what waits are the same.

use std::sync::Arc;

use replication::{Granularity, Origin};
use rusqlite::Connection;
use rusqlite::types::Value;
use sqlite_store::{IncomingRow, RowObserver, RowVerdict};
use tempfile::TempDir;

use crate::replica::{Replica, Setup};
use crate::{Random, seeds};

const SOURCE: &str = "
    CREATE TABLE item (id INTEGER PRIMARY KEY, name TEXT UNIQUE, qty);
    CREATE TABLE word (word TEXT PRIMARY KEY COLLATE NOCASE, n) WITHOUT ROWID;
    CREATE TABLE pair (a INTEGER, b TEXT, value NUMERIC, PRIMARY KEY (a, b));
";

/// The same, but what some rows hold is not allowed here, and a table of the application's own follows another.
const TAKER: &str = "
    CREATE TABLE item (id INTEGER PRIMARY KEY, name TEXT UNIQUE, qty CHECK (qty <> 13));
    CREATE TABLE word (word TEXT PRIMARY KEY COLLATE NOCASE, n) WITHOUT ROWID;
    CREATE TABLE pair (a INTEGER, b TEXT, value NUMERIC, PRIMARY KEY (a, b));
    CREATE VIRTUAL TABLE found USING fts5 (name);
    CREATE TRIGGER item_found AFTER INSERT ON item BEGIN INSERT INTO found (rowid, name) VALUES (NEW.id, NEW.name); END;
    CREATE TRIGGER item_lost AFTER DELETE ON item BEGIN DELETE FROM found WHERE rowid = OLD.id; END;
";

struct Sees;

impl RowObserver for Sees {
    fn observe(&self, _: &IncomingRow<'_>) -> RowVerdict {
        RowVerdict::Apply
    }
}

/// Some hundred statements of an application: long runs of new rows, and changes of a few.
fn script(random: &mut Random, changes: bool) -> String {
    let mut sql = "BEGIN;".to_owned();
    for _ in 0..1 + random.below(4) {
        let (first, count) = (random.below(400), 1 + random.below(150));
        let odd = if random.below(4) == 0 { first + random.below(count) } else { u64::MAX / 4 };
        for id in first..first + count {
            let text = if random.below(60) == 0 { id % 7 } else { id };
            let qty = if id == odd { 13 } else { random.below(9) };
            sql.push_str(&match first % 3 {
                0 => format!("INSERT OR IGNORE INTO item VALUES ({id}, 'n{text}', {qty});"),
                1 => format!(
                    "INSERT OR IGNORE INTO word VALUES ('{}{text}', {qty});",
                    if id % 2 == 0 { "w" } else { "W" }
                ),
                _ => format!("INSERT OR IGNORE INTO pair VALUES ({id}, 'b{}', {qty}.5);", text % 3),
            });
        }
        if changes && random.below(3) > 0 {
            let id = random.below(400);
            sql.push_str(&format!(
                "UPDATE item SET qty = -qty - 1 WHERE id BETWEEN {id} AND {0}; DELETE FROM word WHERE word = 'w{id}';
                 DELETE FROM pair WHERE a BETWEEN {id} AND {0};",
                id + random.below(9)
            ));
        }
    }
    sql + "COMMIT"
}

fn lines(conn: &Connection, sql: &str) -> Vec<Vec<Value>> {
    let mut statement = conn.prepare(sql).unwrap();
    let width = statement.column_count();
    let rows = statement.query_map([], |row| (0..width).map(|index| row.get(index)).collect::<Result<Vec<_>, _>>());
    rows.unwrap().map(Result::unwrap).collect()
}

/// All that is the same in files of two nodes that were told the same: of entries, those of the teller.
fn told(replica: &Replica, teller: Origin) -> Vec<(String, Vec<Vec<Value>>)> {
    let conn = replica.application();
    let id = format!("SELECT id FROM _sync_origin WHERE lower(hex(origin)) = replace('{teller}', '-', '')");
    let entries = |table, keys| {
        format!(
            "SELECT {keys}, col, seq, flags, ts FROM _sync_clock_{table} WHERE origin = ({id}) ORDER BY {keys}, col"
        )
    };
    assert_eq!(lines(&conn, &id).len(), 1);
    [
        "SELECT * FROM item ORDER BY 1".to_owned(),
        "SELECT * FROM word ORDER BY 1".to_owned(),
        "SELECT * FROM pair ORDER BY 1, 2".to_owned(),
        "SELECT rowid, name FROM found ORDER BY 1, 2".to_owned(),
        entries("item", "k0"),
        entries("word", "k0"),
        entries("pair", "k0, k1"),
        "SELECT tbl, json_extract(record, '$.kind'), json_extract(record, '$.winner.row'), json_extract(record, '$.loser.row')
         FROM _sync_conflict ORDER BY 1, 2, 3, 4".to_owned(),
        "SELECT count(*) FROM _sync_parked".to_owned(),
    ]
    .map(|sql| { let lines = lines(&conn, &sql); (sql, lines) })
    .to_vec()
}

async fn same(seed: u64) {
    let folder = TempDir::new().unwrap();
    let mut random = Random(seed);
    let granularity = if seed.is_multiple_of(3) { Granularity::Row } else { Granularity::Column };
    let setup = |schema| Setup { granularity, ..Setup::of(schema) };
    let a = Replica::create(folder.path(), "a", setup(SOURCE)).await;
    let takers = [
        Replica::create(folder.path(), "together", setup(TAKER)).await,
        Replica::create(folder.path(), "one_by_one", setup(TAKER)).await,
    ];
    let teller = a.database.state().borrow().origin.unwrap();
    let shown: [Option<Arc<dyn RowObserver>>; 2] = [None, Some(Arc::new(Sees))];
    for _ in 0..2 + random.below(3) {
        if random.below(3) == 0 {
            let sql = script(&mut random, true).replace("13);", "12);");
            takers.iter().for_each(|taker| taker.write(&sql));
        }
        a.write(&script(&mut random, true));
        let rows = if random.below(2) == 0 { 10_000 } else { 40 + usize::try_from(random.below(200)).unwrap() };
        for (taker, observer) in takers.iter().zip(&shown) {
            taker.pull_shown(&a, rows, observer.as_ref()).await;
        }
        let [together, one_by_one] = takers.each_ref().map(|taker| told(taker, teller));
        for ((sql, left), (_, right)) in together.into_iter().zip(one_by_one) {
            assert_eq!(left, right, "seed {seed}: {sql}");
        }
    }
}

#[tokio::test]
async fn rows_that_are_new_are_written_together_as_they_are_one_by_one() {
    for seed in seeds(20) {
        same(seed).await;
    }
}
