//! A peer that comes back after many changes, and one that comes with nothing.

use std::time::{Duration, Instant};

use system_tests::{Result, Scene};

use crate::Options;
use crate::application::{self, Work};
use crate::nodes::{Pair, await_that, last, qty};
use crate::report::{Figure, Goal};

const PAUSE: Duration = Duration::from_millis(2);

pub(crate) fn measure(scene: &Scene, options: &Options) -> Result<Vec<Figure>> {
    let mut figures = returning(&scene.room()?, options.rows)?;
    figures.extend(empty(&scene.room()?, options.rows)?);
    Ok(figures)
}

/// Half of the changes are new rows, half are updates of rows that were there.
fn returning(scene: &Scene, rows: u64) -> Result<Vec<Figure>> {
    let mut pair = Pair::start(scene)?;
    let half = (rows / 2).max(1);
    Work::Insert.on(pair.a.file(), 1, half)?;
    let reader = application::open(pair.b.file())?;
    await_that(PAUSE, || Ok(last(&reader)? >= half.cast_signed()))?;
    pair.b.stop()?;
    Work::Update.on(pair.a.file(), 1, half)?;
    Work::Insert.on(pair.a.file(), half + 1, half)?;
    // What is behind is captured before the peer comes.
    await_that(PAUSE, || Ok(pair.a.database_status("shop")?["backlog"] == 0))?;
    let before = application::row(half).1;
    let begun = Instant::now();
    pair.b.start()?;
    await_that(PAUSE, || Ok(last(&reader)? >= (2 * half).cast_signed() && qty(&reader, half)? != Some(before)))?;
    let seconds = begun.elapsed().as_secs_f64();
    pair.check_equal(2 * half)?;
    pair.b.stop()?;
    pair.a.stop()?;
    #[allow(clippy::cast_precision_loss, reason = "rows are far fewer than 2^52")]
    let rate = (2 * half) as f64 / seconds;
    Ok(vec![Figure::new("catch-up of a peer that comes back", rate, "rows/s", Goal::AtLeast(200_000.0))])
}

fn empty(scene: &Scene, rows: u64) -> Result<Vec<Figure>> {
    let mut pair = Pair::new(scene)?;
    Work::Insert.on(pair.a.file(), 1, rows)?;
    let copied = copy(scene, &pair)?;
    let reader = application::open(pair.b.file())?;
    pair.a.start()?;
    let begun = Instant::now();
    pair.b.start()?;
    await_that(PAUSE, || Ok(last(&reader)? >= rows.cast_signed()))?;
    let seconds = begun.elapsed().as_secs_f64();
    pair.check_equal(rows)?;
    pair.b.stop()?;
    pair.a.stop()?;
    #[allow(clippy::cast_precision_loss, reason = "rows are far fewer than 2^52")]
    let rate = rows as f64 / seconds;
    Ok(vec![
        Figure::told("initial sync of an empty peer", rate, "rows/s"),
        Figure::new("initial sync, ratio to INSERT … SELECT", copied / seconds, "", Goal::AtLeast(0.35)),
    ])
}

/// Seconds that SQLite takes to copy the rows into another file.
fn copy(scene: &Scene, pair: &Pair) -> Result<f64> {
    let target = scene.path("copy.db");
    let conn = application::create(&target)?;
    conn.execute("ATTACH ?1 AS source", [pair.a.file().to_string_lossy()])?;
    let begun = Instant::now();
    conn.execute("INSERT INTO main.item SELECT * FROM source.item", [])?;
    Ok(begun.elapsed().as_secs_f64())
}
