//! Rows end to end: from the first commit of a load until all of it is in the peer's file.

use std::process::Stdio;
use std::time::{Duration, Instant};

use rusqlite::Connection;
use system_tests::{Result, Scene, fail};

use crate::Options;
use crate::application::{self, Work};
use crate::nodes::{Pair, await_that, last, qty};
use crate::report::{Figure, Goal};

/// The pause between two looks, each of which takes some of the processors.
const PAUSE: Duration = Duration::from_millis(20);

pub(crate) fn measure(scene: &Scene, options: &Options) -> Result<Vec<Figure>> {
    let rows = options.rows;
    let plain = scene.path("plain.db");
    application::create(&plain)?;
    let mut pair = Pair::start(scene)?;
    let mut figures = Vec::new();
    for (work, name) in [(Work::Insert, "inserts"), (Work::Update, "updates"), (Work::Delete, "deletes")] {
        let alone = work.on(&plain, 1, rows)?.wall;
        let (seconds, lag) = end_to_end(&pair, work, rows)?;
        pair.check_equal(if work == Work::Delete { 0 } else { rows })?;
        #[allow(clippy::cast_precision_loss, reason = "rows are far fewer than 2^52")]
        let rate = rows as f64 / seconds;
        figures.push(Figure::new(format!("{name} end to end"), rate, "rows/s", Goal::AtLeast(100_000.0)));
        figures.push(Figure::new(
            format!("{name}, ratio to plain SQLite on one file"),
            alone / seconds,
            "",
            Goal::AtLeast(0.2),
        ));
        figures.push(Figure::told(format!("{name}, greatest lag"), lag, "s"));
    }
    pair.b.stop()?;
    pair.a.stop()?;
    Ok(figures)
}

/// Seconds until all is there, and the most by which the peer was behind.
fn end_to_end(pair: &Pair, work: Work, rows: u64) -> Result<(f64, f64)> {
    let (ours, theirs) = (application::open(pair.a.file())?, application::open(pair.b.file())?);
    let mut lag = Lag::default();
    let begun = Instant::now();
    let mut writer = work.command(pair.a.file(), 1, rows)?.stdin(Stdio::null()).stdout(Stdio::null()).spawn()?;
    let place = Place { work, rows };
    await_that(PAUSE, || {
        lag.note(begun.elapsed().as_secs_f64(), place.of(&ours)?, place.of(&theirs)?);
        place.is_reached(&theirs)
    })?;
    let seconds = begun.elapsed().as_secs_f64();
    if !writer.wait()?.success() {
        fail!("the application failed");
    }
    Ok((seconds, lag.greatest))
}

/// How far a load has come in a file.
struct Place {
    work: Work,
    rows: u64,
}

impl Place {
    /// The row up to which it is done, found by halving: rows are written in the order of their keys.
    fn of(&self, conn: &Connection) -> Result<u64> {
        if self.work == Work::Insert {
            return Ok(last(conn)?.cast_unsigned());
        }
        let (mut done, mut open) = (0, self.rows + 1);
        while open - done > 1 {
            let middle = done + (open - done) / 2;
            if self.is_done(conn, middle)? { done = middle } else { open = middle }
        }
        Ok(done)
    }

    fn is_reached(&self, conn: &Connection) -> Result<bool> {
        match self.work {
            Work::Insert => Ok(last(conn)? >= self.rows.cast_signed()),
            _ => self.is_done(conn, self.rows),
        }
    }

    fn is_done(&self, conn: &Connection, id: u64) -> Result<bool> {
        let now = qty(conn, id)?;
        Ok(match self.work {
            Work::Delete => now.is_none(),
            // It holds what it was made with until it is changed.
            _ => now != Some(application::row(id).1),
        })
    }
}

/// The time by which one file is behind another.
#[derive(Default)]
struct Lag {
    /// When the writer had come how far.
    passed: std::collections::VecDeque<(f64, u64)>,
    greatest: f64,
}

impl Lag {
    fn note(&mut self, now: f64, ours: u64, theirs: u64) {
        if self.passed.back().is_none_or(|(_, place)| *place < ours) {
            self.passed.push_back((now, ours));
        }
        while self.passed.front().is_some_and(|(_, place)| *place <= theirs) {
            self.passed.pop_front();
        }
        let behind = self.passed.front().map_or(0.0, |(since, _)| now - since);
        self.greatest = self.greatest.max(behind);
    }
}
