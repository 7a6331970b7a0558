//! From the return of an application's commit to the row in the peer's file.

use std::time::{Duration, Instant};

use rusqlite::Connection;
use system_tests::{Result, Scene};

use crate::Options;
use crate::application;
use crate::nodes::{Pair, await_peers, await_that, last};
use crate::relay::Relay;
use crate::report::{Figure, Goal, at, median};

/// Transactions that are timed, and those before them that are not.
const TIMED: u64 = 2_000;
const WARM: u64 = 200;

/// Transactions after a rest, and how long that is: the point of it is that nothing happens.
const RESTS: u64 = 5;
const REST: Duration = Duration::from_secs(7);

/// Transactions while both files are closed.
const WAKINGS: u64 = 3;

/// The pause between two looks at the peer's file. The sleep of a thread takes some 50 µs longer.
const PAUSE: Duration = Duration::from_micros(10);

pub(crate) fn measure(scene: &Scene, _: &Options) -> Result<Vec<Figure>> {
    let mut pair = Pair::start(scene)?;
    let (writer, reader) = (application::open(pair.a.file())?, application::open(pair.b.file())?);
    let engine = latencies(&writer, &reader, |_| Ok(()))?;
    let mut rested = Vec::new();
    for id in WARM + TIMED + 1..=WARM + TIMED + RESTS {
        std::thread::sleep(REST);
        rested.push(latency(&writer, &reader, id, |_| Ok(()))?);
    }
    pair.check_equal(WARM + TIMED + RESTS)?;
    drop((writer, reader));
    pair.b.stop()?;
    pair.a.stop()?;

    let closed = wakings(&scene.room()?)?;
    let files = ["from.db", "to.db"].map(|name| scene.path(name));
    let (writer, reader) = (application::create(&files[0])?, application::create(&files[1])?);
    let mut relay = Relay::start(&files[1])?;
    let floor = latencies(&writer, &reader, |id| relay.tell(id))?;
    relay.stop()?;

    let ratio = median(&engine) / median(&floor);
    Ok(vec![
        Figure::new("latency, median", median(&engine), "ms", Goal::AtMost(1.0)),
        Figure::new("latency, 99 of 100", at(&engine, 99), "ms", Goal::AtMost(5.0)),
        Figure::told("latency of the first commit after seven quiet seconds", median(&rested), "ms"),
        Figure::told("latency of the first commit while both files are closed", median(&closed), "ms"),
        Figure::told("latency of a minimal relay, median", median(&floor), "ms"),
        Figure::told("latency of a minimal relay, 99 of 100", at(&floor, 99), "ms"),
        Figure::new("latency, ratio to the relay", ratio, "", Goal::AtMost(2.5)),
    ])
}

/// Milliseconds from commits while both daemons have closed their files.
fn wakings(scene: &Scene) -> Result<Vec<f64>> {
    let mut pair = Pair::new(scene)?;
    for node in [&mut pair.a, &mut pair.b] {
        node.setting("close_after = \"1s\"");
        node.start()?;
    }
    await_peers(&pair.b, 1)?;
    let (writer, reader) = (application::open(pair.a.file())?, application::open(pair.b.file())?);
    let mut spent = Vec::new();
    for id in 1..=WAKINGS {
        await_that(Duration::from_millis(100), || {
            Ok(!pair.a.has_open(pair.a.file())? && !pair.b.has_open(pair.b.file())?)
        })?;
        spent.push(latency(&writer, &reader, id, |_| Ok(()))?);
    }
    pair.check_equal(WAKINGS)?;
    pair.b.stop()?;
    pair.a.stop()?;
    Ok(spent)
}

/// Milliseconds from each commit to the row that is seen.
fn latencies(writer: &Connection, reader: &Connection, mut tell: impl FnMut(u64) -> Result) -> Result<Vec<f64>> {
    let mut spent = Vec::new();
    for id in 1..=WARM + TIMED {
        // The point of it: commits come when they come, not when the daemon is done with the last one.
        std::thread::sleep(Duration::from_micros(500 + 37 * (id * 7919 % 100)));
        let milliseconds = latency(writer, reader, id, &mut tell)?;
        if id > WARM {
            spent.push(milliseconds);
        }
    }
    Ok(spent)
}

/// Milliseconds from the commit of one row to the row that is seen.
fn latency(writer: &Connection, reader: &Connection, id: u64, mut tell: impl FnMut(u64) -> Result) -> Result<f64> {
    application::insert(writer, id)?;
    let begun = Instant::now();
    tell(id)?;
    await_that(PAUSE, || Ok(last(reader)? >= id.cast_signed()))?;
    Ok(begun.elapsed().as_secs_f64() * 1e3)
}
