//! The application: a process of its own that writes a file as any program would, and tells what it cost.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use rusqlite::{Connection, params};
use system_tests::{Failure, Result, fail};

/// A table of rows of about 100 bytes.
pub(crate) const SCHEMA: &str =
    "CREATE TABLE item (id INTEGER PRIMARY KEY, name TEXT, qty INTEGER, price REAL, note TEXT)";

/// Rows in a transaction of a load.
pub(crate) const ROWS_A_TRANSACTION: u64 = 500;

const WORDS: [&str; 32] = [
    "amber", "basket", "candle", "drawer", "engine", "fabric", "garden", "handle", "island", "jacket", "kettle",
    "ladder", "marble", "needle", "orange", "pencil", "quartz", "ribbon", "saddle", "timber", "umbrella", "velvet",
    "walnut", "yellow", "zipper", "anchor", "bottle", "copper", "dozen", "eagle", "feather", "glass",
];

/// What an application can be asked to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Work {
    /// Inserts rows, many to a transaction.
    Insert,
    /// Changes one column of each row, many to a transaction.
    Update,
    /// Deletes rows, many to a transaction.
    Delete,
    /// Inserts rows, each in a transaction of its own.
    InsertSingly,
    /// Reads rows by their keys.
    Read,
}

/// What some work took.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Spent {
    /// Seconds that the process computed.
    pub(crate) cpu: f64,
    /// Seconds that went by.
    pub(crate) wall: f64,
}

impl Spent {
    /// Has an application's process run to its end.
    pub(crate) fn by(command: &mut Command) -> Result<Self> {
        let output = command.output()?;
        if !output.status.success() {
            fail!("the application: {}", String::from_utf8_lossy(&output.stderr));
        }
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let numbers: Vec<f64> = text.split_whitespace().filter_map(|word| word.parse().ok()).collect();
        match numbers.as_slice() {
            [cpu, wall] => Ok(Self { cpu: *cpu, wall: *wall }),
            _ => Err(Failure::new(format!("the application says {text:?}"))),
        }
    }

    /// Does some work in the application's process, and says what it took.
    pub(crate) fn tell(work: impl FnOnce() -> Result) -> Result {
        let (cpu, begun) = (computed()?, Instant::now());
        work()?;
        println!("{} {}", computed()? - cpu, begun.elapsed().as_secs_f64());
        Ok(())
    }
}

impl Work {
    const ALL: [(&'static str, Self); 5] = [
        ("insert", Self::Insert),
        ("update", Self::Update),
        ("delete", Self::Delete),
        ("insert-singly", Self::InsertSingly),
        ("read", Self::Read),
    ];

    /// Has a process do it with the rows from `first`, `rows` of them.
    pub(crate) fn on(self, file: &Path, first: u64, rows: u64) -> Result<Spent> {
        Spent::by(&mut self.command(file, first, rows)?)
    }

    /// The process that does it.
    pub(crate) fn command(self, file: &Path, first: u64, rows: u64) -> Result<Command> {
        let name = Self::ALL.iter().find(|(_, work)| *work == self).map_or("", |(name, _)| name);
        let mut command = Command::new(std::env::current_exe()?);
        command.args(["application", name]).arg(file).args([first.to_string(), rows.to_string()]);
        Ok(command)
    }

    fn run(self, conn: &mut Connection, first: u64, rows: u64) -> Result {
        match self {
            Self::Insert => in_transactions(conn, first, rows, ROWS_A_TRANSACTION, insert),
            Self::InsertSingly => in_transactions(conn, first, rows, 1, insert),
            Self::Update => in_transactions(conn, first, rows, ROWS_A_TRANSACTION, update),
            Self::Delete => in_transactions(conn, first, rows, ROWS_A_TRANSACTION, |conn, id| {
                conn.prepare_cached("DELETE FROM item WHERE id = ?1")?.execute([id.cast_signed()])?;
                Ok(())
            }),
            Self::Read => (first..first + rows).try_for_each(|id| {
                let mut statement = conn.prepare_cached("SELECT note FROM item WHERE id = ?1")?;
                // The order of a table that is read here and there.
                let id = first + (id - first).wrapping_mul(7919) % rows;
                statement.query_row([id.cast_signed()], |row| row.get_ref(0).map(drop))?;
                Ok(())
            }),
        }
    }
}

fn in_transactions(
    conn: &mut Connection,
    first: u64,
    rows: u64,
    at_once: u64,
    write: impl Fn(&Connection, u64) -> Result,
) -> Result {
    let end = first + rows;
    let mut next = first;
    while next < end {
        let transaction = conn.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
        let until = end.min(next + at_once);
        for id in next..until {
            write(&transaction, id)?;
        }
        transaction.commit()?;
        next = until;
    }
    Ok(())
}

/// Inserts one row.
pub(crate) fn insert(conn: &Connection, id: u64) -> Result {
    let (name, qty, price, note) = row(id);
    conn.prepare_cached("INSERT INTO item VALUES (?1, ?2, ?3, ?4, ?5)")?.execute(params![
        id.cast_signed(),
        name,
        qty,
        price,
        note
    ])?;
    Ok(())
}

/// Changes one column of a row.
pub(crate) fn update(conn: &Connection, id: u64) -> Result {
    conn.prepare_cached("UPDATE item SET qty = qty + 1 WHERE id = ?1")?.execute([id.cast_signed()])?;
    Ok(())
}

/// What the row with a key holds.
pub(crate) fn row(id: u64) -> (String, i64, f64, String) {
    let mut state = id.wrapping_add(1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    let mut note = String::with_capacity(72);
    for _ in 0..9 {
        state ^= state >> 29;
        state = state.wrapping_mul(0xBF58_476D_1CE4_E5B9);
        if !note.is_empty() {
            note.push(' ');
        }
        note.push_str(WORDS[usize::try_from(state >> 59).unwrap_or(0)]);
    }
    let qty = i64::try_from(state >> 40 & 1023).unwrap_or(0);
    let cents = u32::try_from(state >> 20 & 0xFFFF).unwrap_or(0);
    (format!("item {id}"), qty, f64::from(cents) / 100.0, note)
}

/// The JSON of a row, as a program would write it.
pub(crate) fn json(id: u64) -> String {
    let (name, qty, price, note) = row(id);
    serde_json::json!({ "id": id, "name": name, "qty": qty, "price": price, "note": note }).to_string()
}

/// A file as the application opens it.
pub(crate) fn open(file: &Path) -> Result<Connection> {
    let conn = Connection::open(file)?;
    conn.busy_timeout(Duration::from_secs(5))?;
    conn.pragma_update(None, "journal_mode", "WAL")?;
    conn.pragma_update(None, "synchronous", "NORMAL")?;
    Ok(conn)
}

/// Makes a file with the table in it.
pub(crate) fn create(file: &Path) -> Result<Connection> {
    let conn = open(file)?;
    conn.execute_batch(SCHEMA)?;
    Ok(conn)
}

/// The process: `application WORK FILE FIRST ROWS`.
pub(crate) fn serve(arguments: &[String]) -> Result {
    let [name, file, first, rows] = arguments else { fail!("application WORK FILE FIRST ROWS") };
    let Some((_, work)) = Work::ALL.iter().find(|(known, _)| known == name) else { fail!("no work {name:?}") };
    let mut conn = open(Path::new(file))?;
    let (first, rows) = (first.parse()?, rows.parse()?);
    Spent::tell(|| work.run(&mut conn, first, rows))
}

/// Seconds that this thread has computed.
fn computed() -> Result<f64> {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat")?;
    let nanoseconds: u64 = text.split_whitespace().next().unwrap_or_default().parse()?;
    Ok(Duration::from_nanos(nanoseconds).as_secs_f64())
}
