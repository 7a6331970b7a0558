//! What an idle session says to show that it is alive: of many databases not all each time, but of each again and again, for links
//! may lose what is said.

use std::collections::BTreeSet;

use replication::VersionVector;
use replication::message::{Ack, Message};
use replication::session::{Input, SessionConfig};

use crate::bench::{Bench, origin, state, vector};

const HEARTBEAT: u64 = 10_000;

fn name(number: usize) -> String {
    format!("db-{number:02}")
}

/// The databases that are acknowledged with the next heartbeat.
fn next(bench: &mut Bench) -> BTreeSet<String> {
    bench.sent.clear();
    bench.wait(HEARTBEAT);
    hear(bench, 0, &vector(&[(1, 5), (2, 3)]));
    let acks = bench.sent.iter().filter_map(|message| if let Message::Ack(ack) = message { Some(ack) } else { None });
    acks.map(|ack| ack.database.clone()).collect()
}

fn hear(bench: &mut Bench, number: usize, have: &VersionVector) {
    bench.hear(Message::Ack(Ack {
        database: name(number),
        origin: origin(1),
        have: have.clone(),
        received: None,
        clock: replication::Timestamp::default(),
        publishing: false,
        dropped: vector(&[]),
    }));
}

#[test]
fn databases_of_which_both_know_the_same_take_turns_with_the_heartbeats() {
    let same = || vector(&[(1, 5), (2, 3)]);
    let mut bench = Bench::open_many(SessionConfig::default(), (0..24).map(|number| (name(number), same(), same())));
    for _ in 0..2 {
        assert_eq!(next(&mut bench).len(), 24, "what was just said may have been lost");
    }
    let (mut said, mut most) = (BTreeSet::new(), 0);
    for _ in 0..6 {
        let mut acks = next(&mut bench);
        most = most.max(acks.len());
        said.append(&mut acks);
    }
    assert_eq!((said.len(), most), (24, 4), "each has its turn");
    // One that has moved is said of each time until the peer knows.
    bench.input(Input::Local { database: name(7), state: state(2, vector(&[(1, 5), (2, 4)])) });
    assert!((0..12).all(|_| next(&mut bench).contains(&name(7))));
    hear(&mut bench, 7, &vector(&[(1, 5), (2, 4)]));
    assert!(!(0..6).all(|_| next(&mut bench).contains(&name(7))));
    assert_eq!(bench.closed, None);
}

#[test]
fn an_idle_session_says_something_with_each_heartbeat() {
    for databases in [1, 3] {
        let same = || vector(&[(1, 5), (2, 3)]);
        let shared = (0..databases).map(|number| (name(number), same(), same()));
        let mut bench = Bench::open_many(SessionConfig::default(), shared);
        assert!((0..20).all(|_| !next(&mut bench).is_empty()));
    }
}
