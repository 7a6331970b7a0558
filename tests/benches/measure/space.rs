//! What sync adds to a file and what it sends, compared with the same rows in plain SQLite and as JSON.

use std::path::Path;
use std::time::{Duration, Instant};

use rusqlite::Connection;
use system_tests::{Failure, Node, Result, Scene, run_to_end, sync_engine};

use crate::Options;
use crate::application::{self, Work};
use crate::nodes::{Pair, await_that, last, qty};
use crate::report::{Figure, Goal, median};

const PAUSE: Duration = Duration::from_millis(5);

/// How often attach is timed.
const ATTACHES: usize = 5;

pub(crate) fn measure(scene: &Scene, options: &Options) -> Result<Vec<Figure>> {
    let rows = options.rows;
    let plain = scene.path("plain.db");
    application::create(&plain)?;
    Work::Insert.on(&plain, 1, rows)?;
    let alone = size(&plain)?;
    let mut figures = attach(scene, &plain)?;

    let mut pair = Pair::start(scene)?;
    let reader = application::open(pair.b.file())?;
    let json: f64 = (1..=rows).map(|id| f64::from(u32::try_from(application::json(id).len()).unwrap_or(0))).sum();
    let before = sent(&pair.a)?;
    Work::Insert.on(pair.a.file(), 1, rows)?;
    await_that(PAUSE, || Ok(last(&reader)? >= rows.cast_signed()))?;
    let inserted = sent(&pair.a)? - before;
    let growth = (size(pair.a.file())? / alone, size(pair.b.file())? / alone);
    figures.push(Figure::new("growth of the writer's file, all rows inserted", growth.0, "×", Goal::AtMost(1.5)));
    figures.push(Figure::new("growth of the peer's file, all rows inserted", growth.1, "×", Goal::AtMost(1.5)));

    let first = application::row(rows).1;
    Work::Update.on(pair.a.file(), 1, rows)?;
    await_that(PAUSE, || Ok(qty(&reader, rows)? != Some(first)))?;
    let growth = (size(pair.a.file())? / alone, size(pair.b.file())? / alone);
    figures.push(Figure::told("growth of the writer's file, and a column of each updated", growth.0, "×"));
    figures.push(Figure::told("growth of the peer's file, and a column of each updated", growth.1, "×"));
    figures.push(Figure::new("bytes sent, ratio to JSON of the rows", inserted / json, "", Goal::AtMost(0.5)));
    pair.b.stop()?;
    pair.a.stop()?;
    Ok(figures)
}

/// Times the command on the full file and on one without rows, which it has both detached again.
fn attach(scene: &Scene, full: &Path) -> Result<Vec<Figure>> {
    let empty = scene.path("no-rows.db");
    application::create(&empty)?;
    let mut spent = [Vec::new(), Vec::new()];
    let mut added = [0.0, 0.0];
    for _ in 0..ATTACHES {
        for (place, file) in [full, &empty].into_iter().enumerate() {
            let before = size(file)?;
            let begun = Instant::now();
            command(file, "attach")?;
            spent[place].push(begun.elapsed().as_secs_f64() * 1e3);
            added[place] = size(file)? - before;
            command(file, "detach")?;
            // What detach frees stays in the file.
            Connection::open(file)?.execute_batch("VACUUM")?;
        }
    }
    Ok(vec![
        Figure::new("attach of a file with all rows", median(&spent[0]), "ms", Goal::AtMost(50.0)),
        Figure::told("attach of a file without rows", median(&spent[1]), "ms"),
        Figure::new(
            "bytes that attach adds more to the one than to the other",
            added[0] - added[1],
            "",
            Goal::AtMost(0.0),
        ),
    ])
}

fn command(file: &Path, name: &str) -> Result {
    let mut command = std::process::Command::new(sync_engine()?);
    run_to_end(command.arg(name).arg(file))?.success().map(drop)
}

/// Bytes of a file, its write-ahead log folded in.
fn size(file: &Path) -> Result<f64> {
    let conn = application::open(file)?;
    await_that(PAUSE, || {
        let busy: i64 = conn.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get(0))?;
        Ok(busy == 0)
    })?;
    #[allow(clippy::cast_precision_loss, reason = "files are far smaller than 2^52")]
    let bytes = std::fs::metadata(file)?.len() as f64;
    Ok(bytes)
}

/// Bytes that a node has sent to peers.
fn sent(node: &Node) -> Result<f64> {
    let text = node.get("/metrics")?.body;
    let lines = text.lines().filter(|line| line.starts_with("sync_engine_peer_sent_bytes_total{"));
    let values = lines.map(|line| line.rsplit(' ').next().and_then(|value| value.parse::<f64>().ok()));
    values.sum::<Option<f64>>().ok_or_else(|| Failure::new(text.clone()))
}
