//! Nothing to do: many databases, some peers; what stays after a load; how soon it stops.

use std::time::{Duration, Instant};

use system_tests::{Node, Result, Scene};

use crate::Options;
use crate::application::{self, Work};
use crate::nodes::{Pair, await_peers, await_that, computed, last, memory};
use crate::report::{Figure, Goal};

const DATABASES: usize = 100;
const PEERS: usize = 4;

/// How long nothing is done before it is measured, and how long it is measured: the point of it is that nothing happens.
const REST: Duration = Duration::from_secs(10);
const MEASURED: Duration = Duration::from_secs(20);

/// How long nothing is done in many databases until those are closed, at the usual settings.
const CLOSED: Duration = Duration::from_secs(50);

const PAUSE: Duration = Duration::from_millis(20);

pub(crate) fn measure(scene: &Scene, options: &Options) -> Result<Vec<Figure>> {
    let mut figures = many(&scene.room()?)?;
    figures.extend(after_load(&scene.room()?, options.rows)?);
    Ok(figures)
}

fn many(scene: &Scene) -> Result<Vec<Figure>> {
    let mut hub = Node::new(scene, "hub")?;
    let mut peers = (0..PEERS).map(|n| Node::new(scene, &format!("peer-{n}"))).collect::<Result<Vec<_>>>()?;
    for node in std::iter::once(&mut hub).chain(&mut peers) {
        node.as_installed();
        for n in 0..DATABASES {
            application::create(&node.database(&format!("shop-{n}")))?;
        }
    }
    hub.start()?;
    for peer in &mut peers {
        peer.peer(&hub);
        peer.start()?;
    }
    await_peers(&hub, PEERS)?;
    std::thread::sleep(CLOSED);
    let (before, begun) = (computed(hub.pid()?)?, Instant::now());
    std::thread::sleep(MEASURED);
    let share = 100.0 * (computed(hub.pid()?)? - before) / begun.elapsed().as_secs_f64();
    let mebibytes = memory(hub.pid()?)? / f64::from(1 << 20);
    let stopped = stop(&mut hub)?;
    peers.iter_mut().try_for_each(Node::stop)?;
    Ok(vec![
        Figure::new("100 idle databases, 4 peers", share, "% of a core", Goal::AtMost(0.2)),
        Figure::new("their memory", mebibytes, "MiB", Goal::AtMost(40.0)),
        Figure::new("stop of them", stopped, "ms", Goal::AtMost(300.0)),
    ])
}

fn after_load(scene: &Scene, rows: u64) -> Result<Vec<Figure>> {
    let mut pair = Pair::start(scene)?;
    let reader = application::open(pair.b.file())?;
    Work::Insert.on(pair.a.file(), 1, rows)?;
    await_that(PAUSE, || Ok(last(&reader)? >= rows.cast_signed()))?;
    std::thread::sleep(REST);
    let mut figures = Vec::new();
    for (node, name) in [(&mut pair.a, "the writer's node"), (&mut pair.b, "the peer")] {
        let mebibytes = memory(node.pid()?)? / f64::from(1 << 20);
        figures.push(Figure::new(format!("memory after a load, {name}"), mebibytes, "MiB", Goal::AtMost(60.0)));
        figures.push(Figure::new(format!("stop after a load, {name}"), stop(node)?, "ms", Goal::AtMost(300.0)));
    }
    Ok(figures)
}

/// Milliseconds that a node takes to stop.
fn stop(node: &mut Node) -> Result<f64> {
    let begun = Instant::now();
    node.stop()?;
    Ok(begun.elapsed().as_secs_f64() * 1e3)
}
