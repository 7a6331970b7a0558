//! What the application pays: the processor time of its own process, compared with that on a file that is not synced. Where it waits
//! for the lock for longer than its timeout of five seconds it fails, and the measure with it. Beside it stands the least that could
//! tell of each row: a file with triggers that append its key to a table, and no daemon.

use std::path::Path;

use rusqlite::Connection;
use system_tests::{Result, Scene};

use crate::Options;
use crate::application::{self, ROWS_A_TRANSACTION, Work};
use crate::nodes::Pair;
use crate::report::{Figure, Goal, median};

/// How often each is done on both files, in turn.
const ROUNDS: u64 = 5;

const CASES: [(Work, &str, f64); 4] = [
    (Work::Insert, "cost of inserts in bulk", 2.0),
    (Work::InsertSingly, "cost of transactions of one row", 1.4),
    (Work::Update, "cost of updates of one column", 2.5),
    // Nothing, but for what the machine makes of it.
    (Work::Read, "cost of reads", 1.05),
];

const APPEND: &str = "
    CREATE TABLE log (seq INTEGER PRIMARY KEY, op INTEGER, id INTEGER);
    CREATE TRIGGER log_insert AFTER INSERT ON item BEGIN INSERT INTO log (op, id) VALUES (1, NEW.id); END;
    CREATE TRIGGER log_update AFTER UPDATE ON item BEGIN INSERT INTO log (op, id) VALUES (2, NEW.id); END;";

pub(crate) fn measure(scene: &Scene, options: &Options) -> Result<Vec<Figure>> {
    let [plain, bare] = ["plain.db", "bare.db"].map(|name| scene.path(name));
    application::create(&plain)?;
    application::create(&bare)?.execute_batch(APPEND)?;
    let mut pair = Pair::start(scene)?;
    let mut next = 1;
    let mut figures = Vec::new();
    for (work, name, most) in CASES {
        let rows = match work {
            Work::InsertSingly => (options.rows / 100).max(1),
            _ => (options.rows / 5).max(ROWS_A_TRANSACTION),
        };
        let (mut ratios, mut least) = (Vec::new(), Vec::new());
        for round in 0..ROUNDS {
            let first = match work {
                Work::Insert | Work::InsertSingly => next + round * rows,
                _ => 1,
            };
            let alone = work.on(&plain, first, rows)?;
            let synced = work.on(pair.a.file(), first, rows)?;
            ratios.push(synced.cpu / alone.cpu);
            least.push(work.on(&bare, first, rows)?.cpu / alone.cpu);
            empty_log(&bare)?;
        }
        if matches!(work, Work::Insert | Work::InsertSingly) {
            next += ROUNDS * rows;
        }
        figures.push(Figure::new(name, median(&ratios), "×", Goal::AtMost(most)));
        if work != Work::Read {
            figures.push(Figure::told(format!("{name}, with a bare append trigger"), median(&least), "×"));
        }
    }
    pair.b.stop()?;
    pair.a.stop()?;
    Ok(figures)
}

/// As a daemon does that has read it.
fn empty_log(bare: &Path) -> Result {
    let conn: Connection = application::open(bare)?;
    conn.execute_batch("DELETE FROM log; PRAGMA wal_checkpoint(TRUNCATE)")?;
    Ok(())
}
