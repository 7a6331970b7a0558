//! An application with any schema does not notice that its database is in sync, and another database holds the same rows.

use std::path::Path;
use std::time::Duration;

use bolero::check;
use rusqlite::Connection;
use tempfile::TempDir;

use crate::choices::{Choices, bytes, each_seed};
use crate::generated_schema::schema;
use crate::generated_writes::write;
use crate::replica::{Replica, application, execute, named_rows, rows, schema_text, tables};

/// One application on two files: one is put under sync, the other is not.
struct Twins {
    plain: Connection,
    synced: Connection,
    /// All that was done, to be told.
    done: Vec<String>,
    /// They have parted, as they may.
    over: bool,
}

impl Twins {
    fn new(folder: &Path) -> Self {
        let [plain, synced] = ["plain.db", "synced.db"].map(|name| application(&folder.join(name)));
        for conn in [&plain, &synced] {
            conn.execute_batch("PRAGMA journal_mode = WAL").unwrap();
        }
        Self { plain, synced, done: Vec::new(), over: false }
    }

    /// Does the same in both; the application must not see any difference. Whether it worked.
    fn execute(&mut self, sql: &str) -> bool {
        if self.over {
            return false;
        }
        let plain = execute(&self.plain, sql);
        self.done.push(format!("{sql}; -- {}", plain.as_ref().err().map_or("", String::as_str)));
        let synced = execute(&self.synced, sql);
        match (&plain, &synced) {
            // What such a statement did before it failed stays there in a transaction, where there are no triggers: SQLite does
            // not foresee that it fails.
            (Err(reason), Err(_)) if is_unforeseen(reason) && !self.plain.is_autocommit() => self.over = true,
            // Which of several rules a row is said to break depends on whether there are triggers; and on that, perhaps, what
            // stays of the statement.
            (Err(here), Err(there)) => self.over |= here != there,
            // So it does in STRICT tables whether OR IGNORE comes upon NULL or upon a type first, which it does not ignore.
            (Ok(_), Err(reason)) if reason.starts_with("cannot store") && sql.contains("IGNORE") => self.over = true,
            // A foreign key to columns that are not unique fails nearly all writes to both tables. SQLite lets single rows into
            // the parent table, where there are no triggers.
            (Ok(_), Err(reason)) if reason.starts_with("foreign key mismatch") => self.over = true,
            _ => assert_eq!(synced, plain, "{sql}\nafter\n{}", self.told()),
        }
        plain.is_ok()
    }

    fn told(&self) -> String {
        self.done.join("\n")
    }

    fn fail<T>(&self, reason: &str) -> T {
        panic!("{reason}\nafter\n{}", self.told())
    }

    /// Ends a transaction that was left open.
    fn commit(&mut self) {
        if !self.plain.is_autocommit() && !self.execute("COMMIT") {
            self.execute("ROLLBACK");
        }
    }

    fn compare(&self) {
        for table in tables(&self.plain) {
            assert_eq!(rows(&self.synced, &table), rows(&self.plain, &table), "{table:?} after\n{}", self.told());
        }
    }
}

/// Whether a statement failed at something other than a constraint.
fn is_unforeseen(reason: &str) -> bool {
    let reasons = ["datatype mismatch", "cannot store", "too many levels of trigger recursion"];
    reasons.iter().any(|unforeseen| reason.starts_with(unforeseen))
}

/// What waits in a database that did not take all rows, and why.
fn waiting(copy: &Connection) -> String {
    let sql = "SELECT group_concat(tbl || ': ' || reason, '; ') FROM _sync_parked";
    copy.query_row(sql, [], |row| row.get::<_, Option<String>>(0)).unwrap().unwrap_or_default()
}

async fn run(choices: &mut Choices<'_>) {
    let folder = TempDir::new().unwrap();
    let mut twins = Twins::new(folder.path());
    let (statements, asked) = schema(choices);
    let made: Vec<String> = statements.into_iter().filter(|sql| twins.execute(sql)).collect();
    application(&folder.path().join("other.db")).execute_batch(&made.join(";\n")).unwrap();
    for _ in 0..choices.below(6) {
        twins.execute(&write(choices, &asked));
    }
    twins.commit();
    if twins.over {
        return;
    }
    let replica = Replica::start(folder.path().join("synced.db")).await;
    let replica = replica.unwrap_or_else(|reason| twins.fail(&reason));
    twins.done.push("-- attached".to_owned());
    while !choices.is_over() && !twins.over {
        twins.execute(&write(choices, &asked));
    }
    twins.commit();
    if twins.over {
        return;
    }
    twins.compare();
    let other = Replica::start(folder.path().join("other.db")).await;
    let other = other.unwrap_or_else(|reason| twins.fail(&reason));
    replica.database.publish().await;
    let copy = application(&folder.path().join("other.db"));
    let unsynced = replica.database.state().borrow().unsynced.clone();
    let synced = tables(&twins.plain).into_iter().filter(|name| unsynced.iter().all(|table| table.table != *name));
    let synced: Vec<String> = synced.collect();
    let equal = || synced.iter().all(|table| named_rows(&copy, table) == named_rows(&twins.synced, table));
    match other.follow(&replica, equal).await {
        Ok(true) => {}
        Ok(false) => {
            let (waiting, told) = (waiting(&copy), twins.told());
            // Where constraints say what is to be done when they are broken, triggers cannot say anything else there.
            if !waiting.is_empty() && told.contains("ON CONFLICT") && told.contains("CREATE TRIGGER") {
                return;
            }
            for table in &synced {
                let [there, here] = [&copy, &twins.synced].map(|conn| named_rows(conn, table));
                assert_eq!(there, here, "{table:?}, of which wait: {waiting}, after\n{told}");
            }
        }
        Err(reason) => twins.fail(&reason),
    }
    for replica in [replica, other] {
        replica.close().await.unwrap_or_else(|reason| twins.fail(&reason));
    }
    let mut conn = sqlite_store::connection::open(&folder.path().join("synced.db")).unwrap();
    sqlite_store::detach::detach(&mut conn).unwrap();
    assert_eq!(schema_text(&twins.synced), schema_text(&twins.plain), "detached after\n{}", twins.told());
    twins.compare();
}

fn run_bytes(bytes: &[u8]) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(run(&mut Choices(bytes)));
}

#[test]
fn no_application_notices_that_its_database_is_in_sync() {
    each_seed(60, run_bytes);
}

/// The same for inputs that a search led by coverage comes upon, and those that were kept of them.
#[test]
fn no_application_notices_whatever_is_searched_for() {
    // What was done is told as SQL: a shorter input, which takes minutes to find, would not say more.
    let target = check!().with_shrink_time(Duration::ZERO).with_iterations(0);
    target.with_generator(bytes(600)).for_each(|bytes| run_bytes(bytes));
}
