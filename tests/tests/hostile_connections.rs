//! Connections that never become a peer's: they do not keep others out.

mod hostile_bench;

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use hostile_bench::Bench;
use replication::message::DatabaseHello;
use replication::{Origin, VersionVector};
use system_tests::{HostilePeer, Result, Scene, check, scenario};

/// More than the daemon has places for.
const MANY: usize = 400;

/// The pause between two looks whether a connection still stands.
const LOOK: Duration = Duration::from_millis(5);

/// An honest peer comes while every place is taken, and taken again as soon as it is free.
fn come_while<T>(
    scene: &Scene,
    take: impl Fn(u16) -> Result<T> + Sync,
    stands: impl Fn(&mut T) -> bool + Sync,
) -> Result {
    let mut bench = Bench::start(scene)?;
    let port = bench.daemon().port();
    let (taken, over) = (AtomicBool::new(false), AtomicBool::new(false));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut connections: Vec<T> = Vec::new();
            let mut looked_at = 0;
            while !over.load(Ordering::SeqCst) {
                if connections.get_mut(looked_at).is_some_and(|connection| !stands(connection)) {
                    drop(connections.swap_remove(looked_at));
                }
                looked_at = (looked_at + 1) % MANY;
                if connections.len() < MANY {
                    connections.extend(take(port));
                } else {
                    taken.store(true, Ordering::SeqCst);
                    std::thread::sleep(LOOK);
                }
            }
        });
        let outcome = scene
            .eventually("every place is taken", || {
                check!(taken.load(Ordering::SeqCst), "not yet");
                Ok(())
            })
            .and_then(|()| bench.restart_honest())
            .and_then(|()| bench.unaffected());
        over.store(true, Ordering::SeqCst);
        outcome
    })?;
    bench.end()
}

#[test]
fn requests_that_never_end_keep_nobody_out() {
    let begin = |port| {
        let mut stream = TcpStream::connect(("127.0.0.1", port))?;
        stream.set_read_timeout(Some(Duration::from_millis(1)))?;
        stream.write_all(b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: ")?;
        Ok(stream)
    };
    let stands =
        |stream: &mut TcpStream| stream.write_all(b"w").is_ok() && !matches!(stream.read(&mut [0; 512]), Ok(0));
    scenario(|scene| come_while(scene, begin, stands));
}

#[test]
fn links_on_which_nobody_says_who_it_is_keep_nobody_out() {
    let stands = |peer: &mut HostilePeer| peer.send_raw(&[0x89, 0x80, 1, 2, 3, 4]).is_ok();
    scenario(|scene| come_while(scene, |port| HostilePeer::connect(port, "silent"), stands));
}

/// Each bears another name. Those that are connected stay so, and who is turned away hears why.
#[test]
fn nodes_without_end_are_turned_away_and_the_connected_stay() {
    scenario(|scene| {
        let mut bench = Bench::start(scene)?;
        let mut peers = Vec::new();
        for number in 0..MANY + 50 {
            let own = DatabaseHello::new(Origin::from_bytes([9; 16]), VersionVector::new());
            let port = bench.daemon().port();
            peers.push(HostilePeer::greeted(port, &format!("node {number}"), hostile_bench::DATABASE, own)?.0);
        }
        let Some(last) = peers.last_mut() else { return Ok(()) };
        let problems = last.dropped()?;
        check!(problems.iter().any(|text| text.contains("no more are taken")), "{problems:?}");
        bench.told("no more are taken")?;
        bench.unaffected()?;
        drop(peers);
        bench.restart_honest()?;
        bench.unaffected()?;
        bench.end()
    });
}
